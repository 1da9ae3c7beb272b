//! Keys and attributes of the items.
//!
//! One partition per session. In it, in the order of their sort keys: markers `id#<turn id>#<epoch>`, turns
//! `turn#<epoch>#<sequence>`, each before its further parts `turn#<epoch>#<sequence>#<part>`, and last the
//! header `~head`, so that a query from the end reads the header first and then the newest turns.

use std::collections::HashMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_sdk_dynamodb::types::AttributeValue;
use sha2::{Digest, Sha256};

use crate::key::{SessionKey, Subject};
use crate::turn::{Head, TurnId};

pub(super) type Item = HashMap<String, AttributeValue>;

pub(super) const PARTITION: &str = "session";
pub(super) const SORT: &str = "item";
pub(super) const HEADER: &str = "~head";
/// The partition key of the index by subject.
pub(super) const OWNER: &str = "owner";
/// Seconds since 1970, for the table's own time to live. Present on headers only: a turn lives as long
/// as its session, whose end every append moves.
pub(super) const TTL: &str = "expires";

/// The most bytes of a partition key.
const PARTITION_BYTES: usize = 2_048;

/// The encoded key, readable; a longer one by its hash, behind a character that no encoded key has.
pub(super) fn partition(key: &SessionKey) -> String {
    short(key.encoded())
}

fn short(encoded: &str) -> String {
    if encoded.len() <= PARTITION_BYTES {
        return encoded.to_owned();
    }
    let digest = Sha256::digest(encoded);
    digest.iter().fold("#".to_owned(), |mut text, byte| {
        use std::fmt::Write;
        write!(text, "{byte:02x}").expect("writing to a String cannot fail");
        text
    })
}

pub(super) fn turn_sort(head: Head) -> String {
    format!("turn#{:020}#{:020}", head.epoch, head.sequence)
}

/// The sort key of a part of a turn; the first, 0, is the turn's own.
pub(super) fn part_sort(head: Head, part: u64) -> String {
    if part == 0 { turn_sort(head) } else { format!("{}#{part:02}", turn_sort(head)) }
}

/// What sorts after a turn and its parts, and before the next turn.
pub(super) fn after_turn(head: Head) -> String {
    format!("{}~", turn_sort(head))
}

/// Which turn a sort key names, and which part of it.
pub(super) fn part_of_sort(sort: &str) -> Option<(Head, u64)> {
    let (epoch, sequence) = sort.strip_prefix("turn#")?.split_once('#')?;
    let (sequence, part) = sequence.split_once('#').unwrap_or((sequence, "0"));
    Some((Head::new(epoch.parse().ok()?, sequence.parse().ok()?), part.parse().ok()?))
}

pub(super) fn marker_sort(id: TurnId, epoch: u64) -> String {
    format!("{}{epoch:020}", marker_prefix(id))
}

pub(super) fn marker_prefix(id: TurnId) -> String {
    format!("id#{id}#")
}

/// The life of the session that a turn or marker belongs to.
pub(super) fn epoch_of_sort(sort: &str) -> Option<u64> {
    match sort.strip_prefix("id#") {
        Some(marker) => marker.split_once('#')?.1.parse().ok(),
        None => part_of_sort(sort).map(|(at, _)| at.epoch),
    }
}

/// What the index by subject is asked for: the subject, or its hash if it is longer than a key may be.
pub(super) fn owner(subject: &Subject) -> String {
    short(subject.encoded())
}

pub(super) fn key_of(partition: &str, sort: &str) -> Item {
    Item::from([(PARTITION.to_owned(), text(partition)), (SORT.to_owned(), text(sort))])
}

pub(super) fn text(value: impl Into<String>) -> AttributeValue {
    AttributeValue::S(value.into())
}

pub(super) fn number(value: u64) -> AttributeValue {
    AttributeValue::N(value.to_string())
}

pub(super) fn get_text<'a>(item: &'a Item, name: &str) -> Option<&'a str> {
    item.get(name)?.as_s().ok().map(String::as_str)
}

pub(super) fn get_number(item: &Item, name: &str) -> Option<u64> {
    item.get(name)?.as_n().ok()?.parse().ok()
}

/// Microseconds since 1970.
pub(super) fn micros(at: SystemTime) -> u64 {
    u64::try_from(at.duration_since(UNIX_EPOCH).unwrap_or_default().as_micros()).unwrap_or(u64::MAX)
}

pub(super) fn time(micros: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_micros(micros)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::ConversationId;

    #[test]
    fn headers_sort_after_turns_and_turns_by_number() {
        let mut sorts = [
            HEADER.to_owned(),
            turn_sort(Head::new(1, 10)),
            part_sort(Head::new(1, 9), 10),
            after_turn(Head::new(1, 9)),
            part_sort(Head::new(1, 9), 2),
            turn_sort(Head::new(1, 9)),
            turn_sort(Head::new(1_700_000_000_000_000, 1)),
            marker_sort(TurnId::from_bytes([255; 16]), 7),
        ];
        sorts.sort();
        let turns: Vec<_> = sorts.iter().filter_map(|sort| part_of_sort(sort)).collect();
        let nine = Head::new(1, 9);
        let later = [(Head::new(1, 10), 0), (Head::new(1_700_000_000_000_000, 1), 0)];
        assert_eq!(turns, [&[(nine, 0), (nine, 2), (nine, 10)][..], &later].concat());
        assert_eq!((&sorts[4], &sorts[7]), (&after_turn(nine), &HEADER.to_owned()));
        assert!(sorts[0].starts_with("id#"));
        assert_eq!(epoch_of_sort(&sorts[0]), Some(7));
        assert_eq!(epoch_of_sort(&sorts[1]), Some(1));
        assert_eq!(epoch_of_sort(&sorts[3]), Some(1));
        assert_eq!(epoch_of_sort(HEADER), None);
    }

    #[test]
    fn long_keys_have_short_partitions_of_their_own() {
        let conversation = ConversationId::parse("c").unwrap();
        let key = |subject: &str| SessionKey::new(conversation.clone()).with_subject(Subject::new(subject).unwrap());
        assert_eq!(partition(&key("ada")), ":ada:c");
        let long = |last: &str| {
            let part = "ü".repeat(200);
            let parts = [part.as_str(), part.as_str(), last];
            SessionKey::new(conversation.clone()).with_subject(Subject::from_parts(&parts).unwrap())
        };
        assert!(long("a").encoded().len() > PARTITION_BYTES);
        assert_eq!(partition(&long("a")).len(), 65);
        assert_ne!(partition(&long("a")), partition(&long("b")));
    }
}
