//! The runs of `chaos` can fail: stores that do what a store must not do are caught by them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use tokio::task::yield_now;
use tower_session_memory::store::{
    Append, Appended, Deleted, Durability, ErrorKind, Loaded, Operation, Page, Read, SessionPage, Sharing, Store,
    StoreError, StoreInfo,
};
use tower_session_memory::{Head, Scope, SessionKey, Turn};

use crate::common::chance::Chance;
use crate::common::crowd::{Crowd, Habits};
use crate::common::history::Violation;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flaw {
    None,
    Loses,
    Duplicates,
    Reorders,
    ShowsHalf,
    ShowsLess,
    Overwrites,
    StoresWhatItRefuses,
}

/// A list per session, and a flaw that shows now and then.
#[derive(Debug)]
struct Wrong {
    flaw: Flaw,
    calls: AtomicU64,
    sessions: Mutex<HashMap<SessionKey, Vec<Turn>>>,
}

impl Wrong {
    fn now_and_then(&self, flaw: Flaw) -> bool {
        self.flaw == flaw && self.calls.fetch_add(1, Ordering::Relaxed) % 20 == 19
    }
}

impl Store for Wrong {
    fn info(&self) -> StoreInfo {
        StoreInfo::new("wrong", Sharing::Process, Durability::Cache)
    }

    async fn load(&self, key: &SessionKey, _: &Read) -> Result<Loaded, StoreError> {
        yield_now().await;
        let mut turns = self.sessions.lock().unwrap().get(key).cloned().unwrap_or_default();
        if self.now_and_then(Flaw::ShowsLess) {
            turns.pop();
        }
        if self.now_and_then(Flaw::ShowsHalf)
            && let Some(turn) = turns.pop()
        {
            turns.push(Turn::new(turn.id(), turn.status(), turn.messages()[..1].to_vec()));
        }
        yield_now().await;
        Ok(Loaded::new(Head::new(1, turns.len() as u64), turns, false))
    }

    async fn append(&self, key: &SessionKey, append: &Append) -> Result<Appended, StoreError> {
        yield_now().await;
        let mut sessions = self.sessions.lock().unwrap();
        let turns = sessions.entry(key.clone()).or_default();
        if self.flaw == Flaw::Overwrites {
            turns.truncate(append.expected.map_or(0, |head| head.sequence as usize));
        }
        turns.push(append.turn.clone());
        let place = turns.len();
        if self.now_and_then(Flaw::Loses) {
            turns.pop();
        } else if self.now_and_then(Flaw::Duplicates) {
            turns.push(append.turn.clone());
        } else if self.now_and_then(Flaw::Reorders) && place > 1 {
            turns.swap(place - 2, place - 1);
        } else if self.now_and_then(Flaw::StoresWhatItRefuses) {
            return Err(StoreError::new(ErrorKind::Unavailable, "wrong", Operation::Append));
        }
        Ok(Appended::stored(Head::new(1, place as u64)))
    }

    async fn delete(&self, _: &SessionKey) -> Result<Deleted, StoreError> {
        unreachable!("a crowd deletes nothing")
    }

    async fn list(&self, _: &Scope, _: &Page) -> Result<SessionPage, StoreError> {
        unreachable!("a crowd lists nothing")
    }

    async fn ping(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

#[tokio::test]
async fn a_store_with_a_flaw_is_caught_by_a_run() {
    let seed = Chance::seed("TSM_CHAOS_SEED");
    for flaw in [
        Flaw::None,
        Flaw::Loses,
        Flaw::Duplicates,
        Flaw::Reorders,
        Flaw::ShowsHalf,
        Flaw::ShowsLess,
        Flaw::Overwrites,
        Flaw::StoresWhatItRefuses,
    ] {
        let store = Arc::new(Wrong { flaw, calls: AtomicU64::new(0), sessions: Mutex::default() });
        let crowd = Crowd::new(seed, Habits { turns: 20, ..Habits::default() });
        crowd.run(std::slice::from_ref(&store), 16).await;
        let violations = crowd.judge(&*store).await;
        let caught = violations.iter().any(|violation| match flaw {
            Flaw::None => true,
            Flaw::Loses | Flaw::Overwrites => matches!(violation, Violation::Lost(_)),
            Flaw::Duplicates => matches!(violation, Violation::Duplicate(_)),
            Flaw::Reorders => matches!(violation, Violation::Misplaced(_)),
            Flaw::ShowsHalf => matches!(violation, Violation::Torn(_)),
            Flaw::ShowsLess => matches!(violation, Violation::Stale { .. }),
            Flaw::StoresWhatItRefuses => matches!(violation, Violation::Refused(_)),
        });
        assert_eq!(caught, flaw != Flaw::None, "{flaw:?}: {violations:#?}");
    }
}
