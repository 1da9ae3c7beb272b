//! Pods with copies of their own in front of one store.
#![allow(clippy::panic, clippy::unwrap_used, reason = "helpers of tests")]

mod flights;
#[path = "../common/model.rs"]
mod model;
mod slow;
mod trips;

use proptest::prelude::*;
use tower_session_memory::InMemory;
use tower_session_memory::store::{Cached, SharedStore};

proptest! {
    /// One of the pods has room for hardly a session.
    #[test]
    fn pods_answer_as_the_store_would(steps in model::steps()) {
        let store = SharedStore::new(InMemory::new());
        let pods = [1 << 20, 1 << 20, 4_000].map(|bytes| Cached::new(store.clone(), bytes));
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(model::agree(&InMemory::new(), &pods, &steps));
    }
}
