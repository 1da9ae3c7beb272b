//! A request's JSON object: which field stands where, nothing decoded, nothing copied.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use bytes::Bytes;
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// The top level of a JSON body.
#[derive(Clone)]
pub struct Envelope {
    body: Bytes,
    fields: Vec<(Box<str>, Range<usize>)>,
}

/// The body is not one JSON object, or names a field twice, which two readers may read in two ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the body is not one JSON object with each field once")]
pub struct Malformed;

/// Names and raw values, in the order they stand.
struct Fields<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visit;
        impl<'de> Visitor<'de> for Visit {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
                let mut fields = Vec::with_capacity(map.size_hint().unwrap_or(8));
                while let Some(Name(name)) = map.next_key()? {
                    fields.push((name, map.next_value()?));
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(Visit)
    }
}

#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

impl Envelope {
    /// Reads the whole body strictly, and remembers where its fields stand.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn read(body: Bytes) -> Result<Self, Malformed> {
        let Fields(read) = serde_json::from_slice(&body).map_err(|_| Malformed)?;
        let mut fields: Vec<(Box<str>, Range<usize>)> = Vec::with_capacity(read.len());
        for (name, value) in read {
            if fields.iter().any(|(seen, _)| **seen == *name) {
                return Err(Malformed);
            }
            fields.push((name.into(), range_in(&body, value)));
        }
        Ok(Self { body, fields })
    }

    /// The whole body.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// Where the value of a field stands in the body.
    pub fn span(&self, name: &str) -> Option<Range<usize>> {
        self.fields.iter().find(|(field, _)| **field == *name).map(|(_, span)| span.clone())
    }

    /// The raw JSON of a field; `None` where it is absent or `null`.
    pub fn get(&self, name: &str) -> Option<&str> {
        let raw = std::str::from_utf8(&self.body[self.span(name)?]).ok()?;
        (raw != "null").then_some(raw)
    }

    /// A field that is a string.
    pub fn text(&self, name: &str) -> Option<String> {
        serde_json::from_str(self.get(name)?).ok()
    }

    /// A field that is `true`.
    pub fn is_true(&self, name: &str) -> bool {
        self.get(name) == Some("true")
    }

    /// Where the elements of an array field stand; `None` where it is no array.
    pub fn elements(&self, name: &str) -> Option<Vec<Range<usize>>> {
        let raw: Vec<&RawValue> = serde_json::from_str(self.get(name)?).ok()?;
        Some(raw.into_iter().map(|element| range_in(&self.body, element)).collect())
    }
}

/// `value` was read out of `body` without a copy.
fn range_in(body: &[u8], value: &RawValue) -> Range<usize> {
    let start = value.get().as_ptr() as usize - body.as_ptr() as usize;
    start..start + value.get().len()
}

impl fmt::Debug for Envelope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Envelope").field("bytes", &self.body.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &'static str) -> Result<Envelope, Malformed> {
        Envelope::read(Bytes::from_static(text.as_bytes()))
    }

    #[test]
    fn fields_and_elements_are_found_where_they_stand() {
        let envelope = read(" {\"m\\u0065ss\" : [ {\"a\":\"]\"} ,2 ], \"stream\":true,\"x\":null} ").unwrap();
        assert!(envelope.is_true("stream"));
        assert_eq!(envelope.get("x"), None);
        let elements: Vec<_> =
            envelope.elements("mess").unwrap().into_iter().map(|r| &envelope.body()[r] as &[u8]).collect();
        assert_eq!(elements, [br#"{"a":"]"}"# as &[u8], b"2"]);
    }

    #[test]
    fn what_is_not_one_object_is_malformed() {
        for text in ["", "[]", "{", "{}x", r#"{"a":1,"a":2}"#, r#"{"a":[}"#, "{\"a\":\"\n\"}"] {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
