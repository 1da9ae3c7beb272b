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
//! A session is **one list**: a header, and for each turn its record, its id and a header once more.
//! One key cannot tear when memory is full, when a slot of a Cluster moves or when a life ends. A load is
//! one `LRANGE`, or one call of a script where a window is counted in bytes; an append is one call of a
//! script that compares and writes in one step; deleting leaves a header of a later epoch, so that no
//! turn of the old life can follow. Each subject has a sorted set of its sessions, which is advisory.
//! A life ends at most a sixty-fourth later than was asked for, so that few appends have to set it.
//!
//! # What an acknowledgement is worth
//! The store reads it from the server when it connects, and says it in
//! [`StoreInfo::durability`](super::StoreInfo::durability): `Cache` when sessions may be evicted or
//! `appendonly` is off, `Process` with `appendonly`, `Host` with `appendfsync always` or
//! [`RedisAck::disks`], `Quorum` when most of the servers have the turn. With `appendfsync everysec`
//! Redis may keep up to two seconds of writes in its own memory while a disk is slow.
//! Redis replicates asynchronously: without [`RedisAck::replicas`] a failover may lose turns. An append
//! by who has read one of them notices ([`ErrorKind::RolledBack`](super::ErrorKind::RolledBack)) and
//! does not go on as if nothing had happened, also once other pods have filled the gap.
//!
//! # Connections
//! A few connections, each shared by many calls. One whose peer hangs up is replaced at once; one
//! that stays silent for a whole reply deadline is taken for dead. Every new connection is checked: a
//! replica, or a server below the required durability, is refused. A master that turns out to be one no
//! more loses all connections at once. Writes that wait for replicas have connections of their own.
//!
//! # What the server must allow
//! Redis 7.0 or newer, or Valkey. A user needs the keys under the prefix (`~tsm:*`) and these commands:
//!
//! ```text
//! +evalsha +eval +lrange +lindex +llen +lset +rpush +ltrim +lpos +pexpire +pttl +persist +time
//! +zadd +zcard +zrem +zrevrangebyscore +set +scan +ping +info +config|get
//! ```
//!
//! Without `info` and `config|get` all works, and the durability counts as the least. `WAIT` needs
//! `+wait`, `WAITAOF` `+waitaof`, a Cluster `+cluster|slots +asking`, a database number `+select`, RESP3 `+hello`.
//!
//! # Why it is laid out like this
//! Measured on Redis 7.0 with the real record (about 600 bytes, two messages), 50 calls at once on one
//! connection, CPU per call in microseconds of client + server main thread, `appendonly` on:
//!
//! | | a list, as here | a stream (`MULTI`, `XADD` with its own id, `PEXPIRE`) | one string (`GETRANGE`, `SETRANGE` in a script) | `RPUSH` + `EXPIRE`, not exactly-once |
//! |---|---|---|---|---|
//! | append | 7-9 + 11 | 8-10 + 6 | 7-10 + 11 | 5-8 + 5 |
//! | load 10 turns | 15 + 4 | 33 + 6 | 8 + 2 | |
//! | load 100 turns | 100 + 62 | 225 + 105 | 25 + 27 | |
//! | load 1,000 turns | 1,050 + 1,030 | 2,950 + 1,240 | 100 + 160 | |
//! | memory per turn | 656 B | 626 B | 655-936 B | |
//!
//! * A **stream** has the cheapest safe append, but a lost turn shows only when somebody reads, and
//!   whole loads take twice as long.
//! * A **string** loads four to nine times faster, since the client makes one value instead of three per
//!   turn. It must be rewritten to trim a turn, and finding a turn's id means copying all of it into Lua.
//!   Pods with [`Cached`](super::Cached) load whole histories rarely; that is why it is still a list.
//! * **Headers are never written again**: an append is one `RPUSH`, and no header has to be replaced
//!   (`LSET` cost as much as the `RPUSH`). They count from the beginning of a life, so sizes are
//!   differences, a window of bytes is found by halving, and no record passes through Lua.
//! * The rest of the append's script is `PTTL` in place of `PEXPIRE` in most cases, a number as its answer,
//!   and the caller's time (`TIME` took a sixth): 186,000 instructions became 107,000, of which entering
//!   Lua with these arguments takes 30,000 and the subject's index 25,000.
//! * Looking for a turn's id is `LPOS`, in C, and is left out where the caller has looked already
//!   ([`Append::searched`](super::Append::searched)).
//!
//! A whole turn, load and append, 50 at once (`benches/stores.rs`, two quiet cores shared with the server;
//! turns per second over those of the raw client's `LRANGE`, `RPUSH` and `EXPIRE`, which are not
//! exactly-once, in the same run):
//!
//! | messages | `Cached`, warm | two pods in turn | `RedisStore` alone |
//! |---|---|---|---|
//! | 20 | 0.82-0.90 | 0.67-0.71 | 0.48-0.52 |
//! | 200 | 3.4-4.1 | 3.2-3.3 | 0.49-0.54 |
//! | 2,000 | 24-27 | 22-24 | 0.44-0.48 |
//!
//! Behind a proxy that adds a millisecond each way, 128 at once, 20 messages: 0.90-0.91 warm and 0.79-0.81
//! alone, some forty times an exclusive pool of the same four connections.

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

/// A session is noted in its subject's index once in each span of so many milliseconds.
const NOTED: u64 = 60_000;
