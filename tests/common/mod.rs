//! Real servers for tests, which the tests start themselves.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part")]

pub mod certificates;
pub mod chance;
pub mod crowd;
pub mod history;
pub mod proxy;
pub mod servers;
pub mod topologies;
