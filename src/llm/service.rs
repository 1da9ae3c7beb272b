//! The service: reads the request, splices the history in, calls on, records the reply.

use std::fmt;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Request, Response, header};
use http_body::{Body, Frame};
use serde::de::IgnoredAny;
use sha2::{Digest, Sha256};
use tower_service::Service;

use super::BoxError;
use super::body::{RequestBody, Spliced};
use super::decode::Decoder;
use super::envelope::Envelope;
use super::layer::{OnMalformed, Settings};
use super::note::Note;
use super::plan::{Plan, find_reply, plan};
use super::problem::Refusal;
use super::protocol::{Protocol, Recall, Replay};
use super::recorder::Recorder;
use super::reply::ReplyBody;
use super::sse::Framing;
use crate::{AppendError, ChatSession, Turn, TurnStatus};

/// The service that [`LlmMemoryLayer`](super::LlmMemoryLayer) makes of yours.
#[derive(Clone)]
pub struct LlmMemory<S> {
    inner: S,
    settings: Arc<Settings>,
}

impl<S> LlmMemory<S> {
    pub(super) fn new(inner: S, settings: Arc<Settings>) -> Self {
        Self { inner, settings }
    }

    /// The inner service.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// Takes the inner service out.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

/// A response on its way, with the session's share of it.
type ResponseFuture<B, E> = Pin<Box<dyn Future<Output = Result<Response<ReplyBody<B>>, E>> + Send>>;

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for LlmMemory<S>
where
    S: Service<Request<RequestBody<ReqBody>>, Response = Response<ResBody>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send,
    ReqBody: Body<Data = Bytes> + Send + 'static,
    ReqBody::Error: Into<BoxError>,
    ResBody: Body<Data = Bytes> + Send + 'static,
    ResBody::Error: Into<BoxError>,
{
    type Response = Response<ReplyBody<ResBody>>;
    type Error = S::Error;
    type Future = ResponseFuture<ResBody, S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<ReqBody>) -> Self::Future {
        // The clone is not ready: the service that was polled must be the one that is called.
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        let (mut parts, body) = request.into_parts();
        if let Some(response) = recall(&self.settings, &parts) {
            return Box::pin(std::future::ready(Ok(whole(response))));
        }
        let (Some(protocol), Some(session)) =
            (self.settings.protocol(&parts), parts.extensions.get::<ChatSession>().cloned())
        else {
            let response = inner.call(Request::from_parts(parts, RequestBody::given(body)));
            return Box::pin(async move { Ok(response.await?.map(ReplyBody::plain)) });
        };
        // The turn is this layer's to write: a session left here would look like one more writer.
        parts.extensions.remove::<ChatSession>();
        let settings = self.settings.clone();
        Box::pin(async move {
            let asked = match ask(&settings, protocol, session, &mut parts, body).await {
                Ok(asked) => asked,
                Err(refusal) => {
                    tracing::info!(outcome = refusal.code(), "request refused");
                    return Ok(whole(refusal.into_response()));
                }
            };
            match asked {
                Asked::Replay(response) => Ok(whole(response)),
                Asked::Untouched(body) => {
                    Ok(inner.call(Request::from_parts(parts, RequestBody::made(body))).await?.map(ReplyBody::plain))
                }
                Asked::Recorded(body, recorder, wanted) => {
                    let response = inner.call(Request::from_parts(parts, RequestBody::made(body))).await?;
                    Ok(answer(&settings, recorder, wanted, response).await)
                }
            }
        })
    }
}

/// What becomes of a request that was read.
enum Asked {
    /// It was answered before.
    Replay(Response<Bytes>),
    /// It goes on as it is and nothing is stored.
    Untouched(Spliced),
    /// It goes on with the history, and its reply, which it wants streamed or not, is recorded.
    Recorded(Spliced, Recorder, Option<Framing>),
}

async fn ask<B>(
    settings: &Arc<Settings>,
    protocol: Arc<dyn Protocol>,
    session: ChatSession,
    parts: &mut Parts,
    body: B,
) -> Result<Asked, Refusal>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    let body = collect(body, settings.request_bytes).await.map_err(|error| match error {
        Uncollected::TooLarge => Refusal::TooLarge,
        Uncollected::Broken => Refusal::Unread,
    })?;
    let body = join(body);
    let pass = |refusal: Refusal| match settings.on_malformed {
        OnMalformed::Refuse => Err(refusal),
        OnMalformed::Pass => {
            tracing::info!(outcome = refusal.code(), "request passed on without its history");
            Ok(Asked::Untouched(Spliced::of(body.clone())))
        }
    };
    if !is_identity(&parts.headers) {
        return pass(Refusal::Encoded);
    }
    let Ok(envelope) = Envelope::read_listing(body.clone(), protocol.list()) else { return pass(Refusal::Malformed) };

    let fingerprint = session.is_named_by_client().then(|| fingerprint(parts, &body));
    let wanted = protocol.wants_stream(parts, &envelope);
    if let Some(turn) = session.replay() {
        return replay(&*protocol, turn, fingerprint.as_deref(), wanted);
    }
    if envelope.listed().is_some_and(<[_]>::is_empty) {
        // A question to the server, not to the model: Ollama loads one so.
        return Ok(Asked::Untouched(Spliced::of(body)));
    }
    let planned = plan(&*protocol, &settings.window, session.history(), &envelope)
        .and_then(|mut plan| Ok((plan.asked(&*protocol)?, plan)));
    let (asked, Plan { body: spliced, mut note, .. }) = match planned {
        Err(refusal @ (Refusal::NoMessages | Refusal::BadMessage)) => return pass(refusal),
        planned => planned?,
    };
    note.request = fingerprint;
    let mut recorder = Recorder::new(session, settings.clone(), protocol, note);
    recorder.ask(asked).map_err(|error| match error {
        AppendError::Role => Refusal::BadMessage,
        _ => Refusal::TurnTooLarge,
    })?;

    let body = spliced.unwrap_or_else(|| Spliced::of(body));
    let headers = &mut parts.headers;
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    // They tell of the body as the client framed it.
    for name in [header::TRANSFER_ENCODING, header::HeaderName::from_static("content-digest")] {
        headers.remove(name);
    }
    // What is to be read along must not be compressed.
    headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    Ok(Asked::Recorded(body, recorder, wanted))
}

/// Two requests with the same hash are the same request.
fn fingerprint(parts: &Parts, body: &[u8]) -> String {
    let digest = Sha256::new().chain_update(parts.uri.path()).chain_update([0]).chain_update(body).finalize();
    digest[..16].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Answers a retry from the turn that the first attempt stored.
fn replay(
    protocol: &dyn Protocol,
    turn: &Turn,
    fingerprint: Option<&str>,
    stream: Option<Framing>,
) -> Result<Asked, Refusal> {
    let note = Note::of(turn).unwrap_or_default();
    if note.request.is_some() && note.request.as_deref() != fingerprint {
        return Err(Refusal::KeyReused);
    }
    let mut response = said(protocol, turn, &note, stream);
    response.headers_mut().insert("idempotent-replayed", HeaderValue::from_static("true"));
    Ok(Asked::Replay(response))
}

/// What a turn's reply was.
fn said(protocol: &dyn Protocol, turn: &Turn, note: &Note, stream: Option<Framing>) -> Response<Bytes> {
    let elements = turn.messages().iter().skip(note.asked).map(|message| protocol.wire(message)).collect();
    let replayed = protocol.replay(&Replay { elements, head: note.head.as_deref(), stream });
    let mut response = Response::new(replayed.body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(replayed.content_type));
    response
}

/// The answer to a request about a reply that the session has.
fn recall(settings: &Settings, parts: &Parts) -> Option<Response<Bytes>> {
    let session = parts.extensions.get::<ChatSession>()?;
    let (protocol, recall) = settings.recalls(parts)?;
    let (Recall::Fetch { id, .. } | Recall::Delete { id }) = &recall;
    let turn = &session.history().turns()[find_reply(session.history(), id)?];
    // Of what broke off, the upstream may have the rest.
    let note = Note::of(turn).filter(|_| turn.status() == TurnStatus::Complete)?;
    Some(match recall {
        Recall::Fetch { stream, .. } => said(&*protocol, turn, &note, stream),
        Recall::Delete { .. } => {
            tracing::info!(outcome = Refusal::NotDeletable.code(), "request refused");
            Refusal::NotDeletable.into_response()
        }
    })
}

/// Sees to it that the reply is recorded, whatever form it has.
async fn answer<B>(
    settings: &Settings,
    mut recorder: Recorder,
    wanted: Option<Framing>,
    response: Response<B>,
) -> Response<ReplyBody<B>>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    if !response.status().is_success() {
        recorder.session().discard();
        return response.map(ReplyBody::plain);
    }
    let (content_type, encoding) = described(response.headers());
    let is_json = content_type == "application/json";
    let array = wanted.filter(|wanted| is_json && *wanted == Framing::Array);
    let framing = recorder.protocol().framing(&content_type).or(array);
    if framing.is_none() && !is_json {
        tracing::warn!(outcome = "not recorded", "the reply is not of the protocol");
        recorder.session().discard();
        return response.map(ReplyBody::plain);
    }
    let Some(mut decoder) = Decoder::of(&encoding, settings.reply_bytes) else {
        tracing::error!(outcome = "refused", "the upstream compresses although it was asked not to");
        return whole(Refusal::BadReply.into_response());
    };
    let mut assembler = recorder.protocol().assembler();
    if let Some(framing) = framing {
        return response.map(|body| ReplyBody::tee(body, framing, decoder, assembler, recorder));
    }

    // One JSON body has no tokens to delay: it is read whole, so that a turn that cannot be stored
    // is still an honest answer.
    let (head, body) = response.into_parts();
    let Ok(frames) = collect(body, settings.reply_bytes).await else {
        tracing::error!(outcome = "refused", "the reply is too large or broke off");
        return whole(Refusal::BadReply.into_response());
    };
    let bytes = join(frames.iter().filter_map(Frame::data_ref).map(|data| Frame::data(data.clone())).collect());
    let Ok(text) = decoder.push(&bytes) else {
        tracing::error!(outcome = "refused", "the reply is not what its encoding says, or decodes to too much");
        return whole(Refusal::BadReply.into_response());
    };
    if assembler.json(&text) {
        // A refusal to append is found again by the commit.
        let _ = recorder.answer(assembler.finish());
    } else if !decoder.is_plain() && serde_json::from_slice::<IgnoredAny>(&text).is_err() {
        // What a client would make of it is not known, and a turn it believes in must not be missing.
        tracing::error!(outcome = "refused", "the reply is compressed and ends early, or is no JSON");
        return whole(Refusal::BadReply.into_response());
    } else {
        tracing::warn!(outcome = "not recorded", "the reply is not of the protocol");
        recorder.session().discard();
    }
    Response::from_parts(head, ReplyBody::full(frames))
}

/// The media type without its parameters, and the encoding.
fn described(headers: &HeaderMap) -> (String, String) {
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok()).unwrap_or_default();
    let essence = text(header::CONTENT_TYPE).split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    (essence, text(header::CONTENT_ENCODING).to_owned())
}

fn whole<B>(response: Response<Bytes>) -> Response<ReplyBody<B>> {
    response.map(|body| ReplyBody::full([Frame::data(body)]))
}

fn is_identity(headers: &HeaderMap) -> bool {
    headers.get_all(header::CONTENT_ENCODING).iter().all(|value| value == "identity")
}

enum Uncollected {
    TooLarge,
    Broken,
}

/// All frames of a body, as long as their data stays within `limit` bytes.
async fn collect<B>(body: B, limit: usize) -> Result<Vec<Frame<Bytes>>, Uncollected>
where
    B: Body<Data = Bytes>,
{
    let mut body = pin!(body);
    let mut frames = Vec::new();
    let mut left = limit;
    while let Some(frame) = std::future::poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
        let frame = frame.map_err(|_| Uncollected::Broken)?;
        if let Some(data) = frame.data_ref() {
            left = left.checked_sub(data.len()).ok_or(Uncollected::TooLarge)?;
        }
        frames.push(frame);
    }
    Ok(frames)
}

/// The data of frames as one piece; a single frame's as it is.
fn join(frames: Vec<Frame<Bytes>>) -> Bytes {
    let mut data: Vec<Bytes> = frames.into_iter().filter_map(|frame| frame.into_data().ok()).collect();
    if data.len() <= 1 {
        return data.pop().unwrap_or_default();
    }
    let mut joined = BytesMut::with_capacity(data.iter().map(Bytes::len).sum());
    data.iter().for_each(|part| joined.extend_from_slice(part));
    joined.freeze()
}

impl<S: fmt::Debug> fmt::Debug for LlmMemory<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LlmMemory").field("inner", &self.inner).finish_non_exhaustive()
    }
}
