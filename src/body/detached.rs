//! A body that is read to its end whether or not the client stays.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::mpsc;

use super::turn::TurnBody;
use super::{BoxError, Polled};
use crate::error::SessionError;
use crate::session::{Background, TurnGuard};

/// The client's end of a body that a task of its own reads.
pub(super) struct Detached {
    frames: mpsc::Receiver<Item>,
    size_hint: SizeHint,
    ended: bool,
}

/// `None` is the end. A channel that closes without it lost its task, and must not look ended.
type Item = Option<Result<Frame<Bytes>, BoxError>>;

impl Detached {
    /// Starts reading. The task holds the last frame until the turn is durable, as [`TurnBody`] does;
    /// one frame waits in the channel, so a slow client still slows the producer.
    pub(super) fn spawn<B>(inner: B, promised: Option<u64>, guard: TurnGuard) -> Self
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let size_hint = inner.size_hint();
        let (sender, frames) = mpsc::channel(1);
        let background = Arc::new(guard.background());
        let body = TurnBody::new(inner, promised, guard);
        background.spawn(read(body, sender, background.clone()));
        Self { frames, size_hint, ended: false }
    }

    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Polled {
        if self.ended {
            return Poll::Ready(None);
        }
        let frame = match ready!(self.frames.poll_recv(cx)) {
            Some(Some(Ok(frame))) => frame,
            Some(Some(Err(error))) => return self.end(Some(Err(error))),
            Some(None) => return self.end(None),
            None => return self.end(Some(Err(Box::new(SessionError::Lost)))),
        };
        if let (Some(exact), Some(data)) = (self.size_hint.exact(), frame.data_ref()) {
            self.size_hint = SizeHint::with_exact(exact.saturating_sub(data.len() as u64));
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn end(&mut self, last: Item) -> Polled {
        self.ended = true;
        Poll::Ready(last)
    }

    pub(super) fn is_end_stream(&self) -> bool {
        self.ended
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        self.size_hint
    }
}

/// Reads the body to its end; from the moment the client is gone, as background work that is counted.
async fn read<B>(body: TurnBody<B>, client: mpsc::Sender<Item>, background: Arc<Background>)
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    let mut body = pin!(body);
    let mut gone = pin!(client.closed());
    let mut registered = None;
    loop {
        let step = poll_fn(|cx| match body.as_mut().poll_frame(cx) {
            Poll::Ready(item) => Poll::Ready(Step::Item(item)),
            Poll::Pending if registered.is_none() => gone.as_mut().poll(cx).map(|()| Step::ClientGone),
            Poll::Pending => Poll::Pending,
        });
        let left = match step.await {
            Step::Item(item) => {
                let over = !matches!(item, Some(Ok(_)));
                let left = registered.is_none() && client.send(item).await.is_err();
                if over {
                    return;
                }
                left
            }
            Step::ClientGone => true,
        };
        if left {
            registered = background.register();
            if registered.is_none() {
                // Dropped here, the body settles its turn as interrupted.
                tracing::warn!(outcome = "interrupted", "too many bodies are read in the background");
                return;
            }
        }
    }
}

enum Step {
    Item(Item),
    ClientGone,
}
