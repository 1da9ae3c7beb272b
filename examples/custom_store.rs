//! A store of your own, and the suite that says when it is right: `cargo run --example custom_store`
//!
//! `JournalStore` keeps sessions in a journal: a file of one JSON line per change, read back when it
//! is opened. One process at a time, all sessions in memory: a few pages of code, and it keeps the
//! whole contract of [`Store`]. What to look at when you write another:
//!
//! * every decision and its write happen under one lock, after one look at the session;
//! * the work runs in a task of its own, so a dropped future cannot cut it in half;
//! * a line is on the disk before memory changes and before anybody is answered.
#![allow(clippy::print_stdout, reason = "a program that reports")]

use std::collections::{HashMap, VecDeque};
use std::error::Error;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tower_session_memory::store::conformance::{Instances, cases};
use tower_session_memory::store::{
    Append, Appended, Cursor, Deleted, Durability, ErrorKind, Loaded, Operation, Page, Read, SessionEntry, SessionPage,
    Sharing, StoreInfo,
};
use tower_session_memory::{Concurrency, Head, Scope, SessionKey, Store, StoreError, Turn, TurnId};

#[tokio::main]
async fn main() -> Result<ExitCode, Box<dyn Error>> {
    let directory = tempfile::tempdir()?;
    let store = JournalStore::open(&directory.path().join("sessions.jsonl"))?;
    let instances = Instances::new(store.clone()).and(store).keeping(directory);
    let mut broken = 0;
    for case in cases() {
        match case.run(&instances).await {
            Ok(()) => println!("ok      {}", case.name),
            Err(found) => {
                println!("BROKEN  {found}");
                broken += 1;
            }
        }
    }
    println!("{} cases, {broken} broken", cases().len());
    Ok(if broken == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Sessions in a journal. Clones share it.
#[derive(Clone)]
pub struct JournalStore(Arc<Mutex<Journal>>);

struct Journal {
    file: File,
    /// Bytes of the file that hold whole lines.
    length: u64,
    sessions: HashMap<SessionKey, Session>,
}

#[derive(Default)]
struct Session {
    turns: VecDeque<Turn>,
    state: State,
}

/// What a change leaves behind, apart from the turns.
#[derive(Clone, Copy, Default, Serialize, Deserialize)]
struct State {
    epoch: u64,
    sequence: u64,
    /// How many turns are kept; older ones are trimmed, those of an expired life among them.
    kept: usize,
    /// Milliseconds since 1970, as all times here.
    expires: Option<u64>,
    active: u64,
    /// Whether this life follows a delete.
    reborn: bool,
}

#[derive(Serialize, Deserialize)]
struct Line {
    key: String,
    state: State,
    /// The record of the turn that the change appends, if it does.
    turn: Option<String>,
}

const NAME: &str = "journal";

impl JournalStore {
    /// Opens a journal, or begins one. A last line that was cut off by a crash was never
    /// acknowledged, and goes.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        Journal::open(path)
            .map(|journal| Self(Arc::new(Mutex::new(journal))))
            .map_err(|(kind, cause)| StoreError::new(kind, NAME, Operation::Open).with_source(cause))
    }

    /// Runs the work where it may block, to its end even if nobody waits for it any more.
    async fn run<T: Send + 'static>(
        &self,
        operation: Operation,
        work: impl FnOnce(&mut Journal) -> Result<T, ErrorKind> + Send + 'static,
    ) -> Result<T, StoreError> {
        let journal = self.0.clone();
        let work = move || journal.lock().map_err(|_| ErrorKind::Corrupt).and_then(|mut journal| work(&mut journal));
        let answer = tokio::task::spawn_blocking(work).await.unwrap_or(Err(ErrorKind::Ambiguous));
        answer.map_err(|kind| StoreError::new(kind, NAME, operation))
    }
}

type Cause = Box<dyn Error + Send + Sync>;

impl Journal {
    fn open(path: &Path) -> Result<Self, (ErrorKind, Cause)> {
        let io = |error: std::io::Error| (ErrorKind::Unavailable, error.into());
        let mut file = OpenOptions::new().read(true).append(true).create(true).open(path).map_err(io)?;
        let mut text = String::new();
        file.read_to_string(&mut text).map_err(io)?;
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        file.set_len(whole as u64).map_err(io)?;
        let mut journal = Self { file, length: whole as u64, sessions: HashMap::new() };
        for line in text[..whole].lines() {
            journal.read_back(line).map_err(|cause| (ErrorKind::Corrupt, cause))?;
        }
        Ok(journal)
    }

    fn read_back(&mut self, line: &str) -> Result<(), Cause> {
        let line: Line = serde_json::from_str(line)?;
        let key = SessionKey::decode(&line.key)?;
        let turn = line.turn.map(|record| Turn::from_record(&key, record)).transpose()?;
        self.apply(&key, line.state, turn);
        Ok(())
    }

    /// Makes a change durable, then visible.
    fn change(&mut self, key: &SessionKey, state: State, turn: Option<Turn>) -> Result<(), ErrorKind> {
        let record = turn.as_ref().map(|turn| turn.to_record(key));
        let record = record.map(String::from_utf8).transpose().map_err(|_| ErrorKind::Other)?;
        let line = Line { key: key.encoded().to_owned(), state, turn: record };
        let mut line = serde_json::to_vec(&line).map_err(|_| ErrorKind::Other)?;
        line.push(b'\n');
        if self.file.write_all(&line).and_then(|()| self.file.sync_data()).is_err() {
            // Without its half line the file is as it was; if even that fails, nobody can say.
            let undone = self.file.set_len(self.length).and_then(|()| self.file.sync_data());
            return Err(if undone.is_ok() { ErrorKind::Unavailable } else { ErrorKind::Ambiguous });
        }
        self.length += line.len() as u64;
        self.apply(key, state, turn);
        Ok(())
    }

    fn apply(&mut self, key: &SessionKey, state: State, turn: Option<Turn>) {
        let session = self.sessions.entry(key.clone()).or_default();
        session.state = state;
        session.turns.extend(turn);
        let excess = session.turns.len().saturating_sub(state.kept);
        session.turns.drain(..excess);
    }

    fn live(&self, key: &SessionKey, now: u64) -> Option<&Session> {
        self.sessions.get(key).filter(|session| session.lives(now))
    }

    fn append(&mut self, key: &SessionKey, append: Append) -> Result<Appended, ErrorKind> {
        let now = millis();
        let expires = append.ttl.and_then(|ttl| now.checked_add(u64::try_from(ttl.as_millis()).ok()?));
        let session = self.live(key, now);
        if let Some((session, (sequence, turn))) = session.and_then(|s| Some((s, s.find(append.turn.id())?))) {
            let (head, turn, state) = (session.head(), turn.clone(), State { expires, ..session.state });
            self.change(key, state, None)?;
            return Ok(Appended::duplicate(head, sequence, turn));
        }
        let old = session.map_or(State::default(), |session| session.state);
        if let Some(expected) = append.expected {
            let may_be_first = expected == Head::ABSENT && !old.reborn;
            if expected.epoch != old.epoch && !may_be_first {
                return Err(ErrorKind::Gone);
            }
            if expected.sequence > old.sequence {
                return Err(ErrorKind::RolledBack);
            }
            if expected.sequence < old.sequence && append.concurrency == Concurrency::Strict {
                return Err(ErrorKind::Conflict);
            }
        }
        let turns = session.into_iter().flat_map(|session| &session.turns).chain([&append.turn]);
        let sizes: Vec<usize> = turns.map(Turn::bytes).collect();
        let kept = sizes.len() - append.retention.excess(&sizes);
        let epoch = if old.epoch == 0 { next_epoch(self.last_epoch(key)) } else { old.epoch };
        let state = State { epoch, sequence: old.sequence + 1, kept, expires, active: now, reborn: old.reborn };
        self.change(key, state, Some(append.turn))?;
        Ok(Appended::stored(Head::new(state.epoch, state.sequence)))
    }

    /// The epoch of the last life, expired or not.
    fn last_epoch(&self, key: &SessionKey) -> u64 {
        self.sessions.get(key).map_or(0, |session| session.state.epoch)
    }

    fn load(&self, key: &SessionKey, read: &Read) -> Loaded {
        let Some(session) = self.live(key, millis()) else { return Loaded::absent() };
        let (head, turns) = (session.head(), &session.turns);
        let fitting = read.window.fit(turns.iter().rev().map(|turn| (turn.messages().len(), turn.bytes())));
        let newer = |known: Head| usize::try_from(head.sequence.checked_sub(known.sequence)?).ok();
        let known = read.known.filter(|known| known.epoch == head.epoch);
        let known = known.and_then(|known| Some((known, newer(known).filter(|newer| *newer <= fitting)?)));
        let count = known.map_or(fitting, |(_, newer)| newer);
        let found = read.find.and_then(|id| session.find(id)).map(|(_, turn)| turn.clone());
        let loaded = turns.range(turns.len() - count..).cloned().collect();
        Loaded::new(head, loaded, fitting < turns.len()).since(known.map(|(known, _)| known)).found(found)
    }

    fn delete(&mut self, key: &SessionKey) -> Result<Deleted, ErrorKind> {
        let Some(session) = self.live(key, millis()) else { return Ok(Deleted::new(0)) };
        let deleted = Deleted::new(session.turns.len() as u64);
        // The fence: an epoch without turns. This store keeps it for ever.
        let fence = State { epoch: next_epoch(session.state.epoch), reborn: true, ..State::default() };
        self.change(key, fence, None)?;
        Ok(deleted)
    }

    fn list(&self, scope: &Scope, page: &Page) -> SessionPage {
        let now = millis();
        // "Time, key" is unique, so a page can begin behind any entry.
        let after = page.after.as_ref().and_then(|Cursor(text)| text.split_once(' '));
        let after = after.and_then(|(active, key)| Some((u64::MAX - active.parse::<u64>().ok()?, key)));
        let listed = |key: &SessionKey, session: &Session| {
            scope.contains(key) && session.lives(now) && !session.turns.is_empty()
        };
        let place = |key: &SessionKey, session: &Session| (u64::MAX - session.state.active, key.encoded().to_owned());
        let mut found: Vec<_> = self.sessions.iter().filter(|(key, session)| listed(key, session)).collect();
        found.sort_by_cached_key(|(key, session)| place(key, session));
        found.retain(|(key, session)| after.is_none_or(|(time, last)| place(key, session) > (time, last.to_owned())));
        let more = found.len() > page.limit;
        found.truncate(page.limit);
        let cursor =
            |(key, session): &(&SessionKey, &Session)| Cursor(format!("{} {}", session.state.active, key.encoded()));
        let next = found.last().filter(|_| more).map(cursor);
        let entry = |(key, session): (&SessionKey, &Session)| {
            let active = UNIX_EPOCH + Duration::from_millis(session.state.active);
            SessionEntry::new(key.clone(), session.head(), active)
        };
        SessionPage::new(found.into_iter().map(entry).collect(), next)
    }
}

impl Session {
    fn head(&self) -> Head {
        Head::new(self.state.epoch, self.state.sequence)
    }

    fn lives(&self, now: u64) -> bool {
        self.state.expires.is_none_or(|at| at > now)
    }

    fn find(&self, id: TurnId) -> Option<(u64, &Turn)> {
        let index = self.turns.iter().position(|turn| turn.id() == id)?;
        let trimmed = self.state.sequence - self.turns.len() as u64;
        Some((trimmed + index as u64 + 1, &self.turns[index]))
    }
}

impl Store for JournalStore {
    fn info(&self) -> StoreInfo {
        StoreInfo::new(NAME, Sharing::Process, Durability::Host)
    }

    async fn load(&self, key: &SessionKey, read: &Read) -> Result<Loaded, StoreError> {
        let (key, read) = (key.clone(), *read);
        self.run(Operation::Load, move |journal| Ok(journal.load(&key, &read))).await
    }

    async fn append(&self, key: &SessionKey, append: &Append) -> Result<Appended, StoreError> {
        let (key, append) = (key.clone(), append.clone());
        self.run(Operation::Append, move |journal| journal.append(&key, append)).await
    }

    async fn delete(&self, key: &SessionKey) -> Result<Deleted, StoreError> {
        let key = key.clone();
        self.run(Operation::Delete, move |journal| journal.delete(&key)).await
    }

    async fn list(&self, scope: &Scope, page: &Page) -> Result<SessionPage, StoreError> {
        let (scope, page) = (scope.clone(), page.clone());
        self.run(Operation::List, move |journal| Ok(journal.list(&scope, &page))).await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.run(Operation::Ping, |journal| journal.file.metadata().map(drop).map_err(|_| ErrorKind::Unavailable)).await
    }
}

impl fmt::Debug for JournalStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JournalStore").finish_non_exhaustive()
    }
}

fn millis() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

/// Larger than any epoch that this session has had.
fn next_epoch(last: u64) -> u64 {
    (last + 1).max(millis() * 1_000)
}
