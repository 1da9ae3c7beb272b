//! Canaries in everything that a client and an upstream say, through every failure: no log line has one.

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{Request, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, Full};
use serde_json::json;
use tower_session_memory::llm::OnMalformed;
use tower_session_memory::{InMemory, Policy};

use crate::kit::*;
use crate::logs::Logs;

const ASK: &str = r#"{"stream":true,"messages":[{"role":"user","content":"canary"}]}"#;

fn request(path: &str, body: &str) -> Request<Full<Bytes>> {
    let mut request = Bed::request(path, body.to_owned());
    request.headers_mut().insert("x-conversation-id", "canary-id".parse().unwrap());
    request
}

fn with(mut request: Request<Full<Bytes>>, name: &'static str, value: &str) -> Request<Full<Bytes>> {
    request.headers_mut().insert(name, value.parse().unwrap());
    request
}

/// Requests that go no further than the layer, each with its answer.
async fn refusals() {
    let bed = Bed::new();
    bed.says(Said::json(r#"{"id":"resp_canary","status":"completed","output":[{"type":"message","role":"assistant","content":"canary"}]}"#));
    let first = bed.send(with(request(RESPONSES, r#"{"input":"canary"}"#), "idempotency-key", "canary")).await;
    assert_eq!(first.status, StatusCode::OK);
    let both = r#"{"input":"canary","previous_response_id":"resp_canary","conversation":"canary"}"#;
    let long = "canary ".repeat(200);
    let small = bed.clone().llm(|llm| llm.with_request_limit(100));
    let mut policy = Policy::default();
    policy.limits.message_bytes = 50;
    let narrow = Bed::on(InMemory::new(), policy);
    for (bed, request, status) in [
        (&bed, request(CHAT, r#"{"messages":["canary"#), 400),
        (&bed, request(CHAT, r#"{"canary":"canary"}"#), 400),
        (&bed, request(CHAT, r#"{"messages":[{"role":"user","content":"canary\ud800"}]}"#), 400),
        (&bed, with(request(CHAT, ASK), "content-encoding", "canary"), 415),
        (&small, request(CHAT, &json!({"messages": [{"role": "user", "content": long}]}).to_string()), 413),
        (&narrow, request(CHAT, &json!({"messages": [{"role": "user", "content": long}]}).to_string()), 413),
        (&bed, request(RESPONSES, both), 400),
        (&bed, request(RESPONSES, r#"{"input":"canary","previous_response_id":"canary"}"#), 404),
        (&bed, with(request(RESPONSES, r#"{"input":"another canary"}"#), "idempotency-key", "canary"), 422),
        (
            &bed,
            Request::delete("/v1/responses/resp_canary")
                .header("x-conversation-id", "canary-id")
                .body(Full::default())
                .unwrap(),
            405,
        ),
    ] {
        let seen = bed.send(request).await;
        assert_eq!(seen.status, status, "{}", seen.text());
        assert!(!seen.text().contains("canary"), "{}", seen.text());
    }
    let lenient = bed.clone().llm(|llm| llm.with_malformed(OnMalformed::Pass));
    lenient.says(Said::json("canary").status(StatusCode::NOT_FOUND));
    assert_eq!(lenient.send(request(CHAT, r#"{"messages":["canary"#)).await.status, StatusCode::NOT_FOUND);
}

/// Replies of which nothing good comes. What the client is told of them is the upstream's own.
async fn broken_replies() {
    let sse = "text/event-stream";
    let canary = || Bytes::from_static(b"data: {\"choices\":[{\"delta\":{\"content\":\"canary\"}}]}\n\n");
    let mut gzip = b"\x1f\x8b\x08\0\0\0\0\0\0\x03".to_vec();
    gzip.extend(b"\xffcanary, and nothing that was compressed");
    let broken = stream::iter([Ok(Frame::data(canary())), Err("canary".into())]);
    let surrogate = r#"{"choices":[{"index":0,"message":{"role":"assistant","content":"canary\ud800"}}]}"#;
    for said in [
        Said::json(r#"{"error":"canary"}"#).status(StatusCode::INTERNAL_SERVER_ERROR),
        Said::json(r#"{"canary":"canary"}"#),
        Said::json("canary"),
        Said::new("text/canary", [Bytes::from_static(b"canary")]),
        Said::json(surrogate),
        Said::json(gzip.clone()).header("content-encoding", "gzip"),
        Said::new(sse, [gzip.into()]).header("content-encoding", "gzip"),
        Said::json("canary").header("content-encoding", "canary"),
        Said::json("canary".repeat(2 << 20)),
        Said::streamed(sse, broken),
        Said::new(sse, [canary(), Bytes::from_static(b"data: {\"error\":{\"message\":\"canary\"}}\n\n")]),
        Said::new(sse, [Bytes::from_static(b"data: canary\n\nevent: canary\ndata: [\"canary\n\n")]),
        Said::streamed(sse, stream::repeat_with(move || Ok(Frame::data(canary())))),
    ] {
        let bed = Bed::new();
        bed.says(said);
        bed.send(request(CHAT, ASK)).await;
    }
}

/// A store that takes nothing, and a client that leaves.
async fn lost_turns() {
    let (store, open) = Gate::new();
    open.close();
    let bed = Bed::on(store, Policy::default());
    bed.says(Said::new("text/event-stream", [Bytes::from_static(include_bytes!("golden/chat/text.sse"))]));
    assert!(!bed.send(request(CHAT, ASK)).await.ended);
    bed.says(chat_reply("canary"));
    assert_eq!(bed.send(request(CHAT, ASK)).await.status, StatusCode::SERVICE_UNAVAILABLE);

    let bed = Bed::new();
    let chunk = Bytes::from_static(b"data: {\"choices\":[{\"delta\":{\"content\":\"canary\"}}]}\n\n");
    bed.says(Said::streamed("text/event-stream", breathing(vec![chunk]).chain(stream::pending())));
    let mut body = Box::pin(bed.call(request(CHAT, ASK)).await.into_body());
    body.frame().await.unwrap().unwrap();
    drop(body);
    while bed.memory.pending() > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn no_failure_puts_what_was_said_into_the_log() {
    let logs = Logs::capture();
    refusals().await;
    broken_replies().await;
    lost_turns().await;
    for outcome in [
        "malformed_body",
        "no_messages",
        "bad_message",
        "encoded_body",
        "body_too_large",
        "turn_too_large",
        "contradiction",
        "previous_response_not_found",
        "idempotency_key_reused",
        "response_not_deletable",
        "request passed on without its history",
        "the reply is not of the protocol",
        "a part of the reply cannot be stored",
        "the upstream compresses although it was asked not to",
        "the reply is too large or broke off",
        "the reply is larger than a turn may be",
        "turn not committed",
        "commit handed over",
    ] {
        assert!(logs.text().contains(outcome), "{outcome} was not logged:\n{}", logs.text());
    }
    #[cfg(feature = "llm-decompress")]
    logs.line(&["the reply is not what its encoding says"]);
    for line in logs.text().lines() {
        assert!(!line.to_lowercase().contains("canary") && !line.contains("Grüße"), "{line}");
    }
}
