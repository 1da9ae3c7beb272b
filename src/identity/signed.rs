//! Conversation ids that only this server can have issued.

use std::borrow::Cow;
use std::fmt;

use hmac::{Hmac, Mac};
use http::request::Parts;
use http::{HeaderName, HeaderValue};
use sha2::Sha256;

use super::secrets::keyed;
use super::{Identify, Identity, IdentityError, IdentityFault, Secrets};
use crate::hex;
use crate::key::{ConversationId, KeyError};

/// Takes only conversation ids that this server issued: an id that was guessed, or planted by
/// somebody who made it up, is refused with 404 and never adopted.
///
/// On the wire an id is `id.signature`, both within the alphabet of ids; the session's key has the
/// id alone, so it outlives the secret. Ids are issued by [`OnMissing::Mint`](crate::OnMissing::Mint),
/// or by you with [`Signed::sign`].
///
/// A signature says who issued the id, not to whom: scope it by a verified subject all the same, or
/// an id that was issued to one client serves another who gets hold of it.
///
/// ```
/// use tower_session_memory::identity::{Header, Secrets, Signed};
/// use tower_session_memory::{InMemory, OnMissing, Policy, SessionMemoryLayer};
///
/// let secrets = Secrets::new([7; 32])?;
/// let identity = Signed::new(&secrets, Header::conversation("x-conversation-id"));
/// let mut policy = Policy::default();
/// policy.on_missing = OnMissing::Mint { header: "x-conversation-id" };
/// let memory = SessionMemoryLayer::new(InMemory::new(), identity).with_policy(policy)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Signed<I> {
    inner: I,
    /// Newest first, never empty.
    keys: Vec<Hmac<Sha256>>,
}

impl<I: Identify> Signed<I> {
    /// Takes from `inner` only conversation ids with a signature made with one of `secrets`.
    pub fn new(secrets: &Secrets, inner: I) -> Self {
        Self { inner, keys: secrets.derive("conversation id").map(|key| keyed(&key)).collect() }
    }

    /// The form in which clients are to name a conversation.
    ///
    /// # Errors
    /// [`KeyError::TooLong`] when the id leaves no room for a signature.
    pub fn sign(&self, id: &ConversationId) -> Result<ConversationId, KeyError> {
        let mut mac = self.keys[0].clone();
        mac.update(id.as_str().as_bytes());
        ConversationId::parse(&format!(
            "{id}.{mac}",
            id = id.as_str(),
            mac = hex::encode(&mac.finalize().into_bytes()[..16])
        ))
    }

    /// The id, and whether the newest secret signed it.
    fn verify(&self, given: &ConversationId) -> Option<(ConversationId, bool)> {
        let (id, signature) = given.as_str().rsplit_once('.')?;
        let signature: [u8; 16] = hex::decode(signature)?;
        let index = self.keys.iter().position(|key| {
            let mut mac = key.clone();
            mac.update(id.as_bytes());
            mac.verify_truncated_left(&signature).is_ok()
        })?;
        Some((ConversationId::parse(id).ok()?, index == 0))
    }
}

impl<I: Identify> Identify for Signed<I> {
    fn identify(&self, parts: &Parts) -> Result<Identity, IdentityError> {
        let mut identity = self.inner.identify(parts)?;
        if let Some(given) = identity.conversation.take() {
            let not_issued = || IdentityError::new(self.describe(), IdentityFault::NotIssued);
            let (id, newest) = self.verify(&given).ok_or_else(not_issued)?;
            identity.conversation = Some(id);
            identity.renew |= !newest;
        }
        Ok(identity)
    }

    fn describe(&self) -> Cow<'static, str> {
        Cow::Owned(format!("signed {}", self.inner.describe()))
    }

    /// Nobody can guess an id.
    fn is_verified(&self) -> bool {
        true
    }

    fn issue(&self, id: &ConversationId, header: &HeaderName) -> Option<HeaderValue> {
        self.inner.issue(&self.sign(id).ok()?, header)
    }

    fn flaw(&self) -> Option<Cow<'static, str>> {
        self.inner.flaw()
    }
}

impl<I: fmt::Debug> fmt::Debug for Signed<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signed").field("inner", &self.inner).finish_non_exhaustive()
    }
}
