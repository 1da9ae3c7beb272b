//! What changes a session: appending to it and deleting it. Runs inside the writer's transaction.

use std::time::SystemTime;

use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, OptionalExtension, ToSql, params};

use super::failure::Failure;
use super::load::record;
use super::session::{Session, end_of_life, millis, signed, unsigned};
use crate::key::{SessionKey, Subject, Tenant};
use crate::policy::Retention;
use crate::store::{Append, Appended, Deleted, FENCE, admit, next_epoch};
use crate::turn::{Head, Turn};

/// `encoded` is the turn's record, made before the writer's time begins.
pub(super) fn append(
    connection: &Connection,
    key: &SessionKey,
    append: &Append,
    encoded: &[u8],
) -> Result<Appended, Failure> {
    let now = SystemTime::now();
    let stored = Session::find(connection, key)?;
    let live = stored.as_ref().filter(|session| !session.expired(now));

    if let Some(session) = live
        && let Some((sequence, turn)) = find(connection, key, session, &append.turn)?
    {
        // A retry that finds its turn extends the session's life.
        let end = end_of_life(now, append.ttl);
        if end != session.expires_at() {
            connection
                .prepare_cached("UPDATE session SET expires_at = ?2 WHERE id = ?1")?
                .execute((session.id, end))?;
        }
        return Ok(Appended::duplicate(session.head, sequence, turn));
    }

    let head = live.map_or(Head::ABSENT, |session| session.head);
    if let Some(expected) = append.expected {
        admit(head, expected, append.concurrency, live.is_some_and(|session| session.reborn))?;
    }

    let head = Head::new(head.epoch, head.sequence + 1);
    let (id, head) = match live {
        Some(session) => {
            connection
                .prepare_cached("UPDATE session SET sequence = ?2, last_active = ?3, expires_at = ?4 WHERE id = ?1")?
                .execute(params![session.id, signed(head.sequence), millis(now), end_of_life(now, append.ttl)])?;
            (session.id, head)
        }
        None => {
            let mut previous = 0;
            if let Some(expired) = &stored {
                previous = expired.head.epoch;
                expired.remove(connection)?;
            }
            let head = Head::new(next_epoch(previous), head.sequence);
            connection
                .prepare_cached(
                    "INSERT INTO session (key, tenant, subject, epoch, sequence, reborn, last_active, expires_at)
                     VALUES (?1, ?2, ?3, ?4, ?5, 0, ?6, ?7)",
                )?
                .execute(params![
                    key.encoded(),
                    key.tenant().map(Tenant::encoded),
                    key.subject().map(Subject::encoded),
                    signed(head.epoch),
                    signed(head.sequence),
                    millis(now),
                    end_of_life(now, append.ttl),
                ])?;
            (connection.last_insert_rowid(), head)
        }
    };
    insert(connection, id, head, &append.turn, encoded)?;
    trim(connection, id, append.retention)?;
    Ok(Appended::stored(head))
}

fn find(
    connection: &Connection,
    key: &SessionKey,
    session: &Session,
    turn: &Turn,
) -> Result<Option<(u64, Turn)>, Failure> {
    connection
        .prepare_cached("SELECT id, record, sequence FROM turn WHERE session = ?1 AND id = ?2")?
        .query_row((session.id, turn.id().to_string()), |row| Ok((unsigned(row, 2)?, record(row, key)?)))
        .optional()?
        .map(|(sequence, turn)| Ok((sequence, turn?)))
        .transpose()
}

fn insert(connection: &Connection, session: i64, head: Head, turn: &Turn, encoded: &[u8]) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO turn (session, sequence, id, at, status, messages, bytes, record)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        )?
        .execute(params![
            session,
            signed(head.sequence),
            turn.id().to_string(),
            millis(turn.at()),
            turn.status().as_str(),
            turn.messages().len() as i64,
            turn.bytes() as i64,
            Text(encoded),
        ])
        .map(drop)
}

/// Bytes that are known to be UTF-8, bound as text without a second look.
struct Text<'a>(&'a [u8]);

impl ToSql for Text<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(ValueRef::Text(self.0)))
    }
}

fn trim(connection: &Connection, session: i64, retention: Retention) -> rusqlite::Result<()> {
    if retention == Retention::default() {
        return Ok(());
    }
    let sizes = connection
        .prepare_cached("SELECT bytes FROM turn WHERE session = ?1 ORDER BY sequence")?
        .query_map([session], |row| Ok(unsigned(row, 0)? as usize))?
        .collect::<Result<Vec<_>, _>>()?;
    let excess = retention.excess(&sizes);
    if excess > 0 {
        connection
            .prepare_cached(
                "DELETE FROM turn WHERE session = ?1 AND sequence <
                    (SELECT sequence FROM turn WHERE session = ?1 ORDER BY sequence LIMIT 1 OFFSET ?2)",
            )?
            .execute((session, excess as i64))?;
    }
    Ok(())
}

pub(super) fn delete(connection: &Connection, key: &SessionKey) -> Result<Deleted, Failure> {
    let now = SystemTime::now();
    let Some(session) = Session::find(connection, key)? else { return Ok(Deleted::new(0)) };
    if session.expired(now) {
        session.remove(connection)?;
        return Ok(Deleted::new(0));
    }
    let turns = connection.prepare_cached("DELETE FROM turn WHERE session = ?1")?.execute([session.id])?;
    connection
        .prepare_cached(
            "UPDATE session SET epoch = ?2, sequence = 0, reborn = 1, last_active = NULL, expires_at = ?3 WHERE id = ?1",
        )?
        .execute((session.id, signed(next_epoch(session.head.epoch)), end_of_life(now, Some(FENCE))))?;
    Ok(Deleted::new(turns as u64))
}
