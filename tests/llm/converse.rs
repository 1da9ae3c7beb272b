//! Conversations in which anything happens.

use serde_json::{Value, json};
use tower_session_memory::llm::ModelWindow;
use tower_session_memory::{InMemory, Policy};

use super::kit::*;
use super::rules::{check, items};

pub(crate) const PATHS: [&str; 5] = [CHAT, MESSAGES, OLLAMA, GEMINI_STREAM, RESPONSES];

/// Content type and transcripts: the first without tools, the second with.
fn transcripts(path: &str) -> (&'static str, &'static [&'static [u8]]) {
    macro_rules! golden {
        ($folder:literal: $($name:literal)*) => {
            &[$(include_bytes!(concat!("golden/", $folder, "/", $name))),*]
        };
    }
    const SSE: &str = "text/event-stream";
    match path {
        CHAT => (
            SSE,
            golden!("chat": "reasoning.sse" "tools.sse" "reasoning_then_tools.sse" "refusal.sse" "length_in_tool.sse" "error.sse" "usage.sse" "custom_tool.sse"),
        ),
        MESSAGES => (
            SSE,
            golden!("anthropic": "thinking.sse" "tools.sse" "server_tools_citations.sse" "pause.sse" "max_tokens_in_tool.sse" "max_tokens_in_thinking.sse" "error.sse" "empty_text.sse"),
        ),
        OLLAMA => (
            "application/x-ndjson",
            golden!("ollama": "thinking.ndjson" "tools.ndjson" "thinking_tools.ndjson" "text.ndjson" "error.ndjson"),
        ),
        GEMINI_STREAM => (
            SSE,
            golden!("gemini": "thoughts.sse" "tools.sse" "calls_with_ids.sse" "code_and_images.sse" "blocked.sse" "signed_text.sse"),
        ),
        _ => (
            SSE,
            golden!("responses": "incomplete.sse" "completed.sse" "every_other_item.sse" "failed.sse" "output_left_out.sse"),
        ),
    }
}

/// What the client sends: results for the first `results` of the open calls, and perhaps words.
fn elements(path: &str, open: &[(String, String)], words: Option<&str>) -> Vec<Value> {
    let results = open.iter().map(|(id, name)| match path {
        CHAT => json!({"role": "tool", "tool_call_id": id, "content": "r"}),
        OLLAMA => json!({"role": "tool", "tool_name": name, "content": "r"}),
        RESPONSES => json!({"type": "function_call_output", "call_id": id, "output": "r"}),
        MESSAGES => json!({"type": "tool_result", "tool_use_id": id, "content": "r"}),
        _ => json!({"functionResponse": {"name": name, "response": {"r": 1}}}),
    });
    let mut elements: Vec<Value> = match path {
        MESSAGES if !open.is_empty() => vec![json!({"role": "user", "content": results.collect::<Vec<_>>()})],
        GEMINI_STREAM if !open.is_empty() => vec![json!({"role": "user", "parts": results.collect::<Vec<_>>()})],
        MESSAGES | GEMINI_STREAM => Vec::new(),
        _ => results.collect(),
    };
    elements.extend(words.map(|words| match path {
        GEMINI_STREAM => json!({"role": "user", "parts": [{"text": words}]}),
        _ => json!({"role": "user", "content": words}),
    }));
    elements
}

/// The calls in the last turn that a client would have seen whole.
async fn open_calls(bed: &Bed, path: &str) -> Vec<(String, String)> {
    let turns = bed.turns().await;
    let mut calls = Vec::new();
    let Some(turn) = turns.last() else { return calls };
    if turn.status() != tower_session_memory::TurnStatus::Complete {
        return calls;
    }
    for message in turn.messages() {
        let message: Value = message.decode().unwrap();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let item = &message["item"];
        // What the client brought itself is settled.
        if message["role"] != "assistant" {
            calls.clear();
        }
        calls.extend(items(&message, "tool_calls").iter().map(|c| (text(&c["id"]), text(&c["function"]["name"]))));
        if path == MESSAGES {
            let uses = items(&message, "content").into_iter().filter(|block| block["type"] == "tool_use");
            calls.extend(uses.map(|block| (text(&block["id"]), String::new())));
        }
        calls.extend(
            items(item, "parts").iter().filter_map(|p| Some((String::new(), text(&p.get("functionCall")?["name"])))),
        );
        if item["type"] == "function_call" {
            calls.push((text(&item["call_id"]), String::new()));
        }
    }
    calls
}

#[derive(Debug, Clone)]
pub(crate) struct Exchange {
    /// How many of the open calls the client answers; the rest it forgets.
    pub(crate) results: usize,
    /// Which transcript: 0 calls no tools, 1 does, more are of all kinds.
    pub(crate) reply: usize,
    /// Where the reply breaks off, in parts of 256; 255 is its end.
    pub(crate) end: u8,
    /// The client has its own copy of the last thing that the model saw, and sends it again.
    pub(crate) resend: bool,
}

/// Holds the conversation, and every request that the upstream gets against the rules.
pub(crate) async fn converse(path: &'static str, exchanges: &[Exchange], window: ModelWindow) -> Result<(), String> {
    let bed = Bed::on(InMemory::new(), Policy::default()).llm(|llm| llm.with_window(window));
    for (number, exchange) in exchanges.iter().enumerate() {
        let mut open = open_calls(&bed, path).await;
        let all = open.len();
        open.truncate(exchange.results);
        let words = format!("q{number}");
        let words = (open.len() < all || open.is_empty()).then_some(&*words);
        let mut sent = elements(path, &open, words);
        if exchange.resend {
            let copies = bed.got();
            let list = match path {
                GEMINI_STREAM => "contents",
                RESPONSES => "input",
                _ => "messages",
            };
            if let Some(last) = copies.last() {
                let mut whole = last.json()[list].as_array().cloned().unwrap_or_default();
                whole.push(elements(path, &[], Some(&format!("e{number}"))).remove(0));
                if check(path, &json!({list: whole})).is_ok() {
                    sent = whole;
                }
            }
        }
        let (content_type, replies) = transcripts(path);
        let reply = replies[exchange.reply % replies.len()];
        let end = if exchange.end == 255 { reply.len() } else { reply.len() * usize::from(exchange.end) / 256 };
        bed.says(Said::new(content_type, [bytes::Bytes::from_static(&reply[..end])]));
        let list = match path {
            GEMINI_STREAM => "contents",
            RESPONSES => "input",
            _ => "messages",
        };
        let seen = bed.post(path, json!({list: sent}).to_string()).await;
        if seen.status == http::StatusCode::PAYLOAD_TOO_LARGE {
            // Questions that were resent without any answer are new ones: they outgrew a turn.
            return Ok(());
        }
        if seen.status != 200 {
            return Err(seen.text().to_owned());
        }
        let got = bed.last();
        check(path, &got.json()).map_err(|fault| format!("{path}, request {number}: {fault}: {}", got.text()))?;
    }
    Ok(())
}
