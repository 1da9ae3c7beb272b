//! What a turn costs in commands and bytes, counted by the server and on the wire.

use std::collections::BTreeMap;

use tower_session_memory::store::{Append, Cached, Read, RedisStore, Store};
use tower_session_memory::{
    ConversationId, Head, Message, Retention, SessionKey, Subject, Turn, TurnId, TurnStatus, Window,
};

use crate::common::proxy::Proxy;
use crate::common::servers::RedisServer;

fn key() -> SessionKey {
    SessionKey::new(ConversationId::random()).with_subject(Subject::new("ada").unwrap())
}

fn turn() -> Turn {
    let messages = vec![Message::user("q".repeat(170)), Message::assistant("a".repeat(170))];
    Turn::new(TurnId::random(), TurnStatus::Complete, messages)
}

/// Commands that clients sent: `MONITOR` marks what scripts call as theirs.
struct Monitor(std::io::BufReader<std::net::TcpStream>);

impl Monitor {
    fn start(server: &RedisServer) -> Self {
        use std::io::{BufRead, Write};
        let mut socket = std::net::TcpStream::connect(("127.0.0.1", server.port)).unwrap();
        socket.write_all(b"MONITOR\r\n").unwrap();
        let mut lines = std::io::BufReader::new(socket);
        let mut ok = String::new();
        lines.read_line(&mut ok).unwrap();
        assert_eq!(ok, "+OK\r\n");
        Self(lines)
    }

    /// Names of the commands since the last call, in order.
    fn commands(&mut self, server: &RedisServer) -> Vec<String> {
        use std::io::BufRead;
        server.ask::<String>("ECHO end-of-monitoring");
        let mut commands = Vec::new();
        loop {
            let mut line = String::new();
            self.0.read_line(&mut line).unwrap();
            if line.contains("end-of-monitoring") {
                return commands;
            }
            let command = line.split('"').nth(1).unwrap().to_lowercase();
            let ours = ["evalsha", "eval", "lrange", "lindex", "zadd", "wait"].contains(&command.as_str());
            if ours && !line.contains(" lua]") {
                commands.push(command);
            }
        }
    }
}

/// `INFO commandstats`: calls by command, scripts' own calls included.
fn calls(server: &RedisServer) -> BTreeMap<String, u64> {
    let info: String = server.ask("INFO commandstats");
    let calls = info.lines().filter_map(|line| {
        let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
        Some((name.to_owned(), rest.split(',').next()?.parse().ok()?))
    });
    calls.collect()
}

#[tokio::test]
async fn one_command_loads_and_one_appends() {
    let server = RedisServer::start();
    let store = Cached::new(RedisStore::connect(&server.url()).await.unwrap(), 1 << 20);
    let key = key();
    let window = Read::new(Window::default());
    // The first use teaches the server the scripts.
    let mut head = store.append(&key, &Append::new(turn(), Head::ABSENT)).await.unwrap().head;
    let other = RedisStore::connect(&server.url()).await.unwrap();
    other.load(&key, &window).await.unwrap();
    store.load(&key, &window).await.unwrap();

    let mut monitor = Monitor::start(&server);
    for _ in 0..3 {
        let loaded = store.load(&key, &window).await.unwrap();
        assert_eq!(monitor.commands(&server), ["lrange"], "a pod that knows the session");
        head = store.append(&key, &Append::new(turn(), loaded.head)).await.unwrap().head;
        assert_eq!(monitor.commands(&server), ["evalsha"]);
    }
    other.load(&key, &window).await.unwrap();
    assert_eq!(monitor.commands(&server), ["evalsha"], "a window of bytes is counted by the server");
    other.load(&key, &Read::new(Window::newest(2))).await.unwrap();
    assert_eq!(monitor.commands(&server), ["lrange"], "a window of turns is plain");
    other.load(&key, &window.find(TurnId::random())).await.unwrap();
    assert_eq!(monitor.commands(&server), ["evalsha"], "looking for a turn costs no second command");

    // Trimmed sessions too, once one was seen.
    let keep = |head| Append::new(turn(), head).retention(Retention::turns(2));
    head = store.append(&key, &keep(head)).await.unwrap().head;
    store.load(&key, &window).await.unwrap();
    monitor.commands(&server);
    for _ in 0..3 {
        head = other.append(&key, &keep(head)).await.unwrap().head;
        monitor.commands(&server);
        assert_eq!(store.load(&key, &window).await.unwrap().turns.len(), 2);
        assert_eq!(monitor.commands(&server).len(), 1);
    }
    let before = calls(&server);
    store.load(&key, &window).await.unwrap();
    store.append(&key, &keep(head)).await.unwrap();
    let after = calls(&server);
    let delta = |name: &str| after.get(name).unwrap_or(&0) - before.get(name).unwrap_or(&0);
    assert_eq!(delta("evalsha") + delta("eval") + delta("lrange"), 2 + 1, "two scripts; one of them reads a range");
}

#[tokio::test]
async fn a_long_session_costs_a_warm_pod_the_bytes_of_a_short_one() {
    let server = RedisServer::start();
    let mut bytes = Vec::new();
    for turns in [20, 2_000] {
        let proxy = Proxy::start(server.port, 0).await;
        let store = RedisStore::builder(&proxy.url()).connections(1).connect().await.unwrap();
        let (pod, key) = (Cached::new(store, 64 << 20), key());
        let mut head = Head::ABSENT;
        for _ in 0..turns {
            head = pod.append(&key, &Append::new(turn(), head).searched()).await.unwrap().head;
        }
        let other = RedisStore::connect(&server.url()).await.unwrap();
        let window = Read::new(Window::ALL);
        pod.load(&key, &window).await.unwrap();
        let before = proxy.answered();
        for _ in 0..10 {
            // A turn of this pod, then one of another.
            for appender in [&pod as &dyn Appender, &other] {
                let loaded = pod.load(&key, &window).await.unwrap();
                assert_eq!(loaded.turns.len() as u64, loaded.head.sequence);
                appender.add(&key, loaded.head).await;
            }
        }
        bytes.push(proxy.answered() - before);
    }
    // Only the digits of the counters grow.
    assert!(bytes[1] < bytes[0] + 20 * 20, "20 turns: {} bytes, 2,000 turns: {} bytes", bytes[0], bytes[1]);
}

/// A pod that was away for long: it gets what its window has room for, not all that is newer.
#[tokio::test]
async fn who_is_far_behind_is_sent_a_window() {
    let server = RedisServer::start();
    let proxy = Proxy::start(server.port, 0).await;
    let store = RedisStore::builder(&proxy.url()).connections(1).connect().await.unwrap();
    let (key, mut heads) = (key(), vec![(Head::ABSENT, None)]);
    for _ in 0..500 {
        let (head, lineage) = heads[heads.len() - 1];
        let appended = store.append(&key, &Append::new(turn(), head).lineage(lineage).searched()).await.unwrap();
        heads.push((appended.head, appended.lineage));
    }
    for (behind, since, turns) in [(0, true, 0), (1, true, 1), (10, true, 10), (11, false, 10), (499, false, 10)] {
        let (head, lineage) = heads[500 - behind];
        let before = proxy.answered();
        let mut narrow = Window::newest(1_000);
        narrow.messages = 20;
        let mut few_bytes = Window::newest(1_000);
        few_bytes.bytes = 10 * turn().bytes();
        for window in [Window::newest(10), narrow, few_bytes] {
            let loaded = store.load(&key, &Read::new(window).known(head).lineage(lineage)).await.unwrap();
            assert_eq!((loaded.since, loaded.turns.len()), (since.then_some(head), turns), "{behind} behind");
            assert_eq!(loaded.head, heads[500].0);
        }
        let bytes = proxy.answered() - before;
        assert!(bytes < 2 * (16 + 21 + 11) * 800, "{behind} behind: {bytes} bytes");
    }
}

trait Appender {
    fn add<'a>(&'a self, key: &'a SessionKey, head: Head) -> std::pin::Pin<Box<dyn Future<Output = ()> + 'a>>;
}

impl<S: Store> Appender for S {
    fn add<'a>(&'a self, key: &'a SessionKey, head: Head) -> std::pin::Pin<Box<dyn Future<Output = ()> + 'a>> {
        Box::pin(async move {
            self.append(key, &Append::new(turn(), head).searched()).await.unwrap();
        })
    }
}
