//! Anything at all in the places where clients put identity: no identity that was not earned.

use std::sync::LazyLock;

use http::{HeaderMap, HeaderValue, Request};
use serde_json::Value;
use tower_session_memory::identity::{
    Algorithm, Cookie, Header, Identify, Jwt, JwtKeys, Or, Path, Query, Secrets, Signed,
};
use tower_session_memory::{ConversationId, Identity, SessionKey};

use super::tokens::{AUDIENCE, ISSUER, SECRET, claims, encode, now, signed, token, verifier};

const CONVERSATION: &str = "x-conversation-id";

fn secrets() -> Secrets {
    Secrets::new([1; 32]).expect("32 bytes are enough")
}

/// What a source makes of this header value, if HTTP can carry it at all.
fn read(source: &impl Identify, name: &'static str, value: &[u8]) -> Option<Identity> {
    let mut headers = HeaderMap::new();
    headers.insert(name, HeaderValue::from_bytes(value).ok()?);
    let (mut parts, ()) = Request::new(()).into_parts();
    parts.headers = headers;
    source.identify(&parts).ok().filter(|identity| !identity.is_none())
}

pub(super) fn tokens(input: &[u8]) {
    static DOORS: LazyLock<[Jwt; 2]> = LazyLock::new(|| {
        let set = format!(r#"{{"keys":[{{"kty":"oct","kid":"a","k":"{}"}}]}}"#, encode(SECRET));
        let by_set = Jwt::builder(JwtKeys::jwks(set)).issuer("i").audience("a").algorithm(Algorithm::HS256);
        let doors = [verifier().build().expect("whole"), by_set.build().expect("whole")];
        // The control: this door can open.
        assert!(read(&doors[0], "authorization", format!("Bearer {}", token(&claims())).as_bytes()).is_some());
        doors
    });
    let [one, by_set] = &*DOORS;
    // As it came, behind the scheme, and each part of it signed as if by the issuer.
    assert!(read(one, "authorization", input).is_none(), "nothing in the corpus is valid now");
    let bearer = [b"Bearer ", input].concat();
    assert!(read(one, "authorization", &bearer).is_none());
    assert!(read(by_set, "authorization", &bearer).is_none());
    let text = String::from_utf8_lossy(input);
    let header = format!("Bearer {}", signed(SECRET, &text, &claims().to_string()));
    read(one, "authorization", header.as_bytes());
    let payload = format!("Bearer {}", signed(SECRET, r#"{"alg":"HS256"}"#, &text));
    if let Some(identity) = read(one, "authorization", payload.as_bytes()) {
        // Let in, so a reader of another make must find all of this in it.
        let claims: Value = serde_json::from_str(&text).expect("an object of claims");
        let subject = claims["sub"].as_str().expect("a text");
        assert_eq!(identity.subject.expect("a subject").parts(), [ISSUER, subject]);
        assert!(!subject.is_empty() && claims["iss"] == ISSUER);
        assert!(claims["aud"] == AUDIENCE || claims["aud"].as_array().expect("a list").contains(&AUDIENCE.into()));
        assert!(claims["exp"].as_f64().expect("a number") > now() as f64 - 31.0);
    }
}

pub(super) fn cookies(input: &[u8]) {
    static SEALED: LazyLock<[Cookie; 2]> = LazyLock::new(|| {
        let cookies = [Cookie::signed("chat", &secrets()), Cookie::private("chat", &secrets())];
        let id = ConversationId::parse("chat-42").expect("an id");
        for cookie in &cookies {
            let issued = cookie.issue(&id, &http::header::SET_COOKIE).expect("a cookie issues cookies");
            let pair = issued.to_str().expect("ASCII").split(';').next().expect("a pair").to_owned();
            let identity = read(cookie, "cookie", pair.as_bytes()).expect("the control: its own cookie");
            assert_eq!(identity.conversation.expect("an id").as_str(), "chat-42");
        }
        cookies
    });
    for bytes in [input, &[b"chat=", input].concat()] {
        for cookie in &*SEALED {
            assert!(read(cookie, "cookie", bytes).is_none(), "nobody else can sign or seal");
        }
    }
}

pub(super) fn headers(input: &[u8]) {
    let conversation = read(&Header::conversation(CONVERSATION), CONVERSATION, input);
    let subject = read(&Header::subject("x-user-id"), "x-user-id", input);
    for identity in [conversation, subject].into_iter().flatten() {
        if let Some(id) = &identity.conversation {
            assert_eq!(id.as_str().as_bytes(), input, "nothing is trimmed, folded or decoded");
        }
        if let Some(subject) = &identity.subject {
            assert_eq!(subject.parts().concat().as_bytes(), input);
        }
        let key = identity.with_conversation(ConversationId::random()).into_key().expect("it has a conversation");
        assert_eq!(SessionKey::decode(key.encoded()).as_ref(), Ok(&key));
    }
    let strict = Signed::new(&secrets(), Header::conversation(CONVERSATION));
    assert!(read(&strict, CONVERSATION, input).is_none(), "nobody else can sign");

    let uri = Or::new(Path::conversation("/c/{id}").expect("a template"), Query::conversation("c"));
    for target in [[b"/c/", input].concat(), [b"/?c=", input].concat(), [b"/?", input].concat()] {
        let Ok(request) = Request::get(target.as_slice()).body(()) else { continue };
        if let Ok(identity) = uri.identify(&request.into_parts().0)
            && let Some(id) = identity.conversation
        {
            let found = target.windows(id.as_str().len()).any(|window| window == id.as_str().as_bytes());
            assert!(found, "nothing is decoded");
        }
    }
}
