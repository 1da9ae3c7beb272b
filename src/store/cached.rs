//! History that does not change is not fetched twice.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use moka::sync::Cache;

use super::{
    Append, Appended, Deleted, ErrorKind, Lineage, Loaded, Page, PoolState, Read, SessionPage, Store, StoreError,
    StoreInfo,
};
use crate::key::{Scope, SessionKey};
use crate::policy::Window;
use crate::turn::{Head, Turn};

/// Any store, with a copy in this process of the turns that it has loaded before.
///
/// Turns never change, so a pod that has seen a session asks the store only for what is newer
/// ([`Read::known`]), still in one round trip: what a load moves stays the same however long the
/// conversation grows. **Every load asks**, so the newest turn of any pod is always in it, and a
/// session that was deleted, expired or lost turns is noticed: the head says so.
///
/// The copies are bounded by their bytes; the sessions that were not used for longest go first.
/// When the store and the copy do not fit together (a larger window, a new life of the session), the
/// load takes a second round trip for the whole window.
///
/// ```
/// use tower_session_memory::InMemory;
/// use tower_session_memory::store::Cached;
///
/// let store = Cached::new(InMemory::new(), 64 << 20);
/// # let _ = store;
/// ```
pub struct Cached<S> {
    store: S,
    copies: Cache<SessionKey, Slot>,
}

/// A session's copy, shared by all who load it. Never locked across an await.
type Slot = Arc<Mutex<Copy>>;

fn lock(slot: &Slot) -> MutexGuard<'_, Copy> {
    // Every change below is complete before anything could panic, so a poisoned copy is whole.
    slot.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The newest turns of a session as of some head, without a gap.
struct Copy {
    head: Head,
    lineage: Option<Lineage>,
    /// Oldest first; never empty.
    turns: Vec<Turn>,
    bytes: usize,
    messages: usize,
    /// The window that was asked for: with it, or a smaller one, no older turn would fit. `None` for
    /// a session that was begun here and not loaded since.
    asked: Option<Window>,
    /// Turns pushed since it was last looked whether the oldest still fit.
    pushed: usize,
    /// Raised when the turns are replaced: whoever asked the store in between must not add to them.
    generation: u64,
    /// What the cache believes that it weighs.
    weighed: usize,
}

/// A copy as it was when the store was asked for what is newer.
struct Mark {
    head: Head,
    lineage: Option<Lineage>,
    generation: u64,
}

impl Copy {
    /// After so many pushes the oldest turns that no longer fit are dropped.
    const LEEWAY: usize = 64;

    fn new(head: Head, lineage: Option<Lineage>, turns: Vec<Turn>, asked: Option<Window>) -> Self {
        let bytes = turns.iter().map(Turn::bytes).sum();
        let messages = turns.iter().map(|turn| turn.messages().len()).sum();
        Self { head, lineage, turns, bytes, messages, asked, pushed: 0, generation: 0, weighed: 0 }
    }

    fn mark(&self) -> Mark {
        Mark { head: self.head, lineage: self.lineage, generation: self.generation }
    }

    /// An estimate, with what stands around the text: keys, records, lists of messages.
    fn weight(&self) -> usize {
        self.bytes + self.turns.len() * 256 + self.messages * 64 + 512
    }

    fn replace(&mut self, loaded: &Loaded, window: Window) {
        let generation = self.generation + 1;
        *self = Self { generation, ..Self::new(loaded.head, loaded.lineage, loaded.turns.clone(), Some(window)) };
    }

    fn push(&mut self, turn: Turn, lineage: Option<Lineage>) {
        self.head.sequence += 1;
        self.lineage = lineage;
        self.bytes += turn.bytes();
        self.messages += turn.messages().len();
        self.turns.push(turn);
        self.pushed += 1;
        if self.pushed >= Self::LEEWAY
            && let Some(asked) = self.asked
        {
            self.pushed = 0;
            let fitting = asked.fit(self.turns.iter().rev().map(size));
            for turn in self.turns.drain(..self.turns.len() - fitting) {
                self.bytes -= turn.bytes();
                self.messages -= turn.messages().len();
            }
        }
    }

    /// The whole window, from the copy and what is newer than `mark`; `None` if they do not give all
    /// of it.
    fn merge(&mut self, mark: &Mark, mut loaded: Loaded, window: Window) -> Option<Loaded> {
        // What the store has trimmed is not to be told from a copy.
        let stored = match (loaded.kept, loaded.truncated) {
            (Some(kept), _) => usize::try_from(kept).unwrap_or(usize::MAX),
            // The window ends before what is stored does, wherever that is.
            (None, true) => usize::MAX,
            (None, false) => return None,
        };
        if self.generation != mark.generation {
            return None;
        }
        // Others may have added some of the same turns meanwhile, or later ones, which are not part of
        // this answer.
        let ahead = (self.head.sequence - mark.head.sequence) as usize;
        let later = ahead.saturating_sub(loaded.turns.len());
        let added = &self.turns[self.turns.len().checked_sub(ahead)?..];
        if added.iter().zip(&loaded.turns).any(|(ours, theirs)| ours != theirs) {
            return None;
        }
        loaded.turns.drain(..).skip(ahead).for_each(|turn| self.push(turn, loaded.lineage));

        let turns = &self.turns[..self.turns.len().checked_sub(later)?];
        let have = stored.min(turns.len());
        let fitting = if later == 0 && self.bytes <= window.bytes && self.messages <= window.messages {
            // The totals fit, so all of them do: no need to look at each.
            have.min(window.turns)
        } else {
            window.fit(turns.iter().rev().take(stored).map(size))
        };
        let covered = self.asked.is_some_and(|asked| within(window, asked));
        let more_may_fit = fitting == have && have < stored && fitting < window.turns;
        // Before its later turns came, older ones may have fitted that were dropped for them.
        if more_may_fit && !(covered && later == 0) {
            return None;
        }
        loaded.turns = turns[turns.len() - fitting..].to_vec();
        loaded.truncated = fitting < stored;
        loaded.since = None;
        if !covered {
            self.asked = Some(window);
        }
        Some(loaded)
    }
}

fn size(turn: &Turn) -> (usize, usize) {
    (turn.messages().len(), turn.bytes())
}

impl<S: Store> Cached<S> {
    /// A store in front of `store` that keeps copies of about this many bytes.
    pub fn new(store: S, bytes: u64) -> Self {
        let copies = Cache::builder()
            .max_capacity(bytes)
            .weigher(|key: &SessionKey, slot: &Slot| {
                let mut copy = lock(slot);
                copy.weighed = copy.weight();
                u32::try_from(copy.weighed + key.encoded().len()).unwrap_or(u32::MAX)
            })
            .build();
        Self { store, copies }
    }

    /// The store behind.
    pub fn inner(&self) -> &S {
        &self.store
    }

    /// The whole window, all of it from the store, and kept.
    async fn load_whole(&self, key: &SessionKey, read: &Read) -> Result<Loaded, StoreError> {
        let whole = self.store.load(key, &Read { known: None, lineage: None, ..*read }).await?;
        self.keep(key, &whole, read.window);
        Ok(whole)
    }

    /// The whole window, from the copy and what is newer; `None` if they do not give all of it.
    async fn load_newer(
        &self,
        key: &SessionKey,
        read: &Read,
        slot: &Slot,
        mark: &Mark,
    ) -> Result<Option<Loaded>, StoreError> {
        let asked = Read { known: Some(mark.head), lineage: mark.lineage, ..*read };
        let loaded = self.store.load(key, &asked).await?;
        if loaded.since.is_none() {
            // Another life, turns that were lost, or more news than fits: this is the whole window.
            self.keep(key, &loaded, read.window);
            return Ok(Some(loaded));
        }
        let mut copy = lock(slot);
        let whole = copy.merge(mark, loaded, read.window);
        let grown = copy.weight() > copy.weighed + copy.weighed / 8;
        drop(copy);
        if grown {
            self.copies.insert(key.clone(), slot.clone());
        }
        Ok(whole)
    }

    /// Keeps a whole window as the session's copy.
    fn keep(&self, key: &SessionKey, loaded: &Loaded, window: Window) {
        if loaded.turns.is_empty() {
            return self.copies.invalidate(key);
        }
        let slot = match self.copies.get(key) {
            Some(slot) => {
                lock(&slot).replace(loaded, window);
                slot
            }
            None => Arc::new(Mutex::new(Copy::new(loaded.head, loaded.lineage, loaded.turns.clone(), Some(window)))),
        };
        self.copies.insert(key.clone(), slot);
    }

    /// The turn that was just stored is the one that the next load need not fetch.
    fn extend(&self, key: &SessionKey, append: &Append, appended: &Appended) {
        let (head, lineage) = (appended.head, appended.lineage);
        match self.copies.get(key) {
            Some(slot) => {
                let mut copy = lock(&slot);
                // Unless turns of others are in between: the next load fetches them along with this one.
                let follows = copy.head == Head::new(head.epoch, head.sequence - 1);
                if follows && append.lineage == copy.lineage {
                    copy.push(append.turn.clone(), lineage);
                }
            }
            None if head.sequence == 1 => {
                let copy = Copy::new(head, lineage, vec![append.turn.clone()], None);
                self.copies.insert(key.clone(), Arc::new(Mutex::new(copy)));
            }
            None => {}
        }
    }
}

/// Whether every turn that fits the one window fits the other.
fn within(window: Window, other: Window) -> bool {
    window.turns <= other.turns && window.messages <= other.messages && window.bytes <= other.bytes
}

/// A whole window as the answer to a caller that knows some of it.
fn answer(mut whole: Loaded, known: Option<Head>) -> Loaded {
    let newer = known.filter(|known| known.epoch == whole.head.epoch && known.epoch > 0).and_then(|known| {
        let newer = usize::try_from(whole.head.sequence.checked_sub(known.sequence)?).ok()?;
        (newer <= whole.turns.len()).then_some(newer)
    });
    if let Some(newer) = newer {
        whole.turns.drain(..whole.turns.len() - newer);
        whole.since = known;
    }
    whole
}

impl<S: Store> Store for Cached<S> {
    fn info(&self) -> StoreInfo {
        self.store.info()
    }

    fn pool(&self) -> Option<PoolState> {
        self.store.pool()
    }

    async fn load(&self, key: &SessionKey, read: &Read) -> Result<Loaded, StoreError> {
        if read.known.is_some() && read.lineage.is_some() {
            // The caller has a copy of its own, and only the store can say whether it still holds.
            return self.store.load(key, read).await;
        }
        let slot = self.copies.get(key);
        let mark = slot.as_ref().map(|slot| lock(slot).mark());
        let whole = match (&slot, &mark) {
            (Some(slot), Some(mark)) => self.load_newer(key, read, slot, mark).await?,
            _ => None,
        };
        let whole = match whole {
            Some(whole) => whole,
            None => self.load_whole(key, read).await?,
        };
        Ok(answer(whole, read.known))
    }

    async fn append(&self, key: &SessionKey, append: &Append) -> Result<Appended, StoreError> {
        let appended = self.store.append(key, append).await;
        match &appended {
            Ok(appended) if appended.duplicate_of.is_none() => self.extend(key, append, appended),
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::Gone | ErrorKind::RolledBack) => {
                self.copies.invalidate(key)
            }
            Err(_) => {}
        }
        appended
    }

    async fn delete(&self, key: &SessionKey) -> Result<Deleted, StoreError> {
        let deleted = self.store.delete(key).await;
        self.copies.invalidate(key);
        deleted
    }

    async fn list(&self, scope: &Scope, page: &Page) -> Result<SessionPage, StoreError> {
        self.store.list(scope, page).await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.store.ping().await
    }
}

impl<S: fmt::Debug> fmt::Debug for Cached<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cached").field("store", &self.store).field("bytes", &self.copies.weighted_size()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Message;
    use crate::turn::{TurnId, TurnStatus};

    fn turns(count: usize) -> Vec<Turn> {
        let turn = |_| Turn::new(TurnId::random(), TurnStatus::Complete, vec![Message::user("hello")]);
        (0..count).map(turn).collect()
    }

    /// What a store that holds all of them answered when it had `upto` turns.
    fn newer(all: &[Turn], known: u64, upto: u64) -> Loaded {
        let news = all[known as usize..upto as usize].to_vec();
        Loaded::new(Head::new(1, upto), news, false).kept(upto).since(Some(Head::new(1, known)))
    }

    /// A load that is on its way while others append.
    #[test]
    fn an_answer_from_before_later_turns_is_whole_or_none() {
        let (all, window) = (turns(270), Window::newest(100));
        for appended in 0..150 {
            for upto in 120..=120 + appended {
                let mut copy = Copy::new(Head::new(1, 120), None, all[20..120].to_vec(), Some(window));
                let mark = copy.mark();
                all[120..120 + appended].iter().for_each(|turn| copy.push(turn.clone(), None));
                let Some(whole) = copy.merge(&mark, newer(&all, 120, upto as u64), window) else { continue };
                assert_eq!(whole.turns, all[upto - 100..upto], "of {appended} appended, those up to {upto}");
                assert_eq!((whole.head, whole.truncated, whole.since), (Head::new(1, upto as u64), true, None));
            }
        }
    }

    #[test]
    fn turns_that_another_pod_put_in_their_places_are_not_mixed_with_ours() {
        let (all, window) = (turns(5), Window::ALL);
        let mut copy = Copy::new(Head::new(1, 2), None, all[..2].to_vec(), Some(window));
        let mark = copy.mark();
        copy.push(all[2].clone(), None);
        let mut theirs = newer(&all, 2, 4);
        theirs.turns[0] = all[4].clone();
        assert_eq!(copy.merge(&mark, theirs, window), None);
    }
}
