//! Bad inputs 40, 41 and 43: an idempotency key that comes again. (39 and 42 are in `tests/wire`.)

use tower_session_memory::identity::Header;
use tower_session_memory::{Policy, Retention};

use crate::support::{CONVERSATION, Server, memory};

const KEY: &str = "8e03978e-40d5-43dd-bc93-6894a57f9324";

#[tokio::test]
async fn bad_input_40_same_key_another_payload_is_offered_the_stored_turn() {
    let server = Server::start(memory(Header::conversation(CONVERSATION))).await;
    let send = async |question: &str| {
        server.get("/", &[(CONVERSATION, "c"), ("idempotency-key", KEY), ("x-question", question)]).await
    };
    assert_eq!(send("first").await.json()["replay"], false);
    let again = send("second").await;
    assert_eq!((again.turns(), &again.json()["replay"]), (1, &true.into()), "the handler can answer from it");
    assert_eq!(send("third").await.turns(), 1, "nothing more is stored under the key");
}

#[tokio::test]
async fn bad_input_41_same_key_twice_at_once_is_stored_once() {
    let memory = memory(Header::conversation(CONVERSATION));
    let server = Server::start(memory).await;
    let send = async || server.get("/", &[(CONVERSATION, "c"), ("idempotency-key", KEY)]).await.status;
    let (a, b, c) = tokio::join!(send(), send(), send());
    assert_eq!((a, b, c), (200, 200, 200));
    assert_eq!(server.get("/?silent", &[(CONVERSATION, "c")]).await.turns(), 1);
}

#[tokio::test]
async fn bad_input_43_a_key_reused_after_its_turn_was_trimmed_is_a_new_turn() {
    let mut policy = Policy::default();
    policy.retention = Retention::turns(2);
    let memory = memory(Header::conversation(CONVERSATION)).with_policy(policy).expect("it can be kept");
    let server = Server::start(memory).await;
    let send = async |key: &str| server.get("/", &[(CONVERSATION, "c"), ("idempotency-key", key)]).await;
    send("one").await.turns();
    assert_eq!(send("one").await.json()["replay"], true);
    send("two").await.turns();
    send("three").await.turns();
    let again = send("one").await;
    assert_eq!((again.turns(), &again.json()["replay"]), (2, &false.into()), "beyond the horizon it is new");
}
