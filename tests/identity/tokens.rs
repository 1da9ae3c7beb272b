//! Tokens made by hand, so that they can be wrong in any way.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::{Sha256, Sha384};
use tower_session_memory::identity::{Algorithm, Header, Identify, Jwt, JwtBuilder, JwtKeys, Scoped};

pub(crate) const SECRET: &[u8] = b"a secret of at least thirty-two bytes";
pub(crate) const ISSUER: &str = "https://login.example.org/";
pub(crate) const AUDIENCE: &str = "chat-api";

pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970").as_secs()
}

pub(crate) fn verifier() -> JwtBuilder {
    Jwt::builder(JwtKeys::secret(SECRET)).issuer(ISSUER).audience(AUDIENCE).algorithm(Algorithm::HS256)
}

pub(crate) fn scoped(token: JwtBuilder) -> impl Identify {
    Scoped::new(token.build().expect("the settings are whole"), Header::conversation("x-conversation-id"))
}

/// Claims that are let in.
pub(crate) fn claims() -> Value {
    json!({ "iss": ISSUER, "aud": AUDIENCE, "sub": "ada", "exp": now() + 600 })
}

/// The good claims with one changed; `Value::Null` takes it out.
pub(crate) fn claims_with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    let map = claims.as_object_mut().expect("an object");
    if value.is_null() {
        map.remove(name);
    } else {
        map.insert(name.to_owned(), value);
    }
    claims
}

pub(crate) fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Any header, any payload, a true HMAC-SHA-256 signature under any secret.
pub(crate) fn signed(secret: &[u8], header: &str, payload: &str) -> String {
    let message = format!("{}.{}", encode(header), encode(payload));
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("any length");
    mac.update(message.as_bytes());
    format!("{message}.{}", encode(mac.finalize().into_bytes()))
}

pub(crate) fn signed_384(secret: &[u8], header: &str, payload: &str) -> String {
    let message = format!("{}.{}", encode(header), encode(payload));
    let mut mac = Hmac::<Sha384>::new_from_slice(secret).expect("any length");
    mac.update(message.as_bytes());
    format!("{message}.{}", encode(mac.finalize().into_bytes()))
}

/// These claims, properly signed.
pub(crate) fn token(claims: &Value) -> String {
    signed(SECRET, r#"{"alg":"HS256","typ":"JWT"}"#, &claims.to_string())
}

/// A token of this subject that is let in.
pub(crate) fn token_of(subject: &str) -> String {
    token(&claims_with("sub", json!(subject)))
}
