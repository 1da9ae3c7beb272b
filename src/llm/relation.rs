//! What a request's elements are to the stored history: new, or (a part of) the history once more.

use super::path::Path;
use super::protocol::{Protocol, Voice};
use super::stitch::Incoming;
use crate::{ChatHistory, TurnStatus};

/// How a request's elements stand to the history. Numbers count elements without instructions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Relation {
    /// All are new.
    New,
    /// The first `known` were sent before. Of the history's path, the first `before` messages are
    /// not among them and go in front.
    Resent { before: usize, known: usize },
    /// The client goes on from an earlier point of the history, or from a history of its own: what
    /// it sent is the whole context. The first `known` are stored with the first turns of the path.
    Own { turns: usize, known: usize },
}

/// Compares what the client sent with the history's path.
///
/// A client that sends only what is new never sends what the model said, save as the last element,
/// for the model to go on from. So whoever sends more of it carries a history.
pub(super) fn relate(protocol: &dyn Protocol, history: &ChatHistory, path: &Path, incoming: &Incoming) -> Relation {
    let Some((last, earlier)) = incoming.spoken.split_last() else { return Relation::New };
    let carried = earlier.iter().any(|(_, voice)| *voice == Voice::Model);
    if (!carried && last.1 != Voice::Model) || path.is_empty() {
        return superseded(protocol, history, path, incoming).unwrap_or(Relation::New);
    }
    let stored: Vec<u64> = path.messages(history).map(|message| protocol.digest(&protocol.wire(message))).collect();
    if stored.is_empty() {
        return Relation::New;
    }
    let sent: Vec<u64> = incoming.texts().map(|element| protocol.digest(element)).collect();
    let model_in =
        |range: std::ops::Range<usize>| incoming.spoken[range].iter().any(|(_, voice)| *voice == Voice::Model);

    // The end of the history, and then what is new.
    let longest = sent.len().min(stored.len());
    if let Some(known) = (1..=longest).rev().find(|known| stored.ends_with(&sent[..*known]))
        && model_in(0..known)
    {
        return Relation::Resent { before: stored.len() - known, known };
    }
    // All that was loaded, after more that was not.
    if history.is_truncated()
        && let Some(start) = sent.windows(stored.len()).rposition(|window| *window == *stored)
    {
        return Relation::Resent { before: 0, known: start + stored.len() };
    }
    if !carried {
        return Relation::New;
    }
    // The beginning of the history, and then something else.
    let common = sent.iter().zip(&stored).take_while(|(sent, stored)| sent == stored).count();
    let (mut turns, mut known) = (0, 0);
    for turn in path.turns() {
        let end = known + history.turns()[turn].messages().len();
        if end > common || end >= sent.len() {
            break;
        }
        (turns, known) = (turns + 1, end);
    }
    Relation::Own { turns, known }
}

/// A question that never got an answer and is asked again: the new turn takes its place.
fn superseded(protocol: &dyn Protocol, history: &ChatHistory, path: &Path, incoming: &Incoming) -> Option<Relation> {
    let turn = &history.turns()[path.last()?];
    let asked = turn.messages();
    if turn.status() != TurnStatus::Interrupted || asked.is_empty() || asked.len() > incoming.spoken.len() {
        return None;
    }
    let same = asked.iter().zip(incoming.texts()).all(|(message, element)| {
        let stored = protocol.wire(message);
        protocol.voice(&stored) == Voice::Client && protocol.digest(&stored) == protocol.digest(element)
    });
    same.then(|| Relation::Resent { before: path.len() - asked.len(), known: asked.len() })
}
