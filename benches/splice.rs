//! What it costs to put a history into a request, and what the first token costs through a gateway.
//!
//! Each number stands beside its baseline of the same run: only the ratios mean something.

use std::hint::black_box;
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::{BodyExt, Empty, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::net::TcpListener;
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_session_memory::identity::Header;
use tower_session_memory::llm::{LlmMemoryLayer, ModelWindow, OpenAiChat, RequestBody, splice};
use tower_session_memory::store::{Read, Store};
use tower_session_memory::{
    ChatHistory, ConversationId, InMemory, OnDisconnect, Policy, SessionKey, SessionMemoryLayer, SharedStore, Window,
};

#[allow(dead_code)]
#[path = "../examples/gateway/demo/mod.rs"]
mod demo;
#[allow(dead_code)]
#[path = "../examples/gateway/upstream.rs"]
mod upstream;

const ASK: &str = r#"{"model":"m","stream":true,"temperature":0.5,"messages":[{"role":"system","content":"Be brief."},{"role":"user","content":"And what did I say before that, in one sentence?"}]}"#;

fn main() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    println!("history put into a request of {} bytes, messages of 200 bytes; median", ASK.len());
    println!(
        "messages | Value | RawValue | spliced into one buffer | spliced, read in frames | spliced, not read | Value / not read | Value / one buffer"
    );
    for messages in [20, 200, 2_000] {
        let history = runtime.block_on(history(messages));
        row(messages, &history);
    }
    for messages in [0, 20, 200] {
        runtime.block_on(first_token(messages));
    }
}

/// A history as the layer itself stores it.
async fn history(messages: usize) -> ChatHistory {
    let store = SharedStore::new(InMemory::new());
    fill(&store, messages).await;
    let key = SessionKey::new(ConversationId::parse("c").expect("an id"));
    let loaded = store.load(&key, &Read::new(Window::ALL)).await.expect("loaded");
    let history = ChatHistory::new(loaded.head, loaded.turns, false);
    assert_eq!(history.messages().count(), messages);
    assert!(history.messages().all(|message| message.len() == 200));
    history
}

async fn fill(store: &SharedStore, messages: usize) {
    let reply = format!(r#"{{"role":"assistant","content":"{}"}}"#, "a".repeat(200 - 33));
    let body = Bytes::from(format!(r#"{{"choices":[{{"index":0,"message":{reply},"finish_reason":"stop"}}]}}"#));
    let upstream = service_fn(move |request: Request<RequestBody<Full<Bytes>>>| {
        let body = body.clone();
        async move {
            request.into_body().collect().await?;
            let response = Response::builder().header("content-type", "application/json").body(Full::new(body));
            Ok::<_, upstream::BoxError>(response.expect("a response"))
        }
    });
    let memory = SessionMemoryLayer::new(store.clone(), Header::conversation("x-conversation-id").trusted_proxy());
    let service = memory.layer(LlmMemoryLayer::new().layer(upstream));
    for _ in 0..messages / 2 {
        let question = format!(r#"{{"role":"user","content":"{}"}}"#, "q".repeat(200 - 28));
        let request = Request::post("/v1/chat/completions")
            .header("x-conversation-id", "c")
            .body(Full::new(Bytes::from(format!(r#"{{"messages":[{question}]}}"#))))
            .expect("a request");
        let response = service.clone().oneshot(request).await.expect("answered");
        assert_eq!(response.status(), 200);
        response.into_body().collect().await.expect("read");
    }
}

fn row(messages: usize, history: &ChatHistory) {
    let body = Bytes::from_static(ASK.as_bytes());
    let window = ModelWindow::default();
    let spliced = || splice::<Empty<Bytes>>(&OpenAiChat, &window, history, body.clone()).expect("spliced");
    let value = || -> Vec<u8> {
        let mut request: Value = serde_json::from_slice(&body).expect("JSON");
        let list = request["messages"].as_array_mut().expect("a list");
        let stored = history.messages().map(|message| serde_json::from_str(message.json()).expect("JSON"));
        list.splice(1..1, stored.collect::<Vec<Value>>());
        serde_json::to_vec(&request).expect("JSON")
    };
    let raw = || -> Vec<u8> {
        let mut request: std::collections::BTreeMap<&str, &RawValue> = serde_json::from_slice(&body).expect("JSON");
        let mut list: Vec<&RawValue> = serde_json::from_str(request["messages"].get()).expect("a list");
        let stored = history.messages().map(|message| serde_json::from_str(message.json()).expect("JSON"));
        list.splice(1..1, stored.collect::<Vec<&RawValue>>());
        let list = serde_json::value::to_raw_value(&list).expect("JSON");
        request.insert("messages", &list);
        serde_json::to_vec(&request).expect("JSON")
    };
    let buffer = || {
        let mut body = spliced();
        let mut buffer = Vec::with_capacity(body.size_hint().exact().expect("exact") as usize);
        while let Some(frame) = next(&mut body) {
            buffer.extend_from_slice(&frame);
        }
        buffer
    };
    let frames = || {
        let mut body = spliced();
        let mut bytes = 0;
        while let Some(frame) = next(&mut body) {
            bytes += black_box(frame).len();
        }
        bytes
    };
    let (mine, theirs): (Value, Value) =
        (serde_json::from_slice(&buffer()).expect("JSON"), serde_json::from_slice(&value()).expect("JSON"));
    assert_eq!(mine, theirs, "all ways give the same request");

    let value = median(value);
    let raw = median(raw);
    let buffer = median(buffer);
    let frames = median(frames);
    let unread = median(spliced);
    println!(
        "{messages} | {value:?} | {raw:?} | {buffer:?} | {frames:?} | {unread:?} | {:.0} | {:.0}",
        ratio(value, unread),
        ratio(value, buffer)
    );
}

fn next(body: &mut RequestBody<Empty<Bytes>>) -> Option<Bytes> {
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    match Pin::new(body).poll_frame(&mut cx) {
        std::task::Poll::Ready(Some(Ok(frame))) => frame.into_data().ok(),
        _ => None,
    }
}

fn ratio(slow: Duration, fast: Duration) -> f64 {
    slow.as_secs_f64() / fast.as_secs_f64().max(1e-9)
}

/// Of batches that take about a millisecond each.
fn median<T>(mut work: impl FnMut() -> T) -> Duration {
    let begun = Instant::now();
    black_box(work());
    let once = begun.elapsed().max(Duration::from_nanos(50));
    let batch = (1_000_000 / once.as_nanos()).clamp(1, 10_000) as u32;
    let mut samples: Vec<Duration> = (0..101)
        .map(|_| {
            let begun = Instant::now();
            (0..batch).for_each(|_| drop(black_box(work())));
            begun.elapsed() / batch
        })
        .collect();
    samples.sort_unstable();
    samples[samples.len() / 2]
}

async fn serve<S, B>(service: S) -> SocketAddr
where
    S: Service<Request<hyper::body::Incoming>, Response = Response<B>, Error = upstream::BoxError>
        + Clone
        + Send
        + 'static,
    S::Future: Send,
    B: Body<Data = Bytes, Error = upstream::BoxError> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let _ = stream.set_nodelay(true);
            let service = TowerToHyperService::new(service.clone());
            tokio::spawn(async move {
                let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    address
}

/// The gateway's own upstream and layers, with the scripted model behind them on another port.
async fn first_token(messages: usize) {
    let model = serve(upstream::Upstream::Demo).await;
    let base = format!("http://{model}");
    let proxy = || upstream::Upstream::new(&base, Duration::from_secs(5)).expect("an address");
    let plain = serve(proxy()).await;
    let store = SharedStore::new(InMemory::new());
    fill(&store, messages).await;
    // The client leaves after the first token: nothing is kept, so that the history stays as it is.
    let mut policy = Policy::default();
    policy.on_disconnect = OnDisconnect::Discard;
    let memory = SessionMemoryLayer::new(store.clone(), Header::conversation("x-conversation-id").trusted_proxy())
        .with_policy(policy)
        .expect("a policy");
    let gateway = serve(memory.layer(LlmMemoryLayer::new().layer(proxy()))).await;

    // What goes direct is the same request, history and all.
    let key = SessionKey::new(ConversationId::parse("c").expect("an id"));
    let loaded = store.load(&key, &Read::new(Window::ALL)).await.expect("loaded");
    let begun = Instant::now();
    for _ in 0..100 {
        black_box(store.load(&key, &Read::new(Window::default())).await.expect("loaded"));
    }
    let load = begun.elapsed() / 100;
    let history = ChatHistory::new(loaded.head, loaded.turns, false);
    let whole: RequestBody<Empty<Bytes>> =
        splice(&OpenAiChat, &ModelWindow::default(), &history, Bytes::from_static(ASK.as_bytes())).expect("spliced");
    let whole = whole.collect().await.expect("read").to_bytes();

    let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let mut samples = [Vec::new(), Vec::new(), Vec::new()];
    for round in 0..220 {
        // In turn, so that all see the same machine.
        let ways = [(model, whole.clone()), (plain, whole.clone()), (gateway, Bytes::from_static(ASK.as_bytes()))];
        for (way, (address, body)) in ways.into_iter().enumerate() {
            let request = Request::post(format!("http://{address}/v1/chat/completions"))
                .header("content-type", "application/json")
                .header("x-conversation-id", "c")
                .body(Full::new(body))
                .expect("a request");
            let begun = Instant::now();
            let response = client.request(request).await.expect("answered");
            assert_eq!(response.status(), 200);
            let mut body = response.into_body();
            body.frame().await.expect("a token").expect("a token");
            let took = begun.elapsed();
            drop(body);
            if way == 2 {
                while memory.pending() > 0 {
                    tokio::task::yield_now().await;
                }
            }
            if round >= 20 {
                samples[way].push(took);
            }
        }
    }
    let [direct, plain, gateway] = samples.map(|mut samples| {
        samples.sort_unstable();
        (samples[samples.len() / 2], samples[samples.len() * 95 / 100])
    });
    println!(
        "first token, {messages} messages before: direct {:?} (p95 {:?}), bare proxy {:?} ({:?}), gateway {:?} ({:?}); \
         the load itself {load:?}; the gateway adds {:?} to direct, {:?} to a bare proxy",
        direct.0,
        direct.1,
        plain.0,
        plain.1,
        gateway.0,
        gateway.1,
        gateway.0.saturating_sub(direct.0),
        gateway.0.saturating_sub(plain.0)
    );
}
