//! Many pods, shared sessions, and what becomes of their turns; what goes wrong meanwhile is the test's.
//!
//! `TSM_CHAOS_TURNS` makes a run longer, `TSM_CHAOS_SEED`, printed by each run, draws the same faults again.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tower_session_memory::store::{Append, Cached, ErrorKind, Loaded, Read, Resilient, ResilientOptions, Store};
use tower_session_memory::{ConversationId, Message, SessionKey, SharedStore, Turn, TurnId, TurnStatus, Window};

use super::chance::Chance;
use super::history::{Event, What, check};

/// A pod as a deployment has it, patient with the turns that it accepted.
pub fn pod(store: impl Store) -> SharedStore {
    let mut options = ResilientOptions::default();
    options.append_patience = Duration::from_secs(20);
    SharedStore::new(Resilient::with_options(Cached::new(store, 4 << 20), options))
}

/// What the clients of all pods do.
#[derive(Clone, Copy)]
pub struct Load {
    /// Clients of each pod.
    pub writers: usize,
    pub sessions: usize,
    /// Turns that each client tries to store.
    pub turns: usize,
    /// How many bytes the next turn has.
    pub bytes: fn(&mut Chance) -> u64,
}

pub struct Run {
    seed: u64,
    load: Load,
    began: Instant,
    events: Mutex<Vec<Event>>,
    pods: usize,
}

impl Run {
    pub fn new(seed: u64, mut load: Load) -> Self {
        let given = std::env::var("TSM_CHAOS_TURNS").ok().and_then(|text| text.parse().ok());
        load.turns = given.unwrap_or(load.turns);
        Self { seed, load, began: Instant::now(), events: Mutex::default(), pods: 0 }
    }

    fn session(&self, index: usize) -> SessionKey {
        SessionKey::new(ConversationId::parse(&format!("chaos-{}-{index}", self.seed)).unwrap())
    }

    fn now(&self) -> u64 {
        self.began.elapsed().as_nanos() as u64
    }

    fn record(&self, session: usize, began: u64, what: What) {
        let event = Event { session, began, ended: self.now(), what };
        self.events.lock().unwrap().push(event);
    }

    /// One client of one pod: reads, thinks, appends, and on to the next session.
    async fn write(self: Arc<Self>, pod: SharedStore, mut chance: Chance) {
        for _ in 0..self.load.turns {
            let index = chance.below(self.load.sessions as u64) as usize;
            let key = self.session(index);
            let began = self.now();
            let Ok(loaded) = pod.load(&key, &Read::new(Window::ALL)).await else {
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            };
            self.record(index, began, What::Read { turns: ids(&loaded) });
            let text = "x".repeat((self.load.bytes)(&mut chance) as usize);
            let messages = vec![Message::user(&text), Message::assistant(format!("re: {}", text.len()))];
            let turn = Turn::new(TurnId::random(), TurnStatus::Complete, messages);
            let id = turn.id();
            let began = self.now();
            let what = match pod.append(&key, &Append::new(turn, loaded.head)).await {
                Ok(appended) => What::Acknowledged { turn: id, sequence: appended.sequence },
                Err(error) if error.kind().is_ambiguous() => What::Unknown { turn: id },
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
                    What::Refused { turn: id }
                }
            };
            self.record(index, began, what);
        }
    }

    /// All clients of these pods to their end, while `act` is done to the servers again and again.
    pub async fn through(mut self, pods: &[SharedStore], pause: Duration, mut act: impl FnMut() + Send) -> Arc<Self> {
        self.pods = pods.len();
        let run = Arc::new(self);
        let mut writers = tokio::task::JoinSet::new();
        for (number, pod) in pods.iter().flat_map(|pod| vec![pod; run.load.writers]).enumerate() {
            let chance = Chance::new(run.seed.wrapping_add(number as u64));
            writers.spawn(run.clone().write(pod.clone(), chance));
        }
        let done = AtomicBool::new(false);
        let nemesis = async {
            while !done.load(Ordering::Relaxed) {
                tokio::time::sleep(pause).await;
                tokio::task::block_in_place(&mut act);
            }
        };
        let working = async {
            while let Some(ended) = writers.join_next().await {
                ended.unwrap();
            }
            done.store(true, Ordering::Relaxed);
        };
        tokio::join!(nemesis, working);
        run
    }

    /// Reads every session through a store on a quiet network and judges what the clients saw.
    pub async fn judge(&self, quiet: &impl Store, faults: u64) {
        let mut stored = Vec::new();
        for index in 0..self.load.sessions {
            let loaded = quiet.load(&self.session(index), &Read::new(Window::ALL)).await.unwrap();
            assert_eq!(loaded.head.sequence as usize, loaded.turns.len());
            stored.push(ids(&loaded));
        }
        let events = self.events.lock().unwrap();
        let count = |wanted: fn(&What) -> bool| events.iter().filter(|event| wanted(&event.what)).count();
        let acknowledged = count(|what| matches!(what, What::Acknowledged { .. }));
        println!(
            "acknowledged {acknowledged}, unknown {}, refused {}, reads {}, stored {}, faults {faults}",
            count(|what| matches!(what, What::Unknown { .. })),
            count(|what| matches!(what, What::Refused { .. })),
            count(|what| matches!(what, What::Read { .. })),
            stored.iter().map(Vec::len).sum::<usize>(),
        );
        let violations = check(&events, &stored);
        assert!(violations.is_empty(), "seed {}: {violations:#?}", self.seed);
        let sent = self.pods * self.load.writers * self.load.turns;
        assert!(acknowledged * 2 > sent, "only {acknowledged} of {sent} turns got through: this shows little");
        assert!(faults > 0, "nothing went wrong: this shows nothing");
    }
}

fn ids(loaded: &Loaded) -> Vec<TurnId> {
    loaded.turns.iter().map(Turn::id).collect()
}
