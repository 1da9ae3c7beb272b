//! Why an identity was refused. Names the source, never the value.

use std::borrow::Cow;

use crate::key::KeyError;

/// An identity that cannot be taken: which source, and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{source_name}: {fault}")]
#[non_exhaustive]
pub struct IdentityError {
    /// What was read, as [`Identify::describe`](super::Identify::describe) says it.
    pub source_name: Cow<'static, str>,
    /// What is wrong.
    pub fault: IdentityFault,
}

impl IdentityError {
    /// A fault found in a source.
    pub fn new(source_name: impl Into<Cow<'static, str>>, fault: IdentityFault) -> Self {
        Self { source_name: source_name.into(), fault }
    }
}

/// What is wrong with an identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityFault {
    /// Nobody is named where somebody must be. The client is told 401.
    #[error("is missing")]
    Unauthenticated,
    /// More than one value.
    #[error("is given more than once")]
    Repeated,
    /// Bytes that are not visible ASCII.
    #[error("has a byte that is not visible ASCII")]
    Encoding,
    /// The value breaks a rule of keys.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// Two configured sources name different sessions.
    #[error("disagrees with another source")]
    Disagreement,
    /// Credentials that were checked and found wanting. The client is told 401.
    #[error("was refused")]
    Refused,
}
