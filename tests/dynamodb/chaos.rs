//! Many pods, shared sessions, and a network that does its worst; judged by the checker that the other
//! servers' tests use. Bounded: this server answers one request at a time, and keeps nothing over its
//! end, so it is paused where the others are killed.

use std::time::Duration;

use crate::common::chance::Chance;
use crate::common::chaos::{Load, Run, pod};
use crate::common::proxy::Proxy;
use crate::server::{Server, config};

const PODS: usize = 3;
/// Some turns are larger than an item, so that they are to be whole, too.
const LOAD: Load = Load {
    writers: 3,
    sessions: 3,
    turns: 8,
    bytes: |chance| if chance.one_in_thousand(60) { 420_000 } else { chance.below(400) },
};

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
    let pods: Vec<_> = (0..PODS).map(|_| pod(options.clone().with_config(&config()))).collect();
    proxy.faults(80);
    let mut chance = Chance::new(seed);
    let act = || {
        server.signal("STOP");
        std::thread::sleep(Duration::from_millis(chance.below(1_200)));
        server.signal("CONT");
    };
    let run = Run::new(seed, LOAD).through(&pods, Duration::from_millis(1_500), act).await;
    run.judge(&quiet.with_config(&config()), proxy.injected()).await;
}
