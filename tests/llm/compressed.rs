//! Upstreams that compress although they were asked not to.

use std::io::Write;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use tower_session_memory::TurnStatus;

use crate::kit::*;

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test]
async fn a_compressed_reply_passes_as_it_came_and_is_recorded() {
    let bed = Bed::new();
    let body =
        gzip(br#"{"choices":[{"index":0,"message":{"role":"assistant","content":"one"},"finish_reason":"stop"}]}"#);
    bed.says(Said::json(body.clone()).header("content-encoding", "gzip"));
    let seen = bed.post(CHAT, r#"{"messages":[{"role":"user","content":"q"}]}"#).await;
    assert_eq!(seen.body, body);
    assert_eq!(bed.stored().await[1], r#"{"role":"assistant","content":"one"}"#);
}

#[tokio::test]
async fn a_compressed_stream_too_cut_anywhere() {
    let body = Bytes::from(gzip(include_bytes!("golden/chat/text.sse")));
    for at in 1..body.len() {
        let bed = Bed::new();
        let chunks = vec![body.slice(..at), body.slice(at..)];
        bed.says(Said::streamed("text/event-stream", breathing(chunks)).header("content-encoding", "gzip"));
        let seen = bed.post(CHAT, r#"{"stream":true,"messages":[{"role":"user","content":"q"}]}"#).await;
        assert!(seen.ended && seen.body == body);
        let turns = bed.turns().await;
        assert_eq!(turns[0].status(), TurnStatus::Complete);
        assert_eq!(turns[0].messages()[1].text().as_deref(), Some("Grüße, 🙂 wörld"));
    }
}
