//! Calls of several pods at once, in any order of their questions and answers: each load must be what
//! a plain list of the turns gives at some moment while it was on its way.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Waker};

use proptest::prelude::*;
use tower_session_memory::store::{Append, Cached, Loaded, Read, Store};
use tower_session_memory::{ConversationId, Head, Message, Retention, SessionKey, Turn, TurnId, TurnStatus, Window};

use crate::slow::{Slow, Version};

const SESSIONS: usize = 2;

#[derive(Debug, Clone)]
enum Step {
    Begin {
        pod: usize,
        session: usize,
        call: Call,
    },
    /// Some call gets one step further.
    Go {
        which: usize,
    },
    /// One pod alone appends so many turns.
    Grow {
        pod: usize,
        session: usize,
        turns: usize,
    },
}

#[derive(Debug, Clone)]
enum Call {
    /// Knowing the head so many versions ago, if any.
    Load {
        window: Window,
        known: Option<usize>,
    },
    Append {
        messages: usize,
        keep: Option<u64>,
    },
    Delete,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let window = prop_oneof![
        2 => Just(Window::ALL),
        1 => Just(Window::NONE),
        3 => (0usize..8).prop_map(Window::newest),
        2 => (40usize..80).prop_map(Window::newest),
        3 => (0usize..9, 0usize..12, 0usize..400).prop_map(|(turns, messages, bytes)| Window::new(turns, messages, bytes)),
    ];
    let keep = prop_oneof![8 => Just(None), 1 => (1u64..6).prop_map(Some)];
    let call = prop_oneof![
        8 => (window, proptest::option::of(0usize..4)).prop_map(|(window, known)| Call::Load { window, known }),
        8 => (0usize..4, keep).prop_map(|(messages, keep)| Call::Append { messages, keep }),
        1 => Just(Call::Delete),
    ];
    let (pod, session) = (0..3usize, 0..SESSIONS);
    let step = prop_oneof![
        8 => (pod.clone(), session.clone(), call).prop_map(|(pod, session, call)| Step::Begin { pod, session, call }),
        24 => (0usize..8).prop_map(|which| Step::Go { which }),
        1 => (pod, session, 1usize..90).prop_map(|(pod, session, turns)| Step::Grow { pod, session, turns }),
    ];
    proptest::collection::vec(step, 1..120)
}

fn turn(messages: usize) -> Turn {
    let messages = (0..messages).map(|number| Message::user(format!("message {number}"))).collect();
    Turn::new(TurnId::random(), TurnStatus::Complete, messages)
}

/// What the contract says of a load of this version.
fn expected(version: &Version, window: Window, known: Option<Head>) -> (Option<Head>, &[Turn], bool) {
    let turns = &version.turns;
    let fitting = window.fit(turns.iter().rev().map(|turn| (turn.messages().len(), turn.bytes())));
    let since = known.filter(|known| {
        let newer = version.head.sequence.checked_sub(known.sequence);
        known.epoch == version.head.epoch && known.epoch > 0 && newer.is_some_and(|newer| newer <= fitting as u64)
    });
    let count = since.map_or(fitting, |known| (version.head.sequence - known.sequence) as usize);
    (since, &turns[turns.len() - count..], fitting < turns.len())
}

struct World {
    store: Slow,
    pods: Vec<Arc<Cached<Slow>>>,
    keys: Vec<SessionKey>,
}

type Flight = Pin<Box<dyn Future<Output = ()>>>;

impl World {
    fn new(counts: bool) -> Self {
        let store = Slow::new(counts);
        // One has room for hardly a session.
        let pods = [1 << 20, 1 << 20, 20_000].map(|bytes| Arc::new(Cached::new(store.clone(), bytes)));
        let keys = (0..SESSIONS).map(|_| SessionKey::new(ConversationId::random())).collect();
        Self { store, pods: pods.into(), keys }
    }

    fn begin(&self, pod: usize, session: usize, call: &Call) -> Flight {
        let (pod, key, store, call) =
            (self.pods[pod].clone(), self.keys[session].clone(), self.store.clone(), call.clone());
        let before = store.versions(&key);
        Box::pin(async move {
            match call {
                Call::Load { window, known } => {
                    let known = known.map(|back| before[before.len().saturating_sub(1 + back)].head);
                    let mut read = Read::new(window);
                    read.known = known;
                    let loaded = pod.load(&key, &read).await.unwrap();
                    assert!(!loaded.lost, "this store loses nothing");
                    let versions = &store.versions(&key)[before.len() - 1..];
                    check(&loaded, versions, window, known);
                }
                Call::Append { messages, keep } => {
                    // As after a load of a moment ago: the session may be another one by the time it arrives.
                    let append = Append::new(turn(messages), before[before.len() - 1].head);
                    let retention = keep.map_or(Retention::default(), Retention::turns);
                    let _maybe_gone = pod.append(&key, &append.retention(retention)).await;
                }
                Call::Delete => drop(pod.delete(&key).await.unwrap()),
            }
        })
    }
}

fn check(loaded: &Loaded, versions: &[Arc<Version>], window: Window, known: Option<Head>) {
    let seen = (loaded.since, &loaded.turns[..], loaded.truncated);
    let heads: Vec<Head> = versions.iter().map(|version| version.head).collect();
    // A turn that trims makes a version of its own, so one head is one version.
    let version = versions.iter().find(|version| version.head == loaded.head);
    let Some(version) = version else { panic!("loaded {:?}, which was none of {heads:?}", loaded.head) };
    assert_eq!(seen, expected(version, window, known), "{window:?} of {:?}, knowing {known:?}", version.head);
    assert!(loaded.kept.is_none_or(|kept| kept == version.turns.len() as u64), "{:?} are kept", loaded.kept);
}

fn go(flights: &mut Vec<Flight>, which: usize) {
    if let Some(flight) = flights.get_mut(which)
        && flight.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready()
    {
        drop(flights.swap_remove(which));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    #[test]
    fn each_load_is_what_was_stored_at_some_moment_of_it(counts: bool, steps in steps()) {
        let world = World::new(counts);
        let mut flights: Vec<Flight> = Vec::new();
        for step in &steps {
            match step {
                Step::Begin { pod, session, call } => flights.push(world.begin(*pod, *session, call)),
                Step::Go { which } => go(&mut flights, *which),
                Step::Grow { pod, session, turns } => {
                    for number in 0..*turns {
                        let mut alone = vec![world.begin(*pod, *session, &Call::Append { messages: number % 3, keep: None })];
                        while !alone.is_empty() {
                            go(&mut alone, 0);
                        }
                    }
                }
            }
        }
        while !flights.is_empty() {
            go(&mut flights, 0);
        }
        for pod in 0..world.pods.len() {
            for session in 0..SESSIONS {
                for window in [Window::NONE, Window::newest(3), Window::new(9, 9, 99), Window::ALL, Window::newest(70)] {
                    flights.push(world.begin(pod, session, &Call::Load { window, known: None }));
                    while !flights.is_empty() {
                        go(&mut flights, 0);
                    }
                }
            }
        }
    }
}
