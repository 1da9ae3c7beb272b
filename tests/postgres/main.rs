//! `PostgresStore` on a real PostgreSQL, which the tests start themselves.

mod audit;
mod cancel;
mod conformance;
mod encrypted;
mod faults;
mod kit;
mod pooler;
mod schema;
mod server;
mod statements;
