//! Metrics as documented, and a page that quotes the log as it is.

use std::collections::{BTreeMap, BTreeSet};

use metrics_util::debugging::{DebugValue, DebuggingRecorder};
use tower_session_memory::identity::Header;
use tower_session_memory::store::{Append, Appended, Deleted, Loaded, Page, PoolState, Read, SessionPage, StoreInfo};
use tower_session_memory::{Concurrency, InMemory, Policy, Scope, SessionKey, SessionMemoryLayer, Store, StoreError};

use crate::support::{CONVERSATION, Server, memory};
use crate::tokens::{scoped, verifier};

/// A store that says that it has a pool.
#[derive(Debug)]
struct Pooled(InMemory);

impl Store for Pooled {
    fn info(&self) -> StoreInfo {
        self.0.info()
    }

    fn pool(&self) -> Option<PoolState> {
        Some(PoolState::new(5, 3))
    }

    async fn load(&self, key: &SessionKey, read: &Read) -> Result<Loaded, StoreError> {
        self.0.load(key, read).await
    }

    async fn append(&self, key: &SessionKey, append: &Append) -> Result<Appended, StoreError> {
        self.0.append(key, append).await
    }

    async fn delete(&self, key: &SessionKey) -> Result<Deleted, StoreError> {
        self.0.delete(key).await
    }

    async fn list(&self, scope: &Scope, page: &Page) -> Result<SessionPage, StoreError> {
        self.0.list(scope, page).await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.0.ping().await
    }
}

#[tokio::test]
async fn metrics_count_what_happened_under_the_documented_names() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let _local = metrics::set_default_local_recorder(&recorder);

    let mut policy = Policy::default();
    policy.concurrency = Concurrency::Strict;
    let layer = memory(Header::conversation(CONVERSATION)).with_policy(policy).expect("it can be kept");
    let server = Server::start(layer).await;
    let send = async |key: &str| server.get("/", &[(CONVERSATION, "c"), ("idempotency-key", key)]).await.status;
    assert_eq!((send("one").await, send("two").await, send("two").await), (200, 200, 200));
    server.get("/", &[]).await.refused(400, "missing_conversation");
    let secured = Server::start(memory(scoped(verifier()))).await;
    secured.with_token("a.b.c").await.is_invalid_token();

    let pooled = SessionMemoryLayer::new(Pooled(InMemory::new()), Header::conversation(CONVERSATION));
    let pooled = Server::start(pooled).await;
    pooled.get("/?silent", &[(CONVERSATION, "c")]).await.turns();

    let mut counters = BTreeMap::new();
    let mut gauges = BTreeMap::new();
    let mut names = BTreeSet::new();
    for (key, _, _, value) in snapshotter.snapshot().into_vec() {
        let key = key.key();
        names.insert(key.name().to_owned());
        let labels: Vec<String> = key.labels().map(|label| format!("{}={}", label.key(), label.value())).collect();
        let name = format!("{} {}", key.name(), labels.join(","));
        match value {
            DebugValue::Counter(count) => drop(counters.insert(name, count)),
            DebugValue::Gauge(level) => drop(gauges.insert(name, level.0)),
            DebugValue::Histogram(values) => assert!(!values.is_empty(), "{name}"),
        }
    }
    let expected = [
        ("session_memory_commits_total store=memory,outcome=duplicate,status=complete", 1),
        ("session_memory_commits_total store=memory,outcome=stored,status=complete", 2),
        ("session_memory_loads_total store=memory,outcome=loaded", 4),
        ("session_memory_refused_total code=invalid_token", 1),
        ("session_memory_refused_total code=missing_conversation", 1),
        ("session_memory_replays_total store=memory", 1),
    ];
    let expected: BTreeMap<String, u64> = expected.map(|(name, count)| (name.to_owned(), count)).into();
    assert_eq!(counters, expected);
    let pool = |state: &str| gauges.get(&format!("session_memory_pool_connections store=memory,state={state}"));
    assert_eq!((pool("open"), pool("idle")), (Some(&5.0), Some(&3.0)));

    let page = include_str!("../../src/docs/metrics.md");
    for name in names {
        assert!(page.contains(&format!("| `{name}` |")), "{name} is not documented");
    }
    // And nothing is documented that the source does not count.
    let source = include_str!("../../src/diagnostics/metrics.rs");
    for row in page.lines().filter(|line| line.starts_with("| `session_memory")) {
        let name = row.split('`').nth(1).expect("a name");
        assert!(source.contains(&format!("\"{name}\"")), "{name} is not counted");
    }
}

/// The source as one line: messages are broken over lines there.
fn source() -> String {
    fn read(folder: &std::path::Path, into: &mut String) {
        for entry in std::fs::read_dir(folder).expect("the source is there") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                read(&path, into);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                into.push_str(&std::fs::read_to_string(path).expect("it can be read"));
            }
        }
    }
    let mut text = String::new();
    read(&std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut text);
    text.replace("\\\n", "").split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn the_page_quotes_the_log_as_it_is() {
    let (page, source) = (include_str!("../../src/docs/why-is-my-history-empty.md"), source());
    let mut quoted = 0;
    for (index, part) in page.split('`').enumerate() {
        // Code stands between back-ticks: the odd parts.
        let levels = ["ERROR ", "WARN ", "INFO ", "DEBUG "];
        let Some(message) = levels.iter().find_map(|level| part.strip_prefix(level)).filter(|_| index % 2 == 1) else {
            continue;
        };
        let message = message.split(" outcome=").next().expect("the message");
        let message = message.split(", and is given").next().expect("its beginning");
        assert!(source.contains(message), "the page quotes what the log never says: {message}");
        quoted += 1;
    }
    assert!(quoted >= 14, "{quoted} lines found");
}
