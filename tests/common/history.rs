//! Judges what clients saw of some sessions against what is stored in the end.
//!
//! The idea of list-append checkers: every turn is unique, so the final list of a session tells the
//! order in which all took effect, and everything that anybody saw must fit it.

use std::collections::{HashMap, HashSet};
use std::fmt;

use tower_session_memory::TurnId;

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
    /// The store said: stored, at this place.
    Acknowledged { turn: TurnId, sequence: u64 },
    /// The store said: not stored.
    Refused { turn: TurnId },
    /// Nobody knows.
    Unknown { turn: TurnId },
    /// The whole session.
    Read { turns: Vec<TurnId> },
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
    /// A read is not a prefix of what is stored.
    NotAPrefix { session: usize, began: u64 },
    /// A read misses a turn that was acknowledged before it began.
    Stale { session: usize, began: u64 },
    /// A read shows a turn that was sent after it ended.
    FromTheFuture { session: usize, began: u64 },
    /// A turn stands before one that was acknowledged before it was sent.
    Reordered(TurnId),
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Everything that is wrong with a history, given what each session holds in the end.
pub fn check(events: &[Event], stored: &[Vec<TurnId>]) -> Vec<Violation> {
    let mut violations = Vec::new();
    for (session, stored) in stored.iter().enumerate() {
        let events: Vec<&Event> = events.iter().filter(|event| event.session == session).collect();
        check_session(&events, stored, &mut violations);
    }
    violations
}

fn check_session(events: &[&Event], stored: &[TurnId], violations: &mut Vec<Violation>) {
    let mut places: HashMap<TurnId, usize> = HashMap::new();
    for (place, turn) in stored.iter().enumerate() {
        if places.insert(*turn, place).is_some() {
            violations.push(Violation::Duplicate(*turn));
        }
    }
    let mut sent: HashSet<TurnId> = HashSet::new();
    // For each stored turn, by place: when it was sent, and when it was acknowledged, if ever.
    let mut times = vec![(0, u64::MAX); stored.len()];
    for event in events {
        let (turn, acknowledged) = match &event.what {
            What::Acknowledged { turn, sequence } => {
                match places.get(turn) {
                    None => violations.push(Violation::Lost(*turn)),
                    Some(place) if *place as u64 + 1 != *sequence => violations.push(Violation::Misplaced(*turn)),
                    Some(_) => {}
                }
                (turn, event.ended)
            }
            What::Refused { turn } => {
                if places.contains_key(turn) {
                    violations.push(Violation::Refused(*turn));
                }
                (turn, u64::MAX)
            }
            What::Unknown { turn } => (turn, u64::MAX),
            What::Read { .. } => continue,
        };
        sent.insert(*turn);
        if let Some(place) = places.get(turn) {
            times[*place] = (event.began, acknowledged);
        }
    }
    violations.extend(stored.iter().filter(|turn| !sent.contains(turn)).map(|turn| Violation::Invented(*turn)));

    // From the newest: nothing later may have been acknowledged before this one was sent.
    let mut earliest = u64::MAX;
    for (turn, (began, acknowledged)) in stored.iter().zip(&times).rev() {
        if earliest < *began {
            violations.push(Violation::Reordered(*turn));
        }
        earliest = earliest.min(*acknowledged);
    }

    for event in events {
        let What::Read { turns } = &event.what else { continue };
        let (session, began) = (event.session, event.began);
        if stored.get(..turns.len()) != Some(turns) {
            violations.push(Violation::NotAPrefix { session, began });
            continue;
        }
        if times[turns.len()..].iter().any(|(_, acknowledged)| *acknowledged < event.began) {
            violations.push(Violation::Stale { session, began });
        }
        if times[..turns.len()].iter().any(|(sent, _)| *sent > event.ended) {
            violations.push(Violation::FromTheFuture { session, began });
        }
    }
    // Reads of reads: who looks later sees at least as much.
    let mut reads: Vec<(u64, u64, usize)> = events
        .iter()
        .filter_map(|event| match &event.what {
            What::Read { turns } => Some((event.ended, event.began, turns.len())),
            _ => None,
        })
        .collect();
    reads.sort_unstable();
    let mut longest: Vec<(u64, usize)> = Vec::new();
    for (ended, _, length) in &reads {
        let most = longest.last().map_or(0, |(_, most)| *most).max(*length);
        longest.push((*ended, most));
    }
    for (_, began, length) in &reads {
        let before = longest.partition_point(|(ended, _)| ended < began);
        if before > 0 && longest[before - 1].1 > *length {
            violations.push(Violation::Stale { session: events[0].session, began: *began });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turn(number: u8) -> TurnId {
        TurnId::from_bytes([number; 16])
    }

    /// Three turns, one after the other, each read back.
    fn honest() -> (Vec<Event>, Vec<TurnId>) {
        let mut events = Vec::new();
        for number in 1..=3u8 {
            let at = u64::from(number) * 10;
            let what = What::Acknowledged { turn: turn(number), sequence: number.into() };
            events.push(Event { session: 0, began: at, ended: at + 2, what });
            let what = What::Read { turns: (1..=number).map(turn).collect() };
            events.push(Event { session: 0, began: at + 3, ended: at + 5, what });
        }
        (events, (1..=3).map(turn).collect())
    }

    fn judge(events: &[Event], stored: &[TurnId]) -> Vec<Violation> {
        check(events, &[stored.to_vec()])
    }

    #[test]
    fn an_honest_store_passes() {
        let (mut events, mut stored) = honest();
        assert_eq!(judge(&events, &stored), []);
        // One whose outcome nobody knows may be there or not.
        events.push(Event { session: 0, began: 50, ended: 51, what: What::Unknown { turn: turn(9) } });
        assert_eq!(judge(&events, &stored), []);
        stored.push(turn(9));
        assert_eq!(judge(&events, &stored), []);
    }

    #[test]
    fn a_store_that_loses_is_caught() {
        let (events, stored) = honest();
        for lost in 0..3 {
            let mut stored = stored.clone();
            let id = stored.remove(lost);
            assert!(judge(&events, &stored).contains(&Violation::Lost(id)), "{lost}");
        }
    }

    #[test]
    fn a_store_that_duplicates_is_caught() {
        let (events, stored) = honest();
        for again in 0..3 {
            let mut stored = stored.clone();
            stored.push(stored[again]);
            assert!(judge(&events, &stored).contains(&Violation::Duplicate(stored[again])), "{again}");
        }
    }

    #[test]
    fn a_store_that_reorders_is_caught() {
        let (mut events, mut stored) = honest();
        // Even if it told the wrong places, and nobody looked.
        events.retain(|event| !matches!(event.what, What::Read { .. }));
        stored.swap(1, 2);
        for event in &mut events {
            if let What::Acknowledged { turn, sequence } = &mut event.what {
                *sequence = stored.iter().position(|stored| stored == turn).unwrap() as u64 + 1;
            }
        }
        assert_eq!(judge(&events, &stored), [Violation::Reordered(turn(3))]);
    }

    #[test]
    fn a_store_that_tells_wrong_places_invents_or_stores_what_it_refused_is_caught() {
        let (mut events, mut stored) = honest();
        events[0].what = What::Acknowledged { turn: turn(1), sequence: 2 };
        assert!(judge(&events, &stored).contains(&Violation::Misplaced(turn(1))));
        events[0].what = What::Refused { turn: turn(1) };
        assert!(judge(&events, &stored).contains(&Violation::Refused(turn(1))));
        stored.push(turn(8));
        assert!(judge(&events, &stored).contains(&Violation::Invented(turn(8))));
    }

    #[test]
    fn reads_that_are_stale_torn_or_too_early_are_caught() {
        let (events, stored) = honest();
        let read = |turns: &[u8], began, ended| {
            let what = What::Read { turns: turns.iter().map(|number| turn(*number)).collect() };
            let mut events = events.clone();
            events.push(Event { session: 0, began, ended, what });
            judge(&events, &stored)
        };
        assert_eq!(read(&[1, 2], 24, 26), []);
        assert!(matches!(read(&[1], 24, 26)[..], [Violation::Stale { .. }, ..]));
        assert!(matches!(read(&[2], 24, 26)[..], [Violation::NotAPrefix { .. }]));
        assert!(matches!(read(&[1, 2, 3, 4], 44, 46)[..], [Violation::NotAPrefix { .. }]));
        assert!(matches!(read(&[1, 2, 3], 24, 26)[..], [Violation::FromTheFuture { .. }, ..]));
    }

    #[test]
    fn two_reads_that_go_back_are_caught_even_if_nothing_was_acknowledged() {
        let unknown = Event { session: 0, began: 0, ended: 1, what: What::Unknown { turn: turn(1) } };
        let read = |turns: Vec<TurnId>, at| Event { session: 0, began: at, ended: at + 1, what: What::Read { turns } };
        let events = [unknown, read(vec![turn(1)], 10), read(vec![], 20)];
        assert!(matches!(judge(&events, &[turn(1)])[..], [Violation::Stale { began: 20, .. }]));
    }
}
