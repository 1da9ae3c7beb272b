//! Random histories, run on a model and on a store: the answers must be the same but for the
//! numbers of epochs, which depend on clocks.
//!
//! Several handles of the store take turns, as several pods would.

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;
use tower_session_memory::store::{Append, ErrorKind, Loaded, Page, Read, Store, StoreError};
use tower_session_memory::{
    Concurrency, ConversationId, Head, Message, Retention, Scope, SessionKey, Subject, Turn, TurnId, TurnStatus, Window,
};

const SESSIONS: usize = 3;
const IDS: u8 = 8;

/// One call on a store.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    Append {
        session: usize,
        id: u8,
        messages: usize,
        basis: Basis,
        strict: bool,
        ttl: Option<Duration>,
        retention: Retention,
    },
    Load {
        session: usize,
        window: Window,
        known: Basis,
        find: u8,
    },
    Delete {
        session: usize,
    },
    List {
        limit: usize,
    },
}

/// Which head the caller believes in.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Basis {
    None,
    Absent,
    /// One of those that this session was seen at; an index into them, from the newest.
    Seen(usize),
    /// The newest one seen, and turns that never were.
    Ahead,
}

/// Sequences of steps that meet the interesting cases often: few sessions, few ids, small windows.
pub(crate) fn steps() -> impl Strategy<Value = Vec<Step>> {
    let session = 0..SESSIONS;
    let basis = prop_oneof![
        2 => Just(Basis::None),
        1 => Just(Basis::Absent),
        6 => (0usize..3).prop_map(Basis::Seen),
        1 => Just(Basis::Ahead),
    ];
    let ttl = prop_oneof![6 => Just(None), 2 => Just(Some(Duration::from_secs(3600))), 1 => Just(Some(Duration::ZERO)), 1 => Just(Some(Duration::MAX))];
    let retention = prop_oneof![
        4 => Just(Retention::default()),
        1 => (0u64..5).prop_map(Retention::turns),
        1 => (0u64..400).prop_map(Retention::bytes),
    ];
    let window = prop_oneof![
        2 => Just(Window::ALL),
        1 => Just(Window::NONE),
        3 => (0usize..6, 0usize..10, 0usize..400).prop_map(|(turns, messages, bytes)| Window::new(turns, messages, bytes)),
    ];
    let append = (session.clone(), 0..IDS, 0usize..4, basis.clone(), any::<bool>(), ttl, retention).prop_map(
        |(session, id, messages, basis, strict, ttl, retention)| Step::Append {
            session,
            id,
            messages,
            basis,
            strict,
            ttl,
            retention,
        },
    );
    let load = (session.clone(), window, basis, 0..IDS).prop_map(|(session, window, known, find)| Step::Load {
        session,
        window,
        known,
        find,
    });
    let step = prop_oneof![
        8 => append,
        5 => load,
        1 => session.prop_map(|session| Step::Delete { session }),
        1 => (1usize..4).prop_map(|limit| Step::List { limit }),
    ];
    proptest::collection::vec(step, 1..40)
}

/// Runs the steps on both and panics where they differ.
pub(crate) async fn agree<S: Store>(model: &impl Store, handles: &[S], steps: &[Step]) {
    let owner = Subject::new(ConversationId::random().as_str()).expect("a random id is short");
    let (mut left, mut right) = (Side::new(&owner), Side::new(&owner));
    for (number, step) in steps.iter().enumerate() {
        let expected = left.run(model, step, number).await;
        let seen = right.run(&handles[number % handles.len()], step, number).await;
        assert_eq!(seen, expected, "step {number}, {step:?}, of {steps:?}");
    }
    for session in 0..SESSIONS {
        let all = Step::Load { session, window: Window::ALL, known: Basis::None, find: 0 };
        let expected = left.run(model, &all, steps.len()).await;
        for handle in handles {
            assert_eq!(right.run(handle, &all, steps.len()).await, expected, "at the end of {steps:?}");
        }
    }
}

/// What a store said, in words that do not depend on the clock.
#[derive(Debug, PartialEq)]
enum Answer {
    Appended { head: Version, sequence: u64, duplicate_of: Option<Turn> },
    Loaded { head: Version, turns: Vec<Turn>, truncated: bool, since: Option<Version>, found: Option<Turn> },
    Deleted { turns: u64 },
    Listed { sessions: BTreeSet<(String, Version)>, pages: usize },
    Refused(ErrorKind),
}

/// A head with its epoch's place among the epochs of this session: 0 is absent, 1 the first life.
type Version = (usize, u64);

/// What the callers of one store know.
struct Side {
    keys: Vec<SessionKey>,
    heads: Vec<Vec<Head>>,
    epochs: Vec<Vec<u64>>,
}

impl Side {
    fn new(owner: &Subject) -> Self {
        let key =
            |n| SessionKey::new(ConversationId::parse(&format!("c{n}")).expect("valid")).with_subject(owner.clone());
        Self {
            keys: (0..SESSIONS).map(key).collect(),
            heads: vec![vec![Head::ABSENT]; SESSIONS],
            epochs: vec![vec![0]; SESSIONS],
        }
    }

    fn head(&self, session: usize, basis: Basis) -> Option<Head> {
        let seen = &self.heads[session];
        match basis {
            Basis::None => None,
            Basis::Absent => Some(Head::ABSENT),
            Basis::Seen(back) => Some(seen[seen.len().saturating_sub(1 + back)]),
            Basis::Ahead => seen.last().map(|head| Head::new(head.epoch, head.sequence + 7)),
        }
    }

    fn version(&mut self, session: usize, head: Head) -> Version {
        let epochs = &mut self.epochs[session];
        let life = epochs.iter().position(|epoch| *epoch == head.epoch).unwrap_or_else(|| {
            assert!(epochs.iter().all(|older| *older < head.epoch), "an epoch that is not larger than those before");
            epochs.push(head.epoch);
            epochs.len() - 1
        });
        (life, head.sequence)
    }

    fn saw(&mut self, session: usize, head: Head) -> Version {
        self.heads[session].push(head);
        self.version(session, head)
    }

    async fn run(&mut self, store: &impl Store, step: &Step, number: usize) -> Answer {
        self.attempt(store, step, number).await.unwrap_or_else(|error| Answer::Refused(error.kind()))
    }

    async fn attempt(&mut self, store: &impl Store, step: &Step, number: usize) -> Result<Answer, StoreError> {
        match *step {
            Step::Append { session, id, messages, basis, strict, ttl, retention } => {
                let mut append = Append::unconditional(turn(id, messages, number)).ttl(ttl).retention(retention);
                append.expected = self.head(session, basis);
                append.concurrency = if strict { Concurrency::Strict } else { Concurrency::Rebase };
                let appended = store.append(&self.keys[session], &append).await?;
                Ok(Answer::Appended {
                    head: self.saw(session, appended.head),
                    sequence: appended.sequence,
                    duplicate_of: appended.duplicate_of,
                })
            }
            Step::Load { session, window, known, find } => {
                let mut read = Read::new(window).find(turn_id(find));
                read.known = self.head(session, known);
                let Loaded { head, turns, truncated, since, found, .. } =
                    store.load(&self.keys[session], &read).await?;
                let head = self.saw(session, head);
                Ok(Answer::Loaded { head, turns, truncated, since: since.map(|at| self.version(session, at)), found })
            }
            Step::Delete { session } => Ok(Answer::Deleted { turns: store.delete(&self.keys[session]).await?.turns }),
            Step::List { limit } => {
                let scope = Scope::of(&self.keys[0]);
                let (mut sessions, mut pages, mut page) = (BTreeSet::new(), 0, Page::first(limit));
                loop {
                    let answer = store.list(&scope, &page).await?;
                    assert!(answer.sessions.len() <= limit, "a page of more than was asked for");
                    pages += 1;
                    for entry in answer.sessions {
                        let session =
                            self.keys.iter().position(|key| *key == entry.key).expect("only sessions of the scope");
                        let version = self.version(session, entry.head);
                        assert!(sessions.insert((entry.key.encoded().to_owned(), version)), "listed twice");
                    }
                    let Some(next) = answer.next else { break };
                    page = page.after(Some(next));
                }
                // Owners are random for every run; the conversation says which it is.
                let sessions = sessions.into_iter().collect();
                Ok(Answer::Listed { sessions, pages })
            }
        }
    }
}

fn turn_id(id: u8) -> TurnId {
    TurnId::from_bytes([id; 16])
}

/// The text says which attempt it was, so that a duplicate's answer must be the first attempt.
fn turn(id: u8, messages: usize, number: usize) -> Turn {
    let messages = (0..messages).map(|n| Message::user(format!("{n} of attempt {number}"))).collect();
    let status = if id.is_multiple_of(2) { TurnStatus::Complete } else { TurnStatus::Interrupted };
    let at = std::time::UNIX_EPOCH + Duration::from_millis(1_700_000_000_000 + number as u64);
    Turn::at_time(turn_id(id), status, messages, at)
}
