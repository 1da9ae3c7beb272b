//! Tries again where that is safe, and knows when to leave the store alone.

use std::fmt;
use std::time::Duration;

use tokio::time::Instant;
use tower::retry::backoff::{Backoff, ExponentialBackoff, ExponentialBackoffMaker, MakeBackoff};
use tower::retry::budget::{Budget, TpsBudget};
use tower::util::rng::HasherRng;

use self::breaker::{Breaker, Open};
use super::{
    Append, Appended, Deleted, ErrorKind, Loaded, Operation, Page, PoolState, Read, SessionPage, Store, StoreError,
    StoreInfo,
};
use crate::key::{Scope, SessionKey};

mod breaker;

/// Any store on a network, with retries and a breaker in front of it.
///
/// What is tried again, after a pause that grows and is random:
///
/// * Anything that failed with [`ErrorKind::Unavailable`]: nothing was written.
/// * An append or a delete that failed with [`ErrorKind::Ambiguous`], **as the identical attempt**: the
///   same turn id is stored once, however often it arrives. If the retries end without an answer, or
///   with a failure that leaves the earlier attempt open, the outcome stays ambiguous and is said so.
///
/// Every other failure is an answer and is passed on. Loads are retried within a budget (a fifth of
/// the calls, and 10 a second), so that a store in trouble does not get more load for it. Appends
/// are **accepted turns**: they are tried for as long as [`ResilientOptions::append_patience`] says.
///
/// After several failures in a row the breaker opens: loads fail at once with
/// [`ErrorKind::Unavailable`], which the layer answers with 503, and one call at a time tries whether
/// the store is back. Appends do not wait for the breaker, only for their pauses.
///
/// The log says once that the store is away and why (`ERROR`), every 30 seconds that it still is
/// (`ERROR`), and that it is back, after how long and how many refusals (`WARN`). The failures in between are
/// marked as [reported](StoreError::reported), and the layer writes no line above `DEBUG` for each load.
pub struct Resilient<S> {
    store: S,
    options: ResilientOptions,
    budget: TpsBudget,
    breaker: Breaker,
}

/// How patient a [`Resilient`] store is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ResilientOptions {
    /// How often a load, a delete, a listing is tried at most. Default: 3; it costs a request two
    /// pauses more before it is told that the store is away.
    pub attempts: u32,
    /// How long an append is tried. Default: 8 s, less than the layer's commit deadline; it costs
    /// a client that long at the end of its response while the store is away.
    pub append_patience: Duration,
    /// The first pause, which doubles each time and is varied by half. Default: 20 ms; it costs every
    /// retried call that long at least.
    pub pause: Duration,
    /// The longest pause. Default: 500 ms; it costs a waiting append up to that long, and half of it more,
    /// after the store is back.
    pub longest_pause: Duration,
    /// Failures in a row that open the breaker. Default: 8; it costs so many calls their whole deadline before the
    /// others are spared it.
    pub breaker_failures: u32,
    /// A call that its caller gave up after so long without an answer is a failure, too. Default: 1 s, less
    /// than the layer's load deadline; a store that takes longer to answer is taken to be away.
    pub breaker_silence: Duration,
    /// How long the open breaker waits before it lets a call try. Default: 500 ms; it costs loads that are
    /// refused up to that long after the store is back.
    pub breaker_pause: Duration,
}

impl Default for ResilientOptions {
    fn default() -> Self {
        Self {
            attempts: 3,
            append_patience: Duration::from_secs(8),
            pause: Duration::from_millis(20),
            longest_pause: Duration::from_millis(500),
            breaker_failures: 8,
            breaker_silence: Duration::from_secs(1),
            breaker_pause: Duration::from_millis(500),
        }
    }
}

impl<S: Store> Resilient<S> {
    /// In front of this store, with the default options.
    pub fn new(store: S) -> Self {
        Self::with_options(store, ResilientOptions::default())
    }

    /// In front of this store.
    pub fn with_options(store: S, options: ResilientOptions) -> Self {
        let budget = TpsBudget::new(Duration::from_secs(10), 10, 0.2);
        let breaker = Breaker::new(store.info().name, options.breaker_failures, options.breaker_pause);
        Self { store, options, budget, breaker }
    }

    /// The store behind.
    pub fn inner(&self) -> &S {
        &self.store
    }

    /// Whether the store is taken to be away.
    pub fn is_open(&self) -> bool {
        self.breaker.is_open()
    }

    /// A call of which nothing is lost when it fails.
    async fn attempt<T, F>(&self, operation: Operation, call: impl Fn() -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let mut pauses = None;
        let mut ambiguous = false;
        let mut attempts = 0;
        loop {
            attempts += 1;
            let answer = if self.breaker.admits() {
                let waiting = self.breaker.waiting(operation, self.options.breaker_silence);
                let answer = call().await;
                waiting.ended();
                self.observe(answer)
            } else {
                let refused = StoreError::new(ErrorKind::Unavailable, self.store.info().name, operation);
                Err(refused.with_source(Open).reported())
            };
            let Err(error) = answer else { return answer };
            ambiguous |= error.kind().is_ambiguous();
            let again = error.kind().is_temporary()
                && attempts < self.options.attempts
                && !self.breaker.is_open()
                && self.budget.withdraw();
            if !again {
                return Err(settle(error, ambiguous));
            }
            self.pause(&mut pauses).await;
        }
    }

    /// An accepted turn: tried until it has an answer or the patience ends.
    async fn append_until_answered(&self, key: &SessionKey, append: &Append) -> Result<Appended, StoreError> {
        let began = Instant::now();
        let mut pauses = None;
        let mut ambiguous = false;
        loop {
            let answer = self.observe(self.store.append(key, append).await);
            let Err(error) = answer else { return answer };
            ambiguous |= error.kind().is_ambiguous();
            if !error.kind().is_temporary() || began.elapsed() >= self.options.append_patience {
                return Err(settle(error, ambiguous));
            }
            self.pause(&mut pauses).await;
        }
    }

    fn observe<T>(&self, answer: Result<T, StoreError>) -> Result<T, StoreError> {
        match answer {
            Err(error) if error.kind() == ErrorKind::Unavailable => {
                return Err(if self.breaker.failed(&error) { error.reported() } else { error });
            }
            // A write that nobody confirmed says nothing of loads: a master that waits for its replicas
            // in vain serves them. If the store is away, the next load finds out.
            Err(ref error) if error.kind().is_ambiguous() => {}
            _ => {
                self.budget.deposit();
                self.breaker.answered();
            }
        }
        answer
    }

    async fn pause(&self, pauses: &mut Option<ExponentialBackoff>) {
        let pauses = pauses.get_or_insert_with(|| {
            let (first, longest) = (self.options.pause, self.options.longest_pause);
            let longest = longest.max(first).max(Duration::from_millis(1));
            let maker = ExponentialBackoffMaker::new(first, longest, 0.5, HasherRng::new());
            maker.expect("the longest pause is not the shortest and not zero").make_backoff()
        });
        pauses.next_backoff().await;
    }
}

/// An earlier attempt may have been applied, and this failure does not say that it was not: the
/// verdicts do, because a store looks for the turn's id before anything else.
fn settle(error: StoreError, ambiguous: bool) -> StoreError {
    let decided = matches!(error.kind(), ErrorKind::Conflict | ErrorKind::Gone | ErrorKind::RolledBack);
    if !ambiguous || decided || error.kind().is_ambiguous() {
        return error;
    }
    StoreError::new(ErrorKind::Ambiguous, error.store(), error.operation()).with_source(error)
}

impl<S: Store> Store for Resilient<S> {
    fn info(&self) -> StoreInfo {
        self.store.info()
    }

    fn pool(&self) -> Option<PoolState> {
        self.store.pool()
    }

    async fn load(&self, key: &SessionKey, read: &Read) -> Result<Loaded, StoreError> {
        self.attempt(Operation::Load, || self.store.load(key, read)).await
    }

    async fn append(&self, key: &SessionKey, append: &Append) -> Result<Appended, StoreError> {
        self.append_until_answered(key, append).await
    }

    async fn delete(&self, key: &SessionKey) -> Result<Deleted, StoreError> {
        self.attempt(Operation::Delete, || self.store.delete(key)).await
    }

    async fn list(&self, scope: &Scope, page: &Page) -> Result<SessionPage, StoreError> {
        self.attempt(Operation::List, || self.store.list(scope, page)).await
    }

    /// Tries the store itself, whatever the breaker says: readiness must not wait for it.
    async fn ping(&self) -> Result<(), StoreError> {
        self.observe(self.store.ping().await)
    }
}

impl<S: fmt::Debug> fmt::Debug for Resilient<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resilient").field("store", &self.store).field("open", &self.breaker.is_open()).finish()
    }
}
