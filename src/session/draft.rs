//! A reply that comes token by token, and is kept even if it breaks off.

use std::fmt;

use super::ChatSession;
use crate::error::AppendError;
use crate::message::Message;

/// An assistant's reply in the making.
///
/// Push tokens as they are sent to the client and [`finish`](Draft::finish) at the end. Dropped
/// before that, it appends what it has and the turn is an interrupted one: whether the client left, and
/// policy decides if the turn is kept, or the producer failed and the response still came to its end.
///
/// ```
/// use tower_session_memory::{AppendError, ChatSession, Message};
///
/// fn stream(session: ChatSession) -> impl Iterator<Item = Result<&'static str, AppendError>> {
///     let mut draft = session.draft();
///     ["Hello", ", ", "world"].into_iter().map(move |token| draft.push(token).map(|()| token))
/// }
/// ```
pub struct Draft {
    session: ChatSession,
    text: String,
    finished: bool,
}

impl Draft {
    pub(super) fn new(session: ChatSession) -> Self {
        Self { session, text: String::new(), finished: false }
    }

    /// Adds to the text.
    ///
    /// # Errors
    /// [`AppendError::MessageTooLarge`] once the text alone is larger than a message may be. The turn
    /// can then only be discarded.
    pub fn push(&mut self, token: &str) -> Result<(), AppendError> {
        let limit = self.session.shared().backend.policy.limits.message_bytes;
        let bytes = self.text.len() + token.len();
        if bytes > limit {
            return Err(self.session.refuse(AppendError::MessageTooLarge { bytes, limit }));
        }
        self.text.push_str(token);
        Ok(())
    }

    /// The text so far.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Appends the whole text as one assistant's message.
    ///
    /// # Errors
    /// As [`ChatSession::append`].
    pub fn finish(mut self) -> Result<(), AppendError> {
        self.finished = true;
        self.session.append(Message::assistant(&self.text))
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.finished && !self.text.is_empty() {
            self.session.append_broken_off(Message::assistant(&self.text));
        }
    }
}

impl fmt::Debug for Draft {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Draft").field("bytes", &self.text.len()).finish_non_exhaustive()
    }
}
