//! The header by which a client says "this is the same request again".

use http::HeaderName;
use http::header::HeaderMap;

use super::header::single;
use super::{IdentityError, IdentityFault};
use crate::key::KeyError;

/// The most bytes an idempotency key may have.
const MAX_BYTES: usize = 255;

/// Reads the idempotency key. The quoted form (a structured-field string) and the bare form name
/// the same key.
pub(crate) fn idempotency_key(headers: &HeaderMap, name: &HeaderName) -> Result<Option<String>, IdentityError> {
    let read = || -> Result<Option<String>, IdentityFault> {
        let Some(value) = single(headers, name)? else { return Ok(None) };
        let key = match value.strip_prefix('"') {
            Some(quoted) => unquote(quoted).ok_or(IdentityFault::Encoding)?,
            None => value.to_owned(),
        };
        match key.len() {
            0 => Err(KeyError::Empty.into()),
            length if length > MAX_BYTES => Err(KeyError::TooLong { limit: MAX_BYTES }.into()),
            _ if key.bytes().all(|byte| matches!(byte, b' '..=b'~')) => Ok(Some(key)),
            _ => Err(IdentityFault::Encoding),
        }
    };
    read().map_err(|fault| IdentityError::new(format!("header {name}"), fault))
}

/// The rest of an RFC 9651 string after its opening quote.
fn unquote(quoted: &str) -> Option<String> {
    let mut key = String::with_capacity(quoted.len());
    let mut chars = quoted.chars();
    loop {
        match chars.next()? {
            '"' => return chars.next().is_none().then_some(key),
            '\\' => key.push(chars.next().filter(|c| matches!(c, '"' | '\\'))?),
            c => key.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(values: &[&str]) -> Result<Option<String>, IdentityFault> {
        let name = HeaderName::from_static("idempotency-key");
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(&name, http::HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        idempotency_key(&headers, &name).map_err(|error| error.fault)
    }

    #[test]
    fn quoted_and_bare_name_the_same_key() {
        assert_eq!(read(&[]), Ok(None));
        assert_eq!(read(&["8e03978e"]), Ok(Some("8e03978e".into())));
        assert_eq!(read(&["\"8e03978e\""]), Ok(Some("8e03978e".into())));
        assert_eq!(read(&[r#""a\"b\\c""#]), Ok(Some(r#"a"b\c"#.into())));
    }

    #[test]
    fn what_is_no_key_is_refused() {
        for bad in ["\"", "\"a", "\"a\"b", r#""a\n""#, "é", "a\tb"] {
            assert_eq!(read(&[bad]), Err(IdentityFault::Encoding), "{bad}");
        }
        assert_eq!(read(&["a", "a"]), Err(IdentityFault::Repeated));
        assert_eq!(read(&[""]), Err(KeyError::Empty.into()));
        assert_eq!(read(&["\"\""]), Err(KeyError::Empty.into()));
        assert_eq!(read(&[&"k".repeat(256)]), Err(KeyError::TooLong { limit: 255 }.into()));
        assert!(read(&[&"k".repeat(255)]).is_ok());
    }
}
