//! A body whose end settles a turn.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::time::{Sleep, sleep};

use super::end::{Standing, standing};
use super::{BoxError, Polled};
use crate::error::SessionError;
use crate::policy::OnCommitFailure;
use crate::session::{Commit, TurnGuard, Watch};

pin_project! {
    /// Passes frames through, holds the last, commits, releases it.
    ///
    /// Fields drop in this order: the inner body, whose producer may append what it has, before the
    /// guard, which then settles the turn.
    pub(super) struct TurnBody<B> {
        #[pin]
        inner: B,
        // What the inner body said when it was peeked at, before anybody asked.
        peeked: Option<Peeked>,
        // Promised bytes that were not seen yet.
        bytes_left: Option<u64>,
        deliver: bool,
        phase: Phase,
        guard: Option<TurnGuard>,
        watch: Option<Watch>,
    }
}

type Peeked = Option<Result<Frame<Bytes>, BoxError>>;
type Held = VecDeque<Frame<Bytes>>;

enum Phase {
    /// Frames pass as they come.
    Streaming,
    /// All promised bytes are here, the last of them held. The inner body is polled for its end, for
    /// as long as the grace lasts: a reply that is appended late still makes it in.
    Tail { held: Held, grace: Pin<Box<Sleep>> },
    /// The turn is sealed; the store's answer is awaited.
    Committing { held: Held, commit: Commit },
    /// The turn is settled: what was held goes out.
    Releasing { held: Held },
    /// Nothing follows.
    Done,
}

impl<B> TurnBody<B> {
    pub(super) fn new(inner: B, promised: Option<u64>, guard: TurnGuard) -> Self {
        let deliver = guard.policy().on_commit_failure == OnCommitFailure::Deliver;
        Self {
            inner,
            peeked: None,
            bytes_left: promised,
            deliver,
            phase: Phase::Streaming,
            guard: Some(guard),
            watch: None,
        }
    }
}

impl<B> TurnBody<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    pub(super) fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled {
        loop {
            let this = self.as_mut().project();
            // Watched until it is sealed here: once its time is up the turn was sealed elsewhere, without
            // what came later. An end that comes after that is not the end of a whole turn.
            if let (Some(guard), Some(_)) = (&this.guard, &this.watch)
                && guard.poll_expired(cx).is_ready()
            {
                return self.break_off(Box::new(SessionError::BodyDeadline));
            }
            // The next phase is set before every return: nothing is polled again after its end.
            match this.phase {
                Phase::Streaming => match ready!(self.as_mut().poll_inner(cx)) {
                    Some(Ok(frame)) => {
                        if let Some(frame) = self.as_mut().pass(frame, cx) {
                            return Poll::Ready(Some(Ok(frame)));
                        }
                    }
                    Some(Err(error)) => return self.break_off(error),
                    None => self.as_mut().commit(Held::new()),
                },
                Phase::Tail { held, grace } => {
                    // Polled first: an end that is there already must not wait for the clock.
                    let mut held = std::mem::take(held);
                    match this.inner.poll_frame(cx) {
                        Poll::Ready(Some(Ok(frame))) => held.push_back(frame),
                        Poll::Ready(Some(Err(error))) => return self.break_off(error.into()),
                        Poll::Ready(None) => {}
                        Poll::Pending if grace.as_mut().poll(cx).is_ready() => {}
                        Poll::Pending => {
                            if let Phase::Tail { held: place, .. } = self.as_mut().project().phase {
                                *place = held;
                            }
                            return Poll::Pending;
                        }
                    }
                    self.as_mut().commit(held);
                }
                Phase::Committing { held, commit } => {
                    let result = ready!(Pin::new(commit).poll(cx));
                    let held = std::mem::take(held);
                    *this.phase = Phase::Releasing { held };
                    if let Err(error) = result
                        && !*this.deliver
                    {
                        return self.break_off(Box::new(error));
                    }
                }
                Phase::Releasing { held } => match held.pop_front() {
                    Some(frame) => return Poll::Ready(Some(Ok(frame))),
                    None => *this.phase = Phase::Done,
                },
                Phase::Done => return Poll::Ready(None),
            }
        }
    }

    /// The next frame of the inner body, the peeked one first.
    fn poll_inner(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Peeked> {
        let this = self.project();
        if let Some(peeked) = this.peeked.take() {
            return Poll::Ready(peeked);
        }
        let polled = this.inner.poll_frame(cx).map_err(Into::into);
        if let Some(guard) = this.guard.as_ref()
            && !matches!(polled, Poll::Ready(None))
        {
            // From the first frame or wait on, time runs, whether or not anybody reads.
            this.watch.get_or_insert_with(|| guard.watch());
            if guard.poll_expired(cx).is_ready() {
                return Poll::Ready(Some(Err(Box::new(SessionError::BodyDeadline))));
            }
        }
        polled
    }

    /// Takes stock of a frame. Given back, it may go out now; else it is held and the phase has moved on.
    fn pass(mut self: Pin<&mut Self>, frame: Frame<Bytes>, cx: &mut Context<'_>) -> Option<Frame<Bytes>> {
        let this = self.as_mut().project();
        if let (Some(left), Some(data)) = (this.bytes_left.as_mut(), frame.data_ref()) {
            *left = left.saturating_sub(data.len() as u64);
        }
        // What was peeked at is this frame or was never there: the inner body speaks of what follows it.
        match standing(Some(&frame), this.inner.is_end_stream(), *this.bytes_left) {
            Standing::End => self.commit(Held::from([frame])),
            Standing::LastByte => {
                let grace = this.guard.as_ref().map_or_else(Default::default, |guard| guard.policy().deadlines.grace);
                *this.phase = Phase::Tail { held: Held::from([frame]), grace: Box::pin(sleep(grace)) };
            }
            // Looked ahead once, without waiting: a producer that ends in the same breath has this
            // frame held as its last. One that does not is not slowed down by a frame.
            Standing::More => match this.inner.poll_frame(cx) {
                Poll::Pending => return Some(frame),
                Poll::Ready(None) => self.commit(Held::from([frame])),
                Poll::Ready(Some(next)) => {
                    *this.peeked = Some(Some(next.map_err(Into::into)));
                    return Some(frame);
                }
            },
        }
        None
    }

    /// The body is at its end: seals the turn.
    fn commit(self: Pin<&mut Self>, held: Held) {
        let this = self.project();
        *this.watch = None;
        *this.phase = match this.guard.take() {
            Some(guard) => Phase::Committing { held, commit: guard.commit() },
            None => Phase::Releasing { held },
        };
    }

    /// The body ends in an error; a turn that is not sealed is settled as for a client that left.
    fn break_off(self: Pin<&mut Self>, error: BoxError) -> Polled {
        let this = self.project();
        *this.phase = Phase::Done;
        *this.watch = None;
        *this.guard = None;
        Poll::Ready(Some(Err(error)))
    }

    pub(super) fn is_end_stream(&self) -> bool {
        match &self.phase {
            Phase::Done => true,
            Phase::Releasing { held } => held.is_empty(),
            Phase::Streaming | Phase::Tail { .. } | Phase::Committing { .. } => false,
        }
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        let bytes = |frame: &Frame<Bytes>| frame.data_ref().map_or(0, |data| data.len() as u64);
        match &self.phase {
            Phase::Streaming => {
                let peeked = self.peeked.iter().flatten().flatten().map(bytes).sum::<u64>();
                let inner = self.inner.size_hint();
                let mut hint = SizeHint::new();
                if let Some(upper) = inner.upper() {
                    hint.set_upper(upper.saturating_add(peeked));
                }
                hint.set_lower(inner.lower().saturating_add(peeked).min(hint.upper().unwrap_or(u64::MAX)));
                hint
            }
            Phase::Tail { held, .. } | Phase::Committing { held, .. } | Phase::Releasing { held } => {
                SizeHint::with_exact(held.iter().map(bytes).sum())
            }
            Phase::Done => SizeHint::with_exact(0),
        }
    }
}
