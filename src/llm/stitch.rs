//! A request's elements, and the body that is cut open for what goes between them.

use std::ops::Range;

use bytes::Bytes;

use super::body::Spliced;
use super::envelope::Envelope;
use super::problem::Refusal;
use super::protocol::{Protocol, Voice};
use super::view::Part;
use crate::history::ChatHistory;

/// The conversation's elements in a request.
pub(super) struct Incoming {
    /// Where each stands in the body.
    pub(super) spans: Vec<Range<usize>>,
    pub(super) voices: Vec<Voice>,
    /// What a bare string stands for, in place of the list.
    pub(super) lifted: Option<Bytes>,
}

impl Incoming {
    pub(super) fn read(protocol: &dyn Protocol, envelope: &Envelope) -> Result<Self, Refusal> {
        if let Some(spans) = envelope.elements(protocol.list()) {
            let voices = spans.iter().map(|span| protocol.voice(&envelope.body()[span.clone()])).collect();
            return Ok(Self { spans, voices, lifted: None });
        }
        let lifted = envelope.get(protocol.list()).and_then(|raw| protocol.lift(raw)).ok_or(Refusal::NoMessages)?;
        Ok(Self { spans: Vec::new(), voices: vec![protocol.voice(&lifted)], lifted: Some(lifted) })
    }

    pub(super) fn element(&self, envelope: &Envelope, index: usize) -> Bytes {
        match &self.lifted {
            Some(lifted) => lifted.clone(),
            None => envelope.body().slice(self.spans[index].clone()),
        }
    }

    /// How many instructions lead.
    pub(super) fn lead(&self) -> usize {
        self.voices.iter().take_while(|voice| **voice == Voice::Instructions).count()
    }
}

/// Puts the parts in after the leading instructions, by cutting the body there: nothing of it is
/// written anew.
pub(super) fn stitch(
    protocol: &dyn Protocol,
    history: &ChatHistory,
    envelope: &Envelope,
    incoming: &Incoming,
    parts: Vec<Part>,
    inserts: Vec<(usize, Vec<Bytes>)>,
    hide: &[&'static str],
) -> Spliced {
    const COMMA: Bytes = Bytes::from_static(b",");
    let list = envelope.span(protocol.list()).expect("the list was read from there");
    let lead = incoming.lead();
    // What is put where, as (a range of the body, what stands there instead).
    let mut edits: Vec<(Range<usize>, Vec<Edit>)> = Vec::new();
    let mut joined: Vec<Edit> = Vec::new();
    for part in parts {
        if !joined.is_empty() {
            joined.push(Edit::Bytes(COMMA));
        }
        joined.push(match part {
            Part::Turns(turns) => Edit::Turns(turns),
            Part::Element(element) => Edit::Bytes(element),
        });
    }
    if let Some(lifted) = &incoming.lifted {
        for element in inserts.into_iter().flat_map(|(_, elements)| elements).chain([lifted.clone()]) {
            if !joined.is_empty() {
                joined.push(Edit::Bytes(COMMA));
            }
            joined.push(Edit::Bytes(element));
        }
        joined.insert(0, Edit::Bytes(Bytes::from_static(b"[")));
        joined.push(Edit::Bytes(Bytes::from_static(b"]")));
        edits.push((list, joined));
    } else {
        if !joined.is_empty() {
            let at = match (incoming.spans.get(lead), lead.checked_sub(1)) {
                (Some(next), _) => {
                    joined.push(Edit::Bytes(COMMA));
                    next.start
                }
                (None, Some(last)) => {
                    joined.insert(0, Edit::Bytes(COMMA));
                    incoming.spans[last].end
                }
                (None, None) => list.start + 1,
            };
            edits.push((at..at, joined));
        }
        for (index, elements) in inserts {
            let at = incoming.spans[index].start;
            let insert = elements.into_iter().flat_map(|element| [Edit::Bytes(element), Edit::Bytes(COMMA)]);
            edits.push((at..at, insert.collect()));
        }
    }
    for field in hide {
        if let Some(span) = envelope.get(field).and_then(|_| envelope.span(field)) {
            edits.push((span, vec![Edit::Bytes(Bytes::from_static(b"null"))]));
        }
    }
    // Stable: what goes to one place goes in the order it was put down.
    edits.sort_by_key(|(span, _)| span.start);

    let mut made = Spliced::default();
    let mut copied = 0;
    for (span, edit) in edits {
        made.push(envelope.body().slice(copied..span.start));
        for edit in edit {
            match edit {
                Edit::Bytes(bytes) => made.push(bytes),
                Edit::Turns(turns) => made.push_turns(history, turns),
            }
        }
        copied = span.end;
    }
    made.push(envelope.body().slice(copied..));
    made
}

enum Edit {
    Bytes(Bytes),
    Turns(Range<usize>),
}
