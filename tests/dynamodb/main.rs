//! `DynamoDbStore` on a server of DynamoDB's protocol, which the tests start themselves.

mod busy;
mod chaos;
#[allow(dead_code, unreachable_pub, reason = "this test binary uses its own part")]
#[path = "../common"]
mod common {
    pub mod chance;
    pub mod chaos;
    pub mod history;
    pub mod proxy;
}
mod conformance;
mod lambda;
mod server;
mod table;
