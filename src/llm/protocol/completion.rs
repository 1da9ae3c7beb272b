//! One chat completion, put together from JSON or from its chunks.

use std::collections::BTreeMap;
use std::fmt::Write;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::chat::{Head, Other};
use super::element::text;
use super::{Assembler, Reply, Step};
use crate::llm::sse::Event;

/// How many bytes the choices beside the first may have to be kept for a retry: they go into the note.
const OTHERS: usize = 6 << 10;

/// One completion in the making.
#[derive(Default)]
pub(super) struct Completion {
    /// A JSON reply's message, byte for byte.
    verbatim: Option<Bytes>,
    first: Said,
    /// The choices beside the first, by their index.
    others: BTreeMap<u64, Said>,
    /// They outgrew what can be kept.
    too_many: bool,
    head: Head,
    done: bool,
}

/// One choice in the making. Fields that nobody here knows are kept: strings by concatenation, lists
/// by joining, anything else by its last word.
#[derive(Default)]
struct Said {
    fields: Vec<(String, Value)>,
    calls: BTreeMap<u64, Map<String, Value>>,
    finish_reason: Value,
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
        for choice in chunk.choices {
            if choice.index == 0 {
                self.first.hear(choice);
            } else if !self.too_many {
                self.others.entry(choice.index).or_default().hear(choice);
            }
        }
        // What surrounds a message counts, too.
        if self.others.values().map(|said| said.bytes + 64).sum::<usize>() > OTHERS {
            self.too_many = true;
            self.others.clear();
        }
        Step::More
    }

    fn json(&mut self, body: &Bytes) -> bool {
        let Ok(reply) = serde_json::from_slice::<WholeReply<'_>>(body) else { return false };
        let (first, others): (Vec<_>, Vec<_>) = reply.choices.into_iter().partition(|choice| choice.index == 0);
        let Some(choice) = first.into_iter().next() else { return false };
        let fit = others.iter().map(|choice| choice.message.get().len() + 64).sum::<usize>() <= OTHERS;
        let others = others.into_iter().filter(|_| fit);
        self.head = Head {
            id: reply.id,
            created: reply.created,
            model: reply.model,
            finish_reason: choice.finish_reason,
            usage: reply.usage,
            others: others
                .map(|WholeChoice { index, message, finish_reason }| Other {
                    index,
                    message: message.to_owned(),
                    finish_reason,
                })
                .collect(),
        };
        self.first.bytes = choice.message.get().len();
        self.verbatim = Some(body.slice_ref(choice.message.get().as_bytes()));
        self.done = true;
        true
    }

    fn bytes(&self) -> usize {
        self.first.bytes
    }

    fn finish(mut self: Box<Self>) -> Reply {
        if self.verbatim.is_none() {
            self.head.finish_reason = std::mem::take(&mut self.first.finish_reason);
            for (index, mut said) in std::mem::take(&mut self.others) {
                let message = said.message(true).and_then(|message| RawValue::from_string(message).ok());
                let finish_reason = std::mem::take(&mut said.finish_reason);
                self.head.others.extend(message.map(|message| Other { index, message, finish_reason }));
            }
        }
        let whole = self.done || !self.head.finish_reason.is_null();
        let head = serde_json::value::to_raw_value(&self.head).ok();
        let element = self.verbatim.clone().or_else(|| self.first.message(self.done).map(Bytes::from));
        Reply { head, ..Reply::new(element.into_iter().collect(), whole) }
    }
}

impl Said {
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

    fn hear(&mut self, choice: Choice) {
        choice.delta.into_iter().flatten().for_each(|(name, value)| self.add(name, value));
        if !choice.finish_reason.is_null() {
            self.finish_reason = choice.finish_reason;
        }
    }

    /// The message; `None` when the model had said nothing yet.
    fn message(&self, done: bool) -> Option<String> {
        if self.fields.is_empty() && self.calls.is_empty() && !done {
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
        Some(json)
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
