//! The conformance suite.

use std::time::Duration;

use tokio::sync::Semaphore;
use tower_session_memory::store::conformance::Instances;
use tower_session_memory::store::{DynamoDbOptions, Store};

use crate::server::{SHARED, config};

/// A store in a new table, and another instance on it.
async fn pair<S: Store>(options: DynamoDbOptions, store: impl Fn(DynamoDbOptions) -> S) -> Instances {
    // This server takes a hundred times as long as the real one, one request after the other.
    let patient = || Duration::from_secs(100);
    let options = options.patience(patient()).attempt_timeout(patient());
    options.clone().with_config(&config()).create_table().await.unwrap();
    // One case after the other: each has two minutes, and this server answers one request at a time.
    static ALONE: Semaphore = Semaphore::const_new(1);
    let alone = ALONE.acquire().await.unwrap();
    Instances::new(store(options.clone())).and(store(options)).crowd(60).keeping(alone)
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
    use tower_session_memory::store::{Cached, Resilient};

    use super::*;
    use tower_session_memory::store::dynamodb::LargeTurns;

    async fn instances() -> Instances {
        let options = SHARED.options().large_turns(LargeTurns::Refuse);
        pair(options, |options| Resilient::new(Cached::new(options.with_config(&config()), 8 << 20))).await
    }

    tower_session_memory::conformance_tests!(instances);
}
