//! The contract, on two handles of one file.

use tower_session_memory::store::conformance::Instances;

use crate::kit::Place;

tower_session_memory::conformance_tests!(two_handles);

async fn two_handles() -> Instances {
    let place = Place::new();
    let (first, second) = (place.open().await, place.open().await);
    Instances::new(first).and(second).keeping(place)
}
