//! Who writes a reply into the session's turn.

use std::sync::Arc;

use super::layer::Settings;
use super::note::{self, Note};
use super::plan::tokens;
use super::protocol::{Protocol, Reply};
use crate::{AppendError, ChatSession, Message};

/// One request's turn from question to reply.
pub(super) struct Recorder {
    session: ChatSession,
    settings: Arc<Settings>,
    protocol: Arc<dyn Protocol>,
    note: Note,
    tokens: usize,
}

impl Recorder {
    pub(super) fn new(session: ChatSession, settings: Arc<Settings>, protocol: Arc<dyn Protocol>, note: Note) -> Self {
        Self { session, settings, protocol, note, tokens: 0 }
    }

    pub(super) fn session(&self) -> &ChatSession {
        &self.session
    }

    pub(super) fn protocol(&self) -> &dyn Protocol {
        &*self.protocol
    }

    /// How large a reply may become.
    pub(super) fn limit(&self) -> usize {
        self.session.policy().limits.turn_bytes
    }

    /// What the client asked, before the model is called: a reply that breaks off has its question.
    pub(super) fn ask(&mut self, asked: Vec<Message>) -> Result<(), AppendError> {
        asked.into_iter().try_for_each(|message| self.append(message))?;
        self.annotate();
        Ok(())
    }

    /// What the model said.
    pub(super) fn answer(&mut self, reply: Reply) -> Result<(), AppendError> {
        let Reply { elements, id, head, .. } = reply;
        for element in elements {
            if self.protocol.tidied(&element).as_ref() != Some(&element) {
                self.note.mark(note::UNTIDY);
            }
            // Put together by ourselves, or read as JSON before: only depth and lone surrogates are left.
            match self.protocol.store(element) {
                Ok(message) => self.append(message)?,
                Err(error) => {
                    tracing::warn!(%error, outcome = "dropped", "a part of the reply cannot be stored");
                    return Err(AppendError::Role);
                }
            }
        }
        self.note.reply = id;
        self.note.head = head;
        self.annotate();
        Ok(())
    }

    fn append(&mut self, message: Message) -> Result<(), AppendError> {
        let element = self.protocol.wire(&message);
        if element.len() != message.len() {
            self.note.mark(note::WRAPPED);
        }
        if memchr::memmem::find(&element, self.protocol.tool_mark()).is_some() {
            self.note.mark(note::TOOLS);
        }
        if self.settings.window.counts_tokens() {
            self.tokens += tokens(&*self.protocol, &self.settings.window, std::slice::from_ref(&message));
        }
        self.session.append(message)
    }

    fn annotate(&mut self) {
        if self.settings.window.counts_tokens() {
            self.note.tokens = Some((self.settings.window.counter.name().to_owned(), self.tokens));
        }
        if self.session.annotate(self.note.to_raw()).is_err() {
            // Too large a head: a retry is answered without it.
            self.note.head = None;
            let _ = self.session.annotate(self.note.to_raw());
        }
    }
}
