//! One header as conversation, subject or tenant.

use std::borrow::Cow;

use http::HeaderName;
use http::header::HeaderMap;
use http::request::Parts;

use super::{Identify, Identity, IdentityError, IdentityFault};
use crate::key::{ConversationId, Subject, Tenant};

/// Reads one request header.
///
/// It must be there at most once, in visible ASCII. As a conversation id it must also keep to
/// `[A-Za-z0-9._~-]{1,128}`: commas, colons, slashes, braces and percent signs are refused, nothing is
/// decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    name: HeaderName,
    part: Part,
    trusted: bool,
}

/// Headers that name a request, a trace or a moment, never a conversation.
const PER_REQUEST: [&str; 23] = [
    "b3",
    "cf-ray",
    "date",
    "idempotency-key",
    "request-id",
    "sentry-trace",
    "traceparent",
    "tracestate",
    "uber-trace-id",
    "x-amz-cf-id",
    "x-amz-request-id",
    "x-amzn-requestid",
    "x-amzn-trace-id",
    "x-b3-spanid",
    "x-b3-traceid",
    "x-cloud-trace-context",
    "x-correlation-id",
    "x-datadog-parent-id",
    "x-datadog-trace-id",
    "x-ms-request-id",
    "x-request-id",
    "x-request-start",
    "x-trace-id",
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Tenant,
    Subject,
    Conversation,
}

impl Header {
    /// The header names the conversation.
    ///
    /// # Panics
    /// When `name` is not a header name in lower case, as `HeaderName::from_static` does.
    pub fn conversation(name: &'static str) -> Self {
        Self::new(name, Part::Conversation)
    }

    /// The header names the subject. Only a proxy in front can make that true: it must set the
    /// header itself and drop what clients send under that name. Say so with
    /// [`Header::trusted_proxy`].
    ///
    /// # Panics
    /// When `name` is not a header name in lower case, as `HeaderName::from_static` does.
    pub fn subject(name: &'static str) -> Self {
        Self::new(name, Part::Subject)
    }

    /// The header names the tenant; see [`Header::subject`].
    ///
    /// # Panics
    /// When `name` is not a header name in lower case, as `HeaderName::from_static` does.
    pub fn tenant(name: &'static str) -> Self {
        Self::new(name, Part::Tenant)
    }

    fn new(name: &'static str, part: Part) -> Self {
        Self { name: HeaderName::from_static(name), part, trusted: false }
    }

    /// States that a proxy in front sets this header and drops it from what clients send.
    #[must_use]
    pub fn trusted_proxy(mut self) -> Self {
        self.trusted = true;
        self
    }
}

/// The one value of a header, if it is there.
pub(super) fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, IdentityFault> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => value.to_str().map(Some).map_err(|_| IdentityFault::Encoding),
        (Some(_), Some(_)) => Err(IdentityFault::Repeated),
    }
}

impl Identify for Header {
    fn identify(&self, parts: &Parts) -> Result<Identity, IdentityError> {
        let read = || -> Result<Identity, IdentityFault> {
            let none = Identity::none();
            let Some(value) = single(&parts.headers, &self.name)? else { return Ok(none) };
            Ok(match self.part {
                Part::Tenant => none.with_tenant(Tenant::new(value)?),
                Part::Subject => none.with_subject(Subject::new(value)?),
                Part::Conversation => none.with_conversation(ConversationId::parse(value)?),
            })
        };
        read().map_err(|fault| IdentityError::new(self.describe(), fault))
    }

    fn describe(&self) -> Cow<'static, str> {
        Cow::Owned(format!("header {}", self.name))
    }

    fn is_verified(&self) -> bool {
        self.trusted && self.part != Part::Conversation
    }

    fn flaw(&self) -> Option<Cow<'static, str>> {
        let per_request = PER_REQUEST.contains(&self.name.as_str());
        per_request
            .then(|| "this header is new with every request by its nature: no session is ever found again".into())
    }
}
