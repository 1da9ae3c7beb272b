//! A store around another, for tests that change one of its answers.

use std::fmt::Debug;
use std::future::Future;

use tower_session_memory::store::{
    Append, Appended, Deleted, Loaded, Page, PoolState, Read, SessionPage, Store, StoreInfo,
};
use tower_session_memory::{Scope, SessionKey, StoreError};

/// What is changed; the rest is as inside.
pub trait Around: Debug + Send + Sync + 'static {
    type Inside: Store;

    fn inside(&self) -> &Self::Inside;

    fn pool(&self) -> Option<PoolState> {
        None
    }

    fn load(&self, key: &SessionKey, read: &Read) -> impl Future<Output = Result<Loaded, StoreError>> + Send {
        self.inside().load(key, read)
    }

    fn append(&self, key: &SessionKey, append: &Append) -> impl Future<Output = Result<Appended, StoreError>> + Send {
        self.inside().append(key, append)
    }
}

/// It as a store.
#[derive(Clone, Debug, Default)]
pub struct Wrapped<T>(pub T);

impl<T: Around> Store for Wrapped<T> {
    fn info(&self) -> StoreInfo {
        self.0.inside().info()
    }

    fn pool(&self) -> Option<PoolState> {
        self.0.pool()
    }

    async fn load(&self, key: &SessionKey, read: &Read) -> Result<Loaded, StoreError> {
        self.0.load(key, read).await
    }

    async fn append(&self, key: &SessionKey, append: &Append) -> Result<Appended, StoreError> {
        self.0.append(key, append).await
    }

    async fn delete(&self, key: &SessionKey) -> Result<Deleted, StoreError> {
        self.0.inside().delete(key).await
    }

    async fn list(&self, scope: &Scope, page: &Page) -> Result<SessionPage, StoreError> {
        self.0.inside().list(scope, page).await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.0.inside().ping().await
    }
}
