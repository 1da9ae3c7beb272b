//! What serde_json lets pass in text that it skips, and we refuse: deep nesting, lone surrogates.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// Walks a whole value, decodes every string, stops at `depth` levels of nesting.
#[derive(Clone, Copy)]
struct Strict {
    depth: usize,
}

/// A message object's walk: the same, and it keeps the `role`.
struct Object {
    depth: usize,
}

/// Checks that `json` is one object of strict JSON with one string `role`, and returns that role.
pub(crate) fn role_of_object(json: &[u8], depth: usize) -> Result<Cow<'_, str>, serde_json::Error> {
    let mut parser = serde_json::Deserializer::from_slice(json);
    let role = parser.deserialize_map(Object { depth })?;
    parser.end()?;
    Ok(role)
}

fn deeper<E: Error>(depth: usize) -> Result<Strict, E> {
    let depth = depth.checked_sub(1).ok_or_else(|| E::custom("nested too deeply"))?;
    Ok(Strict { depth })
}

impl<'de> Visitor<'de> for Object {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a message object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let strict = deeper(self.depth)?;
        let mut role = None;
        while let Some(key) = map.next_key_seed(Text)? {
            if key == "role" {
                if role.replace(map.next_value_seed(Text)?).is_some() {
                    return Err(A::Error::duplicate_field("role"));
                }
            } else {
                map.next_value_seed(strict)?;
            }
        }
        role.ok_or_else(|| A::Error::missing_field("role"))
    }
}

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let strict = deeper(self.depth)?;
        while seq.next_element_seed(strict)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let strict = deeper(self.depth)?;
        while map.next_key_seed(Text)?.is_some() {
            map.next_value_seed(strict)?;
        }
        Ok(())
    }
}

/// A string, borrowed where it has no escapes.
struct Text;

impl<'de> DeserializeSeed<'de> for Text {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Text {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(text))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(text.to_owned()))
    }
}
