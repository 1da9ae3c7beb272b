//! What stands in Redis, and how it is read back.
//!
//! A session is one list: a header, and for each turn its record, its id and a header once more,
//! oldest first. Everything is readable text:
//!
//! ```text
//!  0  1 1732450000000000 0 0 0 1732450000000
//!  1  {"v":1,"id":"6f1c...e2","at":...,"messages":[...],"sum":"..."}       record
//!  2  6f1c...e2                                                           id
//!  3  1 1732450000000000 1 412 2 1732450000000 6f1c0a88b1d2c3e4
//!     version, epoch, turns, bytes, messages, at, number
//! ```
//!
//! A header is never written again. It counts from the beginning of the life, so how much any run of
//! turns takes up is the difference of two headers, and trimming the oldest turns leaves the header of
//! the last one trimmed as the first element. Its last field is a number of its append alone, so that
//! turns which were lost, and whose places others have taken since, are noticed, even where the same
//! turn was stored again. The epoch is odd in a life that followed a delete.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use redis::Value;

use super::failure::Failure;
use crate::key::{SessionKey, Subject};
use crate::store::{Lineage, Loaded, Read};
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
        [&self.prefix, ":{", key.encoded(), "}"].concat().into_bytes()
    }

    /// The sorted set of a subject's sessions.
    pub(super) fn index(&self, subject: &Subject) -> Vec<u8> {
        [&self.prefix, ":of:{", subject.encoded(), "}"].concat().into_bytes()
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

/// What a session was like after one of its turns; the last element of its list says what it is like.
#[derive(Debug, Clone, Copy)]
pub(super) struct Header {
    pub(super) epoch: u64,
    pub(super) turns: u64,
    at: u64,
    lineage: Option<Lineage>,
}

/// What a header says beside the head: who has it can tell the next one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mark {
    pub(super) number: u64,
    pub(super) bytes: u64,
    pub(super) messages: u64,
    pub(super) at: u64,
}

impl Mark {
    pub(super) fn of(Lineage([number, bytes, messages, at]): Lineage) -> Self {
        Self { number, bytes, messages, at }
    }

    pub(super) fn lineage(self) -> Lineage {
        Lineage([self.number, self.bytes, self.messages, self.at])
    }

    /// Of a turn by itself, what it is behind another.
    pub(super) fn behind(self, other: Self) -> Self {
        Self { bytes: other.bytes + self.bytes, messages: other.messages + self.messages, ..self }
    }

    /// The header as it is stored.
    pub(super) fn header(self, head: Head) -> String {
        let Self { number, bytes, messages, at } = self;
        format!("{VERSION} {} {} {bytes} {messages} {at} {number:016x}", head.epoch, head.sequence)
    }
}

impl Header {
    pub(super) fn parse(raw: &[u8]) -> Result<Self, Failure> {
        const STRANGE: Failure = Failure::Unreadable("the key holds something else than a session");
        let text = std::str::from_utf8(raw).map_err(|_| STRANGE)?;
        let mut fields = text.split(' ');
        let mut field = || fields.next().and_then(|digits| digits.parse::<u64>().ok());
        match field() {
            Some(VERSION) => {}
            Some(newer) if newer > VERSION => return Err(Failure::Newer),
            _ => return Err(STRANGE),
        }
        let unreadable = || Failure::Unreadable("a header of the session cannot be read");
        let mut next = || field().ok_or_else(unreadable);
        let (epoch, turns, bytes, messages, at) = (next()?, next()?, next()?, next()?, next()?);
        let lineage = match fields.next() {
            Some("") => None,
            Some(digits) => {
                let number = u64::from_str_radix(digits, 16).map_err(|_| unreadable())?;
                Some(Mark { number, bytes, messages, at }.lineage())
            }
            None => return Err(unreadable()),
        };
        Ok(Self { epoch, turns, at, lineage })
    }

    pub(super) fn head(&self) -> Head {
        Head::new(self.epoch, self.turns)
    }

    pub(super) fn last_active(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(self.at)
    }

    /// Whether this is what the caller knows: of the same life, as many turns, and the same ones.
    fn is(&self, known: Head, lineage: Option<Lineage>) -> bool {
        self.head() == known && (lineage.is_none() || self.lineage == lineage)
    }
}

/// A turn from its record, sharing its memory.
pub(super) fn decode(key: &SessionKey, record: Vec<u8>) -> Result<Turn, Failure> {
    Turn::from_record(key, record).map_err(|error| match error {
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

/// The end of a session's list: a header, and the turns since, each with the header after it.
pub(super) struct Tail {
    first: Header,
    pub(super) last: Header,
    /// Record, id and header in turn, oldest first; without the first header.
    elements: Vec<Value>,
    /// Whether a turn stands before the first header.
    more: bool,
}

impl Tail {
    /// Reads what `LRANGE` gave. `None` for an empty answer.
    ///
    /// Its first element is a header, or the id before one.
    pub(super) fn parse(mut elements: Vec<Value>) -> Result<Option<Self>, Failure> {
        let Some(Value::BulkString(last)) = elements.last() else { return Ok(None) };
        let last = Header::parse(last)?;
        let more = elements.len() % 3 == 2;
        let first = bytes(elements.drain(..1 + usize::from(more)).next_back().unwrap_or(Value::Nil))?;
        let first = Header::parse(&first)?;
        let turns = elements.len() / 3;
        if !elements.len().is_multiple_of(3) || first.epoch != last.epoch || first.turns + turns as u64 != last.turns {
            return Err(Failure::Unreadable("a session has another number of turns than its header says"));
        }
        Ok(Some(Self { first, last, elements, more }))
    }

    fn turns(&self) -> u64 {
        self.last.turns - self.first.turns
    }

    /// Whether this begins just where the caller's own knowledge ends.
    pub(super) fn follows(&self, read: &Read) -> bool {
        read.known.is_some_and(|known| self.first.is(known, read.lineage))
    }

    /// The answer to a load whose turns are at the end of this tail. `kept` turns are stored, where
    /// the caller knows that.
    pub(super) fn loaded(self, key: &SessionKey, read: &Read, kept: Option<u64>) -> Result<Loaded, Failure> {
        let follows = self.follows(read);
        let count = self.turns() as usize;
        let Self { last, elements, more, .. } = self;
        let mut turns = Vec::with_capacity(count);
        for record in elements.into_iter().step_by(3) {
            turns.push(decode(key, bytes(record)?)?);
        }
        let fitting = read.window.fit(turns.iter().rev().map(|turn| (turn.messages().len(), turn.bytes())));
        let since = read.known.filter(|_| follows && fitting == count);
        turns.drain(..count - fitting);
        let older = fitting < count || kept.map_or(more, |kept| kept > count as u64);
        let mut loaded = Loaded::new(last.head(), turns, older).since(since);
        // Of a window that ends before the session does, no command but a count tells what is stored.
        loaded.kept = if older && since.is_none() { None } else { kept.or(Some(count as u64)) };
        loaded.lineage = last.lineage;
        Ok(loaded)
    }
}
