//! Fresh ids, ids that only this server issues, conversations that must exist.

use std::collections::HashSet;

use serde_json::json;
use tower_session_memory::identity::{Cookie, Header, Scoped, Secrets, Signed};
use tower_session_memory::{OnMissing, OnUnknown, SessionMemoryLayer};

use crate::support::{CONVERSATION, Server, memory, minting, secrets};
use crate::tokens::{claims_with, scoped, token, token_of, verifier};

fn strict(memory: SessionMemoryLayer) -> SessionMemoryLayer {
    memory.with_policy(minting(CONVERSATION)).expect("a header source issues headers")
}

fn signed_header(secrets: &Secrets) -> Signed<Header> {
    Signed::new(secrets, Header::conversation(CONVERSATION))
}

#[tokio::test]
async fn bad_input_01_a_request_without_an_id_is_given_a_fresh_one_before_the_body() {
    let server = Server::start(strict(memory(Header::conversation(CONVERSATION)))).await;
    let mut seen = HashSet::new();
    for _ in 0..20 {
        let answer = server.get("/", &[]).await;
        let id = answer.header(CONVERSATION).expect("the head tells the id").to_owned();
        assert_eq!(id.len(), 32, "128 bits in hexadecimal");
        assert_eq!(server.get("/", &[(CONVERSATION, &id)]).await.turns(), 1);
        assert!(seen.insert(id), "never the same id twice");
    }
    // Told even where the request fails, so that a retry goes on with it.
    assert!(server.get("/?fail", &[]).await.header(CONVERSATION).is_some());
}

#[tokio::test]
async fn bad_input_19_strict_mode_never_adopts_an_id_it_did_not_issue() {
    let server = Server::start(strict(memory(signed_header(&secrets(1))))).await;
    let answer = server.get("/", &[]).await;
    let mine = answer.header(CONVERSATION).expect("the head tells the id").to_owned();
    let (id, signature) = mine.split_once('.').expect("an id and a signature");
    assert_eq!(answer.key(), format!("::{id}"), "the key outlives the secret");
    assert_eq!(server.get("/", &[(CONVERSATION, &mine)]).await.turns(), 1);

    let other = Server::start(strict(memory(signed_header(&secrets(2))))).await;
    let theirs = other.get("/", &[]).await.header(CONVERSATION).expect("an id").to_owned();
    let (their_id, _) = theirs.split_once('.').expect("an id and a signature");
    let (short, upper) = (&signature[..30], signature.to_uppercase());
    let planted = [
        id.to_owned(),
        "chat-42".to_owned(),
        format!("{id}."),
        format!("{id}.{short}"),
        format!("{id}.{signature}0"),
        format!("{id}.{upper}"),
        format!("{their_id}.{signature}"),
        format!("x{mine}"),
        format!(".{signature}"),
        theirs,
    ];
    for id in planted {
        if id == mine {
            continue; // a signature without letters has no upper case
        }
        server.get("/", &[(CONVERSATION, &id)]).await.refused(404, "unknown_conversation");
    }
    server.get("/", &[(CONVERSATION, "caf%C3%A9.00")]).await.refused(400, "bad_identity");
    assert_eq!(server.get("/", &[(CONVERSATION, &mine)]).await.turns(), 2);
}

#[tokio::test]
async fn a_rotated_secret_keeps_sessions_and_renews_ids() {
    let memory = memory(signed_header(&secrets(1)));
    let store = memory.store().clone();
    let server = Server::start(strict(memory)).await;
    let old = server.get("/", &[]).await.header(CONVERSATION).expect("an id").to_owned();
    let both = Secrets::new([2; 32]).and_then(|new| new.or_older([1; 32])).expect("32 bytes are enough");
    let server = Server::start(strict(SessionMemoryLayer::new(store, signed_header(&both)))).await;
    let answer = server.get("/", &[(CONVERSATION, &old)]).await;
    assert_eq!(answer.turns(), 1);
    let renewed = answer.header(CONVERSATION).expect("the id in its newest form").to_owned();
    assert_ne!(renewed, old);
    let answer = server.get("/", &[(CONVERSATION, &renewed)]).await;
    assert_eq!((answer.turns(), answer.header(CONVERSATION)), (2, None));
}

#[tokio::test]
async fn bad_input_20_an_id_planted_before_login_is_another_key_after_it() {
    let identity = Scoped::new(verifier().build().expect("whole"), signed_header(&secrets(1)));
    let server = Server::start(strict(memory(identity))).await;
    let send = async |subject: &str, id: &str| {
        let bearer = format!("Bearer {}", token_of(subject));
        server.get("/", &[("authorization", &bearer), (CONVERSATION, id)]).await
    };
    let bearer = format!("Bearer {}", token_of("eve"));
    let eves = server.get("/", &[("authorization", &bearer)]).await.header(CONVERSATION).expect("an id").to_owned();
    assert_eq!(send("eve", &eves).await.turns(), 1);
    // Ada's browser was given eve's id: she talks to herself, and eve sees nothing of it.
    assert_eq!(send("ada", &eves).await.turns(), 0);
    assert_eq!(send("eve", &eves).await.turns(), 2);
}

#[tokio::test]
async fn bad_input_16_where_conversations_must_exist_others_are_404() {
    let mut policy = minting(CONVERSATION);
    policy.on_unknown = OnUnknown::Refuse;
    let memory = memory(scoped(verifier())).with_policy(policy).expect("it can be kept");
    let server = Server::start(memory).await;
    let send = async |subject: &str, id: Option<&str>| {
        let bearer = format!("Bearer {}", token(&claims_with("sub", json!(subject))));
        let mut headers = vec![("authorization", bearer.as_str())];
        headers.extend(id.map(|id| (CONVERSATION, id)));
        server.get("/", &headers).await
    };
    let fresh = send("ada", None).await;
    assert_eq!(fresh.turns(), 0);
    let id = fresh.header(CONVERSATION).expect("an id").to_owned();
    assert_eq!(send("ada", Some(&id)).await.turns(), 1);
    let (others, none) = (send("eve", Some(&id)).await, send("eve", Some("made-up")).await);
    others.refused(404, "unknown_conversation");
    assert_eq!(others.text, none.text, "whether it is somebody else's cannot be told");
    assert_eq!(send("ada", Some(&id)).await.turns(), 2);
}

#[test]
fn a_source_that_cannot_issue_in_that_header_is_refused_at_start() {
    assert!(memory(Header::conversation(CONVERSATION)).with_policy(minting("set-cookie")).is_err());
    assert!(memory(Cookie::signed("chat", &secrets(1))).with_policy(minting(CONVERSATION)).is_err());
    assert!(memory(Cookie::signed("chat", &secrets(1))).with_policy(minting("set-cookie")).is_ok());
    let mut policy = minting("X-Upper");
    assert!(memory(Header::conversation(CONVERSATION)).with_policy(policy.clone()).is_err());
    policy.on_missing = OnMissing::Reject;
    assert!(memory(Cookie::signed("chat", &secrets(1))).with_policy(policy).is_ok());
}
