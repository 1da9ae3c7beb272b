//! OpenAI Chat Completions, and the many servers that speak it: `POST .../chat/completions`.

use bytes::Bytes;
use http::Method;
use http::request::Parts;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::completion::Completion;
use super::element::{bytes_of, list, object, text};
use super::{Assembler, CallId, Protocol, Replay, Replayed, Tools, Voice};
use crate::llm::scan::plain_text;

/// OpenAI Chat Completions.
///
/// Of several choices (`n` > 1) the first is remembered. A client that goes on from another one sends
/// the history along, as for any other branch. A retry is answered with all choices, unless the others
/// are larger than 6 KiB together: then with the first.
#[derive(Debug, Clone, Copy, Default)]
pub struct OpenAiChat;

impl Protocol for OpenAiChat {
    fn name(&self) -> &'static str {
        "openai-chat"
    }

    fn speaks(&self, parts: &Parts) -> bool {
        parts.method == Method::POST && parts.uri.path().ends_with("/chat/completions")
    }

    fn list(&self) -> &'static str {
        "messages"
    }

    fn voice(&self, element: &[u8]) -> Voice {
        voice_by_role(element)
    }

    fn voice_of_role(&self, role: &[u8]) -> Option<Voice> {
        Some(voice_of(role))
    }

    fn tool_mark(&self) -> &'static [u8] {
        b"tool"
    }

    fn tools(&self, element: &[u8]) -> Tools {
        let message = object(element);
        match text(&message, "role") {
            "assistant" => Tools { calls: calls(&message), results: Vec::new() },
            "tool" => Tools { calls: Vec::new(), results: vec![CallId::new(text(&message, "tool_call_id"), "")] },
            _ => Tools::none(),
        }
    }

    fn no_result(&self, calls: &[CallId]) -> Vec<Bytes> {
        let result = |call: &CallId| {
            bytes_of(&json!({"role": "tool", "tool_call_id": call.id, "content": super::super::NO_RESULT}))
        };
        calls.iter().map(result).collect()
    }

    fn without_results(&self, _: &Bytes, _: &[CallId]) -> Option<Bytes> {
        None
    }

    /// Calls whose arguments broke off are no calls.
    fn mended(&self, element: &Bytes) -> Option<Bytes> {
        let mut message = object(element);
        let whole: Vec<Value> = list(&message, "tool_calls").iter().filter(|call| is_whole(call)).cloned().collect();
        if whole.len() == list(&message, "tool_calls").len() && message.get("function_call").is_none() {
            return says(&message).then(|| element.clone());
        }
        message.remove("function_call");
        match whole.is_empty() {
            true => message.remove("tool_calls"),
            false => message.insert("tool_calls".into(), whole.into()),
        };
        says(&message).then(|| bytes_of(&message))
    }

    /// A call whose arguments the limit cut keeps its place, without them, for the result that it gets.
    fn tidied(&self, element: &Bytes) -> Option<Bytes> {
        let mut message = object(element);
        let calls = message.get_mut("tool_calls").and_then(Value::as_array_mut).into_iter().flatten();
        let cut: Vec<&mut Value> = calls.filter(|call| !is_whole(call)).collect();
        if cut.is_empty() {
            return says(&message).then(|| element.clone());
        }
        for call in cut {
            if let Some(function) = call.get_mut("function").and_then(Value::as_object_mut) {
                function.insert("arguments".into(), "{}".into());
            }
        }
        Some(bytes_of(&message))
    }

    fn assembler(&self) -> Box<dyn Assembler> {
        Box::<Completion>::default()
    }

    fn replay(&self, replay: &Replay<'_>) -> Replayed {
        let head: Head = replay.head.and_then(|head| serde_json::from_str(head.get()).ok()).unwrap_or_default();
        let message = replay.elements.first().map_or(&b"null"[..], |element| element);
        if replay.stream.is_some() { head.stream(message) } else { head.whole(message) }
    }
}

/// Voices of the protocols whose elements say it by their role.
pub(super) fn voice_by_role(element: &[u8]) -> Voice {
    #[derive(Deserialize)]
    struct Role<'a> {
        #[serde(borrow, default)]
        role: std::borrow::Cow<'a, str>,
    }
    if let Some(role) = plain_text(element, "role") {
        return voice_of(role);
    }
    serde_json::from_slice::<Role<'_>>(element).map_or(Voice::Client, |message| voice_of(message.role.as_bytes()))
}

pub(super) fn voice_of(role: &[u8]) -> Voice {
    match role {
        b"system" | b"developer" => Voice::Instructions,
        b"assistant" | b"model" => Voice::Model,
        _ => Voice::Client,
    }
}

pub(super) fn calls(message: &Map<String, Value>) -> Vec<CallId> {
    list(message, "tool_calls")
        .iter()
        .map(|call| {
            let field = |path| call.pointer(path).and_then(Value::as_str).unwrap_or_default();
            CallId::new(field("/id"), field("/function/name").to_owned() + field("/custom/name"))
        })
        .collect()
}

/// Whether a message has anything in it that a model takes back.
fn says(message: &Map<String, Value>) -> bool {
    let given = |field: &&str| message.get(*field).is_some_and(|value| !value.is_null());
    ["content", "refusal"].iter().any(|field| !text(message, field).is_empty())
        || !list(message, "content").is_empty()
        || ["tool_calls", "audio", "function_call"].iter().any(given)
}

/// Function arguments are JSON text; those of custom tools are any text.
fn is_whole(call: &Value) -> bool {
    match call.pointer("/function/arguments").and_then(Value::as_str) {
        Some(arguments) => serde_json::from_str::<serde::de::IgnoredAny>(arguments).is_ok(),
        None => call.get("custom").is_some(),
    }
}

/// What a replay needs besides the message.
#[derive(Debug, Default, serde::Serialize, Deserialize)]
pub(super) struct Head {
    #[serde(default)]
    pub(super) id: Value,
    #[serde(default)]
    pub(super) created: Value,
    #[serde(default)]
    pub(super) model: Value,
    #[serde(default)]
    pub(super) finish_reason: Value,
    #[serde(default)]
    pub(super) usage: Value,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) others: Vec<Other>,
}

/// A choice beside the first.
#[derive(Debug, serde::Serialize, Deserialize)]
pub(super) struct Other {
    pub(super) index: u64,
    pub(super) message: Box<RawValue>,
    #[serde(default)]
    pub(super) finish_reason: Value,
}

impl Head {
    /// Index, message and reason of each choice.
    fn choices<'a>(&'a self, message: &'a [u8]) -> impl Iterator<Item = (u64, &'a [u8], &'a Value)> {
        let others = self.others.iter().map(|o| (o.index, o.message.get().as_bytes(), &o.finish_reason));
        std::iter::once((0, message, &self.finish_reason)).chain(others)
    }

    fn whole(&self, message: &[u8]) -> Replayed {
        let Self { id, created, model, usage, .. } = self;
        let choice = |(index, message, reason): (u64, &[u8], &Value)| {
            let message = String::from_utf8_lossy(message);
            format!(r#"{{"index":{index},"message":{message},"logprobs":null,"finish_reason":{reason}}}"#)
        };
        let choices = self.choices(message).map(choice).collect::<Vec<_>>().join(",");
        Replayed::json(format!(
            concat!(
                r#"{{"id":{},"object":"chat.completion","created":{},"model":{},"choices":"#,
                r#"[{}],"usage":{}}}"#
            ),
            id, created, model, choices, usage
        ))
    }

    fn stream(&self, message: &[u8]) -> Replayed {
        let chunk = |index: u64, delta: Value, finish: &Value| {
            json!({
                "id": self.id, "object": "chat.completion.chunk", "created": self.created, "model": self.model,
                "choices": [{"index": index, "delta": delta, "logprobs": null, "finish_reason": finish}],
            })
        };
        let mut events = String::new();
        for (index, message, reason) in self.choices(message) {
            let mut delta = object(message);
            if let Some(Value::Array(calls)) = delta.get_mut("tool_calls") {
                calls.iter_mut().enumerate().for_each(|(index, call)| call["index"] = index.into());
            }
            let (said, end) = (chunk(index, delta.into(), &Value::Null), chunk(index, json!({}), reason));
            events.push_str(&format!("data: {said}\n\ndata: {end}\n\n"));
        }
        Replayed::sse(events + "data: [DONE]\n\n")
    }
}
