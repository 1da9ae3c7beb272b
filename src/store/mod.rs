//! Where sessions live.
//!
//! | store | feature | for |
//! |---|---|---|
//! | [`InMemory`] | | tests; the executable specification of the contract |
//! | `SqliteStore` | `sqlite` | one host: an embedded file that several processes share |
//! | `RedisStore` | `redis` | many hosts: Redis or Valkey, standalone, Sentinel or Cluster |
//! | `PostgresStore` | `postgres` | durability and audit: rows that psql can read |
//! | `DynamoDbStore` | `dynamodb` | serverless: nothing is left to do after the response |
//!
//! A store of your own implements [`Store`] and passes the suite in `conformance` (feature of that name).

use std::fmt::Debug;
use std::future::Future;

#[cfg(feature = "cache")]
mod cached;
#[cfg(feature = "conformance")]
pub mod conformance;
#[cfg(feature = "dynamodb")]
pub mod dynamodb;
mod error;
mod info;
mod memory;
#[cfg(feature = "postgres")]
pub mod postgres;
#[cfg(feature = "redis")]
pub mod redis;
#[cfg(feature = "resilience")]
mod resilient;
mod shared;
#[cfg(feature = "sqlite")]
mod sqlite;
mod types;

#[cfg(feature = "cache")]
pub use self::cached::Cached;
#[cfg(feature = "dynamodb")]
pub use self::dynamodb::{DynamoDbOptions, DynamoDbStore};
pub use self::error::{ErrorKind, Operation, StoreError};
pub use self::info::{Durability, Location, PoolState, Sharing, StoreInfo};
pub use self::memory::{InMemory, InMemoryLimits};
#[cfg(feature = "postgres")]
pub use self::postgres::{PostgresOptions, PostgresStore};
#[cfg(feature = "redis")]
pub use self::redis::{RedisAck, RedisBuilder, RedisStore, RedisTls};
#[cfg(feature = "resilience")]
pub use self::resilient::{Resilient, ResilientOptions};
pub use self::shared::SharedStore;
#[cfg(feature = "sqlite")]
pub use self::sqlite::{SqliteOptions, SqliteStore};
pub use self::types::{Append, Appended, Cursor, Deleted, Lineage, Loaded, Page, Read, SessionEntry, SessionPage};

use crate::key::{Scope, SessionKey};
use crate::policy::Concurrency;
use crate::turn::Head;

/// A place where sessions live, shared by all instances that must see the same conversations.
///
/// # The contract
/// A session is an append-only list of turns with a [`Head`]: an epoch, which numbers its lives, and
/// a sequence, which counts the turns of this life. The suite in `conformance` checks every sentence
/// below, but for round trips and for what a kill or a power failure would show.
///
/// * **Whole.** A turn is stored with all its messages, byte for byte, or not at all.
/// * **Durable when `Ok`.** When `append` returns `Ok`, the turn survives what
///   [`StoreInfo::durability`] says, and every later `load`, from any instance, includes it.
/// * **Once.** In one session a [`TurnId`](crate::TurnId) is stored at most once, for any number of
///   attempts, until the turn is trimmed or the session deleted. The attempt that finds it stored
///   answers `Ok` with [`Appended::duplicate_of`], **before** any other condition is looked at.
/// * **In order.** Turns of one epoch are numbered 1, 2, 3, ... in the order of their commits, and
///   every reader sees them in that order.
/// * **Fenced.** A turn whose history was loaded before the session was deleted, or before it
///   expired, is refused with [`ErrorKind::Gone`]. A session that is begun anew has a larger epoch.
/// * **Decided in one step.** `append` compares and writes atomically. Given `append.expected`, in
///   this order:
///   1. a turn of this id is stored: the duplicate's answer. A duplicate moves the end of life too.
///   2. the session has another epoch than expected, or is gone: [`ErrorKind::Gone`]. A session that
///      was absent ([`Head::ABSENT`](crate::Head::ABSENT)) and has meanwhile begun its *first*
///      life since then is not gone: two first turns are like any two turns;
///   3. it has fewer turns than expected: [`ErrorKind::RolledBack`]; also, in a store that may lose
///      turns it has acknowledged, when [`Append::lineage`] says that it has lost some of them;
///   4. it has more: [`ErrorKind::Conflict`] if [`Strict`](crate::Concurrency::Strict), else go on;
///   5. store the turn, move the session's end of life to now + `ttl`, trim whole oldest turns that
///      exceed the retention, never the new one.
///
///   With `expected: None` only 1 and 5 apply.
/// * **One round trip** for a load and one for an append, whatever the length of the history.
/// * **Isolated.** Only [`SessionKey::encoded`] decides which session is meant; keys and messages
///   are data, never part of a command.
/// * **Redacted.** `Debug` and errors name no session and show no message.
///
/// # Cancellation
/// Any future may be dropped at any point. A dropped `append` is stored whole or not at all, and
/// leaves the store fit for the next call.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a session store",
    note = "a store is `InMemory`, `SqliteStore`, a `SharedStore`, or your own type that implements `Store`"
)]
pub trait Store: Debug + Send + Sync + 'static {
    /// What this store is. Cheap: it is asked for every commit.
    fn info(&self) -> StoreInfo;

    /// The store's pool of connections, if it has one; for metrics. Cheap: it is asked for every
    /// load where somebody counts.
    fn pool(&self) -> Option<PoolState> {
        None
    }

    /// Loads the newest turns that fit [`Read::window`], oldest first, with the head they were read
    /// at, as of one moment.
    ///
    /// With [`Read::known`], when that head belongs to this life of the session and everything
    /// after it is still stored and fits the window, only what is newer
    /// ([`Loaded::since`] says so). With [`Read::find`], also that turn, wherever in the session it
    /// stands. A session that expired is absent.
    fn load(&self, key: &SessionKey, read: &Read) -> impl Future<Output = Result<Loaded, StoreError>> + Send;

    /// Stores one turn: whole, once, durable when `Ok`. See the contract above.
    fn append(&self, key: &SessionKey, append: &Append) -> impl Future<Output = Result<Appended, StoreError>> + Send;

    /// Deletes a session. Once `Ok`, no load returns a turn of it and no turn loaded from it can be
    /// appended. Deleting what does not exist is `Ok`. It leaves no fence: a first turn that is in
    /// flight is stored.
    fn delete(&self, key: &SessionKey) -> impl Future<Output = Result<Deleted, StoreError>> + Send;

    /// Lists live sessions with at least one turn, most recently active first. Sessions that change
    /// while pages are fetched may be missed or seen twice.
    fn list(&self, scope: &Scope, page: &Page) -> impl Future<Output = Result<SessionPage, StoreError>> + Send;

    /// Asks whether the store could serve a load and an append now; for readiness probes.
    fn ping(&self) -> impl Future<Output = Result<(), StoreError>> + Send;
}

/// Milliseconds since 1970, the unit in which stores keep times.
pub(crate) fn unix_millis(at: std::time::SystemTime) -> u64 {
    at.duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

/// The epoch that follows `previous`: the clock in microseconds, and always larger, so that a
/// session that was deleted and forgotten does not get an epoch it has had.
pub(crate) fn next_epoch(previous: u64) -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    (previous + 1).max(now.as_micros() as u64)
}

/// How long a deleted session's epoch is remembered: longer than any turn takes.
pub(crate) const FENCE: std::time::Duration = std::time::Duration::from_secs(24 * 3600);

/// Steps 2 to 4 of the contract.
pub(crate) fn admit(head: Head, expected: Head, concurrency: Concurrency, reborn: bool) -> Result<(), ErrorKind> {
    let first_life_since = expected == Head::ABSENT && !reborn;
    if head.epoch != expected.epoch && !first_life_since {
        return Err(ErrorKind::Gone);
    }
    if head.sequence < expected.sequence {
        return Err(ErrorKind::RolledBack);
    }
    if head.sequence > expected.sequence && concurrency == Concurrency::Strict {
        return Err(ErrorKind::Conflict);
    }
    Ok(())
}
