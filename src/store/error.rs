//! What a store says when it cannot do what it was asked.

use std::error::Error;
use std::fmt;

/// An operation of a store that failed: which, on which store, what kind of failure, and its cause.
///
/// `Display` names kind, store and operation; the cause is told by `source()` alone, for the log.
/// Clients are told neither.
#[derive(Debug)]
pub struct StoreError {
    kind: ErrorKind,
    store: &'static str,
    operation: Operation,
    reported: bool,
    source: Option<Box<dyn Error + Send + Sync>>,
}

/// What a caller can do about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The store cannot be reached or is too busy, and **nothing was written**. Try again.
    Unavailable,
    /// A write was sent and its answer is missing: it may or may not be stored. Only the identical
    /// attempt may be repeated.
    Ambiguous,
    /// Another turn was stored since the history was loaded, and the append was `Strict`.
    Conflict,
    /// The session was deleted, or it expired, since the history was loaded.
    Gone,
    /// The store has fewer turns than were loaded: it lost acknowledged data.
    RolledBack,
    /// What is stored cannot be read.
    Corrupt,
    /// What is stored was written by a newer version.
    NewerVersion,
    /// The turn is larger than the store takes.
    TooLarge,
    /// The store has no room. Nothing was written.
    Full,
    /// The store is not set up as it must be (schema, permissions, a wrong file).
    Misconfigured,
    /// Anything else. Nothing was written.
    Other,
}

impl ErrorKind {
    /// Whether a write that failed like this may have been applied all the same.
    pub const fn is_ambiguous(self) -> bool {
        matches!(self, Self::Ambiguous)
    }

    /// Whether the same attempt may succeed later.
    pub const fn is_temporary(self) -> bool {
        matches!(self, Self::Unavailable | Self::Ambiguous)
    }

    /// The word that logs and metrics use.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unavailable => "unavailable",
            Self::Ambiguous => "ambiguous",
            Self::Conflict => "conflict",
            Self::Gone => "gone",
            Self::RolledBack => "rolled_back",
            Self::Corrupt => "corrupt",
            Self::NewerVersion => "newer_version",
            Self::TooLarge => "too_large",
            Self::Full => "full",
            Self::Misconfigured => "misconfigured",
            Self::Other => "other",
        }
    }
}

/// Which operation failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Operation {
    /// Opening or connecting.
    Open,
    /// [`Store::load`](super::Store::load)
    Load,
    /// [`Store::append`](super::Store::append)
    Append,
    /// [`Store::delete`](super::Store::delete)
    Delete,
    /// [`Store::list`](super::Store::list)
    List,
    /// [`Store::ping`](super::Store::ping)
    Ping,
}

impl Operation {
    /// The word that logs and metrics use.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Load => "load",
            Self::Append => "append",
            Self::Delete => "delete",
            Self::List => "list",
            Self::Ping => "ping",
        }
    }
}

impl StoreError {
    /// A failure without a cause to tell.
    pub fn new(kind: ErrorKind, store: &'static str, operation: Operation) -> Self {
        Self { kind, store, operation, reported: false, source: None }
    }

    /// The same failure with its cause. The cause goes to the log: it must hold no message text and no ids.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The same failure, one of many for a cause that the store has put into the log already: whoever
    /// meets it need not say so once more. For stores that know of an outage, as
    /// [`Resilient`](super::Resilient) does.
    #[must_use]
    pub fn reported(mut self) -> Self {
        self.reported = true;
        self
    }

    /// Whether its cause is in the log already: see [`reported`](Self::reported).
    pub fn is_reported(&self) -> bool {
        self.reported
    }

    /// What a caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The name of the store, as its [`StoreInfo`](super::StoreInfo) says it.
    pub fn store(&self) -> &'static str {
        self.store
    }

    /// Which operation failed.
    pub fn operation(&self) -> Operation {
        self.operation
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.kind {
            ErrorKind::Unavailable => "the store is not available",
            ErrorKind::Ambiguous => "the outcome is unknown",
            ErrorKind::Conflict => "another turn was stored meanwhile",
            ErrorKind::Gone => "the session was deleted or expired meanwhile",
            ErrorKind::RolledBack => "the store lost turns that it had acknowledged",
            ErrorKind::Corrupt => "the stored session cannot be read",
            ErrorKind::NewerVersion => "the stored session was written by a newer version",
            ErrorKind::TooLarge => "the turn is larger than the store takes",
            ErrorKind::Full => "the store has no room",
            ErrorKind::Misconfigured => "the store is not set up as it must be",
            ErrorKind::Other => "the store failed",
        };
        write!(f, "{} {}: {what}", self.store, self.operation.as_str())
    }
}

impl Error for StoreError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}
