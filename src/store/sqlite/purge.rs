//! Removing what expired. Nothing depends on it: expired sessions are invisible at once.

use std::time::SystemTime;

use rusqlite::Connection;

use super::session::millis;

/// The most rows of each table that one purge removes, so that no turn waits long for it.
const BATCH: usize = 500;

/// Whether there may be more.
pub(super) fn some_of_the_expired(connection: &Connection) -> rusqlite::Result<bool> {
    let now = millis(SystemTime::now());
    // Turns before their sessions: a long session goes in several steps.
    let turns = connection
        .prepare_cached(
            "DELETE FROM turn WHERE rowid IN (
                SELECT turn.rowid FROM session JOIN turn ON turn.session = session.id
                WHERE expires_at <= ?1 LIMIT ?2)",
        )?
        .execute((now, BATCH as i64))?;
    let sessions = connection
        .prepare_cached(
            "DELETE FROM session WHERE id IN (
                SELECT id FROM session WHERE expires_at <= ?1
                AND NOT EXISTS (SELECT 1 FROM turn WHERE turn.session = session.id) LIMIT ?2)",
        )?
        .execute((now, BATCH as i64))?;
    Ok(turns == BATCH || sessions == BATCH)
}
