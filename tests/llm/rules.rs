//! The providers' rules for the requests that they take.

use serde_json::{Value, json};

use super::kit::{CHAT, MESSAGES, OLLAMA, RESPONSES};

/// The rules of the providers, as their servers check them.
pub(crate) fn check(path: &str, body: &Value) -> Result<(), String> {
    let list = |field: &str| body[field].as_array().cloned().unwrap_or_default();
    match path {
        CHAT => chat(&list("messages")),
        MESSAGES => anthropic(&list("messages")),
        OLLAMA => ollama(&list("messages")),
        RESPONSES => responses(&list("input")),
        _ => gemini(&list("contents")),
    }
}

pub(crate) fn items<'a>(value: &'a Value, field: &str) -> Vec<&'a Value> {
    value[field].as_array().map(|items| items.iter().collect()).unwrap_or_default()
}

fn ensure(holds: bool, rule: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(rule.to_owned()) }
}

fn chat(messages: &[Value]) -> Result<(), String> {
    let mut open: Vec<&Value> = Vec::new();
    for message in messages {
        if message["role"] == "tool" {
            let at = open.iter().position(|id| **id == message["tool_call_id"]).ok_or("a result without its call")?;
            open.remove(at);
            continue;
        }
        ensure(open.is_empty(), "a call without its result")?;
        let calls = items(message, "tool_calls");
        for call in calls.iter().filter(|call| call["type"] != "custom") {
            let arguments = call["function"]["arguments"].as_str().unwrap_or_default();
            ensure(serde_json::from_str::<Value>(arguments).is_ok(), "arguments that are no JSON")?;
        }
        if message["role"] == "assistant" {
            let says = ["content", "refusal", "audio", "function_call"]
                .iter()
                .any(|field| !message[*field].is_null() && message[*field] != "");
            ensure(says || !calls.is_empty(), "an assistant that says nothing")?;
        }
        open = calls.into_iter().map(|call| &call["id"]).collect();
    }
    ensure(open.is_empty(), "a call without its result at the end")
}

fn anthropic(messages: &[Value]) -> Result<(), String> {
    // Neighbours of one role count as one message.
    let mut merged: Vec<(Value, Vec<Value>)> = Vec::new();
    for message in messages {
        let blocks = match &message["content"] {
            Value::String(text) => vec![json!({"type": "text", "text": text})],
            blocks => blocks.as_array().cloned().unwrap_or_default(),
        };
        ensure(!blocks.is_empty(), "a message without content")?;
        match merged.last_mut() {
            Some((role, so_far)) if *role == message["role"] => so_far.extend(blocks),
            _ => merged.push((message["role"].clone(), blocks)),
        }
    }
    let of = |blocks: &[Value], kind: &str, field: &str| -> Vec<Value> {
        blocks.iter().filter(|block| block["type"] == kind).map(|block| block[field].clone()).collect()
    };
    for (index, (_, blocks)) in merged.iter().enumerate() {
        let uses = of(blocks, "tool_use", "id");
        let next =
            merged.get(index + 1).map(|(_, blocks)| of(blocks, "tool_result", "tool_use_id")).unwrap_or_default();
        ensure(uses.iter().all(|id| next.contains(id)), "a call without its result")?;
        let before = index.checked_sub(1).map(|last| of(&merged[last].1, "tool_use", "id")).unwrap_or_default();
        let results = of(blocks, "tool_result", "tool_use_id");
        ensure(results.iter().all(|id| before.contains(id)), "a result without its call")?;
        let plain = blocks.iter().position(|block| block["type"] == "text");
        let result = blocks.iter().rposition(|block| block["type"] == "tool_result");
        ensure(plain.is_none() || result.is_none() || plain > result, "text before a result")?;
        for block in blocks {
            ensure(block["type"] != "text" || block["text"] != "", "an empty text")?;
            ensure(
                block["type"] != "thinking" || block["signature"].as_str() > Some(""),
                "thinking without signature",
            )?;
            ensure(block.get("partial_json").is_none(), "a call that broke off")?;
        }
        let last = &blocks[blocks.len() - 1]["type"];
        ensure(last != "thinking" && last != "redacted_thinking", "a message that ends in thinking")?;
    }
    Ok(())
}

fn ollama(messages: &[Value]) -> Result<(), String> {
    let mut open: Vec<&Value> = Vec::new();
    for message in messages {
        if message["role"] == "tool" {
            let at = open.iter().position(|name| **name == message["tool_name"]).ok_or("a result without its call")?;
            open.remove(at);
        } else {
            ensure(open.is_empty(), "a call without its result")?;
            open = items(message, "tool_calls").into_iter().map(|call| &call["function"]["name"]).collect();
        }
    }
    ensure(open.is_empty(), "a call without its result at the end")
}

fn gemini(contents: &[Value]) -> Result<(), String> {
    let names = |content: &Value, field: &str| -> Vec<Value> {
        let mut names: Vec<Value> =
            items(content, "parts").iter().filter_map(|part| Some(part.get(field)?["name"].clone())).collect();
        names.sort_by_key(Value::to_string);
        names
    };
    let mut open: Vec<Value> = Vec::new();
    for content in contents {
        ensure(!items(content, "parts").is_empty(), "a content without parts")?;
        let calls = items(content, "parts").into_iter().filter_map(|part| part.get("functionCall"));
        for call in calls {
            let is_whole = call["name"].is_string() && call["args"].is_object();
            ensure(is_whole && call.get("willContinue").is_none(), "a call that broke off")?;
        }
        for name in names(content, "functionResponse") {
            let at = open.iter().position(|call| *call == name).ok_or("a response without its call")?;
            open.remove(at);
        }
        let asks = items(content, "parts").iter().any(|part| part.get("functionResponse").is_none());
        ensure(open.is_empty() || !asks, "a call without its response")?;
        open.extend(names(content, "functionCall"));
    }
    ensure(open.is_empty(), "a call without its response at the end")
}

fn responses(input: &[Value]) -> Result<(), String> {
    let mut open: Vec<&Value> = Vec::new();
    for (index, item) in input.iter().enumerate() {
        match item["type"].as_str().unwrap_or("message") {
            "function_call" => {
                let arguments = item["arguments"].as_str().unwrap_or_default();
                ensure(serde_json::from_str::<Value>(arguments).is_ok(), "arguments that are no JSON")?;
                open.push(&item["call_id"]);
            }
            "function_call_output" => {
                let at = open.iter().position(|id| **id == item["call_id"]).ok_or("an output without its call")?;
                open.remove(at);
            }
            "reasoning" => {
                let next = input.get(index + 1).ok_or("reasoning at the end")?;
                ensure(next["type"] == "function_call" || next["role"] == "assistant", "reasoning without its item")?;
            }
            _ if item["role"] == "user" => ensure(open.is_empty(), "a call without its output")?,
            _ => {}
        }
    }
    ensure(open.is_empty(), "a call without its output at the end")
}
