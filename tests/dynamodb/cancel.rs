//! Callers that leave, at every await.

use tower_session_memory::store::{Append, Page, Read, Store};
use tower_session_memory::{Scope, Subject, Window};

use crate::common::polls::dropped_after;
use crate::server::SHARED;
use crate::table::{key, of_bytes, turn, turns};

/// A request that was sent may be applied after its caller left, and after the next call: whatever is
/// seen of the dropped turn, the identical attempt must find it there once.
#[tokio::test(flavor = "multi_thread")]
async fn at_every_await_a_dropped_turn_is_there_once_or_not_at_all() {
    let store = SHARED.store().await;
    let (read, page) = (Read::new(Window::ALL), Page::first(3));
    let scope = Scope::all().subject(Subject::new("ada").unwrap());
    let mut ended = [false; 4];
    for polls in 0..200 {
        let key = key();
        let dropped = Append::unconditional(if polls % 4 == 3 { of_bytes(450_000) } else { turn("dropped") });
        ended[0] |= dropped_after(polls, store.append(&key, &dropped)).await;
        ended[1] |= dropped_after(polls, store.load(&key, &read)).await;
        ended[2] |= dropped_after(polls, store.list(&scope, &page)).await;
        let next = Append::unconditional(turn("next"));
        store.append(&key, &next).await.unwrap();
        let again = store.append(&key, &dropped).await.unwrap();
        let stored = turns(&store, &key).await;
        assert_eq!(stored.len(), 2, "after {polls} polls");
        assert_eq!(stored[again.sequence as usize - 1], dropped.turn, "after {polls} polls");
        // A delete that was dropped has put up its fence, or has done nothing.
        ended[3] |= dropped_after(polls, store.delete(&key)).await;
        let left = turns(&store, &key).await.len();
        assert!([0, 2].contains(&left), "{left} turns after {polls} polls");
        store.delete(&key).await.unwrap();
        assert!(turns(&store, &key).await.is_empty());
        if ended.iter().all(|ended| *ended) {
            println!("the longest took {polls} polls");
            break;
        }
    }
    assert_eq!(ended, [true; 4], "every call was followed to its end");
}
