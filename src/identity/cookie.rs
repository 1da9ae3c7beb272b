//! A signed or encrypted cookie as conversation.

use std::borrow::Cow;
use std::time::Duration;

use cookie::{Cookie as Raw, CookieJar, Key, SameSite};
use http::header::{COOKIE, SET_COOKIE};
use http::request::Parts;
use http::{HeaderName, HeaderValue};

use super::{Identify, Identity, IdentityError, IdentityFault, Secrets};
use crate::key::ConversationId;

/// The longest value that is looked at: an id of 128 bytes, encrypted and written in base64, has 208.
const MAX_BYTES: usize = 256;

/// Reads the conversation from a cookie that only this server can have made.
///
/// With [`OnMissing::Mint`](crate::OnMissing::Mint) and the header `set-cookie`, a client that has no
/// such cookie, or one that does not verify (forged, or of a secret that is gone), is given a fresh
/// one: `Secure; HttpOnly; SameSite=Lax; Path=/`. Under a name that begins with `__Host-` browsers let
/// no other host plant it.
///
/// ```
/// use tower_session_memory::identity::{Cookie, Secrets};
/// use tower_session_memory::{InMemory, OnMissing, Policy, SessionMemoryLayer};
///
/// let secrets = Secrets::new([7; 32])?;
/// let mut policy = Policy::default();
/// policy.on_missing = OnMissing::Mint { header: "set-cookie" };
/// let memory = SessionMemoryLayer::new(InMemory::new(), Cookie::signed("__Host-chat", &secrets)).with_policy(policy)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Cookie {
    name: &'static str,
    /// Newest first, never empty.
    keys: Vec<Key>,
    private: bool,
    path: Cow<'static, str>,
    secure: bool,
    same_site: SameSite,
    max_age: Option<Duration>,
}

impl Cookie {
    /// The id can be read by whoever sees the cookie, but not changed.
    pub fn signed(name: &'static str, secrets: &Secrets) -> Self {
        Self::new(name, secrets, false)
    }

    /// The id can be neither read nor changed.
    pub fn private(name: &'static str, secrets: &Secrets) -> Self {
        Self::new(name, secrets, true)
    }

    fn new(name: &'static str, secrets: &Secrets, private: bool) -> Self {
        // The crate's signature does not cover the name: a key of its own for each name does.
        let (signing, sealing) = (format!("signed cookie {name}"), format!("private cookie {name}"));
        let halves = secrets.derive(&signing).zip(secrets.derive(&sealing));
        let keys = halves.map(|(signing, sealing)| Key::from(&[signing, sealing].concat())).collect();
        Self { name, keys, private, path: "/".into(), secure: true, same_site: SameSite::Lax, max_age: None }
    }

    /// Keeps the cookie for this long after the newest response, instead of until the browser ends.
    #[must_use]
    pub fn max_age(mut self, age: Duration) -> Self {
        self.max_age = Some(age);
        self
    }

    /// Only for this path and what is below it, instead of `/`.
    #[must_use]
    pub fn path(mut self, path: impl Into<Cow<'static, str>>) -> Self {
        self.path = path.into();
        self
    }

    /// Also in requests that pages of other sites make (`SameSite=None`). Guard against forged
    /// requests in another way.
    #[must_use]
    pub fn cross_site(mut self) -> Self {
        self.same_site = SameSite::None;
        self
    }

    /// Also over plain HTTP: for development.
    #[must_use]
    pub fn insecure(mut self) -> Self {
        self.secure = false;
        self
    }

    /// The cookie's value in a request, if it is there; in HTTP/2 each cookie may come in a header of
    /// its own.
    fn given(&self, parts: &Parts) -> Result<Option<Raw<'static>>, IdentityFault> {
        let mut found = None;
        for header in parts.headers.get_all(COOKIE) {
            // Another cookie's odd bytes are not this one's fault.
            let header = String::from_utf8_lossy(header.as_bytes()).into_owned();
            for cookie in Raw::split_parse(header).flatten().filter(|cookie| cookie.name() == self.name) {
                if found.replace(cookie.into_owned()).is_some() {
                    return Err(IdentityFault::Repeated);
                }
            }
        }
        Ok(found)
    }

    /// The id in a cookie of ours, and whether the newest secret made it.
    fn open(&self, cookie: &Raw<'static>) -> Option<(ConversationId, bool)> {
        if cookie.value().len() > MAX_BYTES {
            return None;
        }
        let jar = CookieJar::new();
        self.keys.iter().enumerate().find_map(|(index, key)| {
            let cookie = match self.private {
                true => jar.private(key).decrypt(cookie.clone()),
                false => jar.signed(key).verify(cookie.clone()),
            }?;
            Some((ConversationId::parse(cookie.value()).ok()?, index == 0))
        })
    }
}

impl Identify for Cookie {
    fn identify(&self, parts: &Parts) -> Result<Identity, IdentityError> {
        let given = self.given(parts).map_err(|fault| IdentityError::new(self.describe(), fault))?;
        let Some(cookie) = given else { return Ok(Identity::none()) };
        let Some((id, newest)) = self.open(&cookie) else {
            // A browser cannot mend its cookie: it is as good as none, and a fresh one replaces it.
            tracing::debug!(cookie = self.name, "the cookie does not verify: taken for none");
            return Ok(Identity::none());
        };
        let mut identity = Identity::none().with_conversation(id);
        identity.renew = !newest || self.max_age.is_some();
        Ok(identity)
    }

    fn describe(&self) -> Cow<'static, str> {
        Cow::Owned(format!("{} cookie {}", if self.private { "private" } else { "signed" }, self.name))
    }

    /// Nobody can make one up.
    fn is_verified(&self) -> bool {
        true
    }

    fn issue(&self, id: &ConversationId, header: &HeaderName) -> Option<HeaderValue> {
        if header != SET_COOKIE {
            return None;
        }
        let mut cookie = Raw::build((self.name, id.as_str().to_owned()))
            .path(self.path.clone())
            .secure(self.secure)
            .http_only(true)
            .same_site(self.same_site)
            .build();
        cookie.set_max_age(self.max_age.and_then(|age| age.try_into().ok()));
        let mut jar = CookieJar::new();
        let key = self.keys.first()?;
        match self.private {
            true => jar.private_mut(key).add(cookie),
            false => jar.signed_mut(key).add(cookie),
        }
        HeaderValue::from_str(&jar.get(self.name)?.to_string()).ok()
    }

    fn flaw(&self) -> Option<Cow<'static, str>> {
        let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        if self.name.is_empty() || !self.name.bytes().all(token) {
            return Some("this is no name that a cookie can have".into());
        }
        let host = self.name.starts_with("__Host-") && (!self.secure || self.path != "/");
        let refused =
            host || (!self.secure && (self.name.starts_with("__Secure-") || self.same_site == SameSite::None));
        refused.then(|| "browsers will not keep a cookie with this name and these attributes".into())
    }
}
