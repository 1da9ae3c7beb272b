//! The conformance suite by a caller that says all it knows, as the layer does: then the script decides
//! most appends by one comparison.

use tower_session_memory::store::conformance::Instances;
use tower_session_memory::store::{Append, Appended, ErrorKind, Read, RedisStore, Store};
use tower_session_memory::{SessionKey, StoreError, Window};

use crate::around::{Around, Wrapped};
use crate::common::servers::{RedisServer, Shared};

/// Looks before it appends, for the turn and for the newest header.
#[derive(Debug)]
struct Knowing(RedisStore);

impl Around for Knowing {
    type Inside = RedisStore;

    fn inside(&self) -> &RedisStore {
        &self.0
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
}

async fn instances() -> Instances {
    static SERVER: Shared<RedisServer> = Shared::new();
    let server = SERVER.get(RedisServer::start);
    let connect = async || Wrapped(Knowing(RedisStore::connect(&server.url()).await.unwrap()));
    Instances::new(connect().await).and(connect().await).keeping(server.clone())
}

tower_session_memory::conformance_tests!(instances);
