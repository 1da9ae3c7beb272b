//! From a request's JSON to the body that the upstream gets and the messages that are stored.

use bytes::Bytes;

use super::body::{RequestBody, Spliced};
use super::envelope::{Envelope, Malformed};
use super::note::{self, Note};
use super::problem::Refusal;
use super::protocol::{Protocol, Voice};
use super::relation::{Relation, path, relate};
use super::stitch::{Incoming, stitch};
use super::view::{Pairing, parts};
use super::window::{ModelWindow, Size};
use crate::history::ChatHistory;
use crate::message::Message;
use crate::turn::Turn;

/// What is to be done with a request.
#[derive(Debug)]
pub(super) struct Plan {
    /// What the upstream gets; `None` for the body as it came.
    pub(super) body: Option<Spliced>,
    /// What the client sent that is new.
    pub(super) asked: Vec<Message>,
    /// What is known of the turn's note so far.
    pub(super) note: Note,
}

/// A request's body with the history in it, for services that call a model themselves: what
/// [`LlmMemory`](super::LlmMemory) would send. The history is not copied.
///
/// # Errors
/// [`Malformed`] for a body that is not one JSON object with a list of messages.
pub fn splice<B>(
    protocol: &dyn Protocol,
    window: &ModelWindow,
    history: &ChatHistory,
    body: Bytes,
) -> Result<RequestBody<B>, Malformed> {
    let envelope = Envelope::read(body)?;
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
    let path = path(history, tip);

    // What is stored and compared: everything but instructions.
    let spoken: Vec<usize> =
        (0..incoming.voices.len()).filter(|index| incoming.voices[*index] != Voice::Instructions).collect();
    let relation = if ask.follows.is_some() {
        Relation::New
    } else {
        let owned: Vec<Bytes> = spoken.iter().map(|index| incoming.element(envelope, *index)).collect();
        let elements: Vec<(&[u8], Voice)> =
            owned.iter().zip(&spoken).map(|(element, index)| (&**element, incoming.voices[*index])).collect();
        relate(protocol, history, &path, &elements)
    };
    let (before, known) = match relation {
        Relation::New => (usize::MAX, 0),
        Relation::Resent { before, known } => (before, known),
        Relation::Own { turns, known } => {
            note.parent = Some(turns.checked_sub(1).map_or(0, |last| note::sequence(history, path[last])));
            (0, known)
        }
    };
    if note.parent.is_some() {
        note.mark(note::BRANCH);
    }

    let shown = match relation {
        Relation::Own { .. } => Vec::new(),
        Relation::New | Relation::Resent { .. } => shown(protocol, window, history, &path, &mut note),
    };
    let before = messages_shown(history, &path, &shown, before);
    let mut pairing = Pairing::new(protocol);
    let parts = parts(&mut pairing, history, shown, before);
    let inserts = if matches!(relation, Relation::Own { .. }) {
        Vec::new()
    } else {
        let elements = spoken.iter().map(|index| (*index, incoming.element(envelope, *index)));
        elements
            .map(|(index, element)| (index, pairing.step(&element, spoken.last() == Some(&index)).0))
            .filter(|(_, insert)| !insert.is_empty())
            .collect()
    };

    let asked = spoken[known.min(spoken.len())..]
        .iter()
        .map(|index| protocol.store(incoming.element(envelope, *index)).map_err(|_| Refusal::BadMessage))
        .collect::<Result<Vec<_>, _>>()?;
    note.asked = asked.len();
    let untouched =
        parts.is_empty() && inserts.is_empty() && ask.hide.iter().all(|field| envelope.get(field).is_none());
    let body = (!untouched).then(|| stitch(protocol, history, envelope, &incoming, parts, inserts, &ask.hide));
    Ok(Plan { body, asked, note })
}

/// How many of the first `before` messages of the path stand in turns that are shown.
fn messages_shown(history: &ChatHistory, path: &[usize], shown: &[usize], before: usize) -> usize {
    if path.len() == shown.len() {
        return before;
    }
    let (mut start, mut count, mut shown) = (0usize, 0, shown.iter().peekable());
    for turn in path {
        let len = history.turns()[*turn].messages().len();
        if shown.next_if_eq(&turn).is_some() {
            count += len.min(before.saturating_sub(start));
        }
        start += len;
    }
    count
}

/// The turn whose reply has this id.
fn find_reply(history: &ChatHistory, id: &str) -> Option<usize> {
    let named = |turn: &Turn| Note::of(turn).is_some_and(|note| note.reply.as_deref() == Some(id));
    history.turns().iter().rposition(named)
}

/// The turns of the path that the window shows.
fn shown(
    protocol: &dyn Protocol,
    window: &ModelWindow,
    history: &ChatHistory,
    path: &[usize],
    note: &mut Note,
) -> Vec<usize> {
    if window.is_open() || path.is_empty() {
        return path.to_vec();
    }
    let sizes: Vec<Size> = path.iter().map(|turn| size(protocol, window, &history.turns()[*turn])).collect();
    let prefix = path.iter().take_while(|turn| note::sequence(history, **turn) <= window.prefix_turns as u64).count();
    let stored = path.last().and_then(|turn| Note::of(&history.turns()[*turn])?.cut);
    let current =
        stored.and_then(|cut| path.iter().position(|turn| note::sequence(history, *turn) >= cut)).unwrap_or(0);
    let may_start = |turn: usize| {
        let first = history.turns()[path[turn]].messages().first().map(|message| protocol.wire(message));
        first.is_some_and(|first| protocol.voice(&first) == Voice::Client && protocol.tools(&first).results.is_empty())
    };
    let cut = window.cut(&sizes, prefix, current, may_start);
    if cut > prefix || stored.is_some() {
        note.cut = path.get(cut).map(|turn| note::sequence(history, *turn));
    }
    path[..prefix.min(cut)].iter().chain(&path[cut..]).copied().collect()
}

pub(super) fn size(protocol: &dyn Protocol, window: &ModelWindow, turn: &Turn) -> Size {
    let tokens = if window.counts_tokens() {
        let noted = Note::of(turn).and_then(|note| note.tokens).filter(|(name, _)| name == window.counter.name());
        noted.map_or_else(|| tokens(protocol, window, turn.messages()), |(_, tokens)| tokens)
    } else {
        0
    };
    Size { messages: turn.messages().len(), bytes: turn.bytes(), tokens }
}

pub(super) fn tokens(protocol: &dyn Protocol, window: &ModelWindow, messages: &[Message]) -> usize {
    let count = |message| window.counter.count(std::str::from_utf8(&protocol.wire(message)).unwrap_or_default());
    messages.iter().map(count).sum()
}
