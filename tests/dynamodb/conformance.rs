//! The conformance suite.

use std::time::Duration;

use tower_session_memory::store::conformance::Instances;

use crate::server::{SHARED, config};

async fn instances() -> Instances {
    // This server takes a hundred times as long as the real one, one request after the other.
    let patient = || Duration::from_secs(100);
    let options = SHARED.options().patience(patient()).attempt_timeout(patient());
    let store = options.clone().with_config(&config());
    store.create_table().await.unwrap();
    Instances::new(store).and(options.with_config(&config()))
}

tower_session_memory::conformance_tests!(instances);
