//! From the load to the head of the response.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body::Body;
use pin_project_lite::pin_project;
use tokio::time::{Timeout, timeout};
use tower_service::Service;
use tracing::instrument::Instrumented;
use tracing::{Instrument, Span};

use crate::body::{BoxError, ResponseBody};
use crate::error::SessionError;
use crate::key::SessionKey;
use crate::policy::{CommitOn, OnCommitFailure, OnDisconnect, OnLoadFailure};
use crate::session::{Backend, Chain, ChatSession, Commit, CommitResult, TurnGuard};
use crate::store::{Loaded, Read, StoreError};
use crate::turn::{TurnId, TurnStatus};

type LoadFuture = Instrumented<Timeout<Pin<Box<dyn Future<Output = Result<Loaded, StoreError>> + Send>>>>;

/// What is known of a request before its history is loaded.
pub(crate) struct Begun {
    pub(crate) backend: Arc<Backend>,
    pub(crate) key: SessionKey,
    /// The turn's id, where the client named it by an idempotency key.
    pub(crate) client_id: Option<TurnId>,
    /// The fresh conversation id that the client is to be told.
    pub(crate) minted: Option<(HeaderName, HeaderValue)>,
    pub(crate) method: Method,
}

/// What the response needs to know of its request.
struct Told {
    minted: Option<(HeaderName, HeaderValue)>,
    method: Method,
}

pin_project! {
    /// The response of [`SessionMemory`](crate::SessionMemory).
    ///
    /// Dropped before the response is there, it settles the turn as policy says of clients that leave.
    pub struct ResponseFuture<S, ReqBody>
    where
        S: Service<Request<ReqBody>>,
    {
        #[pin]
        state: State<S::Future, S, ReqBody, S::Response>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<F, S, ReqBody, Res> {
        /// The request is answered without the inner service.
        Refuse { error: Option<SessionError> },
        /// The history is on its way; the service that was polled ready waits for it.
        Load { #[pin] load: LoadFuture, waiting: Option<Waiting<S, ReqBody>> },
        /// The inner service is at work.
        Call { #[pin] future: F, guard: Option<TurnGuard>, told: Told },
        /// The head is ready, and the turn must be durable before it goes out.
        Commit { commit: Commit, deliver: bool, response: Option<Res>, told: Told },
        /// The inner service is at work, without a session of ours.
        Pass { #[pin] future: F },
    }
}

struct Waiting<S, ReqBody> {
    begun: Begun,
    request: Request<ReqBody>,
    service: S,
}

impl<S, ReqBody> ResponseFuture<S, ReqBody>
where
    S: Service<Request<ReqBody>>,
{
    pub(crate) fn refuse(error: SessionError) -> Self {
        Self { state: State::Refuse { error: Some(error) } }
    }

    pub(crate) fn pass(future: S::Future) -> Self {
        Self { state: State::Pass { future } }
    }

    pub(crate) fn load(begun: Begun, read: Read, request: Request<ReqBody>, service: S) -> Self {
        let Backend { store, info, policy, .. } = &*begun.backend;
        let span = tracing::debug_span!("session_load", store = info.name, session = %begun.key.hashed());
        let load = timeout(policy.deadlines.load, store.load_owned(begun.key.clone(), read)).instrument(span);
        Self { state: State::Load { load, waiting: Some(Waiting { begun, request, service }) } }
    }
}

impl<S, ReqBody, ResBody> Future for ResponseFuture<S, ReqBody>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
    ResBody: Body<Data = Bytes> + Send + 'static,
    ResBody::Error: Into<BoxError>,
{
    type Output = Result<Response<ResponseBody<ResBody>>, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        loop {
            let next = match state.as_mut().project() {
                StateProj::Refuse { error } => {
                    let error = error.take().expect("a future is not polled after it was ready");
                    return Poll::Ready(Ok(problem(error, None)));
                }
                StateProj::Pass { future } => {
                    return Poll::Ready(ready!(future.poll(cx)).map(|response| response.map(ResponseBody::plain)));
                }
                StateProj::Load { load, waiting } => {
                    let span = load.span().clone();
                    let loaded = ready!(load.poll(cx));
                    let Waiting { begun, request, service } =
                        waiting.take().expect("the state is replaced once the load is ready");
                    match begun.accept(loaded, &span) {
                        Ok(loaded) => begin(begun, loaded, request, service),
                        Err(error) => return Poll::Ready(Ok(problem(error, begun.minted))),
                    }
                }
                StateProj::Call { future, guard, told } => {
                    let response = ready!(future.poll(cx));
                    let guard = guard.take().expect("the state is replaced once the call is ready");
                    let response = match response {
                        Ok(response) => response,
                        Err(error) => {
                            guard.discard();
                            return Poll::Ready(Err(error));
                        }
                    };
                    match Fate::of(&response, &told.method, &guard) {
                        Fate::CommitFirst => {
                            let deliver = guard.policy().on_commit_failure == OnCommitFailure::Deliver;
                            let told = Told { minted: told.minted.take(), method: told.method.clone() };
                            State::Commit { commit: guard.commit(), deliver, response: Some(response), told }
                        }
                        fate => return Poll::Ready(Ok(fate.dress(response, guard, told.minted.take()))),
                    }
                }
                StateProj::Commit { commit, deliver, response, told } => {
                    let result: CommitResult = ready!(Pin::new(commit).poll(cx));
                    let response = response.take().expect("a future is not polled after it was ready");
                    return Poll::Ready(Ok(match result {
                        Err(error) if !*deliver => problem(error, told.minted.take()),
                        _ => tell(response.map(ResponseBody::plain), told.minted.take()),
                    }));
                }
            };
            state.set(next);
        }
    }
}

/// The history is there: calls the inner service with its session.
fn begin<S, ReqBody>(
    begun: Begun,
    loaded: Option<Loaded>,
    mut request: Request<ReqBody>,
    mut service: S,
) -> State<S::Future, S, ReqBody, S::Response>
where
    S: Service<Request<ReqBody>>,
{
    let Begun { backend, key, client_id, minted, method } = begun;
    let (session, guard) = ChatSession::begin(backend, key, client_id, loaded);
    request.extensions_mut().insert(session);
    State::Call { future: service.call(request), guard: Some(guard), told: Told { minted, method } }
}

impl Begun {
    /// Judges the outcome of the load by policy; `None` goes on without a history.
    fn accept(
        &self,
        outcome: Result<Result<Loaded, StoreError>, tokio::time::error::Elapsed>,
        span: &Span,
    ) -> Result<Option<Loaded>, SessionError> {
        let _entered = span.enter();
        let policy = &self.backend.policy;
        let error = match outcome {
            Ok(Ok(mut loaded)) => {
                let bytes = || loaded.turns.iter().map(crate::turn::Turn::bytes).sum::<usize>();
                tracing::debug!(outcome = "loaded", turns = loaded.turns.len(), bytes = bytes(), "history loaded");
                // What broke off is not an answer: the retry runs again.
                loaded.found = loaded.found.filter(|turn| turn.status() == TurnStatus::Complete);
                return Ok(Some(loaded));
            }
            Ok(Err(error)) => SessionError::Load(Arc::new(error)),
            Err(_) => SessionError::LoadDeadline(policy.deadlines.load),
        };
        let degrade = policy.on_load_failure == OnLoadFailure::Degrade;
        tracing::error!(outcome = error.code(), error = %Chain(&error), degraded = degrade, "history not loaded");
        if degrade { Ok(None) } else { Err(error) }
    }
}

/// What becomes of the turn, seen from the head of the response.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// The response failed.
    Discard,
    /// An upgrade: only an explicit commit counts.
    Release,
    /// Nobody can append any more, or no end of a body would ever be seen.
    CommitFirst,
    /// The body is still to be written, and with it perhaps the turn.
    WithBody,
}

impl Fate {
    fn of<B: Body>(response: &Response<B>, method: &Method, guard: &TurnGuard) -> Self {
        let status = response.status();
        if status == StatusCode::SWITCHING_PROTOCOLS || (method == Method::CONNECT && status.is_success()) {
            return Self::Release;
        }
        let commits = match guard.policy().commit_on {
            CommitOn::Any => true,
            CommitOn::Success => status.is_success(),
            CommitOn::SuccessAndRedirect => status.is_success() || status.is_redirection(),
        };
        if !commits {
            return Self::Discard;
        }
        if guard.no_writer_left() || is_never_polled(response, method) { Self::CommitFirst } else { Self::WithBody }
    }

    fn dress<B>(
        self,
        response: Response<B>,
        guard: TurnGuard,
        minted: Option<(HeaderName, HeaderValue)>,
    ) -> Response<ResponseBody<B>>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let response = match self {
            Self::Discard => {
                guard.discard();
                response.map(ResponseBody::plain)
            }
            Self::Release => {
                guard.release();
                response.map(ResponseBody::plain)
            }
            Self::CommitFirst | Self::WithBody => {
                let promised = promised_bytes(&response);
                if guard.policy().on_disconnect == OnDisconnect::Finish {
                    response.map(|body| ResponseBody::detached(body, promised, guard))
                } else {
                    response.map(|body| ResponseBody::turn(body, promised, guard))
                }
            }
        };
        tell(response, minted)
    }
}

/// Whether a server would write this response without polling its body to an end: bodies that are
/// at their end already, and those that HTTP does not send.
fn is_never_polled<B: Body>(response: &Response<B>, method: &Method) -> bool {
    let status = response.status();
    method == Method::HEAD
        || status.is_informational()
        || status == StatusCode::NO_CONTENT
        || status == StatusCode::NOT_MODIFIED
        || response.body().is_end_stream()
        || promised_bytes(response) == Some(0)
}

/// How many bytes the body will have, where that is said: servers stop polling when they have them.
fn promised_bytes<B: Body>(response: &Response<B>) -> Option<u64> {
    let header = response.headers().get(http::header::CONTENT_LENGTH);
    let header = header.and_then(|value| value.to_str().ok()?.parse().ok());
    header.or_else(|| response.body().size_hint().exact())
}

fn problem<B>(error: SessionError, minted: Option<(HeaderName, HeaderValue)>) -> Response<ResponseBody<B>> {
    tell(error.into_problem().map(ResponseBody::full), minted)
}

fn tell<B>(mut response: Response<B>, minted: Option<(HeaderName, HeaderValue)>) -> Response<B> {
    if let Some((name, value)) = minted {
        response.headers_mut().insert(name, value);
    }
    response
}

impl<S, ReqBody> fmt::Debug for ResponseFuture<S, ReqBody>
where
    S: Service<Request<ReqBody>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
