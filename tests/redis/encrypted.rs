//! TLS where there are several servers: each is verified by the name that the others give it.

use std::time::{Duration, Instant};

use tower_session_memory::store::conformance::{Case, Instances};
use tower_session_memory::store::{Append, RedisAck, RedisStore, Store, StoreError};

use crate::common::certificates::Certificates;
use crate::common::servers::PATIENCE;
use crate::common::topologies::{RedisCluster, Trio};
use crate::faults::{key, turn, turns};

async fn connect(url: &str, certificates: &Certificates, ack: RedisAck) -> Result<RedisStore, StoreError> {
    RedisStore::builder(url).tls(certificates.trust()).acknowledged_by(ack).connect().await
}

/// Some of the suite: every command and script.
async fn conforms(one: RedisStore, other: RedisStore) {
    let instances = Instances::new(one).and(other);
    for name in [
        "fifty_turns_at_once_are_all_kept",
        "turns_delivered_many_times_at_once_are_stored_once",
        "no_turn_outlives_a_delete_that_it_races_with",
        "by_bytes_whole_oldest_turns_go",
        "with_a_known_head_only_what_is_newer_is_loaded",
        "a_turn_is_found_wherever_it_stands",
        "a_large_turn_is_whole",
        "pages_show_each_session_once",
        "ping_answers_while_the_store_serves",
    ] {
        Case::named(name).expect("the suite has it").run(&instances).await.unwrap();
    }
}

/// Appends until the store has found whoever may be written to now.
async fn append_patiently(store: &RedisStore, key: &tower_session_memory::SessionKey) {
    let (began, append) = (Instant::now(), Append::unconditional(turn("again")));
    while let Err(error) = store.append(key, &append).await {
        assert!(error.kind().is_temporary() && began.elapsed() < PATIENCE, "{error:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_is_verified_by_the_names_that_its_nodes_tell() {
    // Not by their addresses, which these certificates do not have.
    let certificates = Certificates::naming(&["localhost"]);
    let cluster = tokio::task::block_in_place(|| RedisCluster::with_tls(&certificates));
    let store = async || connect(&cluster.url(), &certificates, RedisAck::Master).await.unwrap();
    conforms(store().await, store().await).await;

    let (store, key) = (store().await, key());
    store.append(&key, &Append::unconditional(turn("one"))).await.unwrap();
    tokio::task::block_in_place(|| {
        let slot: u16 = cluster.nodes[0].ask(&format!("CLUSTER KEYSLOT tsm:{{{}}}", key.encoded()));
        cluster.move_slot(slot, (cluster.owner(slot) + 1) % 3);
        for node in &cluster.nodes {
            let _: i64 = node.ask("CLIENT KILL TYPE normal SKIPME yes");
        }
    });
    append_patiently(&store, &key).await;
    assert_eq!(turns(&store, &key).await.len(), 2);
    assert!(connect(&cluster.url(), &Certificates::new(), RedisAck::Master).await.is_err(), "a stranger's authority");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentinels_and_the_master_they_name_are_verified_also_after_a_failover() {
    let certificates = Certificates::new();
    let trio = tokio::task::block_in_place(|| Trio::with_tls(&certificates));
    let store = async || connect(&trio.url(), &certificates, RedisAck::replicas(1)).await.unwrap();
    conforms(store().await, store().await).await;

    let (store, key) = (store().await, key());
    store.append(&key, &Append::unconditional(turn("one"))).await.unwrap();
    let old = trio.master();
    old.kill_9();
    tokio::task::block_in_place(|| trio.wait_for_another_than(old));
    append_patiently(&store, &key).await;
    assert_eq!(turns(&store, &key).await.len(), 2);
    assert!(connect(&trio.url(), &Certificates::new(), RedisAck::Master).await.is_err(), "a stranger's authority");
}
