//! The service: from a request's head to the load that its session begins with.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use http::request::Parts;
use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use crate::body::{BoxError, ResponseBody};
use crate::error::SessionError;
use crate::future::{Begun, ResponseFuture};
use crate::identity::idempotency_key;
use crate::key::ConversationId;
use crate::layer::Settings;
use crate::policy::OnMissing;
use crate::session::ChatSession;
use crate::store::Read;
use crate::turn::TurnId;

/// The service that [`SessionMemoryLayer`](crate::SessionMemoryLayer) makes of yours.
#[derive(Clone)]
pub struct SessionMemory<S> {
    inner: S,
    settings: Arc<Settings>,
}

/// Left in the extensions of a request that policy let through without a session, so that a missing
/// [`ChatSession`] is not taken for a missing layer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bypassed;

/// What becomes of a request, seen from its head alone.
#[expect(clippy::large_enum_variant, reason = "moved once and never kept; a box would cost every request")]
enum Verdict {
    Load(Begun, Read),
    Bypass,
    AlreadyThere,
}

impl<S> SessionMemory<S> {
    pub(crate) fn new(inner: S, settings: Arc<Settings>) -> Self {
        Self { inner, settings }
    }

    /// The inner service.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The inner service, to change it.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// Takes the inner service out.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl Settings {
    fn judge(&self, parts: &Parts) -> Result<Verdict, SessionError> {
        if parts.extensions.get::<ChatSession>().is_some() || parts.extensions.get::<Bypassed>().is_some() {
            if !self.complained.swap(true, Ordering::Relaxed) {
                tracing::error!("session memory is mounted twice on one route: the inner layer does nothing");
            }
            return Ok(Verdict::AlreadyThere);
        }
        let backend = &self.backend;
        backend.handover.enter();
        if backend.handover.len() >= backend.policy.limits.pending {
            return Err(SessionError::Overloaded);
        }
        let mut identity = self.identify.identify(parts)?;
        let minted = identity.conversation.is_none();
        if minted {
            match backend.policy.on_missing {
                OnMissing::Bypass => return Ok(Verdict::Bypass),
                OnMissing::Mint { .. } => identity.conversation = Some(ConversationId::random()),
                OnMissing::Reject => return Err(SessionError::MissingConversation),
            }
        }
        let issued = match (&self.mint, &identity.conversation) {
            (Some(header), Some(id)) if minted || identity.renew => {
                self.identify.issue(id, header).map(|value| (header.clone(), value))
            }
            _ => None,
        };
        let key = identity.into_key().ok_or(SessionError::MissingConversation)?;
        let client_id = match &self.idempotency {
            Some(name) => idempotency_key(&parts.headers, name)
                .map_err(SessionError::IdempotencyKey)?
                .map(|idempotency| TurnId::of_idempotency_key(&key, &idempotency)),
            None => None,
        };
        let mut read = Read::new(backend.policy.window);
        read.find = client_id;
        let began = Instant::now();
        let method = parts.method.clone();
        let begun = Begun { backend: backend.clone(), key, client_id, minted, issued, method, began };
        Ok(Verdict::Load(begun, read))
    }
}

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for SessionMemory<S>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>> + Clone,
    ResBody: Body<Data = Bytes> + Send + 'static,
    ResBody::Error: Into<BoxError>,
{
    type Response = Response<ResponseBody<ResBody>>;
    type Error = S::Error;
    type Future = ResponseFuture<S, ReqBody>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<ReqBody>) -> Self::Future {
        // The clone is not ready: the service that was polled must be the one that is called.
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        let (mut parts, body) = request.into_parts();
        match self.settings.judge(&parts) {
            Ok(Verdict::Load(begun, read)) => {
                ResponseFuture::load(begun, read, Request::from_parts(parts, body), inner)
            }
            Ok(Verdict::AlreadyThere) => ResponseFuture::pass(inner.call(Request::from_parts(parts, body))),
            Ok(Verdict::Bypass) => {
                parts.extensions.insert(Bypassed);
                ResponseFuture::pass(inner.call(Request::from_parts(parts, body)))
            }
            Err(error) => {
                tracing::info!(outcome = error.code(), %error, "request refused");
                ResponseFuture::refuse(error)
            }
        }
    }
}

impl<S: fmt::Debug> fmt::Debug for SessionMemory<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionMemory").field("inner", &self.inner).finish_non_exhaustive()
    }
}
