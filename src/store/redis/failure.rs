//! What can go wrong on the way to a server, and what it means for a turn.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

use redis::{RedisError, ServerError};

use super::NAME;
use crate::store::{ErrorKind, Operation, StoreError};

/// A call that did not bring an answer to use. Clone, because one failed attempt to connect
/// is the answer to all who waited for it.
#[derive(Debug, Clone)]
pub(super) enum Failure {
    /// Nothing reached the server.
    NotSent(Arc<dyn Error + Send + Sync>),
    /// It was sent and the answer is missing.
    Lost(Arc<dyn Error + Send + Sync>),
    /// The server refused it; nothing was written.
    Refused(ServerError),
    /// Fewer replicas or disks than asked for acknowledged the write in time.
    Unconfirmed,
    /// The append script's decision.
    Verdict(ErrorKind),
    /// What came back is not what was asked for.
    Unreadable(&'static str),
    /// Written by a newer version of this crate.
    Newer,
    /// The servers are not what the store needs.
    Misconfigured(Arc<dyn Error + Send + Sync>),
}

impl Failure {
    pub(super) fn not_sent(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::NotSent(Arc::from(error.into()))
    }

    pub(super) fn lost(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Lost(Arc::from(error.into()))
    }

    pub(super) fn misconfigured(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Misconfigured(Arc::from(error.into()))
    }

    /// The code that begins a server's error: `MOVED`, `OOM`, `NOSCRIPT`.
    pub(super) fn code(&self) -> Option<&str> {
        match self {
            Self::Refused(error) => Some(error.code()),
            _ => None,
        }
    }

    fn kind(&self, operation: Operation) -> ErrorKind {
        match self {
            Self::NotSent(_) => ErrorKind::Unavailable,
            Self::Lost(_) | Self::Unconfirmed => match operation {
                Operation::Append | Operation::Delete => ErrorKind::Ambiguous,
                _ => ErrorKind::Unavailable,
            },
            Self::Unreadable(_) => ErrorKind::Corrupt,
            Self::Newer => ErrorKind::NewerVersion,
            Self::Misconfigured(_) => ErrorKind::Misconfigured,
            Self::Verdict(kind) => *kind,
            Self::Refused(error) => match error.code() {
                "OOM" | "MISCONF" => ErrorKind::Full,
                "WRONGTYPE" => ErrorKind::Corrupt,
                "NOAUTH" | "WRONGPASS" | "NOPERM" | "DENIED" => ErrorKind::Misconfigured,
                "ASK" | "BUSY" | "CLUSTERDOWN" | "LOADING" | "MASTERDOWN" | "MOVED" | "NOREPLICAS" | "READONLY"
                | "TRYAGAIN" | "UNBLOCKED" => ErrorKind::Unavailable,
                // Redis has no code of its own for these.
                _ if error.details().is_some_and(|text| text.contains("max number of clients")) => {
                    ErrorKind::Unavailable
                }
                _ => ErrorKind::Other,
            },
        }
    }

    pub(super) fn into_error(self, operation: Operation) -> StoreError {
        let error = StoreError::new(self.kind(operation), NAME, operation);
        // A verdict says it all.
        if matches!(self, Self::Verdict(_)) { error } else { error.with_source(self) }
    }
}

/// An error of the client library: `sent` says whether the command had left by then.
pub(super) fn of_client(error: RedisError, sent: bool) -> Failure {
    if matches!(error.kind(), redis::ErrorKind::AuthenticationFailed) {
        return Failure::misconfigured(error);
    }
    match error.kind() {
        redis::ErrorKind::InvalidClientConfig => Failure::misconfigured(error),
        // While a connection is set up, the server's refusals arrive as errors of the client.
        redis::ErrorKind::Server(_) | redis::ErrorKind::Extension if !sent => match error.code() {
            Some("NOAUTH" | "WRONGPASS" | "NOPERM" | "ERR") if !error.to_string().contains("max number") => {
                Failure::misconfigured(error)
            }
            _ => Failure::not_sent(error),
        },
        _ if sent => Failure::lost(error),
        _ => Failure::not_sent(error),
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotSent(error) | Self::Lost(error) | Self::Misconfigured(error) => error.fmt(f),
            // Not the details: they may quote keys.
            Self::Refused(error) => write!(f, "the server answered {}", error.code()),
            Self::Unconfirmed => f.write_str("fewer acknowledgements than asked for came in time"),
            Self::Verdict(kind) => f.write_str(kind.as_str()),
            Self::Unreadable(what) => f.write_str(what),
            Self::Newer => f.write_str("written by a newer version"),
        }
    }
}

impl Error for Failure {}

/// Text as an error, for what has no type of its own.
#[derive(Debug)]
pub(super) struct Note(pub(super) String);

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for Note {}
