//! A server that refuses for a while: nothing is written, callers are told to try again, and it is
//! found again once it serves.

use std::time::{Duration, Instant};

use tower_session_memory::SessionKey;
use tower_session_memory::store::{Append, ErrorKind, RedisStore, Store, StoreError};

use crate::common::proxy::Proxy;
use crate::common::servers::{PATIENCE, RedisServer, eventually, free_port};
use crate::common::topologies::RedisCluster;
use crate::faults::{key, kind, turn, turns};

async fn append(store: &RedisStore, key: &SessionKey) -> Result<u64, StoreError> {
    Ok(store.append(key, &Append::unconditional(turn("hello"))).await?.sequence)
}

/// What the server answered instead.
fn answer<T: std::fmt::Debug>(told: Result<T, StoreError>) -> (ErrorKind, String) {
    let told = told.unwrap_err();
    let cause = std::error::Error::source(&told).map(ToString::to_string);
    (told.kind(), cause.unwrap_or_default())
}

fn unavailable(code: &str) -> (ErrorKind, String) {
    (ErrorKind::Unavailable, format!("the server answered {code}"))
}

/// Until a server serves again: refused, never anything else.
async fn append_patiently(store: &RedisStore, key: &SessionKey) -> u64 {
    let began = Instant::now();
    loop {
        match append(store, key).await {
            Ok(sequence) => return sequence,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
                assert!(began.elapsed() < PATIENCE, "{error:?}");
            }
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn busy_with_a_script() {
    let server = RedisServer::with(&["--busy-reply-threshold", "1"]);
    let (store, key) = (RedisStore::connect(&server.url()).await.unwrap(), key());
    append(&store, &key).await.unwrap();
    let mut other = server.connection();
    let spinning = std::thread::spawn(move || {
        redis::cmd("EVAL").arg("while true do end").arg(0).query::<()>(&mut other).unwrap_err()
    });
    let began = Instant::now();
    // The first ones may still come before it.
    let told = loop {
        match append(&store, &key).await {
            Ok(_) => assert!(began.elapsed() < PATIENCE),
            Err(error) => break answer(Err::<(), _>(error)),
        }
    };
    assert_eq!(told, unavailable("BUSY"));
    let stored = store.load(&key, &tower_session_memory::store::Read::new(Default::default())).await;
    assert_eq!(answer(stored), unavailable("BUSY"));
    server.ask::<()>("SCRIPT KILL");
    spinning.join().unwrap();
    let last = append_patiently(&store, &key).await;
    assert_eq!(turns(&store, &key).await.len() as u64, last, "what was refused is not stored");
}

#[tokio::test]
async fn loading_its_data() {
    let server = RedisServer::start();
    let (store, key) = (RedisStore::connect(&server.url()).await.unwrap(), key());
    for _ in 0..200 {
        append(&store, &crate::faults::key()).await.unwrap();
    }
    append(&store, &key).await.unwrap();
    // As one snapshot: while it reads a log of commands, the server answers nobody.
    server.ask::<()>("BGREWRITEAOF");
    eventually("the log is rewritten", || {
        server.ask::<String>("INFO persistence").contains("aof_rewrite_in_progress:0").then_some(())
    });
    server.kill_9();
    server.restart_slowly(Duration::from_millis(5));
    let began = Instant::now();
    // Its port may not be open yet.
    loop {
        let (kind, why) = answer(append(&store, &key).await);
        if why.contains("LOADING") {
            break assert_eq!(kind, ErrorKind::Unavailable);
        }
        assert!(kind.is_temporary() && began.elapsed() < PATIENCE, "{why}");
    }
    assert_eq!(append_patiently(&store, &key).await, 2, "nothing was forgotten");
}

#[tokio::test]
async fn without_the_replicas_that_it_wants() {
    let server = RedisServer::start();
    let (store, key) = (RedisStore::connect(&server.url()).await.unwrap(), key());
    append(&store, &key).await.unwrap();
    server.ask::<()>("CONFIG SET min-replicas-to-write 1");
    assert_eq!(answer(append(&store, &key).await), unavailable("NOREPLICAS"));
    assert_eq!(turns(&store, &key).await.len(), 1, "loads go on");
    server.ask::<()>("CONFIG SET min-replicas-to-write 0");
    assert_eq!(append(&store, &key).await.unwrap(), 2);
}

#[tokio::test]
async fn with_as_many_clients_as_it_takes() {
    let server = RedisServer::with(&["--maxclients", "3"]);
    let all = [server.connection(), server.connection(), server.connection()];
    assert_eq!(kind(RedisStore::connect(&server.url()).await), ErrorKind::Unavailable);
    drop(all);
    let began = Instant::now();
    while let Err(error) = RedisStore::connect(&server.url()).await {
        assert!(error.kind() == ErrorKind::Unavailable && began.elapsed() < PATIENCE, "{error:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_has_lost_a_master() {
    let cluster = tokio::task::block_in_place(RedisCluster::start);
    let (store, key) = (RedisStore::connect(&cluster.url()).await.unwrap(), key());
    append(&store, &key).await.unwrap();
    let slot: u16 = cluster.nodes[0].ask(&format!("CLUSTER KEYSLOT tsm:{{{}}}", key.encoded()));
    let other = (cluster.owner(slot) + 1) % 3;
    cluster.nodes[other].kill_9();
    let began = Instant::now();
    // The others notice after a while, and then serve nobody.
    let told = loop {
        match append(&store, &key).await {
            Ok(_) => assert!(began.elapsed() < PATIENCE),
            Err(error) => break answer(Err::<(), _>(error)),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert_eq!(told, unavailable("CLUSTERDOWN"));
    cluster.nodes[other].restart();
    let last = append_patiently(&store, &key).await;
    assert_eq!(turns(&store, &key).await.len() as u64, last);
}

/// A server says so of calls with several keys only, and ours have one: here a proxy says it in its place.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_says_try_again() {
    const ERROR: &str = "TRYAGAIN Multiple keys request during rehashing of slot";
    let bus = free_port().to_string();
    let node = RedisServer::with(&["--cluster-enabled", "yes", "--cluster-port", &bus]);
    let proxy = Proxy::start(node.port, 0).await;
    node.ask::<()>(&format!("CONFIG SET cluster-announce-port {}", proxy.port));
    node.ask::<()>("CLUSTER ADDSLOTSRANGE 0 16383");
    eventually("it serves", || node.ask::<String>("CLUSTER INFO").contains("cluster_state:ok").then_some(()));
    let url = format!("redis+cluster://127.0.0.1:{}", proxy.port);
    let (store, key) = (RedisStore::connect(&url).await.unwrap(), key());
    append(&store, &key).await.unwrap();

    proxy.refuse(ERROR, 3);
    assert_eq!(append(&store, &key).await.unwrap(), 2);
    proxy.refuse(ERROR, 3);
    assert_eq!(turns(&store, &key).await.len(), 2);

    // For longer than one call is patient.
    proxy.refuse(ERROR, u64::MAX);
    assert_eq!(answer(append(&store, &key).await), unavailable("TRYAGAIN"));
    proxy.refuse(ERROR, 0);
    assert_eq!(append(&store, &key).await.unwrap(), 3);
    assert_eq!(turns(&store, &key).await.len(), 3);
}
