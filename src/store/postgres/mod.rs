#![doc = include_str!("postgres.md")]

mod append;
mod audit;
mod connect;
mod error;
mod list;
mod load;
mod migrate;
mod options;
mod purge;
mod store;
mod tls;
mod values;

pub use self::audit::{AuditTrail, Erased};
pub use self::options::{PostgresOptions, SynchronousCommit};
pub use self::purge::Purged;
pub use self::store::PostgresStore;

const NAME: &str = "postgres";
