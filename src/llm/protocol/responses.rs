//! OpenAI Responses: `POST .../responses`, with the provider's own memory taken over.
//!
//! Every item is an element, the model's output items too. `previous_response_id` and
//! `conversation` are answered from the session: the upstream sees neither, and may be stateless.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::Method;
use http::request::Parts;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::chat::{voice_by_role, voice_of};
use super::element::{bytes_of, list, object, text};
use super::{Ask, Assembler, CallId, Protocol, Recall, Replay, Replayed, Reply, Step, Tools, Voice};
use crate::llm::envelope::Envelope;
use crate::llm::scan::plain_text;
use crate::llm::sse::{Event, Framing};

/// OpenAI Responses. `previous_response_id` continues from that response, so that one response may
/// have several continuations; without it a request continues the session's newest turn.
///
/// `GET .../responses/{id}` is answered from the session where it has that response among the turns
/// that were loaded; `DELETE` of one is refused with 405, since turns are kept whole until their
/// conversation is deleted. Ids that the session does not know, and what lies below them
/// (`input_items`, `cancel`), are the upstream's.
///
/// A response that is not at its end is no turn: of a request with `background` whose answer is
/// `queued` or `in_progress` nothing is stored, its polls are the upstream's, and a
/// `previous_response_id` that names it is refused with 404. Streamed, it is stored at its end.
#[derive(Debug, Clone, Copy, Default)]
pub struct OpenAiResponses;

const PREVIOUS: &str = "previous_response_id";
const CONVERSATION: &str = "conversation";

impl Protocol for OpenAiResponses {
    fn name(&self) -> &'static str {
        "openai-responses"
    }

    fn speaks(&self, parts: &Parts) -> bool {
        parts.method == Method::POST && parts.uri.path().ends_with("/responses")
    }

    fn list(&self) -> &'static str {
        "input"
    }

    fn lift(&self, raw: &str) -> Option<Bytes> {
        raw.starts_with('"').then(|| format!(r#"{{"role":"user","content":{raw}}}"#).into())
    }

    fn ask(&self, envelope: &Envelope) -> Result<Ask, &'static str> {
        if envelope.get(PREVIOUS).is_some() && envelope.get(CONVERSATION).is_some() {
            return Err("previous_response_id and conversation cannot be given together.");
        }
        Ok(Ask { follows: envelope.text(PREVIOUS), hide: vec![PREVIOUS, CONVERSATION] })
    }

    fn voice_of_role(&self, role: &[u8]) -> Option<Voice> {
        (!role.is_empty()).then(|| voice_of(role))
    }

    fn voice(&self, element: &[u8]) -> Voice {
        if let Some(role) = plain_text(element, "role").filter(|role| !role.is_empty()) {
            return voice_of(role);
        }
        let item = object(element);
        let kind = text(&item, "type");
        match text(&item, "role") {
            "" if kind.ends_with("_output") || kind.ends_with("_response") || kind == "item_reference" => Voice::Client,
            "" => Voice::Model,
            _ => voice_by_role(element),
        }
    }

    fn tool_mark(&self) -> &'static [u8] {
        b"call_id"
    }

    fn tools(&self, element: &[u8]) -> Tools {
        let item = object(element);
        let (kind, id) = (text(&item, "type"), text(&item, "call_id"));
        match kind.strip_suffix("_output") {
            Some(call) => Tools { calls: Vec::new(), results: vec![CallId::new(id, call)] },
            None if kind.ends_with("_call") && !id.is_empty() => {
                Tools { calls: vec![CallId::new(id, kind)], results: Vec::new() }
            }
            None => Tools::none(),
        }
    }

    fn calls_stand_apart(&self) -> bool {
        true
    }

    fn no_result(&self, calls: &[CallId]) -> Vec<Bytes> {
        let result = |call: &CallId| {
            let kind = format!("{}_output", call.name);
            bytes_of(&json!({"type": kind, "call_id": call.id, "output": crate::llm::NO_RESULT}))
        };
        calls.iter().map(result).collect()
    }

    fn without_results(&self, _: &Bytes, _: &[CallId]) -> Option<Bytes> {
        None
    }

    /// A message may break off; a call or a thought may not.
    fn mended(&self, element: &Bytes) -> Option<Bytes> {
        let item = object(element);
        let broke_off = matches!(text(&item, "status"), "in_progress" | "incomplete");
        match text(&item, "type") {
            "message" | "" => {
                let says =
                    |part: &Value| ["text", "refusal"].iter().any(|field| part.get(field).is_some_and(|t| t != ""));
                list(&item, "content").iter().any(says).then(|| element.clone())
            }
            "function_call" => {
                let arguments = serde_json::from_str::<serde::de::IgnoredAny>(text(&item, "arguments"));
                (arguments.is_ok() && !broke_off).then(|| element.clone())
            }
            _ => (!broke_off).then(|| element.clone()),
        }
    }

    fn leads(&self, element: &[u8]) -> bool {
        text(&object(element), "type") == "reasoning"
    }

    fn recalls(&self, parts: &Parts) -> Option<Recall> {
        let (list, id) = parts.uri.path().rsplit_once('/')?;
        if !list.ends_with("/responses") || id.is_empty() {
            return None;
        }
        let id = id.to_owned();
        let query = || parts.uri.query().into_iter().flat_map(|query| query.split('&'));
        match parts.method {
            Method::DELETE => Some(Recall::Delete { id }),
            // To go on in the middle of a stream, one must know where it was cut.
            Method::GET if query().any(|pair| pair.starts_with("starting_after=")) => None,
            Method::GET => {
                let stream = query().any(|pair| pair == "stream=true").then_some(Framing::Sse);
                Some(Recall::Fetch { id, stream })
            }
            _ => None,
        }
    }

    fn assembler(&self) -> Box<dyn Assembler> {
        Box::<Answer>::default()
    }

    fn replay(&self, replay: &Replay<'_>) -> Replayed {
        let mut response = replay.head.map(|head| object(head.get().as_bytes())).unwrap_or_default();
        for (field, value) in [("object", json!("response")), ("tools", json!([])), ("tool_choice", json!("auto"))] {
            response.entry(field).or_insert(value);
        }
        let output: Vec<Value> =
            replay.elements.iter().filter_map(|element| serde_json::from_slice(element).ok()).collect();
        let begun = Value::from(response.clone());
        response.insert("output".into(), output.clone().into());
        if replay.stream.is_none() {
            return Replayed::json(Value::from(response).to_string());
        }
        let mut events = Events::default();
        events.send("response.created", json!({"response": with_output(begun, json!([]))}));
        for (index, item) in output.iter().enumerate() {
            events.item(index, item);
        }
        let kind = if text(&response, "status") == "incomplete" { "response.incomplete" } else { "response.completed" };
        events.send(kind, json!({"response": response}));
        Replayed::sse(events.text)
    }
}

fn with_output(mut response: Value, output: Value) -> Value {
    response["output"] = output;
    response["status"] = "in_progress".into();
    response
}

/// A stream being written.
#[derive(Default)]
struct Events {
    text: String,
    sequence: u64,
}

impl Events {
    fn send(&mut self, kind: &str, mut event: Value) {
        event["type"] = kind.into();
        event["sequence_number"] = self.sequence.into();
        self.sequence += 1;
        self.text.push_str(&format!("event: {kind}\ndata: {event}\n\n"));
    }

    fn item(&mut self, index: usize, item: &Value) {
        let mut begun = item.clone();
        if item["type"] == "message" {
            begun["content"] = json!([]);
        }
        let id = &item["id"];
        self.send("response.output_item.added", json!({"output_index": index, "item": begun}));
        for (at, part) in item["content"].as_array().into_iter().flatten().enumerate() {
            let place = |mut event: Value| {
                event["item_id"] = id.clone();
                event["output_index"] = index.into();
                event["content_index"] = at.into();
                event
            };
            if part["type"] == "output_text" {
                let mut empty = part.clone();
                empty["text"] = "".into();
                self.send("response.content_part.added", place(json!({"part": empty})));
                let (text, none) = (&part["text"], json!([]));
                self.send("response.output_text.delta", place(json!({"delta": text, "logprobs": none})));
                self.send("response.output_text.done", place(json!({"text": text, "logprobs": none})));
                self.send("response.content_part.done", place(json!({"part": part})));
            }
        }
        if let Some(arguments) = item.get("arguments") {
            let event = json!({"item_id": id, "output_index": index, "delta": arguments});
            self.send("response.function_call_arguments.delta", event);
            let event = json!({"item_id": id, "output_index": index, "arguments": arguments, "name": item.get("name")});
            self.send("response.function_call_arguments.done", event);
        }
        self.send("response.output_item.done", json!({"output_index": index, "item": item}));
    }
}

/// One response in the making.
#[derive(Default)]
struct Answer {
    /// The final output, item by item, byte for byte.
    output: Option<Vec<Box<RawValue>>>,
    items: BTreeMap<u64, Item>,
    head: Map<String, Value>,
    whole: bool,
    bytes: usize,
}

struct Item {
    /// As it began, or as it was when it was done.
    raw: Box<RawValue>,
    done: bool,
    /// Texts by the index of their part, with the type and field that they stand in.
    parts: BTreeMap<u64, (&'static str, &'static str, String)>,
    /// Arguments or input of a call.
    text: String,
}

#[derive(Deserialize)]
struct Frame {
    r#type: String,
    #[serde(default)]
    output_index: u64,
    #[serde(default)]
    content_index: u64,
    #[serde(default)]
    item: Option<Box<RawValue>>,
    #[serde(default)]
    delta: Value,
    #[serde(default)]
    response: Option<Box<RawValue>>,
}

#[derive(Deserialize)]
struct Output<'a> {
    #[serde(borrow)]
    output: Vec<&'a RawValue>,
}

/// The fields of a response that say what it was, not what was asked for.
const HEAD: [&str; 14] = [
    "id",
    "object",
    "created_at",
    "status",
    "model",
    "usage",
    "incomplete_details",
    "error",
    "parallel_tool_calls",
    "tool_choice",
    "temperature",
    "top_p",
    "service_tier",
    "completed_at",
];

impl Answer {
    fn take(&mut self, response: &str) -> bool {
        let mut fields = object(response.as_bytes());
        self.head = HEAD.iter().filter_map(|name| Some(((*name).to_owned(), fields.remove(*name)?))).collect();
        match serde_json::from_str::<Output<'_>>(response) {
            Ok(Output { output }) => {
                self.bytes = response.len();
                self.output = Some(output.into_iter().map(ToOwned::to_owned).collect());
                true
            }
            Err(_) => false,
        }
    }

    fn text(&mut self, frame: Frame, kind: &'static str, field: &'static str) {
        if let (Some(item), Some(more)) = (self.items.get_mut(&frame.output_index), frame.delta.as_str()) {
            self.bytes += more.len();
            let (_, _, text) = item.parts.entry(frame.content_index).or_insert((kind, field, String::new()));
            text.push_str(more);
        }
    }
}

impl Assembler for Answer {
    fn event(&mut self, event: &Event) -> Step {
        let Ok(mut frame) = serde_json::from_str::<Frame>(&event.data) else {
            return if event.name == "error" { Step::Failed } else { Step::More };
        };
        let kind = std::mem::take(&mut frame.r#type);
        match &*kind {
            "response.completed" | "response.incomplete" => {
                let given = frame.response.is_some_and(|response| self.take(response.get()));
                // A final output that was left empty does not outweigh the items that came.
                if given && self.output.as_ref().is_some_and(Vec::is_empty) && !self.items.is_empty() {
                    self.output = None;
                }
                self.whole = true;
                return Step::Last;
            }
            "response.failed" | "error" => return Step::Failed,
            "response.created" | "response.queued" | "response.in_progress" => {
                if let Some(response) = frame.response {
                    self.take(response.get());
                    self.output = None;
                }
            }
            "response.output_item.added" | "response.output_item.done" => {
                if let Some(raw) = frame.item {
                    self.bytes += raw.get().len();
                    let done = kind.ends_with("done");
                    let item = Item { raw, done, parts: BTreeMap::new(), text: String::new() };
                    self.items.insert(frame.output_index, item);
                }
            }
            "response.output_text.delta" => self.text(frame, "output_text", "text"),
            "response.refusal.delta" => self.text(frame, "refusal", "refusal"),
            "response.function_call_arguments.delta" | "response.custom_tool_call_input.delta" => {
                if let (Some(item), Some(more)) = (self.items.get_mut(&frame.output_index), frame.delta.as_str()) {
                    self.bytes += more.len();
                    item.text.push_str(more);
                }
            }
            _ => {}
        }
        Step::More
    }

    fn json(&mut self, body: &Bytes) -> bool {
        let Ok(text_of) = std::str::from_utf8(body) else { return false };
        self.whole = self.take(text_of) && matches!(text(&self.head, "status"), "completed" | "incomplete" | "");
        self.whole
    }

    fn bytes(&self) -> usize {
        self.bytes
    }

    fn finish(self: Box<Self>) -> Reply {
        let id = self.head.get("id").and_then(Value::as_str).map(str::to_owned);
        let elements = match &self.output {
            Some(output) => output.iter().map(|item| Bytes::copy_from_slice(item.get().as_bytes())).collect(),
            None => self.items.values().map(Item::to_bytes).collect(),
        };
        let head = serde_json::value::to_raw_value(&self.head).ok();
        Reply { head, id, ..Reply::new(elements, self.whole) }
    }
}

impl Item {
    fn to_bytes(&self) -> Bytes {
        if self.done {
            return Bytes::copy_from_slice(self.raw.get().as_bytes());
        }
        let mut item = object(self.raw.get().as_bytes());
        item.insert("status".into(), "incomplete".into());
        if !self.parts.is_empty() {
            let parts = self.parts.values().map(|(kind, field, text)| {
                let mut part = json!({"type": kind, *field: text});
                if *kind == "output_text" {
                    part["annotations"] = json!([]);
                }
                part
            });
            item.insert("content".into(), parts.collect::<Vec<_>>().into());
        }
        if !self.text.is_empty() {
            let field = if text(&item, "type") == "custom_tool_call" { "input" } else { "arguments" };
            item.insert(field.into(), self.text.clone().into());
        }
        bytes_of(&item)
    }
}
