//! An embedded store: one SQLite file on a local disk, for one process or several on one host.
//!
//! Two lanes of threads hold the connections: `writer`, one thread that groups what waits into one
//! transaction, and `reader`, a few. What they run is plain functions from a connection to an
//! answer: `append`, `load`, `list`, `purge`. `open` finds out what is wrong with a file before
//! anything depends on it; `schema` holds the tables.

mod append;
mod failure;
mod lane;
mod list;
mod load;
mod mounts;
mod open;
mod options;
mod purge;
mod reader;
mod schema;
mod session;
mod store;
mod writer;

pub use self::options::SqliteOptions;
pub use self::store::SqliteStore;

const NAME: &str = "sqlite";
