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
//! Redis replicates asynchronously: without [`RedisAck::replicas`] a failover may lose turns. An append
//! by who has read one of them notices ([`ErrorKind::RolledBack`](super::ErrorKind::RolledBack)) and
//! does not go on as if nothing had happened, unless other pods have filled the gap by then.
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
//! Measured on Redis 7.0, CPU of the server's main thread per call, pipelined, records of 500 bytes:
//!
//! * A plain `LRANGE` of 10 turns takes 5 us, the same through a script 24 us; of 100 turns 40-65 us
//!   against 150 us: every element is copied into Lua and out again. So loads are plain wherever a
//!   plain command says what is wanted, and the script is for windows of bytes, for replays and for
//!   trimmed sessions. The tail of one header, all that a warm [`Cached`](super::Cached) pod asks
//!   for, takes 1-2 us, whatever the length of the session.
//! * An append takes 18 us against 6 us of `RPUSH` and `EXPIRE`; entering Lua alone takes 4-5 us. The
//!   subject's index adds 2-4 us. Merging header and record into one element saved nothing that could
//!   be measured; a binary header saved 2-3 us and would not be readable.
//! * Looking for a turn's id with `LPOS` costs 5 us in 10 turns and 50-100 us in 1,000, so it is left
//!   out where the caller has looked already ([`Append::searched`](super::Append::searched)). That is
//!   what the ids stand beside their records for: without, records would have to pass through Lua,
//!   1.8 ms for 1,000.
//!
//! A whole turn, load and append, costs this much CPU in microseconds of client + server with 50 at
//! once (`benches/stores.rs`, a busy machine of two cores: compare columns). The raw client's
//! `RPUSH` and `EXPIRE` are not exactly-once; at 20 messages that is what the difference buys.
//!
//! | messages | raw client | `Cached`, warm | `RedisStore` alone |
//! |---|---|---|---|
//! | 20 | 30 + 12 | 48 + 38 | 70 + 47 |
//! | 200 | 90 + 49 | 45 + 37 | 465 + 140 |
//! | 2,000 | 850 + 470 | 100 + 70 | 4,100 + 1,000 |

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
