//! What the layer adds to a request: a bare service against the same service under the layer, in
//! turns, in one process. Times depend on the machine; read the ratios and the differences.
//!
//! ```text
//! cargo bench --bench overhead
//! ```

use std::convert::Infallible;
use std::hint::black_box;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_session_memory::identity::Header;
use tower_session_memory::{ChatSession, InMemory, Message, Policy, Retention, SessionMemoryLayer, SqliteStore};

const ROUNDS: usize = 15;

/// Answers; under the layer, it also adds a turn of two messages.
async fn answer(request: Request<()>) -> Result<Response<Full<Bytes>>, Infallible> {
    if let Some(session) = request.extensions().get::<ChatSession>() {
        session.append(Message::user("What is the answer?")).expect("within limits");
        session.append(Message::assistant("Forty-two.")).expect("within limits");
    }
    Ok(Response::new(Full::new(Bytes::from_static(b"Forty-two."))))
}

/// Only reads its session.
async fn look(request: Request<()>) -> Result<Response<Full<Bytes>>, Infallible> {
    black_box(request.extensions().get::<ChatSession>().map(|session| session.history().turns().len()));
    Ok(Response::new(Full::new(Bytes::from_static(b"Forty-two."))))
}

fn request(session: usize) -> Request<()> {
    let id = format!("session-{session}");
    Request::builder().header("x-conversation-id", id).body(()).expect("a request")
}

async fn one<S, B>(service: &mut S, session: usize)
where
    S: Service<Request<()>, Response = Response<B>, Error = Infallible>,
    B: http_body::Body<Data = Bytes>,
    B::Error: std::fmt::Debug,
{
    let response = service.ready().await.expect("infallible").call(request(session)).await.expect("infallible");
    black_box(response.into_body().collect().await.expect("a whole body").to_bytes());
}

/// Nanoseconds for one of `count` requests, spread over `sessions`.
async fn time<S, B>(service: &mut S, count: usize, sessions: usize) -> f64
where
    S: Service<Request<()>, Response = Response<B>, Error = Infallible>,
    B: http_body::Body<Data = Bytes>,
    B::Error: std::fmt::Debug,
{
    let begun = Instant::now();
    for index in 0..count {
        one(service, index % sessions).await;
    }
    begun.elapsed().as_nanos() as f64 / count as f64
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn policy(kept: u64) -> Policy {
    let mut policy = Policy::default();
    policy.retention = Retention::turns(kept);
    policy.deadlines.load = Duration::from_secs(30);
    policy
}

async fn compare<S, B>(name: &str, count: usize, sessions: usize, mut layered: S)
where
    S: Service<Request<()>, Response = Response<B>, Error = Infallible>,
    B: http_body::Body<Data = Bytes>,
    B::Error: std::fmt::Debug,
{
    let mut bare = service_fn(answer);
    // Once over all sessions first, so that every history is as long as it gets.
    time(&mut layered, count.max(sessions * 25), sessions).await;
    let (mut plain, mut with) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        plain.push(time(&mut bare, 20_000, 64).await);
        with.push(time(&mut layered, count, sessions).await);
    }
    let (plain, with) = (median(plain), median(with));
    println!(
        "{name:<44} {with:>9.0} ns   bare {plain:>5.0} ns   ratio {:>6.1}   added {:>8.2} us",
        with / plain,
        (with - plain) / 1e3
    );
}

/// Allocations of one request, the runtime's own included.
fn allocations<S, B>(runtime: &tokio::runtime::Runtime, name: &str, mut service: S)
where
    S: Service<Request<()>, Response = Response<B>, Error = Infallible>,
    B: http_body::Body<Data = Bytes>,
    B::Error: std::fmt::Debug,
{
    for session in 0..64 {
        runtime.block_on(one(&mut service, session));
    }
    let counted = allocation_counter::measure(|| {
        for session in 0..64 {
            runtime.block_on(one(&mut service, session));
        }
    });
    println!("{name:<44} {:>9.1} allocations a request", counted.count_total as f64 / 64.0);
}

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let directory = tempfile::tempdir().expect("a directory");
    let identity = || Header::conversation("x-conversation-id");
    let memory = |kept| {
        let layer = SessionMemoryLayer::new(InMemory::new(), identity());
        layer.with_policy(policy(kept)).expect("a policy")
    };
    runtime.block_on(async {
        compare("in memory, looks at a history of 20 turns", 20_000, 64, {
            let layer = memory(20);
            let mut fill = layer.layer(service_fn(answer));
            time(&mut fill, 64 * 25, 64).await;
            layer.layer(service_fn(look))
        })
        .await;
        compare("in memory, adds a turn, 1 turn kept", 20_000, 64, memory(1).layer(service_fn(answer))).await;
        compare("in memory, adds a turn, 20 turns kept", 20_000, 64, memory(20).layer(service_fn(answer))).await;
        let store = SqliteStore::open(directory.path().join("bench.db")).await.expect("a store");
        let sqlite = SessionMemoryLayer::new(store, identity()).with_policy(policy(20)).expect("a policy");
        compare("sqlite, adds a turn, 20 turns kept", 200, 8, sqlite.layer(service_fn(answer))).await;
    });
    allocations(&runtime, "bare", service_fn(answer));
    allocations(&runtime, "in memory, looks", memory(20).layer(service_fn(look)));
    allocations(&runtime, "in memory, adds a turn", memory(1).layer(service_fn(answer)));
}
