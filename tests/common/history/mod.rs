//! Judges what clients saw of some sessions against what is stored in the end.
//!
//! The idea of list-append checkers: every turn is unique, so the final list of a session tells the
//! order in which all took effect, and everything that anybody saw must fit it.
//!
//! # When a master dies
//! Its successor lacks what had not reached it. None of that was acknowledged, but it may have been
//! *read*: a read that began before the master was dead may end in turns that the final list does not
//! have there. Nothing else is excused. Acknowledged turns are kept at their places, a read that
//! began later shows none of the lost ones, and whoever goes on from a lost turn is told, unless
//! others have filled the gap by then.

use std::collections::hash_map::DefaultHasher;
use std::collections::{HashMap, HashSet};
use std::hash::{Hash, Hasher};

use tower_session_memory::{Turn, TurnId};

#[cfg(test)]
mod tests;

/// A turn as somebody sent or saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    pub turn: TurnId,
    /// Of its messages: half a turn has another one.
    pub digest: u64,
}

impl From<&Turn> for Mark {
    fn from(turn: &Turn) -> Self {
        let mut hasher = DefaultHasher::new();
        turn.messages().iter().for_each(|message| message.json().hash(&mut hasher));
        Self { turn: turn.id(), digest: hasher.finish() }
    }
}

/// Something a client did, from when it asked until it had the answer, on one clock.
#[derive(Debug, Clone)]
pub struct Event {
    pub session: usize,
    pub began: u64,
    pub ended: u64,
    pub what: What,
}

#[derive(Debug, Clone)]
pub enum What {
    /// The store said: stored, at this place. The client had read so many turns.
    Acknowledged { turn: Mark, sequence: u64, seen: u64 },
    /// The store said: not stored.
    Refused { turn: Mark },
    /// The store said: not stored, for it has lost some of what this read had shown.
    RolledBack { turn: Mark, read: u64, seen: Vec<TurnId> },
    /// Nobody knows.
    Unknown { turn: Mark },
    /// The whole session.
    Read { turns: Vec<Mark> },
}

/// Why a history cannot be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Violation {
    /// A turn is stored more than once.
    Duplicate(TurnId),
    /// An acknowledged turn is not stored.
    Lost(TurnId),
    /// An acknowledged turn stands at another place than it was told.
    Misplaced(TurnId),
    /// A refused turn is stored.
    Refused(TurnId),
    /// A stored turn was never sent.
    Invented(TurnId),
    /// A turn was shown with other messages than it was sent with.
    Torn(TurnId),
    /// A read is not a prefix of what is stored.
    NotAPrefix { session: usize, began: u64 },
    /// Two reads of one master do not continue one another.
    Disagreeing { session: usize, began: u64 },
    /// A read misses a turn that was acknowledged, or read, before it began.
    Stale { session: usize, began: u64 },
    /// A read shows a turn that was sent after it ended.
    FromTheFuture { session: usize, began: u64 },
    /// A turn stands before one that was acknowledged before it was sent.
    Reordered(TurnId),
    /// A turn was put where its client had already read another one.
    Continued(TurnId),
    /// A client was told that turns are lost, and none of those it had read is.
    FalseAlarm(TurnId),
}

/// Everything that is wrong with a history, given what each session holds in the end and the moments
/// at which a master was known to be dead.
pub fn check(events: &[Event], stored: &[Vec<Mark>], deaths: &[u64]) -> Vec<Violation> {
    let mut violations = Vec::new();
    for (number, stored) in stored.iter().enumerate() {
        let events: Vec<&Event> = events.iter().filter(|event| event.session == number).collect();
        let mut session = Session { events, stored, deaths, sent: HashMap::new(), acknowledged: HashMap::new() };
        session.check_writes(&mut violations);
        session.check_reads(&mut violations);
    }
    violations
}

struct Session<'a> {
    events: Vec<&'a Event>,
    stored: &'a [Mark],
    deaths: &'a [u64],
    /// When each turn was sent, and with which messages.
    sent: HashMap<TurnId, (u64, u64)>,
    /// When its client knew that it is stored.
    acknowledged: HashMap<TurnId, u64>,
}

impl Session<'_> {
    fn check_writes(&mut self, violations: &mut Vec<Violation>) {
        let mut places: HashMap<TurnId, u64> = HashMap::new();
        for (place, mark) in (1..).zip(self.stored) {
            if places.insert(mark.turn, place).is_some() {
                violations.push(Violation::Duplicate(mark.turn));
            }
        }
        for event in &self.events {
            let mark = match &event.what {
                What::Acknowledged { turn: mark, sequence, seen } => {
                    match places.get(&mark.turn) {
                        None => violations.push(Violation::Lost(mark.turn)),
                        Some(place) if place != sequence => violations.push(Violation::Misplaced(mark.turn)),
                        Some(_) => {}
                    }
                    if sequence <= seen {
                        violations.push(Violation::Continued(mark.turn));
                    }
                    self.acknowledged.insert(mark.turn, event.ended);
                    mark
                }
                What::Refused { turn: mark } | What::RolledBack { turn: mark, .. } => {
                    if places.contains_key(&mark.turn) {
                        violations.push(Violation::Refused(mark.turn));
                    }
                    mark
                }
                What::Unknown { turn: mark } => mark,
                What::Read { .. } => continue,
            };
            self.sent.insert(mark.turn, (event.began, mark.digest));
        }
        let invented = self.stored.iter().filter(|mark| !self.sent.contains_key(&mark.turn));
        violations.extend(invented.map(|mark| Violation::Invented(mark.turn)));

        // From the newest: nothing later may have been acknowledged before this one was sent.
        let mut earliest = u64::MAX;
        for mark in self.stored.iter().rev() {
            if self.sent.get(&mark.turn).is_some_and(|(sent, _)| earliest < *sent) {
                violations.push(Violation::Reordered(mark.turn));
            }
            earliest = earliest.min(self.acknowledged(mark.turn));
        }
        for event in &self.events {
            let What::RolledBack { turn: mark, read, seen } = &event.what else { continue };
            if !self.deaths.iter().any(|death| (*read..=event.ended).contains(death) && self.may_lose(seen, *death)) {
                violations.push(Violation::FalseAlarm(mark.turn));
            }
        }
    }

    fn check_reads(&self, violations: &mut Vec<Violation>) {
        let reads = self.events.iter().filter_map(|event| match &event.what {
            What::Read { turns } => Some((*event, &turns[..])),
            _ => None,
        });
        let reads: Vec<(&Event, &[Mark])> = reads.collect();
        let stored = Event { session: 0, began: u64::MAX, ended: u64::MAX, what: What::Read { turns: Vec::new() } };
        for (event, turns) in reads.iter().copied().chain([(&stored, self.stored)]) {
            let torn = |mark: &&Mark| self.sent.get(&mark.turn).is_some_and(|(_, digest)| *digest != mark.digest);
            violations.extend(turns.iter().filter(torn).map(|mark| Violation::Torn(mark.turn)));
            let (session, began) = (event.session, event.began);
            let sent_by = |mark: &Mark| self.sent.get(&mark.turn).is_some_and(|(sent, _)| *sent <= event.ended);
            let (kept, lost) = turns.split_at(agreeing(turns, self.stored));
            if !lost.is_empty() {
                // Only those that nobody had acknowledged when the master died, each once.
                let ids: Vec<TurnId> = lost.iter().map(|mark| mark.turn).collect();
                let unique: HashSet<&TurnId> = turns.iter().map(|mark| &mark.turn).collect();
                let death = self.deaths.iter().find(|death| **death > began);
                let excused = death.is_some_and(|death| ids.iter().all(|id| self.acknowledged(*id) >= *death));
                if !excused || unique.len() < turns.len() || !lost.iter().all(sent_by) {
                    violations.push(Violation::NotAPrefix { session, began });
                }
            }
            if self.stored[kept.len()..].iter().any(|mark| self.acknowledged(mark.turn) < began) {
                violations.push(Violation::Stale { session, began });
            }
            if kept.iter().any(|mark| self.sent.contains_key(&mark.turn) && !sent_by(mark)) {
                violations.push(Violation::FromTheFuture { session, began });
            }
        }
        self.check_reads_of_reads(reads, violations);
    }

    /// Who looks later at the same master sees at least as much.
    fn check_reads_of_reads(&self, mut reads: Vec<(&Event, &[Mark])>, violations: &mut Vec<Violation>) {
        // A read that a death interrupted may be the old master's answer or the new one's.
        reads.retain(|(event, _)| !self.deaths.iter().any(|death| (event.began..=event.ended).contains(death)));
        reads.sort_unstable_by_key(|(event, _)| event.ended);
        let reign = |event: &Event| self.deaths.iter().filter(|death| **death < event.began).count();
        let mut longest: Vec<(u64, usize, &[Mark])> = Vec::new();
        for (event, turns) in &reads {
            let most = longest.last().filter(|last| last.1 == reign(event)).map_or(&[][..], |last| last.2);
            if agreeing(turns, most) < turns.len().min(most.len()) {
                violations.push(Violation::Disagreeing { session: event.session, began: event.began });
            }
            longest.push((event.ended, reign(event), if turns.len() > most.len() { turns } else { most }));
        }
        for (event, turns) in &reads {
            let before = longest[..longest.partition_point(|(ended, ..)| *ended < event.began)].last();
            if before.is_some_and(|(_, of, most)| *of == reign(event) && most.len() > turns.len()) {
                violations.push(Violation::Stale { session: event.session, began: event.began });
            }
        }
    }

    fn acknowledged(&self, turn: TurnId) -> u64 {
        self.acknowledged.get(&turn).copied().unwrap_or(u64::MAX)
    }

    /// Whether one of these turns had not been acknowledged when a master died.
    fn may_lose(&self, turns: &[TurnId], death: u64) -> bool {
        turns.iter().any(|turn| self.acknowledged(*turn) >= death)
    }
}

/// How many turns two lists begin with alike.
fn agreeing(one: &[Mark], other: &[Mark]) -> usize {
    one.iter().zip(other).take_while(|(one, other)| one.turn == other.turn).count()
}
