//! Anthropic Messages, with signed thinking.

use serde_json::{Value, json};

use super::{Invalid, Reply, Says, Talk, id, items, sse, text, tokens};

pub(super) fn messages(_: &str, body: &Value) -> Result<Reply, Invalid> {
    let talk = read(body)?;
    let blocks = blocks(&talk);
    let stop = if blocks.iter().any(|block| block["type"] == "tool_use") { "tool_use" } else { "end_turn" };
    let message = |content: &[Value], stop: Value| {
        json!({
            "id": id("msg"), "type": "message", "role": "assistant", "model": text(body, "model"),
            "content": content, "stop_reason": stop, "stop_sequence": null,
            "usage": {"input_tokens": 3, "output_tokens": 4},
        })
    };
    if !talk.stream {
        return Ok(Reply::Json(message(&blocks, stop.into())));
    }
    let mut events = vec![sse(&json!({"type": "message_start", "message": message(&[], Value::Null)}))];
    for (index, block) in blocks.iter().enumerate() {
        let delta = |delta: Value| sse(&json!({"type": "content_block_delta", "index": index, "delta": delta}));
        let (mut begun, mut deltas) = (block.clone(), Vec::new());
        match text(block, "type") {
            "thinking" => {
                begun["thinking"] = "".into();
                begun["signature"] = "".into();
                let thoughts = tokens(text(block, "thinking"));
                deltas.extend(thoughts.iter().map(|token| delta(json!({"type": "thinking_delta", "thinking": token}))));
                deltas.push(delta(json!({"type": "signature_delta", "signature": block["signature"]})));
            }
            "tool_use" => {
                begun["input"] = json!({});
                let input = block["input"].to_string();
                for part in [&input[..5], &input[5..]] {
                    deltas.push(delta(json!({"type": "input_json_delta", "partial_json": part})));
                }
            }
            _ => {
                begun["text"] = "".into();
                let words = tokens(text(block, "text"));
                deltas.extend(words.iter().map(|token| delta(json!({"type": "text_delta", "text": token}))));
            }
        }
        events.push(sse(&json!({"type": "content_block_start", "index": index, "content_block": begun})));
        events.append(&mut deltas);
        events.push(sse(&json!({"type": "content_block_stop", "index": index})));
    }
    let delta = json!({"stop_reason": stop, "stop_sequence": null});
    events.push(sse(&json!({"type": "message_delta", "delta": delta, "usage": {"output_tokens": 9}})));
    events.push(sse(&json!({"type": "message_stop"})));
    Ok(Reply::Stream { content_type: "text/event-stream", events })
}

fn blocks(talk: &Talk) -> Vec<Value> {
    let mut blocks = Vec::new();
    if talk.thinks {
        let thinking = format!("They said {} things. \"Hm\" \u{1f914}", talk.users.len());
        blocks.push(json!({"type": "thinking", "thinking": thinking, "signature": sign(&thinking)}));
    }
    match talk.answer() {
        Says::Text(text) => blocks.push(json!({"type": "text", "text": text})),
        Says::Calls(calls) => {
            blocks.extend(calls.into_iter().map(
                |(tool, city)| json!({"type": "tool_use", "id": id("toolu"), "name": tool, "input": {"city": city}}),
            ))
        }
    }
    blocks
}

/// A signature over the very letters of a thought.
fn sign(thinking: &str) -> String {
    let sum = thinking.bytes().fold(7u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
    format!("EqQB+/{sum:016x}==")
}

fn read(body: &Value) -> Result<Talk, Invalid> {
    let mut talk = Talk { stream: body["stream"] == true, ..Talk::default() };
    talk.tools = items(body, "tools").iter().map(|tool| text(tool, "name").to_owned()).collect();
    talk.thinks = body["thinking"]["type"] == "enabled";
    let mut open: Vec<&str> = Vec::new();
    for message in items(body, "messages") {
        let lifted = [json!({"type": "text", "text": message["content"]})];
        let blocks = if message["content"].is_string() { &lifted } else { items(message, "content") };
        if blocks.is_empty() {
            return Err("All messages must have non-empty content.".into());
        }
        if text(message, "role") == "user" {
            for block in blocks.iter().filter(|block| block["type"] == "tool_result") {
                let at = open.iter().position(|id| *id == text(block, "tool_use_id"));
                open.remove(at.ok_or("Each tool_result must have a tool_use in the previous message.")?);
                talk.results.push(super::content(&block["content"]));
            }
            let said: String = blocks.iter().map(|block| text(block, "text")).collect();
            if !said.is_empty() {
                if !open.is_empty() {
                    return Err("tool_use ids were found without tool_result blocks immediately after.".into());
                }
                talk.user(&said);
            }
        } else {
            talk.results.clear();
            for block in blocks.iter().filter(|block| block["type"] == "thinking") {
                if text(block, "signature") != sign(text(block, "thinking")) {
                    return Err("Invalid signature in thinking block.".into());
                }
            }
            let uses = || items(message, "content").iter().filter(|block| block["type"] == "tool_use");
            if talk.thinks && uses().next().is_some() && blocks[0]["type"] != "thinking" {
                return Err("A turn with tool_use must begin with its thinking block.".into());
            }
            open = uses().map(|block| text(block, "id")).collect();
        }
    }
    if open.is_empty() { Ok(talk) } else { Err("tool_result blocks are missing.".into()) }
}
