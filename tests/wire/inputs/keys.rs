//! Idempotency keys: rows 39 to 43.

use http::StatusCode;
use tower_session_memory::store::{Read, Store};
use tower_session_memory::{Subject, TurnId, Window};

use super::{authenticated, counting, scoped_by_claims};
use crate::support::{Mood, SESSION_HEADER, Watched, key, layer};

#[tokio::test]
async fn bad_input_39_idempotency_keys_that_cannot_be_taken() {
    let api = counting(&layer(&Watched::new(Mood::Fast), |_| {})).await;
    let keyed = |keys: &[&[u8]]| {
        let keys = keys.iter().map(|key| ("idempotency-key", *key));
        let headers: Vec<_> = keys.chain([(SESSION_HEADER, b"s" as &[u8])]).map(|(n, v)| (n, v.to_vec())).collect();
        let api = &api;
        async move {
            let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_slice())).collect();
            api.send(&headers).await
        }
    };
    for bad in
        [&[&[b'k'; 256] as &[u8]] as &[&[u8]], &[b"a\tb"], &[b"a", b"a"], &[b"a", b"b"], &[b""], &[b"\"a"], &[b"\xe9"]]
    {
        let (status, _, body) = keyed(bad).await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
        assert!(body.contains("bad_idempotency_key"), "{body}");
    }
    assert_eq!(keyed(&[b"k-1"]).await.2, "0");
    assert_eq!(keyed(&[b"\"k-1\""]).await.2, "1", "the quoted form is the same key:");
    assert_eq!(keyed(&[b"k-2"]).await.2, "1", "nothing was stored for it");
}

#[tokio::test]
async fn bad_input_42_the_same_key_of_another_user() {
    let memory = scoped_by_claims();
    let api = authenticated(&memory).await;
    for user in ["ada", "eve"] {
        let (status, _, turns) = api.answer_to(user, "c", &[("idempotency-key", b"k")]).await;
        assert_eq!((status, turns.as_str()), (StatusCode::OK, "0"), "{user} has no turn under this key");
    }
    let mut ids = Vec::new();
    for user in ["ada", "eve"] {
        let session = key("c").with_subject(Subject::new(user).unwrap());
        let turns = memory.store().load(&session, &Read::new(Window::ALL)).await.unwrap().turns;
        assert_eq!(turns.len(), 1, "{user}");
        assert_eq!(turns[0].id(), TurnId::of_idempotency_key(&session, "k"));
        ids.push(turns[0].id());
    }
    assert_ne!(ids[0], ids[1]);
    // Whereas the same user's retry is offered the stored turn.
    api.answer_to("ada", "c", &[("idempotency-key", b"k")]).await;
    assert_eq!(api.by("ada", "c").await, "1");
}

#[tokio::test]
async fn bad_input_43_a_key_reused_after_its_turn_was_trimmed_is_a_new_turn() {
    let store = Watched::new(Mood::Fast);
    let api = counting(&layer(&store, |policy| policy.retention.turns = Some(1))).await;
    for key in ["k", "other", "k"] {
        api.send(&[(SESSION_HEADER, b"s"), ("idempotency-key", key.as_bytes())]).await;
    }
    assert_eq!(store.acknowledged(), 3);
    assert_eq!(store.turns("s").await.len(), 1);
}
