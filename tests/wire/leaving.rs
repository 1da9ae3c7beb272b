//! Clients that leave, producers that fail, servers that stop: every turn is settled as policy says.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use tokio::sync::{Notify, mpsc};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tower::{Layer, service_fn};
use tower_session_memory::{
    AppendError, ChatSession, Message, OnCommitFailure, OnDisconnect, Policy, SessionMemoryLayer, TurnId, TurnStatus,
};

use crate::support::{
    Client, Mood, Protocol, SESSION_HEADER, Watched, empty, key, layer, patient, plain, request, serve, until,
};

pub(crate) const BOTH: [Protocol; 2] = [Protocol::H1, Protocol::H2];

pub(crate) fn post(protocol: Protocol, address: std::net::SocketAddr) -> Request<http_body_util::Full<Bytes>> {
    request(protocol, "POST", address).header(SESSION_HEADER, "s").body(empty()).unwrap()
}

pub(crate) fn session_of<B>(request: &Request<B>) -> ChatSession {
    request.extensions().get::<ChatSession>().expect("the layer is there").clone()
}

/// Answers with one buffer. Held by the response, the session is committed with the body; else before
/// the head.
pub(crate) async fn answer_holding(
    held: bool,
    request: Request<Incoming>,
) -> Result<Response<http_body_util::Full<Bytes>>, Infallible> {
    let session = session_of(&request);
    session.append(Message::user("question")).unwrap();
    let mut response = plain("answer")?;
    if held {
        response.extensions_mut().insert(session);
    }
    Ok(response)
}

/// A layer around a handler that never answers; the request is cut once the handler is at work.
pub(crate) async fn leave_before_head(protocol: Protocol, memory: &SessionMemoryLayer) {
    let working = Arc::new(Notify::new());
    let at_work = working.clone();
    let handler = service_fn(move |request: Request<Incoming>| {
        let working = working.clone();
        async move {
            let session = session_of(&request);
            session.append(Message::user("question")).unwrap();
            working.notify_one();
            std::future::pending::<()>().await;
            drop(session);
            plain("never")
        }
    });
    let address = serve(protocol, memory.layer(handler)).await;
    let mut client = Client::connect(protocol, address).await;
    let sent = tokio::spawn(async move { client.send(post(protocol, address)).await.map(|_| ()) });
    patient("the handler", at_work.notified()).await;
    sent.abort();
}

#[tokio::test]
async fn discard_forgets_what_a_client_left_behind() {
    for protocol in BOTH {
        let store = Watched::new(Mood::Fast);
        let memory = layer(&store, |policy| policy.on_disconnect = OnDisconnect::Discard);
        let held = Arc::new(std::sync::Mutex::new(None::<ChatSession>));
        let hold = held.clone();
        let handler = service_fn(move |request: Request<Incoming>| {
            let session = session_of(&request);
            session.append(Message::user("question")).unwrap();
            *hold.lock().unwrap() = Some(session);
            std::future::pending::<Result<Response<http_body_util::Full<Bytes>>, Infallible>>()
        });
        let address = serve(protocol, memory.layer(handler)).await;
        let mut client = Client::connect(protocol, address).await;
        let sent = tokio::spawn(async move { client.send(post(protocol, address)).await.map(|_| ()) });
        until("the handler", async || held.lock().unwrap().is_some()).await;
        sent.abort();
        let session = held.lock().unwrap().take().unwrap();
        // The handle is told that the turn is settled: nothing it appends is lost silently.
        until("the discard", async || session.append(Message::user("more")) == Err(AppendError::Sealed)).await;
        assert!(session.commit().await.is_err());
        assert_eq!((store.entered(), store.turns("s").await.len()), (0, 0));
    }
}

pub(crate) type Streamed = StreamBody<UnboundedReceiverStream<Result<Frame<Bytes>, Infallible>>>;

/// Streams a first token, waits until `go` is notified, then the rest of the reply.
pub(crate) fn streaming(
    go: Arc<Notify>,
    producer_saw: mpsc::UnboundedSender<bool>,
) -> impl tower::Service<Request<Incoming>, Response = Response<Streamed>, Error = Infallible, Future: Send> + Clone + Send
{
    service_fn(move |request: Request<Incoming>| {
        let (go, producer_saw) = (go.clone(), producer_saw.clone());
        async move {
            let session = session_of(&request);
            let (frames, body) = mpsc::unbounded_channel();
            session.append(Message::user("question")).unwrap();
            tokio::spawn(async move {
                let mut draft = session.draft();
                draft.push("half ").unwrap();
                frames.send(Ok(Frame::data(Bytes::from_static(b"half ")))).unwrap();
                let client_left = tokio::select! {
                    () = frames.closed() => true,
                    () = go.notified() => false,
                };
                if !client_left {
                    draft.push("whole").unwrap();
                    draft.finish().unwrap();
                    let _ = frames.send(Ok(Frame::data(Bytes::from_static(b"whole"))));
                }
                producer_saw.send(client_left).unwrap();
            });
            Ok(Response::new(StreamBody::new(UnboundedReceiverStream::new(body))))
        }
    })
}

/// Reads the first token, then leaves.
pub(crate) async fn leave_mid_body(protocol: Protocol, address: std::net::SocketAddr) {
    let mut client = Client::connect(protocol, address).await;
    let response = patient("the head", client.send(post(protocol, address))).await.unwrap();
    let frame = patient("a token", response.into_body().frame()).await.unwrap().unwrap();
    assert_eq!(frame.data_ref().unwrap(), "half ");
}

#[tokio::test]
async fn finish_reads_on_when_the_client_has_left() {
    for protocol in BOTH {
        let store = Watched::new(Mood::Fast);
        let memory = layer(&store, |policy| policy.on_disconnect = OnDisconnect::Finish);
        let go = Arc::new(Notify::new());
        let (producer_saw, mut saw) = mpsc::unbounded_channel();
        let address = serve(protocol, memory.layer(streaming(go.clone(), producer_saw))).await;
        leave_mid_body(protocol, address).await;
        go.notify_one();
        assert_eq!(patient("the producer", saw.recv()).await, Some(false));
        until("the turn", async || !store.turns("s").await.is_empty()).await;
        let turns = store.turns("s").await;
        assert_eq!(turns[0].status(), TurnStatus::Complete);
        assert_eq!(turns[0].messages(), [Message::user("question"), Message::assistant("half whole")]);
        patient("the drain", memory.drain(Duration::from_secs(5))).await.unwrap();
    }
}

#[tokio::test]
async fn finish_serves_a_client_that_stays_as_any_other() {
    for protocol in BOTH {
        for mood in [Mood::Fast, Mood::Failing] {
            let store = Watched::new(mood);
            let memory = layer(&store, |policy| policy.on_disconnect = OnDisconnect::Finish);
            let go = Arc::new(Notify::new());
            go.notify_one();
            let (producer_saw, _saw) = mpsc::unbounded_channel();
            let address = serve(protocol, memory.layer(streaming(go, producer_saw))).await;
            let mut client = Client::connect(protocol, address).await;
            let response = patient("the head", client.send(post(protocol, address))).await.unwrap();
            let body = patient("the body", response.into_body().collect()).await;
            match mood {
                Mood::Failing => assert!(body.is_err(), "a lost turn looked like a stored one"),
                _ => {
                    assert_eq!(body.unwrap().to_bytes(), "half whole");
                    assert_eq!(store.turns("s").await[0].status(), TurnStatus::Complete);
                }
            }
        }
    }
}

#[tokio::test]
async fn a_drain_that_runs_out_of_time_says_what_is_left() {
    let store = Watched::new(Mood::Slow);
    let memory = layer(&store, |_| {});
    leave_before_head(Protocol::H1, &memory).await;
    until("the hand-over", async || memory.pending() == 1).await;
    let left = memory.drain(Duration::from_millis(1)).await.unwrap_err();
    assert_eq!(left.outstanding, 1);
    store.release();
    patient("the drain", memory.drain(Duration::from_secs(5))).await.unwrap();
    assert_eq!(store.turns("s").await.len(), 1);
}

#[tokio::test]
async fn too_much_background_work_sheds_new_requests_and_drops_no_turn() {
    let store = Watched::new(Mood::Slow);
    let memory = layer(&store, |policy: &mut Policy| policy.limits.pending = 2);
    for _ in 0..2 {
        leave_before_head(Protocol::H1, &memory).await;
    }
    until("both hand-overs", async || memory.pending() == 2).await;
    let address = serve(Protocol::H1, memory.layer(service_fn(|_: Request<Incoming>| async { plain("hi") }))).await;
    let mut client = Client::connect(Protocol::H1, address).await;
    let refused = patient("an answer", client.send(post(Protocol::H1, address))).await.unwrap();
    assert_eq!(refused.status(), 503);
    assert_eq!(refused.headers()["retry-after"], "1");
    drop(refused.into_body().collect().await);
    store.release();
    patient("the drain", memory.drain(Duration::from_secs(5))).await.unwrap();
    assert_eq!(store.turns("s").await.len(), 2);
    let served = patient("an answer", client.send(post(Protocol::H1, address))).await.unwrap();
    assert_eq!(served.status(), 200);
}

#[tokio::test]
async fn an_interrupted_turn_does_not_use_up_its_idempotency_key() {
    let store = Watched::new(Mood::Fast);
    let memory = layer(&store, |_| {});
    let ids = Arc::new(std::sync::Mutex::new(Vec::<(TurnId, bool)>::new()));
    let seen = ids.clone();
    let handler = service_fn(move |request: Request<Incoming>| {
        let session = session_of(&request);
        let attempt = {
            let mut seen = seen.lock().unwrap();
            seen.push((session.turn_id(), session.replay().is_some()));
            seen.len()
        };
        async move {
            if session.replay().is_none() {
                session.append(Message::user("question")).unwrap();
            }
            if attempt == 1 {
                std::future::pending::<()>().await;
            }
            plain("answer")
        }
    });
    let address = serve(Protocol::H1, memory.layer(handler)).await;
    let keyed = || {
        request(Protocol::H1, "POST", address)
            .header(SESSION_HEADER, "s")
            .header("idempotency-key", "k")
            .body(empty())
            .unwrap()
    };
    let mut client = Client::connect(Protocol::H1, address).await;
    let first = keyed();
    let sent = tokio::spawn(async move { client.send(first).await.map(|_| ()) });
    until("the first attempt", async || ids.lock().unwrap().len() == 1).await;
    sent.abort();
    until("the interrupted turn", async || store.turns("s").await.len() == 1).await;
    for _ in 0..2 {
        let mut client = Client::connect(Protocol::H1, address).await;
        assert_eq!(patient("an answer", client.send(keyed())).await.unwrap().status(), 200);
    }
    // The retry ran and was stored whole; the retry of the retry was offered it.
    let ids = ids.lock().unwrap().clone();
    assert!(ids.iter().all(|(id, _)| *id == TurnId::of_idempotency_key(&key("s"), "k")));
    assert_eq!(ids.iter().map(|(_, replay)| *replay).collect::<Vec<_>>(), [false, false, true]);
    let statuses: Vec<_> = store.turns("s").await.iter().map(tower_session_memory::Turn::status).collect();
    assert_eq!(statuses, [TurnStatus::Interrupted, TurnStatus::Complete]);
}

#[tokio::test]
async fn deliver_sends_the_response_although_its_turn_is_lost() {
    for protocol in BOTH {
        for held in [false, true] {
            let store = Watched::new(Mood::Failing);
            let memory = layer(&store, |policy| policy.on_commit_failure = OnCommitFailure::Deliver);
            let handler = service_fn(move |request| answer_holding(held, request));
            let address = serve(protocol, memory.layer(handler)).await;
            let mut client = Client::connect(protocol, address).await;
            let response = patient("the head", client.send(post(protocol, address))).await.unwrap();
            assert_eq!(response.status(), 200);
            assert_eq!(patient("the body", response.into_body().collect()).await.unwrap().to_bytes(), "answer");
            assert_eq!(store.entered(), 1);
        }
    }
}

#[tokio::test]
async fn finish_is_bounded_too() {
    let store = Watched::new(Mood::Slow);
    let memory = layer(&store, |policy| {
        policy.on_disconnect = OnDisconnect::Finish;
        policy.limits.pending = 1;
    });
    let go = Arc::new(Notify::new());
    let (producer_saw, mut saw) = mpsc::unbounded_channel();
    let address = serve(Protocol::H1, memory.layer(streaming(go.clone(), producer_saw))).await;
    // Both began while there was room; when the first has taken it, the other is interrupted.
    let mut clients = Vec::new();
    for _ in 0..2 {
        let mut client = Client::connect(Protocol::H1, address).await;
        let mut response = patient("the head", client.send(post(Protocol::H1, address))).await.unwrap();
        patient("a token", response.body_mut().frame()).await.unwrap().unwrap();
        clients.push((client, response));
    }
    drop(clients);
    // One producer is told that nobody listens, the other works on.
    assert_eq!(patient("the other's producer", saw.recv()).await, Some(true));
    go.notify_one();
    assert_eq!(patient("the first's producer", saw.recv()).await, Some(false));
    until("both commits", async || store.entered() == 2).await;
    store.release();
    patient("the drain", memory.drain(Duration::from_secs(5))).await.unwrap();
    let mut statuses: Vec<_> = store.turns("s").await.iter().map(|turn| turn.status().as_str()).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, ["complete", "interrupted"]);
}

#[tokio::test]
async fn sessions_live_as_long_as_policy_says() {
    let store = Watched::new(Mood::Fast);
    let memory = layer(&store, |policy| policy.ttl = Some(Duration::from_millis(20)));
    let handler = service_fn(|request: Request<Incoming>| async move {
        session_of(&request).append(Message::user("question")).unwrap();
        plain("answer")
    });
    let address = serve(Protocol::H1, memory.layer(handler)).await;
    let mut client = Client::connect(Protocol::H1, address).await;
    assert_eq!(patient("an answer", client.send(post(Protocol::H1, address))).await.unwrap().status(), 200);
    until("the end of its life", async || store.turns("s").await.is_empty()).await;
}
