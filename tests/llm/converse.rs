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
            golden!("gemini": "thoughts.sse" "tools.sse" "calls_with_ids.sse" "code_and_images.sse" "blocked.sse" "signed_text.sse" "partial_args.sse" "max_tokens_in_partial_args.sse"),
        ),
        _ => (
            SSE,
            golden!("responses": "incomplete.sse" "completed.sse" "every_other_item.sse" "failed.sse" "output_left_out.sse" "tools_in_progress.sse"),
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

/// The list of elements in a request.
fn list(path: &str) -> &'static str {
    match path {
        GEMINI_STREAM => "contents",
        RESPONSES => "input",
        _ => "messages",
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Exchange {
    /// How many of the open calls the client answers; the rest it forgets.
    pub(crate) results: usize,
    /// Which transcript: 0 calls no tools, 1 does, more are of all kinds.
    pub(crate) reply: usize,
    /// Where the reply breaks off, in parts of 256; 255 is its end.
    pub(crate) end: u8,
    /// What the client sends of the conversation so far.
    pub(crate) copy: Resent,
    /// Which element of it is not as it was, in parts of 256.
    pub(crate) at: u8,
}

/// What a client with a copy of its own sends of it, before what is new.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Resent {
    /// It has none.
    None,
    /// The last request, without the answer to it.
    Asked,
    /// The last request and its answer.
    Whole,
    /// The same, with an element changed.
    Changed,
    /// The same, without one of its elements.
    Without,
    /// The same, up to an element: it goes on from an earlier point.
    UpTo,
}

impl Resent {
    pub(crate) const ALL: [Self; 6] = [Self::None, Self::Asked, Self::Whole, Self::Changed, Self::Without, Self::UpTo];
}

/// The client's copy, if it has one that the provider's rules let it send.
async fn copy(bed: &Bed, path: &str, exchange: &Exchange, new: &[Value], number: usize) -> Option<Vec<Value>> {
    if exchange.copy == Resent::None {
        return None;
    }
    let mut copy = bed.got().last()?.json()[list(path)].as_array()?.clone();
    if exchange.copy != Resent::Asked {
        copy.extend(answer(bed).await);
    }
    let at = copy.len() * usize::from(exchange.at) / 256;
    match exchange.copy {
        Resent::Changed => change(copy.get_mut(at)?, &format!("c{number}")),
        Resent::Without => drop(copy.remove(at)),
        Resent::UpTo => copy.truncate(at),
        Resent::None | Resent::Asked | Resent::Whole => {}
    }
    // Results for the calls that it has seen, else a question.
    let mut whole = [&*copy, new].concat();
    if check(path, &json!({list(path): whole})).is_err() {
        whole = [copy, elements(path, &[], Some(&format!("e{number}")))].concat();
    }
    check(path, &json!({list(path): whole})).is_ok().then_some(whole)
}

/// What the client saw of the last answer, if it saw the whole of it.
async fn answer(bed: &Bed) -> Vec<Value> {
    let turns = bed.turns().await;
    let Some(turn) = turns.last().filter(|turn| turn.status() == tower_session_memory::TurnStatus::Complete) else {
        return Vec::new();
    };
    let messages = turn.messages().iter().map(|message| message.decode().unwrap());
    let model = |message: &Value| message["role"] == "assistant";
    let said: Vec<Value> = messages.collect();
    let from = said.iter().rposition(|message| !model(message)).map_or(0, |last| last + 1);
    said[from..].iter().map(|message| message.get("item").unwrap_or(message).clone()).collect()
}

/// Puts words into an element.
fn change(element: &mut Value, words: &str) {
    for field in ["content", "parts", "output"] {
        match element.get_mut(field) {
            Some(Value::String(text)) => text.push_str(words),
            Some(Value::Array(parts)) => {
                if let Some(Value::String(text)) = parts.iter_mut().find_map(|part| part.get_mut("text")) {
                    text.push_str(words);
                }
            }
            _ => {}
        }
    }
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
        let new = elements(path, &open, words);
        let sent = copy(&bed, path, exchange, &new, number).await.unwrap_or(new);
        let (content_type, replies) = transcripts(path);
        let reply = replies[exchange.reply % replies.len()];
        let end = if exchange.end == 255 { reply.len() } else { reply.len() * usize::from(exchange.end) / 256 };
        bed.says(Said::new(content_type, [bytes::Bytes::from_static(&reply[..end])]));
        let seen = bed.post(path, json!({list(path): sent}).to_string()).await;
        if seen.status == http::StatusCode::PAYLOAD_TOO_LARGE {
            // Questions that were resent without any answer are new ones: they outgrew a turn.
            return Ok(());
        }
        if seen.status != 200 {
            return Err(seen.text().to_owned());
        }
        let got = bed.last();
        check(path, &got.json()).map_err(|fault| {
            let sent = json!(sent);
            format!("{path}, request {number}: {fault}: {}, of the client: {sent}", got.text())
        })?;
    }
    Ok(())
}

/// A window from as many numbers: of 256, those from 192 on set no limit.
pub(crate) fn window([turns, messages, bytes, tokens, keep, prefix]: [u8; 6]) -> ModelWindow {
    let limit = |number: u8, step: usize| match number {
        0..192 => 1 + usize::from(number) % 24 * step,
        192.. => usize::MAX,
    };
    let mut window = ModelWindow::default();
    window.turns = limit(turns, 1);
    window.messages = limit(messages, 1);
    window.bytes = limit(bytes, 60);
    window.tokens = limit(tokens, 15);
    window.keep_percent = keep;
    window.prefix_turns = usize::from(prefix) % 3;
    window
}
