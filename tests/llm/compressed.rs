//! Upstreams that compress although they were asked not to.

use std::io::Write;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
use http::StatusCode;
use http_body_util::BodyExt;
use tower_session_memory::TurnStatus;

use crate::kit::*;

const ASK: &str = r#"{"messages":[{"role":"user","content":"q"}]}"#;
const ASK_STREAM: &str = r#"{"stream":true,"messages":[{"role":"user","content":"q"}]}"#;
const REPLY: &[u8] =
    br#"{"choices":[{"index":0,"message":{"role":"assistant","content":"one"},"finish_reason":"stop"}]}"#;
const STREAM: &[u8] = include_bytes!("golden/chat/text.sse");
/// As much as the bombs decode to.
const BOMB: usize = 64 << 20;

/// An encoding's name, and in it: the reply, the stream flushed after each event, a bomb.
type Encoded = (&'static str, Bytes, Bytes, Bytes);

fn encoded() -> Vec<Encoded> {
    fn all<E: Write>(name: &'static str, new: fn() -> E, finish: fn(E) -> Vec<u8>) -> Encoded {
        let encode = |pieces: &[&[u8]]| {
            let mut encoder = new();
            for piece in pieces {
                encoder.write_all(piece).unwrap();
                encoder.flush().unwrap();
            }
            Bytes::from(finish(encoder))
        };
        let events: Vec<&[u8]> = STREAM.split_inclusive(|byte| *byte == b'\n').collect();
        (name, encode(&[REPLY]), encode(&events), encode(&[&vec![b' '; BOMB]]))
    }
    vec![
        all("gzip", || GzEncoder::new(Vec::new(), Compression::fast()), |encoder| encoder.finish().unwrap()),
        all("deflate", || ZlibEncoder::new(Vec::new(), Compression::fast()), |encoder| encoder.finish().unwrap()),
        // What some servers call deflate.
        all("deflate", || DeflateEncoder::new(Vec::new(), Compression::fast()), |encoder| encoder.finish().unwrap()),
        all("zstd", || zstd::Encoder::new(Vec::new(), 3).unwrap(), |encoder| encoder.finish().unwrap()),
        // By node's `zlib.createBrotliCompress`, flushed after each event.
        (
            "br",
            Bytes::from_static(include_bytes!("brotli/reply.json.br")),
            Bytes::from_static(include_bytes!("brotli/text.sse.br")),
            Bytes::from_static(include_bytes!("brotli/bomb.br")),
        ),
    ]
}

#[tokio::test]
async fn a_compressed_reply_passes_as_it_came_and_is_recorded() {
    for (encoding, reply, ..) in encoded() {
        let bed = Bed::new();
        bed.says(Said::json(reply.clone()).header("content-encoding", encoding));
        let seen = bed.post(CHAT, ASK).await;
        assert_eq!((seen.status, &seen.headers["content-encoding"]), (StatusCode::OK, &encoding.parse().unwrap()));
        assert_eq!(seen.body, reply);
        assert_eq!(bed.stored().await[1], r#"{"role":"assistant","content":"one"}"#, "{encoding}");
    }
}

#[tokio::test]
async fn a_compressed_stream_too_cut_anywhere() {
    for (encoding, _, stream, _) in encoded() {
        for at in 1..stream.len() {
            let bed = Bed::new();
            let chunks = vec![stream.slice(..at), stream.slice(at..)];
            bed.says(Said::streamed("text/event-stream", breathing(chunks)).header("content-encoding", encoding));
            let seen = bed.post(CHAT, ASK_STREAM).await;
            assert!(seen.ended && seen.body == stream);
            let turns = bed.turns().await;
            assert_eq!(turns[0].status(), TurnStatus::Complete, "{encoding} cut at {at}");
            assert_eq!(turns[0].messages()[1].text().as_deref(), Some("Grüße, 🙂 wörld"));
        }
    }
}

/// Each event is read when its bytes come, not when the encoder's window is full: the last one is held.
#[tokio::test(start_paused = true)]
async fn the_end_of_a_compressed_stream_is_held_until_the_turn_is_durable() {
    for (encoding, _, stream, _) in encoded() {
        let (store, open) = Gate::new();
        let bed = Bed::on(store, tower_session_memory::Policy::default());
        let chunks = stream.chunks(1).map(Bytes::copy_from_slice).collect();
        bed.says(Said::streamed("text/event-stream", breathing(chunks)).header("content-encoding", encoding));
        let mut body = Box::pin(bed.call(Bed::request(CHAT, ASK_STREAM)).await.into_body());
        let mut seen = Vec::new();
        while let Ok(frame) = tokio::time::timeout(std::time::Duration::from_millis(2), body.frame()).await {
            seen.extend(frame.unwrap().unwrap().into_data().unwrap());
        }
        let text = decoded(encoding, &seen);
        assert!(text.contains("finish_reason\":\"stop"), "{encoding}: tokens are not held: {text}");
        assert!(!text.contains("[DONE]\n\n"), "{encoding}: the end was seen before it was durable");
        open.add_permits(1);
        while let Some(frame) = body.frame().await {
            seen.extend(frame.unwrap().into_data().unwrap());
        }
        assert_eq!(seen, stream);
    }
}

/// As much as a client can read of a beginning.
fn decoded(encoding: &str, bytes: &[u8]) -> String {
    use flate2::write::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};
    fn read<D: Write>(mut decoder: D, bytes: &[u8], text: fn(&D) -> &Vec<u8>) -> String {
        decoder.write_all(bytes).unwrap();
        decoder.flush().unwrap();
        String::from_utf8_lossy(text(&decoder)).into_owned()
    }
    match (encoding, bytes[0] & 0x0f) {
        ("gzip", _) => read(MultiGzDecoder::new(Vec::new()), bytes, |decoder| decoder.get_ref()),
        ("deflate", 8) => read(ZlibDecoder::new(Vec::new()), bytes, |decoder| decoder.get_ref()),
        ("deflate", _) => read(DeflateDecoder::new(Vec::new()), bytes, |decoder| decoder.get_ref()),
        ("zstd", _) => read(zstd::stream::write::Decoder::new(Vec::new()).unwrap(), bytes, |decoder| decoder.get_ref()),
        _ => read(brotli_decompressor::DecompressorWriter::new(Vec::new(), 0), bytes, |decoder| decoder.get_ref()),
    }
}

#[tokio::test]
async fn what_ends_early_is_no_whole_turn() {
    for (encoding, reply, stream, _) in encoded() {
        let bed = Bed::new();
        bed.says(Said::json(reply.slice(..reply.len() / 2)).header("content-encoding", encoding));
        let seen = bed.post(CHAT, ASK).await;
        assert_eq!((seen.status, &seen.json()["code"]), (StatusCode::BAD_GATEWAY, &"bad_reply".into()), "{encoding}");
        assert!(bed.turns().await.is_empty(), "{encoding}");

        let bed = Bed::new();
        let half = stream.slice(..stream.len() / 2);
        bed.says(Said::new("text/event-stream", [half.clone()]).header("content-encoding", encoding));
        let seen = bed.post(CHAT, ASK_STREAM).await;
        assert_eq!(seen.body, half);
        assert_eq!(bed.turns().await[0].status(), TurnStatus::Interrupted, "{encoding}");
    }
}

/// What cannot be read is refused, not passed on and forgotten: broken bytes, bytes that decode to
/// more than a reply may be, encodings that nobody here knows.
#[tokio::test]
async fn what_cannot_be_decoded_is_refused() {
    for (encoding, reply, _, bomb) in encoded() {
        let mut broken = reply.to_vec();
        broken[..3].fill(0xff);
        assert!(bomb.len() < 400_000, "{encoding}: it is a bomb");
        for body in [broken.into(), bomb.clone()] {
            let bed = Bed::new();
            bed.says(Said::json(body).header("content-encoding", encoding));
            let seen = bed.post(CHAT, ASK).await;
            assert_eq!(seen.status, StatusCode::BAD_GATEWAY, "{encoding}");
            assert!(bed.turns().await.is_empty(), "{encoding}");
        }
        let bed = Bed::new();
        bed.says(Said::new("text/event-stream", [bomb]).header("content-encoding", encoding));
        let seen = bed.post(CHAT, ASK_STREAM).await;
        assert!(!seen.ended && seen.body.is_empty(), "{encoding}: the bomb goes nowhere");
    }
    // It would have the decoder keep 128 MiB.
    let mut wide = zstd::Encoder::new(Vec::new(), 3).unwrap();
    wide.window_log(27).unwrap();
    wide.write_all(REPLY).unwrap();
    wide.flush().unwrap();
    let bed = Bed::new();
    bed.says(Said::json(wide.finish().unwrap()).header("content-encoding", "zstd"));
    assert_eq!(bed.post(CHAT, ASK).await.status, StatusCode::BAD_GATEWAY);
    for encoding in ["gzip, br", "dcb"] {
        let bed = Bed::new();
        bed.says(Said::json(REPLY).header("content-encoding", encoding));
        assert_eq!(bed.post(CHAT, ASK).await.status, StatusCode::BAD_GATEWAY);
    }
}
