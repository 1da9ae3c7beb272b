//! Many pods, shared sessions, and everything that goes wrong at once.
//!
//! A bounded run is part of the tests. A long one:
//! `TSM_CHAOS_TURNS=500 cargo test --features cache,redis,resilience --test redis chaos -- --nocapture`.

use std::sync::Arc;
use std::time::Duration;

use tower_session_memory::store::{Cached, RedisAck, RedisStore, Resilient};

use crate::common::chance::Chance;
use crate::common::crowd::{Crowd, Habits, resilient};
use crate::common::proxy::Proxy;
use crate::common::servers::{RedisServer, eventually};
use crate::common::topologies::{RedisCluster, Trio};

const PODS: usize = 4;
const WRITERS: usize = 16;

/// A store with the short deadlines that make faults frequent.
async fn store(url: &str, ack: RedisAck) -> RedisStore {
    let builder = RedisStore::builder(url).acknowledged_by(ack);
    let builder = builder.reply_timeout(Duration::from_millis(300)).connect_timeout(Duration::from_millis(500));
    builder.acquire_timeout(Duration::from_millis(500)).connect().await.unwrap()
}

type Pod = Arc<Resilient<Cached<RedisStore>>>;

async fn pods(url: &str, ack: RedisAck) -> Vec<Pod> {
    let mut pods = Vec::new();
    for _ in 0..PODS {
        pods.push(resilient(Cached::new(store(url, ack).await, 4 << 20)));
    }
    pods
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_turn_once_through_network_faults_and_restarts() {
    let seed = Chance::seed("TSM_CHAOS_SEED");
    let server = RedisServer::start();
    let proxy = Proxy::start(server.port, seed).await;
    let pods = pods(&proxy.url(), RedisAck::Master).await;
    let crowd = Crowd::new(seed, Habits::default());
    proxy.faults(60);
    let mut chance = Chance::new(seed);
    let mut full = 0;
    let act = || match chance.below(6) {
        0 => {
            server.kill_9();
            server.restart();
        }
        1 => server.ask::<()>("SCRIPT FLUSH"),
        2 | 3 => {
            let refused = || server.ask::<String>("INFO errorstats").contains("errorstat_OOM:");
            server.ask::<()>("CONFIG SET maxmemory 1");
            eventually("somebody is refused", || (refused() || crowd.is_over()).then_some(()));
            full += u32::from(refused());
            server.ask::<()>("CONFIG SET maxmemory 0");
            server.ask::<()>("CONFIG RESETSTAT");
        }
        _ => {
            let _: i64 = server.ask("CLIENT KILL TYPE normal SKIPME yes");
        }
    };
    crowd.run_through(&pods, WRITERS, Duration::from_millis(300), act).await;
    let faults = proxy.injected();
    crowd.must_be_right(&RedisStore::connect(&server.url()).await.unwrap()).await;
    assert!(faults > 0 && full > 0, "{faults} faults and {full} times full: this shows nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_turn_once_while_slots_of_a_cluster_move() {
    let seed = Chance::seed("TSM_CHAOS_SEED");
    let cluster = RedisCluster::start();
    let mut proxies = Vec::new();
    for node in &cluster.nodes {
        let proxy = Proxy::start(node.port, seed).await;
        node.ask::<()>(&format!("CONFIG SET cluster-announce-port {}", proxy.port));
        proxies.push(proxy);
    }
    eventually("every node names the proxies", || {
        let slots: Vec<String> = cluster.nodes.iter().map(|node| node.ask("CLUSTER NODES")).collect();
        let named = |proxy: &Proxy| slots.iter().all(|nodes| nodes.contains(&format!("127.0.0.1:{}@", proxy.port)));
        proxies.iter().all(named).then_some(())
    });
    let pods = pods(&format!("redis+cluster://127.0.0.1:{}", proxies[0].port), RedisAck::Master).await;
    let crowd = Crowd::new(seed, Habits::default());
    proxies.iter().for_each(|proxy| proxy.faults(20));
    let slots: Vec<u16> = (0..crowd.habits.sessions)
        .map(|index| cluster.nodes[0].ask(&format!("CLUSTER KEYSLOT tsm:{{{}}}", crowd.key(index).encoded())))
        .collect();
    let mut chance = Chance::new(seed);
    let mut moved = 0;
    let act = || {
        let slot = slots[chance.below(slots.len() as u64) as usize];
        let to = (cluster.owner(slot) + 1 + chance.below(2) as usize) % 3;
        cluster.move_slot(slot, to);
        moved += 1;
    };
    crowd.run_through(&pods, WRITERS, Duration::from_millis(5), act).await;
    let faults: u64 = proxies.iter().map(Proxy::injected).sum();
    proxies.iter().for_each(|proxy| proxy.faults(0));
    crowd.must_be_right(&store(&cluster.url(), RedisAck::Master).await).await;
    assert!(moved > 0 && faults > 0, "{moved} slots moved, {faults} faults: this shows nothing");
}

/// The master is killed while all write, a replica is promoted, and the old master comes back, at
/// first as a master with the old data, until the Sentinels demote it. Both replicas have an
/// acknowledged turn, so whichever is promoted has it; nothing is acknowledged before the old master
/// is one of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_turn_once_through_failovers_while_all_write() {
    let seed = Chance::seed("TSM_CHAOS_SEED");
    let trio = Trio::start();
    let pods = pods(&trio.url(), RedisAck::Replicas { replicas: 2, within: Duration::from_millis(200) }).await;
    let habits = Habits { thought: Duration::from_secs(2), ..Habits::default() };
    let crowd = Crowd::new(seed, habits);
    let all = PODS * WRITERS * crowd.habits.turns;
    let mut chance = Chance::new(seed);
    let nemesis = async {
        // One failover for each 1,600 turns, somewhere between their first and their last tenth.
        for share in (0..all).step_by(1600).map(|from| from + 160 + chance.below(1280) as usize) {
            while crowd.acknowledged() < share && !crowd.is_over() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            if !crowd.is_over() {
                tokio::task::block_in_place(|| trio.kill_master_and_bring_it_back(|| crowd.master_died()));
            }
        }
    };
    tokio::join!(nemesis, crowd.run(&pods, WRITERS));
    crowd.must_be_right(&RedisStore::connect(&trio.url()).await.unwrap()).await;
    assert!(crowd.went_on(), "no turn was stored by a new master: this shows nothing");
}
