//! Reading a session, as of one moment.

use std::time::SystemTime;

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, Row};

use super::failure::Failure;
use super::session::{Session, signed, unsigned};
use crate::key::SessionKey;
use crate::policy::Window;
use crate::store::{ErrorKind, Loaded, Read};
use crate::turn::{RecordError, Turn, TurnId};

pub(super) fn load(connection: &Connection, key: &SessionKey, read: &Read) -> Result<Loaded, Failure> {
    let now = SystemTime::now();
    let Some(session) = Session::find(connection, key)?.filter(|session| !session.expired(now)) else {
        return Ok(Loaded::absent());
    };
    let (fitting, truncated) = fit(connection, &session, read.window)?;
    let newer = read.known.filter(|known| known.epoch == session.head.epoch).and_then(|known| {
        let newer = session.head.sequence.checked_sub(known.sequence)?;
        usize::try_from(newer).ok().filter(|newer| *newer <= fitting)
    });
    let turns = newest(connection, key, &session, newer.unwrap_or(fitting))?;
    let found = read.find.map(|id| find(connection, key, &session, id)).transpose()?.flatten();
    let loaded = Loaded::new(session.head, turns, truncated).since(newer.and(read.known)).found(found);
    // A window that holds all has counted all.
    Ok(if truncated { loaded } else { loaded.kept(fitting as u64) })
}

/// How many of the newest turns fit the window, and whether there are more. Only sizes are read.
fn fit(connection: &Connection, session: &Session, window: Window) -> rusqlite::Result<(usize, bool)> {
    let mut statement =
        connection.prepare_cached("SELECT messages, bytes FROM turn WHERE session = ?1 ORDER BY sequence DESC")?;
    let mut rows = statement.query([session.id])?;
    let (mut failed, mut seen) = (None, 0);
    let mut sizes = std::iter::from_fn(|| {
        let size = rows
            .next()
            .and_then(|row| row.map(|row| Ok((unsigned(row, 0)? as usize, unsigned(row, 1)? as usize))).transpose());
        let size = size.unwrap_or_else(|error| {
            failed = Some(error);
            None
        });
        seen += usize::from(size.is_some());
        size
    });
    let fitting = window.fit(&mut sizes);
    // The window may have stopped by itself: one more tells whether there is more.
    sizes.next();
    failed.map_or(Ok((fitting, seen > fitting)), Err)
}

fn newest(connection: &Connection, key: &SessionKey, session: &Session, count: usize) -> Result<Vec<Turn>, Failure> {
    if count == 0 {
        return Ok(Vec::new());
    }
    let missing = || Failure::refused(ErrorKind::Corrupt, "a turn of the session is missing");
    let before = session.head.sequence.checked_sub(count as u64).ok_or_else(missing)?;
    let mut statement = connection.prepare_cached(
        "SELECT id, record, sequence FROM turn WHERE session = ?1 AND sequence > ?2 ORDER BY sequence",
    )?;
    let mut rows = statement.query((session.id, signed(before)))?;
    let mut turns = Vec::with_capacity(count);
    while let Some(row) = rows.next()? {
        if unsigned(row, 2)? != before + 1 + turns.len() as u64 {
            return Err(missing());
        }
        turns.push(record(row, key)??);
    }
    if turns.len() == count { Ok(turns) } else { Err(missing()) }
}

fn find(connection: &Connection, key: &SessionKey, session: &Session, id: TurnId) -> Result<Option<Turn>, Failure> {
    let found = connection
        .prepare_cached("SELECT id, record FROM turn WHERE session = ?1 AND id = ?2")?
        .query_row((session.id, id.to_string()), |row| record(row, key))
        .optional()?;
    Ok(found.transpose()?)
}

/// The turn of a row that begins with `id, record`. A record under another turn's id is damage too.
pub(super) fn record(row: &Row<'_>, key: &SessionKey) -> rusqlite::Result<Result<Turn, RecordError>> {
    let id = row.get_ref(0)?.as_str()?;
    let bytes = row.get_ref(1)?.as_bytes()?;
    let turn = Turn::from_record(key, Bytes::copy_from_slice(bytes));
    Ok(turn.and_then(|turn| if turn.id().to_string() == id { Ok(turn) } else { Err(RecordError::Corrupt) }))
}
