//! A request's elements, and the body that is cut open for what goes between them.

use std::cmp::Reverse;
use std::ops::Range;

use bytes::Bytes;

use super::body::{COMMA, Spliced};
use super::envelope::Envelope;
use super::problem::Refusal;
use super::protocol::{Protocol, Voice};
use super::scan::Element;
use super::view::Part;
use crate::ChatHistory;

/// The conversation's elements in a request.
pub(super) struct Incoming {
    /// What they stand in: the body, or what a bare string in place of the list stands for.
    text: Bytes,
    is_lifted: bool,
    /// All but instructions: what is stored and compared.
    pub(super) spoken: Vec<(Range<usize>, Voice)>,
    /// Where the last of the instructions ends.
    instructions_end: Option<usize>,
}

impl Incoming {
    pub(super) fn read(protocol: &dyn Protocol, envelope: &Envelope) -> Result<Self, Refusal> {
        let Some(elements) = envelope.listed() else {
            let text = envelope.get(protocol.list()).and_then(|raw| protocol.lift(raw)).ok_or(Refusal::NoMessages)?;
            let voice = protocol.voice(&text);
            let spoken = if voice == Voice::Instructions { Vec::new() } else { vec![(0..text.len(), voice)] };
            return Ok(Self { text, is_lifted: true, spoken, instructions_end: None });
        };
        let text = envelope.body().clone();
        let mut spoken = Vec::with_capacity(elements.len());
        let mut instructions_end = None;
        for Element { span, role } in elements {
            let told = role.clone().and_then(|role| protocol.voice_of_role(&text[role]));
            match told.unwrap_or_else(|| protocol.voice(&text[span.clone()])) {
                Voice::Instructions => instructions_end = Some(span.end),
                voice => spoken.push((span.clone(), voice)),
            }
        }
        Ok(Self { text, is_lifted: false, spoken, instructions_end })
    }

    pub(super) fn element(&self, index: usize) -> Bytes {
        self.text.slice(self.spoken[index].0.clone())
    }

    pub(super) fn texts(&self) -> impl Iterator<Item = &[u8]> {
        self.spoken.iter().map(|(span, _)| &self.text[span.clone()])
    }
}

/// The body that the upstream gets, in the making: the request's own, cut open for what goes between
/// its elements. Nothing of it is written anew.
pub(super) struct Stitch<'a> {
    history: &'a ChatHistory,
    body: &'a Bytes,
    incoming: &'a Incoming,
    /// Where the list stands.
    list: Range<usize>,
    /// Fields that are set to `null`, the last one first.
    hidden: Vec<Range<usize>>,
    made: Spliced,
    /// How much of the body is behind.
    done: usize,
    /// Whether anything was put between.
    opened: bool,
}

impl<'a> Stitch<'a> {
    pub(super) fn new(
        protocol: &dyn Protocol,
        history: &'a ChatHistory,
        envelope: &'a Envelope,
        incoming: &'a Incoming,
        hide: &[&'static str],
    ) -> Self {
        let list = envelope.span(protocol.list()).expect("the list was read from there");
        let hidden = hide.iter().filter_map(|field| envelope.get(field).and_then(|_| envelope.span(field)));
        let mut hidden: Vec<_> = hidden.collect();
        hidden.sort_unstable_by_key(|span| Reverse(span.start));
        let body = envelope.body();
        // The body's two halves, what goes between them, and a comma.
        let made = Spliced::with_capacity(4);
        Self { history, body, incoming, list, hidden, made, done: 0, opened: false }
    }

    /// Puts a part of the history in, after the leading instructions.
    pub(super) fn history(&mut self, part: Part) {
        let Incoming { spoken, instructions_end, is_lifted, .. } = self.incoming;
        let next = spoken.first().map(|(span, _)| span.start);
        let is_first = !self.opened;
        self.open(next.or(*instructions_end).unwrap_or(self.list.start + 1));
        let is_last = !is_lifted && next.is_none();
        if is_last && !(is_first && instructions_end.is_none()) {
            self.made.push(COMMA.clone());
        }
        match part {
            Part::Turns(run) => self.made.push_turns(self.history, run),
            Part::Element(element) => self.made.push(element),
        }
        if !is_last {
            self.made.push(COMMA.clone());
        }
    }

    /// Puts an element in before the request's own element of this number.
    pub(super) fn insert(&mut self, index: usize, element: Bytes) {
        self.open(self.incoming.spoken[index].0.start);
        self.made.push(element);
        self.made.push(COMMA.clone());
    }

    /// The body; `None` for the request's own.
    pub(super) fn finish(mut self) -> Option<Spliced> {
        if !self.opened && self.hidden.is_empty() {
            return None;
        }
        if self.incoming.is_lifted {
            self.open(0);
            self.made.push(self.incoming.text.clone());
            self.made.push(Bytes::from_static(b"]"));
        }
        self.copy_to(self.body.len());
        Some(self.made)
    }

    /// Cuts the body open there; where a bare string takes the list's place, a list takes its place.
    fn open(&mut self, at: usize) {
        let is_first = !std::mem::replace(&mut self.opened, true);
        if !self.incoming.is_lifted {
            self.copy_to(at);
        } else if is_first {
            self.copy_to(self.list.start);
            self.made.push(Bytes::from_static(b"["));
            self.done = self.list.end;
        }
    }

    fn copy_to(&mut self, at: usize) {
        while let Some(span) = self.hidden.pop_if(|span| span.start < at) {
            self.made.push(self.body.slice(self.done..span.start));
            self.made.push(Bytes::from_static(b"null"));
            self.done = span.end;
        }
        self.made.push(self.body.slice(self.done..at));
        self.done = at;
    }
}
