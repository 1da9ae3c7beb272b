//! Transcripts of every shape of stream, cut at every byte.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use serde_json::Value;
use tower_session_memory::TurnStatus;

use crate::chance::Chance;
use crate::kit::*;

/// A transcript with what must be stored of it.
struct Golden {
    name: String,
    path: &'static str,
    content_type: &'static str,
    question: &'static str,
    transcript: Bytes,
    expected: Value,
}

fn all() -> Vec<Golden> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/llm/golden");
    let chat = r#"{"stream":true,"messages":[{"role":"user","content":"q"}]}"#;
    let contents = r#"{"contents":[{"role":"user","parts":[{"text":"q"}]}]}"#;
    let protocols = [
        ("chat", CHAT, "text/event-stream", chat),
        ("anthropic", MESSAGES, "text/event-stream; charset=utf-8", chat),
        ("ollama", OLLAMA, "application/x-ndjson", chat),
        ("gemini", GEMINI_STREAM, "text/event-stream", contents),
        ("gemini_array", GEMINI_ARRAY, "application/json; charset=UTF-8", contents),
        ("responses", RESPONSES, "text/event-stream", r#"{"stream":true,"input":"q"}"#),
    ];
    let mut goldens = Vec::new();
    for (folder, path, content_type, question) in protocols {
        let mut files: Vec<PathBuf> =
            std::fs::read_dir(root.join(folder)).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.retain(|file| file.extension().is_none_or(|extension| extension != "json"));
        files.sort();
        assert!(files.len() >= 5, "{folder}");
        for file in files {
            let expected = serde_json::from_slice(&std::fs::read(file.with_extension("json")).unwrap()).unwrap();
            let name = format!("{folder}/{}", file.file_stem().unwrap().to_str().unwrap());
            let transcript = std::fs::read(&file).unwrap().into();
            goldens.push(Golden { name, path, content_type, question, transcript, expected });
        }
    }
    goldens
}

impl Golden {
    /// What is stored, and that the client saw what the upstream sent.
    async fn run(&self, chunks: Vec<Bytes>) -> Value {
        let bed = Bed::new();
        let sent = chunks.concat();
        bed.says(Said::streamed(self.content_type, breathing(chunks)));
        let seen = bed.post(self.path, self.question).await;
        assert!(seen.ended && seen.body == sent, "{}: the bytes pass unchanged", self.name);
        let turns = bed.turns().await;
        assert_eq!(turns.len(), 1, "{}: the question is always kept", self.name);
        let reply: Vec<Value> = turns[0].messages()[1..].iter().map(|message| message.decode().unwrap()).collect();
        serde_json::json!({"status": turns[0].status().as_str(), "reply": reply})
    }

    /// Where it begins to differ from all of `earlier`: cuts before that were made there.
    fn fresh(&self, earlier: &[Self]) -> usize {
        let shared =
            |other: &Self| std::iter::zip(&self.transcript, &other.transcript).take_while(|(a, b)| a == b).count();
        earlier.iter().filter(|other| other.path == self.path).map(shared).max().unwrap_or(0)
    }

    fn cut(&self, at: &[usize]) -> Vec<Bytes> {
        let mut chunks = Vec::new();
        let mut start = 0;
        for end in at.iter().copied().chain([self.transcript.len()]) {
            chunks.push(self.transcript.slice(start..end));
            start = end;
        }
        chunks
    }
}

#[tokio::test]
async fn every_transcript_is_put_together() {
    for golden in all() {
        assert_eq!(golden.run(golden.cut(&[])).await, golden.expected, "{}", golden.name);
    }
}

#[tokio::test]
async fn a_cut_between_any_two_bytes_changes_nothing() {
    let all = all();
    for (index, golden) in all.iter().enumerate() {
        for at in golden.fresh(&all[..index]).max(1)..golden.transcript.len() {
            assert_eq!(golden.run(golden.cut(&[at])).await, golden.expected, "{} cut at {at}", golden.name);
        }
    }
}

/// The same transcript as other servers would frame it.
fn spellings(golden: &Golden) -> Vec<(&'static str, Bytes)> {
    let text = std::str::from_utf8(&golden.transcript).unwrap();
    let ends = |end: &str| text.replace("\r\n", "\n").replace('\n', end);
    if golden.path == GEMINI_ARRAY {
        return vec![("one line", ends(" ").into()), ("CRLF", ends("\r\n").into())];
    }
    if golden.content_type.contains("ndjson") {
        return vec![("CRLF", ends("\r\n").into()), ("blank lines", ends("\n \n").into())];
    }
    let commented = format!(": hello\n\n{}", ends("\n").replace("data: ", ": ping\nid: 7\nretry: 5\ndata:"));
    vec![
        ("CRLF", ends("\r\n").into()),
        ("CR", ends("\r").into()),
        ("a byte order mark", format!("\u{feff}{text}").into()),
        ("comments", commented.clone().into()),
        ("comments and CRLF", commented.replace('\n', "\r\n").into()),
    ]
}

#[tokio::test]
async fn line_ends_comments_and_cuts_at_any_places_change_nothing() {
    let mut chance = Chance::new(Chance::seed("GOLDEN_SEED"));
    for mut golden in all() {
        let plain = ("as it is", golden.transcript.clone());
        for (spelling, transcript) in [vec![plain], spellings(&golden)].concat() {
            golden.transcript = transcript;
            let length = golden.transcript.len();
            let every: Vec<usize> = (1..length).collect();
            let mut cuts = vec![Vec::new(), every];
            for _ in 0..20 {
                let mut some: Vec<usize> =
                    (0..2 + chance.below(2)).map(|_| chance.below(length as u64) as usize).collect();
                some.sort_unstable();
                cuts.push(some);
            }
            for cut in cuts {
                let found = golden.run(golden.cut(&cut)).await;
                assert_eq!(found, golden.expected, "{} with {spelling}, cut at {cut:?}", golden.name);
            }
        }
    }
}

/// A stream that ends anywhere is kept as far as it came, and the conversation goes on; after the
/// whole of it too.
#[tokio::test]
async fn an_end_after_any_byte_is_kept_and_the_conversation_goes_on() {
    let all = all();
    for (index, golden) in all.iter().enumerate() {
        for end in golden.fresh(&all[..index])..=golden.transcript.len() {
            let bed = Bed::new();
            let sent = golden.transcript.slice(..end);
            bed.says(Said::new(golden.content_type, [sent.clone()]));
            let seen = bed.post(golden.path, golden.question).await;
            assert!(seen.ended && seen.body == sent, "{} until {end}", golden.name);
            let turns = bed.turns().await;
            let whole = golden.expected["status"] == "complete";
            assert!(whole || turns[0].status() == TurnStatus::Interrupted, "{} until {end}", golden.name);

            bed.says(Said::json("{}").status(http::StatusCode::IM_A_TEAPOT));
            bed.post(golden.path, golden.question).await;
            if let Err(fault) = crate::rules::check(golden.path, &bed.last().json()) {
                panic!("{} until {end}: {fault}: {}", golden.name, bed.last().text());
            }
        }
    }
}
