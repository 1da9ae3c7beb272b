//! What decides whether a turn is stored, and who is told.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use tower::{Layer, Service, service_fn};
use tower_session_memory::identity::Header;
use tower_session_memory::store::{Append, Appended, Deleted, Loaded, Page, Read, SessionPage, StoreInfo};
use tower_session_memory::{
    ChatSession, ConversationId, InMemory, Message, OnDisconnect, Policy, Scope, SessionKey, SessionMemoryLayer, Store,
    StoreError, TurnStatus,
};

use crate::around::{Around, Wrapped};
use crate::{Hesitant, layer, request};

/// The connection leaves HTTP behind: no end of a body says that the turn is whole.
#[tokio::test]
async fn an_upgraded_connection_stores_only_what_is_committed_explicitly() {
    for commits in [false, true] {
        let store = Hesitant::default();
        let memory = layer(&store, OnDisconnect::Keep);
        let mut service = memory.layer(service_fn(|request: Request<()>| {
            let session = request.extensions().get::<ChatSession>().unwrap().clone();
            session.append(Message::user("question")).unwrap();
            let mut response = Response::new(Full::new(Bytes::new()));
            *response.status_mut() = http::StatusCode::SWITCHING_PROTOCOLS;
            response.extensions_mut().insert(session);
            async { Ok::<_, Infallible>(response) }
        }));
        let (parts, body) = service.call(request()).await.unwrap().into_parts();
        drop(body);
        memory.drain(Duration::from_secs(10)).await.unwrap();
        // Whoever speaks on that connection now still writes the turn.
        let session = parts.extensions.get::<ChatSession>().unwrap();
        session.append(Message::assistant("answer")).expect("the turn is still open");
        if commits {
            session.commit().await.unwrap();
        }
        drop(parts);
        memory.drain(Duration::from_secs(10)).await.unwrap();
        let turns: Vec<_> = store.turns().await.iter().map(|turn| (turn.status(), turn.messages().len())).collect();
        assert_eq!(turns, if commits { vec![(TurnStatus::Complete, 2)] } else { Vec::new() });
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_hangs_is_given_up_at_its_deadlines() {
    #[derive(Clone, Debug)]
    struct Hanging {
        loads: bool,
    }
    impl Store for Hanging {
        fn info(&self) -> StoreInfo {
            InMemory::new().info()
        }
        async fn load(&self, _: &SessionKey, _: &Read) -> Result<Loaded, StoreError> {
            if self.loads { Ok(Loaded::absent()) } else { std::future::pending().await }
        }
        async fn append(&self, _: &SessionKey, _: &Append) -> Result<Appended, StoreError> {
            std::future::pending().await
        }
        async fn delete(&self, _: &SessionKey) -> Result<Deleted, StoreError> {
            std::future::pending().await
        }
        async fn list(&self, _: &Scope, _: &Page) -> Result<SessionPage, StoreError> {
            std::future::pending().await
        }
        async fn ping(&self) -> Result<(), StoreError> {
            std::future::pending().await
        }
    }
    for (loads, seconds, code) in [(false, 2, "store_unavailable"), (true, 10, "outcome_unknown")] {
        let memory = SessionMemoryLayer::new(Hanging { loads }, Header::conversation("x-conversation-id"));
        let mut service = memory.layer(service_fn(|request: Request<()>| {
            request.extensions().get::<ChatSession>().unwrap().append(Message::user("question")).unwrap();
            async { Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"answer")))) }
        }));
        let begun = tokio::time::Instant::now();
        let response = service.call(request()).await.unwrap();
        assert_eq!((response.status().as_u16(), begun.elapsed().as_secs()), (503, seconds));
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert!(String::from_utf8_lossy(&body).contains(code), "{body:?}");
    }
}

#[tokio::test]
async fn a_store_that_panics_leaves_nobody_waiting() {
    #[derive(Clone, Debug)]
    struct Panicking(Arc<InMemory>);
    impl Around for Panicking {
        type Inside = InMemory;

        fn inside(&self) -> &InMemory {
            &self.0
        }

        async fn append(&self, _: &SessionKey, _: &Append) -> Result<Appended, StoreError> {
            tokio::task::yield_now().await;
            panic!("a panic that the test asked for")
        }
    }
    let memory = SessionMemoryLayer::new(Wrapped(Panicking(Arc::default())), Header::conversation("x-conversation-id"));
    let mut service = memory.layer(service_fn(|request: Request<()>| async move {
        let session = request.extensions().get::<ChatSession>().unwrap().clone();
        session.append(Message::user("question")).unwrap();
        let waiting = session.clone();
        let panicked = tokio::spawn(async move { session.commit().await });
        tokio::task::yield_now().await;
        let error = waiting.commit().await.unwrap_err();
        assert!(matches!(error, tower_session_memory::SessionError::Lost), "{error:?}");
        assert!(panicked.await.is_err());
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::new())))
    }));
    assert_eq!(service.call(request()).await.unwrap().status(), 500);
}

/// Callers put these into structs, tasks and boxes.
#[test]
fn public_types_are_what_callers_need_them_to_be() {
    fn everywhere<T: Send + Sync + Clone + Unpin + 'static>() {}
    fn sendable<T: Send + 'static>() {}
    fn unpin<T: Unpin>() {}
    everywhere::<SessionMemoryLayer>();
    everywhere::<ChatSession>();
    everywhere::<tower_session_memory::ChatHistory>();
    everywhere::<tower_session_memory::SharedStore>();
    everywhere::<tower_session_memory::SessionError>();
    everywhere::<tower_session_memory::Turn>();
    everywhere::<Message>();
    everywhere::<SessionKey>();
    type Inner = tower::util::BoxCloneService<Request<()>, Response<Full<Bytes>>, Infallible>;
    sendable::<tower_session_memory::SessionMemory<Inner>>();
    sendable::<tower_session_memory::ResponseFuture<Inner, ()>>();
    sendable::<tower_session_memory::ResponseBody<Full<Bytes>>>();
    unpin::<tower_session_memory::ResponseBody<Full<Bytes>>>();
    sendable::<tower_session_memory::Draft>();
}

/// What a handler gave up on purpose is no failure of its response.
#[tokio::test]
async fn a_handler_that_discards_its_turn_answers_all_the_same() {
    for held in [false, true] {
        let store = Hesitant::default();
        let mut service = layer(&store, OnDisconnect::Keep).layer(service_fn(move |request: Request<()>| async move {
            let session = request.extensions().get::<ChatSession>().unwrap().clone();
            // After a message that was refused there is nothing else that a handler could do.
            session.append(Message::user("x".repeat(300_000))).unwrap_err();
            session.discard();
            assert!(session.append(Message::user("more")).is_err());
            let mut response = Response::new(Full::new(Bytes::from_static(b"too long to be kept")));
            if held {
                response.extensions_mut().insert(session);
            }
            Ok::<_, Infallible>(response)
        }));
        let response = service.call(request()).await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "too long to be kept");
        assert!(store.turns().await.is_empty());
    }
}

/// A producer that fails sends an error event and ends its stream in order; its reply is a half all the same.
#[tokio::test]
async fn a_draft_that_breaks_off_makes_an_interrupted_turn_though_the_response_ends() {
    for by_hand in [false, true] {
        let store = Hesitant::default();
        let memory = layer(&store, OnDisconnect::Keep);
        let mut service = memory.layer(service_fn(move |request: Request<()>| async move {
            let session = request.extensions().get::<ChatSession>().unwrap().clone();
            assert!(session.replay().is_none(), "half a reply was offered as the answer");
            session.append(Message::user("question")).unwrap();
            let mut draft = session.draft();
            draft.push("half of the ans").unwrap();
            drop(draft);
            if by_hand {
                session.commit().await.unwrap();
            }
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"event: error"))))
        }));
        for attempt in 1..=2 {
            let mut request = request();
            request.headers_mut().insert("idempotency-key", "k".parse().unwrap());
            assert_eq!(service.call(request).await.unwrap().status(), 200);
            let turns = store.turns().await;
            assert_eq!(turns.len(), attempt, "stored before the end was seen");
            assert_eq!(turns[attempt - 1].status(), TurnStatus::Interrupted);
        }
    }
}

/// Statuses and policies that decide whether a turn is stored, and that bodies which servers never
/// poll to an end are stored before their heads, whoever still holds a handle.
#[tokio::test]
async fn heads_alone_decide_what_is_stored() {
    type Change = fn(&mut Policy);
    let table: [(&str, u16, Change, usize); 7] = [
        ("POST", 204, |_| {}, 1),
        ("GET", 304, |_| {}, 1),
        ("POST", 302, |_| {}, 1),
        ("POST", 302, |policy| policy.commit_on = tower_session_memory::CommitOn::Success, 0),
        ("POST", 500, |_| {}, 0),
        ("POST", 500, |policy| policy.commit_on = tower_session_memory::CommitOn::Any, 1),
        ("CONNECT", 200, |_| {}, 0),
    ];
    for (method, status, change, stored) in table {
        let store = Hesitant::default();
        let mut policy = Policy::default();
        change(&mut policy);
        let memory = SessionMemoryLayer::new(Wrapped(store.clone()), Header::conversation("x-conversation-id"));
        let mut service = memory.clone().with_policy(policy).unwrap().layer(service_fn(move |request: Request<()>| {
            let session = request.extensions().get::<ChatSession>().unwrap().clone();
            session.append(Message::user("question")).unwrap();
            let polled = matches!(status, 302 | 500);
            let text = if polled { "moved" } else { "" };
            let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
            *response.status_mut() = status.try_into().unwrap();
            response.extensions_mut().insert(session);
            async { Ok::<_, Infallible>(response) }
        }));
        let mut request = request();
        *request.method_mut() = method.parse().unwrap();
        let (parts, body) = service.call(request).await.unwrap().into_parts();
        if matches!(status, 302 | 500) {
            body.collect().await.unwrap();
        } else {
            drop(body);
        }
        assert_eq!(store.turns().await.len(), stored, "{method} {status}");
        drop(parts);
        memory.drain(Duration::from_secs(5)).await.unwrap();
        assert_eq!(store.turns().await.len(), stored, "{method} {status}, later");
    }
}

/// A turn whose history is no longer the newest is refused under `Strict`, and nothing is stored.
#[tokio::test]
async fn strict_refuses_the_later_of_two_turns() {
    let store = Hesitant::default();
    let mut policy = Policy::default();
    policy.concurrency = tower_session_memory::Concurrency::Strict;
    let memory = SessionMemoryLayer::new(Wrapped(store.clone()), Header::conversation("x-conversation-id"))
        .with_policy(policy)
        .unwrap();
    let mut service = memory.layer(service_fn({
        let store = store.clone();
        move |request: Request<()>| {
            let store = store.clone();
            async move {
                request.extensions().get::<ChatSession>().unwrap().append(Message::user("question")).unwrap();
                let id = tower_session_memory::TurnId::random();
                let other = tower_session_memory::Turn::new(id, TurnStatus::Complete, vec![Message::user("other")]);
                let key = SessionKey::new(ConversationId::parse("s").unwrap());
                store.0.append(&key, &Append::unconditional(other)).await.unwrap();
                Ok::<_, Infallible>(Response::new(Full::new(Bytes::new())))
            }
        }
    }));
    assert_eq!(service.call(request()).await.unwrap().status(), 409);
    assert_eq!(store.turns().await.len(), 1);
}
