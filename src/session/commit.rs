//! Making a turn durable: a future that runs inline and, when dropped half-way, goes on elsewhere.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use tokio::time::timeout;
use tracing::Instrument;

use super::pending::Seal;
use super::{Buffer, Shared};
use crate::error::SessionError;
use crate::store::{Append, Appended, ErrorKind};
use crate::turn::{Head, Turn, TurnId, TurnStatus};

/// How a turn was settled.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Committed {
    /// The turn is durable.
    Stored {
        /// The session's head with this turn as the newest.
        head: Head,
        /// Whether other turns were stored since the history was loaded: this turn's handler had
        /// not seen them.
        rebased: bool,
    },
    /// An earlier attempt under the same idempotency key stored its turn, which stands; what was
    /// appended now is not stored.
    Duplicate {
        /// The session's head now.
        head: Head,
        /// The turn that is stored.
        turn: Turn,
    },
    /// Nothing had been appended, or the handler discarded it, so nothing was stored.
    Nothing,
}

pub(crate) type CommitResult = Result<Committed, SessionError>;
type Driving = Pin<Box<dyn Future<Output = CommitResult> + Send>>;

/// The duty to make a turn durable.
///
/// Whoever sealed the turn drives the store's future inline: no task, no channel. Dropped before its
/// end, the very same future moves to the background, so the write is neither cut in half nor run
/// twice. Everybody else waits for the result.
pub(crate) struct Commit {
    shared: Arc<Shared>,
    /// `None` while polled, once finished, and for those who only wait.
    driving: Option<Driving>,
}

impl Commit {
    /// Seals the turn and begins to make it durable, unless somebody else did.
    pub(crate) fn begin(shared: Arc<Shared>, status: TurnStatus) -> Self {
        let driving = match shared.pending.seal() {
            Seal::Mine(buffer) => drive(&shared, buffer, status),
            Seal::Theirs | Seal::Settled(_) => None,
        };
        Self { shared, driving }
    }
}

impl Future for Commit {
    type Output = CommitResult;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<CommitResult> {
        // Taken out while it is polled: a store that panics must not be polled again from `drop`.
        let Some(mut driving) = self.driving.take() else {
            return self.shared.pending.poll_settled(cx);
        };
        match driving.as_mut().poll(cx) {
            Poll::Ready(result) => Poll::Ready(result),
            Poll::Pending => {
                self.driving = Some(driving);
                Poll::Pending
            }
        }
    }
}

impl Drop for Commit {
    fn drop(&mut self) {
        if let Some(driving) = self.driving.take() {
            tracing::debug!(session = %self.shared.key.hashed(), "commit handed over: its request is gone");
            self.shared.hand_over(async move {
                // Its own end logs the outcome and tells whoever waits.
                let _ = driving.await;
            });
        }
    }
}

/// The commit's future; `None` when there was nothing to do and the turn is settled already.
fn drive(shared: &Arc<Shared>, buffer: Buffer, status: TurnStatus) -> Option<Driving> {
    if let Some(refused) = buffer.refused {
        shared.pending.settle(Err(SessionError::Incomplete(refused)));
        return None;
    }
    if buffer.messages.is_empty() {
        shared.pending.settle(Ok(Committed::Nothing));
        return None;
    }
    let status = if buffer.broke_off { TurnStatus::Interrupted } else { status };
    // An interrupted turn must not use up the client's idempotency key: the retry that the client
    // will make is to be run and stored whole.
    let id = if status == TurnStatus::Interrupted && shared.id_is_clients { TurnId::random() } else { shared.id };
    let turn = Turn::new(id, status, buffer.messages).with_note(buffer.note.as_deref());
    let span = tracing::debug_span!(
        "session_commit",
        store = shared.backend.info.name,
        session = %shared.key.hashed(),
        gen_ai.conversation.id = %shared.backend.observer.conversation(&shared.key),
        messages = turn.messages().len(),
        bytes = turn.bytes(),
        status = status.as_str(),
    );
    let shared = shared.clone();
    Some(Box::pin(
        async move {
            let answer = Answer { shared };
            let result = append(&answer.shared, turn).await;
            answer.shared.pending.settle(result.clone());
            result
        }
        .instrument(span),
    ))
}

/// Leaves nobody waiting for ever, even if the store panics.
struct Answer {
    shared: Arc<Shared>,
}

impl Drop for Answer {
    fn drop(&mut self) {
        // The first word stands: after an ordinary end this one is not heard.
        self.shared.pending.settle(Err(SessionError::Lost));
    }
}

async fn append(shared: &Shared, turn: Turn) -> CommitResult {
    let backend = &shared.backend;
    let policy = &backend.policy;
    let mut append =
        Append::unconditional(turn).concurrency(policy.concurrency).ttl(policy.ttl).retention(policy.retention);
    append.expected = shared.expected;
    append.lineage = shared.lineage;
    let (turn, began) = ((append.turn.status(), append.turn.bytes()), Instant::now());
    // A client's id was looked for in the load and any other is fresh: only later turns can have it.
    append.searched = shared.expected.is_some() && shared.replay.is_none();
    let stored = timeout(policy.deadlines.commit, backend.store.append_owned(shared.key.clone(), append)).await;
    let result = match stored {
        Ok(Ok(appended)) => Ok(committed(shared.expected, appended)),
        Ok(Err(error)) => Err(SessionError::Commit(Arc::new(error))),
        Err(_) => Err(SessionError::CommitDeadline(policy.deadlines.commit)),
    };
    backend.observer.committed(outcome(&result), result.is_ok(), turn, began.elapsed());
    report(&result);
    result
}

fn committed(expected: Option<Head>, appended: Appended) -> Committed {
    let Appended { head, sequence, duplicate_of, .. } = appended;
    match duplicate_of {
        Some(turn) => Committed::Duplicate { head, turn },
        None => Committed::Stored { head, rebased: expected.is_some_and(|seen| seen.sequence + 1 != sequence) },
    }
}

/// The word that logs and metrics use.
fn outcome(result: &CommitResult) -> &'static str {
    match result {
        Ok(Committed::Stored { rebased: false, .. }) => "stored",
        Ok(Committed::Stored { rebased: true, .. }) => "rebased",
        Ok(Committed::Duplicate { .. }) => "duplicate",
        Ok(Committed::Nothing) => "nothing",
        Err(SessionError::Commit(error)) => error.kind().as_str(),
        Err(error) => error.code(),
    }
}

fn report(result: &CommitResult) {
    let outcome = outcome(result);
    match result {
        Ok(Committed::Stored { .. }) => tracing::debug!(outcome, "turn committed"),
        Ok(Committed::Duplicate { .. }) => tracing::info!(outcome, "turn was stored before"),
        Ok(Committed::Nothing) => {}
        Err(SessionError::Commit(error)) if error.kind() == ErrorKind::Conflict => {
            tracing::info!(outcome, "turn refused: the session moved on");
        }
        Err(error) => tracing::error!(outcome, error = %Chain(error), "turn not committed"),
    }
}

/// An error and its causes, on one line.
pub(crate) struct Chain<'a>(pub(crate) &'a dyn std::error::Error);

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(cause) = source {
            write!(f, ": {cause}")?;
            source = cause.source();
        }
        Ok(())
    }
}
