//! `DynamoDbStore` on a server of DynamoDB's protocol, which the tests start themselves.

mod busy;
mod conformance;
mod server;
mod table;
