//! History that does not change is not fetched twice.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use moka::policy::EvictionPolicy;
use moka::sync::Cache;

use super::{
    Append, Appended, Deleted, ErrorKind, Lineage, Loaded, Page, PoolState, Read, SessionPage, Store, StoreError,
    StoreInfo,
};
use crate::key::{Scope, SessionKey};
use crate::policy::Window;
use crate::turn::{Head, Turn, TurnId};

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
/// Once a delete through this store has ended, no copy of the session's text is left here. Of what another pod
/// deleted, and of what expired, a copy stays until somebody asks for the session or others need the room.
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
    /// The most that one copy may weigh.
    heaviest: usize,
    /// How many deletes have ended here, of any session, for they are few: no copy of what was read before
    /// one must come in after it.
    deletes: AtomicU64,
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
    /// An estimate of the memory behind the turns.
    memory: usize,
    /// The window that was asked for, of several the one that takes most: with it, or a smaller one, no
    /// older turn would fit. `None` for a session that was begun here, of which no turns were asked for.
    asked: Option<Window>,
    /// Turns pushed since it was last looked whether the oldest still fit.
    pushed: usize,
    /// What the cache believes that it weighs.
    weighed: usize,
}

/// A copy as it was when the store was asked for what is newer.
struct Mark {
    head: Head,
    lineage: Option<Lineage>,
    /// The turn that it ended with.
    last: Option<TurnId>,
}

impl Mark {
    /// Whether the store, asked after this was taken, has not got the turn that it ends with, in the same life.
    fn is_lost(&self, loaded: &Loaded) -> bool {
        if loaded.head.epoch != self.head.epoch {
            return false;
        }
        let Some(since) = loaded.head.sequence.checked_sub(self.head.sequence) else { return true };
        if since == 0 && loaded.lineage != self.lineage {
            return true;
        }
        let there = loaded.turns.iter().rev().nth(usize::try_from(since).unwrap_or(usize::MAX));
        there.is_some_and(|turn| Some(turn.id()) != self.last)
    }
}

impl Copy {
    /// After so many pushes the oldest turns that no longer fit are dropped; and so many newer ones may be missing.
    const LEEWAY: usize = 64;

    fn new(head: Head, lineage: Option<Lineage>, turns: Vec<Turn>, asked: Option<Window>) -> Self {
        let bytes = turns.iter().map(Turn::bytes).sum();
        let messages = turns.iter().map(|turn| turn.messages().len()).sum();
        let memory = turns.iter().map(memory_of).sum();
        Self { head, lineage, turns, bytes, messages, memory, asked, pushed: 0, weighed: 0 }
    }

    fn mark(&self) -> Mark {
        Mark { head: self.head, lineage: self.lineage, last: self.turns.last().map(Turn::id) }
    }

    fn weight(&self) -> usize {
        self.memory + 512
    }

    /// How many of the turns a window takes.
    fn fitting(&self, window: Window) -> usize {
        window.fit(self.turns.iter().rev().map(size))
    }

    /// Whether these turns are worth more than a whole window that was loaded: they belong to the same life, lack a
    /// few turns before those, and serve a window that takes more.
    fn outlives(&self, loaded: &Loaded, window: Window) -> bool {
        let behind = loaded.head.sequence.saturating_sub(self.head.sequence);
        let wanted = self.asked.map_or(self.turns.len(), |asked| self.fitting(asked));
        loaded.head.epoch == self.head.epoch
            && behind > loaded.turns.len() as u64
            && (window.turns == 0 || behind <= Self::LEEWAY as u64 && self.fitting(window) < wanted)
    }

    fn push(&mut self, turn: Turn, lineage: Option<Lineage>) {
        self.head.sequence += 1;
        self.lineage = lineage;
        self.bytes += turn.bytes();
        self.messages += turn.messages().len();
        self.memory += memory_of(&turn);
        self.turns.push(turn);
        self.pushed += 1;
        if self.pushed >= Self::LEEWAY {
            self.prune();
        }
    }

    /// Drops what the window has no room for any more.
    fn prune(&mut self) {
        let Some(asked) = self.asked else { return };
        self.pushed = 0;
        for turn in self.turns.drain(..self.turns.len() - self.fitting(asked)) {
            self.bytes -= turn.bytes();
            self.messages -= turn.messages().len();
            self.memory -= memory_of(&turn);
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
        let fitting = if self.bytes <= window.bytes && self.messages <= window.messages {
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
        let takes_more = |asked| self.fitting(window) > self.fitting(asked);
        // Who asks for the head alone needs no copy of any size.
        if !covered && self.asked.map_or(window.turns > 0, takes_more) {
            self.asked = Some(window);
        }
        Some(loaded)
    }
}

fn size(turn: &Turn) -> (usize, usize) {
    (turn.messages().len(), turn.bytes())
}

/// With what stands around the text: records, lists of messages.
fn memory_of(turn: &Turn) -> usize {
    turn.bytes() + turn.note().map_or(0, str::len) + turn.messages().len() * 64 + 256
}

impl<S: Store> Cached<S> {
    /// A store in front of `store` that keeps copies of about this many bytes.
    ///
    /// No session takes more than a quarter of them, so that one cannot drive out all others: what is larger is
    /// loaded anew each time.
    pub fn new(store: S, bytes: u64) -> Self {
        let copies = Cache::builder()
            .max_capacity(bytes)
            // A conversation that begins is worth more than one that was long and has ended.
            .eviction_policy(EvictionPolicy::lru())
            .weigher(|key: &SessionKey, slot: &Slot| {
                let mut copy = lock(slot);
                copy.weighed = copy.weight();
                u32::try_from(copy.weighed + key.encoded().len()).unwrap_or(u32::MAX)
            })
            .build();
        let heaviest = usize::try_from(bytes / 4).unwrap_or(usize::MAX);
        Self { store, copies, heaviest, deletes: AtomicU64::new(0) }
    }

    /// The store behind.
    pub fn inner(&self) -> &S {
        &self.store
    }

    /// The whole window, all of it from the store, and kept.
    async fn load_whole(&self, key: &SessionKey, read: &Read, deletes: u64) -> Result<Loaded, StoreError> {
        let whole = self.store.load(key, &Read { known: None, lineage: None, ..*read }).await?;
        self.keep(key, &whole, read.window, deletes);
        Ok(whole)
    }

    /// The whole window, from the copy and what is newer; `None` if they do not give all of it.
    async fn load_newer(
        &self,
        key: &SessionKey,
        read: &Read,
        slot: &Slot,
        deletes: u64,
    ) -> Result<Option<Loaded>, StoreError> {
        let mark = lock(slot).mark();
        let asked = Read { known: Some(mark.head), lineage: mark.lineage, ..*read };
        let mut loaded = self.store.load(key, &asked).await?;
        if loaded.since.is_none() {
            loaded.lost |= mark.is_lost(&loaded);
            // Another life, turns that were lost, or more news than fits: this is the whole window.
            self.keep(key, &loaded, read.window, deletes);
            return Ok(Some(loaded));
        }
        Ok(self.change(key, slot, deletes, |copy| copy.merge(&mark, loaded, read.window)))
    }

    /// Keeps a whole window as the session's copy. Whoever is at work on the old one goes on with that.
    fn keep(&self, key: &SessionKey, loaded: &Loaded, window: Window, deletes: u64) {
        if self.copies.get(key).is_some_and(|slot| lock(&slot).outlives(loaded, window)) {
            return;
        }
        if loaded.turns.is_empty() {
            return self.copies.invalidate(key);
        }
        let copy = Copy::new(loaded.head, loaded.lineage, loaded.turns.clone(), Some(window));
        self.put(key, Arc::new(Mutex::new(copy)), deletes);
    }

    /// The turn that was just stored is the one that the next load need not fetch.
    fn extend(&self, key: &SessionKey, append: &Append, appended: &Appended, deletes: u64) {
        let (head, lineage) = (appended.head, appended.lineage);
        let turn = || append.turn.detached();
        match self.copies.get(key).filter(|slot| lock(slot).head.epoch == head.epoch) {
            Some(slot) => self.change(key, &slot, deletes, |copy| {
                // Unless turns of others are in between: the next load fetches them along with this one.
                let follows = copy.head == Head::new(head.epoch, head.sequence - 1);
                if follows && append.lineage == copy.lineage {
                    copy.push(turn(), lineage);
                }
            }),
            None if head.sequence == 1 => {
                let copy = Copy::new(head, lineage, vec![turn()], None);
                self.put(key, Arc::new(Mutex::new(copy)), deletes);
            }
            None => {}
        }
    }

    /// Changes a copy, and has it weighed again where that makes a difference.
    fn change<T>(&self, key: &SessionKey, slot: &Slot, deletes: u64, change: impl FnOnce(&mut Copy) -> T) -> T {
        let mut copy = lock(slot);
        let changed = change(&mut copy);
        let misjudged = copy.weight().abs_diff(copy.weighed) > copy.weighed / 8;
        // The weigher locks it, too.
        drop(copy);
        if misjudged {
            self.put(key, slot.clone(), deletes);
        }
        changed
    }

    /// Puts a copy in, to be weighed. `deletes` were counted before the store was asked for what is in it.
    fn put(&self, key: &SessionKey, slot: Slot, deletes: u64) {
        let mut copy = lock(&slot);
        if copy.weight() > self.heaviest {
            copy.prune();
        }
        let fits = copy.weight() <= self.heaviest;
        drop(copy);
        if !fits {
            return self.copies.invalidate(key);
        }
        self.copies.insert(key.clone(), slot);
        // A delete counts, then takes out: it finds this copy, or this finds it counted.
        fence(Ordering::SeqCst);
        if self.deletes.load(Ordering::Relaxed) != deletes {
            self.copies.invalidate(key);
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
        let deletes = self.deletes.load(Ordering::Acquire);
        let whole = match self.copies.get(key) {
            Some(slot) => self.load_newer(key, read, &slot, deletes).await?,
            None => None,
        };
        let whole = match whole {
            Some(whole) => whole,
            None => self.load_whole(key, read, deletes).await?,
        };
        Ok(answer(whole, read.known))
    }

    async fn append(&self, key: &SessionKey, append: &Append) -> Result<Appended, StoreError> {
        let deletes = self.deletes.load(Ordering::Acquire);
        let appended = self.store.append(key, append).await;
        match &appended {
            Ok(appended) if appended.duplicate_of.is_none() => self.extend(key, append, appended, deletes),
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
        self.deletes.fetch_add(1, Ordering::Release);
        fence(Ordering::SeqCst);
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
    use std::pin::{Pin, pin};
    use std::task::{Context, Waker};

    use bytes::Bytes;

    use super::*;
    use crate::key::ConversationId;
    use crate::message::Message;
    use crate::store::InMemory;
    use crate::turn::TurnStatus;

    fn key() -> SessionKey {
        SessionKey::new(ConversationId::random())
    }

    fn turn(message: Message) -> Turn {
        Turn::new(TurnId::random(), TurnStatus::Complete, vec![message])
    }

    fn turns(count: usize) -> Vec<Turn> {
        (0..count).map(|_| turn(Message::user("hello"))).collect()
    }

    async fn add<S: Store>(store: &Cached<S>, key: &SessionKey, count: usize) {
        for turn in turns(count) {
            store.append(key, &Append::unconditional(turn)).await.unwrap();
        }
    }

    /// What all copies really weigh.
    fn weight<S>(store: &Cached<S>) -> usize {
        store.copies.run_pending_tasks();
        store.copies.iter().map(|(_, slot)| lock(&slot).weight()).sum()
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

    #[tokio::test]
    async fn copies_that_nobody_loads_are_weighed_as_they_grow() {
        let store = Cached::new(InMemory::new(), 100_000);
        let sessions: Vec<_> = (0..40).map(|_| key()).collect();
        for _ in 0..20 {
            for session in &sessions {
                add(&store, session, 1).await;
            }
        }
        assert!(weight(&store) > 50_000, "{}", weight(&store));
        assert!(weight(&store) < 100_000 * 9 / 8, "{}", weight(&store));
    }

    #[tokio::test]
    async fn no_copy_grows_for_ever() {
        let store = Cached::new(InMemory::new(), 100_000);
        let (quiet, busy) = (key(), key());
        add(&store, &quiet, 1).await;
        for _ in 0..500 {
            add(&store, &busy, 1).await;
            assert!(weight(&store) < 25_000 * 9 / 8 + 2_000);
        }
        assert!(store.copies.contains_key(&quiet), "it was driven out by a session that is too large");
        // And none that was loaded.
        let all = store.load(&busy, &Read::new(Window::ALL)).await.unwrap();
        assert_eq!(all.turns.len(), 500);
        assert!(!store.copies.contains_key(&busy));
        store.load(&busy, &Read::new(Window::newest(9))).await.unwrap();
        add(&store, &busy, 500).await;
        assert!(store.copies.contains_key(&busy), "what is beyond the window is not kept");
    }

    #[tokio::test]
    async fn a_copy_that_shrinks_is_weighed_again() {
        let store = Cached::new(InMemory::new(), 1 << 20);
        let key = key();
        add(&store, &key, 500).await;
        store.load(&key, &Read::new(Window::newest(5))).await.unwrap();
        add(&store, &key, 1).await;
        let weight = weight(&store) as u64;
        assert!(store.copies.weighted_size() < weight * 9 / 8 + 100, "{weight} weigh {}", store.copies.weighted_size());
    }

    #[tokio::test]
    async fn notes_have_weight() {
        let store = Cached::new(InMemory::new(), 1 << 20);
        let note = serde_json::value::to_raw_value(&"n".repeat(4_000)).unwrap();
        let turn = turn(Message::user("hello")).with_note(Some(&note));
        store.append(&key(), &Append::unconditional(turn)).await.unwrap();
        assert!(weight(&store) > 4_000);
    }

    #[tokio::test]
    async fn sessions_that_begin_take_the_place_of_those_that_were_used_much_and_have_ended() {
        let store = Cached::new(InMemory::new(), 100_000);
        for _ in 0..200 {
            let key = key();
            add(&store, &key, 10).await;
            for _ in 0..10 {
                store.load(&key, &Read::new(Window::ALL)).await.unwrap();
            }
            store.copies.run_pending_tasks();
        }
        let newest: Vec<_> = (0..20).map(|_| key()).collect();
        for key in &newest {
            add(&store, key, 1).await;
            store.copies.run_pending_tasks();
        }
        assert!(newest.iter().all(|key| store.copies.contains_key(key)));
    }

    #[tokio::test]
    async fn a_turn_of_a_large_request_does_not_keep_the_request() {
        struct Body {
            text: Vec<u8>,
            _alive: Arc<()>,
        }
        impl AsRef<[u8]> for Body {
            fn as_ref(&self) -> &[u8] {
                &self.text
            }
        }
        let (store, key, alive) = (Cached::new(InMemory::new(), 1 << 20), key(), Arc::new(()));
        let message = r#"{"role":"user","content":"hi"}"#;
        let body =
            Bytes::from_owner(Body { text: [message.as_bytes(), &[b' '; 9_000]].concat(), _alive: alive.clone() });
        for _ in 0..2 {
            let append = Append::unconditional(turn(Message::from_json(body.slice(..message.len())).unwrap()));
            store.append(&key, &append).await.unwrap();
        }
        drop(body);
        // The store behind keeps turns as they come.
        store.inner().delete(&key).await.unwrap();
        assert_eq!(lock(&store.copies.get(&key).unwrap()).turns.len(), 2);
        assert_eq!(Arc::strong_count(&alive), 1);
    }

    #[tokio::test]
    async fn what_is_known_to_be_deleted_is_not_kept() {
        let store = Cached::new(InMemory::new(), 1 << 20);
        let (here, elsewhere, refused) = (key(), key(), key());
        for key in [&here, &elsewhere, &refused] {
            add(&store, key, 3).await;
        }
        let old = store.load(&refused, &Read::new(Window::NONE)).await.unwrap().head;
        store.delete(&here).await.unwrap();
        for key in [&elsewhere, &refused] {
            store.inner().delete(key).await.unwrap();
        }
        for turn in turns(9) {
            store.inner().append(&elsewhere, &Append::unconditional(turn)).await.unwrap();
        }
        store.load(&elsewhere, &Read::new(Window::NONE)).await.unwrap();
        let late = Append::new(turns(1).remove(0), old);
        assert_eq!(store.append(&refused, &late).await.unwrap_err().kind(), ErrorKind::Gone);
        for key in [&here, &elsewhere, &refused] {
            assert!(!store.copies.contains_key(key));
        }
    }

    /// Answers a moment after it has done what it was asked for.
    #[derive(Debug)]
    struct Late(InMemory);

    impl Store for Late {
        fn info(&self) -> StoreInfo {
            self.0.info()
        }

        async fn load(&self, key: &SessionKey, read: &Read) -> Result<Loaded, StoreError> {
            let loaded = self.0.load(key, read).await;
            tokio::task::yield_now().await;
            loaded
        }

        async fn append(&self, key: &SessionKey, append: &Append) -> Result<Appended, StoreError> {
            let appended = self.0.append(key, append).await;
            tokio::task::yield_now().await;
            appended
        }

        async fn delete(&self, key: &SessionKey) -> Result<Deleted, StoreError> {
            self.0.delete(key).await
        }

        async fn list(&self, scope: &Scope, page: &Page) -> Result<SessionPage, StoreError> {
            self.0.list(scope, page).await
        }

        async fn ping(&self) -> Result<(), StoreError> {
            self.0.ping().await
        }
    }

    fn begin<F: Future>(call: Pin<&mut F>) {
        assert!(call.poll(&mut Context::from_waker(Waker::noop())).is_pending(), "it was to wait for its answer");
    }

    #[tokio::test]
    async fn a_deleted_session_is_not_in_memory_again_through_calls_that_were_on_their_way() {
        let store = Cached::new(Late(InMemory::new()), 1 << 20);
        let (cold, warm, new) = (key(), key(), key());
        for session in [&cold, &warm] {
            add(&store, session, 3).await;
        }
        store.copies.invalidate(&cold);
        // So that it grows by what is loaded.
        for turn in turns(9) {
            store.store.0.append(&warm, &Append::unconditional(turn)).await.unwrap();
        }
        let (read, first) = (Read::new(Window::ALL), Append::unconditional(turns(1).remove(0)));
        let mut loads = [&cold, &warm].map(|session| Box::pin(store.load(session, &read)));
        loads.iter_mut().for_each(|load| begin(load.as_mut()));
        let mut append = pin!(store.append(&new, &first));
        begin(append.as_mut());
        for session in [&cold, &warm, &new] {
            store.delete(session).await.unwrap();
        }
        for load in loads {
            load.await.unwrap();
        }
        append.await.unwrap();
        for session in [&cold, &warm, &new] {
            assert!(!store.copies.contains_key(session));
        }
        // What is loaded from now on is kept as ever.
        add(&store, &new, 1).await;
        assert!(store.copies.contains_key(&new));
    }
}
