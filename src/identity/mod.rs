//! Whose conversation a request belongs to, read from its head alone.
//!
//! | source | what it reads |
//! |---|---|
//! | [`Header`] | one header, as conversation, subject or tenant |
//! | [`Extension`] | what an outer authentication layer left in the request extensions |
//! | [`Scoped`] | a subject from one source, the conversation from another |
//! | [`Or`] | the first of two sources that finds something; disagreement is refused |
//! | a closure | anything |
//!
//! A conversation id that a client chooses is a *reference*, not a capability: scope it by a subject
//! that somebody verified.
//!
//! ```
//! use tower_session_memory::identity::{Extension, Header, Identify, Scoped};
//! use tower_session_memory::Subject;
//!
//! #[derive(Clone)]
//! struct Claims { sub: String } // left by an outer authentication layer
//!
//! let identity = Scoped::new(
//!     Extension::subject(|claims: &Claims| Some(Subject::new(&claims.sub))),
//!     Header::conversation("x-conversation-id"),
//! );
//!
//! let mut request = http::Request::new(());
//! request.extensions_mut().insert(Claims { sub: "ada".into() });
//! request.headers_mut().insert("x-conversation-id", "chat-42".parse()?);
//! let key = identity.identify(&request.into_parts().0)?.into_key();
//! assert_eq!(key.unwrap().encoded(), ":ada:chat-42");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::borrow::Cow;

use http::request::Parts;

use crate::key::{ConversationId, SessionKey, Subject, Tenant};

mod combine;
mod error;
mod extension;
mod header;
mod idempotency;

pub use self::combine::{Or, Scoped};
pub use self::error::{IdentityError, IdentityFault};
pub use self::extension::Extension;
pub use self::header::Header;
pub(crate) use self::idempotency::idempotency_key;

/// What a request's head says of whose conversation it is. Any part may be missing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Identity {
    /// The organisation.
    pub tenant: Option<Tenant>,
    /// The owner.
    pub subject: Option<Subject>,
    /// The conversation.
    pub conversation: Option<ConversationId>,
}

impl Identity {
    /// Nothing found.
    pub fn none() -> Self {
        Self::default()
    }

    /// Adds the organisation.
    #[must_use]
    pub fn with_tenant(mut self, tenant: Tenant) -> Self {
        self.tenant = Some(tenant);
        self
    }

    /// Adds the owner.
    #[must_use]
    pub fn with_subject(mut self, subject: Subject) -> Self {
        self.subject = Some(subject);
        self
    }

    /// Adds the conversation.
    #[must_use]
    pub fn with_conversation(mut self, conversation: ConversationId) -> Self {
        self.conversation = Some(conversation);
        self
    }

    /// Whether no part was found.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// The session's key, if the request names a conversation.
    pub fn into_key(self) -> Option<SessionKey> {
        Some(SessionKey::from_parts(self.tenant, self.subject, self.conversation?))
    }
}

/// A source of identity: headers, claims, or any mix of them.
///
/// Synchronous and quick: it runs for every request before anything else. It sees the head of the
/// request, never the body.
pub trait Identify: Send + Sync + 'static {
    /// Reads the identity.
    ///
    /// # Errors
    /// [`IdentityError`] when what is there cannot be taken; the request is then refused. What is
    /// simply not there is `None` in the [`Identity`], and policy decides.
    fn identify(&self, parts: &Parts) -> Result<Identity, IdentityError>;

    /// What is read, for start-up lines: `header x-user-id`. Never a value.
    fn describe(&self) -> Cow<'static, str> {
        Cow::Borrowed("custom")
    }

    /// Whether a subject comes from somebody who verified it. A header alone does not: any client
    /// can send it.
    fn is_verified(&self) -> bool {
        false
    }
}

impl<F> Identify for F
where
    F: Fn(&Parts) -> Result<Identity, IdentityError> + Send + Sync + 'static,
{
    fn identify(&self, parts: &Parts) -> Result<Identity, IdentityError> {
        self(parts)
    }

    fn describe(&self) -> Cow<'static, str> {
        Cow::Borrowed("closure")
    }

    /// Whoever writes a closure decides what it trusts.
    fn is_verified(&self) -> bool {
        true
    }
}
