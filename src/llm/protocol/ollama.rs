//! Ollama: `POST .../api/chat`, one JSON object per line.

use bytes::Bytes;
use http::Method;
use http::request::Parts;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::chat::{calls, voice_by_role, voice_of};
use super::element::{bytes_of, object, text};
use super::{Assembler, CallId, Protocol, Replay, Replayed, Reply, Step, Tools, Voice};
use crate::llm::envelope::Envelope;
use crate::llm::sse::{Event, Framing};

/// Ollama's chat. Its tool calls have no ids: results are paired by order and name.
#[derive(Debug, Clone, Copy, Default)]
pub struct OllamaChat;

impl Protocol for OllamaChat {
    fn name(&self) -> &'static str {
        "ollama"
    }

    fn speaks(&self, parts: &Parts) -> bool {
        parts.method == Method::POST && parts.uri.path().ends_with("/api/chat")
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

    fn wants_stream(&self, _: &Parts, envelope: &Envelope) -> Option<Framing> {
        (envelope.get("stream") != Some("false")).then_some(Framing::Lines)
    }

    fn tool_mark(&self) -> &'static [u8] {
        b"tool"
    }

    fn tools(&self, element: &[u8]) -> Tools {
        let message = object(element);
        match text(&message, "role") {
            "assistant" => Tools { calls: calls(&message), results: Vec::new() },
            "tool" => {
                let result = CallId::new(text(&message, "tool_call_id"), text(&message, "tool_name"));
                Tools { calls: Vec::new(), results: vec![result] }
            }
            _ => Tools::none(),
        }
    }

    fn no_result(&self, calls: &[CallId]) -> Vec<Bytes> {
        let result = |call: &CallId| {
            bytes_of(&json!({"role": "tool", "tool_name": call.name, "content": crate::llm::NO_RESULT}))
        };
        calls.iter().map(result).collect()
    }

    fn without_results(&self, _: &Bytes, _: &[CallId]) -> Option<Bytes> {
        None
    }

    /// Calls come whole; only what says nothing is left out.
    fn mended(&self, element: &Bytes) -> Option<Bytes> {
        let message = object(element);
        let says = !text(&message, "content").is_empty() || message.contains_key("tool_calls");
        says.then(|| element.clone())
    }

    fn assembler(&self) -> Box<dyn Assembler> {
        Box::<Answer>::default()
    }

    fn replay(&self, replay: &Replay<'_>) -> Replayed {
        let mut last = replay.head.map(|head| object(head.get().as_bytes())).unwrap_or_default();
        let message = replay.elements.first().map(|element| object(element)).unwrap_or_default();
        last.insert("done".into(), true.into());
        if replay.stream.is_none() {
            last.insert("message".into(), message.into());
            return Replayed::json(Value::from(last).to_string());
        }
        let said = json!({
            "model": last.get("model"), "created_at": last.get("created_at"), "message": message, "done": false,
        });
        last.insert("message".into(), json!({"role": "assistant", "content": ""}));
        Replayed::lines(format!("{said}\n{}\n", Value::from(last)))
    }
}

/// One answer in the making.
#[derive(Default)]
struct Answer {
    /// The message of a JSON reply, byte for byte.
    verbatim: Option<Bytes>,
    message: Map<String, Value>,
    last: Map<String, Value>,
    done: bool,
    bytes: usize,
}

impl Assembler for Answer {
    fn event(&mut self, event: &Event) -> Step {
        let mut line = object(event.data.as_bytes());
        if line.contains_key("error") {
            return Step::Failed;
        }
        if let Some(Value::Object(message)) = line.remove("message") {
            for (name, value) in message {
                self.bytes += value.as_str().map_or_else(|| value.to_string().len(), str::len);
                match (&*name, self.message.get_mut(&name), value) {
                    (_, _, Value::Null) => {}
                    ("role", Some(_), _) => {}
                    (_, Some(Value::String(text)), Value::String(more)) => text.push_str(&more),
                    (_, Some(Value::Array(values)), Value::Array(more)) => values.extend(more),
                    (_, _, value) => drop(self.message.insert(name, value)),
                }
            }
        }
        if line.get("done").and_then(Value::as_bool) == Some(true) {
            self.last = line;
            self.done = true;
            return Step::Last;
        }
        Step::More
    }

    fn json(&mut self, body: &Bytes) -> bool {
        #[derive(Deserialize)]
        struct Whole<'a> {
            #[serde(borrow)]
            message: &'a RawValue,
        }
        let Ok(Whole { message }) = serde_json::from_slice(body) else { return false };
        self.verbatim = Some(body.slice_ref(message.get().as_bytes()));
        self.last = object(body);
        self.last.remove("message");
        self.bytes = message.get().len();
        self.done = true;
        true
    }

    fn bytes(&self) -> usize {
        self.bytes
    }

    fn finish(mut self: Box<Self>) -> Reply {
        let head = serde_json::value::to_raw_value(&self.last).ok();
        let element = match self.verbatim.take() {
            Some(verbatim) => Some(verbatim),
            None if self.message.is_empty() => None,
            None => {
                self.message.entry("role").or_insert_with(|| "assistant".into());
                Some(bytes_of(&self.message))
            }
        };
        Reply { head, ..Reply::new(element.into_iter().collect(), self.done) }
    }
}
