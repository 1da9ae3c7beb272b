//! Chat Completions.

use serde_json::{Value, json};

use super::{Invalid, Reply, Says, Talk, content, id, items, sse, text, tokens};

pub(super) fn chat(_: &str, body: &Value) -> Result<Reply, Invalid> {
    let talk = read(body)?;
    let id = id("chatcmpl");
    let usage =
        json!({"prompt_tokens": talk.users.len(), "completion_tokens": 1, "total_tokens": 1 + talk.users.len()});
    let says = talk.answer();
    if !talk.stream {
        let (message, finish) = match &says {
            Says::Text(text) => (json!({"role": "assistant", "content": text, "refusal": null}), "stop"),
            Says::Calls(calls) => {
                (json!({"role": "assistant", "content": null, "tool_calls": tool_calls(calls)}), "tool_calls")
            }
        };
        let choice = json!({"index": 0, "message": message, "logprobs": null, "finish_reason": finish});
        return Ok(Reply::Json(json!({
            "id": id, "object": "chat.completion", "created": 1, "model": text(body, "model"),
            "choices": [choice], "usage": usage,
        })));
    }
    let chunk = |delta: Value, finish: Value| {
        sse(&json!({
            "id": id, "object": "chat.completion.chunk", "created": 1, "model": text(body, "model"),
            "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
        }))
    };
    let mut events = vec![chunk(json!({"role": "assistant", "content": ""}), Value::Null)];
    match &says {
        Says::Text(text) => {
            events.extend(tokens(text).iter().map(|token| chunk(json!({"content": token}), Value::Null)));
            events.push(chunk(json!({}), "stop".into()));
        }
        Says::Calls(calls) => {
            for (index, call) in tool_calls(calls).iter_mut().enumerate() {
                let arguments = text(&call["function"], "arguments").to_owned();
                call["index"] = index.into();
                call["function"]["arguments"] = "".into();
                events.push(chunk(json!({"tool_calls": [call]}), Value::Null));
                for part in [&arguments[..4], &arguments[4..]] {
                    let part = json!({"index": index, "function": {"arguments": part}});
                    events.push(chunk(json!({"tool_calls": [part]}), Value::Null));
                }
            }
            events.push(chunk(json!({}), "tool_calls".into()));
        }
    }
    if body["stream_options"]["include_usage"] == true {
        events.push(sse(&json!({
            "id": id, "object": "chat.completion.chunk", "created": 1, "model": text(body, "model"),
            "choices": [], "usage": usage,
        })));
    }
    events.push("data: [DONE]\n\n".to_owned());
    Ok(Reply::Stream { content_type: "text/event-stream", events })
}

fn tool_calls(calls: &[(String, String)]) -> Vec<Value> {
    let call = |(tool, city): &(String, String)| {
        let arguments = json!({"city": city}).to_string();
        json!({"id": id("call"), "type": "function", "function": {"name": tool, "arguments": arguments}})
    };
    calls.iter().map(call).collect()
}

fn read(body: &Value) -> Result<Talk, Invalid> {
    let mut talk = Talk { stream: body["stream"] == true, ..Talk::default() };
    talk.tools = items(body, "tools").iter().map(|tool| text(&tool["function"], "name").to_owned()).collect();
    let mut open: Vec<&str> = Vec::new();
    for message in items(body, "messages") {
        let role = text(message, "role");
        if role != "tool" && !open.is_empty() {
            return Err("An assistant message with 'tool_calls' must be followed by tool messages.".into());
        }
        match role {
            "user" => talk.user(&content(&message["content"])),
            "assistant" => {
                talk.results.clear();
                open = items(message, "tool_calls").iter().map(|call| text(call, "id")).collect();
                if open.is_empty() && message["content"].is_null() {
                    return Err("An assistant message needs content or tool_calls.".into());
                }
            }
            "tool" => {
                let id = text(message, "tool_call_id");
                let at = open.iter().position(|call| *call == id);
                open.remove(at.ok_or("A tool message must follow its call.")?);
                talk.results.push(content(&message["content"]));
            }
            "system" | "developer" => {}
            _ => return Err("No such role.".into()),
        }
    }
    if open.is_empty() { Ok(talk) } else { Err("Tool messages are missing.".into()) }
}
