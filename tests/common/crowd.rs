//! Many clients of some pods on a few shared sessions, who write down what they saw.
//!
//! `TSM_CHAOS_TURNS` makes a run longer, `TSM_CHAOS_SEED`, printed by each run, draws the same faults again.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tower_session_memory::store::{Append, ErrorKind, Loaded, Read, Resilient, ResilientOptions, Store};
use tower_session_memory::{ConversationId, Message, SessionKey, Subject, Turn, TurnId, TurnStatus, Window};

use super::chance::Chance;
use super::history::{Event, Mark, Violation, What, check};

/// What the clients of all pods do.
#[derive(Clone, Copy)]
pub struct Habits {
    /// Sessions that all share.
    pub sessions: usize,
    /// Turns that each client sends.
    pub turns: usize,
    /// How long some think between reading and writing, at most.
    pub thought: Duration,
    /// How much text the next turn's messages have.
    pub text: fn(&mut Chance) -> u64,
}

impl Default for Habits {
    fn default() -> Self {
        Self { sessions: 8, turns: 25, thought: Duration::ZERO, text: |chance| chance.below(400) }
    }
}

pub struct Crowd {
    seed: u64,
    pub habits: Habits,
    sent: AtomicUsize,
    acknowledged: AtomicUsize,
    began: Instant,
    events: Mutex<Vec<Event>>,
    deaths: Mutex<Vec<u64>>,
    over: AtomicBool,
}

impl Crowd {
    /// A crowd that draws the same sessions and texts for the same seed.
    pub fn new(seed: u64, mut habits: Habits) -> Arc<Self> {
        let turns = std::env::var("TSM_CHAOS_TURNS").ok().and_then(|text| text.parse().ok());
        habits.turns = turns.unwrap_or(habits.turns);
        Arc::new(Self {
            seed,
            habits,
            sent: AtomicUsize::new(0),
            acknowledged: AtomicUsize::new(0),
            began: Instant::now(),
            events: Mutex::default(),
            deaths: Mutex::default(),
            over: AtomicBool::new(false),
        })
    }

    pub fn key(&self, session: usize) -> SessionKey {
        let id = ConversationId::parse(&format!("crowd-{}-{session}", self.seed)).expect("a good id");
        SessionKey::new(id).with_subject(Subject::new("crowd").expect("a good subject"))
    }

    pub fn acknowledged(&self) -> usize {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Whether all clients have come to their ends.
    #[allow(dead_code, reason = "not every test waits for something that only clients cause")]
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// To be told when a master is dead for certain, and before its successor is asked.
    pub fn master_died(&self) {
        self.deaths.lock().expect("nobody panics with it").push(self.now());
    }

    /// Whether a turn was acknowledged that was sent after the last death.
    pub fn went_on(&self) -> bool {
        let death = self.deaths.lock().expect("nobody panics with it").last().copied().unwrap_or_default();
        let events = self.events.lock().expect("nobody panics with it");
        events.iter().any(|event| event.began > death && matches!(event.what, What::Acknowledged { .. }))
    }

    fn now(&self) -> u64 {
        self.began.elapsed().as_nanos() as u64
    }

    fn record(&self, session: usize, began: u64, what: What) {
        let event = Event { session, began, ended: self.now(), what };
        self.events.lock().expect("nobody panics with it").push(event);
    }

    /// So many clients of each pod, to their end, and one more that only reads.
    pub async fn run<S: Store>(self: &Arc<Self>, pods: &[Arc<S>], clients: usize) {
        let mut all = tokio::task::JoinSet::new();
        for (number, pod) in pods.iter().flat_map(|pod| vec![pod; clients]).enumerate() {
            let chance = Chance::new(self.seed.wrapping_add(number as u64));
            all.spawn(self.clone().client(pod.clone(), chance));
        }
        let mut readers = tokio::task::JoinSet::new();
        for (number, pod) in pods.iter().enumerate() {
            readers.spawn(self.clone().reader(pod.clone(), Chance::new(self.seed ^ number as u64)));
        }
        while let Some(ended) = all.join_next().await {
            ended.expect("a client met what no store may do");
        }
        self.over.store(true, Ordering::Relaxed);
        readers.abort_all();
        while let Some(ended) = readers.join_next().await {
            let fine = ended.is_err_and(|error| error.is_cancelled());
            assert!(fine, "a reader met what no store may do");
        }
    }

    /// The same, while `act` is done to the servers again and again.
    pub async fn run_through<S: Store>(
        self: &Arc<Self>,
        pods: &[Arc<S>],
        clients: usize,
        pause: Duration,
        mut act: impl FnMut() + Send,
    ) {
        let nemesis = async {
            while !self.is_over() {
                tokio::time::sleep(pause).await;
                tokio::task::block_in_place(&mut act);
            }
        };
        tokio::join!(nemesis, self.run(pods, clients));
    }

    async fn reader<S: Store>(self: Arc<Self>, pod: Arc<S>, mut chance: Chance) {
        loop {
            self.read(&*pod, chance.below(self.habits.sessions as u64) as usize).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn read(&self, pod: &impl Store, session: usize) -> Option<(u64, Loaded)> {
        let began = self.now();
        match pod.load(&self.key(session), &Read::new(Window::ALL)).await {
            Ok(loaded) => {
                self.record(session, began, What::Read { turns: marks(&loaded) });
                Some((began, loaded))
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
                None
            }
        }
    }

    /// Reads, thinks, appends, and on to the next session.
    async fn client<S: Store>(self: Arc<Self>, pod: Arc<S>, mut chance: Chance) {
        let longest = Duration::from_secs(60 + 2 * self.habits.turns as u64);
        let mut number = 0;
        while number < self.habits.turns && self.began.elapsed() < longest {
            let index = chance.below(self.habits.sessions as u64) as usize;
            let Some((read, loaded)) = self.read(&*pod, index).await else {
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            };
            if !self.habits.thought.is_zero() && chance.one_in_thousand(50) {
                tokio::time::sleep(self.habits.thought.mul_f64(chance.below(1000) as f64 / 1000.0)).await;
            }
            number += 1;
            let text = format!("turn {number} {}", "x".repeat((self.habits.text)(&mut chance) as usize));
            let messages = vec![Message::user(&text), Message::assistant(text)];
            let turn = Turn::new(TurnId::random(), TurnStatus::Complete, messages);
            let mark = Mark::from(&turn);
            let append =
                Append::new(turn, loaded.head).lineage(loaded.lineage).searched().ttl(Some(Duration::from_secs(3600)));
            let began = self.now();
            self.sent.fetch_add(1, Ordering::Relaxed);
            let what = match pod.append(&self.key(index), &append).await {
                Ok(appended) => {
                    self.acknowledged.fetch_add(1, Ordering::Relaxed);
                    What::Acknowledged { turn: mark, sequence: appended.sequence, seen: loaded.head.sequence }
                }
                Err(error) => match error.kind() {
                    ErrorKind::Ambiguous => What::Unknown { turn: mark },
                    ErrorKind::Unavailable | ErrorKind::Full => What::Refused { turn: mark },
                    ErrorKind::RolledBack => {
                        let seen = loaded.turns.iter().map(Turn::id).collect();
                        What::RolledBack { turn: mark, read, seen }
                    }
                    _ => panic!("nobody promised this: {error:?}"),
                },
            };
            self.record(index, began, what);
        }
    }

    /// Reads every session on a quiet network and judges; prints what happened.
    pub async fn judge(&self, store: &impl Store) -> Vec<Violation> {
        let mut stored = Vec::new();
        for index in 0..self.habits.sessions {
            let loaded = store.load(&self.key(index), &Read::new(Window::ALL)).await.expect("the network is quiet");
            assert_eq!(loaded.head.sequence as usize, loaded.turns.len());
            stored.push(marks(&loaded));
        }
        let events = self.events.lock().expect("nobody panics with it");
        let count = |wanted: fn(&What) -> bool| events.iter().filter(|event| wanted(&event.what)).count();
        println!(
            "acknowledged {}, unknown {}, refused {}, rolled back {}, reads {} (of lost turns {}), stored {}",
            self.acknowledged(),
            count(|what| matches!(what, What::Unknown { .. })),
            count(|what| matches!(what, What::Refused { .. })),
            count(|what| matches!(what, What::RolledBack { .. })),
            count(|what| matches!(what, What::Read { .. })),
            events.iter().filter(|event| reads_lost(event, &stored)).count(),
            stored.iter().map(Vec::len).sum::<usize>(),
        );
        check(&events, &stored, &self.deaths.lock().expect("nobody panics with it"))
    }

    /// Judges a run that must be without fault, and must show something: most turns got through.
    pub async fn must_be_right(&self, store: &impl Store) {
        let violations = self.judge(store).await;
        assert!(violations.is_empty(), "seed {}: {violations:#?}", self.seed);
        let (acknowledged, sent) = (self.acknowledged(), self.sent.load(Ordering::Relaxed));
        assert!(acknowledged * 2 > sent, "only {acknowledged} of {sent} turns got through: this shows little");
    }
}

/// Longer than any outage in these tests: an accepted turn is tried until it has an answer.
pub fn resilient<S: Store>(store: S) -> Arc<Resilient<S>> {
    let mut options = ResilientOptions::default();
    options.append_patience = Duration::from_secs(40);
    Arc::new(Resilient::with_options(store, options))
}

fn reads_lost(event: &Event, stored: &[Vec<Mark>]) -> bool {
    matches!(&event.what, What::Read { turns } if !stored[event.session].starts_with(turns))
}

fn marks(loaded: &Loaded) -> Vec<Mark> {
    loaded.turns.iter().map(Mark::from).collect()
}
