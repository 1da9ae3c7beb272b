//! From the load to the head of the response.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::Bytes;
use http::header::SET_COOKIE;
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body::Body;
use pin_project_lite::pin_project;
use tokio::time::{Timeout, timeout};
use tower_service::Service;
use tracing::field::display;
use tracing::instrument::Instrumented;
use tracing::{Instrument, Span};

use crate::body::{BoxError, ResponseBody};
use crate::diagnostics::{Report, refused};
use crate::error::SessionError;
use crate::key::SessionKey;
use crate::policy::{CommitOn, OnCommitFailure, OnDisconnect, OnLoadFailure, OnUnknown};
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
    /// Whether the conversation's id is fresh, of our making.
    pub(crate) minted: bool,
    /// How the client is told its conversation's id.
    pub(crate) issued: Option<(HeaderName, HeaderValue)>,
    pub(crate) method: Method,
    pub(crate) began: Instant,
}

/// What the response needs to know of its request.
struct Told {
    method: Method,
    news: News,
}

/// What every response says of its session, in headers.
#[derive(Default)]
struct News {
    issued: Option<(HeaderName, HeaderValue)>,
    report: Option<Report>,
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
        Commit { commit: Commit, deliver: bool, response: Option<Res>, news: News, began: Instant },
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
        let Backend { store, info, policy, observer, .. } = &*begun.backend;
        // The span around the request has the field if its maker declared it.
        Span::current().record("gen_ai.conversation.id", display(observer.conversation(&begun.key)));
        let span = tracing::debug_span!(
            "session_load",
            store = info.name,
            session = %begun.key.hashed(),
            gen_ai.conversation.id = %observer.conversation(&begun.key),
        );
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
                    return Poll::Ready(Ok(problem(error, News::default())));
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
                        Err(error) => {
                            let news = begun.news(None);
                            return Poll::Ready(Ok(problem(error, news)));
                        }
                    }
                }
                StateProj::Call { future, guard, told } => {
                    let response = ready!(future.poll(cx));
                    let guard = guard.take().expect("the state is replaced once the call is ready");
                    let news = std::mem::take(&mut told.news);
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
                            let began = Instant::now();
                            State::Commit { commit: guard.commit(), deliver, response: Some(response), news, began }
                        }
                        fate => return Poll::Ready(Ok(news.tell(fate.dress(response, guard)))),
                    }
                }
                StateProj::Commit { commit, deliver, response, news, began } => {
                    let result: CommitResult = ready!(Pin::new(commit).poll(cx));
                    let mut news = std::mem::take(news);
                    if let Some(report) = &mut news.report {
                        report.commit = Some(began.elapsed());
                    }
                    let response = response.take().expect("a future is not polled after it was ready");
                    return Poll::Ready(Ok(match result {
                        Err(error) if !*deliver => problem(error, news),
                        _ => news.tell(response.map(ResponseBody::plain)),
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
    let news = begun.news(loaded.as_ref());
    let Begun { backend, key, client_id, method, .. } = begun;
    let (session, guard) = ChatSession::begin(backend, key, client_id, loaded);
    request.extensions_mut().insert(session);
    State::Call { future: service.call(request), guard: Some(guard), told: Told { method, news } }
}

impl Begun {
    /// Judges the outcome of the load by policy; `None` goes on without a history.
    fn accept(
        &self,
        outcome: Result<Result<Loaded, StoreError>, tokio::time::error::Elapsed>,
        span: &Span,
    ) -> Result<Option<Loaded>, SessionError> {
        let _entered = span.enter();
        let Backend { store, policy, observer, .. } = &*self.backend;
        observer.pool(store);
        let error = match outcome {
            Ok(Ok(mut loaded)) => {
                // What broke off is not an answer: the retry runs again.
                loaded.found = loaded.found.filter(|turn| turn.status() == TurnStatus::Complete);
                observer.loaded(&loaded, self.minted, self.began.elapsed());
                let unknown = loaded.head.sequence == 0 && !self.minted;
                return match policy.on_unknown {
                    OnUnknown::Refuse if unknown => Err(SessionError::UnknownConversation),
                    OnUnknown::Refuse | OnUnknown::Begin => Ok(Some(loaded)),
                };
            }
            Ok(Err(error)) => SessionError::Load(Arc::new(error)),
            Err(_) => SessionError::LoadDeadline(policy.deadlines.load),
        };
        let degrade = policy.on_load_failure == OnLoadFailure::Degrade;
        observer.not_loaded(&error, degrade, self.began.elapsed());
        let (outcome, cause) = (error.code(), Chain(&error));
        // In an outage that is known there are thousands of these a second.
        if matches!(&error, SessionError::Load(error) if error.is_reported()) {
            tracing::debug!(outcome, error = %cause, degraded = degrade, "history not loaded");
        } else {
            tracing::error!(outcome, error = %cause, degraded = degrade, "history not loaded");
        }
        if degrade { Ok(None) } else { Err(error) }
    }
}

impl Begun {
    fn news(&self, loaded: Option<&Loaded>) -> News {
        let report = || Report {
            info: self.backend.info.clone(),
            session: self.key.hashed(),
            loaded: loaded.map(|loaded| (loaded.turns.len(), loaded.head)),
            load: self.began.elapsed(),
            commit: None,
        };
        let report = self.backend.observer.diagnostics.headers.then(report);
        News { issued: self.issued.clone(), report }
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

    fn dress<B>(self, response: Response<B>, guard: TurnGuard) -> Response<ResponseBody<B>>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        match self {
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
        }
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

fn problem<B>(error: SessionError, news: News) -> Response<ResponseBody<B>> {
    refused(error.code());
    news.tell(error.into_problem().map(ResponseBody::full))
}

impl News {
    fn tell<B>(self, mut response: Response<B>) -> Response<B> {
        let headers = response.headers_mut();
        if let Some((name, value)) = self.issued {
            // Cookies of others stand beside ours.
            if name == SET_COOKIE {
                headers.append(name, value);
            } else {
                headers.insert(name, value);
            }
        }
        if let Some(report) = self.report {
            report.write(headers);
        }
        response
    }
}

impl<S, ReqBody> fmt::Debug for ResponseFuture<S, ReqBody>
where
    S: Service<Request<ReqBody>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
