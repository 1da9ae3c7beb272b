//! Split brain: what a master acknowledged after its successor was chosen is lost, and told.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::routing::post;
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};
use tokio::sync::Notify;
use tokio::task::block_in_place;
use tower::ServiceExt;
use tower_session_memory::identity::Header;
use tower_session_memory::store::{Cached, RedisStore, Resilient};
use tower_session_memory::{ChatSession, Message, SessionMemoryLayer};

use crate::common::servers::{RedisServer, eventually};
use crate::common::topologies::Trio;
use crate::logs::Logs;

const CANARY: &str = "canary-4711";

/// Commits that ended like this since the last look.
fn commits(snapshotter: &Snapshotter, outcome: &str) -> u64 {
    counted(snapshotter, "session_memory_commits_total", outcome)
}

fn loads(snapshotter: &Snapshotter, outcome: &str) -> u64 {
    counted(snapshotter, "session_memory_loads_total", outcome)
}

fn counted(snapshotter: &Snapshotter, counter: &str, outcome: &str) -> u64 {
    let counted = snapshotter.snapshot().into_vec().into_iter().filter_map(|(key, _, _, value)| {
        let key = key.key();
        let label = |name, value| key.labels().any(|label| label.key() == name && label.value() == value);
        let ours = key.name() == counter && label("store", "redis") && label("outcome", outcome);
        match value {
            DebugValue::Counter(count) if ours => Some(count),
            _ => None,
        }
    });
    counted.sum()
}

fn turns_on(server: &RedisServer) -> i64 {
    // The first header is of no turn; each turn has a record, its id and a header.
    let key = server.ask::<Vec<String>>("KEYS tsm:{*").pop().expect("one session");
    (server.ask::<i64>(&format!("LLEN {key}")) - 1) / 3
}

/// Answers with how many turns it has seen; one that is told to think waits for its time first.
async fn chat(State(think): State<Arc<Think>>, session: ChatSession, message: String) -> String {
    if message == "think" {
        think.loaded.notify_one();
        think.over.notified().await;
    }
    session.append(Message::user(message)).expect("it is small");
    session.history().turns().len().to_string()
}

#[derive(Default)]
struct Think {
    loaded: Notify,
    over: Notify,
}

async fn send(app: &Router, message: &'static str) -> (StatusCode, String) {
    let request = Request::post("/chat").header("x-chat", CANARY).body(Body::from(message)).unwrap();
    let response = app.clone().oneshot(request).await.unwrap();
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn turns_that_only_the_old_master_acknowledged_are_reported_at_the_next_append() {
    let trio = block_in_place(Trio::start);
    let (recorder, log, think) = (DebuggingRecorder::new(), Logs::capture(), Arc::<Think>::default());
    let snapshotter = recorder.snapshotter();
    let _metrics = metrics::set_default_local_recorder(&recorder);
    let store = RedisStore::connect(&trio.url()).await.unwrap();
    let memory = SessionMemoryLayer::new(Resilient::new(Cached::new(store, 1 << 20)), Header::conversation("x-chat"));
    let app = Router::new().route("/chat", post(chat)).layer(memory).with_state(think.clone());
    assert_eq!(send(&app, "one").await, (StatusCode::OK, "0".into()));

    // The master stands still, and the Sentinels choose another. Then it goes on, and does not know.
    let old = trio.master();
    block_in_place(|| {
        eventually("the replicas have it", || trio.servers.iter().all(|one| turns_on(one) == 1).then_some(()));
        old.signal("STOP");
        trio.wait_for_another_than(old);
        old.signal("CONT");
    });
    let new = trio.master();
    assert_eq!(send(&app, "two").await, (StatusCode::OK, "1".into()), "by a connection to the old master");
    assert_eq!((turns_on(old), turns_on(new)), (2, 1));
    let thinking = async {
        let told = send(&app, "think").await;
        (told, turns_on(new))
    };
    let demotion = async {
        think.loaded.notified().await;
        block_in_place(|| trio.wait_for_replica(old));
        think.over.notify_one();
    };
    let (((status, problem), stored), ()) = tokio::join!(thinking, demotion);
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{problem}");
    assert!(problem.contains("store_rolled_back"), "{problem}");
    assert_eq!(stored, 1, "nothing was stored on top of the gap");
    assert_eq!(commits(&snapshotter, "rolled_back"), 1);
    let log = log.text();
    for said in ["redis lost turns that it had acknowledged", "turn not committed outcome=\"rolled_back\""] {
        assert!(log.lines().any(|line| line.contains("ERROR") && line.contains(said)), "{said} is not in {log}");
    }
    assert!(!log.contains(CANARY), "{log}");

    assert_eq!(send(&app, "three").await, (StatusCode::OK, "1".into()), "the next request sees what there is");
    assert_eq!(turns_on(new), 2);
}

/// Nobody was between a load and its append when it happened: a pod that has a copy tells all the same.
#[tokio::test]
async fn lost_turns_are_reported_at_the_next_load_by_a_pod_that_had_seen_them() {
    let server = RedisServer::start();
    let (recorder, log) = (DebuggingRecorder::new(), Logs::capture());
    let snapshotter = recorder.snapshotter();
    let _metrics = metrics::set_default_local_recorder(&recorder);
    let store = RedisStore::connect(&server.url()).await.unwrap();
    let memory = SessionMemoryLayer::new(Cached::new(store, 1 << 20), Header::conversation("x-chat"));
    let app = Router::new().route("/chat", post(chat)).layer(memory).with_state(Arc::default());
    for (number, message) in ["one", "two", "three"].into_iter().enumerate() {
        assert_eq!(send(&app, message).await, (StatusCode::OK, number.to_string()));
    }
    let key = server.ask::<Vec<String>>("KEYS tsm:{*").pop().expect("one session");
    server.ask::<()>(&format!("LTRIM {key} 0 -4"));
    assert_eq!(send(&app, "again").await, (StatusCode::OK, "2".into()), "it goes on with what there is");
    assert_eq!(send(&app, "again").await, (StatusCode::OK, "3".into()));
    assert_eq!(loads(&snapshotter, "rolled_back"), 1);
    let log = log.text();
    let told = |line: &&str| line.contains("ERROR") && line.contains("lost turns that this process had seen");
    assert_eq!(log.lines().filter(told).count(), 1, "{log}");
    assert!(!log.contains(CANARY), "{log}");

    // Deleted, begun again: nothing of that is a loss.
    server.ask::<i64>(&format!("DEL {key}"));
    assert_eq!(send(&app, "new").await, (StatusCode::OK, "0".into()));
    assert_eq!(loads(&snapshotter, "rolled_back"), 0, "none since");
}
