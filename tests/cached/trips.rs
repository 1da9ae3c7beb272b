//! Round trips, and the turns that they move: what a copy is for.

use tower_session_memory::store::{Append, Cached, Read, Store};
use tower_session_memory::{ConversationId, Message, SessionKey, Turn, TurnId, TurnStatus, Window};

use crate::slow::Slow;

struct World {
    store: Slow,
    pod: Cached<Slow>,
    key: SessionKey,
}

impl World {
    fn new() -> Self {
        let store = Slow::new(true);
        Self { pod: Cached::new(store.clone(), 1 << 20), store, key: SessionKey::new(ConversationId::random()) }
    }

    async fn add(&self, to: &impl Store, turns: usize) {
        for _ in 0..turns {
            let turn = Turn::new(TurnId::random(), TurnStatus::Complete, vec![Message::user("hello")]);
            to.append(&self.key, &Append::unconditional(turn)).await.unwrap();
        }
    }

    /// How many turns each trip of a load moved.
    async fn moved(&self, window: Window) -> Vec<usize> {
        self.store.moved();
        let loaded = self.pod.load(&self.key, &Read::new(window)).await.unwrap();
        assert!(!loaded.lost, "this store loses nothing");
        let whole = self.store.versions(&self.key).last().unwrap().turns.len();
        assert_eq!((loaded.turns.len(), loaded.truncated), (whole.min(window.turns), whole > window.turns));
        self.store.moved()
    }
}

#[tokio::test]
async fn what_a_pod_has_appended_it_does_not_load() {
    let world = World::new();
    world.add(&world.pod, 200).await;
    assert_eq!(world.moved(Window::newest(50)).await, [0]);
    assert_eq!(world.moved(Window::ALL).await, [0]);
}

#[tokio::test]
async fn a_look_at_the_head_does_not_cost_the_copy() {
    let world = World::new();
    world.add(&world.pod, 1).await;
    assert_eq!(world.moved(Window::NONE).await, [0]);
    world.add(&world.pod, 200).await;
    assert_eq!(world.moved(Window::ALL).await, [0], "it is whole");
    world.add(&world.store, 3).await;
    assert_eq!(world.moved(Window::NONE).await, [0]);
    assert_eq!(world.moved(Window::ALL).await, [3]);
}

/// A window as a policy has it; that of a list of conversations has no bound but its turns.
const USUAL: Window = Window::new(100, 1_000, 1 << 20);

#[tokio::test]
async fn a_smaller_window_does_not_take_the_place_of_a_larger_one() {
    let world = World::new();
    world.add(&world.store, 150).await;
    assert_eq!(world.moved(USUAL).await, [100]);
    world.add(&world.store, 3).await;
    assert_eq!(world.moved(Window::newest(2)).await, [2]);
    assert_eq!(world.moved(USUAL).await, [3]);
    assert_eq!(world.moved(Window::newest(2)).await, [0]);
    world.add(&world.pod, 200).await;
    assert_eq!(world.moved(USUAL).await, [0], "the smaller one does not say how much is kept");
}

#[tokio::test]
async fn a_copy_that_is_far_behind_is_given_up() {
    let world = World::new();
    world.add(&world.store, 150).await;
    assert_eq!(world.moved(USUAL).await, [100]);
    world.add(&world.store, 80).await;
    // By a window that takes fewer turns: whoever uses it from now on is to have a copy.
    assert_eq!(world.moved(Window::newest(9)).await, [9]);
    assert_eq!(world.moved(Window::newest(9)).await, [0]);
    // And by its own, however few are missing.
    world.add(&world.store, 12).await;
    assert_eq!(world.moved(Window::newest(9)).await, [9]);
    assert_eq!(world.moved(Window::newest(9)).await, [0]);
}

#[tokio::test]
async fn a_small_window_does_not_spoil_a_copy_that_is_whole() {
    let world = World::new();
    world.add(&world.pod, 60).await;
    world.add(&world.store, 3).await;
    assert_eq!(world.moved(Window::newest(2)).await, [2]);
    assert_eq!(world.moved(USUAL).await, [3]);
    assert_eq!(world.moved(Window::newest(1)).await, [0]);
    world.add(&world.pod, 30).await;
    assert_eq!(world.moved(USUAL).await, [0]);
    assert_eq!(world.moved(Window::ALL).await, [0]);
}

#[tokio::test]
async fn a_session_that_is_begun_anew_is_not_loaded_either() {
    let world = World::new();
    world.add(&world.pod, 3).await;
    world.store.delete(&world.key).await.unwrap();
    world.add(&world.pod, 2).await;
    assert_eq!(world.moved(Window::ALL).await, [0]);
}
