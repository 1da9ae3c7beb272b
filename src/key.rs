//! Whose conversation: the validated parts of a session's address.

use std::borrow::Cow;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use sha2::{Digest, Sha256};

/// Bytes that stand for themselves in a stored key: RFC 3986 "unreserved".
const fn unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'~' | b'-')
}

/// Why a key or one of its parts was refused. Never repeats the refused value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The part is the empty string.
    #[error("is empty")]
    Empty,
    /// The part is longer than it may be.
    #[error("is longer than {limit} bytes")]
    TooLong {
        /// The most bytes this part may have.
        limit: usize,
    },
    /// A conversation id has a byte outside `[A-Za-z0-9._~-]`.
    #[error("has a character outside [A-Za-z0-9._~-]")]
    Alphabet,
    /// A stored key is not what [`SessionKey::encoded`] writes.
    #[error("is not an encoded session key")]
    Encoding,
}

/// Percent-escapes everything but unreserved bytes, so that `:` and `/` can separate.
fn escape(raw: &str, into: &mut String) {
    use fmt::Write;
    for &byte in raw.as_bytes() {
        if unreserved(byte) {
            into.push(byte as char);
        } else {
            write!(into, "%{byte:02X}").expect("writing to a String cannot fail");
        }
    }
}

/// The inverse of [`escape`]; refuses what `escape` would not have written.
fn unescape(escaped: &str) -> Result<String, KeyError> {
    let mut bytes = Vec::with_capacity(escaped.len());
    let mut rest = escaped.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let mut digit = || rest.next().and_then(|d| (d as char).to_digit(16));
                let (high, low) = (digit(), digit());
                match (high, low) {
                    (Some(high), Some(low)) => (high * 16 + low) as u8,
                    _ => return Err(KeyError::Encoding),
                }
            }
            byte if unreserved(byte) => byte,
            _ => return Err(KeyError::Encoding),
        });
    }
    String::from_utf8(bytes).map_err(|_| KeyError::Encoding)
}

fn check(raw: &str, limit: usize) -> Result<(), KeyError> {
    match raw.len() {
        0 => Err(KeyError::Empty),
        length if length > limit => Err(KeyError::TooLong { limit }),
        _ => Ok(()),
    }
}

/// The id of one conversation, often chosen by the client: a reference, never a capability.
///
/// 1 to 128 bytes of `[A-Za-z0-9._~-]`, so it is safe in headers, paths, logs of proxies and keys.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConversationId(Arc<str>);

impl ConversationId {
    /// The most bytes an id may have.
    pub const MAX_BYTES: usize = 128;

    /// Checks length and alphabet.
    ///
    /// # Errors
    /// [`KeyError`] that says which rule was broken.
    pub fn parse(raw: &str) -> Result<Self, KeyError> {
        check(raw, Self::MAX_BYTES)?;
        if !raw.bytes().all(unreserved) {
            return Err(KeyError::Alphabet);
        }
        Ok(Self(raw.into()))
    }

    /// A fresh id: 128 random bits as 32 hexadecimal digits.
    pub fn random() -> Self {
        Self(crate::hex::encode(&crate::hex::random_16()).into())
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Who owns the conversation: a verified user, service account or device.
///
/// One or more parts (a subject alone, or issuer and subject); different lists of parts never give
/// the same subject, and there is no Unicode normalisation: look-alikes are different principals.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Subject(Arc<str>);

/// The organisation that the subject belongs to.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tenant(Arc<str>);

macro_rules! principal {
    ($name:ident) => {
        impl $name {
            /// The most bytes one part may have, before escaping.
            pub const MAX_BYTES: usize = 512;

            /// A principal of one part, any text of 1 to 512 bytes.
            ///
            /// # Errors
            /// [`KeyError`] when it is empty or too long.
            pub fn new(raw: &str) -> Result<Self, KeyError> {
                Self::from_parts(&[raw])
            }

            /// A principal of several parts, such as a token's `iss` and `sub`.
            ///
            /// # Errors
            /// [`KeyError`] when there is no part, or one is empty or too long.
            pub fn from_parts(parts: &[&str]) -> Result<Self, KeyError> {
                let mut escaped = String::new();
                for (index, part) in parts.iter().enumerate() {
                    check(part, Self::MAX_BYTES)?;
                    if index > 0 {
                        escaped.push('/');
                    }
                    escape(part, &mut escaped);
                }
                if escaped.is_empty() {
                    return Err(KeyError::Empty);
                }
                Ok(Self(escaped.into()))
            }

            /// The percent-escaped form, parts joined by `/`: what stores keep.
            pub fn encoded(&self) -> &str {
                &self.0
            }

            /// The parts as they were given.
            pub fn parts(&self) -> Vec<String> {
                let parts = self.0.split('/').map(unescape);
                parts.collect::<Result<_, _>>().expect("only `escape` writes this text")
            }

            /// Reads back what [`Self::encoded`] wrote.
            ///
            /// # Errors
            /// [`KeyError`] when it is anything else.
            pub fn decode(encoded: &str) -> Result<Self, KeyError> {
                let parts = encoded.split('/').map(unescape).collect::<Result<Vec<_>, _>>()?;
                let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
                let decoded = Self::from_parts(&parts)?;
                // One principal, one spelling: `%2f` or `%41` must not be a second name.
                if &*decoded.0 == encoded { Ok(decoded) } else { Err(KeyError::Encoding) }
            }
        }
    };
}
principal!(Subject);
principal!(Tenant);

macro_rules! redacted {
    ($($name:ident)+) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "(redacted)"))
            }
        }
    )+};
}
redacted!(ConversationId Subject Tenant);

/// The address of a session: tenant (optional), subject (optional), conversation.
///
/// Cheap to clone. `Debug` shows only its [`SessionHash`].
///
/// ```
/// use tower_session_memory::{ConversationId, SessionKey, Subject};
///
/// let key = SessionKey::new(ConversationId::parse("chat-42")?).with_subject(Subject::new("ada@example.org")?);
/// assert_eq!(key.encoded(), ":ada%40example.org:chat-42");
/// assert_eq!(SessionKey::decode(key.encoded())?, key);
/// # Ok::<(), tower_session_memory::KeyError>(())
/// ```
#[derive(Clone)]
pub struct SessionKey(Arc<Parts>);

struct Parts {
    tenant: Option<Tenant>,
    subject: Option<Subject>,
    conversation: ConversationId,
    /// `tenant:subject:conversation`; the only thing that is compared and hashed.
    encoded: Box<str>,
}

impl SessionKey {
    /// A key of a conversation alone. Whoever guesses the id reads the chat: give it a subject.
    pub fn new(conversation: ConversationId) -> Self {
        Self::from_parts(None, None, conversation)
    }

    /// A key of all its parts.
    pub fn from_parts(tenant: Option<Tenant>, subject: Option<Subject>, conversation: ConversationId) -> Self {
        let encoded = format!(
            "{}:{}:{}",
            tenant.as_ref().map_or("", Tenant::encoded),
            subject.as_ref().map_or("", Subject::encoded),
            conversation.as_str(),
        );
        Self(Arc::new(Parts { tenant, subject, conversation, encoded: encoded.into() }))
    }

    /// The same conversation id under this subject.
    #[must_use]
    pub fn with_subject(&self, subject: Subject) -> Self {
        Self::from_parts(self.0.tenant.clone(), Some(subject), self.0.conversation.clone())
    }

    /// The same conversation id under this tenant.
    #[must_use]
    pub fn with_tenant(&self, tenant: Tenant) -> Self {
        Self::from_parts(Some(tenant), self.0.subject.clone(), self.0.conversation.clone())
    }

    /// The organisation, if the identity has one.
    pub fn tenant(&self) -> Option<&Tenant> {
        self.0.tenant.as_ref()
    }

    /// The owner, if the identity has one.
    pub fn subject(&self) -> Option<&Subject> {
        self.0.subject.as_ref()
    }

    /// The conversation.
    pub fn conversation(&self) -> &ConversationId {
        &self.0.conversation
    }

    /// `tenant:subject:conversation`, each percent-escaped, absent parts empty: what stores use
    /// as the key. Different keys never have the same encoded form.
    pub fn encoded(&self) -> &str {
        &self.0.encoded
    }

    /// Reads back what [`SessionKey::encoded`] wrote.
    ///
    /// # Errors
    /// [`KeyError`] when it is anything else.
    pub fn decode(encoded: &str) -> Result<Self, KeyError> {
        let mut parts = encoded.split(':');
        let (Some(tenant), Some(subject), Some(conversation), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(KeyError::Encoding);
        };
        Ok(Self::from_parts(
            if tenant.is_empty() { None } else { Some(Tenant::decode(tenant)?) },
            if subject.is_empty() { None } else { Some(Subject::decode(subject)?) },
            ConversationId::parse(conversation)?,
        ))
    }

    /// What logs and debug headers may say of this session.
    pub fn hashed(&self) -> SessionHash {
        let digest = Sha256::new().chain_update(b"tower-session-memory session\0").chain_update(self.encoded());
        let mut hash = [0; 8];
        hash.copy_from_slice(&digest.finalize()[..8]);
        SessionHash(hash)
    }
}

impl PartialEq for SessionKey {
    fn eq(&self, other: &Self) -> bool {
        self.encoded() == other.encoded()
    }
}

impl Eq for SessionKey {}

impl Hash for SessionKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.encoded().hash(state);
    }
}

impl PartialOrd for SessionKey {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for SessionKey {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.encoded().cmp(other.encoded())
    }
}

impl fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionKey({})", self.hashed())
    }
}

/// A short one-way hash of a [`SessionKey`], the same on every instance; shown as 16 hexadecimal
/// digits. It tells sessions apart in a log without naming anybody.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SessionHash([u8; 8]);

impl fmt::Display for SessionHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&crate::hex::encode(&self.0))
    }
}

impl fmt::Debug for SessionHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Which sessions [`Store::list`](crate::Store::list) is asked for: those of one tenant, of one
/// subject, of both, or all.
#[derive(Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Scope {
    /// Only sessions of this tenant; `None` asks for any.
    pub tenant: Option<Tenant>,
    /// Only sessions of this subject; `None` asks for any.
    pub subject: Option<Subject>,
}

impl Scope {
    /// Every session of the store.
    pub fn all() -> Self {
        Self::default()
    }

    /// The sessions that share a key's tenant and subject.
    pub fn of(key: &SessionKey) -> Self {
        Self { tenant: key.tenant().cloned(), subject: key.subject().cloned() }
    }

    /// Only those of this subject.
    #[must_use]
    pub fn subject(mut self, subject: Subject) -> Self {
        self.subject = Some(subject);
        self
    }

    /// Only those of this tenant.
    #[must_use]
    pub fn tenant(mut self, tenant: Tenant) -> Self {
        self.tenant = Some(tenant);
        self
    }

    /// Whether a session is within the scope.
    pub fn contains(&self, key: &SessionKey) -> bool {
        self.tenant.as_ref().is_none_or(|tenant| key.tenant() == Some(tenant))
            && self.subject.as_ref().is_none_or(|subject| key.subject() == Some(subject))
    }
}

impl fmt::Debug for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |given: bool| Cow::Borrowed(if given { "one" } else { "any" });
        f.debug_struct("Scope")
            .field("tenant", &shown(self.tenant.is_some()))
            .field("subject", &shown(self.subject.is_some()))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(tenant: Option<&str>, subject: Option<&[&str]>, conversation: &str) -> SessionKey {
        SessionKey::from_parts(
            tenant.map(|t| Tenant::new(t).unwrap()),
            subject.map(|s| Subject::from_parts(s).unwrap()),
            ConversationId::parse(conversation).unwrap(),
        )
    }

    #[test]
    fn parts_that_join_equal_give_distinct_keys() {
        assert_ne!(key(None, Some(&["a|bc"]), "x"), key(None, Some(&["ab|c"]), "x"));
        assert_ne!(key(None, Some(&["a", "b"]), "x"), key(None, Some(&["a/b"]), "x"));
        assert_ne!(key(Some("a"), None, "x"), key(None, Some(&["a"]), "x"));
        assert_ne!(key(Some("a:b"), None, "x"), key(Some("a"), Some(&["b"]), "x"));
    }

    #[test]
    fn unicode_look_alikes_are_different_principals() {
        assert_ne!(Subject::new("é").unwrap(), Subject::new("e\u{301}").unwrap());
        assert_ne!(Subject::new("а").unwrap(), Subject::new("a").unwrap());
    }

    #[test]
    fn a_principal_has_one_spelling() {
        assert_eq!(Subject::decode("%41"), Err(KeyError::Encoding));
        assert_eq!(Subject::decode("a%2fb"), Err(KeyError::Encoding));
        assert_eq!(Subject::decode("%2"), Err(KeyError::Encoding));
        assert_eq!(SessionKey::decode("a:b"), Err(KeyError::Encoding));
    }

    #[test]
    fn debug_names_nobody() {
        let key = key(Some("canary-t"), Some(&["canary-s"]), "canary-c");
        let scope = Scope::of(&key);
        let shown = format!("{key:?} {:?} {:?} {:?} {scope:?}", key.tenant(), key.subject(), key.conversation());
        assert!(!shown.contains("canary"), "{shown}");
    }

    proptest! {
        #[test]
        fn distinct_parts_never_share_a_key(
            a in parts(), b in parts(),
        ) {
            let (ka, kb) = (build(&a), build(&b));
            prop_assert_eq!(a == b, ka.encoded() == kb.encoded());
            prop_assert_eq!(a == b, ka == kb);
        }

        #[test]
        fn distinct_tenants_issuers_subjects_and_conversations_never_share_a_key(
            a in (confusable(), confusable(), confusable(), "[ab~._-]{1,3}"),
            b in (confusable(), confusable(), confusable(), "[ab~._-]{1,3}"),
        ) {
            let (ka, kb) = (of_token(&a), of_token(&b));
            prop_assert_eq!(a == b, ka.encoded() == kb.encoded());
            // The nearest neighbours of one key: each part swapped with, or moved into, the next.
            let (tenant, issuer, subject, conversation) = a.clone();
            let joined = format!("{issuer}/{subject}");
            let near = [
                of_token(&(issuer.clone(), tenant.clone(), subject.clone(), conversation.clone())),
                of_token(&(tenant.clone(), subject.clone(), issuer.clone(), conversation.clone())),
                key(Some(&tenant), Some(&[&joined]), &conversation),
                key(Some(&tenant), Some(&[&subject]), &conversation),
                key(None, Some(&[&tenant, &issuer, &subject]), &conversation),
            ];
            for (index, other) in near.iter().enumerate() {
                let same = (index == 0 && tenant == issuer) || (index == 1 && issuer == subject);
                prop_assert_eq!(same, ka.encoded() == other.encoded());
            }
        }

        #[test]
        fn an_encoded_key_reads_back(a in parts()) {
            let key = build(&a);
            let back = SessionKey::decode(key.encoded()).unwrap();
            prop_assert_eq!(&back, &key);
            prop_assert_eq!(back.subject().map(Subject::parts), a.1);
            prop_assert!(key.encoded().bytes().all(|b| unreserved(b) || b":%/".contains(&b)));
        }

        #[test]
        fn decode_never_panics(text in ".{0,40}") {
            if let Ok(key) = SessionKey::decode(&text) {
                prop_assert_eq!(key.encoded(), text);
            }
        }
    }

    /// Tenant, issuer, subject and conversation, as tokens give them.
    fn of_token((tenant, issuer, subject, conversation): &(String, String, String, String)) -> SessionKey {
        SessionKey::from_parts(
            Some(Tenant::new(tenant).unwrap()),
            Some(Subject::from_parts(&[issuer, subject]).unwrap()),
            ConversationId::parse(conversation).unwrap(),
        )
    }

    /// Texts that are easily taken for one another: separators, escapes and their escapes,
    /// look-alikes, composed and decomposed letters, one character shifted between neighbours.
    fn confusable() -> impl Strategy<Value = String> {
        let pieces = [
            "a",
            "b",
            "/",
            ":",
            "%",
            "%2F",
            "%25",
            "%3A",
            "|",
            "é",
            "e\u{301}",
            "а",
            "\u{200b}",
            " ",
            "\0",
            "https://a.b",
        ];
        prop_oneof![
            4 => proptest::collection::vec(proptest::sample::select(pieces.to_vec()), 1..4).prop_map(|pieces| pieces.concat()),
            1 => "[ab]{1,2}".prop_map(|text| text.repeat(120)),
        ]
    }

    type Given = (Option<String>, Option<Vec<String>>, String);

    /// Few characters, and those that matter: separators, escapes, look-alikes.
    fn parts() -> impl Strategy<Value = Given> {
        let text = "[ab:/%2F|é\u{301}e]{1,4}";
        (proptest::option::of(text), proptest::option::of(proptest::collection::vec(text, 1..3)), "[ab~._-]{1,3}")
    }

    fn build((tenant, subject, conversation): &Given) -> SessionKey {
        let subject = subject.as_ref().map(|s| s.iter().map(String::as_str).collect::<Vec<_>>());
        key(tenant.as_deref(), subject.as_deref(), conversation)
    }
}
