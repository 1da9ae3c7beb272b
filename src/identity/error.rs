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
    /// A token that does not say who is asking. The client is told 401.
    #[error(transparent)]
    Token(#[from] TokenFault),
    /// A conversation id that this server did not issue, where it takes no others. The client is
    /// told 404.
    #[error("was not issued by this server")]
    NotIssued,
}

/// What is wrong with a token. For the log: clients are told only that it is invalid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenFault {
    /// Not `Bearer`, one space and a signed token of three parts with a JSON object in it; or a
    /// claim is named twice.
    #[error("is malformed")]
    Malformed,
    /// Longer than a token may be.
    #[error("is longer than a token may be")]
    TooLong,
    /// Signed with an algorithm that is not on the list.
    #[error("has an algorithm that is not allowed")]
    Algorithm,
    /// A token of another kind.
    #[error("is a token of another type")]
    Type,
    /// Names a key that is not known, or none where there are several.
    #[error("names no known key")]
    UnknownKey,
    /// Signed by somebody else, or changed since.
    #[error("has a signature that does not verify")]
    Signature,
    /// A claim is missing, of the wrong type, empty or out of range.
    #[error("has no proper claim `{0}`")]
    Claim(&'static str),
    /// Its time is over.
    #[error("has expired")]
    Expired,
    /// Its time has not come.
    #[error("is not valid yet")]
    NotYetValid,
    /// Issued by somebody else.
    #[error("is of another issuer")]
    Issuer,
    /// Meant for somebody else.
    #[error("is for another audience")]
    Audience,
}
