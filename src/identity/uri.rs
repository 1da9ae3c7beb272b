//! The conversation from the request's path or query. Nothing is decoded: an id that would need
//! escapes is not an id.

use std::borrow::Cow;

use http::request::Parts;

use super::{Identify, Identity, IdentityError, IdentityFault};
use crate::key::ConversationId;

/// Reads the conversation from a segment of the path.
///
/// The path that the layer sees is matched, byte for byte: inside a nested router that may be the
/// rest of the client's path. A path that does not match names no conversation.
///
/// ```
/// use tower_session_memory::identity::{Identify, Path};
///
/// let path = Path::conversation("/conversations/{id}/messages")?;
/// let (parts, ()) = http::Request::get("/conversations/chat-42/messages").body(())?.into_parts();
/// assert_eq!(path.identify(&parts)?.conversation.expect("it matches").as_str(), "chat-42");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Path {
    template: &'static str,
    segments: Vec<Segment>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Segment {
    Literal(&'static str),
    /// `{id}`
    Id,
    /// `{anything}`
    Any,
    /// `{*anything}`, in last place
    Rest,
}

/// A template without `{id}`, with two of them, or not beginning with `/`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a path template begins with `/`, has one segment `{{id}}`, and `{{*rest}}` only at its end")]
#[non_exhaustive]
pub struct TemplateError;

impl Path {
    /// The segment `{id}` of the template names the conversation. `{anything}` matches one segment,
    /// `{*anything}` at the end matches one or more.
    ///
    /// # Errors
    /// [`TemplateError`].
    pub fn conversation(template: &'static str) -> Result<Self, TemplateError> {
        let segments: Vec<Segment> =
            template.strip_prefix('/').ok_or(TemplateError)?.split('/').map(Segment::of).collect();
        let ids = segments.iter().filter(|segment| **segment == Segment::Id).count();
        let rest = segments.iter().position(|segment| *segment == Segment::Rest);
        if ids != 1 || rest.is_some_and(|at| at + 1 != segments.len()) {
            return Err(TemplateError);
        }
        Ok(Self { template, segments })
    }

    fn find<'a>(&self, path: &'a str) -> Option<&'a str> {
        let mut given = path.strip_prefix('/')?.split('/');
        let mut id = None;
        for segment in &self.segments {
            let text = given.next()?;
            match segment {
                Segment::Literal(expected) if text == *expected => {}
                Segment::Literal(_) => return None,
                Segment::Id => id = Some(text),
                Segment::Any => {}
                Segment::Rest => return id,
            }
        }
        id.filter(|_| given.next().is_none())
    }
}

impl Segment {
    fn of(text: &'static str) -> Self {
        match text.strip_prefix('{').and_then(|text| text.strip_suffix('}')) {
            Some("id") => Self::Id,
            Some(name) if name.starts_with('*') => Self::Rest,
            Some(_) => Self::Any,
            None => Self::Literal(text),
        }
    }
}

impl Identify for Path {
    fn identify(&self, parts: &Parts) -> Result<Identity, IdentityError> {
        match self.find(parts.uri.path()).map(ConversationId::parse).transpose() {
            Ok(Some(id)) => Ok(Identity::none().with_conversation(id)),
            Ok(None) => Ok(Identity::none()),
            Err(error) => Err(IdentityError::new(self.describe(), error.into())),
        }
    }

    fn describe(&self) -> Cow<'static, str> {
        Cow::Owned(format!("path {}", self.template))
    }
}

/// Reads the conversation from a query parameter, which must be there at most once.
///
/// Addresses are kept by browsers, proxies and access logs: the id in it must not be a secret.
#[derive(Debug, Clone)]
pub struct Query {
    name: &'static str,
}

impl Query {
    /// The parameter names the conversation.
    pub fn conversation(name: &'static str) -> Self {
        Self { name }
    }

    fn find<'a>(&self, query: &'a str) -> Result<Option<&'a str>, IdentityFault> {
        let pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        let mut values = pairs.filter(|(name, _)| *name == self.name).map(|(_, value)| value);
        match (values.next(), values.next()) {
            (value, None) => Ok(value),
            (_, Some(_)) => Err(IdentityFault::Repeated),
        }
    }
}

impl Identify for Query {
    fn identify(&self, parts: &Parts) -> Result<Identity, IdentityError> {
        let read = || -> Result<Identity, IdentityFault> {
            Ok(match self.find(parts.uri.query().unwrap_or_default())? {
                Some(value) => Identity::none().with_conversation(ConversationId::parse(value)?),
                None => Identity::none(),
            })
        };
        read().map_err(|fault| IdentityError::new(self.describe(), fault))
    }

    fn describe(&self) -> Cow<'static, str> {
        Cow::Owned(format!("query parameter {}", self.name))
    }
}
