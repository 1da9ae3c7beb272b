//! Metrics as documented: names, labels, units, values.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use tokio::sync::mpsc;
use tower::{Layer, service_fn};
use tower_session_memory::identity::Header;
use tower_session_memory::store::{Append, Appended, Loaded, PoolState, Read};
use tower_session_memory::{
    ChatSession, Concurrency, InMemory, Message, OnLoadFailure, Policy, SessionKey, SessionMemoryLayer, Store,
    StoreError, Turn, TurnId, TurnStatus,
};

use crate::around::{Around, Wrapped};
use crate::counted::{Counted, Metrics};
use crate::misconfigured::Odd;
use crate::support::{CONVERSATION, Server, memory, until};
use crate::tokens::{scoped, verifier};

/// A store that says that it has a pool.
#[derive(Debug)]
struct Pooled(InMemory);

impl Around for Pooled {
    type Inside = InMemory;

    fn inside(&self) -> &InMemory {
        &self.0
    }

    fn pool(&self) -> Option<PoolState> {
        Some(PoolState::new(5, 3))
    }
}

fn by_name<const N: usize>(expected: [(&str, u64); N]) -> BTreeMap<String, u64> {
    expected.map(|(name, count)| (name.to_owned(), count)).into()
}

/// What is counted is on the page, and what is on the page is counted.
fn all_are_documented(all: &Metrics) {
    let page = include_str!("../../src/docs/metrics.md");
    let names = all.counters.keys().chain(all.gauges.keys()).chain(all.histograms.keys());
    let names: BTreeSet<_> = names.map(|name| name.split(' ').next().expect("a name")).collect();
    for name in names {
        assert!(page.contains(&format!("| `{name}` |")), "{name} is not documented");
    }
    let source = include_str!("../../src/diagnostics/metrics.rs");
    for row in page.lines().filter(|line| line.starts_with("| `session_memory")) {
        let name = row.split('`').nth(1).expect("a name");
        assert!(source.contains(&format!("\"{name}\"")), "{name} is not counted");
    }
}

#[tokio::test]
async fn metrics_count_what_happened_under_the_documented_names() {
    let counted = Counted::begin();
    let mut policy = Policy::default();
    policy.concurrency = Concurrency::Strict;
    let layer = memory(Header::conversation(CONVERSATION)).with_policy(policy).expect("it can be kept");
    let server = Server::start(layer).await;
    let send = async |key: &str| server.get("/", &[(CONVERSATION, "c"), ("idempotency-key", key)]).await.status;
    assert_eq!((send("one").await, send("two").await, send("two").await), (200, 200, 200));
    server.get("/", &[]).await.refused(400, "missing_conversation");
    let secured = Server::start(memory(scoped(verifier()))).await;
    secured.with_token("a.b.c").await.is_invalid_token();

    let pooled = SessionMemoryLayer::new(Wrapped(Pooled(InMemory::new())), Header::conversation(CONVERSATION));
    let pooled = Server::start(pooled).await;
    pooled.get("/?silent", &[(CONVERSATION, "c")]).await.turns();

    let all = counted.all();
    let expected = [
        ("session_memory_commits_total store=memory,outcome=duplicate,status=complete", 1),
        ("session_memory_commits_total store=memory,outcome=stored,status=complete", 2),
        ("session_memory_loads_total store=memory,outcome=loaded", 4),
        ("session_memory_refused_total code=invalid_token", 1),
        ("session_memory_refused_total code=missing_conversation", 1),
        ("session_memory_replays_total store=memory", 1),
    ];
    assert_eq!(all.counters, by_name(expected));
    let pool = |state: &str| all.gauges.get(&format!("session_memory_pool_connections store=memory,state={state}"));
    assert_eq!((pool("open"), pool("idle")), (Some(&5.0), Some(&3.0)));

    let turns = &all.histograms["session_memory_loaded_turns store=memory"];
    assert_eq!(turns, &[0.0, 1.0, 2.0, 0.0], "`two` is loaded twice, the second time with itself");
    all_are_documented(&all);
}

/// A store that takes its time.
#[derive(Debug)]
struct Unhurried(InMemory);

const TIME: Duration = Duration::from_millis(20);

impl Around for Unhurried {
    type Inside = InMemory;

    fn inside(&self) -> &InMemory {
        &self.0
    }

    async fn load(&self, key: &SessionKey, read: &Read) -> Result<Loaded, StoreError> {
        tokio::time::sleep(TIME).await;
        self.0.load(key, read).await
    }

    async fn append(&self, key: &SessionKey, append: &Append) -> Result<Appended, StoreError> {
        tokio::time::sleep(TIME).await;
        self.0.append(key, append).await
    }
}

fn unhurried(concurrency: Concurrency) -> SessionMemoryLayer {
    let mut policy = Policy::default();
    policy.concurrency = concurrency;
    policy.deadlines.grace = Duration::from_secs(60);
    let memory = SessionMemoryLayer::new(Wrapped(Unhurried(InMemory::new())), Header::conversation(CONVERSATION));
    memory.with_policy(policy).expect("it can be kept")
}

fn session_of(request: &mut Request<Incoming>) -> ChatSession {
    request.extensions_mut().remove().expect("the layer is there")
}

const QUESTION: &str = "a question of some bytes";

/// One request during which another turn is stored; its status.
async fn raced(concurrency: Concurrency) -> u16 {
    let memory = unhurried(concurrency);
    let store = memory.store().clone();
    let handler = service_fn(move |mut request| {
        let (store, session) = (store.clone(), session_of(&mut request));
        async move {
            let other = Turn::new(TurnId::random(), TurnStatus::Complete, vec![Message::user("another")]);
            store.append(session.key(), &Append::unconditional(other)).await.expect("memory has room");
            session.append(Message::user(QUESTION)).expect("a short message");
            Ok::<_, std::convert::Infallible>(Response::new(Full::<Bytes>::default()))
        }
    });
    Server::serving(memory.layer(handler)).await.get("/", &[(CONVERSATION, "c")]).await.status
}

#[tokio::test]
async fn metrics_count_what_went_wrong_in_seconds_and_bytes() {
    let (counted, began) = (Counted::begin(), Instant::now());

    let mut policy = Policy::default();
    policy.on_load_failure = OnLoadFailure::Degrade;
    let away = Odd(Some(tower_session_memory::store::ErrorKind::Unavailable));
    let degraded = SessionMemoryLayer::new(away, Header::conversation(CONVERSATION)).with_policy(policy);
    let degraded = Server::start(degraded.expect("it can be kept")).await;
    degraded.get("/?silent", &[(CONVERSATION, "c")]).await.turns();

    assert_eq!((raced(Concurrency::Strict).await, raced(Concurrency::Rebase).await), (409, 200));

    // Two clients that leave while their handlers are at work, and producers that go on for a while.
    let memory = unhurried(Concurrency::Rebase);
    let (writing, mut begun) = mpsc::unbounded_channel();
    let handler = service_fn(move |mut request| {
        let session = session_of(&mut request);
        session.append(Message::user(QUESTION)).expect("a short message");
        writing.send(session).expect("the test waits for it");
        std::future::pending::<Result<Response<Full<Bytes>>, std::convert::Infallible>>()
    });
    let server = Server::serving(memory.layer(handler)).await;
    let mut left = async |conversation| {
        let headers = [(CONVERSATION, conversation)];
        let session = tokio::select! {
            answer = server.get("/", &headers) => panic!("the handler never answers: {answer:?}"),
            session = begun.recv() => session,
        };
        let before = memory.pending();
        until("the hand-over", async || memory.pending() == before + 1).await;
        session
    };
    let first = left("c").await;
    let meanwhile = counted.all();
    assert_eq!(meanwhile.gauges["session_memory_pending"], 1.0);
    // Reading began the gauge anew: only the second makes a zero mean something.
    drop((first, left("d").await));
    memory.drain(Duration::from_secs(5)).await.expect("it is settled");
    let afterwards = counted.all();
    assert_eq!(afterwards.gauges["session_memory_pending"], 0.0);

    let all = meanwhile.and(afterwards);
    let expected = [
        ("session_memory_commits_total store=memory,outcome=conflict,status=complete", 1),
        ("session_memory_commits_total store=memory,outcome=rebased,status=complete", 1),
        ("session_memory_commits_total store=memory,outcome=stored,status=interrupted", 2),
        ("session_memory_degraded_total store=odd", 1),
        ("session_memory_handovers_total store=memory", 2),
        ("session_memory_loads_total store=memory,outcome=loaded", 4),
        ("session_memory_loads_total store=odd,outcome=unavailable", 1),
        ("session_memory_refused_total code=conflict", 1),
    ];
    assert_eq!(all.counters, by_name(expected));

    // Seconds: the store took 20 ms each time, and nothing took longer than all of this.
    let (least, most) = (TIME.as_secs_f64(), began.elapsed().as_secs_f64());
    for (name, times) in [
        ("session_memory_load_seconds store=memory,outcome=loaded", 4),
        ("session_memory_commit_seconds store=memory,outcome=conflict", 1),
        ("session_memory_commit_seconds store=memory,outcome=rebased", 1),
        ("session_memory_commit_seconds store=memory,outcome=stored", 2),
    ] {
        let took = &all.histograms[name];
        assert_eq!(took.len(), times, "{name}");
        assert!(took.iter().all(|took| (least..=most).contains(took)), "{name} {took:?} {most}");
    }
    assert_eq!(all.histograms["session_memory_load_seconds store=odd,outcome=unavailable"].len(), 1);
    let bytes = Message::user(QUESTION).len() as f64;
    assert_eq!(all.histograms["session_memory_committed_bytes store=memory"], [bytes; 4]);
    assert_eq!(all.histograms["session_memory_loaded_bytes store=memory"], [0.0; 4]);
    all_are_documented(&all);

    // The bytes of a history that is there.
    let memory = unhurried(Concurrency::Rebase);
    let server = Server::start(memory).await;
    for turns in [0, 1] {
        assert_eq!(server.get("/", &[(CONVERSATION, "c")]).await.turns(), turns);
    }
    let turn = (Message::user("question").len() + Message::assistant("answer").len()) as f64;
    assert_eq!(counted.all().histograms["session_memory_loaded_bytes store=memory"], [0.0, turn]);
}
