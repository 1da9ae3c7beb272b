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
    /// Oldest first. Turns stored here since stand in `tail`, so that a turn does not copy them all.
    turns: Arc<[Turn]>,
    tail: Vec<Turn>,
    bytes: usize,
    messages: usize,
    /// The window that was asked for: with it, or a smaller one, no older turn would fit. `None` for
    /// a session that was begun here and not loaded since.
    asked: Option<Window>,
}

impl Copy {
    /// How long `tail` gets before it is joined to `turns`.
    const TAIL: usize = 64;

    fn new(head: Head, turns: &[Turn], asked: Option<Window>) -> Self {
        let bytes = turns.iter().map(Turn::bytes).sum();
        let messages = turns.iter().map(|turn| turn.messages().len()).sum();
        Self { head, turns: turns.into(), tail: Vec::new(), bytes, messages, asked }
    }

    fn len(&self) -> usize {
        self.turns.len() + self.tail.len()
    }

    fn newest_first(&self) -> impl Iterator<Item = &Turn> {
        self.tail.iter().rev().chain(self.turns.iter().rev())
    }

    /// The newest so many turns, oldest first.
    fn extend_with_newest(&self, count: usize, into: &mut Vec<Turn>) {
        let of_tail = count.min(self.tail.len());
        into.extend_from_slice(&self.turns[self.turns.len() - (count - of_tail)..]);
        into.extend_from_slice(&self.tail[self.tail.len() - of_tail..]);
    }

    fn push(mut self, turn: Turn, head: Head) -> Self {
        self.head = head;
        self.bytes += turn.bytes();
        self.messages += turn.messages().len();
        self.tail.push(turn);
        if self.tail.len() < Self::TAIL {
            return self;
        }
        let fitting = self.asked.map_or(self.len(), |asked| asked.fit(self.newest_first().map(size)));
        let mut turns = Vec::with_capacity(fitting);
        self.extend_with_newest(fitting, &mut turns);
        Self::new(head, &turns, self.asked)
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
            .weigher(|key: &SessionKey, copy: &Copy| {
                // An estimate of what stands around the text: keys, records, lists of messages.
                let around = copy.len() * 256 + copy.messages * 64 + key.encoded().len() + 256;
                u32::try_from(copy.bytes + around).unwrap_or(u32::MAX)
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
        let have = stored.min(news.len() + copy.len());
        let new_bytes: usize = news.iter().map(Turn::bytes).sum();
        let new_messages: usize = news.iter().map(|turn| turn.messages().len()).sum();
        let fitting =
            if copy.bytes + new_bytes <= read.window.bytes && copy.messages + new_messages <= read.window.messages {
                // The totals fit, so all of them do: no need to look at each.
                have.min(read.window.turns)
            } else {
                read.window.fit(news.iter().rev().chain(copy.newest_first()).take(stored).map(size))
            };
        let more_may_fit = fitting == have && have < stored && fitting < read.window.turns;
        if more_may_fit && !copy.asked.is_some_and(|asked| within(read.window, asked)) {
            return Ok(None);
        }
        let from_copy = fitting.saturating_sub(news.len());
        let mut turns = Vec::with_capacity(fitting);
        copy.extend_with_newest(from_copy, &mut turns);
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
            self.copies.insert(key.clone(), Copy::new(loaded.head, &loaded.turns, Some(window)));
        }
    }

    /// The turn that was just stored is the one that the next load need not fetch.
    fn extend(&self, key: &SessionKey, append: &Append, head: Head) {
        let turn = append.turn.clone();
        let copy = match self.copies.get(key) {
            Some(copy) if copy.head == Head::new(head.epoch, head.sequence - 1) => copy.push(turn, head),
            None if head.sequence == 1 => Copy::new(head, &[turn], None),
            // Turns of others in between: the next load fetches them along with this one.
            _ => return,
        };
        self.copies.insert(key.clone(), copy);
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
