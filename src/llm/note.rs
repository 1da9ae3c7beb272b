//! What the layer keeps beside a turn's messages, in the turn's note.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::scan;
use crate::{ChatHistory, Turn};

/// Written as JSON with `llm` first, so that the common case is told by the first bytes alone.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Note {
    /// What is uncommon about the turn, a letter each; see [`Marks`].
    pub(super) llm: String,
    /// The turn it follows, by sequence number; 0 for none. Absent: the turn before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) parent: Option<u64>,
    /// The oldest turn that a model was still shown (the fixed prefix aside).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) cut: Option<u64>,
    /// The turn's tokens, and whose count that is. [`Note::tokens`] knows what stands in front.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) tokens: Option<(String, usize)>,
    /// How many of the messages are the client's; the rest is the model's.
    pub(super) asked: usize,
    /// A hash of the request, where a retry may come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) request: Option<String>,
    /// The reply's id, where requests may name it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) reply: Option<String>,
    /// What a replay needs besides the messages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) head: Option<Box<RawValue>>,
}

/// What a note says at first sight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Marks {
    /// All messages go to the model as they are stored, and none has to do with tools.
    pub(super) plain: bool,
    /// It follows another turn than the one before it.
    pub(super) branch: bool,
}

/// Tool traffic.
pub(super) const TOOLS: char = 't';
/// A message that is wrapped.
pub(super) const WRAPPED: char = 'w';
/// A reply that no model takes back as it is: it says nothing, or a limit cut a call in it.
pub(super) const UNTIDY: char = 'e';
/// A parent of its own choice.
pub(super) const BRANCH: char = 'b';

impl Note {
    pub(super) fn of(turn: &Turn) -> Option<Self> {
        serde_json::from_str(turn.note()?).ok()
    }

    pub(super) fn to_raw(&self) -> Option<Box<RawValue>> {
        serde_json::value::to_raw_value(self).ok()
    }

    pub(super) fn mark(&mut self, mark: char) {
        if !self.llm.contains(mark) {
            self.llm.push(mark);
        }
    }

    /// The turn's tokens, if this counter counted them. Of the note, only what stands before them is
    /// looked at.
    pub(super) fn tokens(turn: &Turn, counter: &str) -> Option<usize> {
        let note = turn.note()?.as_bytes();
        let (mut more, mut at) = (true, scan::byte(note, 0, b'{')?);
        while more {
            let field = scan::name(note, at)?;
            let end = scan::value(note, field.value)?;
            match &note[field.span] {
                b"tokens" => {
                    let (name, tokens): (String, usize) = serde_json::from_slice(&note[field.value..end]).ok()?;
                    return (name == counter).then_some(tokens);
                }
                b"llm" | b"parent" | b"cut" => {}
                _ => return None,
            }
            (more, at) = scan::next(note, end, b'}')?;
        }
        None
    }

    #[inline]
    pub(super) fn marks(turn: &Turn) -> Marks {
        match turn.note() {
            Some(note) if note.as_bytes().starts_with(br#"{"llm":"""#) => Marks { plain: true, branch: false },
            note => Self::uncommon(note),
        }
    }

    fn uncommon(note: Option<&str>) -> Marks {
        match note.and_then(|note| note.strip_prefix(r#"{"llm":""#)) {
            Some(rest) => {
                let marks = rest.split('"').next().unwrap_or_default();
                Marks { plain: !marks.contains([TOOLS, WRAPPED, UNTIDY]), branch: marks.contains(BRANCH) }
            }
            // Stored by something else: nothing is known.
            None => Marks { plain: false, branch: false },
        }
    }
}

/// The sequence number of the turn at this place of the history.
pub(super) fn sequence(history: &ChatHistory, index: usize) -> u64 {
    history.head().sequence.saturating_sub(history.turns().len() as u64) + index as u64 + 1
}

/// The place of the turn with this sequence number, if it was loaded.
pub(super) fn place(history: &ChatHistory, number: u64) -> Option<usize> {
    let index = number.checked_sub(sequence(history, 0))?;
    usize::try_from(index).ok().filter(|index| *index < history.turns().len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{TurnId, TurnStatus};

    #[test]
    fn tokens_are_found_behind_all_that_may_stand_in_front() {
        let turn = |note: &Note| {
            let turn = Turn::new(TurnId::random(), TurnStatus::Complete, Vec::new());
            turn.with_note(note.to_raw().as_deref())
        };
        let mut note = Note { tokens: Some(("\"x\"".into(), 7)), ..Note::default() };
        note.head = RawValue::from_string(r#"{"tokens":["\"x\"",9]}"#.into()).ok();
        assert_eq!(Note::tokens(&turn(&note), "\"x\""), Some(7));
        (note.llm, note.parent, note.cut) = ("bt".into(), Some(1), Some(2));
        assert_eq!(Note::tokens(&turn(&note), "\"x\""), Some(7));
        assert_eq!(Note::tokens(&turn(&note), "y"), None);
        note.tokens = None;
        assert_eq!(Note::tokens(&turn(&note), "\"x\""), None);
    }
}
