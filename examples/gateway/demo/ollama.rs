//! Ollama's chat.

use serde_json::{Value, json};

use super::{Invalid, Reply, Says, Talk, items, text, tokens};

pub(super) fn chat(_: &str, body: &Value) -> Result<Reply, Invalid> {
    let talk = read(body)?;
    let line = |message: Value, done: bool| {
        let mut line = json!({
            "model": text(body, "model"), "created_at": "2025-01-01T00:00:00Z", "message": message, "done": done,
        });
        if done {
            line["done_reason"] = "stop".into();
            line["total_duration"] = 5.into();
            line["eval_count"] = 4.into();
        }
        line
    };
    let says = talk.answer();
    let message = match &says {
        Says::Text(text) => json!({"role": "assistant", "content": text}),
        Says::Calls(calls) => {
            let calls: Vec<Value> = calls
                .iter()
                .map(|(tool, city)| json!({"function": {"name": tool, "arguments": {"city": city}}}))
                .collect();
            json!({"role": "assistant", "content": "", "tool_calls": calls})
        }
    };
    if !talk.stream {
        return Ok(Reply::Json(line(message, true)));
    }
    let mut events: Vec<String> = match &says {
        Says::Text(text) => {
            let part = |token: &&str| format!("{}\n", line(json!({"role": "assistant", "content": token}), false));
            tokens(text).iter().map(part).collect()
        }
        Says::Calls(_) => vec![format!("{}\n", line(message, false))],
    };
    events.push(format!("{}\n", line(json!({"role": "assistant", "content": ""}), true)));
    Ok(Reply::Stream { content_type: "application/x-ndjson", events })
}

fn read(body: &Value) -> Result<Talk, Invalid> {
    let mut talk = Talk { stream: body["stream"] != false, ..Talk::default() };
    talk.tools = items(body, "tools").iter().map(|tool| text(&tool["function"], "name").to_owned()).collect();
    let mut open = 0;
    for message in items(body, "messages") {
        match text(message, "role") {
            "tool" if open > 0 => {
                open -= 1;
                talk.results.push(text(message, "content").to_owned());
            }
            "tool" => return Err("a tool result without its call".into()),
            _ if open > 0 => return Err("a tool call without its result".into()),
            "user" => talk.user(text(message, "content")),
            "assistant" => {
                talk.results.clear();
                open = items(message, "tool_calls").len();
            }
            _ => {}
        }
    }
    Ok(talk)
}
