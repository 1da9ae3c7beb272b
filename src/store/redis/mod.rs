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
//! turn of the old life can follow. Each subject has a sorted set of its sessions, which is advisory, and
//! which a session is noted in once a minute and whenever its life is set; a listing makes the minute good,
//! and mends what it finds wrong.
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
//! +zadd +zcard +zrem +zscore +zrevrangebyscore +set +scan +ping +info +config|get
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
//! * **An append is decided by one comparison** wherever nothing has happened since its history was
//!   loaded: the caller knows the newest header ([`Lineage`](super::Lineage)) and sends the next one ready
//!   made. All else, from duplicates to lost turns, is the script's second half. Most
//!   appends leave the subject's index alone. The script
//!   took 120,000 instructions on the server (valgrind, AOF on), and takes 66,000; `RPUSH` and `EXPIRE` by
//!   themselves take 23,000, `MULTI` with `RPUSH`, `PEXPIRE` and a look at the last header 41,000.
//! * **What many tasks ask at once goes out in one send.** A send costs more than all that is in it: it was
//!   a third of the client's CPU, and is a tenth since a connection lets all tasks that can run ask first.
//!   One connection in place of two is slower (0.93 where two have 1.1), and more than two are no faster.
//! * Looking for a turn's id is `LPOS`, in C, and is left out where the caller has looked already
//!   ([`Append::searched`](super::Append::searched)).
//!
//! A whole turn, load and append (`benches/stores.rs`, two quiet cores shared with the server, several runs):
//! turns per second over those of the raw client's `LRANGE`, `RPUSH` and `EXPIRE`, which are not exactly-once,
//! in the same run.
//!
//! | messages | at once | `Cached`, warm | two pods in turn | `RedisStore` alone |
//! |---|---|---|---|---|
//! | 20 | 1 | 0.82-0.87 | 0.8 | 0.6-0.8 |
//! | 20 | 50 | 1.06-1.19 | 0.88-1.0 | 0.59-0.67 |
//! | 20 | 500 | 1.2-1.6 | 0.96-1.3 | 0.46-0.61 |
//! | 200 | 1 | 1.25-1.45 | 1.2-1.3 | 0.49-0.54 |
//! | 200 | 50 | 4.9-6.2 | 3.8-5.2 | 0.43-0.56 |
//! | 200 | 500 | 5.4-6.7 | 5.0-6.3 | 0.48 |
//! | 2,000 | 1 | 9-10.5 | 4.5-5.1 | 0.32-0.35 |
//! | 2,000 | 50 | 21-26 | 23-28 | 0.40 |
//! | 2,000 | 500 | 20-21 | 17-19 | 0.50 |
//!
//! The slowest of a hundred turns takes 0.98-1.6 times as long as the raw client's at 20 messages, and a
//! third of it at 200. With 200 messages every load hands out a hundred turns whose counters two cores
//! share; that is the rest of the client's time. Behind a proxy that adds a millisecond each way, 128 at
//! once, 20 messages: 0.95-1.01 warm and 0.80-0.84 alone, more than forty times an exclusive pool of the
//! same four connections.
//!
//! A page of a subject's sessions reads at least the whole minute in which it ends, so many pages over
//! thousands of sessions that one person had in one minute take long: 2,000 of them in pages of 20 took five
//! seconds.

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

pub use self::builder::RedisBuilder;
pub use self::probe::RedisAck;
pub use self::store::RedisStore;
pub use self::tls::RedisTls;

const NAME: &str = "redis";

/// A session is noted in its subject's index once in each span of so many milliseconds.
const NOTED: u64 = 60_000;
