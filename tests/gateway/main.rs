//! The example gateway as its users meet it: processes of their own, real sockets, shared stores.

#[path = "../common/issuer.rs"]
#[allow(unreachable_pub, reason = "other test binaries use it too")]
mod issuer;
#[path = "../postgres/server.rs"]
#[allow(dead_code, reason = "other test binaries use the rest")]
mod postgres;
#[path = "../common/servers.rs"]
#[allow(dead_code, unreachable_pub, reason = "other test binaries use the rest")]
mod servers;

mod faults;
mod identity;
mod outage;
mod process;
mod sdk;
mod silence;
mod upstream;
