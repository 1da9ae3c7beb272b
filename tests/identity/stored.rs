//! Canaries in an SQLite file, on every way in which it can fail: none comes out.

use rusqlite::Connection;
use tower_session_memory::identity::{Header, Scoped};
use tower_session_memory::store::SqliteOptions;
use tower_session_memory::{Diagnostics, SessionMemoryLayer, SqliteStore};

use crate::counted::Counted;
use crate::redaction::assert_silent;
use crate::support::{CONVERSATION, Logs, Server};

/// What is done to the file, and how the next request is answered, with which words in the log.
const HARM: &[(&str, u16, &[&str])] = &[
    ("UPDATE turn SET record = replace(record, 'question', 'question!')", 500, &["history not loaded", "unreadable"]),
    ("UPDATE turn SET record = '{\"v\":2,' || substr(record, 8)", 500, &["history not loaded", "version 2"]),
    ("UPDATE turn SET record = 'canary'", 500, &["history not loaded", "unreadable"]),
    ("UPDATE turn SET record = CAST(x'63616e617279ff' AS TEXT)", 500, &["history not loaded"]),
    (
        "CREATE TRIGGER fail BEFORE INSERT ON turn BEGIN SELECT RAISE(ABORT, NEW.record); END",
        500,
        &["turn not committed"],
    ),
    ("CREATE UNIQUE INDEX one ON turn (status)", 500, &["turn not committed"]),
    ("ALTER TABLE turn RENAME TO canary", 500, &["history not loaded"]),
];

#[tokio::test]
async fn canaries_stay_inside_a_file() {
    let (logs, counted) = (Logs::capture(), Counted::begin());
    let mut diagnostics = Diagnostics::default();
    diagnostics.headers = true;
    let (mut heads, mut shown) = (String::new(), String::new());
    for (harm, status, words) in HARM.iter().chain([&("", 507, &["turn not committed", "full"][..])]) {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("chat.db");
        let mut options = SqliteOptions::new(&path);
        options.max_bytes = harm.is_empty().then_some(128 << 10);
        let store = SqliteStore::with_options(options).await.expect("it can be made");
        let identity = Scoped::new(Header::subject("x-user-id"), Header::conversation(CONVERSATION));
        let memory = SessionMemoryLayer::new(store.clone(), identity).with_diagnostics(diagnostics);
        let server = Server::start(memory.clone()).await;
        let mut asked = 0;
        let mut ask = async || {
            asked += 1;
            let key = format!("canary-{asked}");
            let question = "canary question ".repeat(400);
            let headers = [("x-user-id", "canary-user"), (CONVERSATION, "canary-id"), ("idempotency-key", &key)];
            let answer = server.get("/", &[&headers[..], &[("x-question", &*question)]].concat()).await;
            // The test's own handler names the key in its body, as an application may.
            let told = if answer.status == 200 { answer.raw.split("\r\n\r\n").next() } else { None };
            heads.push_str(told.unwrap_or(&answer.raw));
            answer.status
        };
        let logged = |words: &[&str]| logs.text().lines().filter(|line| words.iter().all(|w| line.contains(w))).count();
        let before = logged(words);
        if harm.is_empty() {
            let mut last = 200;
            while last == 200 {
                last = ask().await;
            }
            assert_eq!(last, *status);
        } else {
            assert_eq!(ask().await, 200);
            Connection::open(&path).expect("it is there").execute_batch(harm).expect(harm);
            assert_eq!(ask().await, *status, "{harm}");
        }
        assert_eq!(logged(words), before + 1, "{harm}");
        shown += &format!("{store:?} {memory:?}");
    }
    assert_silent("Debug", &shown);
    assert_silent("a head or a problem", &heads);
    assert_silent("a log line", &logs.text());
    assert_silent("a metric", &format!("{:?}", counted.all()));
}
