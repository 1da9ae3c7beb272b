//! [`RedisStore`](tower_session_memory::store::RedisStore) on real servers.

#[path = "../common/around.rs"]
#[allow(dead_code, unreachable_pub, reason = "other test binaries use it too")]
mod around;
#[path = "../common/mod.rs"]
mod common;
#[path = "../common/logs.rs"]
#[allow(dead_code, unreachable_pub, reason = "other test binaries use it too")]
mod logs;

mod chaos;
mod cost;
mod encrypted;
mod faults;
mod knowing;
mod listing;
mod mutants;
mod promotion;
mod refilled;
mod refusals;
#[cfg(feature = "metrics")]
mod rollback;
mod setups;
mod suite;
mod two_pods;
