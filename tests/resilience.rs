//! [`Resilient`] in front of a store whose network fails as told.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use tokio::time::Instant;
use tower::{Layer, ServiceExt, service_fn};
use tower_session_memory::identity::Header;
use tower_session_memory::store::{
    Append, Appended, Deleted, ErrorKind, Loaded, Operation, Page, Read, Resilient, ResilientOptions, SessionPage,
    Store, StoreError, StoreInfo,
};
use tower_session_memory::{
    ChatSession, ConversationId, Head, InMemory, Message, Scope, SessionKey, SessionMemoryLayer, Turn, TurnId,
    TurnStatus, Window,
};

#[path = "common/logs.rs"]
#[allow(dead_code, unreachable_pub, reason = "this test binary uses its own part")]
mod logs;

use logs::Logs;

/// What becomes of a call on the way to the store.
#[derive(Clone, Copy, Debug)]
enum Fate {
    /// It arrives, and so does its answer.
    Arrives,
    /// It never arrives.
    NotSent,
    /// It arrives, and its answer does not.
    AnswerLost,
    /// It does not arrive, and nobody knows.
    Vanishes,
    /// The store refuses it for want of room.
    Full,
}

/// The real store behind a network.
#[derive(Debug, Clone)]
struct Distant {
    store: Arc<InMemory>,
    /// For the next calls, the last one first; then everything arrives.
    fates: Arc<Mutex<Vec<Fate>>>,
    calls: Arc<AtomicU64>,
    /// When each came.
    at: Arc<Mutex<Vec<Instant>>>,
    /// How long each takes.
    takes: Duration,
}

impl Distant {
    fn new(mut fates: Vec<Fate>) -> Self {
        fates.reverse();
        Self {
            store: Arc::default(),
            fates: Arc::new(Mutex::new(fates)),
            calls: Arc::default(),
            at: Arc::default(),
            takes: Duration::ZERO,
        }
    }

    fn taking(self, takes: Duration) -> Self {
        Self { takes, ..self }
    }

    fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    async fn carry<T>(
        &self,
        what: Operation,
        call: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.at.lock().unwrap().push(Instant::now());
        tokio::time::sleep(self.takes).await;
        let fate = self.fates.lock().unwrap().pop().unwrap_or(Fate::Arrives);
        let failed = |kind| Err(StoreError::new(kind, "distant", what));
        match fate {
            Fate::Arrives => call.await,
            Fate::NotSent => failed(ErrorKind::Unavailable),
            Fate::AnswerLost => {
                call.await?;
                failed(ErrorKind::Ambiguous)
            }
            Fate::Vanishes => failed(ErrorKind::Ambiguous),
            Fate::Full => failed(ErrorKind::Full),
        }
    }
}

impl Store for Distant {
    fn info(&self) -> StoreInfo {
        self.store.info()
    }

    async fn load(&self, key: &SessionKey, read: &Read) -> Result<Loaded, StoreError> {
        self.carry(Operation::Load, self.store.load(key, read)).await
    }

    async fn append(&self, key: &SessionKey, append: &Append) -> Result<Appended, StoreError> {
        self.carry(Operation::Append, self.store.append(key, append)).await
    }

    async fn delete(&self, key: &SessionKey) -> Result<Deleted, StoreError> {
        self.carry(Operation::Delete, self.store.delete(key)).await
    }

    async fn list(&self, scope: &Scope, page: &Page) -> Result<SessionPage, StoreError> {
        self.carry(Operation::List, self.store.list(scope, page)).await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.carry(Operation::Ping, self.store.ping()).await
    }
}

fn key() -> SessionKey {
    SessionKey::new(ConversationId::random())
}

fn turn() -> Turn {
    Turn::new(TurnId::random(), TurnStatus::Complete, vec![Message::user("hello")])
}

fn options() -> ResilientOptions {
    let mut options = ResilientOptions::default();
    options.breaker_failures = 4;
    options
}

#[tokio::test(start_paused = true)]
async fn an_append_is_tried_until_it_is_answered_and_stored_once() {
    use Fate::{AnswerLost, Arrives, NotSent};
    for fates in [
        vec![NotSent, Arrives],
        vec![AnswerLost, Arrives],
        vec![AnswerLost, NotSent, AnswerLost, AnswerLost, Arrives],
        vec![NotSent; 8],
    ] {
        let (distant, key) = (Distant::new(fates.clone()), key());
        let store = Resilient::with_options(distant.clone(), options());
        let appended = store.append(&key, &Append::new(turn(), Head::ABSENT)).await.unwrap();
        assert_eq!(appended.sequence, 1, "{fates:?}");
        let stored = distant.store.load(&key, &Read::new(Window::ALL)).await.unwrap();
        assert_eq!(stored.turns.len(), 1, "{fates:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_attempt_whose_answer_was_lost_stays_ambiguous_unless_the_store_decides() {
    use Fate::{AnswerLost, Full, NotSent};
    let append = async |fates| {
        let store = Resilient::with_options(Distant::new(fates), options());
        store.append(&key(), &Append::new(turn(), Head::ABSENT)).await.map_err(|error| error.kind())
    };
    assert_eq!(append(vec![Full]).await, Err(ErrorKind::Full));
    assert_eq!(append(vec![NotSent, Full]).await, Err(ErrorKind::Full));
    assert_eq!(append(vec![AnswerLost, Full]).await, Err(ErrorKind::Ambiguous));
    // A verdict is one for all attempts: the store looks for the turn's id first.
    let store = Resilient::with_options(Distant::new(vec![Fate::Vanishes]), options());
    let gone = store.append(&key(), &Append::new(turn(), Head::new(7, 1))).await;
    assert_eq!(gone.unwrap_err().kind(), ErrorKind::Gone);
    // Never an answer: given up when the patience ends.
    assert_eq!(append(vec![NotSent; 1000]).await, Err(ErrorKind::Unavailable));
    let mut one_lost = vec![NotSent; 1000];
    one_lost[1] = AnswerLost;
    assert_eq!(append(one_lost).await, Err(ErrorKind::Ambiguous));
}

#[tokio::test(start_paused = true)]
async fn patience_ends() {
    let store = Resilient::with_options(Distant::new(vec![Fate::NotSent; 1000]), options());
    let began = Instant::now();
    store.append(&key(), &Append::new(turn(), Head::ABSENT)).await.unwrap_err();
    let took = began.elapsed();
    assert!((Duration::from_secs(8)..Duration::from_secs(10)).contains(&took), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_definite_answer_is_not_asked_for_again() {
    let distant = Distant::new(vec![]);
    let (store, key) = (Resilient::with_options(distant.clone(), options()), key());
    let gone = store.append(&key, &Append::new(turn(), Head::new(7, 1))).await.unwrap_err();
    assert_eq!((gone.kind(), distant.calls()), (ErrorKind::Gone, 1));
}

#[tokio::test(start_paused = true)]
async fn a_load_is_tried_a_few_times() {
    let distant = Distant::new(vec![Fate::NotSent; 2]);
    let store = Resilient::with_options(distant.clone(), options());
    store.load(&key(), &Read::new(Window::ALL)).await.unwrap();
    assert_eq!(distant.calls(), 3);
}

#[tokio::test(start_paused = true)]
async fn while_the_store_is_away_loads_fail_at_once_and_one_at_a_time_tries() {
    let distant = Distant::new(vec![Fate::NotSent; 1000]);
    let (store, key) = (Resilient::with_options(distant.clone(), options()), key());
    let load = async || store.load(&key, &Read::new(Window::ALL)).await.map_err(|error| error.kind());
    for _ in 0..2 {
        assert_eq!(load().await, Err(ErrorKind::Unavailable));
    }
    assert!(store.is_open());
    let (calls, began) = (distant.calls(), Instant::now());
    for _ in 0..100 {
        assert_eq!(load().await, Err(ErrorKind::Unavailable));
    }
    assert_eq!(distant.calls(), calls, "nobody asked the store");
    assert_eq!(began.elapsed(), Duration::ZERO, "nobody waited");

    tokio::time::advance(Duration::from_millis(500)).await;
    for _ in 0..100 {
        let _ = load().await;
    }
    assert_eq!(distant.calls(), calls + 1, "one tried");

    distant.fates.lock().unwrap().clear();
    tokio::time::advance(Duration::from_millis(500)).await;
    load().await.unwrap();
    assert!(!store.is_open());
}

#[tokio::test(start_paused = true)]
async fn a_store_that_hangs_is_away_however_little_patience_its_callers_have() {
    let distant = Distant::new(vec![]).taking(Duration::from_secs(3600));
    let store = Resilient::with_options(distant.clone(), options());
    let (key, read) = (key(), Read::new(Window::ALL));
    let load = async |patience| tokio::time::timeout(patience, store.load(&key, &read)).await;
    for _ in 0..100 {
        load(Duration::from_millis(900)).await.unwrap_err();
    }
    assert!(!store.is_open(), "callers that leave say nothing of the store");
    for _ in 0..4 {
        load(Duration::from_secs(2)).await.unwrap_err();
    }
    assert!(store.is_open());
    let refused = load(Duration::ZERO).await.expect("at once").unwrap_err();
    assert!(refused.kind() == ErrorKind::Unavailable && refused.is_reported());
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_slow_is_not_away() {
    let logs = Logs::capture();
    let (mut impatient, slow) = (options(), Distant::new(vec![]).taking(Duration::from_secs(3)));
    impatient.breaker_failures = 1;
    let store = Resilient::with_options(slow, impatient);
    store.load(&key(), &Read::new(Window::ALL)).await.unwrap();
    assert_eq!(logs.count("the store is away"), 0, "{}", logs.text());
}

/// The pauses between attempts, as the store sees them.
async fn pauses() -> Vec<Duration> {
    let distant = Distant::new(vec![Fate::NotSent; 6]);
    let store = Resilient::with_options(distant.clone(), options());
    store.append(&key(), &Append::new(turn(), Head::ABSENT)).await.unwrap();
    let at = distant.at.lock().unwrap();
    at.windows(2).map(|pair| pair[1] - pair[0]).collect()
}

#[tokio::test(start_paused = true)]
async fn pauses_grow_and_are_not_the_same_for_all() {
    let (one, other) = (pauses().await, pauses().await);
    assert_ne!(one, other, "pods that were cut off together would come back together");
    for pauses in [one, other] {
        for (number, pause) in pauses.iter().enumerate() {
            let middle = Duration::from_millis(500).min(Duration::from_millis(20) * (1 << number));
            assert!((middle / 2..=middle * 3 / 2).contains(pause), "{pauses:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn of_many_at_once_exactly_one_asks_whether_the_store_is_back() {
    let distant = Distant::new(vec![Fate::NotSent; 4]).taking(Duration::from_millis(100));
    let store = Arc::new(Resilient::with_options(distant.clone(), options()));
    let load = |store: Arc<Resilient<Distant>>| async move { store.load(&key(), &Read::new(Window::ALL)).await };
    while !store.is_open() {
        let _ = load(store.clone()).await;
    }
    let before = distant.calls();
    tokio::time::advance(Duration::from_millis(500)).await;
    let mut all = tokio::task::JoinSet::new();
    for _ in 0..100 {
        all.spawn(load(store.clone()));
    }
    let mut answered = 0;
    while let Some(loaded) = all.join_next().await {
        answered += usize::from(loaded.unwrap().is_ok());
    }
    assert_eq!((distant.calls() - before, answered), (1, 1), "the others are told at once");
    load(store.clone()).await.unwrap();
    assert!(!store.is_open());
}

#[tokio::test(start_paused = true)]
async fn writes_that_nobody_confirms_do_not_keep_loads_away() {
    let store = Resilient::with_options(Distant::new(vec![Fate::AnswerLost; 1000]), options());
    let unknown = store.append(&key(), &Append::new(turn(), Head::ABSENT)).await.unwrap_err();
    assert_eq!(unknown.kind(), ErrorKind::Ambiguous);
    assert!(!store.is_open());
}

#[tokio::test(start_paused = true)]
async fn retries_of_loads_are_a_small_part_of_the_load() {
    let mut calls = 0;
    // Each first attempt fails, and the store is never away long enough for the breaker.
    let distant = Distant::new((0..2_000).map(|n| if n % 2 == 0 { Fate::NotSent } else { Fate::Arrives }).collect());
    let (store, key) = (Resilient::with_options(distant.clone(), options()), key());
    for _ in 0..1_000 {
        let _ = store.load(&key, &Read::new(Window::ALL)).await;
        calls += 1;
    }
    let retries = distant.calls() - calls;
    assert!(retries < 500, "{retries} retries of {calls} calls");
}

#[tokio::test(start_paused = true)]
async fn an_accepted_turn_does_not_wait_for_the_breaker() {
    let distant = Distant::new(vec![Fate::NotSent; 6]);
    let (store, key) = (Resilient::with_options(distant.clone(), options()), key());
    for _ in 0..2 {
        let _ = store.load(&key, &Read::new(Window::ALL)).await;
    }
    assert!(store.is_open());
    store.append(&key, &Append::new(turn(), Head::ABSENT)).await.unwrap();
    assert!(!store.is_open(), "its answer closed the breaker");
}

async fn chat(request: Request<Full<Bytes>>) -> Result<Response<Full<Bytes>>, Infallible> {
    let session = request.extensions().get::<ChatSession>().expect("the layer is there");
    session.append(Message::user("hello")).expect("a short message");
    Ok(Response::new(Full::from("hello")))
}

/// Stores one turn; what the client is told.
async fn ask(memory: &SessionMemoryLayer) -> StatusCode {
    let request = Request::get("/").header("x-chat", "c").body(Full::default()).unwrap();
    memory.layer(service_fn(chat)).oneshot(request).await.unwrap().status()
}

/// Lines with both of these in them.
fn lines(logs: &Logs, level: &str, said: &str) -> usize {
    logs.text().lines().filter(|line| line.contains(level) && line.contains(said)).count()
}

#[tokio::test(start_paused = true)]
async fn an_outage_is_a_few_lines_in_the_log_however_many_requests_it_refuses() {
    let logs = Logs::capture();
    let distant = Distant::new(vec![Fate::NotSent; 1000]);
    let store = Resilient::with_options(distant.clone(), options());
    let memory = SessionMemoryLayer::new(store, Header::conversation("x-chat"));
    for _ in 0..200 {
        assert_eq!(ask(&memory).await, StatusCode::SERVICE_UNAVAILABLE);
    }
    logs.line(&["ERROR", "the store is away", "failures=4", "distant load: the store is not available"]);
    // The breaker did not know yet when the first one failed.
    let refused = ["ERROR", "DEBUG"].map(|level| lines(&logs, level, "history not loaded"));
    assert_eq!((lines(&logs, "ERROR", ""), refused), (2, [1, 199]), "{}", logs.text());

    // Not quite a minute, in which two calls a second try.
    for _ in 0..119 {
        tokio::time::advance(Duration::from_millis(500)).await;
        assert_eq!(ask(&memory).await, StatusCode::SERVICE_UNAVAILABLE);
    }
    logs.line(&["ERROR", "the store is still away", "refused=198", "distant load: the store is not available"]);
    assert_eq!(lines(&logs, "ERROR", ""), 3, "those that tried are no news: {}", logs.text());

    distant.fates.lock().unwrap().clear();
    tokio::time::advance(Duration::from_millis(500)).await;
    assert_eq!(ask(&memory).await, StatusCode::OK);
    logs.line(&["WARN", "the store is back", "refused=198"]);
    assert_eq!(lines(&logs, "ERROR", ""), 3, "{}", logs.text());
}

#[tokio::test(start_paused = true)]
async fn a_turn_that_is_lost_in_a_known_outage_is_an_error_all_the_same() {
    let logs = Logs::capture();
    let fates = [vec![Fate::Arrives], vec![Fate::NotSent; 1000]].concat();
    let store = Resilient::with_options(Distant::new(fates), options());
    let memory = SessionMemoryLayer::new(store, Header::conversation("x-chat"));
    assert_eq!(ask(&memory).await, StatusCode::SERVICE_UNAVAILABLE);
    logs.line(&["ERROR", "the store is away"]);
    logs.line(&["ERROR", "turn not committed", "outcome=\"unavailable\""]);
}

mod conformance {
    use tower_session_memory::store::conformance::Instances;

    use super::*;

    async fn instances() -> Instances {
        let distant = Distant::new(vec![]);
        Instances::new(Resilient::new(distant.clone())).and(Resilient::new(distant))
    }

    tower_session_memory::conformance_tests!(instances);
}
