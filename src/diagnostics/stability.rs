//! Do sessions ever come back? Four counters say; no ids are kept.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Of so many loads, this share must be of new sessions to be odd, in percent.
const NEARLY_ALL: u32 = 95;

/// Counts over the current stretch of loads.
#[derive(Debug)]
pub(super) struct Stability {
    loads: AtomicU32,
    fresh: AtomicU32,
    minted: AtomicU32,
    stored: AtomicU32,
    begun: Instant,
    /// Milliseconds since `begun`, plus 1, of the last warning; 0 for none.
    warned: AtomicU64,
}

/// A stretch in which nearly every load was of a new session.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Odd {
    pub(super) loads: u32,
    /// Sessions without a turn.
    pub(super) fresh: u32,
    /// Sessions that were begun because the request named none.
    pub(super) minted: u32,
    /// Turns that were stored meanwhile.
    pub(super) stored: u32,
}

impl Stability {
    pub(super) fn new() -> Self {
        Self {
            loads: AtomicU32::new(0),
            fresh: AtomicU32::new(0),
            minted: AtomicU32::new(0),
            stored: AtomicU32::new(0),
            begun: Instant::now(),
            warned: AtomicU64::new(0),
        }
    }

    pub(super) fn stored(&self) {
        self.stored.fetch_add(1, Relaxed);
    }

    /// Counts a load; at the end of a stretch says whether it was odd, if that was not said within
    /// `interval`. Counts of requests that run at the same moment may fall into the next stretch.
    pub(super) fn load(&self, fresh: bool, minted: bool, stretch: u32, interval: Duration) -> Option<Odd> {
        self.fresh.fetch_add(fresh.into(), Relaxed);
        self.minted.fetch_add(minted.into(), Relaxed);
        if stretch == 0 || self.loads.fetch_add(1, Relaxed) + 1 != stretch {
            return None;
        }
        self.loads.store(0, Relaxed);
        let odd = Odd {
            loads: stretch,
            fresh: self.fresh.swap(0, Relaxed),
            minted: self.minted.swap(0, Relaxed),
            stored: self.stored.swap(0, Relaxed),
        };
        (u64::from(odd.fresh) * 100 >= u64::from(stretch) * u64::from(NEARLY_ALL) && self.may_warn(interval))
            .then_some(odd)
    }

    fn may_warn(&self, interval: Duration) -> bool {
        let now = self.begun.elapsed().as_millis() as u64 + 1;
        let warned = self.warned.load(Relaxed);
        let quiet = warned != 0 && u128::from(now - warned.min(now)) < interval.as_millis();
        !quiet && self.warned.compare_exchange(warned, now, Relaxed, Relaxed).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn run(stability: &Stability, loads: u32, fresh: impl Fn(u32) -> bool) -> Vec<Odd> {
        (0..loads).filter_map(|n| stability.load(fresh(n), false, 100, HOUR)).collect()
    }

    #[test]
    fn a_stretch_of_new_sessions_is_odd_once_an_interval() {
        let stability = Stability::new();
        assert_eq!(run(&stability, 99, |_| true), []);
        assert_eq!(run(&stability, 301, |_| true), [Odd { loads: 100, fresh: 100, minted: 0, stored: 0 }]);
    }

    #[test]
    fn sessions_that_come_back_are_not_odd() {
        assert_eq!(run(&Stability::new(), 1_000, |n| n % 10 != 0), []);
    }

    #[test]
    fn a_stretch_of_zero_never_looks() {
        let stability = Stability::new();
        assert!((0..1_000).all(|_| stability.load(true, true, 0, HOUR).is_none()));
    }
}
