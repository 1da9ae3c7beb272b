//! A strict walk over JSON text: where values stand, nothing decoded and nothing copied.
//!
//! It takes exactly what serde_json takes of values that it keeps raw; a test compares the two. Each
//! function reads what begins at a place and gives the place behind it, or `None` for what is no JSON.

use std::ops::Range;

/// Past white space.
#[inline]
pub(super) fn space(text: &[u8], mut at: usize) -> usize {
    while let Some(b' ' | b'\n' | b'\t' | b'\r') = text.get(at) {
        at += 1;
    }
    at
}

/// Past white space and this byte.
#[inline]
pub(super) fn byte(text: &[u8], at: usize, byte: u8) -> Option<usize> {
    let at = space(text, at);
    (text.get(at) == Some(&byte)).then_some(at + 1)
}

/// A field's name, and where its value begins.
pub(super) struct Name {
    /// Without its quotes.
    pub(super) span: Range<usize>,
    pub(super) is_escaped: bool,
    pub(super) value: usize,
}

#[inline]
pub(super) fn name(text: &[u8], at: usize) -> Option<Name> {
    let start = space(text, at);
    let (end, is_escaped) = string(text, start)?;
    Some(Name { span: start + 1..end - 1, is_escaped, value: space(text, byte(text, end, b':')?) })
}

/// After a field or an element: past a comma, or past what closes the container and says so.
#[inline]
pub(super) fn next(text: &[u8], at: usize, closer: u8) -> Option<(bool, usize)> {
    let at = space(text, at);
    match text.get(at)? {
        b',' => Some((true, at + 1)),
        found if *found == closer => Some((false, at + 1)),
        _ => None,
    }
}

/// One value, without white space before it.
#[inline]
pub(super) fn value(text: &[u8], at: usize) -> Option<usize> {
    match text.get(at)? {
        b'"' => Some(string(text, at)?.0),
        b'{' | b'[' => container(text, at),
        _ => literal(text, at),
    }
}

/// An object or an array. Nesting takes a byte a level, and no recursion.
fn container(text: &[u8], mut at: usize) -> Option<usize> {
    // What closes the innermost container, and those around it; 0 for none.
    let (mut closer, mut outer) = (0, Vec::new());
    loop {
        at = match text.get(at)? {
            b'"' => string(text, at)?.0,
            open @ (b'{' | b'[') => {
                let close = if *open == b'{' { b'}' } else { b']' };
                match byte(text, at + 1, close) {
                    Some(end) => end,
                    None => {
                        if closer != 0 {
                            outer.push(closer);
                        }
                        closer = close;
                        at = inside(text, at + 1, closer)?;
                        continue;
                    }
                }
            }
            _ => literal(text, at)?,
        };
        loop {
            if closer == 0 {
                return Some(at);
            }
            match next(text, at, closer)? {
                (true, more) => {
                    at = inside(text, more, closer)?;
                    break;
                }
                (false, end) => {
                    at = end;
                    closer = outer.pop().unwrap_or(0);
                }
            }
        }
    }
}

/// To where a container's next value begins.
#[inline]
fn inside(text: &[u8], at: usize, closer: u8) -> Option<usize> {
    if closer == b'}' { Some(name(text, at)?.value) } else { Some(space(text, at)) }
}

/// A number, or a word.
fn literal(text: &[u8], at: usize) -> Option<usize> {
    let word: &[u8] = match text.get(at)? {
        b't' => b"true",
        b'f' => b"false",
        b'n' => b"null",
        _ => return number(text, at),
    };
    text[at..].starts_with(word).then_some(at + word.len())
}

/// A string, and whether it has escapes.
#[inline]
fn string(text: &[u8], at: usize) -> Option<(usize, bool)> {
    if *text.get(at)? != b'"' {
        return None;
    }
    let (mut at, mut is_escaped) = (at + 1, false);
    loop {
        at = plain(text, at);
        match text.get(at)? {
            b'"' => return Some((at + 1, is_escaped)),
            b'\\' => is_escaped = true,
            _ => return None,
        }
        match text.get(at + 1)? {
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => at += 2,
            b'u' if text.get(at + 2..at + 6)?.iter().all(u8::is_ascii_hexdigit) => at += 6,
            _ => return None,
        }
    }
}

/// To the next quote, backslash, or control character.
#[inline]
fn plain(text: &[u8], mut at: usize) -> usize {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    // Bytes of zero have their highest bit set in this; of the others, only some above such a one.
    let zeros = |word: u64| word.wrapping_sub(ONES) & !word;
    while let Some(word) = text.get(at..at + 8) {
        let word = u64::from_le_bytes(word.try_into().expect("eight bytes"));
        let special = zeros(word ^ (ONES * u64::from(b'"')))
            | zeros(word ^ (ONES * u64::from(b'\\')))
            | (word.wrapping_sub(ONES * 0x20) & !word);
        let special = special & (ONES << 7);
        if special != 0 {
            return at + special.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    while text.get(at).is_some_and(|byte| !matches!(byte, b'"' | b'\\' | 0..0x20)) {
        at += 1;
    }
    at
}

fn number(text: &[u8], at: usize) -> Option<usize> {
    let mut at = at + usize::from(text.get(at) == Some(&b'-'));
    at = if text.get(at)? == &b'0' { at + 1 } else { digits(text, at)? };
    if text.get(at) == Some(&b'.') {
        at = digits(text, at + 1)?;
    }
    if let Some(b'e' | b'E') = text.get(at) {
        at += 1 + usize::from(matches!(text.get(at + 1), Some(b'+' | b'-')));
        at = digits(text, at)?;
    }
    Some(at)
}

/// One or more.
fn digits(text: &[u8], start: usize) -> Option<usize> {
    let mut at = start;
    while text.get(at).is_some_and(u8::is_ascii_digit) {
        at += 1;
    }
    (at > start).then_some(at)
}

/// One element of an array.
#[derive(Debug, Clone)]
pub(super) struct Element {
    pub(super) span: Range<usize>,
    /// Its role, where that can be told at first sight.
    pub(super) role: Option<Range<usize>>,
}

/// An array's elements.
pub(super) fn elements(text: &[u8], at: usize) -> Option<(Vec<Element>, usize)> {
    let mut at = byte(text, at, b'[')?;
    let mut elements = Vec::with_capacity(4);
    let mut more = true;
    if let Some(end) = byte(text, at, b']') {
        (more, at) = (false, end);
    }
    while more {
        let start = space(text, at);
        let (role, end) = match text.get(start)? {
            b'{' => object(text, start, "role")?,
            _ => (None, value(text, start)?),
        };
        elements.push(Element { span: start..end, role });
        (more, at) = next(text, end, b']')?;
    }
    Some((elements, at))
}

/// An object; and the text of this field of it where that can be told at first sight: the object has
/// it once, and its names and this text are written without escapes.
fn object(text: &[u8], at: usize, field: &str) -> Option<(Option<Range<usize>>, usize)> {
    let mut at = byte(text, at, b'{')?;
    let (mut found, mut is_clear, mut more) = (None, true, true);
    if let Some(end) = byte(text, at, b'}') {
        (more, at) = (false, end);
    }
    while more {
        let name = name(text, at)?;
        is_clear &= !name.is_escaped;
        let end = if &text[name.span] != field.as_bytes() {
            value(text, name.value)?
        } else if text.get(name.value) == Some(&b'"') {
            let (end, is_escaped) = string(text, name.value)?;
            is_clear &= !is_escaped && found.replace(name.value + 1..end - 1).is_none();
            end
        } else {
            is_clear = false;
            value(text, name.value)?
        };
        (more, at) = next(text, end, b'}')?;
    }
    Some((found.filter(|_| is_clear), at))
}

/// The text of an object's field where it can be told at first sight.
pub(super) fn plain_text<'a>(object: &'a [u8], field: &str) -> Option<&'a [u8]> {
    self::object(object, 0, field)?.0.map(|text| &object[text])
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;
    use serde_json::value::RawValue;

    use super::*;

    fn takes(text: &[u8]) -> bool {
        let end = value(text, space(text, 0)).map(|end| space(text, end));
        std::str::from_utf8(text).is_ok() && end == Some(text.len())
    }

    fn serde_takes(text: &[u8]) -> bool {
        serde_json::from_slice::<&RawValue>(text).is_ok()
    }

    #[test]
    fn what_serde_takes_and_nothing_else() {
        for text in [
            "",
            " ",
            "0",
            "-0",
            "01",
            "-",
            "1.",
            "1.5e",
            "1e+5",
            "1E-05x",
            ".5",
            "+1",
            "tru",
            "true",
            "truee",
            "nul",
            r#""\u12g4""#,
            r#""\ud800""#,
            r#""\x""#,
            r#""\u12"#,
            "\"\u{7f}\"",
            "\"\t\"",
            "\"",
            "[1,]",
            "[,1]",
            "[1 2]",
            "[[[]],{}]",
            "{,}",
            r#"{"a"}"#,
            r#"{"a":}"#,
            r#"{"a":1,}"#,
            r#"{"a":[{}],"b":{"c":[1]}}"#,
            "{]",
            "[}",
            r#"{"a":1]"#,
            "[\u{a0}]",
            "{1:2}",
            "{} {}",
            " \r\n\t[ 1 , 2 ] ",
            "\u{feff}1",
            "NaN",
        ] {
            assert_eq!(takes(text.as_bytes()), serde_takes(text.as_bytes()), "{text}");
        }
        assert!(!takes(b"\"\xff\""));
        let deep = format!("{}{}", "[{\"a\":".repeat(100_000), "}]".repeat(100_000));
        assert!(!takes(deep.as_bytes()) && !serde_takes(deep.as_bytes()));
        let deep = format!("{}1{}", "[{\"a\":".repeat(100_000), "}]".repeat(100_000));
        assert!(takes(deep.as_bytes()) && serde_takes(deep.as_bytes()));
    }

    /// Words out of which JSON, and what is almost JSON, is made.
    fn almost_json() -> impl Strategy<Value = String> {
        let word = prop::sample::select(vec![
            "{",
            "}",
            "[",
            "]",
            ",",
            ":",
            "\"",
            "\\",
            "\\u00e9",
            "\\n",
            "a",
            "é",
            " ",
            "\n",
            "\u{1}",
            "0",
            "-",
            "1.5",
            "e",
            "E+2",
            "true",
            "null",
            "\"a\"",
            "\"a\":",
            "[]",
            "{}",
            "\"x\\\"\"",
            "1",
        ]);
        prop::collection::vec(word, 0..14).prop_map(|words| words.concat())
    }

    /// Any JSON.
    fn json() -> impl Strategy<Value = String> {
        let leaf = prop_oneof![
            Just("null".to_owned()),
            any::<f64>().prop_filter("finite", |n| n.is_finite()).prop_map(|n| serde_json::json!(n).to_string()),
            any::<i64>().prop_map(|n| n.to_string()),
            any::<String>().prop_map(|text| serde_json::json!(text).to_string()),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(|values| format!("[{}]", values.join(" ,"))),
                prop::collection::vec((any::<String>(), inner), 0..4).prop_map(|fields| {
                    let field = |(name, value): &(String, String)| format!("{}: {value}", serde_json::json!(name));
                    format!("{{{}}}", fields.iter().map(field).collect::<Vec<_>>().join(","))
                }),
            ]
        })
    }

    fn damaged(json: impl Strategy<Value = String>) -> impl Strategy<Value = Vec<u8>> {
        (json, prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3)).prop_map(|(json, changes)| {
            let mut json = json.into_bytes();
            changes.iter().for_each(|(at, byte)| *at.get_mut(&mut json) = *byte);
            json
        })
    }

    /// JSON with a few bytes changed.
    fn damaged_json() -> impl Strategy<Value = Vec<u8>> {
        damaged(json())
    }

    /// An object whose names are few, some with escapes; or something close to it.
    pub(in crate::llm) fn damaged_object() -> impl Strategy<Value = Vec<u8>> {
        let name = prop::sample::select(vec!["a", "b", "messages", "\\u0061", "\\ud800", "\\n", "é", ""]);
        let fields = prop::collection::vec((name, json()), 0..4).prop_map(|fields| {
            let fields = fields.iter().map(|(name, value)| format!(" \"{name}\" : {value}"));
            format!("{{{}}}", fields.collect::<Vec<_>>().join(","))
        });
        damaged(fields)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

        #[test]
        fn it_takes_what_serde_takes(text in almost_json()) {
            prop_assert_eq!(takes(text.as_bytes()), serde_takes(text.as_bytes()));
        }

        #[test]
        fn it_takes_what_serde_takes_of_damaged_json(text in damaged_json()) {
            prop_assert_eq!(takes(&text), serde_takes(&text));
        }

        #[test]
        fn elements_stand_where_serde_finds_them(text in damaged_json()) {
            let theirs: Option<Vec<&RawValue>> = serde_json::from_slice(&text).ok();
            let theirs = theirs.map(|raw| raw.iter().map(|raw| raw.get().as_bytes().to_owned()).collect::<Vec<_>>());
            let mine = std::str::from_utf8(&text).ok().and_then(|_| elements(&text, 0));
            let mine = mine.filter(|(_, end)| space(&text, *end) == text.len());
            let mine = mine.map(|(elements, _)| elements.into_iter().map(|element| text[element.span].to_owned()).collect::<Vec<_>>());
            prop_assert_eq!(mine, theirs);
        }

        #[test]
        fn a_text_that_is_told_at_first_sight_is_the_one_that_serde_reads(
            fields in prop::collection::vec(("role|content|r.?le|\\\\u0072ole", "\"[a-z]{0,9}\"|1|null|\"\\\\n\"|\\{\"role\":\"x\"\\}"), 0..4)
        ) {
            #[derive(serde::Deserialize)]
            struct Role { #[serde(default)] role: String }
            let fields: Vec<_> = fields.iter().map(|(name, value)| format!("\"{name}\": {value}")).collect();
            let text = format!("{{{}}}", fields.join(","));
            if let Some(found) = plain_text(text.as_bytes(), "role") {
                let theirs = serde_json::from_str::<Role>(&text).expect("an object with one role").role;
                prop_assert_eq!(theirs.as_bytes(), found, "{}", text);
            }
        }
    }
}
