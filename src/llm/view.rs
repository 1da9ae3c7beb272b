//! The history as a model is shown it: valid for the protocol, whatever happened to it.

use bytes::Bytes;
use memchr::memmem;

use super::path::{Path, Run};
use super::protocol::{CallId, Protocol, Tools, Voice};
use crate::{ChatHistory, Turn, TurnStatus};

/// What goes in front of the request's own elements, in order.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// Whole turns, as they are stored.
    Turns(Run),
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

/// Shows a path through the history, part by part. `upto` leaves out the messages from there on.
pub(super) fn show(
    pairing: &mut Pairing<'_>,
    history: &ChatHistory,
    path: Path,
    upto: usize,
    mut see: impl FnMut(Part),
) {
    let mut left = upto;
    for mut run in path {
        while left > 0 && !run.turns.is_empty() {
            if run.plain && pairing.open.is_empty() {
                let fitting = run.split_fitting(history, left);
                if fitting.messages > 0 {
                    left -= fitting.messages;
                    see(Part::Turns(fitting));
                    continue;
                }
            }
            if let Some(turn) = run.split_first(history) {
                let turn = &history.turns()[turn];
                elements(pairing, turn, left, &mut see);
                left -= turn.messages().len().min(left);
            }
        }
    }
}

/// The first `upto` messages of a turn, one by one.
fn elements(pairing: &mut Pairing<'_>, turn: &Turn, upto: usize, see: &mut impl FnMut(Part)) {
    let protocol = pairing.protocol;
    let whole = turn.status() == TurnStatus::Complete;
    let messages = turn.messages();
    let mut elements: Vec<Bytes> = messages[..messages.len().min(upto)]
        .iter()
        .filter_map(|message| {
            let element = protocol.wire(message);
            match protocol.voice(&element) {
                // What broke off is shown without what is not whole.
                Voice::Model if whole => protocol.tidied(&element),
                Voice::Model => protocol.mended(&element),
                Voice::Client | Voice::Instructions => Some(element),
            }
        })
        .collect();
    while !whole && elements.pop_if(|last| protocol.leads(last)).is_some() {}
    for element in elements {
        let (before, orphans) = pairing.step(&element, false);
        before.into_iter().for_each(|element| see(Part::Element(element)));
        let element = match orphans.is_empty() {
            true => Some(element),
            false => protocol.without_results(&element, &orphans),
        };
        if let Some(element) = element {
            see(Part::Element(element));
        }
    }
}
