//! Why an operation failed, until the store's edge makes a [`StoreError`] of it.

use std::error::Error;
use std::sync::Arc;

use rusqlite::{ErrorCode, ffi};

use super::NAME;
use crate::store::{ErrorKind, Operation, StoreError};
use crate::turn::RecordError;

type Cause = Arc<dyn Error + Send + Sync>;

/// Cheap to clone: one failed commit fails every write of its group.
#[derive(Debug, Clone)]
pub(super) enum Failure {
    /// The operation's own answer is no, and it changed nothing.
    Refused(ErrorKind, Option<Cause>),
    /// SQLite failed: the transaction around it must be rolled back.
    Sqlite(ErrorKind, Arc<rusqlite::Error>),
}

impl Failure {
    pub(super) fn refused(kind: ErrorKind, cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Refused(kind, Some(Arc::from(cause.into())))
    }

    /// `COMMIT` failed. When the disk did not take the last writes or their sync, a crash right now
    /// may still find the transaction in the log; every other failure has left nothing there.
    pub(super) fn of_commit(error: rusqlite::Error) -> Self {
        let kind = match error.sqlite_error_code() {
            Some(ErrorCode::SystemIoFailure) => ErrorKind::Ambiguous,
            _ => kind_of(&error),
        };
        Self::Sqlite(kind, Arc::new(error))
    }

    pub(super) fn kind(&self) -> ErrorKind {
        match self {
            Self::Refused(kind, _) | Self::Sqlite(kind, _) => *kind,
        }
    }

    pub(super) fn at(self, operation: Operation) -> StoreError {
        let error = StoreError::new(self.kind(), NAME, operation);
        match self {
            Self::Refused(_, None) => error,
            Self::Refused(_, Some(cause)) => error.with_source(cause),
            Self::Sqlite(_, cause) => error.with_source(cause),
        }
    }
}

impl From<ErrorKind> for Failure {
    fn from(kind: ErrorKind) -> Self {
        Self::Refused(kind, None)
    }
}

impl From<RecordError> for Failure {
    fn from(error: RecordError) -> Self {
        let kind = match error {
            RecordError::NewerVersion { .. } => ErrorKind::NewerVersion,
            _ => ErrorKind::Corrupt,
        };
        Self::refused(kind, error)
    }
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(kind_of(&error), Arc::new(unquoted(error)))
    }
}

/// What a trigger raises is in its author's words, which may quote the row.
fn unquoted(error: rusqlite::Error) -> rusqlite::Error {
    match error {
        rusqlite::Error::SqliteFailure(code, _) if code.extended_code == ffi::SQLITE_CONSTRAINT_TRIGGER => {
            rusqlite::Error::SqliteFailure(code, None)
        }
        other => other,
    }
}

/// The kind of any failure but that of a `COMMIT`: what is not committed is not there.
fn kind_of(error: &rusqlite::Error) -> ErrorKind {
    use rusqlite::Error as E;
    match error {
        // A column of another type, or text that is not UTF-8, where this crate wrote neither.
        E::FromSqlConversionFailure(..)
        | E::IntegralValueOutOfRange(..)
        | E::InvalidColumnType(..)
        | E::Utf8Error(..) => return ErrorKind::Corrupt,
        // A statement that does not fit the tables.
        E::SqlInputError { .. } => return ErrorKind::Misconfigured,
        _ => {}
    }
    match error.sqlite_error_code() {
        Some(
            ErrorCode::DatabaseBusy
            | ErrorCode::DatabaseLocked
            | ErrorCode::FileLockingProtocolFailed
            | ErrorCode::OutOfMemory
            | ErrorCode::SystemIoFailure,
        ) => ErrorKind::Unavailable,
        Some(ErrorCode::DiskFull) => ErrorKind::Full,
        Some(ErrorCode::TooBig) => ErrorKind::TooLarge,
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => ErrorKind::Corrupt,
        Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => ErrorKind::Misconfigured,
        _ => ErrorKind::Other,
    }
}
