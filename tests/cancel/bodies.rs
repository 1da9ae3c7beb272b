//! Bodies polled as often as they must be, held, and broken off in time.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use tower::{Layer, Service, service_fn};
use tower_session_memory::identity::Header;
use tower_session_memory::{ChatSession, Message, OnDisconnect, Policy, ResponseBody, SessionMemoryLayer, TurnStatus};

use crate::around::Wrapped;
use crate::{Hesitant, Scripted, Step, layer, poll_at_most, request};

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

#[tokio::test(start_paused = true)]
async fn a_body_without_an_end_is_broken_off_at_its_deadline() {
    let store = Hesitant::default();
    let mut policy = Policy::default();
    policy.deadlines.body = Duration::from_secs(60);
    let memory = SessionMemoryLayer::new(Wrapped(store.clone()), Header::conversation("x-conversation-id"))
        .with_policy(policy)
        .unwrap();
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
