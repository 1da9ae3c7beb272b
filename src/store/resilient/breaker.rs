//! Knows whether the store is away, so that not everybody has to find out.

use std::error::Error;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::store::{ErrorKind, Operation, StoreError};

/// How often the log says that the store is still away.
const REMINDER: Duration = Duration::from_secs(30);

/// After some failures in a row it lets nobody through for a while, then one call that tries.
#[derive(Debug)]
pub(super) struct Breaker {
    /// Its name, for the log.
    store: &'static str,
    threshold: u32,
    pause: Duration,
    state: Mutex<State>,
}

/// Why a call was refused that did not reach the store.
#[derive(Debug)]
pub(super) struct Open;

impl fmt::Display for Open {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("it was away a moment ago and is not asked again yet")
    }
}

impl Error for Open {}

/// A call on its way. Dropped before its answer came it is a failure, if that was long in coming: a
/// store that hangs shows itself like this to callers that are less patient than it is.
pub(super) struct Waiting<'a> {
    breaker: &'a Breaker,
    operation: Operation,
    since: Instant,
    silence: Duration,
    answered: bool,
}

impl Waiting<'_> {
    pub(super) fn ended(mut self) {
        self.answered = true;
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let waited = self.since.elapsed();
        if !self.answered && waited >= self.silence {
            let gave_up = StoreError::new(ErrorKind::Unavailable, self.breaker.store, self.operation);
            self.breaker.failed(&gave_up.with_source(format!("given up after {} ms", waited.as_millis())));
        }
    }
}

#[derive(Debug)]
enum State {
    /// The store answers; so many failures in a row were seen.
    Closed(u32),
    /// It is away.
    Open(Outage),
}

#[derive(Debug)]
struct Outage {
    since: Instant,
    /// Nobody gets through before this moment; then one call does.
    until: Instant,
    /// When the log last said so.
    told: Instant,
    /// Calls that did not get through.
    refused: u64,
}

impl Breaker {
    pub(super) fn new(store: &'static str, threshold: u32, pause: Duration) -> Self {
        Self { store, threshold: threshold.max(1), pause, state: Mutex::new(State::Closed(0)) }
    }

    /// Whether a call may be made. Who gets `true` reports how it went, or was dropped: then the next
    /// one may try after another pause.
    pub(super) fn admits(&self) -> bool {
        let now = Instant::now();
        match &mut *self.state() {
            State::Closed(_) => true,
            State::Open(outage) if now >= outage.until => {
                outage.until = now + self.pause;
                true
            }
            State::Open(outage) => {
                outage.refused += 1;
                false
            }
        }
    }

    /// For a call that [`admits`](Self::admits) let through.
    pub(super) fn waiting(&self, operation: Operation, silence: Duration) -> Waiting<'_> {
        Waiting { breaker: self, operation, since: Instant::now(), silence, answered: false }
    }

    /// The store answered, be it with a refusal.
    pub(super) fn answered(&self) {
        let before = std::mem::replace(&mut *self.state(), State::Closed(0));
        if let State::Open(Outage { since, refused, .. }) = before {
            let away_ms = since.elapsed().as_millis() as u64;
            tracing::warn!(store = self.store, away_ms, refused, "the store is back");
        }
    }

    /// The store could not be reached, or did not answer, and this is why. Whether the log says so,
    /// now or since a short while.
    pub(super) fn failed(&self, why: &dyn Error) -> bool {
        let now = Instant::now();
        let (store, until) = (self.store, now + self.pause);
        let cause = || why.source().map(ToString::to_string).unwrap_or_default();
        let mut state = self.state();
        match &mut *state {
            State::Closed(failures) if *failures + 1 < self.threshold => {
                *failures += 1;
                return false;
            }
            State::Closed(failures) => {
                let failures = *failures + 1;
                *state = State::Open(Outage { since: now, until, told: now, refused: 0 });
                drop(state);
                tracing::error!(
                    store,
                    failures,
                    error = %why,
                    cause = cause(),
                    "the store is away: loads are refused at once"
                );
            }
            State::Open(outage) => {
                outage.until = until;
                if now >= outage.told + REMINDER {
                    outage.told = now;
                    let (away_ms, refused) = ((now - outage.since).as_millis() as u64, outage.refused);
                    drop(state);
                    tracing::error!(store, away_ms, refused, error = %why, cause = cause(), "the store is still away");
                }
            }
        }
        true
    }

    pub(super) fn is_open(&self) -> bool {
        matches!(*self.state(), State::Open(_))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing can panic while it is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn it_opens_after_failures_in_a_row_and_lets_one_try() {
        let breaker = Breaker::new("a store", 3, PAUSE);
        breaker.failed(&Open);
        breaker.failed(&Open);
        breaker.answered();
        breaker.failed(&Open);
        breaker.failed(&Open);
        assert!(breaker.admits(), "two in a row are not three");
        breaker.failed(&Open);
        assert!(!breaker.admits());

        tokio::time::advance(PAUSE).await;
        assert!(breaker.admits(), "one may try");
        assert!(!breaker.admits(), "and nobody else");
        breaker.failed(&Open);
        assert!(!breaker.admits());

        tokio::time::advance(PAUSE).await;
        assert!(breaker.admits());
        breaker.answered();
        assert!(breaker.admits() && breaker.admits() && !breaker.is_open());
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_was_dropped_while_trying_does_not_close_it_for_ever() {
        let breaker = Breaker::new("a store", 1, PAUSE);
        breaker.failed(&Open);
        tokio::time::advance(PAUSE).await;
        assert!(breaker.admits());
        assert!(!breaker.admits());
        tokio::time::advance(PAUSE).await;
        assert!(breaker.admits());
    }
}
