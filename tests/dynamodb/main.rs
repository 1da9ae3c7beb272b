//! `DynamoDbStore` on a server of DynamoDB's protocol, which the tests start themselves.

mod conformance;
mod server;
