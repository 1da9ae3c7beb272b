//! The store itself: one command to load, one to append.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use redis::{Cmd, Value};

use super::codec::{Names, Tail, bytes, decode, lineage_text};
use super::failure::Failure;
use super::link::{Request, unexpected};
use super::probe::RedisAck;
use super::script::{Call, Scripts, elements};
use super::servers::Servers;
use super::{FENCE, NAME};
use crate::key::{Scope, SessionKey};
use crate::policy::{Concurrency, Retention, Window};
use crate::store::{
    Append, Appended, Deleted, Durability, Lineage, Loaded, Operation, Page, PoolState, Read, SessionPage, Sharing,
    Store, StoreError, StoreInfo, unix_millis,
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
                // The header of the known turn stands at this place, unless older ones were trimmed.
                if let Some(tail) = self.range(key, 3 * i128::from(known.sequence)).await?
                    && tail.follows(read)
                {
                    let kept = tail.last.turns;
                    return tail.loaded(key, read, Some(kept));
                }
                // Gone, begun anew, rolled back or trimmed: rare, and worth a second question.
            } else if let Window { turns, messages: usize::MAX, bytes: usize::MAX } = read.window
                && read.known.is_none()
            {
                // One element more: whether there is anything before.
                let tail = self.range(key, -3 * (turns as i128) - 2).await?;
                return tail.map_or_else(|| Ok(Loaded::absent()), |tail| tail.loaded(key, read, None));
            }
        }
        self.load_by_script(key, read).await
    }

    /// `LRANGE key start -1`: some turns, each between headers.
    async fn range(&self, key: &SessionKey, start: i128) -> Result<Option<Tail>, Failure> {
        let name = self.names.session(key);
        let mut command = redis::cmd("LRANGE");
        command.arg(&name).arg(start.clamp(i64::MIN.into(), i64::MAX.into()) as i64).arg(-1);
        Tail::parse(self.servers.call(&name, &Request::new(command)).await?.value)
    }

    async fn load_by_script(&self, key: &SessionKey, read: &Read) -> Result<Loaded, Failure> {
        let name = self.names.session(key);
        let known = read.known.unwrap_or(Head::ABSENT);
        let call = Call { script: &self.scripts.load, keys: &[&name], confirm: None };
        let reply = call.run(&self.servers, |command| {
            command.arg(read.window.turns).arg(read.window.messages).arg(read.window.bytes);
            command.arg(known.epoch).arg(known.sequence).arg(lineage_text(read.lineage));
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
        let tail = Tail::parse(list)?.ok_or_else(|| unexpected("the load script"))?;
        self.trims.fetch_or(kept < tail.last.turns, Ordering::Relaxed);
        Ok(tail.loaded(key, read, Some(kept))?.found(found))
    }

    async fn append_now(&self, key: &SessionKey, append: &Append) -> Result<Appended, Failure> {
        let name = self.names.session(key);
        let index = key.subject().map(|subject| self.names.index(subject));
        let record = append.turn.to_record(key);
        let lineage = Lineage(self.lineages.fetch_add(1, Ordering::Relaxed));
        let (ttl, at) = (append.ttl.and_then(millis), unix_millis(append.turn.at()));
        let arguments = |command: &mut Cmd| {
            command.arg(append.turn.id().to_string()).arg(&record);
            command.arg(append.turn.bytes()).arg(append.turn.messages().len());
            match append.expected {
                Some(head) => command.arg(head.epoch).arg(head.sequence),
                None => command.arg("").arg(0),
            };
            command.arg(lineage_text(append.lineage));
            command.arg(u8::from(append.concurrency == Concurrency::Strict)).arg(u8::from(append.searched));
            // By the caller's clock, as the turn's own time: asking the server takes a sixth of the script.
            command.arg(optional(ttl)).arg(optional(ttl.map(with_slack))).arg(key.encoded()).arg(at);
            command.arg(lineage_text(Some(lineage)));
            if append.retention != Retention::default() {
                command.arg(optional(append.retention.turns)).arg(optional(append.retention.bytes));
            }
        };
        let mut keys = vec![&name[..]];
        keys.extend(index.as_deref().filter(|_| !self.servers.are_many()));
        let call = Call { script: &self.scripts.append, keys: &keys, confirm: self.ack.command() };
        let appended = call.run(&self.servers, arguments);
        let reply = match index.as_deref().filter(|_| self.servers.are_many()) {
            None => appended.await?,
            // On another node: at the same time, so that it costs no time.
            Some(index) => futures_util::join!(appended, self.note(index, key, ttl, at)).0?,
        };
        let confirmed = self.ack.satisfied(&reply);
        let answer = Answer::parse(reply.value, append.expected)?;
        // A shortfall says nothing about what was refused.
        if !confirmed && matches!(answer, Answer::Stored(_) | Answer::Duplicate { .. }) {
            return Err(Failure::Unconfirmed);
        }
        match answer {
            Answer::Stored(head) => {
                if append.retention.turns.is_some_and(|most| head.sequence > most) {
                    self.trims.store(true, Ordering::Relaxed);
                }
                Ok(Appended { lineage: Some(lineage), ..Appended::stored(head) })
            }
            Answer::Duplicate { head, sequence, record } => {
                Ok(Appended::duplicate(head, sequence, decode(key, record)?))
            }
            Answer::Refused(verdict) => Err(Failure::Verdict(verdict)),
        }
    }

    /// Notes a session in its subject's index. Advisory: what goes wrong here is only logged.
    async fn note(&self, index: &[u8], key: &SessionKey, ttl: Option<u64>, at: u64) {
        let call = Call { script: &self.scripts.index, keys: &[index], confirm: None };
        let noted = call.run(&self.servers, |command| {
            command.arg(key.encoded()).arg(optional(ttl.map(with_slack))).arg(at);
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
        let run = |script| Call { script, keys: &keys, confirm: self.ack.command() }.run(&self.servers, arguments);
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
    Stored(Head),
    Duplicate { head: Head, sequence: u64, record: Vec<u8> },
    Refused(crate::store::ErrorKind),
}

impl Answer {
    fn parse(value: Value, expected: Option<Head>) -> Result<Self, Failure> {
        use crate::store::ErrorKind;
        // The short answer: stored in the life that was expected.
        if let (Value::Int(turns), Some(expected)) = (&value, expected) {
            return Ok(Self::Stored(Head::new(expected.epoch, u64::try_from(*turns).unwrap_or_default())));
        }
        let mut answer = elements(value)?.into_iter();
        let word = answer.next().map(bytes).transpose()?.unwrap_or_default();
        let mut head = || {
            let epoch = bytes(answer.next()?).ok()?;
            let epoch = std::str::from_utf8(&epoch).ok()?.parse().ok()?;
            Some(Head::new(epoch, number(answer.next()?)?))
        };
        let wrong = || unexpected("the append script");
        match &word[..] {
            b"stored" => Ok(Self::Stored(head().ok_or_else(wrong)?)),
            b"duplicate" => {
                let head = head().ok_or_else(wrong)?;
                let sequence = answer.next().and_then(number).ok_or_else(wrong)?;
                Ok(Self::Duplicate { head, sequence, record: bytes(answer.next().ok_or_else(wrong)?)? })
            }
            b"gone" => Ok(Self::Refused(ErrorKind::Gone)),
            b"rolled_back" => Ok(Self::Refused(ErrorKind::RolledBack)),
            b"conflict" => Ok(Self::Refused(ErrorKind::Conflict)),
            b"unreadable" => Err(unreadable(&answer.next().map(bytes).transpose()?.unwrap_or_default())),
            _ => Err(wrong()),
        }
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

fn optional(value: Option<u64>) -> String {
    value.map_or_else(String::new, |value| value.to_string())
}

/// What a life is set to, so that not every append has to set it: at most a sixty-fourth more than
/// was asked for.
const fn with_slack(millis: u64) -> u64 {
    millis + millis / 64
}

/// A life in milliseconds, at least 1; `None` for one so long that Redis cannot count it.
fn millis(ttl: Duration) -> Option<u64> {
    const LONGEST: u128 = 100_000_000_000_000;
    let millis = ttl.as_millis().max(1);
    (millis <= LONGEST).then_some(millis as u64)
}

impl Store for RedisStore {
    fn info(&self) -> StoreInfo {
        StoreInfo::new(NAME, Sharing::Network, self.durability)
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
            if error.kind() == crate::store::ErrorKind::RolledBack {
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
