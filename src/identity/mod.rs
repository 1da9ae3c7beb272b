//! Whose conversation a request belongs to, read from its head alone.
//!
//! | source | what it reads |
//! |---|---|
//! | [`Header`] | one header, as conversation, subject or tenant |
//! | [`Path`], [`Query`] | a segment of the path, a query parameter, as conversation |
//! | `Cookie` (feature `cookie`) | a signed or encrypted cookie, as conversation |
//! | `Jwt` (feature `jwt`) | a verified bearer token, as subject and tenant |
//! | [`Extension`] | what an outer authentication layer left in the request extensions |
//! | [`Scoped`] | a subject from one source, the conversation from another |
//! | [`Or`] | the first of two sources that finds something; disagreement is refused |
//! | [`Signed`] | another source, but only ids that this server issued |
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

use http::header::SET_COOKIE;
use http::request::Parts;
use http::{HeaderName, HeaderValue};

use crate::key::{ConversationId, SessionKey, Subject, Tenant};

mod combine;
#[cfg(feature = "cookie")]
mod cookie;
mod error;
mod extension;
mod header;
mod idempotency;
#[cfg(feature = "jwt")]
pub mod jwt;
mod secrets;
mod signed;
mod uri;

pub use self::combine::{Or, Scoped};
#[cfg(feature = "cookie")]
pub use self::cookie::Cookie;
pub use self::error::{IdentityError, IdentityFault, TokenFault};
pub use self::extension::Extension;
pub use self::header::Header;
pub(crate) use self::idempotency::idempotency_key;
#[cfg(feature = "jwt")]
pub use self::jwt::{Algorithm, Jwt, JwtBuilder, JwtError, JwtKeys};
pub use self::secrets::{SecretTooShort, Secrets};
pub use self::signed::Signed;
pub use self::uri::{Path, Query, TemplateError};

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
    /// Whether the client is to be told the id again, in its newest form.
    pub(crate) renew: bool,
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

    /// What a response header of this name tells a client, so that its next request names this
    /// conversation: for fresh ids, see [`OnMissing::Mint`](crate::OnMissing::Mint). `None` when the
    /// source does not issue ids in such a header. By default the bare id, in any header but
    /// `set-cookie`.
    fn issue(&self, id: &ConversationId, header: &HeaderName) -> Option<HeaderValue> {
        if header == SET_COOKIE {
            return None;
        }
        HeaderValue::from_str(id.as_str()).ok()
    }

    /// Why no session can be found again by this source, for an error at start-up: it reads a header
    /// that is new with every request, for one.
    fn flaw(&self) -> Option<Cow<'static, str>> {
        None
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
