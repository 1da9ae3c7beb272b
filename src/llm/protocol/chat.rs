//! OpenAI Chat Completions, and the many servers that speak it: `POST .../chat/completions`.

use std::collections::BTreeMap;
use std::fmt::Write;

use bytes::Bytes;
use http::Method;
use http::request::Parts;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::element::{bytes_of, list, object, text};
use super::{Assembler, CallId, Protocol, Replay, Replayed, Reply, Step, Tools, Voice};
use crate::llm::sse::Event;

/// OpenAI Chat Completions. Of several choices (`n` > 1) the first is remembered.
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
        if replay.stream { head.stream(message) } else { head.whole(message) }
    }
}

/// Voices of the protocols whose elements say it by their role.
pub(super) fn voice_by_role(element: &[u8]) -> Voice {
    #[derive(Deserialize)]
    struct Role<'a> {
        #[serde(borrow, default)]
        role: std::borrow::Cow<'a, str>,
    }
    match serde_json::from_slice::<Role<'_>>(element).map(|message| message.role).as_deref() {
        Ok("system" | "developer") => Voice::Instructions,
        Ok("assistant" | "model") => Voice::Model,
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
struct Head {
    #[serde(default)]
    id: Value,
    #[serde(default)]
    created: Value,
    #[serde(default)]
    model: Value,
    #[serde(default)]
    finish_reason: Value,
    #[serde(default)]
    usage: Value,
}

impl Head {
    fn whole(&self, message: &[u8]) -> Replayed {
        let Self { id, created, model, finish_reason, usage } = self;
        let message = String::from_utf8_lossy(message);
        Replayed::json(format!(
            concat!(
                r#"{{"id":{},"object":"chat.completion","created":{},"model":{},"choices":"#,
                r#"[{{"index":0,"message":{},"logprobs":null,"finish_reason":{}}}],"usage":{}}}"#
            ),
            id, created, model, message, finish_reason, usage
        ))
    }

    fn stream(&self, message: &[u8]) -> Replayed {
        let mut delta = object(message);
        if let Some(Value::Array(calls)) = delta.get_mut("tool_calls") {
            for (index, call) in calls.iter_mut().enumerate() {
                call["index"] = index.into();
            }
        }
        let chunk = |delta: Value, finish: &Value| {
            json!({
                "id": self.id, "object": "chat.completion.chunk", "created": self.created, "model": self.model,
                "choices": [{"index": 0, "delta": delta, "logprobs": null, "finish_reason": finish}],
            })
        };
        let (said, end) = (chunk(delta.into(), &Value::Null), chunk(json!({}), &self.finish_reason));
        Replayed::sse(format!("data: {said}\n\ndata: {end}\n\ndata: [DONE]\n\n"))
    }
}

/// One completion in the making. Fields that nobody here knows are kept: strings by concatenation,
/// lists by joining, anything else by its last word.
#[derive(Default)]
struct Completion {
    /// A JSON reply's message, byte for byte.
    verbatim: Option<Bytes>,
    fields: Vec<(String, Value)>,
    calls: BTreeMap<u64, Map<String, Value>>,
    head: Head,
    done: bool,
    bytes: usize,
}

#[derive(Deserialize)]
struct Chunk {
    #[serde(default)]
    id: Value,
    #[serde(default)]
    created: Value,
    #[serde(default)]
    model: Value,
    #[serde(default)]
    choices: Vec<Choice>,
    #[serde(default)]
    usage: Value,
    #[serde(default)]
    error: Value,
}

#[derive(Deserialize)]
struct Choice {
    #[serde(default)]
    index: u64,
    #[serde(default)]
    delta: Option<Map<String, Value>>,
    #[serde(default)]
    finish_reason: Value,
}

#[derive(Deserialize)]
struct WholeReply<'a> {
    #[serde(default)]
    id: Value,
    #[serde(default)]
    created: Value,
    #[serde(default)]
    model: Value,
    #[serde(borrow)]
    choices: Vec<WholeChoice<'a>>,
    #[serde(default)]
    usage: Value,
}

#[derive(Deserialize)]
struct WholeChoice<'a> {
    #[serde(default)]
    index: u64,
    #[serde(borrow)]
    message: &'a RawValue,
    #[serde(default)]
    finish_reason: Value,
}

impl Assembler for Completion {
    fn event(&mut self, event: &Event) -> Step {
        if event.data.trim() == "[DONE]" {
            self.done = true;
            return Step::Last;
        }
        let Ok(chunk) = serde_json::from_str::<Chunk>(&event.data) else { return Step::More };
        if !chunk.error.is_null() {
            return Step::Failed;
        }
        for (place, value) in [
            (&mut self.head.id, chunk.id),
            (&mut self.head.created, chunk.created),
            (&mut self.head.model, chunk.model),
            (&mut self.head.usage, chunk.usage),
        ] {
            if !value.is_null() {
                *place = value;
            }
        }
        for choice in chunk.choices.into_iter().filter(|choice| choice.index == 0) {
            choice.delta.into_iter().flatten().for_each(|(name, value)| self.add(name, value));
            if !choice.finish_reason.is_null() {
                self.head.finish_reason = choice.finish_reason;
            }
        }
        Step::More
    }

    fn json(&mut self, body: &Bytes) -> bool {
        let Ok(reply) = serde_json::from_slice::<WholeReply<'_>>(body) else { return false };
        let Some(choice) = reply.choices.into_iter().find(|choice| choice.index == 0) else { return false };
        let head = Head {
            id: reply.id,
            created: reply.created,
            model: reply.model,
            finish_reason: choice.finish_reason,
            usage: reply.usage,
        };
        self.head = head;
        self.bytes = choice.message.get().len();
        self.verbatim = Some(body.slice_ref(choice.message.get().as_bytes()));
        self.done = true;
        true
    }

    fn bytes(&self) -> usize {
        self.bytes
    }

    fn finish(self: Box<Self>) -> Reply {
        let whole = self.done || !self.head.finish_reason.is_null();
        let head = serde_json::value::to_raw_value(&self.head).ok();
        let elements = self.verbatim.clone().or_else(|| self.message()).into_iter().collect();
        Reply { head, ..Reply::new(elements, whole) }
    }
}

impl Completion {
    fn add(&mut self, name: String, value: Value) {
        match (&*name, value) {
            (_, Value::Null) | ("role" | "obfuscation", _) => {}
            ("tool_calls", Value::Array(fragments)) => fragments.into_iter().for_each(|call| self.add_call(call)),
            (_, value) => {
                self.bytes += size(&value);
                match self.fields.iter_mut().find(|(field, _)| *field == name) {
                    Some((_, so_far)) => merge(so_far, value),
                    None => self.fields.push((name, value)),
                }
            }
        }
    }

    fn add_call(&mut self, fragment: Value) {
        let Value::Object(mut fragment) = fragment else { return };
        let last = self.calls.last_key_value().map(|(index, call)| (*index, text(call, "id").to_owned()));
        // Servers that leave the index out send calls one after the other, each with an id of its own.
        let index = match (fragment.remove("index").and_then(|index| index.as_u64()), last) {
            (Some(index), _) => index,
            (None, None) => 0,
            (None, Some((last, id))) => match text(&fragment, "id") {
                new if new.is_empty() || new == id => last,
                _ => last + 1,
            },
        };
        let call = self.calls.entry(index).or_default();
        for (name, value) in fragment {
            self.bytes += size(&value);
            match (call.get_mut(&name), value) {
                (_, Value::Null) => {}
                (Some(Value::Object(so_far)), Value::Object(more)) => {
                    for (name, value) in more {
                        match (&*name, so_far.get_mut(&name)) {
                            (_, None) => drop(so_far.insert(name, value)),
                            ("arguments" | "input", Some(text)) => merge(text, value),
                            ("name", Some(name)) if value.as_str().is_some_and(|new| !new.is_empty()) => *name = value,
                            ("name", Some(_)) => {}
                            (_, Some(other)) => *other = value,
                        }
                    }
                }
                (Some(so_far), value) if value.as_str() != Some("") => *so_far = value,
                (Some(_), _) => {}
                (None, value) => drop(call.insert(name, value)),
            }
        }
    }

    /// The message; `None` when the model had said nothing yet.
    fn message(&self) -> Option<Bytes> {
        if self.fields.is_empty() && self.calls.is_empty() && !self.done {
            return None;
        }
        let content = self.fields.iter().find(|(name, _)| name == "content").map(|(_, value)| value.clone());
        // `null` is for messages that say something else; one that says nothing has an empty text.
        let nothing = self.fields.is_empty() && self.calls.is_empty();
        let content = content.unwrap_or_else(|| if nothing { "".into() } else { Value::Null });
        let mut json = format!(r#"{{"role":"assistant","content":{content}"#);
        for (name, value) in self.fields.iter().filter(|(name, _)| name != "content") {
            let _ = write!(json, ",{}:{value}", Value::from(&**name));
        }
        if !self.calls.is_empty() {
            let calls: Vec<_> = self.calls.values().collect();
            let _ = write!(json, r#","tool_calls":{}"#, serde_json::to_string(&calls).unwrap_or_default());
        }
        json.push('}');
        Some(json.into())
    }
}

fn size(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len(),
        Value::Array(values) => values.iter().map(size).sum(),
        Value::Object(fields) => fields.iter().map(|(name, value)| name.len() + size(value)).sum(),
        _ => 8,
    }
}

fn merge(so_far: &mut Value, more: Value) {
    match (so_far, more) {
        (Value::String(text), Value::String(more)) => text.push_str(&more),
        (Value::Array(values), Value::Array(more)) => values.extend(more),
        (Value::Object(fields), Value::Object(more)) => {
            for (name, value) in more {
                match (fields.get_mut(&name), &*name) {
                    (_, _) if value.is_null() => {}
                    (Some(so_far), "data" | "transcript" | "arguments") => merge(so_far, value),
                    (Some(so_far), _) => *so_far = value,
                    (None, _) => drop(fields.insert(name, value)),
                }
            }
        }
        (so_far, more) => *so_far = more,
    }
}
