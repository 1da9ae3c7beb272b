//! Removing sessions whose life is over.

use std::time::Duration;

use tokio_postgres::types::Type;

use super::NAME;
use super::append::Terms;
use super::connect::Connection;
use super::error::failed;
use super::options::Schema;
use super::store::PostgresStore;
use super::values::count;
use crate::store::{Operation, StoreError};

const PURGE: &str = "SELECT busy, sessions, turns, bytes FROM {schema}.purge_expired($1, $2, $3, $4)";

/// Sessions per statement: each holds its locks for a few milliseconds.
const BATCH: u32 = 200;

/// What a purge removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Purged {
    /// Sessions, the remains of deleted ones included.
    pub sessions: u64,
    /// Their turns.
    pub turns: u64,
    /// Bytes of their messages.
    pub bytes: u64,
    /// Another instance was purging; nothing was done here.
    pub busy: bool,
}

pub(super) async fn purge(
    connection: &mut Connection,
    schema: &Schema,
    terms: &Terms,
    limit: u32,
) -> Result<Purged, StoreError> {
    let limit = i32::try_from(limit).unwrap_or(i32::MAX);
    let rows = connection
        .query_unprepared(
            &schema.sql(PURGE),
            &[
                (&limit, Type::INT4),
                (&terms.audit.is_some(), Type::BOOL),
                (&terms.commit, Type::TEXT),
                (&terms.lock_timeout, Type::TEXT),
            ],
            Operation::Delete,
        )
        .await?;
    let Some(row) = rows.first() else { return Ok(Purged::default()) };
    let read = || -> Result<Purged, tokio_postgres::Error> {
        Ok(Purged {
            busy: row.try_get(0)?,
            sessions: count(row.try_get(1)?),
            turns: count(row.try_get(2)?),
            bytes: count(row.try_get(3)?),
        })
    };
    read().map_err(|error| failed(&error, Operation::Delete))
}

/// Purges in batches, for ever: every instance may run it.
pub(super) async fn run(store: PostgresStore, every: Duration) {
    let mut ticks = tokio::time::interval(every.max(Duration::from_millis(1)));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        loop {
            match store.purge(BATCH).await {
                Ok(purged) => {
                    if purged.sessions > 0 {
                        tracing::debug!(store = NAME, sessions = purged.sessions, turns = purged.turns, "purged");
                    }
                    if purged.sessions < u64::from(BATCH) {
                        break;
                    }
                }
                // Nothing depends on it being soon: loads and appends look at the time themselves.
                Err(error) => {
                    tracing::warn!(store = NAME, kind = error.kind().as_str(), "purge failed, the next one will do it");
                    break;
                }
            }
        }
    }
}
