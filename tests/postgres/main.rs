//! `PostgresStore` on a real PostgreSQL, which the tests start themselves.

mod conformance;
mod server;
