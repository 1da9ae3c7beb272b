//! The conformance suite.

use tokio::sync::OnceCell;
use tower_session_memory::store::conformance::Instances;

use crate::server::SHARED;

async fn instances() -> Instances {
    static MIGRATED: OnceCell<()> = OnceCell::const_new();
    let options = || SHARED.options("conformance").pool_size(4);
    MIGRATED.get_or_init(|| async { options().migrate().await.map(|_| ()).unwrap() }).await;
    Instances::new(options().connect().await.unwrap()).and(options().connect().await.unwrap())
}

tower_session_memory::conformance_tests!(instances);

/// As a deployment wants it.
mod cached_and_resilient {
    use tower_session_memory::store::{Cached, Resilient};

    use super::*;

    async fn instances() -> Instances {
        static MIGRATED: OnceCell<()> = OnceCell::const_new();
        let options = || SHARED.options("decorated").pool_size(4);
        MIGRATED.get_or_init(|| async { options().migrate().await.map(|_| ()).unwrap() }).await;
        let store = async || Resilient::new(Cached::new(options().connect().await.unwrap(), 8 << 20));
        Instances::new(store().await).and(store().await)
    }

    tower_session_memory::conformance_tests!(instances);
}
