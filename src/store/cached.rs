//! History that does not change is not fetched twice.

use std::fmt;
use std::sync::Arc;

use moka::sync::Cache;

use super::{
    Append, Appended, Deleted, ErrorKind, Loaded, Page, PoolState, Read, SessionPage, Store, StoreError, StoreInfo,
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
    copies: Cache<SessionKey, Copy>,
}

/// The newest turns of a session as of some head, without a gap.
#[derive(Clone)]
struct Copy {
    head: Head,
    turns: Arc<Vec<Turn>>,
    /// The window that was asked for: with it, or a smaller one, no older turn would fit. `None` for
    /// a session that was begun here and not loaded since.
    asked: Option<Window>,
}

impl<S: Store> Cached<S> {
    /// A store in front of `store` that keeps copies of about this many bytes.
    pub fn new(store: S, bytes: u64) -> Self {
        let copies = Cache::builder()
            .max_capacity(bytes)
            .weigher(|key: &SessionKey, copy: &Copy| {
                // An estimate of what stands around the text: keys, records, lists of messages.
                let turns =
                    copy.turns.iter().map(|turn| turn.bytes() + turn.messages().len() * 64 + 256).sum::<usize>();
                u32::try_from(turns + key.encoded().len() + 256).unwrap_or(u32::MAX)
            })
            .build();
        Self { store, copies }
    }

    /// The store behind.
    pub fn inner(&self) -> &S {
        &self.store
    }

    /// All of the window, from the copy and what is newer; `None` if they do not give the whole answer.
    async fn load_newer(&self, key: &SessionKey, read: &Read, copy: &Copy) -> Result<Option<Loaded>, StoreError> {
        let asked = Read { known: Some(copy.head), ..*read };
        let mut loaded = self.store.load(key, &asked).await?;
        if loaded.since.is_none() {
            // Another life, or more news than fits: this is the whole window already.
            return Ok(Some(loaded));
        }
        let news = std::mem::take(&mut loaded.turns);
        // What the store has trimmed is not to be told from a copy.
        let stored = match (loaded.kept, loaded.truncated) {
            (Some(kept), _) => usize::try_from(kept).unwrap_or(usize::MAX),
            // The window ends before what is stored does, wherever that is.
            (None, true) => usize::MAX,
            (None, false) => return Ok(None),
        };
        let newest_first = news.iter().rev().chain(copy.turns.iter().rev()).take(stored);
        let have = stored.min(news.len() + copy.turns.len());
        let fitting = read.window.fit(newest_first.map(|turn| (turn.messages().len(), turn.bytes())));
        let more_may_fit = fitting == have && have < stored && fitting < read.window.turns;
        if more_may_fit && !copy.asked.is_some_and(|asked| within(read.window, asked)) {
            return Ok(None);
        }
        let from_copy = fitting.saturating_sub(news.len());
        let mut turns = Vec::with_capacity(fitting);
        turns.extend_from_slice(&copy.turns[copy.turns.len() - from_copy..]);
        let skip = news.len().saturating_sub(fitting);
        turns.extend(news.into_iter().skip(skip));
        loaded.turns = turns;
        loaded.since = None;
        Ok(Some(loaded))
    }

    /// Keeps a whole window as the session's copy.
    fn keep(&self, key: &SessionKey, loaded: &Loaded, window: Window, before: Option<&Copy>) {
        let of_this_life = before.filter(|copy| copy.head.epoch == loaded.head.epoch);
        if let Some(copy) = of_this_life.filter(|copy| copy.head.sequence <= loaded.head.sequence) {
            let nothing_new = copy.head == loaded.head && copy.asked == Some(window);
            // A smaller window must not make the copy of a larger one useless.
            if nothing_new || copy.asked.is_some_and(|asked| !within(asked, window)) {
                return;
            }
        }
        if loaded.turns.is_empty() {
            self.copies.invalidate(key);
        } else {
            let turns = Arc::new(loaded.turns.clone());
            self.copies.insert(key.clone(), Copy { head: loaded.head, turns, asked: Some(window) });
        }
    }

    /// The turn that was just stored is the one that the next load need not fetch.
    fn extend(&self, key: &SessionKey, append: &Append, head: Head) {
        let copy = self.copies.get(key);
        let (mut turns, asked) = match &copy {
            Some(copy) if copy.head == Head::new(head.epoch, head.sequence - 1) => {
                let mut turns = Vec::with_capacity(copy.turns.len() + 1);
                turns.extend_from_slice(&copy.turns);
                (turns, copy.asked)
            }
            None if head.sequence == 1 => (Vec::with_capacity(1), None),
            // Turns of others in between: the next load fetches them along with this one.
            _ => return,
        };
        turns.push(append.turn.clone());
        if let Some(asked) = asked {
            let fitting = asked.fit(turns.iter().rev().map(|turn| (turn.messages().len(), turn.bytes())));
            turns.drain(..turns.len() - fitting);
        }
        self.copies.insert(key.clone(), Copy { head, turns: Arc::new(turns), asked });
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
        let copy = self.copies.get(key);
        let whole = match &copy {
            Some(copy) => self.load_newer(key, read, copy).await?,
            None => None,
        };
        let whole = match whole {
            Some(whole) => whole,
            None => self.store.load(key, &Read { known: None, ..*read }).await?,
        };
        self.keep(key, &whole, read.window, copy.as_ref());
        Ok(answer(whole, read.known))
    }

    async fn append(&self, key: &SessionKey, append: &Append) -> Result<Appended, StoreError> {
        let appended = self.store.append(key, append).await;
        match &appended {
            Ok(appended) if appended.duplicate_of.is_none() => self.extend(key, append, appended.head),
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
