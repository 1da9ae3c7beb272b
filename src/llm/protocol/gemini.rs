//! Gemini: `POST ...:generateContent` and `...:streamGenerateContent`.

use std::borrow::Cow;

use bytes::Bytes;
use http::Method;
use http::request::Parts;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::chat::{voice_by_role, voice_of};
use super::element::{bytes_of, list, object, text};
use super::partial::{self, Call};
use super::{Assembler, CallId, Protocol, Replay, Replayed, Reply, Step, Tools, Voice};
use crate::llm::envelope::Envelope;
use crate::llm::sse::{Event, Framing};

/// Gemini. A stream without `alt=sse` is one JSON array, and passes element by element. Of several
/// candidates the first is remembered. A call whose arguments come in parts is stored as one.
#[derive(Debug, Clone, Copy, Default)]
pub struct Gemini;

impl Protocol for Gemini {
    fn name(&self) -> &'static str {
        "gemini"
    }

    fn speaks(&self, parts: &Parts) -> bool {
        let path = parts.uri.path();
        parts.method == Method::POST && (path.ends_with(":generateContent") || path.ends_with(":streamGenerateContent"))
    }

    fn list(&self) -> &'static str {
        "contents"
    }

    fn lift(&self, raw: &str) -> Option<Bytes> {
        // One content in place of a list of them.
        raw.starts_with('{').then(|| Bytes::copy_from_slice(raw.as_bytes()))
    }

    fn voice(&self, element: &[u8]) -> Voice {
        voice_by_role(element)
    }

    fn voice_of_role(&self, role: &[u8]) -> Option<Voice> {
        Some(voice_of(role))
    }

    fn wants_stream(&self, parts: &Parts, _: &Envelope) -> Option<Framing> {
        let sse = parts.uri.query().is_some_and(|query| query.split('&').any(|pair| pair == "alt=sse"));
        let stream = parts.uri.path().ends_with(":streamGenerateContent");
        stream.then_some(if sse { Framing::Sse } else { Framing::Array })
    }

    fn tool_mark(&self) -> &'static [u8] {
        b"unction"
    }

    fn tools(&self, element: &[u8]) -> Tools {
        let content = object(element);
        let mut tools = Tools::none();
        for part in list(&content, "parts") {
            let id = |field: &str| {
                let part = part.get(field)?.as_object()?;
                Some(CallId::new(text(part, "id"), text(part, "name")))
            };
            tools.calls.extend(id("functionCall").or_else(|| id("function_call")));
            tools.results.extend(id("functionResponse").or_else(|| id("function_response")));
        }
        tools
    }

    fn results_share_an_element(&self) -> bool {
        true
    }

    fn no_result(&self, calls: &[CallId]) -> Vec<Bytes> {
        let part = |call: &CallId| {
            let mut response = json!({"name": call.name, "response": {"error": crate::llm::NO_RESULT}});
            if !call.id.is_empty() {
                response["id"] = call.id.clone().into();
            }
            json!({"functionResponse": response})
        };
        let parts: Vec<Value> = calls.iter().map(part).collect();
        vec![bytes_of(&json!({"role": "user", "parts": parts}))]
    }

    fn without_results(&self, element: &Bytes, orphans: &[CallId]) -> Option<Bytes> {
        let mut orphans = orphans.to_vec();
        remade(element, |part| {
            let Some(Value::Object(response)) = part.get("functionResponse").or_else(|| part.get("function_response"))
            else {
                return Some(part);
            };
            let id = CallId::new(text(response, "id"), text(response, "name"));
            match orphans.iter().position(|orphan| *orphan == id) {
                Some(index) => {
                    orphans.remove(index);
                    None
                }
                None => Some(part),
            }
        })
    }

    fn mended(&self, element: &Bytes) -> Option<Bytes> {
        remade(element, |part| (!broke_off(&part)).then_some(part))
    }

    /// A call that the limit cut keeps its place, without arguments, for the result that it gets.
    fn tidied(&self, element: &Bytes) -> Option<Bytes> {
        remade(element, |mut part| {
            if broke_off(&part)
                && let Some(call) = part.get_mut("functionCall").and_then(Value::as_object_mut)
            {
                call.retain(|name, _| !matches!(&**name, "partialArgs" | "willContinue"));
                call.insert("args".into(), json!({}));
            }
            Some(part)
        })
    }

    fn assembler(&self) -> Box<dyn Assembler> {
        Box::<Answer>::default()
    }

    fn replay(&self, replay: &Replay<'_>) -> Replayed {
        let mut body = replay.head.map(|head| object(head.get().as_bytes())).unwrap_or_default();
        let finish = body.remove("finishReason").unwrap_or_default();
        let content = replay.elements.first().map(|element| String::from_utf8_lossy(element)).unwrap_or_default();
        let rest = Value::from(body).to_string();
        let comma = if rest == "{}" { "" } else { "," };
        let body = format!(
            r#"{{"candidates":[{{"content":{content},"finishReason":{finish},"index":0}}]{comma}{}"#,
            &rest[1..]
        );
        match replay.stream {
            None => Replayed::json(body),
            Some(Framing::Array) => Replayed::json(format!("[{body}]")),
            Some(_) => Replayed::sse(format!("data: {body}\r\n\r\n")),
        }
    }
}

fn broke_off(part: &Value) -> bool {
    part.get("functionCall").and_then(Value::as_object).is_some_and(partial::continues)
}

/// The content with what is made of each part; those that stay the same, byte for byte. `None` when
/// there is none.
fn remade(element: &Bytes, mut make: impl FnMut(Value) -> Option<Value>) -> Option<Bytes> {
    let RawContent { parts } = serde_json::from_slice(element).ok()?;
    let mut made: Vec<Cow<'_, str>> = Vec::with_capacity(parts.len());
    let mut changed = false;
    for raw in &parts {
        let part: Value = serde_json::from_str(raw.get()).ok()?;
        let new = make(part.clone());
        changed |= new.as_ref() != Some(&part);
        made.extend(new.map(|new| if new == part { raw.get().into() } else { new.to_string().into() }));
    }
    if !changed {
        return (!made.is_empty()).then(|| element.clone());
    }
    let mut content = object(element);
    content.remove("parts");
    let rest = Value::from(content).to_string();
    let comma = if rest == "{}" { "" } else { "," };
    (!made.is_empty()).then(|| format!(r#"{}{comma}"parts":[{}]}}"#, &rest[..rest.len() - 1], made.join(",")).into())
}

/// One answer in the making.
#[derive(Default)]
struct Answer {
    /// The content of a JSON reply, byte for byte.
    verbatim: Option<Bytes>,
    parts: Vec<Part>,
    /// Usage, version, id, reason: the last of each.
    head: Map<String, Value>,
    bytes: usize,
}

enum Part {
    /// A part byte for byte.
    Raw(Box<RawValue>),
    /// Plain texts that followed each other.
    Text { text: String, thought: bool },
    /// A call whose arguments come in parts.
    Call(Call),
}

#[derive(Deserialize)]
struct Slice {
    #[serde(default)]
    candidates: Vec<Candidate>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

#[derive(Deserialize)]
struct Candidate {
    #[serde(default)]
    index: u64,
    #[serde(default, rename = "finishReason")]
    finish: Value,
}

/// The parts of a slice, raw: read apart, since flattened structs cannot hold raw values.
#[derive(Deserialize)]
struct RawSlice<'a> {
    #[serde(borrow, default)]
    candidates: Vec<RawCandidate<'a>>,
}

#[derive(Deserialize)]
struct RawCandidate<'a> {
    #[serde(default)]
    index: u64,
    #[serde(borrow, default)]
    content: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct RawContent<'a> {
    #[serde(borrow, default)]
    parts: Vec<&'a RawValue>,
}

impl Answer {
    fn slice(&mut self, json: &str) -> Option<Step> {
        let slice: Slice = serde_json::from_str(json).ok()?;
        let raw: RawSlice<'_> = serde_json::from_str(json).ok()?;
        if slice.rest.contains_key("error") {
            return Some(Step::Failed);
        }
        for (name, value) in slice.rest {
            if matches!(&*name, "usageMetadata" | "modelVersion" | "responseId") {
                self.head.insert(name, value);
            }
        }
        if let Some(content) = raw.candidates.iter().find(|candidate| candidate.index == 0).and_then(|c| c.content) {
            let content: RawContent<'_> = serde_json::from_str(content.get()).ok()?;
            content.parts.into_iter().for_each(|part| self.add(part));
        }
        let first = slice.candidates.into_iter().find(|candidate| candidate.index == 0);
        match first.map(|candidate| candidate.finish) {
            Some(finish) if !finish.is_null() => {
                self.head.insert("finishReason".into(), finish);
                Some(Step::Last)
            }
            _ => Some(Step::More),
        }
    }

    /// Plain texts are joined where neither has anything else to say; an empty text may carry a
    /// signature and is kept.
    fn add(&mut self, part: &RawValue) {
        self.bytes += part.get().len();
        let fields = object(part.get().as_bytes());
        let plain = fields.keys().all(|name| matches!(&**name, "text" | "thought")) && fields.contains_key("text");
        let thought = fields.get("thought").and_then(Value::as_bool).unwrap_or_default();
        let open = |part: &mut Part| matches!(part, Part::Call(call) if call.takes(&fields));
        if let Some(Part::Call(call)) = self.parts.iter_mut().rev().find_map(|part| open(part).then_some(part)) {
            return call.add(&fields);
        }
        if let Some(call) = Call::begin(&fields) {
            return self.parts.push(Part::Call(call));
        }
        match self.parts.last_mut() {
            Some(Part::Text { text: so_far, thought: same }) if plain && *same == thought => {
                so_far.push_str(text(&fields, "text"));
            }
            _ if plain => self.parts.push(Part::Text { text: text(&fields, "text").to_owned(), thought }),
            _ => self.parts.push(Part::Raw(part.to_owned())),
        }
    }
}

impl Assembler for Answer {
    fn event(&mut self, event: &Event) -> Step {
        self.slice(&event.data).unwrap_or(Step::More)
    }

    fn json(&mut self, body: &Bytes) -> bool {
        if let Ok(slices) = serde_json::from_slice::<Vec<&RawValue>>(body) {
            return !slices.is_empty() && slices.iter().all(|slice| self.slice(slice.get()).is_some());
        }
        let Ok(text) = std::str::from_utf8(body) else { return false };
        let content = |raw: RawSlice<'_>| {
            let candidate = raw.candidates.into_iter().find(|candidate| candidate.index == 0)?;
            Some(body.slice_ref(candidate.content?.get().as_bytes()))
        };
        let found = serde_json::from_str::<RawSlice<'_>>(text).ok().and_then(content);
        let Some(content) = found.filter(|content| voice_by_role(content) == Voice::Model) else { return false };
        let known = self.slice(text) == Some(Step::Last);
        self.verbatim = Some(content);
        known
    }

    fn bytes(&self) -> usize {
        self.bytes
    }

    fn finish(mut self: Box<Self>) -> Reply {
        let whole = self.head.contains_key("finishReason");
        let head = serde_json::value::to_raw_value(&self.head).ok();
        let element = self.verbatim.take().or_else(|| {
            let parts: Vec<String> = self.parts.iter().map(Part::to_json).collect();
            (!parts.is_empty()).then(|| format!(r#"{{"role":"model","parts":[{}]}}"#, parts.join(",")).into())
        });
        Reply { head, ..Reply::new(element.into_iter().collect(), whole) }
    }
}

impl Part {
    fn to_json(&self) -> String {
        match self {
            Self::Raw(raw) => raw.get().to_owned(),
            Self::Call(call) => call.to_json(),
            Self::Text { text, thought: false } => json!({"text": text}).to_string(),
            Self::Text { text, thought: true } => json!({"text": text, "thought": true}).to_string(),
        }
    }
}
