//! Many pods, shared sessions, and everything that goes wrong at once.
//!
//! A bounded run is part of the tests. A long one:
//! `TSM_CHAOS_TURNS=500 cargo test --features cache,redis,resilience --test redis chaos -- --nocapture`;
//! `TSM_CHAOS_SEED=...`, printed by each run, draws the same faults again.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tower_session_memory::store::{
    Append, Cached, ErrorKind, Loaded, Read, RedisAck, RedisStore, Resilient, ResilientOptions, Store,
};
use tower_session_memory::{ConversationId, Message, SessionKey, Subject, Turn, TurnId, TurnStatus, Window};

use crate::common::chance::Chance;
use crate::common::history::{Event, What, check};
use crate::common::proxy::Proxy;
use crate::common::servers::{RedisServer, eventually};
use crate::common::topologies::{RedisCluster, Trio};

const PODS: usize = 4;
const WRITERS: usize = 16;
const SESSIONS: usize = 8;

type Pod = Arc<Resilient<Cached<RedisStore>>>;

/// Turns that each writer stores.
fn turns() -> usize {
    std::env::var("TSM_CHAOS_TURNS").ok().and_then(|text| text.parse().ok()).unwrap_or(25)
}

/// A pod with the short deadlines that make faults frequent.
async fn pod(url: &str, ack: RedisAck) -> Pod {
    let builder = RedisStore::builder(url).acknowledged_by(ack);
    let builder = builder.reply_timeout(Duration::from_millis(300)).connect_timeout(Duration::from_millis(500));
    let store = builder.acquire_timeout(Duration::from_millis(500)).connect().await.unwrap();
    let mut options = ResilientOptions::default();
    options.append_patience = Duration::from_secs(20);
    Arc::new(Resilient::with_options(Cached::new(store, 4 << 20), options))
}

fn session(index: usize, seed: u64) -> SessionKey {
    let id = ConversationId::parse(&format!("chaos-{seed}-{index}")).unwrap();
    SessionKey::new(id).with_subject(Subject::new("chaos").unwrap())
}

struct Run {
    seed: u64,
    began: Instant,
    events: Mutex<Vec<Event>>,
}

impl Run {
    fn new(seed: u64) -> Arc<Self> {
        Arc::new(Self { seed, began: Instant::now(), events: Mutex::default() })
    }

    fn now(&self) -> u64 {
        self.began.elapsed().as_nanos() as u64
    }

    fn record(&self, session: usize, began: u64, what: What) {
        let event = Event { session, began, ended: self.now(), what };
        self.events.lock().unwrap().push(event);
    }

    /// One client of one pod: reads, thinks, appends, and on to the next session.
    async fn write(self: Arc<Self>, pod: Pod, mut chance: Chance) {
        let mut number = 0;
        for _ in 0..turns() * 20 {
            if number == turns() {
                break;
            }
            let index = chance.below(SESSIONS as u64) as usize;
            let key = session(index, self.seed);
            let began = self.now();
            let Ok(loaded) = pod.load(&key, &Read::new(Window::ALL)).await else {
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            };
            self.record(index, began, What::Read { turns: ids(&loaded) });
            number += 1;
            let text = format!("turn {number} {}", "x".repeat(chance.below(400) as usize));
            let turn = Turn::new(TurnId::random(), TurnStatus::Complete, vec![Message::user(text)]);
            let id = turn.id();
            let append = Append::new(turn, loaded.head).searched().ttl(Some(Duration::from_secs(3600)));
            let began = self.now();
            let what = match pod.append(&key, &append).await {
                Ok(appended) => What::Acknowledged { turn: id, sequence: appended.sequence },
                Err(error) if error.kind().is_ambiguous() => What::Unknown { turn: id },
                Err(error) => {
                    let expected = [ErrorKind::Unavailable, ErrorKind::Full, ErrorKind::Conflict];
                    assert!(expected.contains(&error.kind()), "{error:?}");
                    What::Refused { turn: id }
                }
            };
            self.record(index, began, what);
        }
    }

    /// All writers of all pods, to their end.
    async fn writers(self: &Arc<Self>, pods: &[Pod]) {
        let mut writers = tokio::task::JoinSet::new();
        for (number, pod) in
            pods.iter().enumerate().flat_map(|pod| vec![pod; WRITERS]).enumerate().map(|(n, (_, p))| (n, p))
        {
            writers.spawn(self.clone().write(pod.clone(), Chance::new(self.seed.wrapping_add(number as u64))));
        }
        while let Some(ended) = writers.join_next().await {
            ended.unwrap();
        }
    }

    /// Reads every session on a quiet network and judges.
    async fn judge(&self, store: &RedisStore, faults: u64) {
        let mut stored = Vec::new();
        for index in 0..SESSIONS {
            let loaded = store.load(&session(index, self.seed), &Read::new(Window::ALL)).await.unwrap();
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
        let sent = PODS * WRITERS * turns();
        assert!(acknowledged * 4 > sent, "only {acknowledged} of {sent} turns got through: this shows little");
    }
}

fn ids(loaded: &Loaded) -> Vec<TurnId> {
    loaded.turns.iter().map(Turn::id).collect()
}

/// Runs something against the servers again and again until the writers are done.
async fn until_done(done: &AtomicBool, pause: Duration, mut act: impl FnMut() + Send) {
    while !done.load(Ordering::Relaxed) {
        tokio::time::sleep(pause).await;
        tokio::task::block_in_place(&mut act);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_turn_once_through_network_faults_and_restarts() {
    let seed = Chance::seed("TSM_CHAOS_SEED");
    let server = RedisServer::start();
    let proxy = Proxy::start(server.port, seed).await;
    let mut pods = Vec::new();
    for _ in 0..PODS {
        pods.push(pod(&proxy.url(), RedisAck::Master).await);
    }
    let (run, done) = (Run::new(seed), AtomicBool::new(false));
    proxy.faults(60);
    let mut chance = Chance::new(seed);
    let nemesis = until_done(&done, Duration::from_millis(300), || match chance.below(4) {
        0 => {
            server.kill_9();
            server.restart();
        }
        1 => server.ask::<()>("SCRIPT FLUSH"),
        _ => {
            let _: i64 = server.ask("CLIENT KILL TYPE normal SKIPME yes");
        }
    });
    let writers = async {
        run.writers(&pods).await;
        done.store(true, Ordering::Relaxed);
    };
    tokio::join!(nemesis, writers);
    let faults = proxy.injected();
    run.judge(&RedisStore::connect(&server.url()).await.unwrap(), faults).await;
    assert!(faults > 0, "nothing went wrong: this shows nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_turn_once_while_slots_of_a_cluster_move() {
    let seed = Chance::seed("TSM_CHAOS_SEED");
    let cluster = RedisCluster::start();
    let mut pods = Vec::new();
    for _ in 0..PODS {
        pods.push(pod(&cluster.url(), RedisAck::Master).await);
    }
    let (run, done) = (Run::new(seed), AtomicBool::new(false));
    let slots: Vec<u16> = (0..SESSIONS)
        .map(|index| cluster.nodes[0].ask(&format!("CLUSTER KEYSLOT tsm:{{{}}}", session(index, seed).encoded())))
        .collect();
    let mut chance = Chance::new(seed);
    let mut moved = 0;
    let nemesis = until_done(&done, Duration::from_millis(5), || {
        let slot = slots[chance.below(slots.len() as u64) as usize];
        let to = (cluster.owner(slot) + 1 + chance.below(2) as usize) % 3;
        cluster.move_slot(slot, to);
        moved += 1;
    });
    let writers = async {
        run.writers(&pods).await;
        done.store(true, Ordering::Relaxed);
    };
    tokio::join!(nemesis, writers);
    run.judge(&RedisStore::connect(&cluster.url()).await.unwrap(), moved).await;
    assert!(moved > 0, "no slot moved: this shows nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_turn_once_through_a_failover_by_sentinel() {
    let seed = Chance::seed("TSM_CHAOS_SEED");
    let trio = Trio::start();
    let mut pods = Vec::new();
    for _ in 0..PODS {
        // Both replicas have an acknowledged turn, so whichever is promoted has it.
        pods.push(pod(&trio.url(), RedisAck::Replicas { replicas: 2, within: Duration::from_millis(200) }).await);
    }
    let run = Run::new(seed);
    run.writers(&pods).await;
    let old = trio.master().port;
    trio.master().kill_9();
    let pods: Vec<Pod> = {
        // One replica is left after the failover.
        let new = tokio::task::block_in_place(|| {
            eventually("the Sentinels promote a replica", || {
                let port = trio.master().port;
                (port != old).then_some(port)
            })
        });
        println!("failed over from {old} to {new}");
        let store = RedisStore::connect(&trio.url()).await.unwrap();
        run.judge(&store, 1).await;
        pods
    };
    // The pods that were connected to the old master go on, and say that nobody confirms: one of the
    // two replicas they want is the new master itself.
    let key = session(0, seed);
    let loaded = pods[0].load(&key, &Read::new(Window::ALL)).await.unwrap();
    assert!(!loaded.turns.is_empty());
}
