//! The layer on real sockets: HTTP/1 and HTTP/2, real servers, real clients.

#[path = "../common/around.rs"]
#[allow(dead_code, unreachable_pub, reason = "other test binaries use it too")]
mod around;
#[cfg(feature = "metrics")]
#[path = "../common/counted.rs"]
#[allow(dead_code, unreachable_pub, reason = "other test binaries use it too")]
mod counted;
#[path = "../common/logs.rs"]
#[allow(dead_code, unreachable_pub, reason = "other test binaries use it too")]
mod logs;

mod departures;
mod inputs;
mod leaving;
mod matrix;
#[cfg(feature = "metrics")]
mod metrics;
mod support;
