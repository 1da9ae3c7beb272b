//! The body of a response, whose end the client sees only once the turn is durable.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

mod detached;
mod end;
mod turn;

use self::detached::Detached;
use self::turn::TurnBody;
use crate::session::TurnGuard;

/// Any error of a body.
pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;

type Polled = Poll<Option<Result<Frame<Bytes>, BoxError>>>;

pin_project! {
    /// The body of [`SessionMemory`](crate::SessionMemory)'s responses.
    ///
    /// Frames pass as they come. The last one is held until the turn is durable; when it cannot be
    /// made durable the body ends in an error (a [`SessionError`](crate::SessionError)), so that the
    /// client sees a response that broke off. Dropped before its end, it settles the turn as policy
    /// says of clients that leave.
    pub struct ResponseBody<B> {
        #[pin]
        kind: Kind<B>,
    }
}

pin_project! {
    #[project = KindProj]
    enum Kind<B> {
        /// No turn depends on this body.
        Plain { #[pin] inner: B },
        /// The turn is settled when this body ends.
        Turn { #[pin] body: TurnBody<B> },
        /// The body is read by a task of its own.
        Detached { detached: Detached },
        /// An answer of the layer's own.
        Full { data: Option<Bytes> },
    }
}

impl<B> ResponseBody<B> {
    pub(crate) fn plain(inner: B) -> Self {
        Self { kind: Kind::Plain { inner } }
    }

    pub(crate) fn full(data: Bytes) -> Self {
        Self { kind: Kind::Full { data: Some(data) } }
    }

    pub(crate) fn turn(inner: B, promised: Option<u64>, guard: TurnGuard) -> Self {
        Self { kind: Kind::Turn { body: TurnBody::new(inner, promised, guard) } }
    }
}

impl<B> ResponseBody<B>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    /// Reads the body in a task that goes on when the client leaves.
    pub(crate) fn detached(inner: B, promised: Option<u64>, guard: TurnGuard) -> Self {
        Self { kind: Kind::Detached { detached: Detached::spawn(inner, promised, guard) } }
    }
}

impl<B> Body for ResponseBody<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled {
        match self.project().kind.project() {
            KindProj::Plain { inner } => inner.poll_frame(cx).map_err(Into::into),
            KindProj::Turn { body } => body.poll_frame(cx),
            KindProj::Detached { detached } => detached.poll_frame(cx),
            KindProj::Full { data } => Poll::Ready(data.take().map(|data| Ok(Frame::data(data)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Plain { inner } => inner.is_end_stream(),
            Kind::Turn { body } => body.is_end_stream(),
            Kind::Detached { detached } => detached.is_end_stream(),
            Kind::Full { data } => data.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Plain { inner } => inner.size_hint(),
            Kind::Turn { body } => body.size_hint(),
            Kind::Detached { detached } => detached.size_hint(),
            Kind::Full { data } => SizeHint::with_exact(data.as_ref().map_or(0, |data| data.len() as u64)),
        }
    }
}

impl<B> fmt::Debug for ResponseBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.kind {
            Kind::Plain { .. } => "plain",
            Kind::Turn { .. } => "turn",
            Kind::Detached { .. } => "detached",
            Kind::Full { .. } => "full",
        };
        f.debug_struct("ResponseBody").field("kind", &kind).finish_non_exhaustive()
    }
}
