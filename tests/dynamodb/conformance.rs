//! The conformance suite.

use std::time::Duration;

use tokio::sync::Semaphore;
use tower_session_memory::store::conformance::Instances;

use crate::server::{SHARED, config};

async fn instances() -> Instances {
    // This server takes a hundred times as long as the real one, one request after the other.
    let patient = || Duration::from_secs(100);
    let options = SHARED.options().patience(patient()).attempt_timeout(patient());
    let store = options.clone().with_config(&config());
    store.create_table().await.unwrap();
    // One case after the other: each has two minutes, and this server answers one request at a time.
    static ALONE: Semaphore = Semaphore::const_new(1);
    let alone = ALONE.acquire().await.unwrap();
    // The emulator serves one request at a time, and copies its tables for each transaction.
    Instances::new(store).and(options.with_config(&config())).crowd(60).keeping(alone)
}

tower_session_memory::conformance_tests!(instances);
