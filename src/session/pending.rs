//! The only lock: what a turn holds until it is settled, and who waits for that.
//!
//! This file knows nothing of messages, stores or runtimes: a model checker compiles it with its own
//! `sync` and walks through every interleaving (`tests/model.rs`).

use std::task::{Context, Poll, Waker};

use super::sync::{Mutex, MutexGuard, PoisonError};

/// A buffer `B` that is open until somebody seals it, then becomes a result `R`, exactly once.
pub(crate) struct Pending<B, R> {
    state: Mutex<State<B, R>>,
}

struct State<B, R> {
    phase: Phase<B, R>,
    writers_gone: bool,
    expired: bool,
    wakers: Vec<Waker>,
}

enum Phase<B, R> {
    Open(B),
    Sealed,
    Settled(R),
}

/// What sealing found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Seal<B, R> {
    /// It was open: the caller has the buffer now and owes a call of [`Pending::settle`].
    Mine(B),
    /// Somebody else sealed it and will settle it.
    Theirs,
    /// It is settled.
    Settled(R),
}

impl<B, R: Clone> Pending<B, R> {
    pub(crate) fn new(buffer: B) -> Self {
        let state = State { phase: Phase::Open(buffer), writers_gone: false, expired: false, wakers: Vec::new() };
        Self { state: Mutex::new(state) }
    }

    /// Changes the buffer if it is open.
    pub(crate) fn with_open<T>(&self, change: impl FnOnce(&mut B) -> T) -> Option<T> {
        match &mut self.lock().phase {
            Phase::Open(buffer) => Some(change(buffer)),
            Phase::Sealed | Phase::Settled(_) => None,
        }
    }

    /// Takes the buffer, if nobody has: of any number of callers just one gets it.
    pub(crate) fn seal(&self) -> Seal<B, R> {
        let mut state = self.lock();
        match std::mem::replace(&mut state.phase, Phase::Sealed) {
            Phase::Open(buffer) => Seal::Mine(buffer),
            Phase::Sealed => Seal::Theirs,
            Phase::Settled(result) => {
                state.phase = Phase::Settled(result.clone());
                Seal::Settled(result)
            }
        }
    }

    /// Says how it went; the first word stands.
    pub(crate) fn settle(&self, result: R) {
        let mut state = self.lock();
        if !matches!(state.phase, Phase::Settled(_)) {
            state.phase = Phase::Settled(result);
        }
        Self::wake(state);
    }

    /// Says that nobody is left who could change the buffer.
    pub(crate) fn close_writers(&self) {
        let mut state = self.lock();
        state.writers_gone = true;
        Self::wake(state);
    }

    /// Says that time is up for whoever polls [`Pending::poll_expired`].
    pub(crate) fn expire(&self) {
        let mut state = self.lock();
        state.expired = true;
        Self::wake(state);
    }

    pub(crate) fn poll_settled(&self, cx: &mut Context<'_>) -> Poll<R> {
        self.poll(cx, |state| match &state.phase {
            Phase::Settled(result) => Some(result.clone()),
            Phase::Open(_) | Phase::Sealed => None,
        })
    }

    pub(crate) fn poll_writers_gone(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.poll(cx, |state| state.writers_gone.then_some(()))
    }

    pub(crate) fn poll_expired(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.poll(cx, |state| state.expired.then_some(()))
    }

    pub(crate) fn writers_are_gone(&self) -> bool {
        self.lock().writers_gone
    }

    /// Looks and registers under one lock, so that no change falls between the two.
    fn poll<T>(&self, cx: &mut Context<'_>, look: impl FnOnce(&State<B, R>) -> Option<T>) -> Poll<T> {
        let mut state = self.lock();
        if let Some(seen) = look(&state) {
            return Poll::Ready(seen);
        }
        if !state.wakers.iter().any(|waker| waker.will_wake(cx.waker())) {
            state.wakers.push(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Wakes outside the lock: a waker may run anything.
    fn wake(mut state: MutexGuard<'_, State<B, R>>) {
        let wakers = std::mem::take(&mut state.wakers);
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }

    fn lock(&self) -> MutexGuard<'_, State<B, R>> {
        // Only `with_open` runs foreign code under the lock; the state around it stays whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
