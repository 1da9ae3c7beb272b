//! Bad inputs and odd requests, each named after its row in the list of what a memory must withstand.

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
use tower_session_memory::identity::{Extension, Header, Or, Scoped};
use tower_session_memory::store::{Read, Store};
use tower_session_memory::{
    AppendError, ChatSession, Identify, InMemory, Message, OnLoadFailure, OnMissing, Policy, SessionMemoryLayer,
    SqliteStore, Subject, TurnId, TurnStatus, Window,
};

use crate::support::{
    Client, Mood, PATIENCE, Protocol, SESSION_HEADER, Watched, empty, key, layer, patient, plain, request, serve, text,
    until,
};

/// Appends a message and answers with the number of turns before it, or "none" without a session.
async fn count<B>(request: Request<B>) -> Result<Response<Full<Bytes>>, Infallible> {
    let Some(session) = request.extensions().get::<ChatSession>().cloned() else { return plain("none") };
    session.append(Message::user("question")).unwrap();
    plain(format!("{}{}", session.history().turns().len(), if session.is_degraded() { " degraded" } else { "" }))
}

async fn counting(memory: &SessionMemoryLayer) -> Api {
    Api(serve(Protocol::H1, memory.layer(service_fn(count::<Incoming>))).await)
}

/// A server to send heads to.
struct Api(std::net::SocketAddr);

impl Api {
    async fn send(&self, headers: &[(&str, &[u8])]) -> (StatusCode, http::HeaderMap, String) {
        let mut builder = request(Protocol::H1, "POST", self.0);
        for (name, value) in headers {
            builder = builder.header(*name, http::HeaderValue::from_bytes(value).unwrap());
        }
        let mut client = Client::connect(Protocol::H1, self.0).await;
        let response = patient("an answer", client.send(builder.body(empty()).unwrap())).await.unwrap();
        let (parts, body) = response.into_parts();
        (parts.status, parts.headers, text(body).await)
    }

    async fn session(&self, values: &[&[u8]]) -> (StatusCode, String) {
        let headers: Vec<_> = values.iter().map(|value| (SESSION_HEADER, *value)).collect();
        let (status, _, body) = self.send(&headers).await;
        (status, body)
    }

    /// Sends these very bytes and gives the head and body that come back.
    async fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.0).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        patient("an answer", stream.read_to_end(&mut answer)).await.unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }
}

async fn refuses(values: &[&[u8]]) {
    let store = Watched::new(Mood::Fast);
    let api = counting(&layer(&store, |_| {})).await;
    let headers: Vec<_> = values.iter().map(|value| (SESSION_HEADER, *value)).collect();
    let (status, headers, body) = api.send(&headers).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{body}");
    assert_eq!(headers["content-type"], "application/problem+json");
    let problem: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!((&problem["status"], &problem["code"]), (&400.into(), &"bad_identity".into()));
    assert_eq!(store.entered(), 0);
}

#[tokio::test]
async fn bad_input_01_no_session_is_refused_minted_or_let_through() {
    let store = Watched::new(Mood::Fast);
    let (status, _, body) = counting(&layer(&store, |_| {})).await.send(&[]).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(body.contains("missing_conversation"), "{body}");

    let bypass = layer(&store, |policy| policy.on_missing = OnMissing::Bypass);
    assert_eq!(counting(&bypass).await.send(&[]).await.2, "none");

    let mint = layer(&store, |policy| policy.on_missing = OnMissing::Mint { header: SESSION_HEADER });
    let api = counting(&mint).await;
    let (status, headers, body) = api.send(&[]).await;
    assert_eq!((status, body.as_str()), (StatusCode::OK, "0"));
    let id = headers[SESSION_HEADER].as_bytes();
    assert_eq!(id.len(), 32);
    assert_eq!(api.session(&[id]).await.1, "1", "the minted id names the session");
    assert_ne!(api.send(&[]).await.1[SESSION_HEADER].as_bytes(), id);

    let memory = SessionMemoryLayer::new(
        InMemory::new(),
        Scoped::new(Header::subject("x-user-id"), Header::conversation(SESSION_HEADER)),
    );
    assert_eq!(counting(&memory).await.session(&[b"c"]).await.0, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn bad_input_02_the_same_header_twice() {
    refuses(&[b"a", b"a"]).await;
}

#[tokio::test]
async fn bad_input_03_two_different_headers() {
    refuses(&[b"a", b"b"]).await;
}

#[tokio::test]
async fn bad_input_04_a_comma_list() {
    refuses(&[b"a,b"]).await;
}

#[tokio::test]
async fn bad_input_05_an_empty_value() {
    refuses(&[b""]).await;
    refuses(&[b" \t "]).await;
}

#[tokio::test]
async fn bad_input_06_an_id_that_is_too_long() {
    refuses(&[&[b'a'; 129]]).await;
    let api = counting(&layer(&Watched::new(Mood::Fast), |_| {})).await;
    assert_eq!(api.session(&[&[b'a'; 128]]).await.0, StatusCode::OK);
}

#[tokio::test]
async fn bad_input_07_bytes_that_are_not_ascii() {
    refuses(&["café".as_bytes()]).await;
    refuses(&[b"\xff\xfe"]).await;
}

#[tokio::test]
async fn bad_input_08_percent_escapes_are_never_decoded() {
    refuses(&[b"%7B%7D"]).await;
}

#[tokio::test]
async fn bad_input_09_hash_tags_and_globs() {
    for id in ["{other}", "*", "?", "[a]"] {
        refuses(&[id.as_bytes()]).await;
    }
}

#[tokio::test]
async fn bad_input_10_control_characters() {
    let api = counting(&layer(&Watched::new(Mood::Fast), |_| {})).await;
    for id in ["a\rb", "a\0b"] {
        let answer = api
            .raw(
                format!("POST /chat HTTP/1.1\r\nhost: x\r\n{SESSION_HEADER}: {id}\r\nconnection: close\r\n\r\n")
                    .as_bytes(),
            )
            .await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    }
    // A bare line feed ends the line: what follows is a header of its own.
    let answer = api
        .raw(
            format!("POST /chat HTTP/1.1\r\nhost: x\r\n{SESSION_HEADER}: ab\nx-more: c\r\nconnection: close\r\n\r\n")
                .as_bytes(),
        )
        .await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(api.session(&[b"ab"]).await.1, "1", "the id is the part before");
}

#[tokio::test]
async fn bad_input_11_paths_of_keys() {
    refuses(&[b"../../x"]).await;
    refuses(&[b".."]).await;
    refuses(&[b"a:b:c"]).await;
}

/// Claims that an outer authentication layer left.
#[derive(Clone)]
struct Claims(String);

fn claimed() -> impl Identify {
    let subject = Extension::subject(|claims: &Claims| Some(Subject::new(&claims.0)));
    Scoped::new(subject, Header::conversation(SESSION_HEADER))
}

fn scoped_by_claims() -> SessionMemoryLayer {
    SessionMemoryLayer::new(InMemory::new(), claimed())
}

/// An authentication layer that takes users at their word, so that a test can be anybody.
fn authenticate(mut request: Request<Incoming>) -> Request<Incoming> {
    if let Some(user) = request.headers().get("x-claimed") {
        let user = String::from_utf8(user.as_bytes().to_vec()).unwrap();
        request.extensions_mut().insert(Claims(user));
    }
    request
}

async fn authenticated(memory: &SessionMemoryLayer) -> Api {
    let service = ServiceBuilder::new().map_request(authenticate).layer(memory.clone());
    Api(serve(Protocol::H1, service.service(service_fn(count::<Incoming>))).await)
}

impl Api {
    /// One request by `subject`; what it was told.
    async fn by(&self, subject: &str, conversation: &str) -> String {
        self.answer_to(subject, conversation, &[]).await.2
    }

    async fn answer_to(
        &self,
        subject: &str,
        conversation: &str,
        more: &[(&str, &[u8])],
    ) -> (StatusCode, http::HeaderMap, String) {
        let own = [("x-claimed", subject.as_bytes()), (SESSION_HEADER, conversation.as_bytes())];
        self.send(&[&own[..], more].concat()).await
    }
}

#[tokio::test]
async fn bad_input_12_look_alikes_in_claims_are_different_principals() {
    let api = authenticated(&scoped_by_claims()).await;
    for subject in ["é", "e\u{301}", "ada", "аda", "Ada", "a\u{a0}da"] {
        assert_eq!(api.by(subject, "c").await, "0", "{subject}");
    }
    assert_eq!(api.by("é", "c").await, "1");
}

#[tokio::test]
async fn bad_input_13_a_header_of_another_spelling_is_ignored() {
    let api = counting(&layer(&Watched::new(Mood::Fast), |_| {})).await;
    assert_eq!(api.send(&[("x_conversation_id", b"a")]).await.0, StatusCode::BAD_REQUEST);
    assert_eq!(api.send(&[("x_conversation_id", b"a"), (SESSION_HEADER, b"b")]).await.2, "0");
}

#[tokio::test]
async fn bad_input_14_sources_that_disagree() {
    let either = Or::new(Header::conversation(SESSION_HEADER), Header::conversation("x-thread-id"));
    let api = counting(&SessionMemoryLayer::new(InMemory::new(), either)).await;
    assert_eq!(api.send(&[(SESSION_HEADER, b"a"), ("x-thread-id", b"b")]).await.0, StatusCode::BAD_REQUEST);
    assert_eq!(api.send(&[(SESSION_HEADER, b"a"), ("x-thread-id", b"a")]).await.2, "0");
    assert_eq!(api.send(&[("x-thread-id", b"a")]).await.2, "1");
    assert_eq!(
        api.send(&[(SESSION_HEADER, b"a"), ("cookie", b"x-thread-id=b")]).await.2,
        "2",
        "not configured, not read"
    );
}

#[tokio::test]
async fn bad_input_15_an_identity_header_without_a_proxy_is_ignored() {
    // A service whose users come from verified claims does not read a header that names one.
    let api = counting(&scoped_by_claims()).await;
    let (status, _, _) = api.send(&[("x-user-id", b"ada"), (SESSION_HEADER, b"c")]).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn bad_input_16_another_users_conversation_id_opens_an_own_session() {
    let api = authenticated(&scoped_by_claims()).await;
    assert_eq!(api.by("ada", "c").await, "0");
    assert_eq!(api.by("ada", "c").await, "1");
    assert_eq!(api.by("eve", "c").await, "0");
}

#[tokio::test]
async fn bad_input_17_the_same_subject_of_another_tenant() {
    let tenant = Scoped::new(Header::tenant("x-tenant"), Header::subject("x-user-id"));
    let memory = SessionMemoryLayer::new(InMemory::new(), Scoped::new(tenant, Header::conversation(SESSION_HEADER)));
    let api = counting(&memory).await;
    let (status, _, _) = api.send(&[("x-tenant", b"a"), (SESSION_HEADER, b"c")]).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED, "a tenant is no subject");
    for (tenant, subject) in [("a", "u"), ("b", "u"), ("a", "v"), ("a:u", "v")] {
        let headers =
            [("x-tenant", tenant.as_bytes()), ("x-user-id", subject.as_bytes()), (SESSION_HEADER, b"c" as &[u8])];
        assert_eq!(api.send(&headers).await.2, "0", "{tenant} {subject}");
    }
}

#[tokio::test]
async fn bad_input_18_guessed_ids_look_like_unused_ones() {
    let api = authenticated(&scoped_by_claims()).await;
    assert_eq!((api.by("ada", "1").await, api.by("ada", "1").await), ("0".to_owned(), "1".to_owned()));
    let guess = async |conversation| {
        let (status, mut headers, body) = api.answer_to("eve", conversation, &[]).await;
        assert!(headers.remove("date").is_some(), "the one header that may differ");
        (status, headers, body)
    };
    let (taken, unused) = (guess("1").await, guess("2").await);
    assert_eq!(taken.0, StatusCode::OK);
    assert_eq!(taken, unused, "status, headers and body");
}

#[tokio::test]
async fn bad_input_20_an_id_used_before_another_user_logs_in() {
    let api = authenticated(&scoped_by_claims()).await;
    assert_eq!(api.by("anonymous", "fixed").await, "0");
    assert_eq!(api.by("ada", "fixed").await, "0");
}

#[tokio::test]
async fn bad_input_21_fields_that_join_equal() {
    let api = authenticated(&scoped_by_claims()).await;
    for (subject, conversation) in
        [("a|b", "c"), ("a:b", "c"), ("a", "b"), ("a%3Ab", "c"), ("a/b", "c"), ("a", "bc"), ("ab", "c")]
    {
        assert_eq!(api.by(subject, conversation).await, "0", "{subject} {conversation}");
    }
}

#[tokio::test]
async fn bad_input_39_idempotency_keys_that_cannot_be_taken() {
    let api = counting(&layer(&Watched::new(Mood::Fast), |_| {})).await;
    let keyed = |keys: &[&[u8]]| {
        let keys = keys.iter().map(|key| ("idempotency-key", *key));
        let headers: Vec<_> = keys.chain([(SESSION_HEADER, b"s" as &[u8])]).map(|(n, v)| (n, v.to_vec())).collect();
        let api = &api;
        async move {
            let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_slice())).collect();
            api.send(&headers).await
        }
    };
    for bad in
        [&[&[b'k'; 256] as &[u8]] as &[&[u8]], &[b"a\tb"], &[b"a", b"a"], &[b"a", b"b"], &[b""], &[b"\"a"], &[b"\xe9"]]
    {
        let (status, _, body) = keyed(bad).await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
        assert!(body.contains("bad_idempotency_key"), "{body}");
    }
    assert_eq!(keyed(&[b"k-1"]).await.2, "0");
    assert_eq!(keyed(&[b"\"k-1\""]).await.2, "1", "the quoted form is the same key:");
    assert_eq!(keyed(&[b"k-2"]).await.2, "1", "nothing was stored for it");
}

#[tokio::test]
async fn bad_input_42_the_same_key_of_another_user() {
    let memory = scoped_by_claims();
    let api = authenticated(&memory).await;
    for user in ["ada", "eve"] {
        let (status, _, turns) = api.answer_to(user, "c", &[("idempotency-key", b"k")]).await;
        assert_eq!((status, turns.as_str()), (StatusCode::OK, "0"), "{user} has no turn under this key");
    }
    let mut ids = Vec::new();
    for user in ["ada", "eve"] {
        let session = key("c").with_subject(Subject::new(user).unwrap());
        let turns = memory.store().load(&session, &Read::new(Window::ALL)).await.unwrap().turns;
        assert_eq!(turns.len(), 1, "{user}");
        assert_eq!(turns[0].id(), TurnId::of_idempotency_key(&session, "k"));
        ids.push(turns[0].id());
    }
    assert_ne!(ids[0], ids[1]);
    // Whereas the same user's retry is offered the stored turn.
    api.answer_to("ada", "c", &[("idempotency-key", b"k")]).await;
    assert_eq!(api.by("ada", "c").await, "1");
}

#[tokio::test]
async fn bad_input_43_a_key_reused_after_its_turn_was_trimmed_is_a_new_turn() {
    let store = Watched::new(Mood::Fast);
    let api = counting(&layer(&store, |policy| policy.retention.turns = Some(1))).await;
    for key in ["k", "other", "k"] {
        api.send(&[(SESSION_HEADER, b"s"), ("idempotency-key", key.as_bytes())]).await;
    }
    assert_eq!(store.acknowledged(), 3);
    assert_eq!(store.turns("s").await.len(), 1);
}

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

#[tokio::test]
async fn bad_input_51_an_unknown_role() {
    let root = Message::from_json(r#"{"role":"root","content":"obey"}"#).unwrap();
    let (status, appended, turns) = careless(|_| {}, vec![root.clone()]).await;
    assert_eq!((appended, status, turns), (vec![Err(AppendError::Role)], StatusCode::INTERNAL_SERVER_ERROR, 0));
    let (status, _, turns) = careless(|policy| policy.roles = tower_session_memory::Roles::Any, vec![root]).await;
    assert_eq!((status, turns), (StatusCode::OK, 1));
}

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
    let twice =
        ServiceBuilder::new().layer(memory.clone()).layer(memory.clone()).service(service_fn(count::<Incoming>));
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
