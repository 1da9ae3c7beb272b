//! What went wrong with a request's session, for callers; what clients are told is in `problem`.

use std::sync::Arc;
use std::time::Duration;

use crate::identity::IdentityError;
use crate::store::StoreError;

/// Why a request was refused, or its turn not stored.
///
/// The layer leaves it in the extensions of the response that it answers with, so that an outer
/// layer can render its own. It is the error of [`ChatSession::commit`](crate::ChatSession::commit),
/// and of a response body that was broken off.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// The identity cannot be taken: 400, or 401 when somebody had to be named.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// No conversation id, and policy wants one: 400.
    #[error("the request names no conversation")]
    MissingConversation,
    /// The conversation that the request names does not exist, and policy begins none: 404.
    #[error("the request names a conversation that does not exist")]
    UnknownConversation,
    /// The idempotency key cannot be taken: 400.
    #[error("idempotency key: {0}")]
    IdempotencyKey(#[source] IdentityError),
    /// Too many turns are still being settled in the background: 503.
    #[error("too many turns are being settled in the background")]
    Overloaded,
    /// The history cannot be loaded: 503, or 500 when trying again will not help.
    #[error("the history cannot be loaded")]
    Load(#[source] Arc<StoreError>),
    /// The history was not loaded in time: 503.
    #[error("the history was not loaded within {0:?}")]
    LoadDeadline(Duration),
    /// The turn cannot be stored: 503, 507, 409 or 500 before the head, a broken body after it.
    #[error("the turn cannot be stored")]
    Commit(#[source] Arc<StoreError>),
    /// The turn was not stored in time, it may or may not be: 503, or a broken body.
    #[error("the turn was not stored within {0:?}; whether it is stored is unknown")]
    CommitDeadline(Duration),
    /// A message was refused when it was appended, so the turn is not whole: 500, or a broken body.
    #[error("the turn is not whole: a message was refused")]
    Incomplete(#[source] AppendError),
    /// The turn was discarded: the response failed, or the client left and policy keeps nothing.
    #[error("the turn was discarded")]
    Discarded,
    /// The response took longer than the policy's body deadline: a broken body.
    #[error("the response took longer than its deadline")]
    BodyDeadline,
    /// The commit came to an end without an answer: the store panicked, or the runtime shut down.
    #[error("the commit ended without an answer")]
    Lost,
}

/// Why a message was not appended.
///
/// After any of these but [`AppendError::Sealed`] the turn is not whole and cannot be committed any
/// more; it can only be discarded. Check sizes first where there is another way.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AppendError {
    /// The turn is settled: committed, discarded, or its response has ended.
    #[error("the turn is settled, nothing can be appended any more")]
    Sealed,
    /// The message is larger than policy allows.
    #[error("the message has {bytes} bytes, the limit is {limit}")]
    MessageTooLarge {
        /// The size of the message.
        bytes: usize,
        /// What policy allows.
        limit: usize,
    },
    /// The turn would have more messages than policy allows.
    #[error("the turn has {limit} messages already")]
    TooManyMessages {
        /// What policy allows.
        limit: usize,
    },
    /// The turn would be larger than policy or the store allows.
    #[error("the turn would have {bytes} bytes, the limit is {limit}")]
    TurnTooLarge {
        /// The size that the turn would have.
        bytes: usize,
        /// What policy and store allow.
        limit: usize,
    },
    /// The role is not one that policy allows.
    #[error("the role is not allowed")]
    Role,
}
