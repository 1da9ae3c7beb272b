//! Many pods, shared sessions, and everything that goes wrong at once; judged by the checker that the
//! other servers' tests use. `TSM_CHAOS_TURNS` makes it longer, `TSM_CHAOS_SEED` draws the same faults again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tower_session_memory::store::{Cached, PostgresOptions, Resilient, ResilientOptions};

use crate::common::chance::Chance;
use crate::common::crowd::Crowd;
use crate::common::proxy::Proxy;
use crate::server::Server;

const PODS: usize = 4;
const WRITERS: usize = 4;

fn turns() -> usize {
    std::env::var("TSM_CHAOS_TURNS").ok().and_then(|text| text.parse().ok()).unwrap_or(25)
}

/// Short limits make faults frequent.
fn options(url: &str) -> PostgresOptions {
    let options = PostgresOptions::new(url).unwrap().pool_size(4);
    let options = options.statement_timeout(Duration::from_millis(400)).lock_timeout(Duration::from_millis(200));
    options.acquire_timeout(Duration::from_millis(800))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_turn_once_through_network_faults_and_kill_9() {
    let seed = Chance::seed("TSM_CHAOS_SEED");
    let server = Server::start(&[]);
    options(&server.url()).migrate().await.unwrap();
    let proxy = Proxy::start(server.port(), seed).await;
    let url = format!("postgres://postgres@127.0.0.1:{}/postgres", proxy.port);
    let mut pods = Vec::new();
    for _ in 0..PODS {
        let store = options(&url).connect().await.unwrap();
        let mut resilience = ResilientOptions::default();
        resilience.append_patience = Duration::from_secs(20);
        pods.push(Arc::new(Resilient::with_options(Cached::new(store, 4 << 20), resilience)));
    }
    let crowd = Crowd::new(seed, turns(), Duration::ZERO);
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
        crowd.run(&pods, WRITERS).await;
        done.store(true, Ordering::Relaxed);
    };
    tokio::join!(nemesis, working);
    crowd.must_be_right(&server.options("session_memory").connect().await.unwrap()).await;
    assert!(proxy.injected() > 0, "nothing went wrong: this shows nothing");
}
