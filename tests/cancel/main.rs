//! Requests dropped at every point where they can be, and bodies polled as often as they must be.

#[path = "../common/around.rs"]
#[allow(dead_code, unreachable_pub, reason = "other test binaries use it too")]
mod around;

mod bodies;
mod cut;
mod settled;

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body::{Body, Frame};
use tower_session_memory::identity::Header;
use tower_session_memory::store::{Append, Appended, Loaded, Read};
use tower_session_memory::{
    ChatSession, ConversationId, InMemory, OnDisconnect, Policy, SessionKey, SessionMemoryLayer, Store, StoreError,
    Window,
};

use crate::around::{Around, Wrapped};

/// An in-memory store that takes a few polls for everything, before and after it has done it.
#[derive(Clone, Debug, Default)]
struct Hesitant(Arc<InMemory>);

const HESITATION: usize = 3;

async fn hesitate() {
    for _ in 0..HESITATION {
        tokio::task::yield_now().await;
    }
}

impl Around for Hesitant {
    type Inside = InMemory;

    fn inside(&self) -> &InMemory {
        &self.0
    }

    async fn load(&self, key: &SessionKey, read: &Read) -> Result<Loaded, StoreError> {
        hesitate().await;
        self.0.load(key, read).await
    }

    async fn append(&self, key: &SessionKey, append: &Append) -> Result<Appended, StoreError> {
        hesitate().await;
        let appended = self.0.append(key, append).await;
        hesitate().await;
        appended
    }
}

impl Hesitant {
    async fn turns(&self) -> Vec<tower_session_memory::Turn> {
        let key = SessionKey::new(ConversationId::parse("s").unwrap());
        self.0.load(&key, &Read::new(Window::ALL)).await.unwrap().turns
    }
}

/// What a body does each time it is polled.
enum Step {
    Wait,
    Data(&'static str),
    Trailers,
}

/// A body that follows a script, counts its polls, and panics when it is polled after its end.
struct Scripted {
    steps: std::vec::IntoIter<Step>,
    says_when_it_ends: bool,
    over: bool,
    polls: Arc<AtomicUsize>,
    _session: Option<ChatSession>,
}

impl Body for Scripted {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        assert!(!self.over, "polled after its end");
        self.polls.fetch_add(1, Ordering::Relaxed);
        let frame = match self.steps.next() {
            Some(Step::Wait) => {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Some(Step::Data(text)) => Some(Frame::data(Bytes::from_static(text.as_bytes()))),
            Some(Step::Trailers) => {
                self.over = true;
                Some(Frame::trailers(HeaderMap::new()))
            }
            None => {
                self.over = true;
                None
            }
        };
        Poll::Ready(frame.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.says_when_it_ends && self.steps.as_slice().is_empty()
    }
}

fn layer(store: &Hesitant, on_disconnect: OnDisconnect) -> SessionMemoryLayer {
    let mut policy = Policy::default();
    policy.on_disconnect = on_disconnect;
    SessionMemoryLayer::new(Wrapped(store.clone()), Header::conversation("x-conversation-id"))
        .with_policy(policy)
        .unwrap()
}

fn request() -> Request<()> {
    Request::builder().header("x-conversation-id", "s").body(()).unwrap()
}

/// Polls a future at most `polls` times; what it gave, if it was ready by then.
async fn poll_at_most<F: Future>(polls: usize, future: F) -> Option<F::Output> {
    let mut future = Box::pin(future);
    for _ in 0..polls {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return Some(output);
        }
        // The producer's task and the store go on meanwhile.
        tokio::task::yield_now().await;
    }
    None
}
