//! `PostgresStore` on a real PostgreSQL, which the tests start themselves.

mod audit;
mod cancel;
mod chaos;
#[allow(dead_code, unreachable_pub, reason = "this test binary uses its own part")]
#[path = "../common"]
mod common {
    pub mod chance;
    pub mod crowd;
    pub mod example;
    pub mod history;
    pub mod logs;
    pub mod polls;
    pub mod proxy;
}
mod conformance;
mod encrypted;
mod example;
mod faults;
mod full;
mod isolation;
mod kit;
mod pooler;
mod redaction;
mod schema;
mod server;
mod statements;
