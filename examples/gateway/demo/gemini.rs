//! Gemini, with signed function calls.

use serde_json::{Value, json};

use super::{Invalid, Reply, Says, Talk, id, items, sse, text, tokens};

const SIGNATURE: &str = "CiQB+/signedAA==";

pub(super) fn generate(path: &str, body: &Value) -> Result<Reply, Invalid> {
    let talk = read(body)?;
    let slice = |parts: Value, finish: Option<&str>| {
        let mut candidate = json!({"content": {"parts": parts, "role": "model"}, "index": 0});
        if let Some(finish) = finish {
            candidate["finishReason"] = finish.into();
        }
        json!({
            "candidates": [candidate], "modelVersion": "demo", "responseId": id("r"),
            "usageMetadata": {"promptTokenCount": 1, "candidatesTokenCount": 2, "totalTokenCount": 3},
        })
    };
    let says = talk.answer();
    let parts = match &says {
        Says::Text(text) => json!([{"text": text}]),
        Says::Calls(calls) => calls
            .iter()
            .map(|(tool, city)| {
                json!({"functionCall": {"name": tool, "args": {"city": city}}, "thoughtSignature": SIGNATURE})
            })
            .collect(),
    };
    if !path.contains(":streamGenerateContent") {
        return Ok(Reply::Json(slice(parts, Some("STOP"))));
    }
    let slices = match &says {
        Says::Text(text) => {
            let mut slices: Vec<Value> =
                tokens(text).iter().map(|token| slice(json!([{"text": token}]), None)).collect();
            slices.push(slice(json!([{"text": "", "thoughtSignature": SIGNATURE}]), Some("STOP")));
            slices
        }
        Says::Calls(_) => vec![slice(parts, Some("STOP"))],
    };
    if path.contains("alt=sse") {
        return Ok(Reply::Stream { content_type: "text/event-stream", events: slices.iter().map(sse).collect() });
    }
    Ok(Reply::Json(slices.into()))
}

fn read(body: &Value) -> Result<Talk, Invalid> {
    let mut talk = Talk::default();
    for tool in items(body, "tools") {
        talk.tools.extend(items(tool, "functionDeclarations").iter().map(|tool| text(tool, "name").to_owned()));
    }
    let mut open = 0;
    for content in items(body, "contents") {
        let parts = items(content, "parts");
        if parts.is_empty() {
            return Err("contents must not be empty".into());
        }
        let count = |field: &str| parts.iter().filter(|part| part.get(field).is_some()).count();
        if count("functionResponse") != open {
            return Err("as many function responses as calls, right after them, please".into());
        }
        for part in parts.iter().filter(|part| part.get("functionResponse").is_some()) {
            talk.results.push(part["functionResponse"]["response"]["result"].as_str().unwrap_or("?").to_owned());
        }
        open = count("functionCall");
        let signed = parts.iter().filter(|part| part["thoughtSignature"] == SIGNATURE).count();
        if open > 0 && signed == 0 {
            return Err("Function call is missing a thought_signature".into());
        }
        if text(content, "role") == "model" {
            talk.results.clear();
        } else if count("text") > 0 {
            talk.user(&super::content(&content["parts"]));
        }
    }
    Ok(talk)
}
