//! A request's JSON object: which field stands where, nothing decoded, nothing copied.

use std::collections::HashSet;
use std::fmt;
use std::ops::Range;

use bytes::Bytes;

use super::scan::{self, Element, Name};

/// The top level of a JSON body.
#[derive(Clone)]
pub struct Envelope {
    body: Bytes,
    fields: Vec<Field>,
    /// The field whose elements were written down on the way.
    listed: Option<Listed>,
}

/// The number of a field that is an array, and its elements.
type Listed = (usize, Vec<Element>);

#[derive(Clone)]
struct Field {
    /// Where the name stands, without its quotes.
    name: Range<usize>,
    /// The name, where it is written with escapes.
    decoded: Option<Box<str>>,
    value: Range<usize>,
}

/// The body is not one JSON object, or names a field twice, which two readers may read in two ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the body is not one JSON object with each field once")]
pub struct Malformed;

/// More fields than these are compared by their hashes, so that many of them stay cheap.
const FEW: usize = 16;

impl Envelope {
    /// Reads the whole body strictly, and remembers where its fields stand.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn read(body: Bytes) -> Result<Self, Malformed> {
        Self::read_listing(body, "")
    }

    /// As [`Envelope::read`], for somebody who will ask for the elements of this field.
    pub(super) fn read_listing(body: Bytes, list: &str) -> Result<Self, Malformed> {
        let text = std::str::from_utf8(&body).map_err(|_| Malformed)?;
        let (fields, listed) = fields(text, list).ok_or(Malformed)?;
        let envelope = Self { body, fields, listed };
        if envelope.names_a_field_twice() { Err(Malformed) } else { Ok(envelope) }
    }

    fn names_a_field_twice(&self) -> bool {
        let names = self.fields.iter().map(|field| self.name(field));
        if self.fields.len() > FEW {
            let mut seen = HashSet::with_capacity(self.fields.len());
            return !names.into_iter().all(|name| seen.insert(name));
        }
        names.enumerate().any(|(index, name)| self.fields[..index].iter().any(|field| self.name(field) == name))
    }

    fn name<'a>(&'a self, field: &'a Field) -> &'a [u8] {
        field.decoded.as_deref().map_or(&self.body[field.name.clone()], str::as_bytes)
    }

    /// The whole body.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// Where the value of a field stands in the body.
    pub fn span(&self, name: &str) -> Option<Range<usize>> {
        self.fields.iter().find(|field| self.name(field) == name.as_bytes()).map(|field| field.value.clone())
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
        let field = self.fields.iter().position(|field| self.name(field) == name.as_bytes())?;
        let spans = |elements: &[Element], start: usize| {
            elements.iter().map(|Element { span, .. }| start + span.start..start + span.end).collect()
        };
        if let Some((_, elements)) = self.listed.as_ref().filter(|(listed, _)| *listed == field) {
            return Some(spans(elements, 0));
        }
        let span = self.fields[field].value.clone();
        let (elements, _) = scan::elements(&self.body[span.clone()], 0)?;
        Some(spans(&elements, span.start))
    }

    /// The elements of the field that was listed, if it is an array.
    pub(super) fn listed(&self) -> Option<&[Element]> {
        self.listed.as_ref().map(|(_, elements)| &**elements)
    }
}

/// The fields of an object, in the order they stand, and the elements of the one called `list`.
fn fields(text: &str, list: &str) -> Option<(Vec<Field>, Option<Listed>)> {
    let bytes = text.as_bytes();
    let (mut fields, mut listed) = (Vec::with_capacity(8), None);
    let mut at = scan::byte(bytes, 0, b'{')?;
    let mut more = true;
    if let Some(end) = scan::byte(bytes, at, b'}') {
        (more, at) = (false, end);
    }
    while more {
        let Name { span: name, is_escaped, value: start } = scan::name(bytes, at)?;
        let decoded: Option<Box<str>> = match is_escaped {
            true => Some(serde_json::from_str(&text[name.start - 1..name.end + 1]).ok()?),
            false => None,
        };
        let named = decoded.as_deref().map_or(&bytes[name.clone()], str::as_bytes);
        let is_list = named == list.as_bytes() && bytes.get(start) == Some(&b'[');
        let end = if is_list {
            let (elements, end) = scan::elements(bytes, start)?;
            listed = Some((fields.len(), elements));
            end
        } else {
            scan::value(bytes, start)?
        };
        fields.push(Field { name, decoded, value: start..end });
        (more, at) = scan::next(bytes, end, b'}')?;
    }
    (scan::space(bytes, at) == bytes.len()).then_some((fields, listed))
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
        for text in [
            "",
            "[]",
            "{",
            "{}x",
            "{\"a\":\"\n\"}",
            r#"{"a":1,"a":2}"#,
            r#"{"a":1,"\u0061":2}"#,
            r#"{"\ud800":1}"#,
            r#"{"a":[}"#,
            r#"{"a":1,}"#,
        ] {
            assert!(read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_field_is_found_twice_among_many_and_in_good_time() {
        let fields = |range: std::ops::Range<u32>| range.map(|n| format!("\"{n}\":0")).collect::<Vec<_>>().join(",");
        let read = |text: String| Envelope::read(text.into());
        assert!(read(format!("{{{}}}", fields(0..200_000))).is_ok());
        for twice in ["7", "99", "\\u0039\\u0039"] {
            assert!(read(format!("{{{},\"{twice}\":1}}", fields(0..100))).is_err(), "{twice}");
        }
    }

    /// The fields as serde reads them, one by one.
    struct Reference(Vec<(String, String)>);

    impl<'de> serde::Deserialize<'de> for Reference {
        fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            struct Visit;
            impl<'de> serde::de::Visitor<'de> for Visit {
                type Value = Reference;
                fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    f.write_str("an object")
                }
                fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Reference, A::Error> {
                    let mut fields = Vec::new();
                    while let Some(name) = map.next_key::<String>()? {
                        let value: &serde_json::value::RawValue = map.next_value()?;
                        fields.push((name, value.get().to_owned()));
                    }
                    Ok(Reference(fields))
                }
            }
            deserializer.deserialize_map(Visit)
        }
    }

    fn name_of(envelope: &Envelope, field: &Field) -> String {
        String::from_utf8(envelope.name(field).to_vec()).unwrap()
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig { cases: 2_000, ..Default::default() })]

        #[test]
        fn an_object_is_read_as_serde_reads_it(text in crate::llm::scan::tests::damaged_object()) {
            let theirs = serde_json::from_slice::<Reference>(&text).ok().map(|read| read.0).filter(|fields| {
                let mut names: Vec<_> = fields.iter().map(|(name, _)| name).collect();
                names.sort();
                names.windows(2).all(|pair| pair[0] != pair[1])
            });
            let mine = Envelope::read_listing(text.clone().into(), "a");
            let listed = mine.as_ref().ok().and_then(|envelope| envelope.listed().map(<[_]>::len));
            let mine = mine.ok().map(|envelope| {
                let value = |field: &Field| String::from_utf8(text[field.value.clone()].to_vec()).unwrap();
                envelope.fields.iter().map(|field| (name_of(&envelope, field), value(field))).collect::<Vec<_>>()
            });
            let list = theirs.iter().flatten().find(|(name, _)| name == "a");
            let list = list.and_then(|(_, raw)| serde_json::from_str::<Vec<&serde_json::value::RawValue>>(raw).ok());
            proptest::prop_assert_eq!(listed, list.map(|list| list.len()));
            proptest::prop_assert_eq!(mine, theirs);
        }
    }
}
