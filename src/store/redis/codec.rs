//! What stands in Redis, and how it is read back.
//!
//! A session is one list: for each turn its id and its record, oldest first, and one header at the
//! end. Everything is readable text:
//!
//! ```text
//! 0  6f1c...e2                                              id of the oldest turn kept
//! 1  412 2 {"v":1,"id":"6f1c...e2","at":...,"messages":[..] bytes, messages, record
//! 2  ...
//! -1 {"v":1,"epoch":...,"turns":12,"base":0,"bytes":...,"messages":...,"reborn":0,"at":...}
//! ```

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use redis::Value;
use serde::Deserialize;

use super::failure::Failure;
use crate::key::{SessionKey, Subject};
use crate::store::{Loaded, Read};
use crate::turn::{Head, RecordError, Turn};

/// The version of the header that this build writes and reads.
const VERSION: u64 = 1;

/// Names of keys. The braces make a session's whole key but the prefix its Cluster hash tag.
#[derive(Clone, Debug)]
pub(super) struct Names {
    prefix: String,
}

impl Names {
    pub(super) fn new(prefix: String) -> Self {
        Self { prefix }
    }

    pub(super) fn session(&self, key: &SessionKey) -> Vec<u8> {
        format!("{}:{{{}}}", self.prefix, key.encoded()).into_bytes()
    }

    /// The sorted set of a subject's sessions.
    pub(super) fn index(&self, subject: &Subject) -> Vec<u8> {
        format!("{}:of:{{{}}}", self.prefix, subject.encoded()).into_bytes()
    }

    /// Exists once the indexes hold all that was stored before.
    pub(super) fn indexed(&self) -> Vec<u8> {
        format!("{}:indexed", self.prefix).into_bytes()
    }

    /// A glob for the keys of all sessions.
    pub(super) fn sessions(&self) -> String {
        let escaped: String =
            self.prefix.chars().flat_map(|c| [(!c.is_alphanumeric()).then_some('\\'), Some(c)]).flatten().collect();
        format!("{escaped}:{{*}}")
    }

    pub(super) fn session_of(&self, key: &[u8]) -> Option<SessionKey> {
        let key = std::str::from_utf8(key).ok()?.strip_prefix(self.prefix.as_str())?;
        SessionKey::decode(key.strip_prefix(":{")?.strip_suffix('}')?).ok()
    }
}

/// The last element of a session's list.
#[derive(Debug, Deserialize)]
pub(super) struct Header {
    pub(super) epoch: u64,
    pub(super) turns: u64,
    base: u64,
    bytes: u64,
    messages: u64,
    at: u64,
}

impl Header {
    pub(super) fn parse(raw: &[u8]) -> Result<Self, Failure> {
        #[derive(Deserialize)]
        struct Version {
            v: u64,
        }
        match serde_json::from_slice(raw) {
            Ok(Version { v }) if v > VERSION => Err(Failure::Newer),
            Ok(Version { v: VERSION }) => {
                serde_json::from_slice(raw).map_err(|_| Failure::Unreadable("the session's header cannot be read"))
            }
            _ => Err(Failure::Unreadable("the key holds something else than a session")),
        }
    }

    pub(super) fn head(&self) -> Head {
        Head::new(self.epoch, self.turns)
    }

    pub(super) fn last_active(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(self.at)
    }

    pub(super) fn is_trimmed(&self) -> bool {
        self.base > 0
    }

    fn kept(&self) -> u64 {
        self.turns.saturating_sub(self.base)
    }
}

/// A turn as its element, with the sizes that scripts count by in front.
pub(super) fn encode(key: &SessionKey, turn: &Turn) -> Vec<u8> {
    let record = turn.to_record(key);
    let mut element = format!("{} {} ", turn.bytes(), turn.messages().len()).into_bytes();
    element.extend_from_slice(&record);
    element
}

/// A turn from its element, sharing its memory.
pub(super) fn decode(key: &SessionKey, element: Vec<u8>) -> Result<Turn, Failure> {
    let mut spaces = element.iter().enumerate().filter(|(_, byte)| **byte == b' ');
    let start = spaces.nth(1).map(|(at, _)| at + 1).ok_or(Failure::Unreadable("a record has no sizes"))?;
    Turn::from_record(key, Bytes::from(element).slice(start..)).map_err(|error| match error {
        RecordError::NewerVersion { .. } => Failure::Newer,
        RecordError::Corrupt => Failure::Unreadable("a record is damaged or belongs to another session"),
    })
}

pub(super) fn bytes(value: Value) -> Result<Vec<u8>, Failure> {
    match value {
        Value::BulkString(bytes) => Ok(bytes),
        _ => Err(Failure::Unreadable("an element is not text")),
    }
}

/// The end of a session's list, as `LRANGE` gave it: some turns and the header.
pub(super) struct Tail {
    pub(super) header: Header,
    /// Ids and records in turns, oldest first.
    elements: Vec<Value>,
}

impl Tail {
    /// `None` for an empty answer.
    pub(super) fn parse(value: Value) -> Result<Option<Self>, Failure> {
        let Value::Array(mut elements) = value else { return Err(super::link::unexpected("LRANGE")) };
        let Some(header) = elements.pop() else { return Ok(None) };
        Ok(Some(Self { header: Header::parse(&bytes(header)?)?, elements }))
    }

    fn turns(&self) -> u64 {
        self.elements.len() as u64 / 2
    }

    /// What is newer than a head, where this tail shows it: of the same life and without a gap.
    pub(super) fn since(&self, known: Head) -> Option<u64> {
        let newer = self.header.turns.checked_sub(known.sequence)?;
        (self.header.epoch == known.epoch && newer <= self.header.kept() && newer <= self.turns()).then_some(newer)
    }

    /// The answer to a load whose turns are at the end of this tail.
    pub(super) fn loaded(self, key: &SessionKey, read: &Read) -> Result<Loaded, Failure> {
        let newer = read.known.and_then(|known| self.since(known));
        let Self { header, elements } = self;
        if elements.len() % 2 != 0 || elements.len() as u64 / 2 > header.kept() {
            return Err(Failure::Unreadable("a session has another number of records than its header says"));
        }
        let take = newer.unwrap_or(u64::MAX).min(elements.len() as u64 / 2) as usize;
        let skip = elements.len() - 2 * take;
        let mut turns = Vec::with_capacity(take);
        for record in elements.into_iter().skip(skip).skip(1).step_by(2) {
            turns.push(decode(key, bytes(record)?)?);
        }
        let fitting = read.window.fit(turns.iter().rev().map(|turn| (turn.messages().len(), turn.bytes())));
        let since = read.known.filter(|_| newer.is_some_and(|newer| newer == fitting as u64));
        turns.drain(..turns.len() - fitting);
        // All turns fit if their totals do: the header has them, so a delta need not count the rest.
        let whole = header.kept() as u128 <= read.window.turns as u128
            && (header.kept() <= 1
                || (u128::from(header.bytes) <= read.window.bytes as u128
                    && u128::from(header.messages) <= read.window.messages as u128));
        Ok(Loaded::new(header.head(), turns, !whole).kept(header.kept()).since(since))
    }
}
