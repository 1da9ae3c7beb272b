//! The layer's own hold on a turn: whatever happens to the request, the turn is settled.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::time::timeout;

use super::commit::Commit;
use super::handover::Registered;
use super::pending::Seal;
use super::{Backend, Shared};
use crate::error::SessionError;
use crate::policy::{OnDisconnect, Policy};
use crate::turn::TurnStatus;

/// The duty to settle a turn: by committing it, by discarding it, or, when dropped with the request,
/// as policy says of clients that leave.
pub(crate) struct TurnGuard {
    /// `None` once the duty is done.
    shared: Option<Arc<Shared>>,
}

impl TurnGuard {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared: Some(shared) }
    }

    fn shared(&self) -> &Arc<Shared> {
        self.shared.as_ref().expect("taken only by methods that consume the guard")
    }

    pub(crate) fn policy(&self) -> &Policy {
        &self.shared().backend.policy
    }

    /// Whether every [`ChatSession`](crate::ChatSession) of the request is gone: nobody can append.
    pub(crate) fn no_writer_left(&self) -> bool {
        self.shared().pending.writers_are_gone()
    }

    /// The response reached its end: makes the turn durable.
    pub(crate) fn commit(mut self) -> Commit {
        let shared = self.shared.take().expect("taken only by methods that consume the guard");
        Commit::begin(shared, TurnStatus::Complete)
    }

    /// The response failed: forgets what was appended.
    pub(crate) fn discard(mut self) {
        if let Some(shared) = self.shared.take() {
            shared.discard();
        }
    }

    /// The connection is no longer ours (an upgrade): only an explicit commit counts.
    pub(crate) fn release(mut self) {
        self.shared = None;
    }

    /// After `deadlines.body` the turn is settled as for a client that left, even if nobody polls the
    /// body, and [`TurnGuard::poll_expired`] is ready.
    pub(crate) fn watch(&self) -> Watch {
        let shared = self.shared().clone();
        let task = tokio::spawn(async move {
            tokio::time::sleep(shared.backend.policy.deadlines.body).await;
            shared.pending.expire();
            settle_early(shared);
        });
        Watch(task.abort_handle())
    }

    pub(crate) fn poll_expired(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.shared().pending.poll_expired(cx)
    }

    /// A hold on the background, for work that goes on when the guard is gone.
    pub(crate) fn background(&self) -> Background {
        Background(self.shared().clone())
    }
}

/// Where work goes that outlives its request.
pub(crate) struct Background(Arc<Shared>);

impl Background {
    /// Puts the turn on the list of background work; `None` when that is full.
    pub(crate) fn register(&self) -> Option<Registered> {
        let Backend { handover, policy, .. } = &*self.0.backend;
        (handover.len() < policy.limits.pending).then(|| handover.register(self.0.key.hashed()))
    }

    /// Runs `work` whatever becomes of the request; without a runtime it is dropped.
    pub(crate) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.0.backend.handover.spawn(work);
    }
}

impl Drop for TurnGuard {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.take() {
            settle_early(shared);
        }
    }
}

/// The body's deadline, called off when the body is done.
pub(crate) struct Watch(tokio::task::AbortHandle);

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The client left, the response broke off, or its time is up. Runs in `drop`: no waiting, no panic.
fn settle_early(shared: Arc<Shared>) {
    if shared.backend.policy.on_disconnect == OnDisconnect::Discard {
        return shared.discard();
    }
    if shared.pending.writers_are_gone() {
        // Dropping the commit hands it over; an empty turn is settled at once.
        drop(Commit::begin(shared, TurnStatus::Interrupted));
        return;
    }
    // A producer is still at work. It will notice that nobody listens and append what it has.
    let waiting = shared.clone();
    shared.hand_over(async move {
        let writers = poll_fn(|cx| waiting.pending.poll_writers_gone(cx));
        let _ = timeout(waiting.backend.policy.deadlines.grace, writers).await;
        let _ = Commit::begin(waiting, TurnStatus::Interrupted).await;
    });
}

impl Shared {
    pub(super) fn discard(&self) {
        if let Seal::Mine(_) = self.pending.seal() {
            self.pending.settle(Err(SessionError::Discarded));
        }
    }

    pub(super) fn hand_over(&self, work: impl Future<Output = ()> + Send + 'static) {
        let Backend { handover, observer, .. } = &*self.backend;
        let registered = handover.register(self.key.hashed());
        observer.handed_over(handover.len());
        let backend = self.backend.clone();
        let taken = handover.spawn(async move {
            work.await;
            drop(registered);
            backend.observer.pending(backend.handover.len());
        });
        if !taken {
            tracing::error!(session = %self.key.hashed(), outcome = "lost", "turn dropped outside of a runtime");
        }
    }
}
