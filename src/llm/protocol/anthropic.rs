//! Anthropic Messages: `POST .../messages`.

use std::borrow::Cow;
use std::collections::BTreeMap;

use bytes::Bytes;
use http::Method;
use http::request::Parts;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::chat::{voice_by_role, voice_of};
use super::element::{bytes_of, list, object, text};
use super::{Assembler, CallId, Protocol, Replay, Replayed, Reply, Step, Tools, Voice};
use crate::llm::sse::Event;

/// Anthropic Messages.
#[derive(Debug, Clone, Copy, Default)]
pub struct AnthropicMessages;

impl Protocol for AnthropicMessages {
    fn name(&self) -> &'static str {
        "anthropic"
    }

    fn speaks(&self, parts: &Parts) -> bool {
        parts.method == Method::POST && parts.uri.path().ends_with("/v1/messages")
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
        b"tool_"
    }

    fn tools(&self, element: &[u8]) -> Tools {
        let message = object(element);
        let mut tools = Tools::none();
        for block in list(&message, "content") {
            let field = |name| block.get(name).and_then(Value::as_str).unwrap_or_default();
            match field("type") {
                "tool_use" => tools.calls.push(CallId::new(field("id"), "")),
                "tool_result" => tools.results.push(CallId::new(field("tool_use_id"), "")),
                _ => {}
            }
        }
        tools
    }

    fn results_share_an_element(&self) -> bool {
        true
    }

    fn no_result(&self, calls: &[CallId]) -> Vec<Bytes> {
        let results: Vec<Value> = calls
            .iter()
            .map(|call| {
                let content = crate::llm::NO_RESULT;
                json!({"type": "tool_result", "tool_use_id": call.id, "content": content, "is_error": true})
            })
            .collect();
        vec![bytes_of(&json!({"role": "user", "content": results}))]
    }

    fn without_results(&self, element: &Bytes, orphans: &[CallId]) -> Option<Bytes> {
        remade(element, |block| {
            let id = block.get("tool_use_id").and_then(Value::as_str).unwrap_or_default();
            let orphaned = kind(&block) == "tool_result" && orphans.iter().any(|orphan| orphan.id == id);
            (!orphaned).then_some(block)
        })
    }

    /// Thinking without its signature, calls without their whole input, and empty texts are left
    /// out; a message that would end in thinking is none.
    fn mended(&self, element: &Bytes) -> Option<Bytes> {
        let message = object(element);
        let blocks = list(&message, "content");
        let answered = |id: &Value| blocks.iter().any(|block| block.get("tool_use_id") == Some(id));
        let whole = |block: &Value| match kind(block) {
            "server_tool_use" | "mcp_tool_use" => block.get("id").is_some_and(answered),
            _ => block.get(PARTIAL).is_none(),
        };
        said(element, |block| whole(&block).then_some(block))
    }

    /// A call that the limit cut keeps its place, without input, for the result that it gets. A
    /// server's own tool may be at work still: a paused turn goes on from there.
    fn tidied(&self, element: &Bytes) -> Option<Bytes> {
        said(element, |mut block| {
            let cut = block.as_object_mut().and_then(|block| block.remove(PARTIAL)).is_some();
            (!cut || kind(&block) == "tool_use").then_some(block)
        })
    }

    fn assembler(&self) -> Box<dyn Assembler> {
        Box::<Turn>::default()
    }

    fn replay(&self, replay: &Replay<'_>) -> Replayed {
        let head: Head = replay.head.and_then(|head| serde_json::from_str(head.get()).ok()).unwrap_or_default();
        let message = replay.elements.first().map(|element| String::from_utf8_lossy(element)).unwrap_or_default();
        let content = serde_json::from_str::<Content<'_>>(&message).map_or("[]", |message| message.content.get());
        if replay.stream.is_some() { head.stream(content) } else { Replayed::json(head.message(content)) }
    }
}

/// Marks a call whose input broke off: as much of it as came.
const PARTIAL: &str = "partial_json";

fn kind(block: &Value) -> &str {
    block.get("type").and_then(Value::as_str).unwrap_or_default()
}

#[derive(Deserialize)]
struct Content<'a> {
    #[serde(borrow)]
    content: &'a RawValue,
}

/// The message with what is made of each block, if it says anything then. Thinking without its
/// signature and empty texts are never taken back.
fn said(element: &Bytes, make: impl Fn(Value) -> Option<Value>) -> Option<Bytes> {
    if let Some(Value::String(text)) = object(element).get("content") {
        return (!text.is_empty()).then(|| element.clone());
    }
    let given = |block: &Value, field| block.get(field).and_then(Value::as_str).is_some_and(|text| !text.is_empty());
    let made = remade(element, |block| match kind(&block) {
        "thinking" if !given(&block, "signature") => None,
        "text" if !given(&block, "text") => None,
        _ => make(block),
    })?;
    let says = |block: &Value| !matches!(kind(block), "thinking" | "redacted_thinking");
    list(&object(&made), "content").iter().any(says).then_some(made)
}

/// The message with what is made of each block; those that stay the same, byte for byte.
fn remade(element: &Bytes, make: impl Fn(Value) -> Option<Value>) -> Option<Bytes> {
    #[derive(Deserialize)]
    struct Message<'a> {
        #[serde(borrow)]
        role: Cow<'a, str>,
        #[serde(borrow)]
        content: Vec<&'a RawValue>,
    }
    let Ok(message) = serde_json::from_slice::<Message<'_>>(element) else { return Some(element.clone()) };
    let mut changed = false;
    let mut blocks: Vec<Cow<'_, str>> = Vec::with_capacity(message.content.len());
    for raw in &message.content {
        let block: Option<Value> = serde_json::from_str(raw.get()).ok();
        let made = block.clone().and_then(&make);
        changed |= made != block || made.is_none();
        blocks.extend(
            made.map(|made| if Some(&made) == block.as_ref() { raw.get().into() } else { made.to_string().into() }),
        );
    }
    match (changed, blocks.is_empty()) {
        (_, true) => None,
        (false, _) => Some(element.clone()),
        (true, _) => {
            let role = Value::from(&*message.role);
            Some(format!(r#"{{"role":{role},"content":[{}]}}"#, blocks.join(",")).into())
        }
    }
}

/// What a replay needs besides the content.
#[derive(Debug, Default, serde::Serialize, Deserialize)]
struct Head {
    #[serde(default)]
    id: Value,
    #[serde(default)]
    model: Value,
    #[serde(default)]
    stop_reason: Value,
    #[serde(default)]
    stop_sequence: Value,
    #[serde(default)]
    usage: Map<String, Value>,
}

impl Head {
    fn message(&self, content: &str) -> String {
        let Self { id, model, stop_reason, stop_sequence, usage } = self;
        let usage = Value::from(usage.clone());
        format!(
            concat!(
                r#"{{"id":{},"type":"message","role":"assistant","model":{},"content":{},"#,
                r#""stop_reason":{},"stop_sequence":{},"usage":{}}}"#
            ),
            id, model, content, stop_reason, stop_sequence, usage
        )
    }

    fn stream(&self, content: &str) -> Replayed {
        let begun =
            Self { id: self.id.clone(), model: self.model.clone(), usage: self.usage.clone(), ..Self::default() };
        let begun = begun.message("[]");
        let mut events = format!("event: message_start\ndata: {{\"type\":\"message_start\",\"message\":{begun}}}\n\n");
        let mut send = |event: Value| {
            let name = event["type"].as_str().unwrap_or_default();
            events.push_str(&format!("event: {name}\ndata: {event}\n\n"));
        };
        let blocks: Vec<Map<String, Value>> = serde_json::from_str(content).unwrap_or_default();
        for (index, mut block) in blocks.into_iter().enumerate() {
            // Clients put blocks together from deltas: what they append begins empty.
            let mut deltas = Vec::new();
            match text(&block, "type").to_owned().as_str() {
                "text" => {
                    let text = block.insert("text".into(), "".into()).unwrap_or_default();
                    deltas.push(json!({"type": "text_delta", "text": text}));
                    for citation in list(&block, "citations") {
                        deltas.push(json!({"type": "citations_delta", "citation": citation}));
                    }
                    if block.get("citations").is_some_and(Value::is_array) {
                        block.insert("citations".into(), json!([]));
                    }
                }
                "thinking" => {
                    let thinking = block.insert("thinking".into(), "".into()).unwrap_or_default();
                    let signature = block.insert("signature".into(), "".into()).unwrap_or_default();
                    deltas.push(json!({"type": "thinking_delta", "thinking": thinking}));
                    deltas.push(json!({"type": "signature_delta", "signature": signature}));
                }
                "tool_use" | "server_tool_use" => {
                    let input = block.insert("input".into(), json!({})).unwrap_or_default();
                    deltas.push(json!({"type": "input_json_delta", "partial_json": input.to_string()}));
                }
                _ => {}
            }
            send(json!({"type": "content_block_start", "index": index, "content_block": block}));
            for delta in deltas {
                send(json!({"type": "content_block_delta", "index": index, "delta": delta}));
            }
            send(json!({"type": "content_block_stop", "index": index}));
        }
        let delta = json!({"stop_reason": self.stop_reason, "stop_sequence": self.stop_sequence});
        send(json!({"type": "message_delta", "delta": delta, "usage": self.usage}));
        send(json!({"type": "message_stop"}));
        Replayed::sse(events)
    }
}

/// One reply in the making.
#[derive(Default)]
struct Turn {
    /// A JSON reply's content, byte for byte.
    verbatim: Option<String>,
    blocks: BTreeMap<u64, Block>,
    head: Head,
    begun: bool,
    done: bool,
    bytes: usize,
}

struct Block {
    /// As it began, byte for byte.
    raw: Box<RawValue>,
    fields: Map<String, Value>,
    input: String,
    changed: bool,
    stopped: bool,
}

#[derive(Deserialize)]
struct Frame {
    r#type: String,
    #[serde(default)]
    index: u64,
    #[serde(default)]
    content_block: Option<Box<RawValue>>,
    #[serde(default)]
    delta: Map<String, Value>,
    #[serde(default)]
    message: Head,
    #[serde(default)]
    usage: Map<String, Value>,
}

impl Assembler for Turn {
    fn event(&mut self, event: &Event) -> Step {
        let Ok(frame) = serde_json::from_str::<Frame>(&event.data) else {
            return if event.name == "error" { Step::Failed } else { Step::More };
        };
        match &*frame.r#type {
            "message_start" => {
                self.begun = true;
                self.head = frame.message;
            }
            "content_block_start" => {
                if let Some(raw) = frame.content_block {
                    self.bytes += raw.get().len();
                    let fields = object(raw.get().as_bytes());
                    let block = Block { raw, fields, input: String::new(), changed: false, stopped: false };
                    self.blocks.insert(frame.index, block);
                }
            }
            "content_block_delta" => {
                if let Some(block) = self.blocks.get_mut(&frame.index) {
                    self.bytes += block.add(frame.delta);
                }
            }
            "content_block_stop" => {
                if let Some(block) = self.blocks.get_mut(&frame.index) {
                    block.stopped = true;
                }
            }
            "message_delta" => {
                self.head.usage.extend(frame.usage.into_iter().filter(|(_, count)| !count.is_null()));
                for (name, value) in frame.delta {
                    match &*name {
                        "stop_reason" => self.head.stop_reason = value,
                        "stop_sequence" => self.head.stop_sequence = value,
                        _ => {}
                    }
                }
            }
            "message_stop" => {
                self.done = true;
                return Step::Last;
            }
            "error" => return Step::Failed,
            _ => {}
        }
        Step::More
    }

    fn json(&mut self, body: &Bytes) -> bool {
        let Ok(whole) = serde_json::from_slice::<Value>(body) else { return false };
        let Ok(Content { content }) = serde_json::from_slice::<Content<'_>>(body) else { return false };
        if whole.get("role").and_then(Value::as_str) != Some("assistant") {
            return false;
        }
        self.head = serde_json::from_value(whole).unwrap_or_default();
        self.bytes = content.get().len();
        self.verbatim = Some(content.get().to_owned());
        self.done = true;
        true
    }

    fn bytes(&self) -> usize {
        self.bytes
    }

    fn finish(self: Box<Self>) -> Reply {
        let whole = self.done || !self.head.stop_reason.is_null();
        let head = serde_json::value::to_raw_value(&self.head).ok();
        let content = match &self.verbatim {
            Some(content) => Some(content.clone()),
            None if self.blocks.is_empty() && !whole => None,
            None => {
                let blocks: Vec<String> = self.blocks.values().map(Block::to_json).collect();
                Some(format!("[{}]", blocks.join(",")))
            }
        };
        let element = content.map(|content| Bytes::from(format!(r#"{{"role":"assistant","content":{content}}}"#)));
        Reply { head, ..Reply::new(element.into_iter().collect(), whole) }
    }
}

impl Block {
    fn add(&mut self, delta: Map<String, Value>) -> usize {
        self.changed = true;
        let mut added = 0;
        for (name, value) in delta {
            added += value.as_str().map_or(8, str::len);
            match (&*name, value) {
                ("type", _) | (_, Value::Null) => {}
                ("partial_json", Value::String(more)) => self.input.push_str(&more),
                ("citation", citation) => match self.fields.get_mut("citations") {
                    Some(Value::Array(citations)) => citations.push(citation),
                    _ => drop(self.fields.insert("citations".into(), json!([citation]))),
                },
                ("signature", signature) => drop(self.fields.insert(name, signature)),
                (_, value) => match (self.fields.get_mut(&name), value) {
                    (Some(Value::String(text)), Value::String(more)) => text.push_str(&more),
                    (_, value) => drop(self.fields.insert(name, value)),
                },
            }
        }
        added
    }

    fn to_json(&self) -> String {
        let kind = text(&self.fields, "type");
        let takes_input = matches!(kind, "tool_use" | "server_tool_use" | "mcp_tool_use");
        let input_broke_off = takes_input
            && (!self.stopped && self.input.is_empty() || serde_json::from_str::<&RawValue>(&self.input).is_err());
        if !self.changed && (self.stopped || !takes_input) {
            return self.raw.get().to_owned();
        }
        let mut fields = self.fields.clone();
        if takes_input && input_broke_off && !(self.stopped && self.input.is_empty()) {
            fields.insert(PARTIAL.into(), self.input.clone().into());
            return Value::from(fields).to_string();
        }
        if !takes_input || self.input.is_empty() {
            return Value::from(fields).to_string();
        }
        // The input as the model wrote it: numbers are not read and written anew.
        fields.remove("input");
        let rest = Value::from(fields).to_string();
        format!(r#"{},"input":{}}}"#, &rest[..rest.len() - 1], self.input)
    }
}
