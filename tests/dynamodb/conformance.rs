//! The conformance suite.

use std::sync::LazyLock;
use std::time::Duration;

use tokio::sync::Semaphore;
use tower_session_memory::store::conformance::Instances;
use tower_session_memory::store::{DynamoDbOptions, Store};

use crate::server::{SHARED, Server, config};

/// A store in a new table, and another instance on it. A case has two minutes, and a server answers one
/// request at a time: so it has a server to itself, of two.
async fn pair<S: Store>(options: DynamoDbOptions, store: impl Fn(DynamoDbOptions) -> S) -> Instances {
    static OTHER: LazyLock<Server> = LazyLock::new(Server::start);
    static FREE: [Semaphore; 2] = [const { Semaphore::const_new(1) }; 2];
    let (server, alone) = tokio::select! {
        alone = FREE[0].acquire() => (&SHARED, alone),
        alone = FREE[1].acquire() => (&OTHER, alone),
    };
    // It takes a hundred times as long as the real one.
    let patient = || Duration::from_secs(100);
    let options = options.endpoint(server.url()).patience(patient()).attempt_timeout(patient());
    options.clone().with_config(&config()).create_table().await.unwrap();
    Instances::new(store(options.clone())).and(store(options)).crowd(60).keeping(alone.unwrap())
}

mod plain {
    use super::*;

    async fn instances() -> Instances {
        pair(SHARED.options(), |options| options.with_config(&config())).await
    }

    tower_session_memory::conformance_tests!(instances);
}

/// As a deployment wants it, with the other policy for large turns.
mod cached_and_resilient {
    use tower_session_memory::store::dynamodb::LargeTurns;
    use tower_session_memory::store::{Cached, Resilient};

    use super::*;

    async fn instances() -> Instances {
        let options = SHARED.options().large_turns(LargeTurns::Refuse);
        pair(options, |options| Resilient::new(Cached::new(options.with_config(&config()), 8 << 20))).await
    }

    tower_session_memory::conformance_tests!(instances);
}
