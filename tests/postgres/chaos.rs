//! Many pods, shared sessions, and everything that goes wrong at once; judged by the checker that the
//! other servers' tests use. `TSM_CHAOS_TURNS` makes it longer, `TSM_CHAOS_SEED` draws the same faults again.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tower_session_memory::store::{
    Append, Cached, ErrorKind, Loaded, PostgresOptions, PostgresStore, Read, Resilient, ResilientOptions, Store,
};
use tower_session_memory::{ConversationId, SessionKey, Turn, TurnId, Window};

use crate::common::chance::Chance;
use crate::common::history::{Event, What, check};
use crate::common::proxy::Proxy;
use crate::kit::turn;
use crate::server::Server;

const PODS: usize = 4;
const WRITERS: usize = 4;
const SESSIONS: usize = 4;

type Pod = Arc<Resilient<Cached<PostgresStore>>>;

fn turns() -> usize {
    std::env::var("TSM_CHAOS_TURNS").ok().and_then(|text| text.parse().ok()).unwrap_or(25)
}

/// Short limits make faults frequent.
fn options(url: &str) -> PostgresOptions {
    let options = PostgresOptions::new(url).unwrap().pool_size(4);
    let options = options.statement_timeout(Duration::from_millis(400)).lock_timeout(Duration::from_millis(200));
    options.acquire_timeout(Duration::from_millis(800))
}

fn session(index: usize, seed: u64) -> SessionKey {
    SessionKey::new(ConversationId::parse(&format!("chaos-{seed}-{index}")).unwrap())
}

fn ids(loaded: &Loaded) -> Vec<TurnId> {
    loaded.turns.iter().map(Turn::id).collect()
}

struct Run {
    seed: u64,
    began: Instant,
    events: Mutex<Vec<Event>>,
}

impl Run {
    fn now(&self) -> u64 {
        self.began.elapsed().as_nanos() as u64
    }

    fn record(&self, session: usize, began: u64, what: What) {
        let event = Event { session, began, ended: self.now(), what };
        self.events.lock().unwrap().push(event);
    }

    async fn write(self: Arc<Self>, pod: Pod, mut chance: Chance) {
        for _ in 0..turns() {
            let index = chance.below(SESSIONS as u64) as usize;
            let key = session(index, self.seed);
            let began = self.now();
            let Ok(loaded) = pod.load(&key, &Read::new(Window::ALL)).await else {
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            };
            self.record(index, began, What::Read { turns: ids(&loaded) });
            let turn = turn(&"x".repeat(chance.below(400) as usize));
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
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_turn_once_through_network_faults_and_kill_9() {
    let seed = Chance::seed("TSM_CHAOS_SEED");
    let server = Server::start(&[]);
    options(&server.url()).migrate().await.unwrap();
    let proxy = Proxy::start(server.port(), seed).await;
    let url = format!("postgres://postgres@127.0.0.1:{}/postgres", proxy.port);
    let run = Arc::new(Run { seed, began: Instant::now(), events: Mutex::default() });
    let mut writers = tokio::task::JoinSet::new();
    for number in 0..PODS {
        let store = options(&url).connect().await.unwrap();
        let mut resilience = ResilientOptions::default();
        resilience.append_patience = Duration::from_secs(20);
        let pod: Pod = Arc::new(Resilient::with_options(Cached::new(store, 4 << 20), resilience));
        for writer in 0..WRITERS {
            let chance = Chance::new(seed.wrapping_add((number * WRITERS + writer) as u64));
            writers.spawn(run.clone().write(pod.clone(), chance));
        }
    }
    proxy.faults(30);
    let done = AtomicBool::new(false);
    let mut chance = Chance::new(seed);
    let nemesis = async {
        while !done.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(700)).await;
            tokio::task::block_in_place(|| match chance.below(3) {
                0 => {
                    server.kill();
                    server.launch();
                }
                _ => {
                    let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                               WHERE application_name = 'tower-session-memory'";
                    server.psql(end, &[]).ok();
                }
            });
        }
    };
    let working = async {
        while let Some(ended) = writers.join_next().await {
            ended.unwrap();
        }
        done.store(true, Ordering::Relaxed);
    };
    tokio::join!(nemesis, working);

    let quiet = server.options("session_memory").connect().await.unwrap();
    let mut stored = Vec::new();
    for index in 0..SESSIONS {
        let loaded = quiet.load(&session(index, seed), &Read::new(Window::ALL)).await.unwrap();
        assert_eq!(loaded.head.sequence as usize, loaded.turns.len());
        stored.push(ids(&loaded));
    }
    let events = run.events.lock().unwrap();
    let count = |wanted: fn(&What) -> bool| events.iter().filter(|event| wanted(&event.what)).count();
    let acknowledged = count(|what| matches!(what, What::Acknowledged { .. }));
    println!(
        "acknowledged {acknowledged}, unknown {}, refused {}, reads {}, stored {}, faults {}",
        count(|what| matches!(what, What::Unknown { .. })),
        count(|what| matches!(what, What::Refused { .. })),
        count(|what| matches!(what, What::Read { .. })),
        stored.iter().map(Vec::len).sum::<usize>(),
        proxy.injected(),
    );
    let violations = check(&events, &stored);
    assert!(violations.is_empty(), "seed {seed}: {violations:#?}");
    let sent = PODS * WRITERS * turns();
    assert!(acknowledged * 2 > sent, "only {acknowledged} of {sent} turns got through: this shows little");
    assert!(proxy.injected() > 0, "nothing went wrong: this shows nothing");
}
