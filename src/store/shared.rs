//! One type for any store: the trait is generic for those who implement it, this is what the layer holds.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use super::{Append, Appended, Deleted, Loaded, Page, PoolState, Read, SessionPage, Store, StoreError, StoreInfo};
use crate::key::{Scope, SessionKey};

pub(crate) type BoxFuture<T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send>>;

/// Any [`Store`], shared: cheap to clone, without a type parameter.
#[derive(Clone)]
pub struct SharedStore(Arc<dyn Erased>);

impl SharedStore {
    /// Shares a store.
    pub fn new<S: Store>(store: S) -> Self {
        Self(Arc::new(store))
    }

    pub(crate) fn load_owned(&self, key: SessionKey, read: Read) -> BoxFuture<Loaded> {
        self.0.clone().load(key, read)
    }

    pub(crate) fn append_owned(&self, key: SessionKey, append: Append) -> BoxFuture<Appended> {
        self.0.clone().append(key, append)
    }
}

impl fmt::Debug for SharedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SharedStore").field(&self.0).finish()
    }
}

/// The object-safe twin of [`Store`]: each call is boxed once and owns what it needs, so that it can
/// outlive the request that made it.
trait Erased: fmt::Debug + Send + Sync {
    fn info(&self) -> StoreInfo;
    fn pool(&self) -> Option<PoolState>;
    fn load(self: Arc<Self>, key: SessionKey, read: Read) -> BoxFuture<Loaded>;
    fn append(self: Arc<Self>, key: SessionKey, append: Append) -> BoxFuture<Appended>;
    fn delete(self: Arc<Self>, key: SessionKey) -> BoxFuture<Deleted>;
    fn list(self: Arc<Self>, scope: Scope, page: Page) -> BoxFuture<SessionPage>;
    fn ping(self: Arc<Self>) -> BoxFuture<()>;
}

impl<S: Store> Erased for S {
    fn info(&self) -> StoreInfo {
        Store::info(self)
    }

    fn pool(&self) -> Option<PoolState> {
        Store::pool(self)
    }

    fn load(self: Arc<Self>, key: SessionKey, read: Read) -> BoxFuture<Loaded> {
        Box::pin(async move { Store::load(&*self, &key, &read).await })
    }

    fn append(self: Arc<Self>, key: SessionKey, append: Append) -> BoxFuture<Appended> {
        Box::pin(async move { Store::append(&*self, &key, &append).await })
    }

    fn delete(self: Arc<Self>, key: SessionKey) -> BoxFuture<Deleted> {
        Box::pin(async move { Store::delete(&*self, &key).await })
    }

    fn list(self: Arc<Self>, scope: Scope, page: Page) -> BoxFuture<SessionPage> {
        Box::pin(async move { Store::list(&*self, &scope, &page).await })
    }

    fn ping(self: Arc<Self>) -> BoxFuture<()> {
        Box::pin(async move { Store::ping(&*self).await })
    }
}

impl Store for SharedStore {
    fn info(&self) -> StoreInfo {
        self.0.info()
    }

    fn pool(&self) -> Option<PoolState> {
        self.0.pool()
    }

    fn load(&self, key: &SessionKey, read: &Read) -> impl Future<Output = Result<Loaded, StoreError>> + Send {
        self.load_owned(key.clone(), *read)
    }

    fn append(&self, key: &SessionKey, append: &Append) -> impl Future<Output = Result<Appended, StoreError>> + Send {
        self.append_owned(key.clone(), append.clone())
    }

    fn delete(&self, key: &SessionKey) -> impl Future<Output = Result<Deleted, StoreError>> + Send {
        self.0.clone().delete(key.clone())
    }

    fn list(&self, scope: &Scope, page: &Page) -> impl Future<Output = Result<SessionPage, StoreError>> + Send {
        self.0.clone().list(scope.clone(), page.clone())
    }

    fn ping(&self) -> impl Future<Output = Result<(), StoreError>> + Send {
        self.0.clone().ping()
    }
}
