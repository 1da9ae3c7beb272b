//! `DynamoDbStore` on a server of DynamoDB's protocol, which the tests start themselves.

mod busy;
mod cancel;
mod chaos;
#[allow(dead_code, unreachable_pub, reason = "this test binary uses its own part")]
#[path = "../common"]
mod common {
    pub mod chance;
    pub mod crowd;
    pub mod example;
    pub mod history;
    pub mod polls;
    pub mod proxy;
}
mod conformance;
mod example;
mod lambda;
mod parts;
mod relay;
mod server;
mod table;
mod wire;
