//! What the cases are written with.

use std::any::Any;
use std::error::Error;
use std::fmt::Display;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Barrier;
use tokio_util::task::AbortOnDropHandle;

use crate::key::{ConversationId, SessionKey};
use crate::message::Message;
use crate::policy::{Concurrency, Window};
use crate::store::{Append, Appended, Deleted, ErrorKind, Loaded, Read, SharedStore, Store, StoreError};
use crate::turn::{Head, Turn, TurnId, TurnStatus};

/// What a case finds: nothing, or what it saw instead of what the contract says.
pub(super) type Check<T = ()> = Result<T, String>;

/// Ends the case unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $($seen:tt)+) => {
        if !$condition {
            return Err(format!($($seen)+));
        }
    };
}
pub(super) use ensure;

/// Two instances of a store on the same sessions, as two pods have them.
#[derive(Debug, Clone)]
pub struct Instances {
    // In the order in which they are dropped: what is kept outlives the stores.
    first: SharedStore,
    second: SharedStore,
    crowd: usize,
    _kept: Vec<Arc<dyn Any + Send + Sync>>,
}

impl Instances {
    /// One instance, which also takes the part of the second: for stores of one process.
    pub fn new(store: impl Store) -> Self {
        let first = SharedStore::new(store);
        Self { second: first.clone(), first, crowd: 1_000, _kept: Vec::new() }
    }

    /// With another instance on the same sessions: a second connection, a second handle of the file.
    #[must_use]
    pub fn and(mut self, another: impl Store) -> Self {
        self.second = SharedStore::new(another);
        self
    }

    /// Keeps something alive as long as the instances: a server's process, a temporary directory.
    #[must_use]
    pub fn keeping(mut self, guard: impl Any + Send + Sync) -> Self {
        self._kept.push(Arc::new(guard));
        self
    }

    /// How many turns meet on one session in the case that crowds one; 1,000 by default. For
    /// emulators that serve one request at a time: a real server is to be tried with the default.
    #[must_use]
    pub fn crowd(mut self, turns: usize) -> Self {
        self.crowd = turns;
        self
    }

    pub(super) fn crowd_size(&self) -> usize {
        self.crowd
    }

    /// The first instance.
    pub(super) fn store(&self) -> &SharedStore {
        &self.first
    }

    pub(super) fn second(&self) -> &SharedStore {
        &self.second
    }

    /// A session that nobody has used.
    pub(super) fn session(&self) -> Session {
        self.session_of(SessionKey::new(ConversationId::random()))
    }

    pub(super) fn session_of(&self, key: SessionKey) -> Session {
        Session { here: self.first.clone(), there: self.second.clone(), key }
    }
}

/// A session as one instance sees it.
#[derive(Clone)]
pub(super) struct Session {
    here: SharedStore,
    there: SharedStore,
    pub(super) key: SessionKey,
}

impl Session {
    /// The same session through the other instance.
    pub(super) fn elsewhere(&self) -> Self {
        Self { here: self.there.clone(), there: self.here.clone(), key: self.key.clone() }
    }

    /// Alternates between the instances.
    pub(super) fn by(&self, index: usize) -> Self {
        if index.is_multiple_of(2) { self.clone() } else { self.elsewhere() }
    }

    pub(super) async fn load(&self, read: Read) -> Check<Loaded> {
        told("load", self.here.load(&self.key, &read).await)
    }

    pub(super) async fn all(&self) -> Check<Loaded> {
        self.load(Read::new(Window::ALL)).await
    }

    pub(super) async fn head(&self) -> Check<Head> {
        Ok(self.load(Read::new(Window::NONE)).await?.head)
    }

    /// Appends as the store answers it, for cases in which refusals are fine.
    pub(super) async fn attempt(&self, append: &Append) -> Result<Appended, StoreError> {
        self.here.append(&self.key, append).await
    }

    pub(super) async fn append(&self, append: &Append) -> Check<Appended> {
        told("append", self.attempt(append).await)
    }

    /// Appends to whatever is there.
    pub(super) async fn add(&self, turn: &Turn) -> Check<Appended> {
        self.append(&Append::unconditional(turn.clone())).await
    }

    /// This many turns, one after the other; the head after them.
    pub(super) async fn fill(&self, count: usize) -> Check<(Vec<Turn>, Head)> {
        let turns: Vec<Turn> = (1..=count).map(|number| turn(&format!("turn {number}"))).collect();
        let mut head = Head::ABSENT;
        for turn in &turns {
            head = self.add(turn).await?.head;
        }
        Ok((turns, head))
    }

    pub(super) async fn delete(&self) -> Check<Deleted> {
        told("delete", self.here.delete(&self.key).await)
    }

    /// The append must be refused like this, and must leave the session as it is.
    pub(super) async fn refuses(&self, append: &Append, kind: ErrorKind) -> Check {
        let before = self.all().await?;
        match self.attempt(append).await {
            Ok(answer) => return Err(format!("expected {kind:?}, and append answered Ok: {answer:?}")),
            Err(error) => ensure!(error.kind() == kind, "expected {kind:?}, and append answered {}", causes(&error)),
        }
        ensure!(self.all().await? == before, "append answered {kind:?} and changed the session all the same");
        Ok(())
    }

    /// The session must hold exactly these turns.
    pub(super) async fn holds(&self, turns: &[Turn]) -> Check<Loaded> {
        let loaded = self.all().await?;
        same(&loaded.turns, turns)?;
        Ok(loaded)
    }

    /// The append must be answered as a duplicate of `turn`, at this place, and store nothing.
    pub(super) async fn duplicate(&self, append: &Append, turn: &Turn, sequence: u64) -> Check {
        let before = self.all().await?;
        let answer = self.append(append).await?;
        let Some(stored) = &answer.duplicate_of else {
            return Err("the second attempt was stored as a turn of its own".to_owned());
        };
        ensure!(stored == turn, "duplicate_of is not the turn that was stored first");
        ensure!(answer.sequence == sequence, "the turn stands at {sequence}, the answer says {}", answer.sequence);
        ensure!(answer.head == before.head, "the head is {:?}, the answer says {:?}", before.head, answer.head);
        let after = self.all().await?;
        ensure!(after == before, "a duplicate changed the session");
        Ok(())
    }

    /// Waits until the session is absent; its life of `ttl` began at `since`, or later.
    pub(super) async fn expires(&self, since: Instant, ttl: Duration) -> Check {
        const CLOCKS_DIFFER: Duration = Duration::from_millis(50);
        const LATE: Duration = Duration::from_secs(5);
        loop {
            let asked = since.elapsed();
            if self.all().await? == Loaded::absent() {
                let lived = since.elapsed() + CLOCKS_DIFFER;
                ensure!(lived >= ttl, "absent after {lived:?}, before its life of {ttl:?} was over");
                return Ok(());
            }
            ensure!(asked < ttl + LATE, "still there {asked:?} after an append with a life of {ttl:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// A number no epoch or sequence reaches, and that signed 64-bit columns hold.
pub(super) const FAR: u64 = i64::MAX as u64;

/// A question and its answer.
pub(super) fn turn(text: &str) -> Turn {
    turn_of(vec![Message::user(text), Message::assistant(format!("re: {text}"))])
}

pub(super) fn turn_of(messages: Vec<Message>) -> Turn {
    Turn::new(TurnId::random(), TurnStatus::Complete, messages)
}

/// One message of exactly this many bytes.
pub(super) fn message_of(bytes: usize) -> Message {
    let around = Message::user("").len();
    Message::user("x".repeat(bytes.saturating_sub(around)))
}

/// A turn whose only message has this many bytes.
pub(super) fn turn_of_bytes(bytes: usize) -> Turn {
    turn_of(vec![message_of(bytes)])
}

pub(super) fn strict(turn: &Turn, expected: Head) -> Append {
    Append::new(turn.clone(), expected).concurrency(Concurrency::Strict)
}

pub(super) fn rebase(turn: &Turn, expected: Head) -> Append {
    Append::new(turn.clone(), expected)
}

/// The turns must be these, in this order, whole.
pub(super) fn same(seen: &[Turn], expected: &[Turn]) -> Check {
    ensure!(seen.len() == expected.len(), "{} turns instead of {}", seen.len(), expected.len());
    for (index, (seen, expected)) in seen.iter().zip(expected).enumerate() {
        let number = index + 1;
        ensure!(seen.id() == expected.id(), "another turn at place {number} of {}", expected.id());
        ensure!(seen == expected, "turn {number} was changed: {}", difference(seen, expected));
    }
    Ok(())
}

fn difference(seen: &Turn, expected: &Turn) -> String {
    let texts = |turn: &Turn| turn.messages().iter().map(|m| m.json().to_owned()).collect::<Vec<_>>();
    let (seen_texts, expected_texts) = (texts(seen), texts(expected));
    match seen_texts.iter().zip(&expected_texts).find(|(seen, expected)| seen != expected) {
        Some((seen, expected)) => format!("{seen:.200} instead of {expected:.200}"),
        None if seen_texts.len() != expected_texts.len() => {
            format!("{} messages instead of {}", seen_texts.len(), expected_texts.len())
        }
        None => "its time or its status".to_owned(),
    }
}

/// Runs all at once, each in a task of its own, and gives their answers in the order given.
pub(super) async fn together<T: Send + 'static>(
    calls: impl IntoIterator<Item = impl Future<Output = T> + Send + 'static>,
) -> Check<Vec<T>> {
    let calls: Vec<_> = calls.into_iter().collect();
    let start = Arc::new(Barrier::new(calls.len()));
    let spawn = |call| {
        let start = start.clone();
        AbortOnDropHandle::new(tokio::spawn(async move {
            start.wait().await;
            call.await
        }))
    };
    let tasks: Vec<_> = calls.into_iter().map(spawn).collect();
    let mut answers = Vec::with_capacity(tasks.len());
    for task in tasks {
        answers.push(task.await.map_err(|stopped| format!("a call did not answer: {stopped}"))?);
    }
    Ok(answers)
}

/// The answer of a call that must succeed.
pub(super) fn told<T>(operation: impl Display, answer: Result<T, StoreError>) -> Check<T> {
    answer.map_err(|error| format!("{operation} failed: {}", causes(&error)))
}

/// An error with its causes, as a log would show it.
pub(super) fn causes(error: &StoreError) -> String {
    let mut text = format!("{error} ({:?})", error.kind());
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
