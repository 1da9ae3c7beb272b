//! Canaries in everything public that holds texts, ids or secrets: no `Debug` shows them. What holds
//! identities and keys is in `tests/identity/redaction.rs`.

use std::fmt::{Debug, Write};
use std::time::SystemTime;

use bytes::Bytes;
use serde_json::value::RawValue;
use tower_session_memory::llm::{
    Ask, CallId, Envelope, Event, LlmMemoryLayer, OpenAiChat, Recall, Replay, Replayed, Reply, RequestBody, Tools,
};
use tower_session_memory::store::{Append, Appended, Cursor, Loaded, Page, Read, SessionEntry, SessionPage};
use tower_session_memory::{
    ChatHistory, Committed, ConversationId, Head, Message, Role, Scope, SessionKey, Subject, Tenant, ToolCall, Turn,
    TurnId, TurnStatus, Window,
};

const CANARY: &str = "canary";

/// Each `Debug` that was looked at, on one line and on many.
#[derive(Default)]
struct Shown(String);

impl Shown {
    fn show(&mut self, value: impl Debug) {
        let mut shown = String::new();
        write!(shown, "{value:?}\n{value:#?}\n").expect("a String takes it");
        let folded = shown.to_lowercase().split_whitespace().collect::<Vec<_>>().join(" ");
        // As text, and as the numbers of its bytes.
        for form in [CANARY, "99, 97, 110"] {
            assert!(!folded.contains(form), "{shown}");
        }
        self.0 += &shown;
    }
}

fn raw(text: &str) -> Box<RawValue> {
    RawValue::from_string(format!(r#"{{"{text}":"{text}"}}"#)).expect("JSON")
}

fn message() -> Message {
    let json = r#"{"role":"canary","content":[{"type":"text","text":"canary"}],"tool_call_id":"canary"}"#;
    Message::from_json(json).expect("a message")
}

fn key() -> SessionKey {
    SessionKey::from_parts(
        Some(Tenant::new(CANARY).expect("a tenant")),
        Some(Subject::new(CANARY).expect("a subject")),
        ConversationId::parse(CANARY).expect("an id"),
    )
}

fn turn() -> Turn {
    let id = TurnId::of_idempotency_key(&key(), CANARY);
    Turn::new(id, TurnStatus::Complete, vec![message()]).with_note(Some(&raw(CANARY)))
}

#[test]
fn no_debug_shows_what_was_said_or_who_said_it() {
    let mut all = Shown::default();
    for content in ["null", r#""canary""#, r#"[{"canary":1}]"#, r#"{"canary":1}"#] {
        let message = Message::from_json(format!(r#"{{"role":"user","content":{content}}}"#)).expect("a message");
        all.show(message.content());
        all.show(message);
    }
    all.show(Role::from(CANARY));
    all.show(ToolCall::new(CANARY, CANARY, r#"{"canary":1}"#));
    all.show(Message::from_json(r#"{"role":canary}"#).expect_err("no JSON"));
    all.show(turn());
    all.show(Turn::from_record(&key(), "canary").expect_err("no record"));

    let head = Head::new(1, 1);
    all.show(ChatHistory::new(head, vec![turn()], false));
    all.show(Committed::Duplicate { head, turn: turn() });
    all.show(Read::new(Window::ALL).known(head).find(turn().id()));
    all.show(Loaded::new(head, vec![turn()], false).found(Some(turn())));
    all.show(Append::new(turn(), head));
    all.show(Appended::duplicate(head, 1, turn()));
    all.show(Scope::of(&key()));
    let cursor = || Some(Cursor(CANARY.into()));
    all.show(Page::first(5).after(cursor()));
    let entry = SessionEntry::new(key(), head, SystemTime::UNIX_EPOCH);
    all.show(&entry);
    all.show(SessionPage::new(vec![entry], cursor()));

    for shape in ["Text { bytes: 6 }", "Parts { parts: 1 }", "arguments: 12", "sessions: [SessionEntry {"] {
        assert!(all.0.contains(shape), "{shape}: {}", all.0);
    }
}

#[test]
fn no_debug_of_the_wire_formats_shows_what_was_said() {
    let mut all = Shown::default();
    let mut event = Event::default();
    (event.name, event.data) = (CANARY.into(), CANARY.into());
    all.show(event);
    let call = CallId::new(CANARY, CANARY);
    let mut tools = Tools::none();
    (tools.calls, tools.results) = (vec![call.clone()], vec![call]);
    all.show(tools);
    let mut ask = Ask::default();
    ask.follows = Some(CANARY.into());
    all.show(ask);
    all.show([Recall::Fetch { id: CANARY.into(), stream: None }, Recall::Delete { id: CANARY.into() }]);
    let element = || Bytes::from(message().json().to_owned());
    let mut reply = Reply::new(vec![element()], true);
    (reply.id, reply.head) = (Some(CANARY.into()), Some(raw(CANARY)));
    all.show(reply);
    all.show(Replay::new(vec![element()], Some(&raw(CANARY))));
    all.show([Replayed::json(CANARY), Replayed::sse(CANARY), Replayed::lines(CANARY)]);
    let body = || Bytes::from(r#"{"messages":[{"role":"user","content":"canary"}]}"#);
    all.show(Envelope::read(body()).expect("an object"));
    let history = ChatHistory::new(Head::new(1, 1), vec![turn()], false);
    let spliced: RequestBody<String> =
        tower_session_memory::llm::splice(&OpenAiChat, &Default::default(), &history, body()).expect("a request");
    all.show(spliced);
    all.show(LlmMemoryLayer::new());
    for shape in ["Event { name: 6, data: 6 }", "CallId { id: 6, name: 6 }", "Replayed { content_type: "] {
        assert!(all.0.contains(shape), "{shape}: {}", all.0);
    }
}

#[cfg(feature = "redis")]
#[tokio::test]
async fn no_debug_of_redis_shows_a_secret() {
    use tower_session_memory::store::{RedisStore, RedisTls};
    let mut all = Shown::default();
    let url = "redis://canary:canary@canary.example.org:1/0";
    all.show(RedisStore::builder(url).prefix(CANARY).sentinel_login(Some(CANARY), CANARY));
    all.show(RedisStore::connect("redis://canary:canary@127.0.0.1:1/0").await.expect_err("nobody listens there"));
    all.show(RedisStore::connect("canary://canary:canary@canary").await.expect_err("no URL of Redis"));
    all.show(RedisTls::with_ca(b"canary").expect_err("no certificate"));
    let authority = rcgen::generate_simple_self_signed(["canary".to_owned()]).expect("a certificate");
    let pem = authority.cert.pem();
    let tls = RedisTls::with_ca(pem.as_bytes()).expect("an authority");
    let tls = tls.identity(pem.as_bytes(), authority.signing_key.serialize_pem().as_bytes()).expect("an identity");
    all.show(tls);
    assert!(all.0.contains("RedisTls { authorities: 1, identity: true }"), "{}", all.0);
}

#[cfg(feature = "postgres")]
#[tokio::test]
async fn no_debug_of_postgres_shows_a_secret() {
    use tower_session_memory::store::postgres::{AuditTrail, PostgresOptions};
    let mut all = Shown::default();
    all.show(AuditTrail::new("canary canary canary canary canary"));
    let options = PostgresOptions::new("postgres://canary:canary@127.0.0.1:1/canary?sslmode=disable");
    let options = options.expect("a connection string").audit(AuditTrail::new(CANARY));
    all.show(&options);
    all.show(options.connect().await.expect_err("nobody listens there"));
    all.show(PostgresOptions::new("canary://canary:canary@canary").expect_err("no connection string"));
}

#[cfg(feature = "dynamodb")]
#[test]
fn no_debug_of_dynamodb_shows_a_secret() {
    use tower_session_memory::store::{DynamoDbOptions, dynamodb::Purged};
    let mut all = Shown::default();
    all.show(DynamoDbOptions::new("chat").endpoint("http://canary:canary@127.0.0.1:1"));
    let mut purged = Purged::default();
    purged.next = Some(Cursor(CANARY.into()));
    all.show(purged);
}
