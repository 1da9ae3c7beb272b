//! One fault at a time: what a caller is told, and what is stored.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tower_session_memory::store::{
    Append, Cached, ErrorKind, Page, Read, RedisAck, RedisStore, Resilient, ResilientOptions, Store, StoreError,
};
use tower_session_memory::{
    ConversationId, Head, Message, Scope, SessionKey, Subject, Turn, TurnId, TurnStatus, Window,
};

use crate::common::proxy::{Fault, Proxy};
use crate::common::servers::{PATIENCE, RedisServer, eventually};
use crate::common::topologies::{RedisCluster, Trio};

const REPLY: Duration = Duration::from_millis(300);

pub(crate) fn key() -> SessionKey {
    SessionKey::new(ConversationId::random()).with_subject(Subject::new("ada").unwrap())
}

pub(crate) fn turn(text: &str) -> Turn {
    Turn::new(TurnId::random(), TurnStatus::Complete, vec![Message::user(text), Message::assistant("ok")])
}

async fn impatient(url: &str) -> RedisStore {
    let builder = RedisStore::builder(url).reply_timeout(REPLY).connect_timeout(REPLY).acquire_timeout(REPLY);
    builder.connections(1).connect().await.unwrap()
}

pub(crate) async fn turns(store: &impl Store, key: &SessionKey) -> Vec<Turn> {
    store.load(key, &Read::new(Window::ALL)).await.unwrap().turns
}

/// A replica that is in step.
pub(crate) fn replica_of(master: &RedisServer) -> RedisServer {
    master.ask::<()>("CONFIG SET repl-diskless-sync-delay 0");
    let replica = RedisServer::with(&["--appendonly", "yes", "--replicaof", &format!("127.0.0.1 {}", master.port)]);
    eventually("the replica is in step", || {
        master.ask::<String>("INFO replication").contains("state=online").then_some(())
    });
    replica
}

pub(crate) fn kind<T: std::fmt::Debug>(answer: Result<T, StoreError>) -> ErrorKind {
    answer.unwrap_err().kind()
}

#[tokio::test]
async fn a_server_that_forgot_the_scripts_gets_them_again() {
    let server = RedisServer::start();
    let (store, key) = (RedisStore::connect(&server.url()).await.unwrap(), key());
    for number in 1..=3 {
        server.ask::<()>("SCRIPT FLUSH");
        let appended = store.append(&key, &Append::unconditional(turn("hello"))).await.unwrap();
        assert_eq!(appended.sequence, number);
        server.ask::<()>("SCRIPT FLUSH");
        assert_eq!(store.load(&key, &Read::new(Window::default())).await.unwrap().head, appended.head);
    }
    server.ask::<()>("SCRIPT FLUSH");
    assert_eq!(store.delete(&key).await.unwrap().turns, 3);
}

#[tokio::test]
async fn a_connection_that_the_server_closed_is_replaced_before_anybody_notices() {
    let server = RedisServer::start();
    let store = RedisStore::builder(&server.url()).connections(2).connect().await.unwrap();
    let key = key();
    for _ in 0..5 {
        let killed: i64 = server.ask("CLIENT KILL TYPE normal SKIPME yes");
        assert!(killed > 0);
        // The end of the socket is read by the task that drives it; wait until it has been.
        let clients = || server.ask::<String>("CLIENT LIST").lines().count();
        tokio::task::yield_now().await;
        let began = Instant::now();
        loop {
            match store.append(&key, &Append::unconditional(turn("hello"))).await {
                Ok(_) => break,
                // It was on the way when the connection went: that is what ambiguous means.
                Err(error) => assert!(error.kind().is_temporary() && began.elapsed() < REPLY, "{error:?}"),
            }
        }
        assert!(clients() > 1);
    }
    assert!(turns(&store, &key).await.len() >= 5);
}

/// An append that meets a fault is ambiguous, and the same attempt again finds out.
async fn is_ambiguous_and_stored_once(fault: Fault, had_arrived: bool) {
    let server = RedisServer::start();
    let proxy = Proxy::start(server.port, 0).await;
    let (store, key) = (impatient(&proxy.url()).await, key());
    // So that the server knows the script: else its answer is that it does not.
    store.append(&self::key(), &Append::unconditional(turn("other"))).await.unwrap();
    let append = Append::new(turn("once"), Head::ABSENT);
    proxy.next(fault);
    assert_eq!(kind(store.append(&key, &append).await), ErrorKind::Ambiguous);

    let again = store.append(&key, &append).await.unwrap();
    assert_eq!(again.duplicate_of.is_some(), had_arrived);
    assert_eq!(again.sequence, 1);
    assert_eq!(turns(&store, &key).await, [append.turn]);
}

#[tokio::test]
async fn a_connection_cut_before_the_append_arrived() {
    is_ambiguous_and_stored_once(Fault::CutBeforeSend, false).await;
}

#[tokio::test]
async fn a_connection_cut_after_the_append_arrived() {
    is_ambiguous_and_stored_once(Fault::CutAfterSend, true).await;
}

#[tokio::test]
async fn an_answer_that_comes_too_late() {
    is_ambiguous_and_stored_once(Fault::Stall, true).await;
}

#[tokio::test]
async fn a_connection_on_which_nothing_arrives_any_more() {
    is_ambiguous_and_stored_once(Fault::HalfOpen, false).await;
}

async fn is_only_slow(fault: Fault) {
    let server = RedisServer::start();
    let proxy = Proxy::start(server.port, 0).await;
    let (store, key) = (RedisStore::builder(&proxy.url()).connections(1).connect().await.unwrap(), key());
    let append = Append::unconditional(turn("slowly"));
    proxy.next(fault);
    assert!(store.append(&key, &append).await.unwrap().duplicate_of.is_none());
    proxy.next(fault);
    assert_eq!(turns(&store, &key).await, [append.turn]);
}

#[tokio::test]
async fn bytes_that_arrive_one_at_a_time() {
    is_only_slow(Fault::Slice).await;
}

#[tokio::test]
async fn a_slow_network() {
    is_only_slow(Fault::Slow).await;
}

#[tokio::test]
async fn a_black_hole_is_left_after_one_deadline() {
    let server = RedisServer::start();
    let proxy = Proxy::start(server.port, 0).await;
    let (store, key) = (impatient(&proxy.url()).await, key());
    let before = proxy.connections();
    proxy.next(Fault::HalfOpen);
    assert_eq!(kind(store.load(&key, &Read::new(Window::default())).await), ErrorKind::Unavailable);
    let began = Instant::now();
    store.load(&key, &Read::new(Window::default())).await.unwrap();
    assert!(began.elapsed() < REPLY, "the new connection was not there at once: {:?}", began.elapsed());
    assert_eq!(proxy.connections(), before + 1);
}

#[tokio::test]
async fn while_the_server_is_away_nobody_waits() {
    let server = RedisServer::start();
    let builder = RedisStore::builder(&server.url());
    let store = builder.acquire_timeout(Duration::from_secs(30)).connect().await.unwrap();
    let key = key();
    store.append(&key, &Append::unconditional(turn("before"))).await.unwrap();
    server.kill_9();
    let began = Instant::now();
    for _ in 0..20 {
        let failed = store.load(&key, &Read::new(Window::default())).await.unwrap_err();
        assert_eq!(failed.kind(), ErrorKind::Unavailable);
    }
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    server.restart();
    assert_eq!(turns(&store, &key).await.len(), 1, "what was acknowledged is in the log");
}

#[tokio::test]
async fn a_full_server_refuses_whole_turns_and_deleting_makes_room() {
    let server = RedisServer::with(&["--maxmemory", "5mb", "--maxmemory-policy", "noeviction"]);
    let (store, key) = (RedisStore::connect(&server.url()).await.unwrap(), key());
    let mut stored = 0;
    let refused = loop {
        let large = turn(&"x".repeat(100_000));
        match store.append(&key, &Append::unconditional(large.clone())).await {
            Ok(_) => stored += 1,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Full);
                break large;
            }
        }
        assert!(stored < 100, "it never fills");
    };
    let all = turns(&store, &key).await;
    assert_eq!(all.len(), stored, "reads go on, and the refused turn left nothing");
    server.ask::<()>("CONFIG SET maxmemory 1mb");
    let again = store.append(&key, &Append::unconditional(all[0].clone())).await.unwrap();
    assert!(again.duplicate_of.is_some(), "what is stored needs no room");
    server.ask::<()>("CONFIG SET maxmemory 5mb");
    assert_eq!(store.delete(&key).await.unwrap().turns, stored as u64);
    let late = Append::new(turn("late"), Head::new(1, 1));
    assert_eq!(kind(store.append(&key, &late).await), ErrorKind::Gone, "the fence stands");
    store.append(&key, &Append::unconditional(refused)).await.unwrap();
}

#[tokio::test]
async fn bad_input_58_foreign_and_damaged_values_are_told_and_left_alone() {
    let server = RedisServer::start();
    let store = RedisStore::connect(&server.url()).await.unwrap();
    for (command, expected) in [
        ("SET NAME text", ErrorKind::Corrupt),
        ("HSET NAME field value", ErrorKind::Corrupt),
        ("RPUSH NAME junk", ErrorKind::Corrupt),
        ("RPUSH NAME 2", ErrorKind::NewerVersion),
    ] {
        let key = key();
        let name = format!("tsm:{{{}}}", key.encoded());
        server.ask::<()>(&command.replace("NAME", &name));
        let before: Vec<u8> = server.ask(&format!("DUMP {name}"));
        assert_eq!(kind(store.append(&key, &Append::unconditional(turn("x"))).await), expected, "{command}");
        assert_eq!(kind(store.load(&key, &Read::new(Window::default())).await), expected, "{command}");
        assert_eq!(kind(store.load(&key, &Read::new(Window::ALL)).await), expected, "{command}");
        assert_eq!(kind(store.delete(&key).await), expected, "{command}");
        assert_eq!(server.ask::<Vec<u8>>(&format!("DUMP {name}")), before, "{command}");
    }
    // A record of another session, put in the place of one of ours.
    let (ours, theirs) = (key(), key());
    for key in [&ours, &theirs] {
        store.append(key, &Append::unconditional(turn("mine"))).await.unwrap();
    }
    let record: String = server.ask(&format!("LINDEX tsm:{{{}}} 1", theirs.encoded()));
    let mut set = redis::cmd("LSET");
    set.arg(format!("tsm:{{{}}}", ours.encoded())).arg(1).arg(record);
    set.query::<()>(&mut server.connection()).unwrap();
    assert_eq!(kind(store.load(&ours, &Read::new(Window::default())).await), ErrorKind::Corrupt);
}

#[tokio::test]
async fn too_few_replicas_are_ambiguous_never_a_success() {
    let server = RedisServer::start();
    let ack = RedisAck::Replicas { replicas: 1, within: Duration::from_millis(50) };
    let store = RedisStore::builder(&server.url()).acknowledged_by(ack).connect().await.unwrap();
    let (key, append) = (key(), Append::new(turn("once"), Head::ABSENT));
    for _ in 0..2 {
        assert_eq!(kind(store.append(&key, &append).await), ErrorKind::Ambiguous, "nobody has it but the master");
    }
    // A refusal is a refusal, whoever confirms.
    let strict = Append::new(turn("other"), Head::new(1, 1));
    assert_eq!(kind(store.append(&key, &strict).await), ErrorKind::Gone);
    let _replica = replica_of(&server);
    let began = Instant::now();
    let again = loop {
        match store.append(&key, &append).await {
            Ok(again) => break again,
            // A replica on a busy machine may take longer than 50 ms.
            Err(error) => assert!(error.kind().is_ambiguous() && began.elapsed() < PATIENCE, "{error:?}"),
        }
    };
    assert!(again.duplicate_of.is_some(), "now it is confirmed, and still once");
}

#[tokio::test]
async fn loads_go_on_while_writes_wait_for_a_replica_that_is_away() {
    let server = RedisServer::start();
    let store = RedisStore::builder(&server.url()).acknowledged_by(RedisAck::replicas(1)).connect().await.unwrap();
    let mut options = ResilientOptions::default();
    options.append_patience = Duration::from_secs(2);
    let (store, key) = (Arc::new(Resilient::with_options(store, options)), key());
    let mut writers = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let (store, key) = (store.clone(), key.clone());
        writers.spawn(async move { kind(store.append(&key, &Append::unconditional(turn("hello"))).await) });
    }
    // All of them are tried again until their patience ends.
    while writers.try_join_next().is_none() {
        store.load(&key, &Read::new(Window::default())).await.unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    while let Some(told) = writers.join_next().await {
        assert_eq!(told.unwrap(), ErrorKind::Ambiguous);
    }
}

#[tokio::test]
async fn turns_that_a_failover_lost_are_reported() {
    let master = RedisServer::start();
    let replica = replica_of(&master);
    let (before, key) = (RedisStore::connect(&master.url()).await.unwrap(), key());
    before.append(&key, &Append::unconditional(turn("both have it"))).await.unwrap();
    let offset = |server: &RedisServer| {
        let info: String = server.ask("INFO replication");
        info.lines().find(|line| line.starts_with("master_repl_offset:")).unwrap().to_owned()
    };
    eventually("the replica has it", || (offset(&master) == offset(&replica)).then_some(()));
    // The replica is cut off; the master goes on acknowledging.
    replica.ask::<()>("REPLICAOF NO ONE");
    let lost = before.append(&key, &Append::unconditional(turn("only the old master has it"))).await.unwrap();
    let cached = Cached::new(before, 1 << 20);
    assert_eq!(cached.load(&key, &Read::new(Window::default())).await.unwrap().head, lost.head);

    // The old master is gone, the replica is the master.
    let after = Resilient::new(RedisStore::connect(&replica.url()).await.unwrap());
    let next = Append::new(turn("next"), lost.head);
    assert_eq!(kind(after.append(&key, &next).await), ErrorKind::RolledBack);
    assert_eq!(turns(&after, &key).await.len(), 1, "nothing was stored on top of the gap");
}

#[tokio::test]
async fn a_demoted_master_is_left() {
    let trio = tokio::task::spawn_blocking(Trio::start).await.unwrap();
    let (store, key) = (impatient(&trio.url()).await, key());
    store.append(&key, &Append::unconditional(turn("one"))).await.unwrap();
    let old = trio.master().port;
    trio.sentinels[0].ask::<()>(&format!("SENTINEL FAILOVER {}", Trio::NAME));
    let began = Instant::now();
    loop {
        let appended = store.append(&key, &Append::unconditional(turn("two"))).await;
        if appended.is_ok() && trio.master().port != old {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(30), "the store never follows: {appended:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(trio.master().ask::<i64>(&format!("LLEN tsm:{{{}}}", key.encoded())) >= 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_in_a_slot_that_is_half_moved_is_found_where_it_is() {
    let cluster = tokio::task::spawn_blocking(RedisCluster::start).await.unwrap();
    let (store, key) = (RedisStore::connect(&cluster.url()).await.unwrap(), key());
    store.append(&key, &Append::unconditional(turn("one"))).await.unwrap();
    let name = format!("tsm:{{{}}}", key.encoded());
    let slot: u16 = cluster.nodes[0].ask(&format!("CLUSTER KEYSLOT {name}"));
    let from = cluster.owner(slot);
    let to = (from + 1) % 3;
    let id = |node: usize| cluster.nodes[node].ask::<String>("CLUSTER MYID");
    cluster.nodes[to].ask::<()>(&format!("CLUSTER SETSLOT {slot} IMPORTING {}", id(from)));
    cluster.nodes[from].ask::<()>(&format!("CLUSTER SETSLOT {slot} MIGRATING {}", id(to)));
    // Still here: no redirection.
    assert_eq!(store.append(&key, &Append::unconditional(turn("two"))).await.unwrap().sequence, 2);
    cluster.nodes[from].ask::<String>(&format!("MIGRATE 127.0.0.1 {} {name} 0 5000", cluster.nodes[to].port));
    // There by now: ASK.
    assert_eq!(store.append(&key, &Append::unconditional(turn("three"))).await.unwrap().sequence, 3);
    assert_eq!(turns(&store, &key).await.len(), 3);
    for node in &cluster.nodes {
        node.ask::<()>(&format!("CLUSTER SETSLOT {slot} NODE {}", id(to)));
    }
    // Moved for good: MOVED.
    assert_eq!(store.append(&key, &Append::unconditional(turn("four"))).await.unwrap().sequence, 4);
}

#[tokio::test]
async fn an_index_that_is_missing_is_built_from_the_sessions() {
    let server = RedisServer::start();
    let store = RedisStore::connect(&server.url()).await.unwrap();
    let keys = [key(), key()];
    for key in &keys {
        store.append(key, &Append::unconditional(turn("hello"))).await.unwrap();
    }
    server.ask::<()>("DEL tsm:of:{ada} tsm:indexed");
    let listed = store.list(&Scope::of(&keys[0]), &Page::first(10)).await.unwrap();
    assert_eq!(listed.sessions.len(), 2);
    // What is no more is not listed, and its entry goes.
    server.ask::<()>(&format!("DEL tsm:{{{}}}", keys[0].encoded()));
    let listed = store.list(&Scope::of(&keys[0]), &Page::first(10)).await.unwrap();
    assert_eq!(listed.sessions.iter().map(|entry| &entry.key).collect::<Vec<_>>(), [&keys[1]]);
    assert_eq!(server.ask::<i64>("ZCARD tsm:of:{ada}"), 1);
}
