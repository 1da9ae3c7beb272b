//! Many pods, shared sessions, and a network that does its worst; judged by the checker that the other
//! servers' tests use. Bounded: this server answers one request at a time, and keeps nothing over its
//! end, so it is paused where the others are killed.

use std::time::Duration;

use tower_session_memory::store::Cached;

use crate::common::chance::Chance;
use crate::common::crowd::{Crowd, Habits, resilient};
use crate::common::proxy::Proxy;
use crate::server::{Server, config};

const PODS: usize = 3;
const WRITERS: usize = 3;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_turn_once_through_network_faults_and_pauses() {
    let seed = Chance::seed("TSM_CHAOS_SEED");
    let server = Server::start();
    let proxy = Proxy::start(server.port(), seed).await;
    let quiet = server.options();
    quiet.clone().with_config(&config()).create_table().await.unwrap();
    // A request that was given up may still arrive, after the one that repeated it.
    let options = quiet.clone().endpoint(format!("http://127.0.0.1:{}", proxy.port));
    let options = options.patience(Duration::from_secs(4)).attempt_timeout(Duration::from_millis(700));
    let pod = || resilient(Cached::new(options.clone().with_config(&config()), 4 << 20));
    let pods: Vec<_> = (0..PODS).map(|_| pod()).collect();
    proxy.faults(80);
    let mut chance = Chance::new(seed);
    let act = || {
        server.signal("STOP");
        std::thread::sleep(Duration::from_millis(chance.below(1_200)));
        server.signal("CONT");
    };
    // Some turns are larger than an item, so that they are to be whole, too.
    let text = |chance: &mut Chance| if chance.one_in_thousand(60) { 210_000 } else { chance.below(400) };
    let crowd = Crowd::new(seed, Habits { sessions: 3, turns: 8, text, ..Habits::default() });
    crowd.run_through(&pods, WRITERS, Duration::from_millis(1_500), act).await;
    crowd.must_be_right(&quiet.with_config(&config())).await;
    assert!(proxy.injected() > 0, "nothing went wrong: this shows nothing");
}
