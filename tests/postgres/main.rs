//! `PostgresStore` on a real PostgreSQL, which the tests start themselves.

mod audit;
mod cancel;
mod conformance;
mod faults;
mod kit;
mod schema;
mod server;
mod statements;
