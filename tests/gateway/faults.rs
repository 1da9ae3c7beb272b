//! What becomes of a turn when the upstream, the store, the client or the gateway itself goes away.

use bytes::Bytes;
use http::StatusCode;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::{Value, json};

use crate::process::{ADA, CHAT, Gateway, patient, question, streamed};
use crate::servers::{RedisServer, eventually, free_port};
use crate::upstream::{Upstream, delta, token};

/// A file that several gateways share.
struct File(tempfile::TempDir);

impl File {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    fn gateway(&self, upstream: &str, more: &[&str]) -> Gateway {
        let store = format!("sqlite:{}", self.0.path().join("chat.db").display());
        Gateway::start(&[&["--upstream", upstream, "--store", &store], more].concat())
    }
}

/// Reads until the text has this in it.
async fn read_until(body: &mut Incoming, what: &str) -> String {
    let mut seen = String::new();
    while !seen.contains(what) {
        let frame = patient("a token", body.frame()).await.expect("not yet the end").expect("not broken off");
        seen.push_str(std::str::from_utf8(frame.data_ref().expect("data")).expect("text"));
    }
    seen
}

/// What the upstream is shown, role and text of each message.
fn shown(body: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    body["messages"].as_array().expect("a list").iter().map(|it| (text(&it["role"]), text(&it["content"]))).collect()
}

/// Asks until the interrupted turn is there, and gives what the model was shown of it.
async fn shown_next(gateway: &Gateway, upstream: &Upstream, messages: usize) -> Vec<(String, String)> {
    patient("the interrupted turn", async {
        loop {
            let headers = [ADA[0], ADA[1], ("x-attempt", "again")];
            let mut probe = question("and now?");
            probe["model"] = "probe".into();
            assert_eq!(gateway.send(CHAT, &headers, &probe).await.status, StatusCode::OK);
            // Turns of this loop may have been stored before it.
            let mut shown = shown(&upstream.last().body);
            shown.retain(|(_, text)| text != "and now?" && !text.ends_with(" messages"));
            if shown.len() == messages {
                return shown;
            }
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_is_down_or_silent_leaves_no_turn() {
    let file = File::new();
    let upstream = Upstream::start().await;
    let down = file.gateway(&format!("http://127.0.0.1:{}", free_port()), &[]);
    let answer = down.send(CHAT, &ADA, &question("lost")).await;
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
    assert_eq!(answer.json()["error"]["message"], "the upstream cannot be reached");
    let answer = down.send(CHAT, &ADA, &streamed("lost")).await;
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY, "a stream too, as it has not begun");
    assert!(down.log().contains("Connection refused"), "the log has the cause: {}", down.log());

    let gateway = file.gateway(&upstream.url, &["--silence", "1"]);
    let mut silent = question("lost");
    silent["model"] = "silent".into();
    let answer = gateway.send(CHAT, &ADA, &silent).await;
    assert_eq!(answer.status, StatusCode::GATEWAY_TIMEOUT);
    assert_eq!(answer.json()["error"]["message"], "the upstream does not answer");

    assert_eq!(gateway.says("kept").await, "1 messages");
    assert_eq!(shown(&upstream.last().body), [("user".into(), "kept".into())]);
}

/// Silence and a broken connection, in the middle of a text: the client sees no end, the model is
/// shown what came.
#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_ends_in_mid_stream_leaves_an_interrupted_turn() {
    for breaks in [false, true] {
        let file = File::new();
        let upstream = Upstream::start().await;
        let gateway = file.gateway(&upstream.url, &["--silence", "1"]);
        let script = upstream.next_stream();
        let mut body = gateway.open(CHAT, &ADA, &streamed("tell me")).await.into_body();
        script.send(token("Once upon")).expect("it listens");
        read_until(&mut body, "Once upon").await;
        if breaks {
            script.send(Err(std::io::Error::other("gone"))).expect("it listens");
        }
        assert!(patient("the end", body.collect()).await.is_err(), "no end that looks whole");
        let shown = shown_next(&gateway, &upstream, 2).await;
        assert_eq!(shown, [("user".into(), "tell me".into()), ("assistant".into(), "Once upon".into())]);
        drop(script);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_in_a_tool_call_leaves_a_conversation_that_goes_on() {
    let file = File::new();
    let upstream = Upstream::start().await;
    let gateway = file.gateway(&upstream.url, &[]);
    let script = upstream.next_stream();
    let mut body = gateway.open(CHAT, &ADA, &streamed("weather?")).await.into_body();
    script.send(token("Let me see.")).expect("it listens");
    let call =
        json!({"index": 0, "id": "call_1", "type": "function", "function": {"name": "weather", "arguments": "{\"ci"}});
    script.send(delta(json!({"tool_calls": [call]}))).expect("it listens");
    read_until(&mut body, "call_1").await;
    drop(body);
    let shown = shown_next(&gateway, &upstream, 2).await;
    assert_eq!(shown, [("user".into(), "weather?".into()), ("assistant".into(), "Let me see.".into())]);
    let body = upstream.last().body.to_string();
    assert!(!body.contains("call_1"), "half a call is nothing that a model may be shown: {body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_is_told_to_stop_finishes_its_streams() {
    let file = File::new();
    let upstream = Upstream::start().await;
    let mut gateway = file.gateway(&upstream.url, &[]);
    let script = upstream.next_stream();
    let mut body = gateway.open(CHAT, &ADA, &streamed("a story")).await.into_body();
    script.send(token("Once upon")).expect("it listens");
    read_until(&mut body, "Once upon").await;
    gateway.terminate();
    eventually("it stops listening", || gateway.log().contains("stopping").then_some(()));
    script.send(token(" a time.")).expect("it listens");
    script.send(Ok(Bytes::from_static(b"data: [DONE]\n\n"))).expect("it listens");
    drop(script);
    let rest = patient("the rest", body.collect()).await.expect("it comes to its end").to_bytes();
    assert!(rest.ends_with(b"data: [DONE]\n\n"));
    assert!(gateway.ended().success(), "{}", gateway.log());
    assert!(gateway.log().contains("session memory drained"), "{}", gateway.log());

    let next = file.gateway(&upstream.url, &[]);
    assert_eq!(next.says("and then?").await, "3 messages");
    assert_eq!(shown(&upstream.last().body)[1], ("assistant".into(), "Once upon a time.".into()));
}

/// `kill -9` in the middle of a stream: the other gateway goes on, and a retry is a first attempt.
#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_is_killed_leaves_whole_turns_only() {
    let redis = RedisServer::start();
    let upstream = Upstream::start().await;
    let start = || Gateway::start(&["--upstream", &upstream.url, "--store", &redis.url()]);
    let (mut first, second) = (start(), start());
    assert_eq!(first.says("one").await, "1 messages");

    let key = [ADA[0], ADA[1], ("idempotency-key", "k1")];
    let script = upstream.next_stream();
    let mut body = first.open(CHAT, &key, &streamed("two")).await.into_body();
    script.send(token("half an ans")).expect("it listens");
    read_until(&mut body, "half an ans").await;
    first.kill_9();
    assert!(patient("the end", body.collect()).await.is_err());

    let script = upstream.next_stream();
    let mut body = second.open(CHAT, &key, &streamed("two")).await.into_body();
    script.send(token("whole")).expect("it listens");
    script.send(Ok(Bytes::from_static(b"data: [DONE]\n\n"))).expect("it listens");
    read_until(&mut body, "[DONE]").await;
    // Whoever has seen the end has the turn: the next gateway answers the retry from it.
    let asked = upstream.got().len();
    let third = start();
    let again = third.send(CHAT, &key, &streamed("two")).await;
    assert_eq!(again.headers["idempotent-replayed"], "true");
    assert!(String::from_utf8_lossy(&again.body).contains("whole"), "{again:?}");
    assert_eq!(upstream.got().len(), asked, "the model is not asked twice");

    assert_eq!(third.says("three").await, "5 messages");
    let texts: Vec<String> = shown(&upstream.last().body).into_iter().map(|(_, text)| text).collect();
    assert_eq!(texts, ["one", "1 messages", "two", "whole", "three"]);
}
