//! `Debug` of what holds texts and ids: it shows kinds and lengths only.

use std::fmt;

use super::{Ask, CallId, Recall, Replay, Replayed, Reply};

impl fmt::Debug for CallId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallId").field("id", &self.id.len()).field("name", &self.name.len()).finish()
    }
}

impl fmt::Debug for Ask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ask").field("follows", &self.follows.is_some()).field("hide", &self.hide).finish()
    }
}

impl fmt::Debug for Recall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fetch { stream, .. } => f.debug_struct("Fetch").field("stream", stream).finish_non_exhaustive(),
            Self::Delete { .. } => f.debug_struct("Delete").finish_non_exhaustive(),
        }
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reply")
            .field("elements", &self.elements.len())
            .field("whole", &self.whole)
            .field("id", &self.id.is_some())
            .field("head", &self.head.is_some())
            .finish()
    }
}

impl fmt::Debug for Replay<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replay")
            .field("elements", &self.elements.len())
            .field("head", &self.head.is_some())
            .field("stream", &self.stream)
            .finish()
    }
}

impl fmt::Debug for Replayed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replayed").field("content_type", &self.content_type).field("bytes", &self.body.len()).finish()
    }
}
