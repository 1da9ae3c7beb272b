//! What PostgreSQL's failures mean to a caller.

use std::fmt;

use tokio_postgres::error::SqlState;

use super::NAME;
use crate::store::{ErrorKind, Operation, StoreError};

pub(super) fn misconfigured(why: impl Into<String>) -> StoreError {
    StoreError::new(ErrorKind::Misconfigured, NAME, Operation::Open).with_source(Cause(why.into()))
}

/// A cause that may be logged: PostgreSQL's own primary message and code, without detail, context
/// and statement, which may hold ids and texts.
#[derive(Debug, Clone)]
pub(super) struct Cause(pub(super) String);

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Cause {}

/// A failed statement.
pub(super) fn failed(error: &tokio_postgres::Error, operation: Operation) -> StoreError {
    let writes = matches!(operation, Operation::Append | Operation::Delete);
    StoreError::new(kind(error, writes), NAME, operation).with_source(describe(error))
}

/// A statement whose answer does not come.
pub(super) fn unanswered(operation: Operation) -> StoreError {
    let writes = matches!(operation, Operation::Append | Operation::Delete);
    let kind = if writes { ErrorKind::Ambiguous } else { ErrorKind::Unavailable };
    StoreError::new(kind, NAME, operation).with_source(Cause("the server does not answer".to_owned()))
}

/// A server that was a primary when it was connected to.
pub(super) fn standby(operation: Operation) -> StoreError {
    let why = "the server has become a standby, whose answers may be old";
    StoreError::new(ErrorKind::Unavailable, NAME, operation).with_source(Cause(why.to_owned()))
}

/// A failed attempt to connect: nothing was sent.
pub(super) fn not_connected(error: &tokio_postgres::Error, operation: Operation) -> StoreError {
    let (kind, cause) = no_connection(error);
    StoreError::new(kind, NAME, operation).with_source(cause)
}

/// The same in two parts.
pub(super) fn no_connection(error: &tokio_postgres::Error) -> (ErrorKind, Cause) {
    let Cause(cause) = describe(error);
    if cause.contains("unsupported startup parameter") {
        let hint = "a transaction pooler takes no settings: see PostgresOptions::transaction_pooler";
        return (ErrorKind::Misconfigured, Cause(format!("{cause}; {hint}")));
    }
    (kind(error, false), Cause(cause))
}

pub(super) fn describe(error: &tokio_postgres::Error) -> Cause {
    use std::error::Error;
    if let Some(db) = error.as_db_error() {
        // What a trigger raises is in its author's words, and class 22, "data exception", may quote the data.
        let text = match (db.routine(), db.code().code()) {
            (Some("exec_stmt_raise"), _) => "a function of the database raised an error",
            (_, code) if code.starts_with("22") => "a value was refused",
            _ => db.message(),
        };
        return Cause(format!("{text} (SQLSTATE {})", db.code().code()));
    }
    match error.source() {
        Some(source) => Cause(format!("{error}: {source}")),
        None => Cause(error.to_string()),
    }
}

pub(super) fn kind(error: &tokio_postgres::Error, writes: bool) -> ErrorKind {
    let lost = if writes { ErrorKind::Ambiguous } else { ErrorKind::Unavailable };
    let Some(code) = error.code() else {
        let text = error.to_string();
        // The driver does not show its kinds; these happen before anything is sent.
        return if text.starts_with("error serializing") || text.starts_with("error encoding") {
            ErrorKind::Other
        } else if text.contains("TLS handshake") || text.contains("invalid configuration") {
            ErrorKind::Misconfigured
        } else {
            lost
        };
    };
    match code.code() {
        // The statement was rolled back: deadlock, serialization, lock and statement timeouts.
        "40001" | "40P01" | "55P03" | "57014" => ErrorKind::Unavailable,
        // Not here, or not now: a standby, too many connections, starting up, out of memory, I/O.
        "25006" | "53300" | "57P03" | "53200" | "58030" => ErrorKind::Unavailable,
        // A plan or statement that this connection no longer has.
        "0A000" => ErrorKind::Unavailable,
        "26000" | "42P05" => ErrorKind::Misconfigured,
        "53100" => ErrorKind::Full,
        "54000" => ErrorKind::TooLarge,
        "XX001" | "XX002" => ErrorKind::Corrupt,
        // The server or a pooler ended the connection; the commit may have come first.
        other if other.starts_with("57P") || other.starts_with("08") => lost,
        // Authorization, catalog and schema names, undefined objects, privileges.
        other if ["28", "3D", "3F", "42"].iter().any(|class| other.starts_with(class)) => ErrorKind::Misconfigured,
        _ => ErrorKind::Other,
    }
}

/// Whether the connection must not be used again although it is open.
pub(super) fn spoils_connection(error: &tokio_postgres::Error) -> bool {
    error.code().is_none_or(|code| {
        *code == SqlState::READ_ONLY_SQL_TRANSACTION
            || *code == SqlState::FEATURE_NOT_SUPPORTED
            || code.code().starts_with("57P")
            || code.code().starts_with("08")
    })
}
