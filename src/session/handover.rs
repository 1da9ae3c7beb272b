//! Work that outlives its request: counted, named by hash, waited for at shutdown.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use crate::key::SessionHash;

/// Commits and bodies that go on after their clients left.
#[derive(Debug, Default)]
pub(crate) struct HandOver {
    tracker: TaskTracker,
    /// The runtime of the last request: a drop may happen on a thread that has none.
    runtime: OnceLock<Handle>,
    outstanding: Mutex<Outstanding>,
}

#[derive(Debug, Default)]
struct Outstanding {
    next: u64,
    sessions: HashMap<u64, SessionHash>,
}

/// Not everything was settled when [`drain`](crate::SessionMemoryLayer::drain)'s deadline came.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{outstanding} turns were not settled in time")]
#[non_exhaustive]
pub struct DrainError {
    /// How many turns were still being settled.
    pub outstanding: usize,
}

/// One piece of background work, off the list when it ends, is dropped, or panics.
#[derive(Debug)]
pub(crate) struct Registered {
    handover: Arc<HandOver>,
    id: u64,
}

impl HandOver {
    /// Remembers the runtime that requests run on. Called in every request, inside the runtime.
    pub(crate) fn enter(&self) {
        if self.runtime.get().is_none()
            && let Ok(handle) = Handle::try_current()
        {
            let _ = self.runtime.set(handle);
        }
    }

    /// How much goes on in the background.
    pub(crate) fn len(&self) -> usize {
        self.lock().sessions.len()
    }

    pub(crate) fn register(self: &Arc<Self>, session: SessionHash) -> Registered {
        let mut outstanding = self.lock();
        let id = outstanding.next;
        outstanding.next += 1;
        outstanding.sessions.insert(id, session);
        Registered { handover: self.clone(), id }
    }

    /// Runs `work` to its end whatever becomes of the caller. False when there is no runtime.
    pub(crate) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) -> bool {
        let Ok(handle) = Handle::try_current().or_else(|error| self.runtime.get().cloned().ok_or(error)) else {
            return false;
        };
        self.tracker.spawn_on(work.in_current_span(), &handle);
        true
    }

    /// Waits until nothing goes on in the background.
    pub(crate) async fn drain(&self, deadline: Duration) -> Result<(), DrainError> {
        self.tracker.close();
        let begun = self.tracker.len();
        if tokio::time::timeout(deadline, self.tracker.wait()).await.is_ok() {
            tracing::info!(turns = begun, outcome = "settled", "session memory drained");
            return Ok(());
        }
        let left: Vec<SessionHash> = self.lock().sessions.values().copied().collect();
        for session in &left {
            tracing::error!(%session, outcome = "outstanding", "turn not settled when the drain deadline came");
        }
        Err(DrainError { outstanding: self.tracker.len().max(left.len()) })
    }

    fn lock(&self) -> MutexGuard<'_, Outstanding> {
        self.outstanding.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.handover.lock().sessions.remove(&self.id);
    }
}
