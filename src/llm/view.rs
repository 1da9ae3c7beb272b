//! The history as a model is shown it: valid for the protocol, whatever happened to it.

use std::ops::Range;

use bytes::Bytes;
use memchr::memmem;

use super::note::Note;
use super::protocol::{CallId, Protocol, Tools, Voice};
use crate::history::ChatHistory;
use crate::turn::TurnStatus;

/// What goes in front of the request's own elements, in order.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// Whole turns, as they are stored.
    Turns(Range<usize>),
    /// One element.
    Element(Bytes),
}

/// Walks through elements in order and keeps the pairing rules.
///
/// Every call must be answered at once, and every result must answer a call. A result without its
/// call is left out; a call without its result gets one that says so. What is stored stays as it is.
pub(super) struct Pairing<'a> {
    protocol: &'a dyn Protocol,
    /// Calls that no result was seen for yet.
    open: Vec<CallId>,
}

impl<'a> Pairing<'a> {
    pub(super) fn new(protocol: &'a dyn Protocol) -> Self {
        Self { protocol, open: Vec::new() }
    }

    /// What must come before this element, and the results in it that answer nothing.
    /// The request's `last` is followed by no other results.
    pub(super) fn step(&mut self, element: &Bytes, last: bool) -> (Vec<Bytes>, Vec<CallId>) {
        if self.open.is_empty() && memmem::find(element, self.protocol.tool_mark()).is_none() {
            return (Vec::new(), Vec::new());
        }
        let Tools { calls, results } = self.protocol.tools(element);
        let mut orphans = Vec::new();
        let any_result = !results.is_empty();
        let shared = self.protocol.results_share_an_element();
        // Results alone may have more of them behind, in an element of their own: one that was made
        // up, and that a client sends along with its own copy.
        let only_results = any_result && (!shared || self.protocol.without_results(element, &results).is_none());
        for result in results {
            match self.open.iter().position(|call| result.answers(call)) {
                Some(index) => drop(self.open.remove(index)),
                None => orphans.push(result),
            }
        }
        let one_after_the_other = only_results && !(shared && last);
        // Several calls in elements of their own (items) stand together before their results.
        let more_calls = !calls.is_empty() && !any_result && self.protocol.calls_stand_apart();
        let missing = if one_after_the_other || more_calls || (!any_result && self.stays_open(element)) {
            Vec::new()
        } else {
            std::mem::take(&mut self.open)
        };
        self.open.extend(calls);
        (if missing.is_empty() { Vec::new() } else { self.protocol.no_result(&missing) }, orphans)
    }

    fn stays_open(&self, element: &[u8]) -> bool {
        self.protocol.calls_stand_apart() && self.protocol.voice(element) == Voice::Model
    }
}

/// These turns of the history, as parts. `upto` leaves out the messages from there on.
pub(super) fn parts(
    pairing: &mut Pairing<'_>,
    history: &ChatHistory,
    path: impl IntoIterator<Item = usize>,
    upto: usize,
) -> Vec<Part> {
    let protocol = pairing.protocol;
    let mut parts = Vec::new();
    let mut left = upto;
    for index in path {
        let turn = &history.turns()[index];
        let messages = turn.messages();
        let whole = turn.status() == TurnStatus::Complete;
        if whole && pairing.open.is_empty() && messages.len() <= left && Note::marks(turn).plain {
            match parts.last_mut() {
                Some(Part::Turns(run)) if run.end == index => run.end += 1,
                _ => parts.push(Part::Turns(index..index + 1)),
            }
            left -= messages.len();
            continue;
        }
        let mut elements: Vec<Bytes> = messages[..messages.len().min(left)]
            .iter()
            .filter_map(|message| {
                let element = protocol.wire(message);
                match protocol.voice(&element) {
                    // What broke off is shown without what is not whole.
                    Voice::Model => {
                        if whole {
                            protocol.tidied(&element)
                        } else {
                            protocol.mended(&element)
                        }
                    }
                    Voice::Client | Voice::Instructions => Some(element),
                }
            })
            .collect();
        while !whole && elements.pop_if(|last| protocol.leads(last)).is_some() {}
        for element in elements {
            let (before, orphans) = pairing.step(&element, false);
            parts.extend(before.into_iter().map(Part::Element));
            let element = match orphans.is_empty() {
                true => Some(element),
                false => protocol.without_results(&element, &orphans),
            };
            parts.extend(element.map(Part::Element));
        }
        left -= messages.len().min(left);
    }
    parts
}
