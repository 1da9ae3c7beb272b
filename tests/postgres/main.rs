//! `PostgresStore` on a real PostgreSQL, which the tests start themselves.

mod audit;
mod cancel;
mod chaos;
#[allow(dead_code, unreachable_pub, reason = "this test binary uses its own part")]
mod common {
    #[path = "../../common/chance.rs"]
    pub mod chance;
    #[path = "../../common/history.rs"]
    pub mod history;
    #[path = "../../common/proxy.rs"]
    pub mod proxy;
}
mod conformance;
mod encrypted;
mod faults;
mod kit;
mod pooler;
mod schema;
mod server;
mod statements;
