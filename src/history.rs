//! The conversation as it was when the request began.

use std::fmt;
use std::sync::Arc;

use serde::de::DeserializeOwned;

use crate::message::Message;
use crate::turn::{Head, Turn};

/// The newest turns of a session, oldest first, as they were loaded. Immutable, cheap to clone.
#[derive(Clone, Default)]
pub struct ChatHistory {
    head: Head,
    turns: Arc<[Turn]>,
    truncated: bool,
}

impl ChatHistory {
    /// A history of these turns, read at this head. `truncated` says that older turns exist.
    pub fn new(head: Head, turns: Vec<Turn>, truncated: bool) -> Self {
        Self { head, turns: turns.into(), truncated }
    }

    /// The head that the session had when it was read.
    pub fn head(&self) -> Head {
        self.head
    }

    /// The turns, oldest first.
    pub fn turns(&self) -> &[Turn] {
        &self.turns
    }

    /// The newest `count` turns, oldest first.
    pub fn last(&self, count: usize) -> &[Turn] {
        &self.turns[self.turns.len().saturating_sub(count)..]
    }

    /// All messages of all turns, oldest first.
    pub fn messages(&self) -> impl DoubleEndedIterator<Item = &Message> {
        self.turns.iter().flat_map(|turn| turn.messages())
    }

    /// All messages, read into anyone's type.
    ///
    /// # Errors
    /// serde_json's error at the first message that the type does not fit.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<Vec<T>, serde_json::Error> {
        self.messages().map(Message::decode).collect()
    }

    /// Whether no turn was loaded.
    pub fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }

    /// Whether the session has older turns that the window left out.
    pub fn is_truncated(&self) -> bool {
        self.truncated
    }
}

impl fmt::Debug for ChatHistory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChatHistory")
            .field("head", &self.head)
            .field("turns", &self.turns.len())
            .field("truncated", &self.truncated)
            .finish()
    }
}
