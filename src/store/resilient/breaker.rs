//! Knows whether the store is away, so that not everybody has to find out.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// After some failures in a row it lets nobody through for a while, then one call that tries.
#[derive(Debug)]
pub(super) struct Breaker {
    threshold: u32,
    pause: Duration,
    state: Mutex<State>,
}

#[derive(Debug)]
enum State {
    /// The store answers; so many failures in a row were seen.
    Closed(u32),
    /// Nobody gets through before this moment; then one call does.
    Open { until: Instant },
    /// One call is trying since this moment.
    Trying { since: Instant },
}

impl Breaker {
    pub(super) fn new(threshold: u32, pause: Duration) -> Self {
        Self { threshold: threshold.max(1), pause, state: Mutex::new(State::Closed(0)) }
    }

    /// Whether a call may be made. Who gets `true` reports how it went, or was dropped: then the next
    /// one may try after another pause.
    pub(super) fn admits(&self) -> bool {
        let now = Instant::now();
        let mut state = self.state();
        let may = match *state {
            State::Closed(_) => return true,
            State::Open { until } => now >= until,
            State::Trying { since } => now >= since + self.pause,
        };
        if may {
            *state = State::Trying { since: now };
        }
        may
    }

    /// The store answered, be it with a refusal.
    pub(super) fn answered(&self) {
        let before = std::mem::replace(&mut *self.state(), State::Closed(0));
        if !matches!(before, State::Closed(_)) {
            tracing::info!("the store is back");
        }
    }

    /// The store could not be reached, or did not answer.
    pub(super) fn failed(&self) {
        let until = Instant::now() + self.pause;
        let mut state = self.state();
        match *state {
            State::Closed(failures) if failures + 1 < self.threshold => *state = State::Closed(failures + 1),
            State::Closed(failures) => {
                tracing::warn!(failures = failures + 1, "the store is away: loads are refused at once");
                *state = State::Open { until };
            }
            State::Open { .. } | State::Trying { .. } => *state = State::Open { until },
        }
    }

    pub(super) fn is_open(&self) -> bool {
        !matches!(*self.state(), State::Closed(_))
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
        let breaker = Breaker::new(3, PAUSE);
        breaker.failed();
        breaker.failed();
        breaker.answered();
        breaker.failed();
        breaker.failed();
        assert!(breaker.admits(), "two in a row are not three");
        breaker.failed();
        assert!(!breaker.admits());

        tokio::time::advance(PAUSE).await;
        assert!(breaker.admits(), "one may try");
        assert!(!breaker.admits(), "and nobody else");
        breaker.failed();
        assert!(!breaker.admits());

        tokio::time::advance(PAUSE).await;
        assert!(breaker.admits());
        breaker.answered();
        assert!(breaker.admits() && breaker.admits() && !breaker.is_open());
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_was_dropped_while_trying_does_not_close_it_for_ever() {
        let breaker = Breaker::new(1, PAUSE);
        breaker.failed();
        tokio::time::advance(PAUSE).await;
        assert!(breaker.admits());
        assert!(!breaker.admits());
        tokio::time::advance(PAUSE).await;
        assert!(breaker.admits());
    }
}
