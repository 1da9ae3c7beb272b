//! What one request adds to a session, and how it is written as one record.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use crate::key::SessionKey;
use crate::message::Message;

/// The version of a session: which of its lives, and how many turns that life has had.
///
/// The sequence counts turns ever appended, trimmed ones included. The epoch changes when a session
/// is deleted or expires and is begun anew, so that a turn of the old life never enters the new one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Head {
    /// Which life of the session; 0 only while it never had one.
    pub epoch: u64,
    /// Turns appended in this life; the newest turn has this number, the first has 1.
    pub sequence: u64,
}

impl Head {
    /// The head of a session that does not exist.
    pub const ABSENT: Self = Self { epoch: 0, sequence: 0 };

    /// A head of this epoch and sequence.
    pub const fn new(epoch: u64, sequence: u64) -> Self {
        Self { epoch, sequence }
    }
}

/// The identity of a turn: the same id is stored at most once in a session.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TurnId([u8; 16]);

impl TurnId {
    /// 128 random bits: for a request that no retry will name.
    pub fn random() -> Self {
        Self(crate::hex::random_16())
    }

    /// The id that a client's idempotency key names in this session. The session is hashed in, so
    /// one key never means another user's turn.
    pub fn of_idempotency_key(session: &SessionKey, idempotency_key: &str) -> Self {
        let session = session.encoded();
        let digest = Sha256::new()
            .chain_update(b"tower-session-memory turn\0")
            .chain_update((session.len() as u64).to_be_bytes())
            .chain_update(session)
            .chain_update(idempotency_key)
            .finalize();
        let mut id = [0; 16];
        id.copy_from_slice(&digest[..16]);
        Self(id)
    }

    /// An id from its bytes.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The 16 bytes.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// Reads 32 lower-case hexadecimal digits, as `Display` writes them.
    pub fn parse(text: &str) -> Option<Self> {
        crate::hex::decode(text).map(Self)
    }
}

impl fmt::Display for TurnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&crate::hex::encode(&self.0))
    }
}

impl fmt::Debug for TurnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TurnId({self})")
    }
}

/// How a turn ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TurnStatus {
    /// The response ran to its end.
    Complete,
    /// The client left, or the response broke off: what had been appended by then.
    Interrupted,
}

impl TurnStatus {
    /// `complete` or `interrupted`, as records say it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Interrupted => "interrupted",
        }
    }
}

/// What one request added: question, tool traffic, answer. Immutable and cheap to clone.
#[derive(Clone, PartialEq, Eq)]
pub struct Turn(Arc<Inner>);

#[derive(PartialEq, Eq)]
struct Inner {
    id: TurnId,
    /// Milliseconds since 1970-01-01 UTC.
    at: u64,
    status: TurnStatus,
    /// JSON text.
    note: Option<Box<str>>,
    messages: Vec<Message>,
    bytes: usize,
}

/// Why a stored record cannot be read as a [`Turn`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// Cut, altered, or not a record of this session.
    #[error("the record is damaged or belongs to another session")]
    Corrupt,
    /// Written by a newer version of this crate.
    #[error("the record has format version {version}; this build reads up to {}", Turn::RECORD_VERSION)]
    NewerVersion {
        /// The version that the record names.
        version: u64,
    },
}

impl Turn {
    /// The version of the record format that this build writes, and the newest that it reads.
    pub const RECORD_VERSION: u64 = 1;

    /// A turn that happens now.
    pub fn new(id: TurnId, status: TurnStatus, messages: Vec<Message>) -> Self {
        Self::at_time(id, status, messages, SystemTime::now())
    }

    /// A turn that happened at this time, kept in whole milliseconds.
    pub fn at_time(id: TurnId, status: TurnStatus, messages: Vec<Message>, at: SystemTime) -> Self {
        let at = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
        Self::build(id, status, messages, at, None)
    }

    fn build(id: TurnId, status: TurnStatus, messages: Vec<Message>, at: u64, note: Option<Box<str>>) -> Self {
        let bytes = messages.iter().map(Message::len).sum();
        Self(Arc::new(Inner { id, at, status, note, messages, bytes }))
    }

    /// The same turn with a note beside its messages; see [`Turn::note`].
    #[must_use]
    pub fn with_note(self, note: Option<&RawValue>) -> Self {
        if note.is_none() && self.0.note.is_none() {
            return self;
        }
        let Inner { id, at, status, messages, .. } = &*self.0;
        Self::build(*id, *status, messages.clone(), *at, note.map(|note| note.get().into()))
    }

    /// The same turn in memory of its own, for whoever keeps it in a process: messages of a request
    /// may share the memory of its whole body.
    #[must_use]
    pub fn detached(&self) -> Self {
        let Inner { id, at, status, note, messages, .. } = &*self.0;
        Self::build(*id, *status, messages.iter().map(Message::detached).collect(), *at, note.clone())
    }

    /// The id under which it is stored.
    pub fn id(&self) -> TurnId {
        self.0.id
    }

    /// When it was made durable, by the clock of the instance that did it.
    pub fn at(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(self.0.at)
    }

    /// How it ended.
    pub fn status(&self) -> TurnStatus {
        self.0.status
    }

    /// The messages, in the order they were appended.
    pub fn messages(&self) -> &[Message] {
        &self.0.messages
    }

    /// What a layer on top keeps beside the messages, as raw JSON: never shown to a model, written
    /// by [`ChatSession::annotate`](crate::ChatSession::annotate).
    pub fn note(&self) -> Option<&str> {
        self.0.note.as_deref()
    }

    /// Size of all messages' JSON in bytes: what windows, limits and retention count.
    pub fn bytes(&self) -> usize {
        self.0.bytes
    }

    /// The turn as readable JSON, to be read back with [`Turn::from_record`]; on one line, unless a
    /// message has line breaks between its tokens:
    ///
    /// ```json
    /// {"v":1,"id":"<32 hex>","at":<ms since 1970>,"status":"complete","messages":[...],"sum":"<16 hex>"}
    /// ```
    ///
    /// A turn with a note has `"note":...` before its messages.
    /// Messages stand in it byte for byte. `sum` is a checksum over the session's key and all
    /// that comes before it, so a damaged record, or one of another session, is noticed.
    pub fn to_record(&self, session: &SessionKey) -> Vec<u8> {
        use std::io::Write;
        let Inner { id, at, status, note, messages, bytes } = &*self.0;
        let mut record = Vec::with_capacity(bytes + messages.len() + note.as_ref().map_or(0, |note| note.len()) + 168);
        let version = Self::RECORD_VERSION;
        let status = status.as_str();
        write!(record, r#"{{"v":{version},"id":"{id}","at":{at},"status":"{status}""#)
            .expect("writing to a Vec cannot fail");
        if let Some(note) = note {
            record.extend_from_slice(br#","note":"#);
            record.extend_from_slice(note.as_bytes());
        }
        record.extend_from_slice(br#","messages":["#);
        for (index, message) in messages.iter().enumerate() {
            if index > 0 {
                record.push(b',');
            }
            record.extend_from_slice(message.bytes());
        }
        record.push(b']');
        let sum = checksum(session, &record);
        write!(record, "{SUM_START}{sum}{SUM_END}").expect("writing to a Vec cannot fail");
        record
    }

    /// Reads what [`Turn::to_record`] wrote. The messages share the record's memory.
    ///
    /// # Errors
    /// [`RecordError`]; never another text than was written.
    pub fn from_record(session: &SessionKey, record: impl Into<Bytes>) -> Result<Self, RecordError> {
        #[derive(Deserialize)]
        struct Record<'a> {
            id: &'a str,
            at: u64,
            status: &'a str,
            #[serde(borrow, default)]
            note: Option<&'a RawValue>,
            #[serde(borrow)]
            messages: Vec<&'a RawValue>,
        }
        let record = record.into();
        // The version first: all else may look different in a newer one.
        let version = version_of(&record).ok_or(RecordError::Corrupt)?;
        if version > Self::RECORD_VERSION {
            return Err(RecordError::NewerVersion { version });
        }
        let corrupt = |_| RecordError::Corrupt;
        let (body, sum) = split_sum(&record).ok_or(RecordError::Corrupt)?;
        if version == 0 || sum != checksum(session, body).as_bytes() {
            return Err(RecordError::Corrupt);
        }
        let parsed: Record<'_> = serde_json::from_slice(&record).map_err(corrupt)?;
        let status = match parsed.status {
            "complete" => TurnStatus::Complete,
            "interrupted" => TurnStatus::Interrupted,
            _ => return Err(RecordError::Corrupt),
        };
        let messages = parsed
            .messages
            .iter()
            .map(|raw| Message::stored(record.slice_ref(raw.get().as_bytes())).map_err(|_| RecordError::Corrupt))
            .collect::<Result<_, _>>()?;
        let id = TurnId::parse(parsed.id).ok_or(RecordError::Corrupt)?;
        let note = parsed.note.map(|note| note.get().into());
        Ok(Self::build(id, status, messages, parsed.at, note))
    }
}

const SUM_START: &str = r#","sum":""#;
const SUM_DIGITS: usize = 16;
const SUM_END: &str = r#""}"#;

fn checksum(session: &SessionKey, body: &[u8]) -> String {
    let session = session.encoded();
    let digest = Sha256::new()
        .chain_update(b"tower-session-memory record\0")
        .chain_update((session.len() as u64).to_be_bytes())
        .chain_update(session)
        .chain_update(body)
        .finalize();
    crate::hex::encode(&digest[..SUM_DIGITS / 2])
}

fn split_sum(record: &[u8]) -> Option<(&[u8], &[u8])> {
    let rest = record.strip_suffix(SUM_END.as_bytes())?;
    let (rest, sum) = rest.split_at_checked(rest.len().checked_sub(SUM_DIGITS)?)?;
    Some((rest.strip_suffix(SUM_START.as_bytes())?, sum))
}

/// Every version begins `{"v":N,`, so that an old build can tell a newer record from a broken one.
fn version_of(record: &[u8]) -> Option<u64> {
    let rest = record.strip_prefix(br#"{"v":"#)?;
    let digits = rest.iter().position(|byte| *byte == b',')?;
    std::str::from_utf8(&rest[..digits]).ok()?.parse().ok()
}

impl fmt::Debug for Turn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Turn")
            .field("id", &self.0.id)
            .field("status", &self.0.status)
            .field("messages", &self.0.messages)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::key::ConversationId;

    fn session(id: &str) -> SessionKey {
        SessionKey::new(ConversationId::parse(id).unwrap())
    }

    fn turn() -> Turn {
        let messages =
            vec![Message::user("Grüße \0 \"quoted\""), Message::from_json(r#"{"role": "assistant"}"#).unwrap()];
        Turn::at_time(
            TurnId::from_bytes([7; 16]),
            TurnStatus::Complete,
            messages,
            UNIX_EPOCH + Duration::from_millis(12),
        )
    }

    #[test]
    fn a_record_is_one_readable_line() {
        let record = String::from_utf8(turn().to_record(&session("a"))).unwrap();
        let (body, _) = record.split_once(r#","sum""#).unwrap();
        assert_eq!(
            body,
            concat!(
                r#"{"v":1,"id":"07070707070707070707070707070707","at":12,"status":"complete","#,
                r#""messages":[{"role":"user","content":"Grüße \u0000 \"quoted\""},{"role": "assistant"}]"#
            )
        );
        let value: serde_json::Value = serde_json::from_str(&record).unwrap();
        assert_eq!(value["messages"].as_array().unwrap().len(), 2);
    }

    #[test]
    fn any_flipped_or_missing_byte_is_noticed() {
        let record = turn().to_record(&session("a"));
        for at in 0..record.len() {
            assert!(Turn::from_record(&session("a"), record[..at].to_vec()).is_err(), "cut at {at}");
            for bit in [1, 0x20, 0x80] {
                let mut flipped = record.clone();
                flipped[at] ^= bit;
                assert!(Turn::from_record(&session("a"), flipped).is_err(), "byte {at} ^ {bit}");
            }
        }
    }

    #[test]
    fn a_record_of_another_session_is_refused() {
        let record = turn().to_record(&session("a"));
        assert_eq!(Turn::from_record(&session("b"), record), Err(RecordError::Corrupt));
    }

    #[test]
    fn a_newer_version_is_refused_as_such() {
        let record = br#"{"v":2,"body":"who knows"}"#.to_vec();
        assert_eq!(Turn::from_record(&session("a"), record), Err(RecordError::NewerVersion { version: 2 }));
    }

    #[test]
    fn an_idempotency_key_means_something_else_in_every_session() {
        let id = |s: &str, k: &str| TurnId::of_idempotency_key(&session(s), k);
        assert_eq!(id("a", "k"), id("a", "k"));
        assert_ne!(id("a", "k"), id("b", "k"));
        assert_ne!(id("a", "bk"), id("ab", "k"));
    }

    proptest! {
        #[test]
        fn a_record_reads_back(texts in proptest::collection::vec(".{0,20}", 0..5), id: [u8; 16], at in 0..u64::from(u32::MAX)) {
            let messages: Vec<_> = texts.iter().map(Message::user).collect();
            let at = UNIX_EPOCH + Duration::from_millis(at);
            let turn = Turn::at_time(TurnId::from_bytes(id), TurnStatus::Interrupted, messages, at);
            let note = RawValue::from_string(format!(r#"{{"at": {}}}"#, texts.len())).unwrap();
            let turn = turn.with_note(texts.first().map(|_| &*note));
            let back = Turn::from_record(&session("a"), turn.to_record(&session("a"))).unwrap();
            prop_assert_eq!(back.note(), turn.note());
            prop_assert_eq!(&back, &turn);
            prop_assert_eq!(back.bytes(), turn.bytes());
        }

        #[test]
        fn reading_never_panics(record: Vec<u8>) {
            prop_assert!(Turn::from_record(&session("a"), record).is_err());
        }
    }
}
