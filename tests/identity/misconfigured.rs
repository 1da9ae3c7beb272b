//! A server misconfigured in each of the ways that make memory seem lost, and the log line, header or
//! answer that names the fault: the five questions of `docs/why-is-my-history-empty.md`.

use std::sync::Arc;

use axum::Router;
use axum::routing::get;
use tower::{ServiceExt, service_fn};
use tower_layer::Layer;
use tower_session_memory::identity::{Cookie, Extension, Header, Scoped};
use tower_session_memory::store::{
    Append, Appended, Deleted, Durability, ErrorKind, Loaded, Operation, Page, Read, SessionPage, Sharing, StoreInfo,
};
use tower_session_memory::{
    ChatSession, Diagnostics, InMemory, OnLoadFailure, Policy, RecordError, Scope, SessionKey, SessionMemoryLayer,
    SqliteStore, Store, StoreError, Turn,
};

use crate::support::{CONVERSATION, Logs, Server, memory, minting, secrets};

/// A store on the network whose loads fail in one way; `None` loads nothing, well.
#[derive(Debug)]
pub(crate) struct Odd(pub(crate) Option<ErrorKind>);

impl Store for Odd {
    fn info(&self) -> StoreInfo {
        StoreInfo::new("odd", Sharing::Network, Durability::Host)
    }

    async fn load(&self, key: &SessionKey, _: &Read) -> Result<Loaded, StoreError> {
        match self.0 {
            None => Ok(Loaded::absent()),
            Some(ErrorKind::NewerVersion) => {
                let newer = br#"{"v":99,"anything":"else"}"#.to_vec();
                let error = Turn::from_record(key, newer).expect_err("the record is of a newer version");
                assert!(matches!(error, RecordError::NewerVersion { version: 99 }));
                Err(StoreError::new(ErrorKind::NewerVersion, "odd", Operation::Load).with_source(error))
            }
            Some(kind) => Err(StoreError::new(kind, "odd", Operation::Load)),
        }
    }

    async fn append(&self, _: &SessionKey, _: &Append) -> Result<Appended, StoreError> {
        Err(StoreError::new(ErrorKind::Unavailable, "odd", Operation::Append))
    }

    async fn delete(&self, _: &SessionKey) -> Result<Deleted, StoreError> {
        Ok(Deleted::new(0))
    }

    async fn list(&self, _: &Scope, _: &Page) -> Result<SessionPage, StoreError> {
        Ok(SessionPage::new(Vec::new(), None))
    }

    async fn ping(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

fn looking_back(stretch: u32) -> Diagnostics {
    let mut diagnostics = Diagnostics::default();
    diagnostics.stretch = stretch;
    diagnostics
}

#[tokio::test]
async fn question_1_the_session_id_is_new_with_every_request() {
    let logs = Logs::capture();
    let memory = memory(Header::conversation(CONVERSATION)).with_diagnostics(looking_back(20));
    let server = Server::start(memory).await;
    for n in 0..60 {
        server.get("/", &[(CONVERSATION, &format!("canary-{n}"))]).await.turns();
    }
    let line = logs.line(&["WARN", "identity looks unstable: nearly every request opens a new session"]);
    assert!(line.contains("header x-conversation-id") && line.contains("loads=20 fresh=20"), "{line}");
    assert_eq!(logs.count("identity looks unstable"), 1, "once an interval, not once a stretch");
    assert!(!logs.text().contains("canary"), "no ids are told");
}

#[tokio::test]
async fn question_1_a_header_that_is_per_request_by_nature() {
    for name in ["x-request-id", "traceparent", "x-amzn-trace-id", "cf-ray"] {
        let logs = Logs::capture();
        memory(Scoped::new(Extension::<()>::new(|()| Ok(Default::default())), Header::conversation(name)));
        let line = logs.line(&["ERROR", "this header is new with every request by its nature"]);
        assert!(line.contains(name), "{line}");
    }
    let logs = Logs::capture();
    memory(Header::conversation(CONVERSATION));
    assert_eq!(logs.count("ERROR"), 0);
}

#[tokio::test]
async fn question_1_clients_do_not_send_the_minted_id_back() {
    let logs = Logs::capture();
    let memory = memory(Cookie::signed("__Host-chat", &secrets(1))).with_diagnostics(looking_back(20));
    let server = Server::start(memory.with_policy(minting("set-cookie")).expect("a cookie source")).await;
    for _ in 0..20 {
        server.get("/", &[]).await.turns();
    }
    let line = logs.line(&["WARN", "clients do not send it back"]);
    assert!(line.contains("signed cookie __Host-chat") && line.contains("minted=20"), "{line}");
}

#[tokio::test]
async fn question_1_sessions_that_come_back_raise_no_voice() {
    let logs = Logs::capture();
    let server = Server::start(memory(Header::conversation(CONVERSATION)).with_diagnostics(looking_back(20))).await;
    for n in 0..100 {
        server.get("/", &[(CONVERSATION, &format!("chat-{}", n / 5))]).await.turns();
    }
    assert_eq!(logs.count("unstable"), 0);
}

#[tokio::test]
async fn question_1_nobody_verifies_the_identity() {
    let logs = Logs::capture();
    memory(Scoped::new(Header::subject("x-user-id"), Header::conversation(CONVERSATION)));
    logs.line(&["WARN", "nobody verifies whose conversation it is", "header x-user-id"]);
    let logs = Logs::capture();
    memory(Scoped::new(Header::subject("x-user-id").trusted_proxy(), Header::conversation(CONVERSATION)));
    assert_eq!(logs.count("nobody verifies"), 0);
}

#[tokio::test]
async fn questions_2_and_3_the_store_is_not_shared_and_requests_reach_two_instances() {
    let logs = Logs::capture();
    let mut diagnostics = Diagnostics::default();
    diagnostics.headers = true;
    let instance = || memory(Header::conversation(CONVERSATION)).with_diagnostics(diagnostics);
    let (one, two) = (Server::start(instance()).await, Server::start(instance()).await);
    assert_eq!(one.get("/", &[(CONVERSATION, "c")]).await.turns(), 0);
    let (first, second) = (one.get("/", &[(CONVERSATION, "c")]).await, two.get("/", &[(CONVERSATION, "c")]).await);
    assert_eq!((first.turns(), second.turns()), (1, 0), "the second instance knows nothing");
    logs.line(&[
        "WARN",
        "sessions live in this process alone: a second instance does not see them",
        "store=\"memory\"",
    ]);
    let line = logs.line(&["INFO", "session memory is ready", "shared=\"process\"", "durable=\"cache\""]);
    let told = first.header("x-session-memory").expect("the header was asked for");
    let instance = told.split("instance=").nth(1).and_then(|rest| rest.split(';').next()).expect("an instance");
    assert!(line.contains(&format!("instance=\"{instance}\"")), "the log and the header name the same process: {line}");
    assert!(told.contains("store=memory; shared=process; location=none;") && told.contains("turns=1;"), "{told}");
    assert!(second.header("x-session-memory").expect("asked for").contains("turns=0; head=0.0;"));
    // The same session on both: the identity is stable, so it is the store.
    let hash = |text: &str| text.split("session=").nth(1).expect("a hash").to_owned();
    assert_eq!(hash(told), hash(second.header("x-session-memory").expect("asked for")));
    let timing = first.header("server-timing").expect("the header was asked for");
    assert!(timing.starts_with("session-load;dur=") && timing.contains("session-commit;dur="), "{timing}");
}

#[tokio::test]
async fn question_3_two_instances_have_two_stores() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut diagnostics = Diagnostics::default();
    diagnostics.headers = true;
    // What an instance on this file says in its first line, and in the header of a response.
    let told = async |file: &str| {
        let logs = Logs::capture();
        let store = SqliteStore::open(directory.path().join(file)).await.expect("it can be made");
        let memory = SessionMemoryLayer::new(store, Header::conversation(CONVERSATION)).with_diagnostics(diagnostics);
        let line = logs.line(&["INFO", "session memory is ready", "shared=\"host\"", &format!("{file}\" identity=")]);
        let answer = Server::start(memory).await.get("/", &[(CONVERSATION, "c")]).await;
        let header = answer.header("x-session-memory").expect("the header was asked for").to_owned();
        assert!(!header.contains(file), "whoever sees the header is not told the path: {header}");
        let location = |text: &str, end: &str| {
            let rest = text.split("location=").nth(1).expect("a location");
            rest.trim_start_matches('"').split(end).next().expect("its end").to_owned()
        };
        let (line, header) = (location(&line, "\""), location(&header, ";"));
        assert_eq!(line, header, "the log and the header name the same location");
        assert_eq!(line.len(), 8);
        (line, answer.turns())
    };
    let (one, two, again) = (told("one.db").await, told("two.db").await, told("one.db").await);
    assert_ne!(one.0, two.0, "two files are told apart");
    assert_eq!((one.1, two.1), (0, 0), "which is why the second finds nothing");
    assert_eq!((one.0, 1), again, "two instances on one file agree");
}

#[tokio::test]
async fn question_4_records_of_a_newer_version() {
    let logs = Logs::capture();
    let memory = SessionMemoryLayer::new(Odd(Some(ErrorKind::NewerVersion)), Header::conversation(CONVERSATION));
    let hello = logs.line(&["session memory is ready"]);
    let (version, format) = (env!("CARGO_PKG_VERSION"), Turn::RECORD_VERSION);
    assert!(hello.contains(&format!("version=\"{version}\" record_format={format}")), "{hello}");
    let server = Server::start(memory).await;
    server.get("/", &[(CONVERSATION, "c")]).await.refused(500, "unreadable");
    logs.line(&["ERROR", "history not loaded", "the record has format version 99; this build reads up to"]);
}

#[tokio::test]
async fn question_5_the_history_is_not_loaded() {
    let logs = Logs::capture();
    let mut policy = Policy::default();
    policy.on_load_failure = OnLoadFailure::Degrade;
    let memory = SessionMemoryLayer::new(Odd(Some(ErrorKind::Unavailable)), Header::conversation(CONVERSATION));
    let mut diagnostics = Diagnostics::default();
    diagnostics.headers = true;
    let memory = memory.with_policy(policy).expect("it can be kept").with_diagnostics(diagnostics);
    let answer = Server::start(memory).await.get("/?silent", &[(CONVERSATION, "c")]).await;
    assert_eq!(answer.turns(), 0);
    logs.line(&["ERROR", "history not loaded", "degraded=true"]);
    assert!(answer.header("x-session-memory").expect("asked for").contains("turns=unknown"));
}

#[tokio::test]
async fn question_5_no_handler_ever_appends() {
    let logs = Logs::capture();
    let server = Server::start(memory(Header::conversation(CONVERSATION)).with_diagnostics(looking_back(10))).await;
    for _ in 0..10 {
        server.get("/?silent", &[(CONVERSATION, "c")]).await.turns();
    }
    logs.line(&["WARN", "nothing is ever stored", "stored=0"]);
    assert_eq!(logs.count("identity looks unstable"), 0);
}

#[tokio::test]
async fn question_5_the_layer_is_not_on_the_route() {
    let logs = Logs::capture();
    let handler = get(|_: ChatSession| async { "hello" });
    // Layers cover the routes that were added before them.
    let router = Router::new().layer(memory(Header::conversation(CONVERSATION))).route("/", handler);
    let answer = router.oneshot(http::Request::get("/").body(axum::body::Body::empty()).expect("a request")).await;
    assert_eq!(answer.expect("infallible").status(), 500);
    logs.line(&["ERROR", "is SessionMemoryLayer mounted on this route?"]);
}

#[tokio::test]
async fn question_5_the_layer_is_there_twice() {
    let logs = Logs::capture();
    let store = Arc::new(InMemory::new());
    let _ = &store;
    let inner = memory(Header::conversation(CONVERSATION));
    let outer = memory(Header::conversation(CONVERSATION));
    let service = outer.layer(inner.layer(service_fn(|_: http::Request<String>| async {
        Ok::<_, std::convert::Infallible>(http::Response::new(String::new()))
    })));
    let request = http::Request::get("/").header(CONVERSATION, "c").body(String::new()).expect("a request");
    service.oneshot(request).await.expect("infallible");
    logs.line(&["ERROR", "session memory is mounted twice on one route"]);
}
