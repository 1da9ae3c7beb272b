//! Every way a response can end × every mood of the store, on real sockets: what the store holds at
//! the moment the client sees the end, and that no token waits for anything.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::sync::{mpsc, watch};
use tower::{Layer, service_fn};
use tower_session_memory::{ChatSession, Message, TurnStatus};

use crate::support::{
    BoxError, Client, Mood, Protocol, SESSION_HEADER, Watched, empty, layer, patient, request, serve, until,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// One buffer, no writer left.
    Full,
    /// One buffer, and the body itself still holds the session.
    FullHeld,
    /// The last token and the end come in one breath.
    Chunked,
    /// The end comes later than the last token.
    LateEnd,
    /// The handler promised the length in a header; the reply is appended after the last byte.
    ContentLength,
    /// The same, and the producer is silent for a while after the last byte.
    LengthThenSilence,
    /// The body knows its size and never says that it is at its end.
    ExactSize,
    /// The same, and the producer is silent for a while after the last byte.
    SizeThenSilence,
    Trailers,
    /// At its end from the start.
    Empty,
    /// Nothing in it, but it does not say so until asked.
    EmptyUnsaid,
    Head,
    NoContent,
    /// Commits before its own terminator, then pauses before the end.
    Sse,
    /// The service fails.
    InnerError,
    ServerError,
    /// The body fails half-way.
    BodyError,
}

const TOKENS: [&str; 3] = ["one ", "two ", "three"];

impl Ending {
    fn commits(self) -> bool {
        !matches!(self, Self::InnerError | Self::ServerError | Self::BodyError)
    }

    /// Whether a failed commit can still be told as 503.
    fn commits_before_head(self) -> bool {
        matches!(self, Self::Full | Self::Empty | Self::EmptyUnsaid | Self::Head | Self::NoContent)
    }

    /// How many tokens the producer sends in lockstep: each only after the client has the one before.
    fn lockstep(self) -> usize {
        match self {
            Self::LateEnd | Self::Trailers | Self::Sse => 3,
            Self::Chunked | Self::ContentLength | Self::LengthThenSilence | Self::ExactSize | Self::SizeThenSilence => {
                2
            }
            _ => 0,
        }
    }
}

/// A body fed by a producer task.
struct Fed {
    frames: mpsc::UnboundedReceiver<Result<Frame<Bytes>, BoxError>>,
    size: Option<u64>,
    ended: bool,
    _session: Option<ChatSession>,
}

impl Body for Fed {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let polled = self.frames.poll_recv(cx);
        if let (Some(size), Poll::Ready(Some(Ok(frame)))) = (self.size.as_mut(), &polled) {
            *size -= frame.data_ref().map_or(0, Bytes::len) as u64;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }

    fn size_hint(&self) -> SizeHint {
        self.size.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// Bytes of tokens that the client has.
type Received = Arc<watch::Sender<usize>>;

fn data(token: &str) -> Result<Frame<Bytes>, BoxError> {
    Ok(Frame::data(Bytes::copy_from_slice(token.as_bytes())))
}

async fn answer(ending: Ending, received: Received, request: Request<Incoming>) -> Result<Response<Fed>, BoxError> {
    let session = request.extensions().get::<ChatSession>().expect("the layer is there").clone();
    drop(request);
    session.append(Message::user("question"))?;
    let (sender, frames) = mpsc::unbounded_channel();
    let total = TOKENS.concat().len() as u64;
    let mut fed = Fed { frames, size: None, ended: false, _session: None };
    let mut response = Response::builder();
    match ending {
        Ending::InnerError => return Err("the handler failed".into()),
        Ending::ServerError => response = response.status(StatusCode::INTERNAL_SERVER_ERROR),
        Ending::NoContent => response = response.status(StatusCode::NO_CONTENT),
        Ending::ContentLength | Ending::LengthThenSilence => response = response.header("content-length", total),
        Ending::ExactSize | Ending::SizeThenSilence => fed.size = Some(total),
        Ending::Full | Ending::FullHeld => fed.size = Some(total),
        Ending::Empty => (fed.size, fed.ended) = (Some(0), true),
        Ending::EmptyUnsaid => fed.size = Some(0),
        _ => {}
    }
    match ending {
        Ending::Full | Ending::FullHeld => {
            session.append(Message::assistant(TOKENS.concat()))?;
            sender.send(data(&TOKENS.concat())).expect("the body is there");
            fed._session = (ending == Ending::FullHeld).then_some(session);
        }
        Ending::Empty | Ending::EmptyUnsaid | Ending::Head | Ending::NoContent | Ending::ServerError => {
            session.append(Message::assistant(TOKENS.concat()))?;
        }
        _ => {
            tokio::spawn(produce(ending, session, sender, received));
        }
    }
    Ok(response.body(fed)?)
}

async fn produce(
    ending: Ending,
    session: ChatSession,
    frames: mpsc::UnboundedSender<Result<Frame<Bytes>, BoxError>>,
    received: Received,
) {
    let mut received = received.subscribe();
    let mut sent = 0;
    for (index, token) in TOKENS.iter().enumerate() {
        if ending == Ending::Chunked && index == 2 {
            // The last token and the end must be there in one poll.
            session.append(Message::assistant(TOKENS.concat())).expect("open");
        }
        sent += token.len();
        let _ = frames.send(data(token));
        if index < ending.lockstep() && received.wait_for(|bytes| *bytes >= sent).await.is_err() {
            return;
        }
    }
    if matches!(ending, Ending::LengthThenSilence | Ending::SizeThenSilence) {
        // The last byte is there and polled for; the reply is not yet appended.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    match ending {
        Ending::Chunked => {}
        Ending::BodyError => {
            let _ = frames.send(Err("the producer failed".into()));
        }
        _ => session.append(Message::assistant(TOKENS.concat())).expect("the turn is open until the body ends"),
    }
    match ending {
        Ending::Trailers => drop(frames.send(Ok(Frame::trailers(HeaderMap::from_iter([(
            http::HeaderName::from_static("x-sum"),
            http::HeaderValue::from_static("6"),
        )]))))),
        Ending::Sse if session.commit().await.is_ok() => {
            let _ = frames.send(data("[DONE]"));
            // The client leaves at the terminator; a server must not need it to wait for the end.
            let _ = received.wait_for(|bytes| *bytes == usize::MAX).await;
        }
        _ => {}
    }
}

/// What the client saw, and what the store held just then.
#[derive(Debug)]
struct Seen {
    /// `None` when there was no response at all.
    status: Option<StatusCode>,
    text: String,
    whole: bool,
    stored_at_end: usize,
}

async fn watch_response(
    client: &mut Client,
    request: Request<http_body_util::Full<Bytes>>,
    store: &Watched,
    received: &Received,
) -> Seen {
    let seen = |status, text, whole| Seen { status, text, whole, stored_at_end: store.acknowledged() };
    let response = match client.send(request).await {
        Ok(response) => response,
        Err(_) => return seen(None, String::new(), false),
    };
    let status = Some(response.status());
    let mut text = String::new();
    let mut body = response.into_body();
    loop {
        match body.frame().await {
            None => return seen(status, text, true),
            Some(Err(_)) => return seen(status, text, false),
            Some(Ok(frame)) => {
                let Some(data) = frame.data_ref() else { continue };
                text.push_str(std::str::from_utf8(data).expect("text"));
                if text.ends_with("[DONE]") {
                    // An event stream's client leaves here.
                    received.send_replace(usize::MAX);
                    return seen(status, text, true);
                }
                received.send_replace(text.len());
            }
        }
    }
}

async fn check(protocol: Protocol, ending: Ending, mood: Mood) {
    let store = Watched::new(mood);
    let received: Received = Arc::new(watch::Sender::new(0));
    let for_handler = received.clone();
    let handler = service_fn(move |request| answer(ending, for_handler.clone(), request));
    let memory = layer(&store, |_| {});
    let address = serve(protocol, memory.layer(handler)).await;
    let mut client = Client::connect(protocol, address).await;
    let method = if ending == Ending::Head { "HEAD" } else { "POST" };
    let request = request(protocol, method, address).header(SESSION_HEADER, "s").body(empty()).expect("a request");

    let seen = {
        let watching = watch_response(&mut client, request, &store, &received);
        let mut watching = std::pin::pin!(watching);
        if mood.waits() && ending.commits() {
            // While the store does not answer, the client must not see the end, and must have
            // every token that is not the last frame.
            tokio::select! {
                seen = &mut watching => panic!("the end was seen before the store had the turn: {seen:?}"),
                () = until("the append", async || store.entered() > 0) => {}
            }
            let early = tokio::time::timeout(Duration::from_millis(30), &mut watching).await;
            assert!(early.is_err(), "the end was seen before the store had the turn: {early:?}");
            let in_lockstep: usize = TOKENS[..ending.lockstep()].iter().map(|token| token.len()).sum();
            assert_eq!(*received.borrow(), in_lockstep, "a token waited for the commit");
        }
        store.release();
        patient("the response", watching).await
    };

    let body = match ending {
        Ending::Empty | Ending::EmptyUnsaid | Ending::Head | Ending::NoContent | Ending::ServerError => String::new(),
        Ending::Sse => TOKENS.concat() + "[DONE]",
        _ => TOKENS.concat(),
    };
    let turns = store.turns("s").await;
    match (ending.commits(), mood.fails()) {
        (true, false) => {
            assert!(seen.whole && seen.text == body, "{seen:?}");
            assert_eq!(seen.stored_at_end, 1, "the end was seen before the store had the turn");
            assert_eq!(turns.len(), 1);
            assert_eq!(turns[0].status(), TurnStatus::Complete);
            assert_eq!(turns[0].messages(), [Message::user("question"), Message::assistant(TOKENS.concat())]);
        }
        (true, true) => {
            assert!(turns.is_empty());
            if ending.commits_before_head() {
                assert_eq!(seen.status, Some(StatusCode::SERVICE_UNAVAILABLE));
            } else {
                let told = seen.whole && (ending != Ending::Sse || seen.text.contains("[DONE]"));
                assert!(!told, "a lost turn looked like a stored one: {seen:?}");
            }
        }
        (false, fails) => {
            if ending == Ending::BodyError {
                assert!(!seen.whole, "{seen:?}");
                if !fails {
                    until("the interrupted turn", async || !store.turns("s").await.is_empty()).await;
                    let turn = &store.turns("s").await[0];
                    assert_eq!((turn.status(), turn.messages().len()), (TurnStatus::Interrupted, 1));
                }
            } else {
                assert_eq!(seen.status.is_some(), ending == Ending::ServerError, "{seen:?}");
                assert!(turns.is_empty() && store.entered() == 0);
            }
        }
    }
}

/// One test for each cell, so that a failure names it.
macro_rules! matrix {
    ($($name:ident: $ending:ident,)+) => {$(
        mod $name {
            use super::*;
            matrix!(@cells $ending:
                h1_fast H1 Fast, h1_slow H1 Slow, h1_failing H1 Failing, h1_failing_late H1 FailingLate,
                h2_fast H2 Fast, h2_slow H2 Slow, h2_failing H2 Failing, h2_failing_late H2 FailingLate,);
        }
    )+};
    (@cells $ending:ident: $($name:ident $protocol:ident $mood:ident,)+) => {$(
        #[tokio::test]
        async fn $name() {
            check(Protocol::$protocol, Ending::$ending, Mood::$mood).await;
        }
    )+};
}

matrix! {
    full: Full,
    full_held: FullHeld,
    chunked: Chunked,
    late_end: LateEnd,
    content_length: ContentLength,
    length_then_silence: LengthThenSilence,
    exact_size: ExactSize,
    size_then_silence: SizeThenSilence,
    trailers: Trailers,
    empty: Empty,
    empty_unsaid: EmptyUnsaid,
    head: Head,
    no_content: NoContent,
    sse: Sse,
    inner_error: InnerError,
    server_error: ServerError,
    body_error: BodyError,
}
