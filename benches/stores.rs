//! What a turn costs on Redis, beside the raw client in the same run:
//! `cargo bench --features cache,redis --bench stores`. Read the ratios; the rates are this machine's.
//! `... --bench stores -- 200 50` measures one cell: 200 messages, 50 at once; `-- delayed` what is behind
//! the proxy.
//!
//! A turn is: load the newest messages of a session, append two. The raw client does `LRANGE` of the
//! messages and a pipelined `RPUSH` and `EXPIRE` on one multiplexed connection, which is **not**
//! exactly-once: a retry stores the turn again.

#![allow(clippy::print_stdout, reason = "it is what a benchmark is for")]

#[allow(dead_code, unreachable_pub, reason = "this benchmark uses its own part")]
#[path = "../tests/common"]
mod common {
    pub mod chance;
    pub mod proxy;
    pub mod servers;
}

use std::sync::Arc;
use std::time::{Duration, Instant};

use redis::AsyncConnectionConfig;
use redis::aio::MultiplexedConnection;
use tower_session_memory::store::{Append, Cached, Lineage, Read, RedisStore, Store};
use tower_session_memory::{ConversationId, Head, Message, SessionKey, Subject, Turn, TurnId, TurnStatus, Window};

use crate::common::proxy::Proxy;
use crate::common::servers::RedisServer;

const ROUNDS: usize = 5;
/// Text of one message; its JSON is about 200 bytes.
const TEXT: usize = 170;

/// More tasks than that share sessions: five hundred of the longest would not fit a machine.
const fn sessions(messages: usize) -> usize {
    if messages > 200 { 50 } else { 500 }
}

type Error = Box<dyn std::error::Error + Send + Sync>;

fn main() -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let cell: Vec<usize> = std::env::args().filter_map(|argument| argument.parse().ok()).collect();
    runtime.block_on(async {
        let server = RedisServer::start();
        if let [messages, tasks] = cell[..] {
            return direct(&server, messages, tasks).await;
        }
        if std::env::args().any(|argument| argument == "delayed") {
            return delayed(&server).await;
        }
        println!("direct: turns/s (median of {ROUNDS} rounds), p50, p99, CPU per turn of client and server");
        for messages in [20, 200, 2_000] {
            for tasks in [1, 50, 500] {
                direct(&server, messages, tasks).await?;
            }
        }
        delayed(&server).await
    })
}

/// The same turn by several clients, in turns, so that a slow moment of the machine hits all.
async fn direct(server: &RedisServer, messages: usize, tasks: usize) -> Result<(), Error> {
    server.ask::<()>("FLUSHALL");
    let per_task = (if messages <= 20 { 4_000 } else { 400_000 / messages } / tasks).max(2);
    let raw = Raw::connect(&server.url()).await?;
    let clients: Vec<(&str, Client)> = vec![
        ("raw client, not exactly-once", Client::Raw(raw)),
        ("RedisStore", Client::Store(Arc::new(store(&server.url(), 2).await?))),
        ("Cached, warm", cached(server).await?),
        ("Cached, two pods in turn", Client::Pods([pod(server).await?, pod(server).await?])),
    ];
    println!("{messages} messages, {tasks} at once, {} turns a round", per_task * tasks);
    measure(&clients, Some(server), messages, tasks, per_task).await?;
    Ok(())
}

async fn cached(server: &RedisServer) -> Result<Client, Error> {
    let pod = pod(server).await?;
    Ok(Client::Pods([pod.clone(), pod]))
}

async fn pod(server: &RedisServer) -> Result<Arc<Cached<RedisStore>>, Error> {
    Ok(Arc::new(Cached::new(store(&server.url(), 2).await?, 4 << 30)))
}

/// A machine that is overloaded on purpose answers late, not wrongly.
async fn store(url: &str, connections: u32) -> Result<RedisStore, Error> {
    let builder = RedisStore::builder(url).connections(connections);
    Ok(builder.reply_timeout(Duration::from_secs(60)).connect().await?)
}

async fn delayed(server: &RedisServer) -> Result<(), Error> {
    println!("\nbehind a proxy that adds 1 ms each way, 20 messages, 128 at once");
    server.ask::<()>("FLUSHALL");
    let proxy = Proxy::with_delay(server.port, 0, Duration::from_millis(1)).await;
    let (url, size) = (proxy.url(), 4);
    let manager = bb8_redis::RedisConnectionManager::new(url.as_str())?;
    let exclusive = bb8::Pool::builder().max_size(size).build(manager).await?;
    let (alone, pod) = (store(&url, size).await?, Arc::new(Cached::new(store(&url, size).await?, 4 << 30)));
    let clients = vec![
        ("one multiplexed connection", Client::Raw(Raw::connect(&url).await?)),
        ("exclusive bb8-redis pool of 4", Client::Exclusive(exclusive)),
        ("RedisStore, 4 connections", Client::Store(Arc::new(alone))),
        ("Cached, warm, 4 connections", Client::Pods([pod.clone(), pod])),
    ];
    measure(&clients, None, 20, 128, 12).await?;
    Ok(())
}

/// Warms up, runs the rounds and prints a line per client.
async fn measure(
    clients: &[(&str, Client)],
    server: Option<&RedisServer>,
    messages: usize,
    tasks: usize,
    per_task: usize,
) -> Result<(), Error> {
    let mut rounds: Vec<Vec<Round>> = clients.iter().map(|_| Vec::new()).collect();
    for (number, (_, client)) in clients.iter().enumerate() {
        let mut filling = tokio::task::JoinSet::new();
        for task in 0..tasks.min(sessions(messages)) {
            let (client, session) = (client.clone(), name(number, task % sessions(messages)));
            filling.spawn(async move { client.fill(&session, messages).await });
        }
        while let Some(filled) = filling.join_next().await {
            filled??;
        }
        run(client, number, messages, tasks, 2, server).await?;
    }
    for _ in 0..ROUNDS {
        for (number, (_, client)) in clients.iter().enumerate() {
            rounds[number].push(run(client, number, messages, tasks, per_task, server).await?);
        }
    }
    let median = |rounds: &mut Vec<Round>| {
        rounds.sort_by(|a, b| a.rate.total_cmp(&b.rate));
        rounds[rounds.len() / 2]
    };
    let results: Vec<Round> = rounds.iter_mut().map(median).collect();
    for ((what, _), round) in clients.iter().zip(&results) {
        println!(
            "  {what:<32} {:>8.0}/s {:>6.2} x  p50 {:>8.1?} p99 {:>8.1?} {:>5.2} x  cpu {:>6.1} + {:>6.1} us",
            round.rate,
            round.rate / results[0].rate,
            round.p50,
            round.p99,
            round.p99.as_secs_f64() / results[0].p99.as_secs_f64(),
            round.client_cpu,
            round.server_cpu,
        );
    }
    Ok(())
}

#[derive(Clone, Copy)]
struct Round {
    rate: f64,
    p50: Duration,
    p99: Duration,
    /// Microseconds per turn.
    client_cpu: f64,
    server_cpu: f64,
}

async fn run(
    client: &Client,
    number: usize,
    messages: usize,
    tasks: usize,
    per_task: usize,
    server: Option<&RedisServer>,
) -> Result<Round, Error> {
    let (own, its) = (own_cpu(), server.map_or(0.0, server_cpu));
    let began = Instant::now();
    let mut running = tokio::task::JoinSet::new();
    for task in 0..tasks {
        let (client, session) = (client.clone(), name(number, task % sessions(messages)));
        running.spawn(async move {
            let mut took = Vec::with_capacity(per_task);
            for turn in 0..per_task {
                let began = Instant::now();
                client.turn(&session, messages, turn).await?;
                took.push(began.elapsed());
            }
            Ok::<_, Error>(took)
        });
    }
    let mut took = Vec::new();
    while let Some(task) = running.join_next().await {
        took.extend(task??);
    }
    let all = began.elapsed();
    let count = took.len() as f64;
    took.sort();
    Ok(Round {
        rate: count / all.as_secs_f64(),
        p50: took[took.len() / 2],
        p99: took[took.len() * 99 / 100],
        client_cpu: (own_cpu() - own) / count,
        server_cpu: (server.map_or(0.0, server_cpu) - its) / count,
    })
}

#[derive(Clone)]
enum Client {
    Raw(Raw),
    Exclusive(bb8::Pool<bb8_redis::RedisConnectionManager>),
    Store(Arc<RedisStore>),
    Pods([Arc<Cached<RedisStore>>; 2]),
}

impl Client {
    async fn fill(&self, session: &str, messages: usize) -> Result<(), Error> {
        match self {
            Self::Raw(raw) => raw.fill(session, messages).await,
            Self::Exclusive(pool) => Raw((*pool.get().await?).clone()).fill(session, messages).await,
            Self::Store(store) => fill(&**store, session, messages).await,
            Self::Pods([pod, _]) => fill(&**pod, session, messages).await,
        }
    }

    async fn turn(&self, session: &str, messages: usize, number: usize) -> Result<(), Error> {
        match self {
            Self::Raw(raw) => raw.clone().turn(session, messages).await,
            Self::Exclusive(pool) => {
                // Held until its answer is there: that is what makes it exclusive.
                let mut connection = pool.get().await?;
                let loaded = load(&mut connection, session, messages).await?;
                assert_eq!(loaded, messages);
                drop(connection);
                push(&mut *pool.get().await?, session).await
            }
            Self::Store(store) => turn(&**store, session, messages).await,
            Self::Pods(pods) => turn(&*pods[number % 2], session, messages).await,
        }
    }
}

#[derive(Clone)]
struct Raw(MultiplexedConnection);

impl Raw {
    async fn connect(url: &str) -> Result<Self, Error> {
        let info = redis::IntoConnectionInfo::into_connection_info(url)?;
        let tcp = info.tcp_settings().clone().set_nodelay(true);
        let client = redis::Client::open(info.set_tcp_settings(tcp))?;
        let config = AsyncConnectionConfig::new().set_pipeline_buffer_size(512).set_response_timeout(None);
        Ok(Self(client.get_multiplexed_async_connection_with_config(&config).await?))
    }

    async fn fill(&self, session: &str, messages: usize) -> Result<(), Error> {
        let mut push = redis::cmd("RPUSH");
        push.arg(session);
        (0..messages).for_each(|_| {
            push.arg(Message::user("x".repeat(TEXT)).json());
        });
        Ok(push.query_async(&mut self.0.clone()).await?)
    }

    async fn turn(mut self, session: &str, messages: usize) -> Result<(), Error> {
        assert_eq!(load(&mut self.0, session, messages).await?, messages);
        push(&mut self.0, session).await
    }
}

async fn load(connection: &mut MultiplexedConnection, session: &str, messages: usize) -> Result<usize, Error> {
    let mut range = redis::cmd("LRANGE");
    range.arg(session).arg(-(messages as i64)).arg(-1);
    let loaded: Vec<Vec<u8>> = range.query_async(connection).await?;
    Ok(std::hint::black_box(loaded).len())
}

async fn push(connection: &mut MultiplexedConnection, session: &str) -> Result<(), Error> {
    let message = Message::user("x".repeat(TEXT));
    let mut pipeline = redis::pipe();
    pipeline.cmd("RPUSH").arg(session).arg(message.json()).arg(message.json()).ignore();
    pipeline.cmd("EXPIRE").arg(session).arg(3600).ignore();
    Ok(pipeline.query_async(connection).await?)
}

async fn fill(store: &impl Store, session: &str, messages: usize) -> Result<(), Error> {
    let key = key(session);
    let (mut head, mut lineage) = (Head::ABSENT, None);
    for _ in 0..messages / 2 {
        let appended = store.append(&key, &append(head, lineage)).await?;
        (head, lineage) = (appended.head, appended.lineage);
    }
    Ok(())
}

async fn turn(store: &impl Store, session: &str, messages: usize) -> Result<(), Error> {
    let key = key(session);
    let loaded = store.load(&key, &Read::new(Window::newest(messages / 2))).await?;
    assert_eq!(std::hint::black_box(&loaded).turns.len(), messages / 2);
    store.append(&key, &append(loaded.head, loaded.lineage)).await?;
    Ok(())
}

/// As the layer makes it: a fresh id, a life, the history that was loaded.
fn append(head: Head, lineage: Option<Lineage>) -> Append {
    let messages = vec![Message::user("x".repeat(TEXT)), Message::assistant("x".repeat(TEXT))];
    let turn = Turn::new(TurnId::random(), TurnStatus::Complete, messages);
    Append::new(turn, head).lineage(lineage).searched().ttl(Some(Duration::from_secs(3600)))
}

fn name(client: usize, task: usize) -> String {
    format!("bench-{client}-{task}")
}

fn key(session: &str) -> SessionKey {
    let id = ConversationId::parse(session).expect("letters, digits and dashes");
    SessionKey::new(id).with_subject(Subject::new(session).expect("short"))
}

/// Microseconds of CPU that this process has used.
fn own_cpu() -> f64 {
    // Fields 14 and 15, in ticks of a hundredth of a second on every Linux.
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<f64>().ok()).unwrap_or_default();
    (ticks(11) + ticks(12)) * 10_000.0
}

/// Microseconds of CPU that the server's main thread has used.
fn server_cpu(server: &RedisServer) -> f64 {
    let info: String = server.ask("INFO cpu");
    let field = |name: &str| {
        let value = info.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        value.trim().parse::<f64>().unwrap_or_default()
    };
    (field("used_cpu_sys_main_thread:") + field("used_cpu_user_main_thread:")) * 1e6
}
