//! The tables, and telling our own file from anybody else's.

use rusqlite::{Connection, TransactionBehavior};

use super::failure::Failure;
use crate::store::ErrorKind;

/// "tsm1", in the header of the file: `PRAGMA application_id`.
const APPLICATION_ID: i64 = 0x7473_6d31;

/// `PRAGMA user_version`: raised when an older build could no longer read the tables.
const VERSION: i64 = 1;

/// Times are milliseconds since 1970. A turn's record is what [`Turn::to_record`](crate::Turn::to_record)
/// writes; the columns beside it are for SQL: windows and retention count with `messages` and
/// `bytes`, people read the rest.
///
/// `turn_by_place` holds the sizes too: how much of a history fits is found without touching a
/// record. Measured against a table in the order of that index (`WITHOUT ROWID`), which keeps whole
/// records in inner nodes: half the space and half the time at 1.5 KB a turn. It is not unique by
/// (session, sequence) alone, because only the writer numbers turns, and loading notices gaps.
const TABLES: &str = "
CREATE TABLE session (
    id          INTEGER PRIMARY KEY,
    key         TEXT NOT NULL UNIQUE,        -- tenant:subject:conversation, percent-escaped
    tenant      TEXT,
    subject     TEXT,
    epoch       INTEGER NOT NULL,            -- which life
    sequence    INTEGER NOT NULL,            -- turns appended in this life, trimmed ones included
    reborn      INTEGER NOT NULL,            -- 1: this life follows a delete
    last_active INTEGER,                     -- NULL: deleted, and remembered until expires_at
    expires_at  INTEGER                      -- NULL: never
) STRICT;

CREATE INDEX session_by_activity ON session (last_active) WHERE last_active IS NOT NULL;
CREATE INDEX session_by_tenant ON session (tenant, last_active) WHERE tenant IS NOT NULL;
CREATE INDEX session_by_subject ON session (subject, last_active) WHERE subject IS NOT NULL;
CREATE INDEX session_by_end ON session (expires_at) WHERE expires_at IS NOT NULL;

CREATE TABLE turn (
    session  INTEGER NOT NULL REFERENCES session (id) ON DELETE CASCADE,
    sequence INTEGER NOT NULL,
    id       TEXT NOT NULL,                  -- 32 hexadecimal digits
    at       INTEGER NOT NULL,
    status   TEXT NOT NULL,                  -- complete, interrupted
    messages INTEGER NOT NULL,
    bytes    INTEGER NOT NULL,
    record   TEXT NOT NULL,
    UNIQUE (session, id)
) STRICT;

CREATE UNIQUE INDEX turn_by_place ON turn (session, sequence, messages, bytes);
";

/// Every column that the statements of this module name.
const PROBES: [&str; 2] = [
    "SELECT id, key, tenant, subject, epoch, sequence, reborn, last_active, expires_at FROM session LIMIT 0",
    "SELECT session, sequence, id, at, status, messages, bytes, record FROM turn LIMIT 0",
];

/// Whose file it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Content {
    /// No tables yet, nobody's.
    Empty,
    /// Ours, of this version.
    Ours,
}

/// Looks, and changes nothing.
pub(super) fn inspect(connection: &Connection) -> Result<Content, Failure> {
    // One statement, one moment: read one by one, half of them may be from before another process made
    // the tables, and half from after.
    let (application, version, objects): (i64, i64, i64) = connection.query_row(
        "SELECT (SELECT application_id FROM pragma_application_id), (SELECT user_version FROM pragma_user_version),
                (SELECT count(*) FROM sqlite_schema)",
        [],
        |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
    )?;
    match (application, version) {
        (0, 0) if objects == 0 => Ok(Content::Empty),
        (APPLICATION_ID, VERSION) => {
            for probe in PROBES {
                connection.prepare(probe).map_err(|error| match error {
                    rusqlite::Error::SqlInputError { .. } => Failure::refused(
                        ErrorKind::Misconfigured,
                        "a table of the store is missing or was altered: restore the file",
                    ),
                    _ => error.into(),
                })?;
            }
            Ok(Content::Ours)
        }
        (APPLICATION_ID, newer) if newer > VERSION => Err(Failure::refused(
            ErrorKind::NewerVersion,
            format!(
                "the file has schema version {newer}, this build reads up to {VERSION}: update the program that opens it"
            ),
        )),
        (APPLICATION_ID, other) => Err(Failure::refused(
            ErrorKind::Corrupt,
            format!("the file has the unknown schema version {other}: restore it"),
        )),
        _ => Err(Failure::refused(
            ErrorKind::Misconfigured,
            "the file is an SQLite database of another application: give the store a file of its own",
        )),
    }
}

/// Makes the tables, unless another process was faster. Whole or not at all.
pub(super) fn create(connection: &mut Connection) -> Result<(), Failure> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    if inspect(&transaction)? == Content::Empty {
        transaction.execute_batch(TABLES)?;
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        transaction.pragma_update(None, "user_version", VERSION)?;
    }
    transaction.commit()?;
    Ok(())
}
