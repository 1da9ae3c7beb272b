//! From a request's JSON to the body that the upstream gets and the messages that are stored.

use std::ops::Range;

use bytes::Bytes;

use super::body::{RequestBody, Spliced};
use super::envelope::{Envelope, Malformed};
use super::note::{self, Note};
use super::path::Path;
use super::problem::Refusal;
use super::protocol::{Protocol, Voice};
use super::relation::{Relation, relate};
use super::stitch::{Incoming, Stitch};
use super::view::{self, Pairing};
use super::window::{ModelWindow, Size};
use crate::{ChatHistory, Message, Turn};

/// What is to be done with a request.
pub(super) struct Plan {
    /// What the upstream gets; `None` for the body as it came.
    pub(super) body: Option<Spliced>,
    /// What the client sent, of which the first `known` elements are stored already.
    incoming: Incoming,
    known: usize,
    /// What is known of the turn's note so far.
    pub(super) note: Note,
}

impl Plan {
    /// What the client sent that is new, to be stored.
    pub(super) fn asked(&mut self, protocol: &dyn Protocol) -> Result<Vec<Message>, Refusal> {
        let new = self.known.min(self.incoming.spoken.len())..self.incoming.spoken.len();
        self.note.asked = new.len();
        new.map(|index| protocol.store(self.incoming.element(index)).map_err(|_| Refusal::BadMessage)).collect()
    }
}

/// A request's body with the history in it, for services that call a model themselves: what
/// [`LlmMemory`](super::LlmMemory) would send. The history is not copied, and whether the elements
/// can be stored is not looked at.
///
/// # Errors
/// [`Malformed`] for a body that is not one JSON object with a list of messages.
pub fn splice<B>(
    protocol: &dyn Protocol,
    window: &ModelWindow,
    history: &ChatHistory,
    body: Bytes,
) -> Result<RequestBody<B>, Malformed> {
    let envelope = Envelope::read_listing(body, protocol.list())?;
    let plan = plan(protocol, window, history, &envelope).map_err(|_| Malformed)?;
    let spliced = plan.body.unwrap_or_else(|| Spliced::of(envelope.body().clone()));
    Ok(RequestBody::made(spliced))
}

/// Makes the plan. Nothing is stored and nothing sent yet.
pub(super) fn plan(
    protocol: &dyn Protocol,
    window: &ModelWindow,
    history: &ChatHistory,
    envelope: &Envelope,
) -> Result<Plan, Refusal> {
    let ask = protocol.ask(envelope).map_err(Refusal::Contradiction)?;
    let incoming = Incoming::read(protocol, envelope)?;
    let mut note = Note::default();

    let newest = history.turns().len().checked_sub(1);
    let tip = match &ask.follows {
        None => newest,
        Some(id) => Some(find_reply(history, id).ok_or(Refusal::UnknownReply)?),
    };
    if tip != newest
        && let Some(tip) = tip
    {
        note.parent = Some(note::sequence(history, tip));
    }
    let path = Path::to(history, tip);
    let relation = match ask.follows {
        Some(_) => Relation::New,
        None => relate(protocol, history, &path, &incoming),
    };
    let (before, known) = match relation {
        Relation::New => (usize::MAX, 0),
        Relation::Resent { before, known } => (before, known),
        Relation::Own { turns, known } => {
            let last = turns.checked_sub(1).and_then(|last| path.turns().nth(last));
            note.parent = Some(last.map_or(0, |last| note::sequence(history, last)));
            (0, known)
        }
    };
    if note.parent.is_some() {
        note.mark(note::BRANCH);
    }
    let mut stitch = Stitch::new(protocol, history, envelope, &incoming, &ask.hide);
    if !matches!(relation, Relation::Own { .. }) {
        let (path, before) = shown(protocol, window, history, path, before, &mut note);
        let mut pairing = Pairing::new(protocol);
        view::show(&mut pairing, history, path, before, |part| stitch.history(part));
        for index in 0..incoming.spoken.len() {
            let is_last = index + 1 == incoming.spoken.len();
            let (missing, _) = pairing.step(&incoming.element(index), is_last);
            missing.into_iter().for_each(|element| stitch.insert(index, element));
        }
    }
    let body = stitch.finish();
    Ok(Plan { body, incoming, known, note })
}

/// The turn whose reply has this id.
pub(super) fn find_reply(history: &ChatHistory, id: &str) -> Option<usize> {
    let named = |turn: &Turn| Note::of(turn).is_some_and(|note| note.reply.as_deref() == Some(id));
    history.turns().iter().rposition(named)
}

/// The turns of the path that the window shows, and how many of the path's first `before` messages
/// stand in them.
fn shown(
    protocol: &dyn Protocol,
    window: &ModelWindow,
    history: &ChatHistory,
    path: Path,
    before: usize,
    note: &mut Note,
) -> (Path, usize) {
    if window.is_open() || path.is_empty() {
        return (path, before);
    }
    let turns: Vec<usize> = path.turns().collect();
    let sizes: Vec<Size> = turns.iter().map(|turn| size(protocol, window, &history.turns()[*turn])).collect();
    let prefix = turns.iter().take_while(|turn| note::sequence(history, **turn) <= window.prefix_turns as u64).count();
    let stored = turns.last().and_then(|turn| Note::of(&history.turns()[*turn])?.cut);
    let current =
        stored.and_then(|cut| turns.iter().position(|turn| note::sequence(history, *turn) >= cut)).unwrap_or(0);
    let may_start = |turn: usize| {
        let first = history.turns()[turns[turn]].messages().first().map(|message| protocol.wire(message));
        first.is_some_and(|first| protocol.voice(&first) == Voice::Client && protocol.tools(&first).results.is_empty())
    };
    let cut = window.cut(&sizes, prefix, current, may_start);
    if cut > prefix || stored.is_some() {
        note.cut = turns.get(cut).map(|turn| note::sequence(history, *turn));
    }
    let left_out = prefix.min(cut)..cut;
    if left_out.is_empty() {
        return (path, before);
    }
    let messages = |turns: Range<usize>| sizes[turns].iter().map(|size| size.messages).sum::<usize>();
    let (first, gone) = (messages(0..left_out.start), messages(left_out.clone()));
    (path.without(history, &left_out), before.min(first) + before.saturating_sub(first + gone))
}

pub(super) fn size(protocol: &dyn Protocol, window: &ModelWindow, turn: &Turn) -> Size {
    let tokens = if window.counts_tokens() {
        let noted = Note::tokens(turn, window.counter.name());
        noted.unwrap_or_else(|| tokens(protocol, window, turn.messages()))
    } else {
        0
    };
    Size { messages: turn.messages().len(), bytes: turn.bytes(), tokens }
}

pub(super) fn tokens(protocol: &dyn Protocol, window: &ModelWindow, messages: &[Message]) -> usize {
    let count = |message| window.counter.count(std::str::from_utf8(&protocol.wire(message)).unwrap_or_default());
    messages.iter().map(count).sum()
}
