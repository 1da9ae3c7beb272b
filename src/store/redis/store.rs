//! The store itself: one command to load, one to append.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use redis::{Cmd, Value};

use super::codec::{Mark, Names, Tail, bytes, decode};
use super::failure::Failure;
use super::link::{Request, unexpected};
use super::probe::RedisAck;
use super::script::{Call, Scripts, elements};
use super::servers::Servers;
use super::{NAME, NOTED};
use crate::key::{Scope, SessionKey};
use crate::policy::{Concurrency, Retention, Window};
use crate::store::{
    Append, Appended, Deleted, Durability, ErrorKind, FENCE, Loaded, Location, Operation, Page, PoolState, Read,
    SessionPage, Sharing, Store, StoreError, StoreInfo, unix_millis,
};
use crate::turn::Head;

/// Sessions in Redis or Valkey: one memory for many pods.
///
/// See the [module](crate::store::redis)'s documentation for what is stored and how it fails.
pub struct RedisStore {
    pub(super) servers: Servers,
    pub(super) names: Names,
    pub(super) scripts: Scripts,
    pub(super) ack: RedisAck,
    pub(super) durability: Durability,
    pub(super) location: Option<Location>,
    /// Whether sessions here lose old turns, as far as this process has seen: then positions in the
    /// list do not follow from a head alone.
    pub(super) trims: AtomicBool,
    /// The next append's number, counted from a random one.
    pub(super) lineages: AtomicU64,
}

impl RedisStore {
    /// Loads through plain commands where they can say exactly what is wanted.
    async fn load_now(&self, key: &SessionKey, read: &Read) -> Result<Loaded, Failure> {
        if read.find.is_none() {
            if let Some(known) = read.known.filter(|known| known.epoch > 0 && !self.trims.load(Ordering::Relaxed)) {
                // The header of the known turn stands at this place, unless older ones were trimmed. One
                // element more than the window has room for: whether that is all.
                let (first, most) = (3 * i128::from(known.sequence), roughly(read.window));
                let elements = self.range(key, first, first + 3 * (most as i128) + 1).await?;
                if elements.len() as u128 <= 3 * (most as u128) + 1
                    && let Some(tail) = Tail::parse(elements)?
                    && tail.follows(read)
                {
                    let kept = tail.last.turns;
                    return tail.loaded(key, read, Some(kept));
                }
                // Gone, begun anew, rolled back, trimmed, or far ahead: rare, and worth a second question.
            } else if let Window { turns, messages: usize::MAX, bytes: usize::MAX } = read.window
                && read.known.is_none()
            {
                // One element more: whether there is anything before.
                let tail = Tail::parse(self.range(key, -3 * (turns as i128) - 2, -1).await?)?;
                return tail.map_or_else(|| Ok(Loaded::absent()), |tail| tail.loaded(key, read, None));
            }
        }
        self.load_by_script(key, read).await
    }

    /// `LRANGE key start stop`.
    async fn range(&self, key: &SessionKey, start: i128, stop: i128) -> Result<Vec<Value>, Failure> {
        let name = self.names.session(key);
        let within = |index: i128| index.clamp(i64::MIN.into(), i64::MAX.into()) as i64;
        let mut command = Cmd::with_capacity(4, name.len() + 64);
        command.arg("LRANGE").arg(&name).arg(within(start)).arg(within(stop));
        match self.servers.call(&name, &Request::new(command)).await?.value {
            Value::Array(elements) => Ok(elements),
            _ => Err(unexpected("LRANGE")),
        }
    }

    async fn load_by_script(&self, key: &SessionKey, read: &Read) -> Result<Loaded, Failure> {
        let name = self.names.session(key);
        let known = read.known.unwrap_or(Head::ABSENT);
        let call = Call { script: &self.scripts.load, keys: &[&name], confirm: None, size: 64 };
        let reply = call.run(&self.servers, |command| {
            command.arg(read.window.turns).arg(read.window.messages).arg(read.window.bytes);
            command.arg(known.epoch).arg(known.sequence);
            command.arg(header(read.lineage.map(|lineage| (known, Mark::of(lineage)))));
            command.arg(read.find.map_or_else(String::new, |id| id.to_string()));
        });
        let mut answer = elements(reply.await?.value)?.into_iter();
        let (Some(found), Some(kept), Some(list)) = (answer.next(), answer.next(), answer.next()) else {
            return Ok(Loaded::absent());
        };
        let found = match bytes(found)? {
            none if none.is_empty() => None,
            record => Some(decode(key, record)?),
        };
        let kept = number(kept).ok_or_else(|| unexpected("the load script"))?;
        let tail = Tail::parse(elements(list)?)?.ok_or_else(|| unexpected("the load script"))?;
        self.trims.fetch_or(kept < tail.last.turns, Ordering::Relaxed);
        Ok(tail.loaded(key, read, Some(kept))?.found(found))
    }

    async fn append_now(&self, key: &SessionKey, append: &Append) -> Result<Appended, Failure> {
        let name = self.names.session(key);
        let record = append.turn.to_record(key);
        let ttl = append.ttl.and_then(millis);
        let own = Mark {
            number: self.lineages.fetch_add(1, Ordering::Relaxed),
            bytes: append.turn.bytes() as u64,
            messages: append.turn.messages().len() as u64,
            // By the caller's clock, as the turn's own time.
            at: unix_millis(append.turn.at()),
        };
        let seen = append.expected.and_then(|head| Some((head, Mark::of(append.lineage?))));
        // What will stand there if nothing has happened since, as nearly always.
        let next = seen.filter(|_| append.searched);
        let next = next.map(|(head, seen)| (Head::new(head.epoch, head.sequence + 1), own.behind(seen)));
        let conditions = conditions(append, own);
        let tell = seen.is_none_or(|(_, seen)| seen.at / NOTED != own.at / NOTED);
        let arguments = |command: &mut Cmd| {
            command.arg(&record).arg(append.turn.id().to_string());
            command.arg(header(seen)).arg(header(next)).arg(optional(ttl)).arg(&conditions);
            if tell || append.retention != Retention::default() {
                command.arg(if tell { "1" } else { "" });
            }
            if append.retention != Retention::default() {
                command.arg(optional(append.retention.turns)).arg(optional(append.retention.bytes));
            }
        };
        let index = key.subject().map(|subject| self.names.index(subject));
        let mut keys = vec![&name[..]];
        keys.extend(index.as_deref().filter(|_| !self.servers.are_many()));
        let call = Call { script: &self.scripts.append, keys: &keys, confirm: self.ack.command(), size: record.len() };
        let appended = call.run(&self.servers, arguments);
        let reply = match index.as_deref().filter(|_| self.servers.are_many()) {
            None => appended.await?,
            // On another node: at the same time, so that it costs no time.
            Some(index) => futures_util::join!(appended, self.note(index, key, ttl, own.at)).0?,
        };
        let confirmed = self.ack.satisfied(&reply);
        let answer = Answer::parse(reply.value)?;
        // A shortfall says nothing about what was refused.
        if !confirmed && !matches!(answer, Answer::Refused(_)) {
            return Err(Failure::Unconfirmed);
        }
        let (head, mark) = match answer {
            Answer::AsForeseen => next.ok_or_else(|| unexpected("the append script"))?,
            Answer::Stored { head, bytes, messages } => (head, Mark { bytes, messages, ..own }),
            Answer::Duplicate { head, sequence, record } => {
                return Ok(Appended::duplicate(head, sequence, decode(key, record)?));
            }
            Answer::Refused(verdict) => return Err(Failure::Verdict(verdict)),
        };
        if append.retention.turns.is_some_and(|most| head.sequence > most) {
            self.trims.store(true, Ordering::Relaxed);
        }
        Ok(Appended { lineage: Some(mark.lineage()), ..Appended::stored(head) })
    }

    /// Notes a session in its subject's index. Advisory: what goes wrong here is only logged.
    async fn note(&self, index: &[u8], key: &SessionKey, ttl: Option<u64>, at: u64) {
        let call = Call { script: &self.scripts.index, keys: &[index], confirm: None, size: 64 };
        let noted = call.run(&self.servers, |command| {
            command.arg(self.names.session(key)).arg(at).arg(optional(ttl));
        });
        if let Err(failure) = noted.await {
            tracing::debug!(session = %key.hashed(), error = %failure, "the session is not in its subject's index");
        }
    }

    async fn delete_now(&self, key: &SessionKey) -> Result<Deleted, Failure> {
        let name = self.names.session(key);
        let index = key.subject().map(|subject| self.names.index(subject));
        let mut keys = vec![&name[..]];
        keys.extend(index.as_deref().filter(|_| !self.servers.are_many()));
        let arguments = |command: &mut Cmd| {
            command.arg(FENCE.as_millis() as u64).arg(key.encoded());
        };
        let run =
            |script| Call { script, keys: &keys, confirm: self.ack.command(), size: 64 }.run(&self.servers, arguments);
        let reply = match run(&self.scripts.delete).await {
            Err(failure) if failure.code() == Some("OOM") => run(&self.scripts.delete_when_full).await?,
            reply => reply?,
        };
        if !self.ack.satisfied(&reply) {
            return Err(Failure::Unconfirmed);
        }
        let mut answer = elements(reply.value)?.into_iter();
        match (answer.next(), answer.next()) {
            (Some(Value::BulkString(word)), Some(Value::Int(turns))) if word == b"deleted" => {
                Ok(Deleted::new(u64::try_from(turns).unwrap_or_default()))
            }
            (_, Some(Value::BulkString(header))) => Err(unreadable(&header)),
            _ => Err(unexpected("the delete script")),
        }
    }
}

/// What the append script decided.
enum Answer {
    /// Stored, right behind what the caller has seen.
    AsForeseen,
    Stored {
        head: Head,
        bytes: u64,
        messages: u64,
    },
    Duplicate {
        head: Head,
        sequence: u64,
        record: Vec<u8>,
    },
    Refused(ErrorKind),
}

impl Answer {
    fn parse(value: Value) -> Result<Self, Failure> {
        if let Value::Int(0) = value {
            return Ok(Self::AsForeseen);
        }
        let mut answer = elements(value)?.into_iter();
        let word = answer.next().map(bytes).transpose()?.unwrap_or_default();
        let wrong = || unexpected("the append script");
        let mut head = || {
            let epoch = bytes(answer.next()?).ok()?;
            let epoch = std::str::from_utf8(&epoch).ok()?.parse().ok()?;
            Some(Head::new(epoch, number(answer.next()?)?))
        };
        let head = match &word[..] {
            b"stored" | b"duplicate" => head().ok_or_else(wrong)?,
            b"gone" => return Ok(Self::Refused(ErrorKind::Gone)),
            b"rolled_back" => return Ok(Self::Refused(ErrorKind::RolledBack)),
            b"conflict" => return Ok(Self::Refused(ErrorKind::Conflict)),
            b"unreadable" => return Err(unreadable(&answer.next().map(bytes).transpose()?.unwrap_or_default())),
            _ => return Err(wrong()),
        };
        let first = answer.next().and_then(number).ok_or_else(wrong)?;
        let second = answer.next().ok_or_else(wrong)?;
        Ok(match &word[..] {
            b"stored" => Self::Stored { head, bytes: first, messages: number(second).ok_or_else(wrong)? },
            _ => Self::Duplicate { head, sequence: first, record: bytes(second)? },
        })
    }
}

fn number(value: Value) -> Option<u64> {
    match value {
        Value::Int(number) => u64::try_from(number).ok(),
        _ => None,
    }
}

/// Why the scripts could not read a header.
fn unreadable(header: &[u8]) -> Failure {
    match super::codec::Header::parse(header) {
        Err(failure) => failure,
        Ok(_) => Failure::Unreadable("the session's header is not as it is written"),
    }
}

/// How many turns a window has room for if they are small; who is further behind asks the script.
fn roughly(window: Window) -> usize {
    window.turns.min(window.messages).min(window.bytes / 256 + 1)
}

/// What the append script has to decide by, where the newest header alone does not do.
fn conditions(append: &Append, own: Mark) -> String {
    let (epoch, turns) = match append.expected {
        Some(head) => (head.epoch.to_string(), head.sequence),
        None => Default::default(),
    };
    let (strict, searched) = (u8::from(append.concurrency == Concurrency::Strict), u8::from(append.searched));
    let Mark { number, bytes, messages, at } = own;
    format!("{epoch} {turns} {bytes} {messages} {at} {strict} {searched} {number:016x}")
}

/// A header as it is stored, empty for none.
fn header(seen: Option<(Head, Mark)>) -> String {
    seen.map_or_else(String::new, |(head, mark)| mark.header(head))
}

pub(super) fn optional(value: Option<u64>) -> String {
    value.map_or_else(String::new, |value| value.to_string())
}

/// A life in milliseconds, at least 1; `None` for one so long that Redis cannot count it.
fn millis(ttl: Duration) -> Option<u64> {
    const LONGEST: u128 = 100_000_000_000_000;
    let millis = ttl.as_millis().max(1);
    (millis <= LONGEST).then_some(millis as u64)
}

impl Store for RedisStore {
    fn info(&self) -> StoreInfo {
        StoreInfo { location: self.location.clone(), ..StoreInfo::new(NAME, Sharing::Network, self.durability) }
    }

    fn pool(&self) -> Option<PoolState> {
        Some(self.servers.pool())
    }

    async fn load(&self, key: &SessionKey, read: &Read) -> Result<Loaded, StoreError> {
        self.load_now(key, read).await.map_err(|failure| failure.into_error(Operation::Load))
    }

    async fn append(&self, key: &SessionKey, append: &Append) -> Result<Appended, StoreError> {
        let appended = self.append_now(key, append).await;
        appended.map_err(|failure| {
            let error = failure.into_error(Operation::Append);
            if error.kind() == ErrorKind::RolledBack {
                tracing::error!(session = %key.hashed(), "redis lost turns that it had acknowledged");
            }
            error
        })
    }

    async fn delete(&self, key: &SessionKey) -> Result<Deleted, StoreError> {
        self.delete_now(key).await.map_err(|failure| failure.into_error(Operation::Delete))
    }

    async fn list(&self, scope: &Scope, page: &Page) -> Result<SessionPage, StoreError> {
        self.list_now(scope, page).await.map_err(|failure| failure.into_error(Operation::List))
    }

    async fn ping(&self) -> Result<(), StoreError> {
        for master in self.servers.masters() {
            let ping = master.call(&Request::new(redis::cmd("PING"))).await;
            ping.map_err(|failure| failure.into_error(Operation::Ping))?;
        }
        Ok(())
    }
}

impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStore")
            .field("servers", &self.servers.word())
            .field("durability", &self.durability)
            .field("ack", &self.ack)
            .finish_non_exhaustive()
    }
}
