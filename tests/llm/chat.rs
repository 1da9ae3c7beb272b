//! OpenAI Chat Completions from end to end: exact bytes.

use bytes::Bytes;
use http::StatusCode;
use tower_session_memory::llm::{OnMalformed, OpenAiChat};
use tower_session_memory::{Policy, TurnStatus};

use crate::kit::*;

#[tokio::test]
async fn the_history_is_spliced_in_and_nothing_else_is_touched() {
    let bed = Bed::new();
    bed.says(chat_reply("one"));
    let first =
        "{ \"model\" : \"m\",\n \"messages\":[ {\"role\":\"user\", \"content\":\"Gr\\u00fc\\u00dfe\"} ] , \"x\":1.0 }";
    let seen = bed.post(CHAT, first).await;
    assert_eq!(seen.status, StatusCode::OK);
    assert_eq!(bed.last().text(), first, "without a history the body goes on as it came");

    bed.says(chat_reply("two"));
    let second = "{ \"model\" : \"m\",\n \"messages\":[ {\"role\":\"system\",\"content\":\"s\"}, {\"role\":\"user\", \"content\":\"next\"} ] , \"x\":1e0 }";
    bed.post(CHAT, second).await;
    assert_eq!(
        bed.last().text(),
        "{ \"model\" : \"m\",\n \"messages\":[ {\"role\":\"system\",\"content\":\"s\"}, \
         {\"role\":\"user\", \"content\":\"Gr\\u00fc\\u00dfe\"},{\"role\":\"assistant\",\"content\":\"one\"},\
         {\"role\":\"user\", \"content\":\"next\"} ] , \"x\":1e0 }"
    );
    assert_eq!(
        bed.stored().await,
        [
            "{\"role\":\"user\", \"content\":\"Gr\\u00fc\\u00dfe\"}",
            r#"{"role":"assistant","content":"one"}"#,
            "{\"role\":\"user\", \"content\":\"next\"}",
            r#"{"role":"assistant","content":"two"}"#,
        ],
        "instructions are not stored"
    );
    assert_eq!(bed.last().headers["accept-encoding"], "identity");
}

#[tokio::test]
async fn opaque_fields_of_a_reply_come_back_byte_for_byte() {
    let bed = Bed::new();
    let message = r#"{"role":"assistant", "content":null,"refusal":null,"reasoning_details":[{"type":"reasoning.encrypted","data":"A\/+\u003d=="}],"tool_calls":[{"id":"c1","type":"function","function":{"name":"f","arguments":"{\"a\":1.50}"},"extra_content":{"google":{"thought_signature":"\u00e9"}}}],"n":12345678901234567890123}"#;
    bed.says(Said::json(format!(r#"{{"choices":[{{"index":0,"message":{message},"finish_reason":"tool_calls"}}]}}"#)));
    bed.post(CHAT, r#"{"messages":[{"role":"user","content":"q"}]}"#).await;
    bed.says(chat_reply("done"));
    let result = r#"{"role":"tool","tool_call_id":"c1","content":"r"}"#;
    bed.post(CHAT, format!(r#"{{"messages":[{result}]}}"#)).await;
    assert_eq!(bed.last().text(), format!(r#"{{"messages":[{{"role":"user","content":"q"}},{message},{result}]}}"#));
}

#[tokio::test]
async fn a_history_of_instructions_alone_is_closed_in_behind_them() {
    let bed = Bed::new();
    bed.says(chat_reply("one"));
    bed.post(CHAT, r#"{"messages":[{"role":"user","content":"q"}]}"#).await;
    bed.says(chat_reply("two"));
    bed.post(CHAT, r#"{"messages":[{"role":"developer","content":"d"}],"n":1}"#).await;
    assert_eq!(
        bed.last().text(),
        r#"{"messages":[{"role":"developer","content":"d"},{"role":"user","content":"q"},{"role":"assistant","content":"one"}],"n":1}"#
    );
}

#[tokio::test]
async fn what_is_not_recognised_passes_untouched() {
    let bed = Bed::new();
    for (path, body) in [("/v1/embeddings", "{\"input\":\"x\"}"), ("/v1/chat/completions/", "not json")] {
        bed.says(Said::json("{}"));
        assert_eq!(bed.post(path, body).await.status, StatusCode::OK);
        assert_eq!(bed.last().text(), body);
    }
    let mut form = Bed::request(CHAT, "a=b");
    form.headers_mut().insert("content-type", "multipart/form-data".parse().unwrap());
    bed.says(Said::json("{}"));
    bed.send(form).await;
    assert_eq!(bed.last().text(), "a=b");
    assert!(bed.turns().await.is_empty());
}

#[tokio::test]
async fn malformed_requests_are_refused_or_passed_on_and_never_stored() {
    let bodies = [
        "",
        "{",
        "[]",
        "null",
        r#"{"messages":1}"#,
        r#"{"messages":[{"role":"user"}],"messages":[]}"#,
        r#"{"model":"m"}"#,
        r#"{"messages":[{"role":"user","content":"\ud800"}]}"#,
    ];
    let strict = Bed::new();
    let lenient = Bed::new().llm(|llm| llm.with_malformed(OnMalformed::Pass));
    for body in bodies {
        let seen = strict.post(CHAT, body).await;
        assert_eq!(seen.status, StatusCode::BAD_REQUEST, "{body}");
        assert_eq!(seen.headers["content-type"], "application/problem+json");
        lenient.says(chat_reply("fine by me"));
        assert_eq!(lenient.post(CHAT, body).await.status, StatusCode::OK);
        assert_eq!(lenient.last().text(), body);
    }
    assert!(strict.got().is_empty());
    assert!(strict.turns().await.is_empty() && lenient.turns().await.is_empty());
}

#[tokio::test]
async fn nesting_without_end_is_refused() {
    let bed = Bed::new();
    let deep = format!(r#"{{"messages":[{{"role":"user","content":{}{}}}]}}"#, "[".repeat(10_000), "]".repeat(10_000));
    assert_eq!(bed.post(CHAT, deep).await.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn sizes_are_bounded_before_the_model_is_paid() {
    let bed = Bed::new().llm(|llm| llm.with_request_limit(1_000_000));
    let body = |size: usize| format!(r#"{{"messages":[{{"role":"user","content":"{}"}}]}}"#, "x".repeat(size));
    let seen = bed.post(CHAT, body(1_000_000)).await;
    assert_eq!((seen.status, &seen.json()["code"]), (StatusCode::PAYLOAD_TOO_LARGE, &"body_too_large".into()));
    let seen = bed.post(CHAT, body(300_000)).await;
    assert_eq!((seen.status, &seen.json()["code"]), (StatusCode::PAYLOAD_TOO_LARGE, &"turn_too_large".into()));
    assert!(bed.got().is_empty());
    assert!(bed.turns().await.is_empty());
}

#[tokio::test]
async fn a_compressed_request_is_refused() {
    let bed = Bed::new();
    let mut request = Bed::request(CHAT, "\u{1f}");
    request.headers_mut().insert("content-encoding", "gzip".parse().unwrap());
    assert_eq!(bed.send(request).await.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
}

#[tokio::test]
async fn a_failed_answer_leaves_no_question() {
    let bed = Bed::new();
    bed.says(Said::json(r#"{"error":{"message":"no"}}"#).status(StatusCode::TOO_MANY_REQUESTS));
    let seen = bed.post(CHAT, r#"{"messages":[{"role":"user","content":"q"}]}"#).await;
    assert_eq!((seen.status, seen.text()), (StatusCode::TOO_MANY_REQUESTS, r#"{"error":{"message":"no"}}"#));
    bed.says(Said::json(r#"{"error":{"message":"no"}}"#));
    bed.post(CHAT, r#"{"messages":[{"role":"user","content":"q"}]}"#).await;
    bed.says(Said::new("text/html", [Bytes::from_static(b"<html>")]));
    bed.post(CHAT, r#"{"messages":[{"role":"user","content":"q"}]}"#).await;
    assert!(bed.turns().await.is_empty());
}

#[tokio::test]
async fn a_json_reply_whose_turn_cannot_be_stored_is_an_honest_answer() {
    let (store, open) = Gate::new();
    open.close();
    let bed = Bed::on(store, Policy::default());
    bed.says(chat_reply("lost"));
    let seen = bed.post(CHAT, r#"{"messages":[{"role":"user","content":"q"}]}"#).await;
    assert_eq!(seen.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(!seen.text().contains("lost"));
}

#[tokio::test]
async fn a_reply_that_outgrows_its_limit_or_breaks_off_is_refused() {
    let bed = Bed::new().llm(|llm| llm.with_reply_limit(64));
    bed.says(chat_reply("x"));
    let seen = bed.post(CHAT, r#"{"messages":[{"role":"user","content":"q"}]}"#).await;
    assert_eq!(seen.status, StatusCode::BAD_GATEWAY);
    bed.says(Said::streamed(
        "application/json",
        futures_util::stream::iter([Ok(http_body::Frame::data(Bytes::from_static(b"{"))), Err("gone".into())]),
    ));
    let seen = bed.post(CHAT, r#"{"messages":[{"role":"user","content":"q"}]}"#).await;
    assert_eq!(seen.status, StatusCode::BAD_GATEWAY);
    assert!(bed.turns().await.is_empty());
}

#[tokio::test]
async fn a_protocol_may_be_fixed_whatever_the_path() {
    let bed = Bed::new().llm(|_| tower_session_memory::llm::LlmMemoryLayer::speaking(OpenAiChat));
    bed.says(chat_reply("one"));
    bed.post("/anything", r#"{"messages":[{"role":"user","content":"q"}]}"#).await;
    assert_eq!(bed.turns().await[0].status(), TurnStatus::Complete);
}

#[tokio::test]
async fn an_encoding_that_nobody_here_knows_is_refused() {
    let bed = Bed::new();
    let body = Bytes::from_static(&[0x1f, 0x9d]);
    bed.says(Said::new("application/json", [body]).header("content-encoding", "compress"));
    let seen = bed.post(CHAT, r#"{"messages":[{"role":"user","content":"q"}]}"#).await;
    assert_eq!((seen.status, &seen.json()["code"]), (StatusCode::BAD_GATEWAY, &"bad_reply".into()));
}
