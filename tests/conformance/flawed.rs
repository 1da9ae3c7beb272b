//! Stores that are wrong in one way each, on top of one that is right.

use std::collections::{HashMap, HashSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tower_session_memory::store::{
    Append, Appended, Deleted, ErrorKind, Loaded, Operation, Page, Read, SessionPage, StoreInfo,
};
use tower_session_memory::{
    Concurrency, Head, InMemory, Message, Retention, Scope, SessionKey, Store, StoreError, Turn, TurnId, Window,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flaw {
    /// A second attempt is a turn of its own.
    ForgetsIds,
    /// Knows only the ids of the newest turns.
    ForgetsOldIds,
    /// Answers a duplicate with the turn that was sent.
    EchoesTheDuplicate,
    /// The strict condition comes before the look for a duplicate.
    LooksForIdsLast,
    /// The strict condition and the write are two steps.
    ChecksThenWrites,
    /// Reads the whole record, changes it, writes it back.
    LosesUpdates,
    /// Two writes for one turn.
    TearsTurns,
    /// Parses and prints messages.
    Reprints,
    /// Turns come in the order of their ids.
    Reorders,
    /// Answers before it has written.
    AnswersEarly,
    /// A turn of a deleted or expired life is let in.
    ForgetsTheFence,
    /// A turn that saw more than is stored is let in.
    AcceptsLostTurns,
    /// Sessions live for ever.
    IgnoresTtl,
    /// A retry does not extend the life.
    DuplicatesDoNotExtend,
    /// Everything is kept.
    IgnoresRetention,
    /// Everything is loaded.
    IgnoresWindows,
    /// What is newer than a known head, of whichever life.
    TrustsKnownHeads,
    /// Reads the head, then the turns.
    LoadsInTwoSteps,
    /// Looks for a turn in the window only.
    FindsInTheWindow,
    /// Does not tell that older turns exist.
    HidesTruncation,
    /// Counts the turns that it answers with as all that are kept.
    CountsNewerOnly,
    /// Says that there are older turns than those that it answers with, and no number.
    SpeaksOfNewer,
    /// Keys are compared without case.
    FoldsCase,
    /// Lists everybody's sessions to everybody.
    IgnoresScopes,
    /// The second page begins where the first did.
    RepeatsPages,
    /// Is busy for ever once a call was dropped.
    StaysBusy,
    /// Takes less than it says.
    RefusesLargeTurns,
    /// Panics when asked how it is.
    Panics,
    /// Never answers when asked how it is.
    Hangs,
}

#[derive(Debug)]
pub(crate) struct Flawed {
    flaw: Flaw,
    inner: std::sync::Arc<InMemory>,
    seen: Mutex<HashSet<(SessionKey, TurnId)>>,
    torn: Mutex<HashSet<TurnId>>,
    records: Mutex<HashMap<SessionKey, Vec<Turn>>>,
    busy: AtomicBool,
}

impl Flawed {
    pub(crate) fn new(flaw: Flaw) -> Self {
        Self {
            flaw,
            inner: std::sync::Arc::default(),
            seen: Mutex::default(),
            torn: Mutex::default(),
            records: Mutex::default(),
            busy: AtomicBool::new(false),
        }
    }

    fn fail<T>(&self, kind: ErrorKind) -> Result<T, StoreError> {
        Err(StoreError::new(kind, self.inner.info().name, Operation::Append))
    }

    fn key(&self, key: &SessionKey) -> SessionKey {
        if self.flaw != Flaw::FoldsCase {
            return key.clone();
        }
        let id = key.conversation().as_str().to_lowercase();
        SessionKey::new(tower_session_memory::ConversationId::parse(&id).unwrap())
    }

    fn first_time(&self, key: &SessionKey, id: TurnId) -> bool {
        self.seen.lock().unwrap().insert((key.clone(), id))
    }

    async fn stored(&self, key: &SessionKey, id: TurnId) -> Result<Loaded, StoreError> {
        self.inner.load(key, &Read::new(Window::ALL).find(id)).await
    }

    fn seen_as(&self, turn: Turn) -> Turn {
        if self.flaw == Flaw::TearsTurns && self.torn.lock().unwrap().contains(&turn.id()) {
            let half = turn.messages()[..turn.messages().len() / 2].to_vec();
            return Turn::at_time(turn.id(), turn.status(), half, turn.at());
        }
        turn
    }
}

fn reprinted(turn: &Turn) -> Turn {
    let reprint = |message: &Message| {
        let value: serde_json::Value = message.decode().unwrap();
        Message::encode(&value).unwrap()
    };
    Turn::at_time(turn.id(), turn.status(), turn.messages().iter().map(reprint).collect(), turn.at())
}

fn renamed(turn: &Turn) -> Turn {
    Turn::at_time(TurnId::random(), turn.status(), turn.messages().to_vec(), turn.at())
}

impl Store for Flawed {
    fn info(&self) -> StoreInfo {
        self.inner.info()
    }

    async fn append(&self, key: &SessionKey, append: &Append) -> Result<Appended, StoreError> {
        let key = &self.key(key);
        let mut append = append.clone();
        let id = append.turn.id();
        let head = self.inner.load(key, &Read::new(Window::NONE)).await?.head;
        match self.flaw {
            Flaw::ForgetsIds if !self.first_time(key, id) => append.turn = renamed(&append.turn),
            Flaw::ForgetsOldIds => {
                let newest = self.inner.load(key, &Read::new(Window::newest(50))).await?;
                if !self.first_time(key, id) && !newest.turns.iter().any(|turn| turn.id() == id) {
                    append.turn = renamed(&append.turn);
                }
            }
            Flaw::EchoesTheDuplicate => {
                let sent = append.turn.clone();
                let mut answer = self.inner.append(key, &append).await?;
                answer.duplicate_of = answer.duplicate_of.map(|_| sent);
                return Ok(answer);
            }
            Flaw::LooksForIdsLast
                if append.concurrency == Concurrency::Strict
                    && append.expected.is_some_and(|expected| expected.sequence < head.sequence) =>
            {
                return self.fail(ErrorKind::Conflict);
            }
            Flaw::ChecksThenWrites if append.expected == Some(head) => {
                tokio::task::yield_now().await;
                append.expected = None;
            }
            Flaw::LosesUpdates => {
                let mut record = self.records.lock().unwrap().get(key).cloned().unwrap_or_default();
                record.push(append.turn.clone());
                tokio::time::sleep(Duration::from_millis(1)).await;
                let head = Head::new(1, record.len() as u64);
                self.records.lock().unwrap().insert(key.clone(), record);
                return Ok(Appended::stored(head));
            }
            Flaw::TearsTurns if self.first_time(key, id) => {
                self.torn.lock().unwrap().insert(id);
                let answer = self.inner.append(key, &append).await;
                tokio::time::sleep(Duration::from_millis(1)).await;
                self.torn.lock().unwrap().remove(&id);
                return answer;
            }
            Flaw::Reprints => append.turn = reprinted(&append.turn),
            Flaw::AnswersEarly => {
                let (inner, key) = (self.inner.clone(), key.clone());
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    inner.append(&key, &append).await
                });
                return Ok(Appended::stored(Head::new(head.epoch.max(1), head.sequence + 1)));
            }
            Flaw::ForgetsTheFence if append.expected.is_some_and(|expected| expected.epoch != head.epoch) => {
                append.expected = None;
            }
            Flaw::AcceptsLostTurns if append.expected.is_some_and(|e| e.sequence > head.sequence) => {
                append.expected = None;
            }
            Flaw::IgnoresTtl => append.ttl = None,
            Flaw::DuplicatesDoNotExtend => {
                let loaded = self.stored(key, id).await?;
                if let Some(index) = loaded.turns.iter().position(|turn| turn.id() == id) {
                    let turn = loaded.turns[index].clone();
                    return Ok(Appended::duplicate(loaded.head, index as u64 + 1, turn));
                }
            }
            Flaw::IgnoresRetention => append.retention = Retention::default(),
            Flaw::StaysBusy => {
                if self.busy.swap(true, Ordering::SeqCst) {
                    return self.fail(ErrorKind::Unavailable);
                }
                tokio::task::yield_now().await;
                let answer = self.inner.append(key, &append).await;
                self.busy.store(false, Ordering::SeqCst);
                return answer;
            }
            Flaw::RefusesLargeTurns if append.turn.bytes() > 400 << 10 => return self.fail(ErrorKind::TooLarge),
            _ => {}
        }
        self.inner.append(key, &append).await
    }

    async fn load(&self, key: &SessionKey, read: &Read) -> Result<Loaded, StoreError> {
        let key = &self.key(key);
        let mut read = *read;
        match self.flaw {
            Flaw::LosesUpdates => {
                let turns = self.records.lock().unwrap().get(key).cloned().unwrap_or_default();
                return Ok(Loaded::new(Head::new(1, turns.len() as u64), turns, false));
            }
            Flaw::LoadsInTwoSteps => {
                let head = self.inner.load(key, &Read::new(Window::NONE)).await?.head;
                tokio::task::yield_now().await;
                let mut loaded = self.inner.load(key, &read).await?;
                loaded.head = head;
                return Ok(loaded);
            }
            Flaw::IgnoresWindows => read.window = Window::ALL,
            Flaw::TrustsKnownHeads => {
                if let Some(known) = read.known.take() {
                    let mut loaded = self.inner.load(key, &read).await?;
                    let newer = loaded.head.sequence.saturating_sub(known.sequence) as usize;
                    let older = loaded.turns.len().saturating_sub(newer);
                    loaded.turns.drain(..older);
                    return Ok(loaded.since(Some(known)));
                }
            }
            _ => {}
        }
        let mut loaded = self.inner.load(key, &read).await?;
        match self.flaw {
            Flaw::Reorders => loaded.turns.sort_by_key(Turn::id),
            Flaw::FindsInTheWindow => {
                loaded.found = loaded.found.filter(|found| loaded.turns.contains(found));
            }
            Flaw::HidesTruncation => loaded.truncated = false,
            Flaw::CountsNewerOnly => loaded.kept = Some(loaded.turns.len() as u64),
            Flaw::SpeaksOfNewer => {
                loaded.truncated = loaded.kept.take().is_some_and(|kept| kept > loaded.turns.len() as u64);
            }
            _ => {}
        }
        loaded.turns = loaded.turns.into_iter().map(|turn| self.seen_as(turn)).collect();
        Ok(loaded)
    }

    async fn delete(&self, key: &SessionKey) -> Result<Deleted, StoreError> {
        self.inner.delete(&self.key(key)).await
    }

    async fn list(&self, scope: &Scope, page: &Page) -> Result<SessionPage, StoreError> {
        match self.flaw {
            Flaw::IgnoresScopes => self.inner.list(&Scope::all(), page).await,
            Flaw::RepeatsPages => {
                let second = page.after.is_some();
                let mut answer = self.inner.list(scope, &page.clone().after(None)).await?;
                answer.next = answer.next.filter(|_| !second);
                Ok(answer)
            }
            _ => self.inner.list(scope, page).await,
        }
    }

    async fn ping(&self) -> Result<(), StoreError> {
        match self.flaw {
            Flaw::Panics => panic!("how should I know"),
            Flaw::Hangs => std::future::pending().await,
            _ => self.inner.ping().await,
        }
    }
}
