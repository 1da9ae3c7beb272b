//! The header: what a session is now, and which turn may be appended to it.

use std::time::{Duration, SystemTime};

use super::item::{
    HEADER, Item, OWNER, PARTITION, SORT, TTL, get_number, get_text, micros, number, owner as index_key, text,
};
use crate::key::{ConversationId, KeyError, SessionKey, Subject, Tenant};
use crate::policy::Concurrency;
use crate::store::{Append, ErrorKind};
use crate::turn::Head;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) head: Head,
    pub(super) reborn: bool,
    /// All turns of this life, trimmed ones included.
    pub(super) messages: u64,
    pub(super) bytes: u64,
    /// What was trimmed of it.
    pub(super) trimmed: Totals,
    pub(super) last_active: u64,
    /// Microseconds since 1970.
    pub(super) expires_at: Option<u64>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Totals {
    pub(super) turns: u64,
    pub(super) messages: u64,
    pub(super) bytes: u64,
}

impl Header {
    pub(super) fn read(item: &Item) -> Option<Self> {
        let field = |name: &str| get_number(item, name);
        Some(Self {
            head: Head::new(field("epoch")?, field("sequence")?),
            reborn: item.contains_key("reborn"),
            messages: field("messages")?,
            bytes: field("bytes")?,
            trimmed: Totals {
                turns: field("trimmed_turns")?,
                messages: field("trimmed_messages")?,
                bytes: field("trimmed_bytes")?,
            },
            last_active: field("last_active")?,
            expires_at: field("expires_at"),
        })
    }

    pub(super) fn write(&self, partition: &str, key: Option<&SessionKey>) -> Item {
        let mut item = Item::from([
            (PARTITION.to_owned(), text(partition)),
            (SORT.to_owned(), text(HEADER)),
            ("epoch".to_owned(), number(self.head.epoch)),
            ("sequence".to_owned(), number(self.head.sequence)),
            ("messages".to_owned(), number(self.messages)),
            ("bytes".to_owned(), number(self.bytes)),
            ("trimmed_turns".to_owned(), number(self.trimmed.turns)),
            ("trimmed_messages".to_owned(), number(self.trimmed.messages)),
            ("trimmed_bytes".to_owned(), number(self.trimmed.bytes)),
            ("last_active".to_owned(), number(self.last_active)),
        ]);
        if self.reborn {
            item.insert("reborn".to_owned(), aws_sdk_dynamodb::types::AttributeValue::Bool(true));
        }
        if let Some(at) = self.expires_at {
            item.insert("expires_at".to_owned(), number(at));
            item.insert(TTL.to_owned(), number(ttl_seconds(at)));
        }
        if let Some(key) = key {
            // Only a session with turns is named, so only such a one is in the index by subject.
            item.insert("conversation".to_owned(), text(key.conversation().as_str()));
            if let Some(tenant) = key.tenant() {
                item.insert("tenant".to_owned(), text(tenant.encoded()));
            }
            if let Some(subject) = key.subject() {
                item.insert("subject".to_owned(), text(subject.encoded()));
                item.insert(OWNER.to_owned(), text(index_key(subject)));
            }
        }
        item
    }

    pub(super) fn expired(&self, now: u64) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }

    /// Turns that are kept.
    pub(super) fn turns(&self) -> u64 {
        self.head.sequence.saturating_sub(self.trimmed.turns)
    }

    pub(super) fn kept_bytes(&self) -> u64 {
        self.bytes.saturating_sub(self.trimmed.bytes)
    }

    pub(super) fn kept_messages(&self) -> u64 {
        self.messages.saturating_sub(self.trimmed.messages)
    }
}

/// When the table may remove the header: rounded up, never before its end.
pub(super) fn ttl_seconds(expires_at: u64) -> u64 {
    expires_at.div_ceil(1_000_000)
}

/// The end of a life that begins to count now; one beyond any clock is none.
pub(super) fn end_of_life(now: SystemTime, ttl: Option<Duration>) -> Option<u64> {
    let at = micros(now.checked_add(ttl?)?);
    // A number attribute holds 38 digits; a year beyond 9999 would not be a time to the table.
    (at < 253_402_300_799_000_000).then_some(at)
}

/// Steps 2 to 4 of the contract, for a header that is not expired; `None` for a session that is not there.
pub(super) fn admit(header: Option<&Header>, append: &Append) -> Result<(), ErrorKind> {
    let Some(expected) = append.expected else { return Ok(()) };
    let head = header.map_or(Head::ABSENT, |header| header.head);
    let first_life_since = expected == Head::ABSENT && !header.is_some_and(|header| header.reborn);
    if head.epoch != expected.epoch && !first_life_since {
        return Err(ErrorKind::Gone);
    }
    if head.sequence < expected.sequence {
        return Err(ErrorKind::RolledBack);
    }
    if head.sequence > expected.sequence && append.concurrency == Concurrency::Strict {
        return Err(ErrorKind::Conflict);
    }
    Ok(())
}

/// Whose session a header is.
pub(super) fn owner(item: &Item) -> Result<SessionKey, KeyError> {
    Ok(SessionKey::from_parts(
        get_text(item, "tenant").map(Tenant::decode).transpose()?,
        get_text(item, "subject").map(Subject::decode).transpose()?,
        ConversationId::parse(get_text(item, "conversation").unwrap_or_default())?,
    ))
}
