//! How a turn's record becomes items: one, or for a large turn several, written and read together.

use aws_sdk_dynamodb::types::AttributeValue;

use super::NAME;
use super::item::{Item, PARTITION, SORT, get_number, micros, number, part_sort, text};
use crate::key::SessionKey;
use crate::store::{ErrorKind, Operation, StoreError};
use crate::turn::{Head, RecordError, Turn};

/// What becomes of a turn that is larger than one item.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum LargeTurns {
    /// It is written as several items, in the same transaction as its header: up to 3.75 MiB of messages, as a
    /// transaction holds 4 MB.
    #[default]
    Split,
    /// It is refused before anything is sent: more than 350 KiB of messages.
    Refuse,
}

/// The most bytes of a record in one item. An item holds 400 KB; the rest is for names and keys.
pub(super) const PART: usize = 390 << 10;

/// The most items of one turn. A transaction holds 4 MB; the rest is for the header, keys and the marker.
const PARTS: usize = 10;

/// Parts that a page of 1 MB may hold beside whole turns: all but a turn's first are full.
pub(super) const PARTS_IN_A_PAGE: usize = 2;

impl LargeTurns {
    /// The most bytes of messages in one turn: what stands around them in a record has room.
    pub(super) const fn max_turn_bytes(self) -> usize {
        match self {
            Self::Split => 3_840 << 10,
            Self::Refuse => 350 << 10,
        }
    }

    /// The record, cut into what one item holds; the first part takes what the others leave over.
    pub(super) fn cut(self, turn: &Turn, key: &SessionKey) -> Result<Vec<String>, StoreError> {
        let too_large = || StoreError::new(ErrorKind::TooLarge, NAME, Operation::Append);
        if turn.bytes() > self.max_turn_bytes() {
            return Err(too_large());
        }
        let record = String::from_utf8(turn.to_record(key));
        let mut record = record.map_err(|_| StoreError::new(ErrorKind::Other, NAME, Operation::Append))?;
        let mut parts = Vec::new();
        while record.len() > PART {
            let from = record.len() - PART;
            let from = (from..from + 4).find(|at| record.is_char_boundary(*at)).unwrap_or(from);
            parts.push(record.split_off(from));
        }
        parts.push(record);
        parts.reverse();
        // A note beside the messages may make a record larger than they are.
        let most = if self == Self::Split { PARTS } else { 1 };
        if parts.len() > most { Err(too_large()) } else { Ok(parts) }
    }
}

/// The items of a turn that is to stand here.
pub(super) fn items(partition: &str, at: Head, turn: &Turn, parts: Vec<String>) -> Vec<Item> {
    let count = parts.len() as u64;
    let item = |(part, record): (usize, String)| {
        let mut item = Item::from([
            (PARTITION.to_owned(), text(partition)),
            (SORT.to_owned(), text(part_sort(at, part as u64))),
            ("record".to_owned(), text(record)),
        ]);
        if part == 0 {
            item.extend([
                ("turn_id".to_owned(), text(turn.id().to_string())),
                ("status".to_owned(), text(turn.status().as_str())),
                ("at".to_owned(), number(micros(turn.at()))),
                ("messages".to_owned(), number(turn.messages().len() as u64)),
                ("bytes".to_owned(), number(turn.bytes() as u64)),
            ]);
            if count > 1 {
                item.insert("parts".to_owned(), number(count));
            }
        }
        item
    };
    parts.into_iter().enumerate().map(item).collect()
}

/// In how many items a turn stands, by its first.
pub(super) fn count(first: &Item) -> u64 {
    get_number(first, "parts").unwrap_or(1).clamp(1, PARTS as u64)
}

/// Puts turns together from their items as a query from the end gives them: the parts of a turn from
/// its last to its first.
#[derive(Default)]
pub(super) struct Assembly {
    /// Where a turn stands, and its later parts so far.
    later: Vec<(Head, u64, String)>,
}

/// What an item was.
pub(super) enum Taken {
    /// A part of a turn whose first is still to come.
    Part,
    Turn(Turn),
    /// The first part of a turn of which others are not there.
    Incomplete,
}

impl Assembly {
    pub(super) fn take(
        &mut self,
        key: &SessionKey,
        at: Head,
        part: u64,
        mut item: Item,
        operation: Operation,
    ) -> Result<Taken, StoreError> {
        let Some(AttributeValue::S(mut record)) = item.remove("record") else {
            return Err(damaged(RecordError::Corrupt, operation));
        };
        if part > 0 {
            self.later.push((at, part, record));
            return Ok(Taken::Part);
        }
        let later = std::mem::take(&mut self.later);
        if !later.iter().rev().map(|(at, part, _)| (*at, *part)).eq((1..count(&item)).map(|part| (at, part))) {
            return Ok(Taken::Incomplete);
        }
        record.extend(later.into_iter().rev().map(|(_, _, part)| part));
        Turn::from_record(key, record).map(Taken::Turn).map_err(|error| damaged(error, operation))
    }
}

fn damaged(error: RecordError, operation: Operation) -> StoreError {
    let kind = match error {
        RecordError::NewerVersion { .. } => ErrorKind::NewerVersion,
        _ => ErrorKind::Corrupt,
    };
    StoreError::new(kind, NAME, operation).with_source(error)
}
