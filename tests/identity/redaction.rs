//! Canaries in every id, claim, token, secret and message, through every path: none comes out in a log
//! line, a metric, a header or a `Debug` that was not asked to carry it.

use std::fmt::Write;

use metrics_util::debugging::DebuggingRecorder;
use serde_json::json;
use tower_session_memory::identity::{
    Algorithm, Cookie, Header, Identify, Jwt, JwtKeys, Or, Path, Query, Scoped, Secrets, Signed,
};
use tower_session_memory::store::ErrorKind;
use tower_session_memory::{
    Concurrency, ConversationId, Diagnostics, InMemory, OnDisconnect, OnUnknown, SessionMemoryLayer, Subject, Tenant,
};

use crate::around::Wrapped;
use crate::support::{CONVERSATION, Logs, PATIENCE, Server, memory, minting, until};
use crate::tokens::{claims_with, encode, signed, token, verifier};

const CANARY: &str = "canary";
const SECRET: [u8; 38] = *b"canary secret of thirty-two bytes more";

/// Every way in which this file lets canaries out would be found.
pub(crate) fn assert_silent(what: &str, text: &str) {
    let folded = text.to_lowercase();
    for form in [CANARY, &encode(CANARY), "63616e617279", "y2fuyxj5"] {
        let form = form.to_lowercase();
        if let Some(at) = folded.find(&form) {
            let from = (at.saturating_sub(200)..=at).find(|i| folded.is_char_boundary(*i)).unwrap_or(0);
            panic!("{what} has a canary near: {}", &folded[from..(at + form.len())]);
        }
    }
}

/// A chat with everything in it that identity knows.
fn everything() -> SessionMemoryLayer {
    let secrets = Secrets::new(SECRET).expect("long enough");
    let conversation = Or::new(
        Or::new(Cookie::signed("chat", &secrets), Query::conversation("conversation")),
        Or::new(Path::conversation("/c/{id}").expect("a template"), Header::conversation(CONVERSATION)),
    );
    let identity = Scoped::new(verifier().tenant_claim("org").build().expect("whole"), conversation);
    let mut policy = minting("set-cookie");
    policy.concurrency = Concurrency::Strict;
    policy.on_disconnect = OnDisconnect::Keep;
    let mut diagnostics = Diagnostics::default();
    diagnostics.headers = true;
    diagnostics.stretch = 2;
    memory(identity).with_policy(policy).expect("it can be kept").with_diagnostics(diagnostics)
}

fn canary_claims() -> serde_json::Value {
    let mut claims = claims_with("sub", json!("canary-sub"));
    claims["org"] = json!("canary-org");
    claims["email"] = json!("canary@example.org");
    claims
}

#[tokio::test]
async fn canaries_stay_inside() {
    let logs = Logs::capture();
    let recorder = DebuggingRecorder::new();
    let metrics = recorder.snapshotter();
    let _local = metrics::set_default_local_recorder(&recorder);

    let memory = everything();
    let mut shown = format!("{memory:?}");
    let server = Server::start(memory.clone()).await;
    let bearer = format!("Bearer {}", token(&canary_claims()));
    let good: [(&str, &str); 3] =
        [("authorization", &bearer), ("x-question", "canary-question"), ("idempotency-key", "canary-key")];
    let mut heads = String::new();
    let mut seen = Vec::new();
    let targets = ["/c/canary-path", "/?conversation=canary-query", "/?conversation=canary-query", "/"];
    for target in targets.into_iter().chain([
        "/c/canary-path?fail",
        "/c/canary-path?silent",
        "/c/canary%20",
        "/?conversation=canary,",
    ]) {
        let answer = server.get(target, &good).await;
        seen.push(answer.status);
        let (head, _) = answer.raw.split_once("\r\n\r\n").expect("a head");
        heads.push_str(head);
    }
    // Replays, conflicts of sources, broken and foreign tokens, forged cookies, odd keys.
    let foreign =
        format!("Bearer {}", signed(&SECRET, r#"{"alg":"HS256","kid":"canary"}"#, &canary_claims().to_string()));
    let mut expired = canary_claims();
    expired["exp"] = json!(1);
    let mut elsewhere = canary_claims();
    elsewhere["iss"] = json!("https://canary.example.org");
    elsewhere["aud"] = json!("canary");
    let tokens = [
        foreign,
        format!("Bearer {}", token(&expired)),
        format!("Bearer {}", token(&elsewhere)),
        format!("Bearer {}", token(&claims_with("org", json!(["canary"])))),
        "Bearer canary.canary.canary".to_owned(),
        "Bearer canary canary".to_owned(),
        "Canary canary".to_owned(),
    ];
    for bearer in &tokens {
        let answer = server.get("/c/canary-path", &[("authorization", bearer)]).await;
        seen.push(answer.status);
        heads.push_str(&answer.raw);
    }
    let odd: [&[(&str, &str)]; 6] = [
        &[("authorization", &bearer), ("cookie", "chat=canary")],
        &[("authorization", &bearer), ("cookie", "chat=canary; chat=canary")],
        &[("authorization", &bearer), (CONVERSATION, "canary-header")],
        &[("authorization", &bearer), (CONVERSATION, "canary{header}")],
        &[("authorization", &bearer), ("idempotency-key", "\"canary")],
        &[("authorization", &bearer), ("idempotency-key", "canary"), ("idempotency-key", "canary")],
    ];
    for headers in odd {
        let answer = server.get("/c/canary-path", headers).await;
        seen.push(answer.status);
        let head =
            if answer.status == 200 { answer.raw.split_once("\r\n\r\n").expect("a head").0 } else { &answer.raw };
        heads.push_str(head);
    }
    assert_eq!(
        seen,
        [200, 200, 200, 200, 500, 200, 400, 400, 401, 401, 401, 401, 401, 401, 401, 200, 400, 400, 400, 400, 400],
        "every path was walked"
    );

    // A store that fails, conversations that must exist, ids that must be issued.
    let kinds = [
        ErrorKind::Unavailable,
        ErrorKind::Ambiguous,
        ErrorKind::Conflict,
        ErrorKind::Gone,
        ErrorKind::RolledBack,
        ErrorKind::Corrupt,
        ErrorKind::NewerVersion,
        ErrorKind::TooLarge,
        ErrorKind::Full,
        ErrorKind::Misconfigured,
        ErrorKind::Other,
    ];
    for kind in kinds {
        let store = failing::Failing::new(kind);
        let server = Server::start(SessionMemoryLayer::new(store, Header::conversation(CONVERSATION))).await;
        let headers = [(CONVERSATION, "canary-id"), ("x-question", "canary-question")];
        for target in ["/?silent", "/"] {
            heads.push_str(&server.get(target, &headers).await.raw);
        }
    }
    let mut policy = minting(CONVERSATION);
    policy.on_unknown = OnUnknown::Refuse;
    let strict = Signed::new(&Secrets::new(SECRET).expect("long enough"), Header::conversation(CONVERSATION));
    let server = Server::start(self::memory_of(strict, policy)).await;
    heads.push_str(&server.get("/", &[(CONVERSATION, "canary-id")]).await.raw);
    memory.drain(PATIENCE).await.expect("nothing hangs");

    // A client that leaves while its turn is being stored, and a shutdown that does not wait for it.
    let store = failing::Slow::default();
    let memory = SessionMemoryLayer::new(Wrapped(store.clone()), Header::conversation(CONVERSATION));
    let server = Server::start(memory.clone()).await;
    let headers = [(CONVERSATION, "canary-id"), ("x-question", "canary-question")];
    tokio::select! {
        _ = server.get("/", &headers) => panic!("the store has not answered"),
        () = store.entered() => {}
    }
    until("the turn is handed over", async || memory.pending() == 1).await;
    memory.drain(std::time::Duration::from_millis(1)).await.expect_err("the store has not answered");
    logs.line(&["ERROR", "turn not settled when the drain deadline came"]);
    store.answer();
    memory.drain(PATIENCE).await.expect("it is stored");

    shown += &debugs();
    assert_silent("Debug", &shown);
    assert_silent("a head or a problem", &heads);
    assert_silent("a log line", &logs.text());
    let metrics = format!("{:?}", metrics.snapshot().into_vec());
    assert!(metrics.contains("session_memory_loads_total"), "{metrics}");
    assert_silent("a metric", &metrics);
    assert!(
        logs.text().contains("session_commit") && logs.text().contains("gen_ai.conversation.id"),
        "spans were captured"
    );
}

fn memory_of(identity: impl Identify, policy: tower_session_memory::Policy) -> SessionMemoryLayer {
    SessionMemoryLayer::new(InMemory::new(), identity).with_policy(policy).expect("it can be kept")
}

/// `Debug` of everything that could hold a secret or an id.
fn debugs() -> String {
    let secrets = Secrets::new(SECRET).expect("long enough");
    let jwt = || Jwt::builder(JwtKeys::secret(SECRET)).issuer("i").audience("a").algorithm(Algorithm::HS256);
    let mut shown = String::new();
    let mut show = |value: &dyn std::fmt::Debug| write!(shown, "{value:?}\n{value:#?}\n").expect("a String takes it");
    show(&secrets);
    show(&Cookie::signed("chat", &secrets));
    show(&Cookie::private("chat", &secrets));
    show(&Signed::new(&secrets, Header::conversation(CONVERSATION)));
    show(&JwtKeys::secret(SECRET));
    show(&JwtKeys::jwks(json!({ "keys": [{ "kty": "oct", "k": encode(SECRET), "kid": "canary" }] }).to_string()));
    show(&jwt());
    show(&jwt().build().expect("whole"));
    let set = json!({ "keys": [{ "kty": "oct", "k": encode(SECRET), "kid": "canary" }] }).to_string();
    let jwks = Jwt::builder(JwtKeys::jwks(set)).issuer("i").audience("a").algorithm(Algorithm::HS256);
    show(&jwks.build().expect("whole"));
    let mut identity = tower_session_memory::Identity::none();
    identity.tenant = Some(Tenant::new("canary").expect("a tenant"));
    identity.subject = Some(Subject::new("canary").expect("a subject"));
    identity.conversation = Some(ConversationId::parse("canary").expect("an id"));
    show(&identity);
    show(&identity.into_key());
    shown
}

#[tokio::test]
async fn the_plain_conversation_id_is_in_spans_only_when_asked_for() {
    for plain in [false, true] {
        let logs = Logs::capture();
        let mut diagnostics = Diagnostics::default();
        diagnostics.plain_conversation_id = plain;
        let layer = memory(Header::conversation(CONVERSATION)).with_diagnostics(diagnostics);
        Server::start(layer).await.get("/", &[(CONVERSATION, "canary-id")]).await.turns();
        assert_eq!(logs.text().contains("gen_ai.conversation.id=canary-id"), plain);
        for span in ["session_load", "session_commit"] {
            logs.line(&[span, "gen_ai.conversation.id"]);
        }
    }
}

mod failing {
    //! Stores that fail in one way, or take their time.

    use std::sync::Arc;

    use tokio::sync::Semaphore;

    use tower_session_memory::store::{
        Append, Appended, Deleted, ErrorKind, Loaded, Operation, Page, Read, SessionPage, StoreInfo,
    };
    use tower_session_memory::{InMemory, Scope, SessionKey, Store, StoreError};

    use crate::around::Around;

    /// Says that an append has begun, and waits to be told that it may end.
    #[derive(Debug, Clone)]
    pub(super) struct Slow {
        store: Arc<InMemory>,
        entered: Arc<Semaphore>,
        gate: Arc<Semaphore>,
    }

    impl Default for Slow {
        fn default() -> Self {
            let closed = || Arc::new(Semaphore::new(0));
            Self { store: Arc::default(), entered: closed(), gate: closed() }
        }
    }

    impl Slow {
        pub(super) async fn entered(&self) {
            self.entered.acquire().await.expect("it is never closed").forget();
        }

        pub(super) fn answer(&self) {
            self.gate.add_permits(1);
        }
    }

    impl Around for Slow {
        type Inside = InMemory;

        fn inside(&self) -> &InMemory {
            &self.store
        }

        async fn append(&self, key: &SessionKey, append: &Append) -> Result<Appended, StoreError> {
            self.entered.add_permits(1);
            self.gate.acquire().await.expect("it is never closed").forget();
            self.store.append(key, append).await
        }
    }

    #[derive(Debug)]
    pub(super) struct Failing {
        kind: ErrorKind,
        loads: std::sync::atomic::AtomicUsize,
    }

    impl Failing {
        pub(super) fn new(kind: ErrorKind) -> Self {
            Self { kind, loads: Default::default() }
        }
    }

    impl Store for Failing {
        fn info(&self) -> StoreInfo {
            InMemory::new().info()
        }

        /// The first load fails, the others find nothing.
        async fn load(&self, _: &SessionKey, _: &Read) -> Result<Loaded, StoreError> {
            match self.loads.fetch_add(1, std::sync::atomic::Ordering::SeqCst) {
                0 => Err(StoreError::new(self.kind, "failing", Operation::Load)),
                _ => Ok(Loaded::absent()),
            }
        }

        async fn append(&self, _: &SessionKey, _: &Append) -> Result<Appended, StoreError> {
            Err(StoreError::new(self.kind, "failing", Operation::Append))
        }

        async fn delete(&self, _: &SessionKey) -> Result<Deleted, StoreError> {
            Err(StoreError::new(self.kind, "failing", Operation::Delete))
        }

        async fn list(&self, _: &Scope, _: &Page) -> Result<SessionPage, StoreError> {
            Err(StoreError::new(self.kind, "failing", Operation::List))
        }

        async fn ping(&self) -> Result<(), StoreError> {
            Err(StoreError::new(self.kind, "failing", Operation::Ping))
        }
    }
}
