//! What elements of all protocols have in common: how they are stored, and when two are the same.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};

use bytes::{BufMut, Bytes, BytesMut};
use serde_json::{Map, Value};

use crate::{Message, MessageError};

/// A wrapped element: `{"role":"...","item":<the element>}`.
const ITEM: &str = r#"","item":"#;

/// Keeps an element that is a message of a known role as it is; wraps any other.
pub(super) fn store(element: Bytes, role: impl FnOnce(&[u8]) -> &'static str) -> Result<Message, MessageError> {
    match Message::from_json(element.clone()) {
        Ok(message) if message.role().is_known() && !is_wrapped(&message) => Ok(message),
        _ => {
            let mut json = BytesMut::with_capacity(element.len() + 40);
            json.put_slice(br#"{"role":""#);
            json.put_slice(role(&element).as_bytes());
            json.put_slice(ITEM.as_bytes());
            json.put_slice(&element);
            json.put_u8(b'}');
            Message::from_json(json.freeze())
        }
    }
}

/// The element that was stored, sharing the message's memory.
pub(super) fn wire(message: &Message) -> Bytes {
    match item(message) {
        Some(start) => message.bytes().slice(start..message.len() - 1),
        None => message.bytes().clone(),
    }
}

pub(super) fn is_wrapped(message: &Message) -> bool {
    item(message).is_some()
}

/// Where the wrapped element begins.
fn item(message: &Message) -> Option<usize> {
    let rest = message.bytes().strip_prefix(br#"{"role":""#)?.strip_prefix(message.role().as_str().as_bytes())?;
    rest.starts_with(ITEM.as_bytes()).then(|| message.len() - rest.len() + ITEM.len())
}

/// Reads an element as an object; an empty one where it is not.
pub(super) fn object(element: &[u8]) -> Map<String, Value> {
    match serde_json::from_slice(element) {
        Ok(Value::Object(object)) => object,
        _ => Map::new(),
    }
}

pub(super) fn text<'a>(object: &'a Map<String, Value>, field: &str) -> &'a str {
    object.get(field).and_then(Value::as_str).unwrap_or_default()
}

pub(super) fn list<'a>(object: &'a Map<String, Value>, field: &str) -> &'a [Value] {
    object.get(field).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

pub(super) fn bytes_of(value: &impl serde::Serialize) -> Bytes {
    serde_json::to_vec(value).expect("JSON values serialise").into()
}

/// Role, texts and tool ids. What clients drop, add or spell otherwise is left out: thinking, nulls,
/// cache marks, annotations, white space, text as a string or as parts.
pub(super) fn digest(element: &[u8]) -> u64 {
    let object = object(element);
    let mut hash = DefaultHasher::new();
    match text(&object, "role") {
        // Gemini's name for it.
        "model" => "assistant",
        "" if object.contains_key("type") => "item",
        role => role,
    }
    .hash(&mut hash);
    let mut texts = String::new();
    for field in ["content", "parts", "output"] {
        match object.get(field) {
            Some(Value::String(text)) => texts.push_str(text),
            Some(Value::Array(parts)) => parts.iter().for_each(|part| digest_part(part, &mut texts, &mut hash)),
            _ => {}
        }
    }
    texts.hash(&mut hash);
    for call in list(&object, "tool_calls") {
        call.get("id").and_then(Value::as_str).hash(&mut hash);
        let function = call.get("function").unwrap_or(&Value::Null);
        function.get("name").and_then(Value::as_str).hash(&mut hash);
        if call.get("id").is_none() {
            function.get("arguments").map(Value::to_string).hash(&mut hash);
        }
    }
    for field in ["tool_call_id", "tool_name", "call_id", "name", "type"] {
        // A message item of the Responses API may or may not say its type.
        if !(field == "type" && text(&object, field) == "message") {
            text(&object, field).hash(&mut hash);
        }
    }
    text(&object, "arguments").hash(&mut hash);
    hash.finish()
}

fn digest_part(part: &Value, texts: &mut String, hash: &mut DefaultHasher) {
    let kind = part.get("type").and_then(Value::as_str).unwrap_or_default();
    if let "thinking" | "redacted_thinking" | "reasoning" = kind {
        return;
    }
    if part.get("thought").and_then(Value::as_bool) == Some(true) {
        return;
    }
    if let Some(text) = part.get("text").and_then(Value::as_str) {
        texts.push_str(text);
        return;
    }
    kind.hash(hash);
    let named = [
        part.get("id"),
        part.get("tool_use_id"),
        part.pointer("/functionCall/name"),
        part.pointer("/functionCall/args"),
        part.pointer("/functionResponse/name"),
        part.pointer("/functionResponse/response"),
    ];
    if named.iter().all(Option::is_none) {
        hash_value(part, hash);
    }
    named.into_iter().flatten().for_each(|value| hash_value(value, hash));
}

/// Without nulls and cache marks, whatever the order of the fields.
fn hash_value(value: &Value, hash: &mut DefaultHasher) {
    match value {
        Value::Object(object) => {
            let mut fields: Vec<_> =
                object.iter().filter(|(name, value)| !value.is_null() && *name != "cache_control").collect();
            fields.sort_by_key(|(name, _)| *name);
            for (name, value) in fields {
                name.hash(hash);
                hash_value(value, hash);
            }
        }
        Value::Array(values) => values.iter().for_each(|value| hash_value(value, hash)),
        other => other.to_string().hash(hash),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Role;

    #[test]
    fn an_element_without_a_known_role_is_wrapped_byte_for_byte() {
        for element in [
            r#"{"type":"reasoning","encrypted_content":"\u00e9=="  }"#,
            r#"{"role":"model","parts":[]}"#,
            r#"{"role":"user","item":{"a":1}}"#,
        ] {
            let message = store(Bytes::from_static(element.as_bytes()), |_| "assistant").unwrap();
            assert!(message.role() == &Role::Assistant, "{element}");
            assert_eq!(wire(&message), element);
        }
        let plain = store(Bytes::from_static(br#"{"role":"user","content":"x"}"#), |_| "assistant").unwrap();
        assert_eq!(plain.json(), r#"{"role":"user","content":"x"}"#);
        assert!(store(Bytes::from_static(b"[1]"), |_| "user").is_ok_and(|m| wire(&m) == "[1]"));
        assert!(store(Bytes::from_static(b"{,}"), |_| "user").is_err());
    }

    #[test]
    fn spellings_of_the_same_message_have_one_digest() {
        let same = [
            r#"{"role":"assistant","content":"Hi"}"#,
            r#"{"content" : [{"type":"text","text":"Hi","cache_control":{"type":"ephemeral"}}],"role":"assistant"}"#,
            r#"{"role":"assistant","content":"\u0048i","refusal":null,"annotations":[],"tool_calls":null}"#,
            r#"{"role":"assistant","content":[{"type":"thinking","thinking":"x"},{"type":"text","text":"Hi"}]}"#,
        ];
        for other in same {
            assert_eq!(digest(same[0].as_bytes()), digest(other.as_bytes()), "{other}");
        }
        for other in [r#"{"role":"user","content":"Hi"}"#, r#"{"role":"assistant","content":"Ho"}"#] {
            assert_ne!(digest(same[0].as_bytes()), digest(other.as_bytes()), "{other}");
        }
    }
}
