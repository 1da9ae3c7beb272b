//! Odd requests, odd responses, odd clients: rows 60 to 71.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Incoming;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tower::{Layer, ServiceBuilder, service_fn};
use tower_session_memory::{AppendError, ChatSession, Message, OnLoadFailure, TurnStatus};

use super::{Api, count, counting};
use crate::support::{
    Client, Mood, PATIENCE, Protocol, SESSION_HEADER, Watched, empty, layer, patient, plain, request, serve, text,
    until,
};

#[tokio::test]
async fn bad_input_60_a_reader_that_reads_next_to_nothing() {
    // More than socket buffers hold, so that the server cannot hand the body over; the reader stalls.
    let store = Watched::new(Mood::Fast);
    let memory = layer(&store, |policy| {
        policy.deadlines.body = Duration::from_millis(200);
        policy.deadlines.grace = Duration::from_millis(1);
    });
    let handler = service_fn(|request: Request<Incoming>| {
        let session = request.extensions().get::<ChatSession>().unwrap().clone();
        session.append(Message::user("question")).unwrap();
        async move {
            let endless = futures_util::stream::unfold(session, |session| async move {
                tokio::task::yield_now().await;
                Some((Ok::<_, Infallible>(Frame::data(Bytes::from_static(&[b'x'; 65_536]))), session))
            });
            Ok::<_, Infallible>(Response::new(StreamBody::new(Box::pin(endless))))
        }
    });
    let address = serve(Protocol::H1, memory.layer(handler)).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream
        .write_all(format!("POST /chat HTTP/1.1\r\nhost: x\r\n{SESSION_HEADER}: s\r\n\r\n").as_bytes())
        .await
        .unwrap();
    let mut byte = [0];
    stream.read_exact(&mut byte).await.unwrap();
    // The commit does not wait for the reader.
    until("the turn", async || !store.turns("s").await.is_empty()).await;
    assert_eq!(store.turns("s").await[0].status(), TurnStatus::Interrupted);
    // And the reader, should it go on, sees a response that broke off: no final chunk.
    let mut rest = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("the response ends");
    assert!(!rest.ends_with(b"0\r\n\r\n"));
}

/// All at once: each has loaded the session before the first is stored.
#[tokio::test]
async fn bad_input_63_a_thousand_parallel_turns_on_one_session() {
    const TURNS: usize = 1_000;
    let store = Watched::new(Mood::Fast);
    let (started, go) = (Arc::new(AtomicUsize::new(0)), Arc::new(tokio::sync::Semaphore::new(0)));
    let (starting, gate) = (started.clone(), go.clone());
    let handler = service_fn(move |request: Request<Incoming>| {
        let (starting, gate) = (starting.clone(), gate.clone());
        async move {
            if request.headers()[SESSION_HEADER] == "busy" {
                starting.fetch_add(1, Ordering::SeqCst);
                drop(gate.acquire().await.unwrap());
            }
            count(request).await
        }
    });
    let address = serve(Protocol::H2, layer(&store, |_| {}).layer(handler)).await;
    let mut client = Client::connect(Protocol::H2, address).await;
    let mut turns = tokio::task::JoinSet::new();
    for _ in 0..TURNS {
        let request = request(Protocol::H2, "POST", address).header(SESSION_HEADER, "busy").body(empty()).unwrap();
        let answer = client.stream(request);
        turns.spawn(async move {
            let response = answer.await.unwrap();
            (response.status(), text(response.into_body()).await)
        });
    }
    until("all of them", async || started.load(Ordering::SeqCst) == TURNS).await;
    let quiet = request(Protocol::H2, "POST", address).header(SESSION_HEADER, "quiet").body(empty()).unwrap();
    let quiet = patient("the others are unaffected", client.send(quiet)).await.unwrap();
    assert_eq!((quiet.status(), text(quiet.into_body()).await.as_str()), (StatusCode::OK, "0"));
    assert!(store.turns("busy").await.is_empty());

    go.add_permits(1);
    let answers = patient("the answers", turns.join_all()).await;
    let all_began_with_nothing = answers.iter().all(|answer| *answer == (StatusCode::OK, "0".to_owned()));
    assert!(all_began_with_nothing, "{answers:?}");
    assert_eq!(store.turns("busy").await.len(), TURNS);
}

#[tokio::test]
async fn bad_input_64_a_client_that_leaves_with_its_request_body_unread() {
    let store = Watched::new(Mood::Fast);
    let memory = layer(&store, |_| {});
    let handled = Arc::new(AtomicUsize::new(0));
    let calls = handled.clone();
    let handler = service_fn(move |request: Request<Incoming>| {
        calls.fetch_add(1, Ordering::SeqCst);
        count(request)
    });
    let address = serve(Protocol::H1, memory.layer(handler)).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!("POST /chat HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n{SESSION_HEADER}: s\r\n\r\npart");
    stream.write_all(head.as_bytes()).await.unwrap();
    drop(stream);
    until("the handler", async || handled.load(Ordering::SeqCst) == 1).await;
    until("the turn", async || store.turns("s").await.len() == 1).await;
    memory.drain(PATIENCE).await.unwrap();
    assert_eq!((store.turns("s").await.len(), store.entered()), (1, 1));
}

#[tokio::test]
async fn bad_input_65_a_pipelined_request_sees_the_turn_before_it() {
    let store = Watched::new(Mood::Fast);
    let api = counting(&layer(&store, |_| {})).await;
    let head = |connection| {
        format!("POST /chat HTTP/1.1\r\nhost: x\r\nconnection: {connection}\r\n{SESSION_HEADER}: s\r\n\r\n")
    };
    let answers = api.raw((head("keep-alive") + &head("close")).as_bytes()).await;
    let bodies: Vec<_> = answers.split("\r\n\r\n").skip(1).map(|rest| &rest[..1]).collect();
    assert_eq!(bodies, ["0", "1"], "{answers}");
}

#[tokio::test]
async fn bad_input_66_head_options_and_get_store_only_what_is_appended() {
    let store = Watched::new(Mood::Fast);
    let handler = service_fn(|request: Request<Incoming>| async move {
        if request.method() == http::Method::HEAD {
            request.extensions().get::<ChatSession>().unwrap().append(Message::user("seen")).unwrap();
        }
        plain("hello")
    });
    let address = serve(Protocol::H1, layer(&store, |_| {}).layer(handler)).await;
    for (method, turns) in [("GET", 0), ("OPTIONS", 0), ("HEAD", 1)] {
        let mut client = Client::connect(Protocol::H1, address).await;
        let request = request(Protocol::H1, method, address).header(SESSION_HEADER, "s").body(empty()).unwrap();
        let response = patient("an answer", client.send(request)).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(store.turns("s").await.len(), turns, "{method}: at the head");
        assert_eq!(text(response.into_body()).await.is_empty(), method == "HEAD");
    }
}

#[tokio::test]
async fn bad_input_67_an_upgrade_is_committed_by_hand_or_not_at_all() {
    let store = Watched::new(Mood::Fast);
    let (handles, mut sessions) = tokio::sync::mpsc::unbounded_channel();
    let handler = service_fn(move |request: Request<Incoming>| {
        let session = request.extensions().get::<ChatSession>().unwrap().clone();
        session.append(Message::user("before the upgrade")).unwrap();
        handles.send(session).unwrap();
        let response = Response::builder().status(101).header("upgrade", "chat").header("connection", "upgrade");
        async move { response.body(Full::<Bytes>::default()) }
    });
    let address = serve(Protocol::H1, layer(&store, |_| {}).layer(handler)).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head =
        format!("GET /chat HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: chat\r\n{SESSION_HEADER}: s\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let session = patient("the handler", sessions.recv()).await.unwrap();
    let mut answer = Vec::new();
    let _ = patient("the head", stream.read_buf(&mut answer)).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 101"));
    assert_eq!(store.entered(), 0);
    session.append(Message::user("after it")).unwrap();
    session.commit().await.unwrap();
    assert_eq!(store.turns("s").await[0].messages().len(), 2);
}

/// A body that promises another size than it has.
struct Liar {
    promised: u64,
    data: Option<Bytes>,
    _session: ChatSession,
}

impl Body for Liar {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        std::task::Poll::Ready(self.data.take().map(|data| Ok(Frame::data(data))))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.promised)
    }
}

#[tokio::test]
async fn bad_input_68_a_body_that_promises_the_wrong_size() {
    for (promised, name) in [(3, "short"), (30, "long")] {
        let store = Watched::new(Mood::Fast);
        let handler = service_fn(move |request: Request<Incoming>| {
            let session = request.extensions().get::<ChatSession>().unwrap().clone();
            session.append(Message::user("question")).unwrap();
            let body = Liar { promised, data: Some(Bytes::from_static(b"0123456789")), _session: session };
            async { Ok::<_, Infallible>(Response::new(body)) }
        });
        let address = serve(Protocol::H1, layer(&store, |_| {}).layer(handler)).await;
        let mut client = Client::connect(Protocol::H1, address).await;
        let request = request(Protocol::H1, "POST", address).header(SESSION_HEADER, "s").body(empty()).unwrap();
        // hyper breaks the response off or cuts it; what matters is that it ends and the turn is there.
        if let Ok(response) = patient("an answer", client.send(request)).await {
            let _ = patient("the end", response.into_body().collect()).await;
        }
        assert_eq!(store.turns("s").await.len(), 1, "{name}");
    }
}

#[tokio::test]
async fn bad_input_69_an_inner_body_that_panics() {
    let store = Watched::new(Mood::Fast);
    let handler = service_fn(|request: Request<Incoming>| {
        let session = request.extensions().get::<ChatSession>().unwrap().clone();
        session.append(Message::user("question")).unwrap();
        async move {
            let body = futures_util::stream::unfold((session, 0), |(session, n)| async move {
                tokio::task::yield_now().await;
                assert!(n == 0, "a panic that the test asked for");
                Some((Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"token"))), (session, n + 1)))
            });
            Ok::<_, Infallible>(Response::new(StreamBody::new(Box::pin(body))))
        }
    });
    let address = serve(Protocol::H1, layer(&store, |_| {}).layer(handler)).await;
    let mut client = Client::connect(Protocol::H1, address).await;
    let request = request(Protocol::H1, "POST", address).header(SESSION_HEADER, "s").body(empty()).unwrap();
    if let Ok(response) = patient("the head", client.send(request)).await {
        assert!(patient("the body", response.into_body().collect()).await.is_err(), "the stream breaks off");
    }
    until("the turn", async || !store.turns("s").await.is_empty()).await;
    assert_eq!(store.turns("s").await[0].status(), TurnStatus::Interrupted);
}

#[tokio::test]
async fn bad_input_70_the_layer_mounted_twice() {
    let store = Watched::new(Mood::Fast);
    let memory = layer(&store, |_| {});
    let twice = ServiceBuilder::new().layer(memory.clone()).layer(memory.clone()).service(service_fn(count));
    let api = Api(serve(Protocol::H1, twice).await);
    for turns in ["0", "1", "2"] {
        assert_eq!(api.session(&[b"s"]).await.1, turns);
    }
    assert_eq!(store.entered(), 3, "one append for each request");
}

#[tokio::test]
async fn bad_input_71_a_handle_used_after_the_response_ended() {
    let store = Watched::new(Mood::Fast);
    let kept = Arc::new(std::sync::Mutex::new(None::<ChatSession>));
    let keep = kept.clone();
    let handler = service_fn(move |request: Request<Incoming>| {
        let session = request.extensions().get::<ChatSession>().unwrap().clone();
        session.append(Message::user("question")).unwrap();
        *keep.lock().unwrap() = Some(session);
        async { plain("answer") }
    });
    let api = Api(serve(Protocol::H1, layer(&store, |_| {}).layer(handler)).await);
    assert_eq!(api.session(&[b"s"]).await.1, "answer");
    let session = kept.lock().unwrap().take().unwrap();
    assert_eq!(session.append(Message::assistant("too late")), Err(AppendError::Sealed));
    let committed = session.commit().await.unwrap();
    assert!(matches!(committed, tower_session_memory::Committed::Stored { rebased: false, .. }), "{committed:?}");
    assert_eq!(store.turns("s").await[0].messages().len(), 1);
}

#[tokio::test]
async fn a_store_that_cannot_be_read_is_503_or_a_degraded_session() {
    let store = Watched::new(Mood::Fast);
    let api = counting(&layer(&store, |_| {})).await;
    api.session(&[b"s"]).await;
    store.fail_loads(true);
    let (status, headers, body) = api.send(&[(SESSION_HEADER, b"s")]).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(headers["retry-after"], "1");
    assert!(body.contains("store_unavailable"), "{body}");

    let api = counting(&layer(&store, |policy| policy.on_load_failure = OnLoadFailure::Degrade)).await;
    assert_eq!(api.session(&[b"s"]).await.1, "0 degraded");
    assert_eq!(store.turns("s").await.len(), 2, "the degraded turn follows what is there");
}
