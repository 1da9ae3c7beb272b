//! One session's row.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, OptionalExtension, Row};

use crate::key::SessionKey;
use crate::turn::Head;

/// Of any session that has a row: live, deleted and remembered, or expired and not yet removed.
pub(super) struct Session {
    pub(super) id: i64,
    pub(super) head: Head,
    pub(super) reborn: bool,
    expires_at: Option<i64>,
}

impl Session {
    pub(super) fn find(connection: &Connection, key: &SessionKey) -> rusqlite::Result<Option<Self>> {
        connection
            .prepare_cached("SELECT id, epoch, sequence, reborn, expires_at FROM session WHERE key = ?1")?
            .query_row([key.encoded()], |row| {
                Ok(Self { id: row.get(0)?, head: head(row, 1)?, reborn: row.get(3)?, expires_at: row.get(4)? })
            })
            .optional()
    }

    pub(super) fn expired(&self, now: SystemTime) -> bool {
        self.expires_at.is_some_and(|at| at <= millis(now))
    }

    pub(super) fn expires_at(&self) -> Option<i64> {
        self.expires_at
    }

    /// Removes the row and, by the foreign key, its turns.
    pub(super) fn remove(&self, connection: &Connection) -> rusqlite::Result<()> {
        connection.prepare_cached("DELETE FROM session WHERE id = ?1")?.execute([self.id]).map(drop)
    }
}

/// Epoch and sequence, from this column on.
pub(super) fn head(row: &Row<'_>, column: usize) -> rusqlite::Result<Head> {
    Ok(Head::new(unsigned(row, column)?, unsigned(row, column + 1)?))
}

/// SQLite's integers are signed; what this store writes is never negative.
pub(super) fn unsigned(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    let value: i64 = row.get(column)?;
    u64::try_from(value).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(column, value))
}

/// Epochs are microseconds since 1970, sequences count turns: both fit for 292,000 years.
pub(super) fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Milliseconds since 1970; the far end of time where they do not fit.
pub(super) fn millis(at: SystemTime) -> i64 {
    i64::try_from(at.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis()).unwrap_or(i64::MAX)
}

pub(super) fn time(millis: u64) -> SystemTime {
    UNIX_EPOCH.checked_add(Duration::from_millis(millis)).unwrap_or(UNIX_EPOCH)
}

/// When a life of this length ends; `None` for ever.
pub(super) fn end_of_life(now: SystemTime, ttl: Option<Duration>) -> Option<i64> {
    ttl.and_then(|ttl| now.checked_add(ttl)).map(millis)
}
