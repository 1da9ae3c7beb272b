//! Whatever happened to a conversation, what the upstream gets keeps the provider's rules.

use proptest::prelude::*;
use serde_json::{Value, json};
use tower_session_memory::llm::ModelWindow;
use tower_session_memory::{InMemory, Policy};

use crate::kit::*;

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

fn items<'a>(value: &'a Value, field: &str) -> Vec<&'a Value> {
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

#[test]
fn the_rules_find_what_breaks_them() {
    let call = json!({"role": "assistant", "content": null, "tool_calls": [{"id": "a", "function": {"name": "f", "arguments": "{}"}}]});
    let result = json!({"role": "tool", "tool_call_id": "a", "content": "r"});
    let user = json!({"role": "user", "content": "q"});
    let check = |messages: Vec<&Value>| check(CHAT, &json!({"messages": messages}));
    assert!(check(vec![&call, &result, &user]).is_ok());
    assert!(check(vec![&call, &user]).is_err());
    assert!(check(vec![&result]).is_err());
}

const PATHS: [&str; 5] = [CHAT, MESSAGES, OLLAMA, GEMINI_STREAM, RESPONSES];

fn transcript(path: &str, tools: bool) -> (&'static str, &'static [u8]) {
    macro_rules! golden {
        ($name:literal) => {
            include_bytes!(concat!("golden/", $name))
        };
    }
    match (path, tools) {
        (CHAT, false) => ("text/event-stream", golden!("chat/reasoning.sse")),
        (CHAT, true) => ("text/event-stream", golden!("chat/tools.sse")),
        (MESSAGES, false) => ("text/event-stream", golden!("anthropic/thinking.sse")),
        (MESSAGES, true) => ("text/event-stream", golden!("anthropic/tools.sse")),
        (OLLAMA, false) => ("application/x-ndjson", golden!("ollama/thinking.ndjson")),
        (OLLAMA, true) => ("application/x-ndjson", golden!("ollama/tools.ndjson")),
        (GEMINI_STREAM, false) => ("text/event-stream", golden!("gemini/thoughts.sse")),
        (GEMINI_STREAM, true) => ("text/event-stream", golden!("gemini/tools.sse")),
        (_, false) => ("text/event-stream", golden!("responses/incomplete.sse")),
        (_, true) => ("text/event-stream", golden!("responses/completed.sse")),
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
struct Exchange {
    /// How many of the open calls the client answers; the rest it forgets.
    results: usize,
    tools: bool,
    /// Where the reply breaks off, in parts of 256; 255 is its end.
    end: u8,
    resend: bool,
}

fn exchanges() -> impl Strategy<Value = Vec<Exchange>> {
    let exchange =
        (0usize..3, any::<bool>(), prop_oneof![2 => Just(255u8), 1 => any::<u8>()], prop::bool::weighted(0.2))
            .prop_map(|(results, tools, end, resend)| Exchange { results, tools, end, resend });
    proptest::collection::vec(exchange, 1..12)
}

async fn converse(path: &'static str, exchanges: &[Exchange], window: ModelWindow) -> Result<(), String> {
    let bed = Bed::on(InMemory::new(), Policy::default()).llm(|llm| llm.with_window(window));
    for (number, exchange) in exchanges.iter().enumerate() {
        let mut open = open_calls(&bed, path).await;
        let all = open.len();
        open.truncate(exchange.results);
        let words = format!("q{number}");
        let words = (open.len() < all || open.is_empty()).then_some(&*words);
        let mut sent = elements(path, &open, words);
        if exchange.resend {
            // The client has its own copy of the last thing that the model saw.
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
        let (content_type, reply) = transcript(path, exchange.tools);
        let end = if exchange.end == 255 { reply.len() } else { reply.len() * usize::from(exchange.end) / 256 };
        bed.says(Said::new(content_type, [bytes::Bytes::from_static(&reply[..end])]));
        let list = match path {
            GEMINI_STREAM => "contents",
            RESPONSES => "input",
            _ => "messages",
        };
        let seen = bed.post(path, json!({list: sent}).to_string()).await;
        if seen.status != 200 {
            return Err(seen.text().to_owned());
        }
        let got = bed.last();
        check(path, &got.json()).map_err(|fault| format!("{path}, request {number}: {fault}: {}", got.text()))?;
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// For any turns, interruptions, forgotten results, resent histories and windows.
    #[test]
    fn what_the_model_gets_is_always_valid(
        path in 0..PATHS.len(),
        exchanges in exchanges(),
        turns in prop_oneof![Just(usize::MAX), 1usize..6],
        prefix in 0usize..3,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut window = ModelWindow::default();
        window.turns = turns;
        window.prefix_turns = prefix;
        let outcome = runtime.block_on(converse(PATHS[path], &exchanges, window));
        prop_assert!(outcome.is_ok(), "{}", outcome.unwrap_err());
    }
}

/// An exchange of the property test, in short: results, tools, end, resend.
fn exchange((results, tools, end, resend): (usize, bool, u8, bool)) -> Exchange {
    Exchange { results, tools, end, resend }
}

#[tokio::test]
async fn results_behind_a_resent_question_without_an_answer_keep_their_calls() {
    // The client answers one of the calls; the reply to that never comes; the client resends all.
    let exchanges = [(0, true, 255, false), (1, false, 255, false), (0, true, 0, true), (0, false, 255, true)];
    for path in PATHS {
        converse(path, &exchanges.map(exchange), ModelWindow::default()).await.unwrap();
    }
}

#[tokio::test]
async fn a_forgotten_result_is_made_up_for_and_the_stored_turn_left_alone() {
    let bed = Bed::new();
    let call = r#"{"role":"assistant","content":null,"tool_calls":[{"id":"a","type":"function","function":{"name":"f","arguments":"{}"}},{"id":"b","type":"function","function":{"name":"g","arguments":"{}"}}]}"#;
    bed.says(Said::json(format!(r#"{{"choices":[{{"message":{call},"finish_reason":"tool_calls"}}]}}"#)));
    bed.post(CHAT, r#"{"messages":[{"role":"user","content":"q"}]}"#).await;
    bed.says(chat_reply("ok"));
    let result = r#"{"role":"tool","tool_call_id":"b","content":"r"}"#;
    bed.post(CHAT, format!(r#"{{"messages":[{result},{{"role":"user","content":"never mind"}}]}}"#)).await;
    let made = r#"{"content":"[no result: the tool call was interrupted]","role":"tool","tool_call_id":"a"}"#;
    assert_eq!(
        bed.last().text(),
        format!(
            r#"{{"messages":[{{"role":"user","content":"q"}},{call},{result},{made},{{"role":"user","content":"never mind"}}]}}"#
        )
    );
    assert!(!bed.stored().await.iter().any(|message| message.contains("no result")));
    // The same again for the turn after that: from the store alone.
    bed.says(chat_reply("ok"));
    bed.post(CHAT, r#"{"messages":[{"role":"user","content":"x"}]}"#).await;
    assert!(bed.last().text().contains(&format!("{call},{result},{made},")));
}

#[tokio::test]
async fn a_call_that_broke_off_is_no_call() {
    let bed = Bed::new();
    let (content_type, reply) = ("text/event-stream", include_bytes!("golden/chat/cut_in_tool.sse"));
    bed.says(Said::new(content_type, [bytes::Bytes::from_static(reply)]));
    bed.post(CHAT, r#"{"messages":[{"role":"user","content":"q"}]}"#).await;
    bed.says(chat_reply("ok"));
    bed.post(CHAT, r#"{"messages":[{"role":"user","content":"x"}]}"#).await;
    assert_eq!(bed.last().json()["messages"][1], json!({"role": "assistant", "content": "Hm"}));
    assert!(bed.stored().await[1].contains("tool_calls"), "the stored one is whole as far as it came");
}
