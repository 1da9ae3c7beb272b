//! What a client sees of a stream, and when.

use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http_body::Frame;
use http_body_util::BodyExt;
use serde_json::json;
use tokio::sync::mpsc;
use tower_session_memory::{InMemory, OnCommitFailure, OnDisconnect, Policy, TurnStatus};

use crate::kit::*;

const ASK: &str = r#"{"stream":true,"messages":[{"role":"user","content":"q"}]}"#;

/// Whole transcripts and the last thing in them by which clients know the end.
const ENDS: [(&str, &str, &[u8], &str); 6] = [
    (CHAT, "text/event-stream", include_bytes!("golden/chat/text.sse"), "data: [DONE]"),
    (MESSAGES, "text/event-stream", include_bytes!("golden/anthropic/thinking.sse"), "event: message_stop"),
    (OLLAMA, "application/x-ndjson", include_bytes!("golden/ollama/text.ndjson"), r#""done":true"#),
    (GEMINI_STREAM, "text/event-stream", include_bytes!("golden/gemini/thoughts.sse"), r#""finishReason""#),
    (
        GEMINI_ARRAY,
        "application/json; charset=UTF-8",
        include_bytes!("golden/gemini_array/thoughts.array"),
        r#""finishReason""#,
    ),
    (RESPONSES, "text/event-stream", include_bytes!("golden/responses/completed.sse"), "event: response.completed"),
];

fn question(path: &str) -> &'static str {
    match path {
        GEMINI_STREAM | GEMINI_ARRAY => r#"{"contents":[{"role":"user","parts":[{"text":"q"}]}]}"#,
        RESPONSES => r#"{"stream":true,"input":"q"}"#,
        _ => ASK,
    }
}

fn find(text: &[u8], what: &str) -> usize {
    text.windows(what.len()).position(|window| window == what.as_bytes()).unwrap()
}

/// Cut at every byte of its last event, and never before the store has answered.
#[tokio::test(start_paused = true)]
async fn the_last_event_is_held_until_the_turn_is_durable_and_no_token_is() {
    for (path, content_type, transcript, last) in ENDS {
        let end = find(transcript, last);
        for cut in end - 5..transcript.len() {
            let (store, open) = Gate::new();
            let bed = Bed::on(store, Policy::default());
            let chunks = [&transcript[..cut], &transcript[cut..]].map(Bytes::from_static).to_vec();
            // The upstream keeps its connection open: the end of the body says nothing here.
            let body = breathing(chunks).chain(stream::pending());
            bed.says(Said::streamed(content_type, body));
            let mut body = Box::pin(bed.call(Bed::request(path, question(path))).await.into_body());

            let mut seen = Vec::new();
            while let Ok(frame) = tokio::time::timeout(Duration::from_millis(2), body.frame()).await {
                seen.extend(frame.unwrap().unwrap().into_data().unwrap());
            }
            let text = String::from_utf8_lossy(&seen);
            assert!(!text.contains(last), "{path} cut at {cut}: the end was seen before it was durable");

            open.add_permits(1);
            while seen.len() < transcript.len() {
                seen.extend(body.frame().await.unwrap().unwrap().into_data().unwrap());
            }
            assert_eq!(seen, transcript);
            assert_eq!(bed.turns().await[0].status(), TurnStatus::Complete);
        }
    }
}

#[tokio::test]
async fn each_token_goes_out_when_it_comes() {
    for (path, content_type, transcript, last) in ENDS {
        let bed = Bed::new();
        let (send, receive) = mpsc::unbounded_channel::<Bytes>();
        let body = stream::unfold(receive, |mut receive| async move {
            let chunk = receive.recv().await?;
            Some((Ok(Frame::data(chunk)), receive))
        });
        bed.says(Said::streamed(content_type, body));
        let head = tokio::time::timeout(Duration::from_secs(5), bed.call(Bed::request(path, question(path)))).await;
        let mut body = Box::pin(head.expect("the head waits for no token").into_body());
        let end = find(transcript, last);
        let mut rest = &transcript[..end];
        let separator: &[u8] = match (path, transcript.windows(4).any(|window| window == b"\r\n\r\n")) {
            (OLLAMA, _) => b"\n",
            // What stands between two elements may come with either.
            (GEMINI_ARRAY, _) => b"\n}\n,\r\n",
            (_, true) => b"\r\n\r\n",
            _ => b"\n\n",
        };
        while let Some(at) = rest.windows(separator.len()).position(|window| window == separator) {
            let (event, more) = rest.split_at(at + separator.len());
            send.send(Bytes::copy_from_slice(event)).unwrap();
            let frame = tokio::time::timeout(Duration::from_secs(5), body.frame()).await.expect("it comes at once");
            assert_eq!(frame.unwrap().unwrap().into_data().unwrap(), event);
            rest = more;
        }
    }
}

#[tokio::test]
async fn a_turn_that_cannot_be_stored_never_ends_well() {
    for deliver in [false, true] {
        let (store, open) = Gate::new();
        open.close();
        let mut policy = Policy::default();
        if deliver {
            policy.on_commit_failure = OnCommitFailure::Deliver;
        }
        let bed = Bed::on(store, policy);
        let (_, content_type, transcript, last) = ENDS[0];
        bed.says(Said::new(content_type, [Bytes::from_static(transcript)]));
        let seen = bed.post(CHAT, ASK).await;
        assert_eq!(seen.ended, deliver);
        assert_eq!(seen.text().contains(last), deliver);
        assert!(seen.text().contains("wör"), "tokens were sent as they came");
    }
}

#[tokio::test]
async fn a_client_that_leaves_leaves_what_it_saw() {
    for (policy, expected) in [(OnDisconnect::Keep, Some("Hel")), (OnDisconnect::Discard, None)] {
        let mut settings = Policy::default();
        settings.on_disconnect = policy;
        let bed = Bed::on(InMemory::new(), settings);
        let chunk = Bytes::from_static(b"data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Hel\"}}]}\n\n");
        bed.says(Said::streamed("text/event-stream", breathing(vec![chunk]).chain(stream::pending())));
        let mut body = Box::pin(bed.call(Bed::request(CHAT, ASK)).await.into_body());
        body.frame().await.unwrap().unwrap();
        drop(body);
        while bed.memory.pending() > 0 {
            tokio::task::yield_now().await;
        }
        let turns = bed.turns().await;
        let said = turns.first().map(|turn| {
            assert_eq!(turn.status(), TurnStatus::Interrupted);
            turn.messages()[1].text().unwrap().into_owned()
        });
        assert_eq!(said.as_deref(), expected);
    }
}

#[tokio::test]
async fn finish_reads_on_when_the_client_is_gone() {
    let mut policy = Policy::default();
    policy.on_disconnect = OnDisconnect::Finish;
    let bed = Bed::on(InMemory::new(), policy);
    let (_, content_type, transcript, _) = ENDS[0];
    let chunks = transcript.chunks(50).map(Bytes::from_static).collect();
    bed.says(Said::streamed(content_type, breathing(chunks)));
    let mut body = Box::pin(bed.call(Bed::request(CHAT, ASK)).await.into_body());
    body.frame().await.unwrap().unwrap();
    drop(body);
    bed.memory.drain(Duration::from_secs(5)).await.unwrap();
    assert_eq!(bed.turns().await[0].status(), TurnStatus::Complete);
}

#[tokio::test]
async fn an_upstream_that_breaks_off_is_an_error_and_an_interrupted_turn() {
    let bed = Bed::new();
    let chunk =
        Bytes::from_static(b"data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Hel\"}}]}\n\ndata: {\"cho");
    bed.says(Said::streamed("text/event-stream", stream::iter([Ok(Frame::data(chunk)), Err("reset".into())])));
    let seen = bed.post(CHAT, ASK).await;
    assert!(!seen.ended);
    let turns = bed.turns().await;
    assert_eq!(turns[0].status(), TurnStatus::Interrupted);
    assert_eq!(turns[0].messages()[1].text().as_deref(), Some("Hel"));
}

#[tokio::test]
async fn a_reply_without_end_is_bounded() {
    let mut policy = Policy::default();
    policy.limits.turn_bytes = 100_000;
    let bed = Bed::on(InMemory::new(), policy);
    let chunk = json!({"choices": [{"index": 0, "delta": {"content": "x".repeat(1_000)}}]});
    let chunk = Bytes::from(format!("data: {chunk}\n\n"));
    bed.says(Said::streamed("text/event-stream", stream::repeat_with(move || Ok(Frame::data(chunk.clone())))));
    let seen = bed.post(CHAT, ASK).await;
    assert!(!seen.ended);
    assert!(seen.body.len() < 300_000);
    // One event without end.
    let chunk = Bytes::from("x".repeat(10_000));
    bed.says(Said::streamed("text/event-stream", stream::repeat_with(move || Ok(Frame::data(chunk.clone())))));
    let seen = bed.post(CHAT, ASK).await;
    assert!(!seen.ended);
    assert!(seen.body.len() < 400_000);
}

#[tokio::test]
async fn comments_are_not_held_back() {
    let bed = Bed::new();
    let body = breathing(vec![Bytes::from_static(b": keep-alive\n")]).chain(stream::pending());
    bed.says(Said::streamed("text/event-stream", body));
    let mut body = Box::pin(bed.call(Bed::request(CHAT, ASK)).await.into_body());
    let frame = tokio::time::timeout(Duration::from_secs(5), Pin::new(&mut body).frame()).await.unwrap();
    assert_eq!(frame.unwrap().unwrap().into_data().unwrap(), ": keep-alive\n");
}

#[tokio::test]
async fn trailers_wait_for_the_turn_too() {
    let bed = Bed::new();
    let mut trailers = http::HeaderMap::new();
    trailers.insert("x-sum", "1".parse().unwrap());
    let data = Bytes::from_static(include_bytes!("golden/chat/no_done.sse"));
    bed.says(Said::streamed("text/event-stream", stream::iter([Ok(Frame::data(data)), Ok(Frame::trailers(trailers))])));
    let body = bed.call(Bed::request(CHAT, ASK)).await.into_body().collect().await.unwrap();
    assert_eq!(body.trailers().unwrap()["x-sum"], "1");
    assert_eq!(bed.turns().await[0].status(), TurnStatus::Complete);
}
