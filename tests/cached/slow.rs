//! A store at a distance: calls are on their way for a moment before they take effect, and their
//! answers after it.

use std::collections::HashMap;
use std::future::poll_fn;
use std::sync::{Arc, Mutex};
use std::task::Poll;

use tower_session_memory::store::{Append, Appended, Deleted, Loaded, Page, Read, SessionPage, StoreInfo};
use tower_session_memory::{Head, InMemory, Scope, SessionKey, Store, StoreError, Turn, Window};

/// A session as it was between two changes.
#[derive(Debug)]
pub(crate) struct Version {
    pub(crate) head: Head,
    pub(crate) turns: Vec<Turn>,
}

#[derive(Debug, Clone)]
pub(crate) struct Slow(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    store: InMemory,
    /// Says how many turns are kept, and beside what is newer nothing else of use; otherwise not.
    counts: bool,
    /// All versions of each session after it was absent, oldest first.
    versions: Mutex<HashMap<SessionKey, Vec<Arc<Version>>>>,
    moved: Mutex<Vec<usize>>,
}

/// Lets others go first, once.
async fn travel() {
    let mut arrived = false;
    poll_fn(|cx| {
        cx.waker().wake_by_ref();
        if std::mem::replace(&mut arrived, true) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

impl Slow {
    pub(crate) fn new(counts: bool) -> Self {
        Self(Arc::new(Inner { counts, ..Inner::default() }))
    }

    /// What a session has been so far, from when it was absent.
    pub(crate) fn versions(&self, key: &SessionKey) -> Vec<Arc<Version>> {
        let absent = Arc::new(Version { head: Head::ABSENT, turns: Vec::new() });
        let later = self.0.versions.lock().unwrap().get(key).cloned().unwrap_or_default();
        std::iter::once(absent).chain(later).collect()
    }

    /// How many turns each load moved since the last call.
    pub(crate) fn moved(&self) -> Vec<usize> {
        std::mem::take(&mut self.0.moved.lock().unwrap())
    }

    async fn changed(&self, key: &SessionKey) {
        let Loaded { head, turns, .. } = self.0.store.load(key, &Read::new(Window::ALL)).await.unwrap();
        self.0.versions.lock().unwrap().entry(key.clone()).or_default().push(Arc::new(Version { head, turns }));
    }
}

impl Store for Slow {
    fn info(&self) -> StoreInfo {
        self.0.store.info()
    }

    async fn load(&self, key: &SessionKey, read: &Read) -> Result<Loaded, StoreError> {
        travel().await;
        let mut loaded = self.0.store.load(key, read).await?;
        if !self.0.counts {
            loaded.kept = None;
        } else if loaded.since.is_some() {
            loaded.truncated = loaded.kept != Some(loaded.turns.len() as u64);
        }
        self.0.moved.lock().unwrap().push(loaded.turns.len());
        travel().await;
        Ok(loaded)
    }

    async fn append(&self, key: &SessionKey, append: &Append) -> Result<Appended, StoreError> {
        travel().await;
        let appended = self.0.store.append(key, append).await;
        self.changed(key).await;
        travel().await;
        appended
    }

    async fn delete(&self, key: &SessionKey) -> Result<Deleted, StoreError> {
        travel().await;
        let deleted = self.0.store.delete(key).await;
        self.changed(key).await;
        travel().await;
        deleted
    }

    async fn list(&self, scope: &Scope, page: &Page) -> Result<SessionPage, StoreError> {
        self.0.store.list(scope, page).await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.0.store.ping().await
    }
}
