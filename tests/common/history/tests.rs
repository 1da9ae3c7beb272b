use super::*;

fn id(number: u8) -> TurnId {
    TurnId::from_bytes([number; 16])
}

fn mark(number: u8) -> Mark {
    Mark { turn: id(number), digest: number.into() }
}

fn marks(numbers: &[u8]) -> Vec<Mark> {
    numbers.iter().copied().map(mark).collect()
}

fn event(began: u64, ended: u64, what: What) -> Event {
    Event { session: 0, began, ended, what }
}

fn acknowledged(number: u8, sequence: u64, began: u64, ended: u64) -> Event {
    event(began, ended, What::Acknowledged { turn: mark(number), sequence, seen: sequence - 1 })
}

fn unknown(number: u8, began: u64, ended: u64) -> Event {
    event(began, ended, What::Unknown { turn: mark(number) })
}

fn read(numbers: &[u8], began: u64, ended: u64) -> Event {
    event(began, ended, What::Read { turns: marks(numbers) })
}

fn rolled_back(number: u8, read: u64, seen: &[u8], began: u64, ended: u64) -> Event {
    let seen = seen.iter().copied().map(id).collect();
    event(began, ended, What::RolledBack { turn: mark(number), read, seen })
}

/// Three turns, one after the other, each read back.
fn honest() -> (Vec<Event>, Vec<Mark>) {
    let mut events = Vec::new();
    for number in 1..=3u8 {
        let at = u64::from(number) * 10;
        events.push(acknowledged(number, number.into(), at, at + 2));
        events.push(read(&(1..=number).collect::<Vec<_>>(), at + 3, at + 5));
    }
    (events, marks(&[1, 2, 3]))
}

fn judge(events: &[Event], stored: &[Mark]) -> Vec<Violation> {
    check(events, &[stored.to_vec()], &[])
}

#[test]
fn an_honest_store_passes() {
    let (mut events, mut stored) = honest();
    assert_eq!(judge(&events, &stored), []);
    // One whose outcome nobody knows may be there or not.
    events.push(unknown(9, 50, 51));
    assert_eq!(judge(&events, &stored), []);
    stored.push(mark(9));
    assert_eq!(judge(&events, &stored), []);
}

#[test]
fn a_store_that_loses_is_caught() {
    let (events, stored) = honest();
    for lost in 0..3 {
        let mut stored = stored.clone();
        let lost = stored.remove(lost).turn;
        assert!(judge(&events, &stored).contains(&Violation::Lost(lost)), "{lost:?}");
    }
}

#[test]
fn a_store_that_duplicates_is_caught() {
    let (events, stored) = honest();
    for again in 0..3 {
        let mut stored = stored.clone();
        stored.push(stored[again]);
        assert!(judge(&events, &stored).contains(&Violation::Duplicate(stored[again].turn)), "{again}");
    }
}

#[test]
fn a_store_that_reorders_is_caught() {
    let (mut events, mut stored) = honest();
    // Even if it told the wrong places, and nobody looked.
    events.retain(|event| !matches!(event.what, What::Read { .. }));
    stored.swap(1, 2);
    for event in &mut events {
        if let What::Acknowledged { turn, sequence, seen } = &mut event.what {
            *sequence = stored.iter().position(|stored| stored == turn).unwrap() as u64 + 1;
            *seen = 0;
        }
    }
    assert_eq!(judge(&events, &stored), [Violation::Reordered(id(3))]);
}

#[test]
fn a_store_that_shows_half_a_turn_is_caught() {
    let (mut events, mut stored) = honest();
    let half = Mark { turn: id(2), digest: 77 };
    stored[1] = half;
    assert_eq!(judge(&events, &stored), [Violation::Torn(id(2))], "in the end");
    stored[1] = mark(2);
    events.push(event(24, 26, What::Read { turns: vec![mark(1), half] }));
    assert_eq!(judge(&events, &stored), [Violation::Torn(id(2))], "once");
}

#[test]
fn a_store_that_tells_wrong_places_invents_or_stores_what_it_refused_is_caught() {
    let (mut events, mut stored) = honest();
    events[0] = acknowledged(1, 2, 10, 12);
    assert!(judge(&events, &stored).contains(&Violation::Misplaced(id(1))));
    events[0] = event(10, 12, What::Refused { turn: mark(1) });
    assert!(judge(&events, &stored).contains(&Violation::Refused(id(1))));
    stored.push(mark(8));
    assert!(judge(&events, &stored).contains(&Violation::Invented(id(8))));
}

#[test]
fn reads_that_are_stale_torn_or_too_early_are_caught() {
    let (events, stored) = honest();
    let with = |numbers: &[u8], began, ended| {
        let mut events = events.clone();
        events.push(read(numbers, began, ended));
        judge(&events, &stored)
    };
    assert_eq!(with(&[1, 2], 24, 26), []);
    assert!(matches!(with(&[1], 24, 26)[..], [Violation::Stale { .. }, ..]));
    assert!(with(&[2], 24, 26).contains(&Violation::NotAPrefix { session: 0, began: 24 }));
    assert!(with(&[1, 2, 3, 4], 44, 46).contains(&Violation::NotAPrefix { session: 0, began: 44 }));
    assert!(matches!(with(&[1, 2, 3], 24, 26)[..], [Violation::FromTheFuture { .. }, ..]));
}

#[test]
fn two_reads_that_go_back_are_caught_even_if_nothing_was_acknowledged() {
    let events = [unknown(1, 0, 1), read(&[1], 10, 11), read(&[], 20, 21)];
    assert!(matches!(judge(&events, &marks(&[1]))[..], [Violation::Stale { began: 20, .. }]));
}

#[test]
fn a_write_on_top_of_what_it_has_not_seen_last_is_caught() {
    let (mut events, stored) = honest();
    events[4] = event(30, 32, What::Acknowledged { turn: mark(3), sequence: 3, seen: 3 });
    assert_eq!(judge(&events, &stored), [Violation::Continued(id(3))]);
}

/// A master had 1, acknowledged, and 2, which was read and did not reach its successor. It was dead
/// at 30.
fn failover(more: &[Event], stored: &[u8]) -> Vec<Violation> {
    let mut events = vec![acknowledged(1, 1, 10, 12), unknown(2, 20, 40), read(&[1, 2], 22, 24)];
    events.extend_from_slice(more);
    check(&events, &[marks(stored)], &[30])
}

#[test]
fn what_was_read_and_never_acknowledged_may_be_lost_with_its_master() {
    assert_eq!(failover(&[], &[1]), []);
    assert_eq!(failover(&[rolled_back(3, 22, &[1, 2], 25, 45)], &[1]), [], "and who goes on from it is told");
    assert_eq!(failover(&[read(&[1], 31, 32)], &[1]), [], "later reads show less");
    // Its client tried again, and it is stored after all, here or there.
    let again = acknowledged(2, 2, 20, 40);
    let events = [acknowledged(1, 1, 10, 12), again, read(&[1, 2], 22, 24), read(&[1], 31, 32)];
    assert_eq!(check(&events, &[marks(&[1, 2])], &[30]), []);
    // Others filled the gap: then only the reader's history differs.
    assert_eq!(failover(&[unknown(4, 35, 36), acknowledged(3, 3, 37, 38)], &[1, 4, 3]), []);
}

#[test]
fn nothing_else_is_excused_by_a_failover() {
    let caught = |more: &[Event], stored: &[u8], violation: Violation| {
        let violations = failover(more, stored);
        assert!(violations.contains(&violation), "{violation:?} is not among {violations:?}");
    };
    caught(&[], &[], Violation::Lost(id(1)));
    let torn_off = Violation::NotAPrefix { session: 0, began: 31 };
    caught(&[read(&[1, 2], 31, 32)], &[1], torn_off);
    let events = [acknowledged(1, 1, 10, 12), acknowledged(2, 2, 20, 21), read(&[1, 2], 22, 24)];
    let unexcused = Violation::NotAPrefix { session: 0, began: 22 };
    assert!(check(&events, &[marks(&[1])], &[30]).contains(&unexcused), "it was acknowledged");
    let events = [acknowledged(1, 1, 10, 12), unknown(2, 20, 40), read(&[1, 2], 22, 24)];
    assert!(check(&events, &[marks(&[1])], &[]).contains(&unexcused), "no master died");
    caught(&[read(&[1, 9], 22, 24)], &[1], unexcused.clone());
    caught(&[unknown(9, 26, 40), read(&[1, 9], 22, 24)], &[1], unexcused.clone());
    caught(&[read(&[1, 2, 2], 22, 24)], &[1], unexcused);
    caught(&[read(&[2], 5, 25)], &[1], Violation::Disagreeing { session: 0, began: 5 });
    caught(&[read(&[1], 26, 28)], &[1], Violation::Stale { session: 0, began: 26 });
    caught(&[read(&[], 31, 32)], &[1], Violation::Stale { session: 0, began: 31 });
    caught(&[rolled_back(3, 31, &[1], 32, 33)], &[1], Violation::FalseAlarm(id(3)));
    caught(&[rolled_back(3, 22, &[1], 25, 45)], &[1], Violation::FalseAlarm(id(3)));
    caught(&[rolled_back(3, 22, &[1, 2], 25, 45)], &[1, 3], Violation::Refused(id(3)));
    let over = event(41, 42, What::Acknowledged { turn: mark(3), sequence: 2, seen: 2 });
    caught(&[over], &[1, 3], Violation::Continued(id(3)));
}
