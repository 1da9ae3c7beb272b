//! Requests dropped at every point where they can be, and bodies polled as often as they must be.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full};
use tower::{Layer, Service, service_fn};
use tower_session_memory::identity::Header;
use tower_session_memory::store::{Append, Appended, Deleted, Loaded, Page, Read, SessionPage, StoreInfo};
use tower_session_memory::{
    ChatSession, ConversationId, InMemory, Message, OnDisconnect, Policy, ResponseBody, Scope, SessionKey,
    SessionMemoryLayer, Store, StoreError, TurnStatus, Window,
};

/// An in-memory store that takes a few polls for everything, before and after it has done it.
#[derive(Clone, Debug, Default)]
struct Hesitant(Arc<InMemory>);

const HESITATION: usize = 3;

async fn hesitate() {
    for _ in 0..HESITATION {
        tokio::task::yield_now().await;
    }
}

impl Store for Hesitant {
    fn info(&self) -> StoreInfo {
        self.0.info()
    }

    async fn load(&self, key: &SessionKey, read: &Read) -> Result<Loaded, StoreError> {
        hesitate().await;
        self.0.load(key, read).await
    }

    async fn append(&self, key: &SessionKey, append: &Append) -> Result<Appended, StoreError> {
        hesitate().await;
        let appended = self.0.append(key, append).await;
        hesitate().await;
        appended
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

impl Hesitant {
    async fn turns(&self) -> Vec<tower_session_memory::Turn> {
        let key = SessionKey::new(ConversationId::parse("s").unwrap());
        self.0.load(&key, &Read::new(Window::ALL)).await.unwrap().turns
    }
}

/// What a body does each time it is polled.
enum Step {
    Wait,
    Data(&'static str),
    Trailers,
}

/// A body that follows a script, counts its polls, and panics when it is polled after its end.
struct Scripted {
    steps: std::vec::IntoIter<Step>,
    says_when_it_ends: bool,
    over: bool,
    polls: Arc<AtomicUsize>,
    _session: Option<ChatSession>,
}

impl Body for Scripted {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        assert!(!self.over, "polled after its end");
        self.polls.fetch_add(1, Ordering::Relaxed);
        let frame = match self.steps.next() {
            Some(Step::Wait) => {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Some(Step::Data(text)) => Some(Frame::data(Bytes::from_static(text.as_bytes()))),
            Some(Step::Trailers) => {
                self.over = true;
                Some(Frame::trailers(HeaderMap::new()))
            }
            None => {
                self.over = true;
                None
            }
        };
        Poll::Ready(frame.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.says_when_it_ends && self.steps.as_slice().is_empty()
    }
}

fn layer(store: &Hesitant, on_disconnect: OnDisconnect) -> SessionMemoryLayer {
    let mut policy = Policy::default();
    policy.on_disconnect = on_disconnect;
    SessionMemoryLayer::new(store.clone(), Header::conversation("x-conversation-id")).with_policy(policy).unwrap()
}

fn request() -> Request<()> {
    Request::builder().header("x-conversation-id", "s").body(()).unwrap()
}

/// Polls a future at most `polls` times; what it gave, if it was ready by then.
async fn poll_at_most<F: Future>(polls: usize, future: F) -> Option<F::Output> {
    let mut future = Box::pin(future);
    for _ in 0..polls {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return Some(output);
        }
        // The producer's task and the store go on meanwhile.
        tokio::task::yield_now().await;
    }
    None
}

/// One request through a layer, cut after `polls` polls. `Some` when its end was seen.
async fn cut(polls: usize, memory: &SessionMemoryLayer, streamed: bool) -> Option<()> {
    let mut service = memory.layer(service_fn(move |request: Request<()>| async move {
        let session = request.extensions().get::<ChatSession>().unwrap().clone();
        drop(request);
        session.append(Message::user("question")).unwrap();
        hesitate().await;
        session.append(Message::assistant("answer")).unwrap();
        let steps = if streamed {
            vec![Step::Data("an"), Step::Wait, Step::Data("swer"), Step::Wait]
        } else {
            vec![Step::Data("answer")]
        };
        let _session = streamed.then_some(session);
        let body = Scripted {
            steps: steps.into_iter(),
            says_when_it_ends: !streamed,
            over: false,
            polls: Arc::default(),
            _session,
        };
        Ok::<_, Infallible>(Response::new(body))
    }));
    poll_at_most(polls, async move {
        let response = service.call(request()).await.unwrap();
        response.into_body().collect().await.unwrap();
    })
    .await
}

#[tokio::test]
async fn a_request_cut_after_any_number_of_polls_is_stored_whole_once_or_not_at_all() {
    for on_disconnect in [OnDisconnect::Keep, OnDisconnect::Discard, OnDisconnect::Finish] {
        for streamed in [false, true] {
            let mut ended = 0;
            for polls in 0..64 {
                let store = Hesitant::default();
                let memory = layer(&store, on_disconnect);
                let seen = cut(polls, &memory, streamed).await;
                memory.drain(Duration::from_secs(10)).await.unwrap();
                let turns = store.turns().await;
                let context = format!("{on_disconnect:?}, streamed: {streamed}, {polls} polls: {turns:?}");
                assert!(turns.len() <= 1, "{context}");
                if let Some(turn) = turns.first() {
                    let whole = turn.messages().len() == 2;
                    assert!(whole || turn.status() == TurnStatus::Interrupted, "{context}");
                }
                if seen.is_some() {
                    ended += 1;
                    assert!(turns.len() == 1 && turns[0].status() == TurnStatus::Complete, "{context}");
                }
                assert_eq!(memory.pending(), 0, "{context}");
            }
            assert!(ended > 0, "64 polls are enough to see the end");
        }
    }
}

#[tokio::test]
async fn a_commit_dropped_after_any_number_of_polls_goes_on() {
    for polls in 1..20 {
        let store = Hesitant::default();
        let memory = layer(&store, OnDisconnect::Discard);
        let mut service = memory.layer(service_fn(move |request: Request<()>| async move {
            let session = request.extensions().get::<ChatSession>().unwrap().clone();
            session.append(Message::user("question")).unwrap();
            // A handler that gives up waiting for its own commit, and then asks again.
            let first = poll_at_most(polls, session.commit()).await;
            let again = session.commit().await.unwrap();
            assert!(first.is_none_or(|first| first.unwrap() == again));
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::new())))
        }));
        service.call(request()).await.unwrap();
        assert_eq!(store.turns().await.len(), 1, "{polls} polls");
    }
}

/// Frames of a streamed body under the layer, with the number of polls that the inner body has
/// had when each comes out.
async fn frames(steps: Vec<Step>, says_when_it_ends: bool) -> (Vec<(String, usize)>, usize) {
    let store = Hesitant::default();
    let polls = Arc::new(AtomicUsize::new(0));
    let counted = polls.clone();
    let body = Arc::new(std::sync::Mutex::new(Some(steps)));
    let mut service = layer(&store, OnDisconnect::Keep).layer(service_fn(move |request: Request<()>| {
        let session = request.extensions().get::<ChatSession>().unwrap().clone();
        session.append(Message::user("question")).unwrap();
        let steps = body.lock().unwrap().take().unwrap().into_iter();
        let body = Scripted { steps, says_when_it_ends, over: false, polls: counted.clone(), _session: Some(session) };
        async { Ok::<_, Infallible>(Response::new(body)) }
    }));
    let mut body = Box::pin(service.call(request()).await.unwrap().into_body());
    let mut seen = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.unwrap();
        let text = frame.data_ref().map_or("trailers".to_owned(), |data| String::from_utf8(data.to_vec()).unwrap());
        seen.push((text, polls.load(Ordering::Relaxed)));
    }
    assert!(body.is_end_stream());
    assert_eq!(body.size_hint().exact(), Some(0));
    assert!(body.frame().await.is_none(), "still at its end when asked again");
    assert_eq!(store.turns().await.len(), 1);
    (seen, polls.load(Ordering::Relaxed))
}

fn seen(frames: &[(&str, usize)]) -> Vec<(String, usize)> {
    frames.iter().map(|(text, polls)| ((*text).to_owned(), *polls)).collect()
}

#[tokio::test]
async fn each_frame_costs_one_look_ahead_and_no_poll_after_the_end() {
    use Step::{Data, Trailers, Wait};
    // `None` ends it: each token comes out after one look past it.
    let (frames_seen, polls) = frames(vec![Data("a"), Wait, Data("b"), Wait], false).await;
    assert_eq!((frames_seen, polls), (seen(&[("a", 2), ("b", 4)]), 5));
    // The look-ahead finds data: it is kept, not polled for again.
    let (frames_seen, polls) = frames(vec![Data("a"), Data("b"), Data("c")], false).await;
    assert_eq!((frames_seen, polls), (seen(&[("a", 2), ("b", 3), ("c", 4)]), 4));
    // The body says when it is at its end: it is not asked any more.
    let (frames_seen, polls) = frames(vec![Data("a"), Wait, Data("b")], true).await;
    assert_eq!((frames_seen, polls), (seen(&[("a", 2), ("b", 3)]), 3));
    // Trailers are an end.
    let (frames_seen, polls) = frames(vec![Data("a"), Trailers], false).await;
    assert_eq!((frames_seen, polls), (seen(&[("a", 2), ("trailers", 2)]), 2));
}

/// The body under the layer of a handler whose response has these headers.
async fn body_of(store: &Hesitant, steps: Vec<Step>, headers: HeaderMap) -> ResponseBody<Scripted> {
    let given = std::sync::Mutex::new(Some((steps, headers)));
    let mut service = layer(store, OnDisconnect::Keep).layer(service_fn(|request: Request<()>| {
        let session = request.extensions().get::<ChatSession>().unwrap().clone();
        session.append(Message::user("question")).unwrap();
        let (steps, headers) = given.lock().unwrap().take().unwrap();
        let (steps, polls) = (steps.into_iter(), Arc::default());
        let body = Scripted { steps, says_when_it_ends: true, over: false, polls, _session: Some(session) };
        let mut response = Response::new(body);
        *response.headers_mut() = headers;
        async { Ok::<_, Infallible>(response) }
    }));
    service.call(request()).await.unwrap().into_body()
}

#[tokio::test]
async fn what_follows_the_last_promised_byte_is_held_with_it_and_goes_out_after_it() {
    use Step::{Data, Trailers, Wait};
    let headers = HeaderMap::from_iter([(http::header::CONTENT_LENGTH, http::HeaderValue::from_static("2"))]);
    for (last, expected) in [(Trailers, None), (Data("!"), Some("!"))] {
        let store = Hesitant::default();
        // Nothing but another poll tells that more comes: the body does not say that it is at its end.
        let mut body = Box::pin(body_of(&store, vec![Data("ok"), Wait, last, Wait], headers.clone()).await);
        let first = body.frame().await.unwrap().unwrap();
        assert_eq!(first.data_ref().unwrap(), "ok");
        assert_eq!(store.turns().await.len(), 1, "held until the turn is stored");
        assert!(!body.is_end_stream(), "there is more");
        let second = body.frame().await.expect("one more frame").unwrap();
        assert_eq!(second.data_ref().map(|data| &data[..]), expected.map(str::as_bytes));
        assert!(body.frame().await.is_none());
    }
}

#[tokio::test]
async fn a_body_that_holds_the_frame_it_peeked_at_is_not_at_its_end() {
    use Step::Data;
    let store = Hesitant::default();
    let mut body = Box::pin(body_of(&store, vec![Data("a"), Data("b")], HeaderMap::new()).await);
    assert_eq!(body.frame().await.unwrap().unwrap().data_ref().unwrap(), "a");
    // The inner body is at its end by now, and says so; its last frame was taken from it already.
    assert!(!body.is_end_stream());
    assert_eq!(body.size_hint().lower(), 1);
    assert!(store.turns().await.is_empty());
    assert_eq!(body.frame().await.unwrap().unwrap().data_ref().unwrap(), "b");
    assert_eq!(store.turns().await.len(), 1);
    assert!(body.is_end_stream());
}

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
async fn a_body_without_an_end_is_broken_off_at_its_deadline() {
    let store = Hesitant::default();
    let mut policy = Policy::default();
    policy.deadlines.body = Duration::from_secs(60);
    let memory =
        SessionMemoryLayer::new(store.clone(), Header::conversation("x-conversation-id")).with_policy(policy).unwrap();
    let mut service = memory.layer(service_fn(|request: Request<()>| {
        let session = request.extensions().get::<ChatSession>().unwrap().clone();
        session.append(Message::user("question")).unwrap();
        let stream = futures_util::stream::once(std::future::pending::<Result<Frame<Bytes>, Infallible>>());
        let body = http_body_util::StreamBody::new(Box::pin(stream));
        let mut response = Response::new(body);
        response.extensions_mut().insert(session);
        async { Ok::<_, Infallible>(response) }
    }));
    let begun = tokio::time::Instant::now();
    let (parts, body) = service.call(request()).await.unwrap().into_parts();
    let error = body.collect().await.unwrap_err();
    assert!(error.to_string().contains("deadline"), "{error}");
    assert_eq!(begun.elapsed().as_secs(), 60);
    // A handle is still out: the turn waits for it, but not for ever.
    memory.drain(Duration::from_secs(10)).await.unwrap();
    assert_eq!(store.turns().await[0].status(), TurnStatus::Interrupted);
    drop(parts);
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
    impl Store for Panicking {
        fn info(&self) -> StoreInfo {
            self.0.info()
        }
        async fn load(&self, key: &SessionKey, read: &Read) -> Result<Loaded, StoreError> {
            self.0.load(key, read).await
        }
        async fn append(&self, _: &SessionKey, _: &Append) -> Result<Appended, StoreError> {
            tokio::task::yield_now().await;
            panic!("a panic that the test asked for")
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
    let memory = SessionMemoryLayer::new(Panicking(Arc::default()), Header::conversation("x-conversation-id"));
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

/// The time of a body is over, and only then does it come to its end: its turn was sealed without
/// what came late, so the client must not see a whole response.
#[tokio::test(start_paused = true)]
async fn a_body_that_ends_after_its_deadline_is_broken_off_too() {
    use Step::{Data, Wait};
    for (promised, on_disconnect) in [None, Some(8)]
        .into_iter()
        .flat_map(|promised| [OnDisconnect::Keep, OnDisconnect::Discard].map(|o| (promised, o)))
    {
        let store = Hesitant::default();
        let handle = Arc::new(std::sync::Mutex::new(None::<ChatSession>));
        let keep = handle.clone();
        let mut service = layer(&store, on_disconnect).layer(service_fn(move |request: Request<()>| {
            let session = request.extensions().get::<ChatSession>().unwrap().clone();
            session.append(Message::user("question")).unwrap();
            *keep.lock().unwrap() = Some(session);
            let steps = vec![Data("an"), Wait, Data("swered"), Wait].into_iter();
            let body = Scripted { steps, says_when_it_ends: false, over: false, polls: Arc::default(), _session: None };
            let response = Response::builder();
            let response = match promised {
                Some(bytes) => response.header("content-length", bytes),
                None => response,
            };
            async { Ok::<_, Infallible>(response.body(body).unwrap()) }
        }));
        let mut body = Box::pin(service.call(request()).await.unwrap().into_body());
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "an");
        if promised.is_none() {
            assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "swered");
        } else {
            assert!(poll_at_most(1, body.frame()).await.is_none(), "the last promised frame is held");
        }
        // The client reads nothing for longer than the deadline and the grace.
        tokio::time::sleep(Duration::from_secs(2 * 3600)).await;
        let session = handle.lock().unwrap().take().unwrap();
        assert!(session.append(Message::assistant("answered")).is_err());
        drop(session);
        let last = body.frame().await;
        assert!(matches!(last, Some(Err(_))), "a turn without its answer looked whole: {promised:?} {last:?}");
    }
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
        let memory = SessionMemoryLayer::new(store.clone(), Header::conversation("x-conversation-id"));
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
    let memory =
        SessionMemoryLayer::new(store.clone(), Header::conversation("x-conversation-id")).with_policy(policy).unwrap();
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
