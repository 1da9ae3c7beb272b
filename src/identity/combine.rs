//! Two sources as one.

use std::borrow::Cow;

use http::request::Parts;
use http::{HeaderName, HeaderValue};

use super::{Identify, Identity, IdentityError, IdentityFault};
use crate::key::ConversationId;

/// Whose, from one source, and which conversation, from another.
///
/// The owner must be there: without a tenant or a subject the request is refused with 401, whatever
/// conversation it names. Nest it for tenant, subject and conversation.
#[derive(Debug, Clone)]
pub struct Scoped<O, C> {
    owner: O,
    conversation: C,
}

impl<O: Identify, C: Identify> Scoped<O, C> {
    /// Scopes what `conversation` finds by whom `owner` finds.
    pub fn new(owner: O, conversation: C) -> Self {
        Self { owner, conversation }
    }
}

impl<O: Identify, C: Identify> Identify for Scoped<O, C> {
    fn identify(&self, parts: &Parts) -> Result<Identity, IdentityError> {
        let owner = self.owner.identify(parts)?;
        if owner.tenant.is_none() && owner.subject.is_none() {
            return Err(IdentityError::new(self.owner.describe(), IdentityFault::Unauthenticated));
        }
        let inner = self.conversation.identify(parts)?;
        let disagree = || IdentityError::new(self.describe(), IdentityFault::Disagreement);
        Ok(Identity {
            tenant: either(owner.tenant, inner.tenant).ok_or_else(disagree)?,
            subject: either(owner.subject, inner.subject).ok_or_else(disagree)?,
            conversation: either(owner.conversation, inner.conversation).ok_or_else(disagree)?,
            renew: owner.renew || inner.renew,
        })
    }

    fn describe(&self) -> Cow<'static, str> {
        Cow::Owned(format!("{} scoping {}", self.owner.describe(), self.conversation.describe()))
    }

    /// The key has all parts: one that cannot be claimed or guessed is enough.
    fn is_verified(&self) -> bool {
        self.owner.is_verified() || self.conversation.is_verified()
    }

    fn issue(&self, id: &ConversationId, header: &HeaderName) -> Option<HeaderValue> {
        self.conversation.issue(id, header)
    }

    fn flaw(&self) -> Option<Cow<'static, str>> {
        self.owner.flaw().or_else(|| self.conversation.flaw())
    }
}

/// The one that is there; `None` when both are and differ.
fn either<T: PartialEq>(a: Option<T>, b: Option<T>) -> Option<Option<T>> {
    match (a, b) {
        (Some(a), Some(b)) if a != b => None,
        (a, b) => Some(a.or(b)),
    }
}

/// The first of two sources that finds something.
///
/// Both are always read: when both find something and differ, the request is refused with 400,
/// since one of the two would be forgotten silently.
#[derive(Debug, Clone)]
pub struct Or<A, B> {
    first: A,
    second: B,
}

impl<A: Identify, B: Identify> Or<A, B> {
    /// Reads `first`, and where it finds nothing, `second`.
    pub fn new(first: A, second: B) -> Self {
        Self { first, second }
    }
}

impl<A: Identify, B: Identify> Identify for Or<A, B> {
    fn identify(&self, parts: &Parts) -> Result<Identity, IdentityError> {
        let (first, second) = (self.first.identify(parts)?, self.second.identify(parts)?);
        if first.is_none() {
            return Ok(second);
        }
        let renew = first.renew || second.renew;
        if second.is_none() || (Identity { renew, ..first.clone() }) == (Identity { renew, ..second }) {
            return Ok(Identity { renew, ..first });
        }
        Err(IdentityError::new(self.describe(), IdentityFault::Disagreement))
    }

    fn describe(&self) -> Cow<'static, str> {
        Cow::Owned(format!("{} or {}", self.first.describe(), self.second.describe()))
    }

    fn is_verified(&self) -> bool {
        self.first.is_verified() && self.second.is_verified()
    }

    fn issue(&self, id: &ConversationId, header: &HeaderName) -> Option<HeaderValue> {
        self.first.issue(id, header).or_else(|| self.second.issue(id, header))
    }

    fn flaw(&self) -> Option<Cow<'static, str>> {
        self.first.flaw().or_else(|| self.second.flaw())
    }
}
