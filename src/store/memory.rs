//! A store in this process's memory: the contract of [`Store`], written down as code.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use super::{
    Append, Appended, Cursor, Deleted, Durability, ErrorKind, FENCE, Loaded, Operation, Page, Read, SessionEntry,
    SessionPage, Sharing, Store, StoreError, StoreInfo, admit, next_epoch, unix_millis,
};
use crate::key::{Scope, SessionKey};
use crate::turn::{Head, Turn, TurnId};

const NAME: &str = "memory";

/// Sessions in the memory of this process, for tests and first steps.
///
/// A restart forgets everything and a second instance knows nothing: the layer says so when it
/// starts. Bounded by [`InMemoryLimits`]; when it is full, a turn is refused with
/// [`ErrorKind::Full`] rather than another conversation silently forgotten.
pub struct InMemory {
    limits: InMemoryLimits,
    state: Mutex<State>,
}

/// What an [`InMemory`] store may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct InMemoryLimits {
    /// The most sessions. Default: 100,000.
    pub sessions: usize,
    /// The most bytes of messages in all sessions. Default: 256 MiB.
    pub bytes: usize,
}

impl Default for InMemoryLimits {
    fn default() -> Self {
        Self { sessions: 100_000, bytes: 256 << 20 }
    }
}

impl InMemoryLimits {
    /// At most this many sessions and bytes of messages.
    pub const fn new(sessions: usize, bytes: usize) -> Self {
        Self { sessions, bytes }
    }
}

#[derive(Default)]
struct State {
    sessions: HashMap<SessionKey, Session>,
    bytes: usize,
}

#[derive(Default)]
struct Session {
    head: Head,
    /// The retained turns; the last one has the number `head.sequence`. Empty after a delete.
    turns: VecDeque<Turn>,
    expires_at: Option<SystemTime>,
    last_active: Option<SystemTime>,
    /// Whether this life follows a delete: whoever loaded "absent" did so before that delete.
    reborn: bool,
}

impl Session {
    fn expired(&self, now: SystemTime) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }

    fn bytes(&self) -> usize {
        self.turns.iter().map(Turn::bytes).sum()
    }

    /// Turns that were trimmed: the first retained one has this number plus 1.
    fn base(&self) -> u64 {
        self.head.sequence - self.turns.len() as u64
    }

    fn find(&self, id: TurnId) -> Option<(u64, &Turn)> {
        let index = self.turns.iter().position(|turn| turn.id() == id)?;
        Some((self.base() + index as u64 + 1, &self.turns[index]))
    }
}

impl Default for InMemory {
    fn default() -> Self {
        Self::new()
    }
}

impl InMemory {
    /// An empty store with the default limits.
    pub fn new() -> Self {
        Self::with_limits(InMemoryLimits::default())
    }

    /// An empty store with these limits.
    pub fn with_limits(limits: InMemoryLimits) -> Self {
        Self { limits, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change below is complete before anything could panic, so a poisoned state is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn append_now(&self, key: &SessionKey, append: &Append) -> Result<Appended, ErrorKind> {
        let now = SystemTime::now();
        let mut state = self.state();
        state.forget(key, now);

        let live = state.sessions.get(key);
        if let Some((sequence, turn)) = live.and_then(|session| session.find(append.turn.id())) {
            let answer = Appended::duplicate(live.map_or(Head::ABSENT, |s| s.head), sequence, turn.clone());
            state.touch(key, append, now);
            return Ok(answer);
        }
        let head = live.map_or(Head::ABSENT, |session| session.head);
        if let Some(expected) = append.expected {
            admit(head, expected, append.concurrency, live.is_some_and(|session| session.reborn))?;
        }

        if state.bytes + append.turn.bytes() > self.limits.bytes
            || (live.is_none() && state.sessions.len() >= self.limits.sessions)
        {
            state.forget_all(now);
            if state.bytes + append.turn.bytes() > self.limits.bytes
                || (!state.sessions.contains_key(key) && state.sessions.len() >= self.limits.sessions)
            {
                return Err(ErrorKind::Full);
            }
        }
        let session = state.sessions.entry(key.clone()).or_default();
        if session.head.epoch == 0 {
            session.head.epoch = next_epoch(0);
        }
        session.head.sequence += 1;
        session.turns.push_back(append.turn.clone());
        session.last_active = Some(now);
        let sizes: Vec<usize> = session.turns.iter().map(Turn::bytes).collect();
        let excess = append.retention.excess(&sizes);
        session.turns.drain(..excess);
        let head = session.head;
        let trimmed: usize = sizes[..excess].iter().sum();
        state.bytes = state.bytes + append.turn.bytes() - trimmed;
        state.touch(key, append, now);
        Ok(Appended::stored(head))
    }
}

impl State {
    /// Drops the session if its life is over.
    fn forget(&mut self, key: &SessionKey, now: SystemTime) {
        if self.sessions.get(key).is_some_and(|session| session.expired(now)) {
            self.bytes -= self.sessions.remove(key).map_or(0, |session| session.bytes());
        }
    }

    fn forget_all(&mut self, now: SystemTime) {
        self.sessions.retain(|_, session| !session.expired(now));
        self.bytes = self.sessions.values().map(Session::bytes).sum();
    }

    /// A stored turn, and a retry that finds it, extend the session's life.
    fn touch(&mut self, key: &SessionKey, append: &Append, now: SystemTime) {
        if let Some(session) = self.sessions.get_mut(key) {
            session.expires_at = append.ttl.and_then(|ttl| now.checked_add(ttl));
        }
    }
}

impl Store for InMemory {
    fn info(&self) -> StoreInfo {
        StoreInfo::new(NAME, Sharing::Process, Durability::Cache)
    }

    async fn load(&self, key: &SessionKey, read: &Read) -> Result<Loaded, StoreError> {
        let state = self.state();
        let Some(session) = state.sessions.get(key).filter(|session| !session.expired(SystemTime::now())) else {
            return Ok(Loaded::absent());
        };
        let newest_first = || session.turns.iter().rev().map(|turn| (turn.messages().len(), turn.bytes()));
        let fitting = read.window.fit(newest_first());
        let newer = read.known.filter(|known| known.epoch == session.head.epoch).and_then(|known| {
            let newer = session.head.sequence.checked_sub(known.sequence)?;
            usize::try_from(newer).ok().filter(|newer| *newer <= fitting)
        });
        let count = newer.unwrap_or(fitting);
        let turns = session.turns.range(session.turns.len() - count..).cloned().collect();
        let found = read.find.and_then(|id| session.find(id)).map(|(_, turn)| turn.clone());
        let loaded = Loaded::new(session.head, turns, fitting < session.turns.len()).kept(session.turns.len() as u64);
        Ok(loaded.since(newer.and(read.known)).found(found))
    }

    async fn append(&self, key: &SessionKey, append: &Append) -> Result<Appended, StoreError> {
        self.append_now(key, append).map_err(|kind| StoreError::new(kind, NAME, Operation::Append))
    }

    async fn delete(&self, key: &SessionKey) -> Result<Deleted, StoreError> {
        let now = SystemTime::now();
        let mut state = self.state();
        state.forget(key, now);
        let Some(session) = state.sessions.get_mut(key) else { return Ok(Deleted::new(0)) };
        let (turns, bytes) = (session.turns.len() as u64, session.bytes());
        *session = Session {
            head: Head::new(next_epoch(session.head.epoch), 0),
            expires_at: now.checked_add(FENCE),
            reborn: true,
            ..Session::default()
        };
        state.bytes -= bytes;
        Ok(Deleted::new(turns))
    }

    async fn list(&self, scope: &Scope, page: &Page) -> Result<SessionPage, StoreError> {
        let now = SystemTime::now();
        let mut entries: Vec<_> = {
            let state = self.state();
            let live = state.sessions.iter().filter(|(key, session)| !session.expired(now) && scope.contains(key));
            live.filter_map(|(key, session)| Some(SessionEntry::new(key.clone(), session.head, session.last_active?)))
                .collect()
        };
        // A cursor is "millis key": both together are unique, so equal times do not lose entries.
        let place =
            |entry: &SessionEntry| (std::cmp::Reverse(unix_millis(entry.last_active)), entry.key.encoded().to_owned());
        entries.sort_by_cached_key(place);
        if let Some(after) = page.after.as_ref().and_then(|cursor| cursor.0.split_once(' ')) {
            let after = (std::cmp::Reverse(after.0.parse().unwrap_or(0)), after.1.to_owned());
            entries.retain(|entry| place(entry) > after);
        }
        let more = entries.len() > page.limit;
        entries.truncate(page.limit);
        let next = entries
            .last()
            .filter(|_| more)
            .map(|last| Cursor(format!("{} {}", unix_millis(last.last_active), last.key.encoded())));
        Ok(SessionPage::new(entries, next))
    }

    async fn ping(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

impl fmt::Debug for InMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state();
        f.debug_struct("InMemory").field("sessions", &state.sessions.len()).field("bytes", &state.bytes).finish()
    }
}
