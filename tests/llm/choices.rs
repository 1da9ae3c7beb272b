//! Several choices (`n` > 1): all go to the client, the first is remembered, a retry gets all again.

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use serde_json::{Value, json};

use crate::kit::*;

fn keyed(body: &Value) -> Request<Full<Bytes>> {
    let mut request = Bed::request(CHAT, body.to_string());
    request.headers_mut().insert("idempotency-key", "k".parse().unwrap());
    request
}

fn question(stream: bool) -> Value {
    json!({"model": "m", "n": 2, "stream": stream, "messages": [{"role": "user", "content": "q"}]})
}

fn two(first: &str, second: &str) -> Value {
    json!({
        "id": "c", "object": "chat.completion", "created": 1, "model": "m", "usage": {"total_tokens": 3},
        "choices": [
            // Not in order, as nobody promises.
            {"index": 1, "message": {"role": "assistant", "content": second}, "logprobs": null, "finish_reason": "length"},
            {"index": 0, "message": {"role": "assistant", "content": first}, "logprobs": null, "finish_reason": "stop"},
        ],
    })
}

fn by_index(mut reply: Value) -> Value {
    reply["choices"].as_array_mut().unwrap().sort_by_key(|choice| choice["index"].as_u64());
    reply
}

/// What a client puts together: text, calls' arguments and reason of each index.
fn heard(stream: &str) -> Vec<(String, String, String)> {
    let mut heard = vec![(String::new(), String::new(), String::new()); 2];
    for data in stream.lines().filter_map(|line| line.strip_prefix("data: ")).filter(|data| *data != "[DONE]") {
        let chunk: Value = serde_json::from_str(data).unwrap();
        for choice in chunk["choices"].as_array().unwrap() {
            let (text, calls, reason) = &mut heard[choice["index"].as_u64().unwrap() as usize];
            text.push_str(choice["delta"]["content"].as_str().unwrap_or_default());
            for call in choice["delta"]["tool_calls"].as_array().into_iter().flatten() {
                calls.push_str(call["id"].as_str().unwrap_or_default());
                calls.push_str(call["function"]["arguments"].as_str().unwrap_or_default());
            }
            reason.push_str(choice["finish_reason"].as_str().unwrap_or_default());
        }
    }
    heard
}

async fn goes_on_with(bed: &Bed, messages: Value) -> Value {
    bed.says(chat_reply("next"));
    bed.post(CHAT, json!({"messages": messages}).to_string()).await;
    bed.last().json()["messages"].clone()
}

#[tokio::test]
async fn the_first_choice_is_remembered_and_a_retry_gets_all() {
    let bed = Bed::new();
    let reply = two("one", "other");
    bed.says(Said::json(reply.to_string()));
    let first = bed.send(keyed(&question(false))).await;
    assert_eq!(first.json(), reply, "the client gets what the model said");
    let again = bed.send(keyed(&question(false))).await;
    assert_eq!(bed.got().len(), 1);
    assert_eq!(again.json(), by_index(reply));
    let said = |text: &str| json!({"role": "assistant", "content": text});
    let (q, x) = (json!({"role": "user", "content": "q"}), json!({"role": "user", "content": "x"}));
    assert_eq!(goes_on_with(&bed, json!([x])).await, json!([q, said("one"), x]));
    // A client that goes on from the other one says so by sending it.
    let own = json!([q, said("other"), {"role": "user", "content": "y"}]);
    assert_eq!(goes_on_with(&bed, own.clone()).await, own);
    let got = goes_on_with(&bed, json!([x])).await;
    assert_eq!(
        got,
        json!([q, said("other"), {"role": "user", "content": "y"}, said("next"), x]),
        "that branch goes on"
    );
}

#[tokio::test]
async fn choices_of_a_stream_come_interleaved_and_are_kept_apart() {
    let chunk = |index: u64, delta: Value, reason: Option<&str>| {
        let choice = json!({"index": index, "delta": delta, "finish_reason": reason});
        format!(
            "data: {}\n\n",
            json!({"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]})
        )
    };
    let call = |arguments: &str, id: Option<&str>| json!({"tool_calls": [{"index": 0, "id": id, "type": "function", "function": {"name": id.map(|_| "f"), "arguments": arguments}}]});
    let stream = [
        chunk(1, json!({"role": "assistant", "content": null}), None),
        chunk(0, json!({"role": "assistant", "content": "o"}), None),
        chunk(1, call("{\"a\"", Some("call_1")), None),
        chunk(0, json!({"content": "ne"}), None),
        chunk(1, call(":1}", None), None),
        chunk(1, json!({}), Some("tool_calls")),
        chunk(0, json!({}), Some("stop")),
        "data: [DONE]\n\n".to_owned(),
    ]
    .concat();
    let bed = Bed::new();
    bed.says(Said::new("text/event-stream", [Bytes::from(stream.clone())]));
    let first = bed.send(keyed(&question(true))).await;
    assert_eq!(first.text(), stream);
    let again = bed.send(keyed(&question(true))).await;
    assert_eq!(bed.got().len(), 1);
    let expected = vec![
        ("one".to_owned(), String::new(), "stop".to_owned()),
        (String::new(), "call_1{\"a\":1}".to_owned(), "tool_calls".to_owned()),
    ];
    assert_eq!((heard(first.text()), heard(again.text())), (expected.clone(), expected));
    assert!(again.text().ends_with("data: [DONE]\n\n"));
    // The other choice's call is not the conversation's: nobody owes it a result.
    let x = json!({"role": "user", "content": "x"});
    let one = json!({"role": "assistant", "content": "one"});
    assert_eq!(goes_on_with(&bed, json!([x])).await, json!([{"role": "user", "content": "q"}, one, x]));
}

#[tokio::test]
async fn choices_too_large_to_keep_leave_the_first_whole() {
    let long = "l".repeat(7 << 10);
    let bed = Bed::new();
    bed.says(Said::json(two("one", &long).to_string()));
    let first = bed.send(keyed(&question(false))).await;
    assert_eq!(first.json()["choices"][0]["message"]["content"], *long);
    let again = bed.send(keyed(&question(false))).await.json();
    let mut expected = two("one", &long);
    expected["choices"].as_array_mut().unwrap().remove(0);
    assert_eq!(again, expected, "its id, usage and reason included");

    let bed = Bed::new();
    let chunk = |index: u64, text: &str, reason: Option<&str>| {
        let choice = json!({"index": index, "delta": {"content": text}, "finish_reason": reason});
        format!("data: {}\n\n", json!({"id": "c", "choices": [choice]}))
    };
    let mut stream: Vec<_> = (0..8).map(|_| chunk(1, &"l".repeat(1 << 10), None)).collect();
    stream.extend([chunk(0, "one", Some("stop")), chunk(1, "", Some("stop")), "data: [DONE]\n\n".to_owned()]);
    bed.says(Said::new("text/event-stream", [Bytes::from(stream.concat())]));
    bed.send(keyed(&question(true))).await;
    let again = bed.send(keyed(&question(true))).await;
    assert_eq!(heard(again.text())[0].0, "one");
    assert_eq!(heard(again.text())[1], Default::default());
    assert!(again.text().contains(r#""id":"c""#));
}
