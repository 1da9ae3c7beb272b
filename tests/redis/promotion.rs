//! A master that is no master any more, and what waits for disks and replicas.

use std::time::{Duration, Instant};

use tower_session_memory::store::{Append, Durability, ErrorKind, Read, RedisAck, RedisStore, Resilient, Store};
use tower_session_memory::{Head, Window};

use crate::common::servers::{self, PATIENCE, RedisServer, eventually};
use crate::faults::{key, kind, replica_of, turn, turns};

#[tokio::test]
async fn no_connection_reads_from_a_demoted_master() {
    let (master, other) = (RedisServer::start(), RedisServer::start());
    let store = RedisStore::builder(&master.url()).connections(4).connect().await.unwrap();
    let key = key();
    let head = store.append(&key, &Append::unconditional(turn("one"))).await.unwrap().head;
    assert_eq!(turns(&store, &key).await.len(), 1);
    // As by hand: nobody ends the connections.
    master.ask::<()>(&format!("REPLICAOF 127.0.0.1 {}", other.port));
    let append = Append::new(turn("two"), head);
    assert_eq!(kind(store.append(&key, &append).await), ErrorKind::Unavailable);
    for _ in 0..10 {
        let read = store.load(&key, &Read::new(Window::default())).await;
        assert_eq!(kind(read), ErrorKind::Unavailable, "a replica was asked");
    }
    master.ask::<()>("REPLICAOF NO ONE");
    // Whether it still has its data or is a copy of the empty server: it serves again.
    Resilient::new(store).append(&key, &Append::unconditional(turn("two"))).await.unwrap();
}

/// Valkey, or nothing: Debian's Redis has no `WAITAOF`.
fn valkey(settings: &[&str]) -> Option<RedisServer> {
    servers::valkey("nobody has WAITAOF").map(|program| RedisServer::of(program, settings))
}

#[tokio::test]
async fn a_turn_is_stored_once_the_disks_have_it() {
    let Some(master) = valkey(&["--appendonly", "yes", "--appendfsync", "always"]) else { return };
    let disks = |replicas| RedisAck::Disks { replicas, within: Duration::from_millis(100) };
    let builder = RedisStore::builder(&master.url()).acknowledged_by(disks(0)).require(Durability::Host);
    let (store, key) = (builder.connect().await.unwrap(), key());
    assert_eq!(store.info().durability, Durability::Host);
    let one = store.append(&key, &Append::unconditional(turn("one"))).await.unwrap();
    let asked = || {
        let stats: String = master.ask("INFO commandstats");
        let waited = stats.lines().find_map(|line| line.strip_prefix("cmdstat_waitaof:calls="));
        waited.and_then(|calls| calls.split(',').next()?.parse::<u64>().ok()).unwrap_or_default()
    };
    let before = asked();
    store.append(&key, &Append::new(turn("two"), one.head)).await.unwrap();
    assert_eq!(asked(), before + 1);

    // One disk besides the master's, and there is none.
    let impatient = RedisStore::builder(&master.url()).acknowledged_by(disks(1)).connect().await.unwrap();
    let append = Append::new(turn("three"), Head::new(one.head.epoch, 2));
    for _ in 0..2 {
        assert_eq!(kind(impatient.append(&key, &append).await), ErrorKind::Ambiguous);
    }
    // A replica without a disk is no disk.
    let replica = |append_only| {
        master.ask::<()>("CONFIG SET repl-diskless-sync-delay 0");
        let of = format!("127.0.0.1 {}", master.port);
        let replica = valkey(&["--appendonly", append_only, "--replicaof", &of]);
        eventually("the replica is in step", || {
            master.ask::<String>("INFO replication").contains("state=online").then_some(())
        });
        replica
    };
    let forgetful = replica("no");
    assert_eq!(kind(impatient.append(&key, &append).await), ErrorKind::Ambiguous);
    drop(forgetful);
    let _replica = replica("yes");
    // Replicas tell of their disks once a second.
    let store = RedisStore::builder(&master.url()).acknowledged_by(RedisAck::disks(1)).connect().await.unwrap();
    let began = Instant::now();
    let stored = loop {
        match store.append(&key, &append).await {
            Ok(stored) => break stored,
            Err(error) => assert!(error.kind().is_ambiguous() && began.elapsed() < PATIENCE, "{error:?}"),
        }
    };
    assert!(stored.duplicate_of.is_some());
    assert_eq!((stored.sequence, turns(&store, &key).await.len()), (3, 3));
}

#[tokio::test]
async fn a_disk_that_takes_its_time_is_waited_for() {
    let Some(server) = valkey(&["--appendonly", "yes", "--appendfsync", "everysec"]) else { return };
    let builder = RedisStore::builder(&server.url()).acknowledged_by(RedisAck::disks(0));
    let store = builder.require(Durability::Host).connect().await.unwrap();
    for number in 1..=3 {
        let stored = store.append(&key(), &Append::unconditional(turn("slowly"))).await;
        assert_eq!(stored.unwrap().sequence, 1, "{number}");
    }
}

#[tokio::test]
async fn a_server_that_cannot_wait_is_refused_when_connecting() {
    let refused = async |server: &RedisServer, login: &str, ack| {
        let url = format!("redis://{login}127.0.0.1:{}", server.port);
        let error = RedisStore::builder(&url).acknowledged_by(ack).connect().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Misconfigured, "{error:?}");
        std::error::Error::source(&error).expect("a reason").to_string()
    };
    let redis = RedisServer::start();
    if redis.ask::<String>("INFO server").contains("redis_version:7.0") {
        let why = refused(&redis, "", RedisAck::disks(0)).await;
        assert!(why.contains("WAITAOF needs Redis 7.2 or Valkey"), "{why}");
    }
    redis.ask::<()>("ACL SETUSER pod on >x ~* +@all -wait -info");
    for ack in [RedisAck::replicas(1), RedisAck::disks(0)] {
        let why = refused(&redis, "pod:x@", ack).await;
        assert!(why.contains("wait for an acknowledgement"), "{why}");
    }
    for settings in [["--appendonly", "no", "--appendfsync", "always"], ["--appendonly", "yes", "--appendfsync", "no"]]
    {
        let Some(valkey) = valkey(&settings) else { return };
        let why = refused(&valkey, "", RedisAck::disks(0)).await;
        assert!(why.contains("WAITAOF needs appendonly"), "{why}");
    }
}

#[tokio::test]
async fn a_replica_is_not_connected_to() {
    let master = RedisServer::start();
    let replica = replica_of(&master);
    assert_eq!(kind(RedisStore::connect(&replica.url()).await), ErrorKind::Unavailable);
    // Until it is promoted.
    replica.ask::<()>("REPLICAOF NO ONE");
    let store = RedisStore::connect(&replica.url()).await.unwrap();
    store.append(&key(), &Append::unconditional(turn("hello"))).await.unwrap();
}
