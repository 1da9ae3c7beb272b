//! Responses, stateless: it knows nothing of earlier responses.

use serde_json::{Value, json};

use super::{Invalid, Reply, Says, Talk, content, id, items, sse, text, tokens};

pub(super) fn responses(_: &str, body: &Value) -> Result<Reply, Invalid> {
    if !body["previous_response_id"].is_null() || !body["conversation"].is_null() {
        return Err("This model has no memory.".into());
    }
    let talk = read(body)?;
    let mut output = vec![json!({
        "id": id("rs"), "type": "reasoning", "summary": [], "encrypted_content": "gAAAA+/demo==",
    })];
    match talk.answer() {
        Says::Text(said) => {
            let part = json!({"type": "output_text", "text": said, "annotations": []});
            let role = "assistant";
            output.push(
                json!({"id": id("msg"), "type": "message", "status": "completed", "role": role, "content": [part]}),
            );
        }
        Says::Calls(calls) => output.extend(calls.into_iter().map(|(tool, city)| {
            let arguments = json!({"city": city}).to_string();
            json!({
                "id": id("fc"), "type": "function_call", "status": "completed",
                "call_id": id("call"), "name": tool, "arguments": arguments,
            })
        })),
    }
    let response_id = id("resp");
    let response = |status: &str, output: &[Value]| {
        json!({
            "id": response_id, "object": "response", "created_at": 1, "status": status, "model": text(body, "model"),
            "output": output, "parallel_tool_calls": true, "tool_choice": "auto", "tools": [], "error": null,
            "incomplete_details": null, "instructions": null, "metadata": {}, "previous_response_id": null,
            "usage": {
                "input_tokens": 1, "output_tokens": 2, "total_tokens": 3,
                "input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 0},
            },
        })
    };
    if !talk.stream {
        return Ok(Reply::Json(response("completed", &output)));
    }
    let mut events = Vec::new();
    let mut send = |mut event: Value| {
        event["sequence_number"] = events.len().into();
        events.push(sse(&event));
    };
    send(json!({"type": "response.created", "response": response("in_progress", &[])}));
    for (index, item) in output.iter().enumerate() {
        let mut begun = item.clone();
        if item["type"] == "message" {
            begun["content"] = json!([]);
        }
        send(json!({"type": "response.output_item.added", "output_index": index, "item": begun}));
        let place = json!({"item_id": item["id"], "output_index": index, "content_index": 0});
        let with = |kind: &str, field: &str, value: Value| {
            let mut event = place.clone();
            event["type"] = kind.into();
            event[field] = value;
            event["logprobs"] = json!([]);
            event
        };
        for part in items(item, "content") {
            let empty = json!({"type": "output_text", "text": "", "annotations": []});
            send(with("response.content_part.added", "part", empty));
            for token in tokens(text(part, "text")) {
                send(with("response.output_text.delta", "delta", token.into()));
            }
            send(with("response.output_text.done", "text", part["text"].clone()));
            send(with("response.content_part.done", "part", part.clone()));
        }
        if let Some(arguments) = item.get("arguments") {
            send(with("response.function_call_arguments.delta", "delta", arguments.clone()));
            send(with("response.function_call_arguments.done", "arguments", arguments.clone()));
        }
        send(json!({"type": "response.output_item.done", "output_index": index, "item": item}));
    }
    send(json!({"type": "response.completed", "response": response("completed", &output)}));
    Ok(Reply::Stream { content_type: "text/event-stream", events })
}

fn read(body: &Value) -> Result<Talk, Invalid> {
    let mut talk = Talk { stream: body["stream"] == true, ..Talk::default() };
    talk.tools = items(body, "tools").iter().map(|tool| text(tool, "name").to_owned()).collect();
    if let Some(said) = body["input"].as_str() {
        talk.user(said);
        return Ok(talk);
    }
    let mut open: Vec<&str> = Vec::new();
    for item in items(body, "input") {
        match text(item, "type") {
            "function_call" => open.push(text(item, "call_id")),
            "function_call_output" => {
                let at = open.iter().position(|id| *id == text(item, "call_id"));
                open.remove(at.ok_or("No tool call found for function call output.")?);
                talk.results.push(content(&item["output"]));
            }
            "reasoning" if item["encrypted_content"] != "gAAAA+/demo==" => {
                return Err("The encrypted content could not be verified.".into());
            }
            _ if text(item, "role") == "user" => {
                if !open.is_empty() {
                    return Err("No tool output found for function call.".into());
                }
                talk.user(&content(&item["content"]));
            }
            _ if text(item, "role") == "assistant" => talk.results.clear(),
            _ => {}
        }
    }
    if open.is_empty() { Ok(talk) } else { Err("No tool output found for function call.".into()) }
}
