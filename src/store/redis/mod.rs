//! Sessions in Redis or Valkey: standalone, behind Sentinel, or in a Cluster.
//!
//! ```no_run
//! # async fn run() -> Result<(), tower_session_memory::StoreError> {
//! use tower_session_memory::store::{Durability, RedisStore};
//!
//! let store = RedisStore::connect("redis://127.0.0.1").await?;
//!
//! let store = RedisStore::builder("rediss+cluster://user:password@10.0.0.1:6379,10.0.0.2:6379")
//!     .require(Durability::Process)
//!     .connect()
//!     .await?;
//! # Ok(()) }
//! ```
//!
//! # What is stored
//! A session is **one list**: for each turn its id and its record, and a header at the end. One key
//! cannot tear when memory is full, when a slot of a Cluster moves or when a life ends. A load is one
//! `LRANGE`, or one call of a script where a window is counted in bytes; an append is one call of a
//! script that compares and writes in one step; deleting leaves a header of a later epoch, so that
//! no turn of the old life can follow. Each subject has a sorted set of its sessions, which is
//! advisory.
//!
//! # What an acknowledgement is worth
//! The store reads it from the server when it connects, and says it in
//! [`StoreInfo::durability`](super::StoreInfo::durability): `Cache` when sessions may be evicted or
//! `appendonly` is off, `Process` with `appendonly`, `Host` with `appendfsync always` or
//! [`RedisAck::disks`], `Quorum` when most of the servers have the turn. With `appendfsync everysec`
//! Redis may keep up to two seconds of writes in its own memory while a disk is slow.
//! Redis replicates asynchronously: without [`RedisAck::replicas`] a failover may lose turns. The next
//! append notices ([`ErrorKind::RolledBack`](super::ErrorKind::RolledBack)) and does not go on as if
//! nothing had happened.
//!
//! # Connections
//! A few connections, each shared by many calls. One whose peer hangs up is replaced at once; one
//! that stays silent for a whole reply deadline is taken for dead. Every new connection is checked: a
//! replica, or a server below the required durability, is refused.

mod builder;
mod cluster;
mod codec;
mod failure;
mod index;
mod link;
mod manager;
mod node;
mod probe;
mod script;
mod sentinel;
mod servers;
mod store;
mod stream;
mod target;
mod tls;

use std::time::Duration;

pub use self::builder::RedisBuilder;
pub use self::probe::RedisAck;
pub use self::store::RedisStore;
pub use self::tls::RedisTls;

const NAME: &str = "redis";

/// How long a deleted session's epoch is remembered: longer than any turn takes.
const FENCE: Duration = Duration::from_secs(24 * 3600);
