//! The conformance suite on every set-up of servers.

use std::sync::Arc;

use tower_session_memory::store::RedisStore;
use tower_session_memory::store::conformance::Instances;

use crate::common::servers::{RedisServer, Shared};

/// Two stores on the same servers, which live as long as the stores do.
async fn twice(url: &str, servers: Arc<impl Send + Sync + 'static>) -> Instances {
    let connect = async || RedisStore::connect(url).await.unwrap();
    Instances::new(connect().await).and(connect().await).keeping(servers)
}

mod standalone {
    use super::*;

    async fn instances() -> Instances {
        static SERVER: Shared<RedisServer> = Shared::new();
        let server = SERVER.get(RedisServer::start);
        twice(&server.url(), server).await
    }

    tower_session_memory::conformance_tests!(instances);
}
