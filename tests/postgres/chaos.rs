//! Many pods, shared sessions, and everything that goes wrong at once; judged by the checker that the
//! other servers' tests use.

use std::time::Duration;

use tower_session_memory::store::{Cached, PostgresOptions};

use crate::common::chance::Chance;
use crate::common::crowd::{Crowd, Habits, resilient};
use crate::common::proxy::Proxy;
use crate::server::Server;

const PODS: usize = 4;
const WRITERS: usize = 16;

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
        pods.push(resilient(Cached::new(options(&url).connect().await.unwrap(), 4 << 20)));
    }
    proxy.faults(30);
    let mut chance = Chance::new(seed);
    let hold = |locks: &str| drop(server.psql(&format!("BEGIN; {locks}; COMMIT"), &[]).unwrap());
    let act = || match chance.below(5) {
        // Longer than a writer waits for a lock, and longer than for a statement.
        0 => hold("LOCK session_memory.session IN SHARE MODE; SELECT pg_sleep(0.3)"),
        1 => hold("LOCK session_memory.turn; SELECT pg_sleep(0.6)"),
        2 => {
            server.kill();
            server.launch();
        }
        _ => {
            let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                       WHERE application_name = 'tower-session-memory'";
            server.psql(end, &[]).ok();
        }
    };
    let crowd = Crowd::new(seed, Habits { sessions: 8, turns: 12, ..Habits::default() });
    crowd.run_through(&pods, WRITERS, Duration::from_millis(700), act).await;
    crowd.must_be_right(&server.options("session_memory").connect().await.unwrap()).await;
    assert!(proxy.injected() > 0, "nothing went wrong: this shows nothing");
}
