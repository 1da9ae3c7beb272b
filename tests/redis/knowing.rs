//! The conformance suite by a caller that says all it knows, as the layer does: then the script decides
//! most appends by one comparison.

use tower_session_memory::store::{
    Append, Appended, Deleted, ErrorKind, Page, Read, RedisStore, SessionPage, Store, StoreError, StoreInfo,
};
use tower_session_memory::store::{Loaded, conformance::Instances};
use tower_session_memory::{Scope, SessionKey, Window};

use crate::common::servers::{RedisServer, Shared};

/// Looks before it appends, for the turn and for the newest header.
#[derive(Debug)]
struct Knowing(RedisStore);

impl Store for Knowing {
    fn info(&self) -> StoreInfo {
        self.0.info()
    }

    async fn load(&self, key: &SessionKey, read: &Read) -> Result<Loaded, StoreError> {
        self.0.load(key, read).await
    }

    async fn append(&self, key: &SessionKey, append: &Append) -> Result<Appended, StoreError> {
        let looked = self.0.load(key, &Read::new(Window::newest(1)).find(append.turn.id())).await?;
        let there = append.expected.is_none_or(|expected| expected == looked.head);
        if !there || looked.found.is_some() {
            return self.0.append(key, append).await;
        }
        let mut knowing = append.clone().lineage(looked.lineage).searched();
        knowing.expected = Some(looked.head);
        match self.0.append(key, &knowing).await {
            // Deleted or expired meanwhile: only who asked for this very life is told.
            Err(error) if error.kind() == ErrorKind::Gone && append.expected.is_none() => {
                self.0.append(key, append).await
            }
            appended => appended,
        }
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

async fn instances() -> Instances {
    static SERVER: Shared<RedisServer> = Shared::new();
    let server = SERVER.get(RedisServer::start);
    let connect = async || Knowing(RedisStore::connect(&server.url()).await.unwrap());
    Instances::new(connect().await).and(connect().await).keeping(server.clone())
}

tower_session_memory::conformance_tests!(instances);
