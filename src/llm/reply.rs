//! The reply's body: forwarded as it comes, put together on the side, its last event held until the
//! turn is durable.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::BoxError;
use super::decode::Decoder;
use super::protocol::{Assembler, Step};
use super::recorder::Recorder;
use super::sse::{Framing, Splitter};
use crate::{Committed, OnCommitFailure, SessionError};

/// How much of an event that is not whole yet is kept back. More flows on: it is a token's text, not
/// an end.
const KEPT_BACK: usize = 16 << 10;

type CommitFuture = Pin<Box<dyn Future<Output = Result<Committed, SessionError>> + Send>>;

pin_project! {
    /// The body of [`LlmMemory`](super::LlmMemory)'s responses.
    ///
    /// Whole events pass as they come. The one by which clients know the end is held until the turn
    /// is stored; when it cannot be stored the body ends in an error.
    pub struct ReplyBody<B> {
        #[pin]
        inner: Option<B>,
        // Frames that are ready to go out.
        ready: VecDeque<Frame<Bytes>>,
        tee: Option<Tee>,
        committing: Option<Committing>,
    }
}

/// A turn on its way into the store, and what goes out when it is there.
struct Committing {
    commit: CommitFuture,
    deliver: bool,
    held: VecDeque<Frame<Bytes>>,
}

/// Reads along. Dropped with its body, when the client leaves, it writes down what it has.
struct Tee {
    splitter: Splitter,
    decoder: Decoder,
    /// `None` once the reply is written down.
    writing: Option<(Box<dyn Assembler>, Recorder)>,
    /// The beginning of an event that is not whole.
    kept: VecDeque<Bytes>,
}

/// What a chunk was.
enum Read {
    /// These bytes may go out.
    Pass(VecDeque<Bytes>),
    /// These may go out, those when the turn is stored.
    End {
        pass: VecDeque<Bytes>,
        held: VecDeque<Bytes>,
        step: Step,
    },
    Broken(ReplyBroken),
}

impl Tee {
    fn read(&mut self, chunk: &Bytes) -> Read {
        let Some((assembler, recorder)) = &mut self.writing else {
            return Read::Pass(VecDeque::from([chunk.clone()]));
        };
        if self.decoder.is_plain() {
            // Cut at the events' ends, so that an event goes out whole or not at all.
            let (mut rest, mut passed) = (&chunk[..], 0);
            loop {
                let event = match self.splitter.next(&mut rest) {
                    Err(_) => return Read::Broken(ReplyBroken::TooLarge),
                    Ok(None) => break,
                    Ok(Some(event)) => event,
                };
                let step = assembler.event(&event);
                if step != Step::More {
                    let mut pass = std::mem::take(&mut self.kept);
                    let mut held = VecDeque::new();
                    if passed > 0 {
                        pass.push_back(chunk.slice(..passed));
                    } else {
                        std::mem::swap(&mut pass, &mut held);
                    }
                    held.push_back(chunk.slice(passed..));
                    return Read::End { pass, held, step };
                }
                passed = chunk.len() - rest.len();
                if assembler.bytes() > recorder.limit() {
                    return Read::Broken(ReplyBroken::TooLarge);
                }
            }
            let mut pass = VecDeque::new();
            if passed > 0 || !self.splitter.in_event() {
                pass.append(&mut self.kept);
            }
            if self.splitter.in_event() {
                pass.extend((passed > 0).then(|| chunk.slice(..passed)));
                self.kept.extend((passed < chunk.len()).then(|| chunk.slice(passed..)));
                if self.kept.iter().map(Bytes::len).sum::<usize>() > KEPT_BACK {
                    pass.append(&mut self.kept);
                }
            } else {
                pass.push_back(chunk.clone());
            }
            Read::Pass(pass)
        } else {
            // Compressed bytes have no cuts: the chunk that completes the last event is held whole.
            let Ok(text) = self.decoder.push(chunk) else {
                return Read::Broken(ReplyBroken::Undecodable);
            };
            let mut rest = &text[..];
            loop {
                match self.splitter.next(&mut rest) {
                    Err(_) => return Read::Broken(ReplyBroken::TooLarge),
                    Ok(None) => return Read::Pass(VecDeque::from([chunk.clone()])),
                    Ok(Some(event)) => match assembler.event(&event) {
                        Step::More if assembler.bytes() > recorder.limit() => {
                            return Read::Broken(ReplyBroken::TooLarge);
                        }
                        Step::More => {}
                        step => {
                            return Read::End { pass: VecDeque::new(), held: VecDeque::from([chunk.clone()]), step };
                        }
                    },
                }
            }
        }
    }

    /// Writes the reply down. Gives the future that makes the turn durable.
    fn settle(&mut self, step: Option<Step>) -> Option<(CommitFuture, bool)> {
        let (mut assembler, mut recorder) = self.writing.take()?;
        let mut step = step;
        if step.is_none()
            && let Some(event) = self.splitter.finish()
        {
            step = Some(assembler.event(&event));
        }
        let reply = assembler.finish();
        let whole = step != Some(Step::Failed) && (reply.whole || step == Some(Step::Last));
        // A refusal to append is found again by the commit.
        let _ = recorder.answer(reply);
        let deliver = recorder.session().policy().on_commit_failure == OnCommitFailure::Deliver;
        let session = recorder.session().clone();
        let commit: CommitFuture = match whole {
            true => Box::pin(async move { session.commit().await }),
            false => Box::pin(async move { session.commit_interrupted().await }),
        };
        Some((commit, deliver))
    }
}

impl Drop for Tee {
    fn drop(&mut self) {
        if let Some((assembler, mut recorder)) = self.writing.take() {
            let _ = recorder.answer(assembler.finish());
        }
    }
}

impl<B> ReplyBody<B> {
    pub(super) fn plain(inner: B) -> Self {
        Self { inner: Some(inner), ready: VecDeque::new(), tee: None, committing: None }
    }

    pub(super) fn full(frames: impl IntoIterator<Item = Frame<Bytes>>) -> Self {
        Self { inner: None, ready: frames.into_iter().collect(), tee: None, committing: None }
    }

    pub(super) fn tee(
        inner: B,
        framing: Framing,
        decoder: Decoder,
        assembler: Box<dyn Assembler>,
        recorder: Recorder,
    ) -> Self {
        // An event repeats little of the reply, but may carry all of it at the end.
        let splitter = Splitter::new(framing, recorder.limit().saturating_mul(2));
        let tee = Tee { splitter, decoder, writing: Some((assembler, recorder)), kept: VecDeque::new() };
        Self { inner: Some(inner), ready: VecDeque::new(), tee: Some(tee), committing: None }
    }
}

impl<B> Body for ReplyBody<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut this = self.project();
        loop {
            if let Some(frame) = this.ready.pop_front() {
                return Poll::Ready(Some(Ok(frame)));
            }
            if let Some(Committing { commit, deliver, held }) = this.committing {
                let result = ready!(commit.as_mut().poll(cx));
                if let Err(error) = result
                    && !*deliver
                {
                    *this.committing = None;
                    *this.tee = None;
                    this.inner.set(None);
                    return Poll::Ready(Some(Err(error.into())));
                }
                this.ready.append(held);
                *this.committing = None;
                continue;
            }
            let Some(inner) = this.inner.as_mut().as_pin_mut() else { return Poll::Ready(None) };
            let Some(tee) = this.tee else {
                return inner.poll_frame(cx).map_err(Into::into);
            };
            match ready!(inner.poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(chunk) => match tee.read(&chunk) {
                        Read::Pass(pass) => this.ready.extend(pass.into_iter().map(Frame::data)),
                        Read::End { pass, held, step } => {
                            this.ready.extend(pass.into_iter().map(Frame::data));
                            let held = held.into_iter().map(Frame::data).collect();
                            *this.committing =
                                tee.settle(Some(step)).map(|(commit, deliver)| Committing { commit, deliver, held });
                        }
                        Read::Broken(error) => {
                            tracing::error!(outcome = "broken off", "{error}");
                            // What came so far is written down, and policy decides about it.
                            *this.tee = None;
                            this.inner.set(None);
                            return Poll::Ready(Some(Err(error.into())));
                        }
                    },
                    Err(trailers) => {
                        // Nothing but the end comes after them.
                        let mut held: VecDeque<_> = tee.kept.drain(..).map(Frame::data).collect();
                        held.push_back(trailers);
                        match tee.settle(None) {
                            Some((commit, deliver)) => *this.committing = Some(Committing { commit, deliver, held }),
                            None => this.ready.append(&mut held),
                        }
                    }
                },
                Some(Err(error)) => {
                    *this.tee = None;
                    this.inner.set(None);
                    return Poll::Ready(Some(Err(error.into())));
                }
                None => {
                    let mut held: VecDeque<_> = tee.kept.drain(..).map(Frame::data).collect();
                    match tee.settle(None) {
                        Some((commit, deliver)) => *this.committing = Some(Committing { commit, deliver, held }),
                        None => this.ready.append(&mut held),
                    }
                    this.inner.set(None);
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        let plain_end = self.tee.is_none() && self.inner.as_ref().is_none_or(Body::is_end_stream);
        self.ready.is_empty() && self.committing.is_none() && (plain_end || self.inner.is_none())
    }

    fn size_hint(&self) -> SizeHint {
        match (&self.inner, &self.tee) {
            (Some(inner), None) => inner.size_hint(),
            (None, _) if self.committing.is_none() => {
                SizeHint::with_exact(self.ready.iter().filter_map(Frame::data_ref).map(|data| data.len() as u64).sum())
            }
            _ => SizeHint::default(),
        }
    }
}

/// Why a reply goes no further.
#[derive(Debug, Clone, Copy, thiserror::Error)]
enum ReplyBroken {
    #[error("the reply is larger than a turn may be")]
    TooLarge,
    #[error("the reply is not what its encoding says, or decodes to too much")]
    Undecodable,
}

impl<B> fmt::Debug for ReplyBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplyBody").field("recording", &self.tee.is_some()).finish_non_exhaustive()
    }
}
