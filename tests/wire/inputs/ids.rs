//! Ids and owners that are odd, forged, guessed or too many: rows 1 to 21.

use http::StatusCode;
use tower_session_memory::identity::{Header, Or, Scoped};
use tower_session_memory::{InMemory, OnMissing, SessionMemoryLayer};

use super::{authenticated, counting, refuses, scoped_by_claims};
use crate::support::{Mood, SESSION_HEADER, Watched, layer};

#[tokio::test]
async fn bad_input_01_no_session_is_refused_minted_or_let_through() {
    let store = Watched::new(Mood::Fast);
    let (status, _, body) = counting(&layer(&store, |_| {})).await.send(&[]).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(body.contains("missing_conversation"), "{body}");

    let bypass = layer(&store, |policy| policy.on_missing = OnMissing::Bypass);
    assert_eq!(counting(&bypass).await.send(&[]).await.2, "none");

    let mint = layer(&store, |policy| policy.on_missing = OnMissing::Mint { header: SESSION_HEADER });
    let api = counting(&mint).await;
    let (status, headers, body) = api.send(&[]).await;
    assert_eq!((status, body.as_str()), (StatusCode::OK, "0"));
    let id = headers[SESSION_HEADER].as_bytes();
    assert_eq!(id.len(), 32);
    assert_eq!(api.session(&[id]).await.1, "1", "the minted id names the session");
    assert_ne!(api.send(&[]).await.1[SESSION_HEADER].as_bytes(), id);

    let memory = SessionMemoryLayer::new(
        InMemory::new(),
        Scoped::new(Header::subject("x-user-id"), Header::conversation(SESSION_HEADER)),
    );
    assert_eq!(counting(&memory).await.session(&[b"c"]).await.0, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn bad_input_02_the_same_header_twice() {
    refuses(&[b"a", b"a"]).await;
}

#[tokio::test]
async fn bad_input_03_two_different_headers() {
    refuses(&[b"a", b"b"]).await;
}

#[tokio::test]
async fn bad_input_04_a_comma_list() {
    refuses(&[b"a,b"]).await;
}

#[tokio::test]
async fn bad_input_05_an_empty_value() {
    refuses(&[b""]).await;
    refuses(&[b" \t "]).await;
}

#[tokio::test]
async fn bad_input_06_an_id_that_is_too_long() {
    refuses(&[&[b'a'; 129]]).await;
    let api = counting(&layer(&Watched::new(Mood::Fast), |_| {})).await;
    assert_eq!(api.session(&[&[b'a'; 128]]).await.0, StatusCode::OK);
}

#[tokio::test]
async fn bad_input_07_bytes_that_are_not_ascii() {
    refuses(&["café".as_bytes()]).await;
    refuses(&[b"\xff\xfe"]).await;
}

#[tokio::test]
async fn bad_input_08_percent_escapes_are_never_decoded() {
    refuses(&[b"%7B%7D"]).await;
}

#[tokio::test]
async fn bad_input_09_hash_tags_and_globs() {
    for id in ["{other}", "*", "?", "[a]"] {
        refuses(&[id.as_bytes()]).await;
    }
}

#[tokio::test]
async fn bad_input_10_control_characters() {
    let api = counting(&layer(&Watched::new(Mood::Fast), |_| {})).await;
    for id in ["a\rb", "a\0b"] {
        let answer = api
            .raw(
                format!("POST /chat HTTP/1.1\r\nhost: x\r\n{SESSION_HEADER}: {id}\r\nconnection: close\r\n\r\n")
                    .as_bytes(),
            )
            .await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    }
    // A bare line feed ends the line: what follows is a header of its own.
    let answer = api
        .raw(
            format!("POST /chat HTTP/1.1\r\nhost: x\r\n{SESSION_HEADER}: ab\nx-more: c\r\nconnection: close\r\n\r\n")
                .as_bytes(),
        )
        .await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(api.session(&[b"ab"]).await.1, "1", "the id is the part before");
}

#[tokio::test]
async fn bad_input_11_paths_of_keys() {
    refuses(&[b"../../x"]).await;
    refuses(&[b".."]).await;
    refuses(&[b"a:b:c"]).await;
}

#[tokio::test]
async fn bad_input_12_look_alikes_in_claims_are_different_principals() {
    let api = authenticated(&scoped_by_claims()).await;
    for subject in ["é", "e\u{301}", "ada", "аda", "Ada", "a\u{a0}da"] {
        assert_eq!(api.by(subject, "c").await, "0", "{subject}");
    }
    assert_eq!(api.by("é", "c").await, "1");
}

#[tokio::test]
async fn bad_input_13_a_header_of_another_spelling_is_ignored() {
    let api = counting(&layer(&Watched::new(Mood::Fast), |_| {})).await;
    assert_eq!(api.send(&[("x_conversation_id", b"a")]).await.0, StatusCode::BAD_REQUEST);
    assert_eq!(api.send(&[("x_conversation_id", b"a"), (SESSION_HEADER, b"b")]).await.2, "0");
}

#[tokio::test]
async fn bad_input_14_sources_that_disagree() {
    let either = Or::new(Header::conversation(SESSION_HEADER), Header::conversation("x-thread-id"));
    let api = counting(&SessionMemoryLayer::new(InMemory::new(), either)).await;
    assert_eq!(api.send(&[(SESSION_HEADER, b"a"), ("x-thread-id", b"b")]).await.0, StatusCode::BAD_REQUEST);
    assert_eq!(api.send(&[(SESSION_HEADER, b"a"), ("x-thread-id", b"a")]).await.2, "0");
    assert_eq!(api.send(&[("x-thread-id", b"a")]).await.2, "1");
    assert_eq!(
        api.send(&[(SESSION_HEADER, b"a"), ("cookie", b"x-thread-id=b")]).await.2,
        "2",
        "not configured, not read"
    );
}

#[tokio::test]
async fn bad_input_15_an_identity_header_without_a_proxy_is_ignored() {
    // A service whose users come from verified claims does not read a header that names one.
    let api = counting(&scoped_by_claims()).await;
    let (status, _, _) = api.send(&[("x-user-id", b"ada"), (SESSION_HEADER, b"c")]).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn bad_input_16_another_users_conversation_id_opens_an_own_session() {
    let api = authenticated(&scoped_by_claims()).await;
    assert_eq!(api.by("ada", "c").await, "0");
    assert_eq!(api.by("ada", "c").await, "1");
    assert_eq!(api.by("eve", "c").await, "0");
}

#[tokio::test]
async fn bad_input_17_the_same_subject_of_another_tenant() {
    let tenant = Scoped::new(Header::tenant("x-tenant"), Header::subject("x-user-id"));
    let memory = SessionMemoryLayer::new(InMemory::new(), Scoped::new(tenant, Header::conversation(SESSION_HEADER)));
    let api = counting(&memory).await;
    let (status, _, _) = api.send(&[("x-tenant", b"a"), (SESSION_HEADER, b"c")]).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED, "a tenant is no subject");
    for (tenant, subject) in [("a", "u"), ("b", "u"), ("a", "v"), ("a:u", "v")] {
        let headers =
            [("x-tenant", tenant.as_bytes()), ("x-user-id", subject.as_bytes()), (SESSION_HEADER, b"c" as &[u8])];
        assert_eq!(api.send(&headers).await.2, "0", "{tenant} {subject}");
    }
}

#[tokio::test]
async fn bad_input_18_guessed_ids_look_like_unused_ones() {
    let api = authenticated(&scoped_by_claims()).await;
    assert_eq!((api.by("ada", "1").await, api.by("ada", "1").await), ("0".to_owned(), "1".to_owned()));
    let guess = async |conversation| {
        let (status, mut headers, body) = api.answer_to("eve", conversation, &[]).await;
        assert!(headers.remove("date").is_some(), "the one header that may differ");
        (status, headers, body)
    };
    let (taken, unused) = (guess("1").await, guess("2").await);
    assert_eq!(taken.0, StatusCode::OK);
    assert_eq!(taken, unused, "status, headers and body");
}

#[tokio::test]
async fn bad_input_20_an_id_used_before_another_user_logs_in() {
    let api = authenticated(&scoped_by_claims()).await;
    assert_eq!(api.by("anonymous", "fixed").await, "0");
    assert_eq!(api.by("ada", "fixed").await, "0");
}

#[tokio::test]
async fn bad_input_21_fields_that_join_equal() {
    let api = authenticated(&scoped_by_claims()).await;
    for (subject, conversation) in
        [("a|b", "c"), ("a:b", "c"), ("a", "b"), ("a%3Ab", "c"), ("a/b", "c"), ("a", "bc"), ("ab", "c")]
    {
        assert_eq!(api.by(subject, conversation).await, "0", "{subject} {conversation}");
    }
}
