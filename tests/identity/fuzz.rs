//! Anything at all in the places where clients put identity: no panic, no identity that was not
//! earned. A bounded run of random inputs, grown from and replayed against the corpus beside this file.
//!
//! `IDENTITY_FUZZ_CASES` sets how many random inputs each property gets; a file added to the corpus is
//! run by every later run.

use std::path::PathBuf;

use http::{HeaderMap, HeaderValue, Request};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tower_session_memory::identity::{Algorithm, Cookie, Header, Identify, Jwt, JwtKeys, Or, Path, Query, Signed};
use tower_session_memory::{ConversationId, SessionKey};

use crate::support::{CONVERSATION, secrets};
use crate::tokens::{AUDIENCE, ISSUER, SECRET, claims, encode, now, signed, token, verifier};

fn corpus(kind: &str) -> Vec<Vec<u8>> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/identity/corpus").join(kind);
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(&folder).expect("the corpus is there").map(|entry| entry.expect("a file").path()).collect();
    files.sort();
    assert!(!files.is_empty(), "an empty corpus shows nothing");
    files.iter().map(|path| std::fs::read(path).expect("the file can be read")).collect()
}

/// Random bytes, and corpus files with a piece cut out, doubled, or replaced.
fn inputs(kind: &str) -> impl Strategy<Value = Vec<u8>> + use<> {
    let seeds = corpus(kind);
    let mutated = (
        proptest::sample::select(seeds),
        any::<prop::sample::Index>(),
        any::<prop::sample::Index>(),
        any::<Vec<u8>>(),
        0..3,
    );
    let mutated = mutated.prop_map(|(mut bytes, from, to, fresh, how)| {
        let (from, to) = (from.index(bytes.len() + 1), to.index(bytes.len() + 1));
        let (from, to) = (from.min(to), from.max(to));
        match how {
            0 => drop(bytes.splice(from..to, fresh)),
            1 => drop(bytes.splice(from..from, bytes[from..to].to_vec())),
            _ => drop(bytes.drain(from..to)),
        }
        bytes
    });
    prop_oneof![4 => mutated, 1 => any::<Vec<u8>>(), 1 => "\\PC{0,200}".prop_map(String::into_bytes)]
}

/// Every corpus file as it is, then random ones.
fn check(kind: &str, property: impl Fn(&[u8])) {
    for input in corpus(kind) {
        property(&input);
    }
    let cases = std::env::var("IDENTITY_FUZZ_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(2_000);
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let run = TestRunner::new(config).run(&inputs(kind), |input| {
        property(&input);
        Ok(())
    });
    run.unwrap_or_else(|failure| panic!("{failure}"));
}

/// What a source makes of this header value, if HTTP can carry it at all.
fn read(source: &impl Identify, name: &'static str, value: &[u8]) -> Option<tower_session_memory::Identity> {
    let mut headers = HeaderMap::new();
    headers.insert(name, HeaderValue::from_bytes(value).ok()?);
    let (mut parts, ()) = Request::new(()).into_parts();
    parts.headers = headers;
    source.identify(&parts).ok().filter(|identity| !identity.is_none())
}

#[test]
fn fuzz_tokens() {
    let set = format!(r#"{{"keys":[{{"kty":"oct","kid":"a","k":"{}"}}]}}"#, encode(SECRET));
    let by_set = Jwt::builder(JwtKeys::jwks(set)).issuer("i").audience("a").algorithm(Algorithm::HS256);
    let (one, by_set) = (verifier().build().expect("whole"), by_set.build().expect("whole"));
    // The control: this door can open.
    assert!(read(&one, "authorization", format!("Bearer {}", token(&claims())).as_bytes()).is_some());
    check("tokens", |input| {
        // As it came, behind the scheme, and each part of it signed as if by the issuer.
        assert!(read(&one, "authorization", input).is_none(), "nothing in the corpus is valid now");
        let bearer = [b"Bearer ", input].concat();
        assert!(read(&one, "authorization", &bearer).is_none());
        assert!(read(&by_set, "authorization", &bearer).is_none());
        let text = String::from_utf8_lossy(input);
        let header = format!("Bearer {}", signed(SECRET, &text, &claims().to_string()));
        read(&one, "authorization", header.as_bytes());
        let payload = format!("Bearer {}", signed(SECRET, r#"{"alg":"HS256"}"#, &text));
        if let Some(identity) = read(&one, "authorization", payload.as_bytes()) {
            // Let in, so a reader of another make must find all of this in it.
            let claims: serde_json::Value = serde_json::from_str(&text).expect("an object of claims");
            let subject = claims["sub"].as_str().expect("a text");
            assert_eq!(identity.subject.expect("a subject").parts(), [ISSUER, subject]);
            assert!(!subject.is_empty() && claims["iss"] == ISSUER);
            assert!(claims["aud"] == AUDIENCE || claims["aud"].as_array().expect("a list").contains(&AUDIENCE.into()));
            assert!(claims["exp"].as_f64().expect("a number") > now() as f64 - 31.0);
        }
    });
}

#[test]
fn fuzz_cookies() {
    let (signed, private) = (Cookie::signed("chat", &secrets(1)), Cookie::private("chat", &secrets(1)));
    let id = ConversationId::parse("chat-42").expect("an id");
    for cookie in [&signed, &private] {
        let issued = cookie.issue(&id, &http::header::SET_COOKIE).expect("a cookie issues cookies");
        let pair = issued.to_str().expect("ASCII").split(';').next().expect("a pair").to_owned();
        let identity = read(cookie, "cookie", pair.as_bytes()).expect("the control: its own cookie");
        assert_eq!(identity.conversation.expect("an id").as_str(), "chat-42");
    }
    check("cookies", |input| {
        for bytes in [input.to_vec(), [b"chat=", input].concat()] {
            assert!(read(&signed, "cookie", &bytes).is_none(), "nobody else can sign");
            assert!(read(&private, "cookie", &bytes).is_none(), "nobody else can seal");
        }
    });
}

#[test]
fn fuzz_header_values_paths_and_queries() {
    let header = Header::conversation(CONVERSATION);
    let strict = Signed::new(&secrets(1), Header::conversation(CONVERSATION));
    let subject = Header::subject("x-user-id");
    let uri = Or::new(Path::conversation("/c/{id}").expect("a template"), Query::conversation("c"));
    check("headers", |input| {
        for identity in [read(&header, CONVERSATION, input), read(&subject, "x-user-id", input)].into_iter().flatten() {
            if let Some(id) = &identity.conversation {
                assert_eq!(id.as_str().as_bytes(), input, "nothing is trimmed, folded or decoded");
            }
            if let Some(subject) = &identity.subject {
                assert_eq!(subject.parts().concat().as_bytes(), input);
            }
            let key = identity.with_conversation(ConversationId::random()).into_key().expect("it has a conversation");
            assert_eq!(SessionKey::decode(key.encoded()).as_ref(), Ok(&key));
        }
        assert!(read(&strict, CONVERSATION, input).is_none(), "nobody else can sign");

        for target in [[b"/c/", input].concat(), [b"/?c=", input].concat(), [b"/?", input].concat()] {
            let Ok(request) = Request::get(target.as_slice()).body(()) else { continue };
            if let Ok(identity) = uri.identify(&request.into_parts().0)
                && let Some(id) = identity.conversation
            {
                let found = target.windows(id.as_str().len()).any(|window| window == id.as_str().as_bytes());
                assert!(found, "nothing is decoded");
            }
        }
    });
}
