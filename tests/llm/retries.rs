//! The same request again: answered from the stored turn, without the upstream.

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use serde_json::{Value, json};
use tower_session_memory::TurnStatus;

use crate::kit::*;

fn keyed(path: &str, key: &str, body: &Value) -> Request<Full<Bytes>> {
    let mut request = Bed::request(path, body.to_string());
    request.headers_mut().insert("idempotency-key", key.parse().unwrap());
    request
}

/// What each protocol's stream says, put together by the layer itself on a fresh session.
async fn stored_from(path: &str, content_type: &str, body: &Bytes, question: &Value) -> Vec<String> {
    let bed = Bed::new();
    bed.says(Said::new(content_type, [body.clone()]));
    bed.post(path, question.to_string()).await;
    assert_eq!(bed.turns().await[0].status(), TurnStatus::Complete);
    bed.stored().await
}

#[tokio::test]
async fn a_json_reply_is_given_again() {
    let bed = Bed::new();
    let question = json!({"model": "m", "messages": [{"role": "user", "content": "q"}]});
    bed.says(chat_reply("one"));
    let first = bed.send(keyed(CHAT, "k", &question)).await;
    let again = bed.send(keyed(CHAT, "k", &question)).await;
    assert_eq!(bed.got().len(), 1, "the upstream is not asked twice");
    assert_eq!(again.headers["idempotent-replayed"], "true");
    let (first, mut again) = (first.json(), again.json());
    assert_eq!(again["choices"][0]["logprobs"].take(), Value::Null);
    again["choices"][0].as_object_mut().unwrap().remove("logprobs");
    assert_eq!(first, again);
    assert_eq!(bed.turns().await.len(), 1);
}

#[tokio::test]
async fn bad_input_40_the_same_key_for_another_request_is_refused() {
    let bed = Bed::new();
    bed.says(chat_reply("one"));
    bed.send(keyed(CHAT, "k", &json!({"messages": [{"role": "user", "content": "q"}]}))).await;
    let seen = bed.send(keyed(CHAT, "k", &json!({"messages": [{"role": "user", "content": "other"}]}))).await;
    assert_eq!((seen.status.as_u16(), &seen.json()["code"]), (422, &"idempotency_key_reused".into()));
    assert_eq!(bed.got().len(), 1);
    // Another key, or none, is another request.
    bed.says(chat_reply("two"));
    assert_eq!(bed.send(keyed(CHAT, "k2", &json!({"messages": [{"role": "user", "content": "q"}]}))).await.status, 200);
}

#[tokio::test]
async fn an_interrupted_answer_is_asked_for_again() {
    let bed = Bed::new();
    let question = json!({"stream": true, "messages": [{"role": "user", "content": "q"}]});
    bed.says(Said::new("text/event-stream", [Bytes::from_static(include_bytes!("golden/chat/cut.sse"))]));
    bed.send(keyed(CHAT, "k", &question)).await;
    bed.says(chat_reply("whole"));
    bed.send(keyed(CHAT, "k", &question)).await;
    assert_eq!(bed.got().len(), 2);
    let statuses: Vec<_> = bed.turns().await.iter().map(|turn| turn.status()).collect();
    assert_eq!(statuses, [TurnStatus::Interrupted, TurnStatus::Complete]);
}

#[tokio::test]
async fn every_protocol_gives_its_stream_again_and_as_json_too() {
    let chat = json!({"stream": true, "messages": [{"role": "user", "content": "q"}]});
    let contents = json!({"contents": [{"role": "user", "parts": [{"text": "q"}]}]});
    let input = json!({"stream": true, "input": "q"});
    let (sse, lines) = ("text/event-stream", "application/x-ndjson");
    let cases: [(&str, &str, &Value, &[u8]); 12] = [
        (CHAT, sse, &chat, include_bytes!("golden/chat/tools.sse")),
        (CHAT, sse, &chat, include_bytes!("golden/chat/reasoning.sse")),
        (MESSAGES, sse, &chat, include_bytes!("golden/anthropic/thinking.sse")),
        (MESSAGES, sse, &chat, include_bytes!("golden/anthropic/tools.sse")),
        (MESSAGES, sse, &chat, include_bytes!("golden/anthropic/server_tools_citations.sse")),
        (OLLAMA, lines, &chat, include_bytes!("golden/ollama/thinking.ndjson")),
        (OLLAMA, lines, &chat, include_bytes!("golden/ollama/tools.ndjson")),
        (GEMINI_STREAM, sse, &contents, include_bytes!("golden/gemini/thoughts.sse")),
        (GEMINI_STREAM, sse, &contents, include_bytes!("golden/gemini/tools.sse")),
        (GEMINI_STREAM, sse, &contents, include_bytes!("golden/gemini/partial_args.sse")),
        (GEMINI_ARRAY, "application/json", &contents, include_bytes!("golden/gemini_array/thoughts.array")),
        (RESPONSES, sse, &input, include_bytes!("golden/responses/completed.sse")),
    ];
    for (path, content_type, question, transcript) in cases {
        let bed = Bed::new();
        bed.says(Said::new(content_type, [Bytes::from_static(transcript)]));
        bed.send(keyed(path, "k", question)).await;
        let again = bed.send(keyed(path, "k", question)).await;
        assert_eq!(bed.got().len(), 1, "{path}");
        assert_eq!(again.headers["content-type"], content_type);
        let values = |stored: Vec<String>| -> Vec<Value> {
            stored.iter().map(|message| serde_json::from_str(message).unwrap()).collect()
        };
        let replayed = stored_from(path, content_type, &again.body, question).await;
        assert_eq!(values(replayed), values(bed.stored().await), "{path}: {}", again.text());
    }
}
