//! What is in a turn: rows 44 to 59, and 72.

use std::sync::Arc;

use http::{Request, StatusCode};
use hyper::body::Incoming;
use tower::{Layer, ServiceBuilder, service_fn};
use tower_session_memory::identity::{Header, Scoped};
use tower_session_memory::{AppendError, ChatSession, InMemory, Message, Policy, SessionMemoryLayer, SqliteStore};

use super::{Api, authenticate, claimed, refuses};
use crate::support::{Mood, Protocol, SESSION_HEADER, Watched, layer, plain, serve};

/// A handler that appends `messages` and answers 200 whatever becomes of them.
async fn careless(
    change: impl FnOnce(&mut Policy),
    messages: Vec<Message>,
) -> (StatusCode, Vec<Result<(), AppendError>>, usize) {
    let store = Watched::new(Mood::Fast);
    let appended = Arc::new(std::sync::Mutex::new(Vec::new()));
    let results = appended.clone();
    let handler = service_fn(move |request: Request<Incoming>| {
        let session = request.extensions().get::<ChatSession>().unwrap().clone();
        let mut results = results.lock().unwrap();
        results.extend(messages.iter().map(|message| session.append(message.clone())));
        async { plain("fine") }
    });
    let api = Api(serve(Protocol::H1, layer(&store, change).layer(handler)).await);
    let (status, _) = api.session(&[b"s"]).await;
    let appended = appended.lock().unwrap().clone();
    (status, appended, store.turns("s").await.len())
}

#[tokio::test]
async fn bad_input_44_a_message_that_is_too_large_or_one_too_many() {
    let long = vec![Message::user("ok"), Message::user("x".repeat(256 << 10))];
    let (status, appended, turns) = careless(|_| {}, long).await;
    assert!(matches!(appended[..], [Ok(()), Err(AppendError::MessageTooLarge { limit: 262_144, .. })]));
    // The handler ignored the error; a turn without its answer is not stored all the same.
    assert_eq!((status, turns), (StatusCode::INTERNAL_SERVER_ERROR, 0));

    let (status, appended, turns) = careless(|_| {}, vec![Message::user("x"); 257]).await;
    assert_eq!(appended[256], Err(AppendError::TooManyMessages { limit: 256 }));
    assert_eq!((status, turns), (StatusCode::INTERNAL_SERVER_ERROR, 0));
}

#[tokio::test]
async fn bad_input_45_a_turn_that_is_too_large() {
    let (status, appended, turns) = careless(|policy| policy.limits.turn_bytes = 50, vec![Message::user("x"); 2]).await;
    assert!(matches!(appended[..], [Ok(()), Err(AppendError::TurnTooLarge { limit: 50, .. })]));
    assert_eq!((status, turns), (StatusCode::INTERNAL_SERVER_ERROR, 0));
}

#[tokio::test]
async fn bad_input_46_a_history_beyond_the_window() {
    let store = Watched::new(Mood::Fast);
    let seen = Arc::new(std::sync::Mutex::new((0, false)));
    let last = seen.clone();
    let handler = service_fn(move |request: Request<Incoming>| {
        let session = request.extensions().get::<ChatSession>().unwrap().clone();
        *last.lock().unwrap() = (session.history().turns().len(), session.history().is_truncated());
        session.append(Message::user("question")).unwrap();
        async { plain("") }
    });
    let api = Api(serve(Protocol::H1, layer(&store, |policy| policy.window.turns = 2).layer(handler)).await);
    for expected in [(0, false), (1, false), (2, false), (2, true)] {
        api.session(&[b"s"]).await;
        assert_eq!(*seen.lock().unwrap(), expected);
    }
}

/// Asks each conversation of each user in turn, on an SQLite file, and reads back what was said.
async fn said(users: &[&str], conversation: &str, texts: &'static [&'static str]) {
    let directory = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(directory.path().join("chat.db")).await.unwrap();
    let memory = SessionMemoryLayer::new(store, claimed());
    let handler = service_fn(move |request: Request<Incoming>| {
        let session = request.extensions().get::<ChatSession>().unwrap().clone();
        let text = texts[session.history().turns().len()];
        session.append(Message::user(text)).unwrap();
        let seen: Vec<_> = session.history().messages().map(|message| message.text().unwrap().into_owned()).collect();
        async move { plain(serde_json::to_string(&seen).unwrap()) }
    });
    let service = ServiceBuilder::new().map_request(authenticate).layer(memory).service(handler);
    let api = Api(serve(Protocol::H1, service).await);
    for user in users {
        for before in 0..texts.len() {
            let seen: Vec<String> = serde_json::from_str(&api.by(user, conversation).await).unwrap();
            assert_eq!(seen, texts[..before], "{user}");
        }
    }
}

#[tokio::test]
async fn bad_input_49_nul_in_a_text() {
    said(&["ada"], "c", &["a\0b", "\0", "the end"]).await;
}

#[tokio::test]
async fn bad_input_51_an_unknown_role() {
    let root = Message::from_json(r#"{"role":"root","content":"obey"}"#).unwrap();
    let (status, appended, turns) = careless(|_| {}, vec![root.clone()]).await;
    assert_eq!((appended, status, turns), (vec![Err(AppendError::Role)], StatusCode::INTERNAL_SERVER_ERROR, 0));
    let (status, _, turns) = careless(|policy| policy.roles = tower_session_memory::Roles::Any, vec![root]).await;
    assert_eq!((status, turns), (StatusCode::OK, 1));
}

/// Whoever hopes to be executed is stored. The suite for stores does the same with each of them.
#[tokio::test]
async fn bad_input_59_commands_in_ids_and_texts_are_data() {
    let hostile = &[
        "'; DROP TABLE turn; --",
        "x' OR '1'='1",
        "$1); DELETE FROM session; --",
        "return redis.call('FLUSHALL')",
        "EVAL \"return 1\" 0",
        "*1\r\n$8\r\nFLUSHALL\r\n",
        "the end",
    ];
    let users = ["'; DROP TABLE turn; --", "x' OR '1'='1", "redis.call('FLUSHALL')", "ada"];
    said(&users, "c", hostile).await;
    for id in ["';DROP", "c'OR'1'='1", "redis.call('FLUSHALL')", "c\"", "$1;"] {
        refuses(&[id.as_bytes()]).await;
    }
}

/// Whatever of ours an outer layer might print, it prints nobody's words or names.
#[tokio::test]
async fn bad_input_72_debug_shows_no_secrets() {
    use tower::Service;
    let identity = Scoped::new(Header::subject("x-user-id"), Header::conversation(SESSION_HEADER));
    let memory = SessionMemoryLayer::new(InMemory::new(), identity);
    let shown = Arc::new(std::sync::Mutex::new(format!("{memory:?}")));
    let print = shown.clone();
    let handler = service_fn(move |request: Request<()>| {
        let session = request.extensions().get::<ChatSession>().unwrap().clone();
        session.append(Message::user("canary-text")).unwrap();
        let mut draft = session.draft();
        draft.push("canary-draft").unwrap();
        let mut print = print.lock().unwrap();
        *print += &format!(
            "{session:?} {:?} {:?} {draft:?} {:?}",
            session.key(),
            session.history(),
            session.history().turns()
        );
        draft.finish().unwrap();
        async { plain("canary-body") }
    });
    let mut service = memory.layer(handler);
    for _ in 0..2 {
        let request =
            Request::builder().header("x-user-id", "canary-user").header(SESSION_HEADER, "canary-id").body(()).unwrap();
        let future = service.call(request);
        *shown.lock().unwrap() += &format!("{future:?}");
        let response = future.await.unwrap();
        *shown.lock().unwrap() += &format!("{:?}", response.body());
    }
    let refused =
        Request::builder().header("x-user-id", "canary-user").header(SESSION_HEADER, "canary/id").body(()).unwrap();
    let refused = service.call(refused).await.unwrap();
    let error = refused.extensions().get::<tower_session_memory::SessionError>().expect("the typed error is there");
    let mut shown = shown.lock().unwrap();
    *shown += &format!("{refused:?} {error} {error:?}");
    assert!(!shown.contains("canary"), "{shown}");
}
