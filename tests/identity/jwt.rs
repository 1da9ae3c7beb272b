//! Bad inputs 22 to 38: each is refused by a server that lets the good token in.

use serde_json::{Value, json};
use tower_session_memory::identity::{Algorithm, Jwt, JwtError, JwtKeys};

use crate::support::{CONVERSATION, Server, memory};
use crate::tokens::{
    AUDIENCE, ISSUER, SECRET, claims, claims_with, encode, now, scoped, signed, signed_384, token, token_of, verifier,
};

/// A server that has just let the good token in.
async fn gate() -> Server {
    let server = Server::start(memory(scoped(verifier()))).await;
    server.with_token(&token(&claims())).await.turns();
    server
}

/// Each value of a claim is refused.
async fn refuses(claim: &str, values: impl IntoIterator<Item = Value>) {
    let server = gate().await;
    for value in values {
        server.with_token(&token(&claims_with(claim, value.clone()))).await.refused(401, "invalid_token");
    }
}

#[tokio::test]
async fn a_token_names_its_subject_by_issuer_and_sub() {
    let server = gate().await;
    let answer = server.with_token(&token_of("ada@example.org")).await;
    assert_eq!(answer.key(), ":https%3A%2F%2Flogin.example.org%2F/ada%40example.org:c");
    let list = token(&claims_with("aud", json!(["other", AUDIENCE])));
    assert_eq!(server.with_token(&list).await.turns(), 1);
}

#[tokio::test]
async fn no_token_is_401_with_a_challenge() {
    let server = gate().await;
    server.get("/", &[(CONVERSATION, "c")]).await.refused(401, "unauthenticated");
    server.get("/", &[("authorization", "Basic YTpi"), (CONVERSATION, "c")]).await.refused(401, "unauthenticated");
}

#[tokio::test]
async fn bad_input_17_same_sub_of_another_issuer_or_tenant_is_somebody_else() {
    let settings = verifier().issuer("https://other.example.org/").tenant_claim("org");
    let server = Server::start(memory(scoped(settings))).await;
    let of = |issuer: &str, org: &str| {
        let mut claims = claims_with("iss", json!(issuer));
        claims["org"] = json!(org);
        token(&claims)
    };
    let tokens = [of(ISSUER, "red"), of(ISSUER, "blue"), of("https://other.example.org/", "red")];
    for token in &tokens {
        assert_eq!(server.with_token(token).await.turns(), 0);
    }
    assert_eq!(server.with_token(&tokens[0]).await.turns(), 1);
    server.with_token(&token(&claims())).await.is_invalid_token();
    for odd in [json!(""), json!(7), json!(["red"])] {
        server.with_token(&token(&claims_with("org", odd))).await.is_invalid_token();
    }
}

#[tokio::test]
async fn bad_input_22_alg_none() {
    let server = gate().await;
    for alg in ["none", "None", "NONE", ""] {
        let unsigned = format!("{}.{}.", encode(format!(r#"{{"alg":"{alg}"}}"#)), encode(claims().to_string()));
        server.with_token(&unsigned).await.is_invalid_token();
        let header = format!(r#"{{"alg":"{alg}"}}"#);
        server.with_token(&signed(SECRET, &header, &claims().to_string())).await.is_invalid_token();
    }
    server.with_token(&signed(SECRET, r#"{"typ":"JWT"}"#, &claims().to_string())).await.is_invalid_token();
}

/// The public half of a key that was made for this test.
const PUBLIC_KEY: &str = include_str!("public.pem");

#[tokio::test]
async fn bad_input_23_hmac_with_the_public_key() {
    let settings = Jwt::builder(JwtKeys::pem(PUBLIC_KEY)).issuer(ISSUER).audience(AUDIENCE);
    let server = Server::start(memory(scoped(settings.algorithm(Algorithm::RS256)))).await;
    for secret in [PUBLIC_KEY.as_bytes(), PUBLIC_KEY.trim_end().as_bytes()] {
        for header in [r#"{"alg":"HS256"}"#, r#"{"alg":"RS256"}"#] {
            server.with_token(&signed(secret, header, &claims().to_string())).await.is_invalid_token();
        }
    }
    // Nor can a verifier be built that would take both.
    let both = Jwt::builder(JwtKeys::pem(PUBLIC_KEY)).issuer(ISSUER).audience(AUDIENCE);
    let both = both.algorithm(Algorithm::RS256).algorithm(Algorithm::HS256).build();
    assert!(matches!(both, Err(JwtError::MixedFamilies)), "{both:?}");
    let hmac = Jwt::builder(JwtKeys::pem(PUBLIC_KEY)).issuer(ISSUER).audience(AUDIENCE).algorithm(Algorithm::HS256);
    assert!(matches!(hmac.build(), Err(JwtError::Key(_))));
}

#[tokio::test]
async fn bad_input_24_another_algorithm_of_the_family() {
    let secret = [SECRET, SECRET].concat();
    let settings = || Jwt::builder(JwtKeys::secret(secret.clone())).issuer(ISSUER).audience(AUDIENCE);
    let server = Server::start(memory(scoped(settings().algorithm(Algorithm::HS256)))).await;
    let other = signed_384(&secret, r#"{"alg":"HS384"}"#, &claims().to_string());
    server.with_token(&other).await.is_invalid_token();
    server.with_token(&signed(&secret, r#"{"alg":"HS384"}"#, &claims().to_string())).await.is_invalid_token();

    let both = settings().algorithm(Algorithm::HS256).algorithm(Algorithm::HS384);
    Server::start(memory(scoped(both))).await.with_token(&other).await.turns();
}

#[tokio::test]
async fn bad_input_25_kid_only_looks_up() {
    let set = json!({ "keys": [
        { "kty": "oct", "kid": "a", "k": encode(SECRET) },
        { "kty": "oct", "kid": "b", "k": encode([9; 32]) },
    ]});
    let settings = Jwt::builder(JwtKeys::jwks(set.to_string())).issuer(ISSUER).audience(AUDIENCE);
    let server = Server::start(memory(scoped(settings.algorithm(Algorithm::HS256)))).await;
    let named = |kid: Value| signed(SECRET, &json!({ "alg": "HS256", "kid": kid }).to_string(), &claims().to_string());
    server.with_token(&named(json!("a"))).await.turns();
    for kid in ["../../../dev/null", "' OR 1=1 --", "http://127.0.0.1:1/jwks", "A", "", "a\0", "c"] {
        server.with_token(&named(json!(kid))).await.is_invalid_token();
    }
    server.with_token(&named(json!(7))).await.is_invalid_token();
    server.with_token(&named(json!("b"))).await.is_invalid_token();
    // Without a name, and two keys that would fit, none is tried.
    server.with_token(&token(&claims())).await.is_invalid_token();
    // A secret that an attacker knows, such as that of an empty file, is never a key.
    server
        .with_token(&signed(b"", r#"{"alg":"HS256","kid":"../../../dev/null"}"#, &claims().to_string()))
        .await
        .is_invalid_token();
}

#[tokio::test]
async fn bad_input_26_keys_that_the_token_brings() {
    let server = gate().await;
    let own = [9; 32];
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
    let url = format!("http://{}/keys", listener.local_addr().expect("it is bound"));
    let brought = [
        json!({ "alg": "HS256", "jku": url }),
        json!({ "alg": "HS256", "x5u": url }),
        json!({ "alg": "HS256", "jwk": { "kty": "oct", "k": encode(own) } }),
        json!({ "alg": "HS256", "x5c": [encode(own)] }),
    ];
    for header in brought {
        server.with_token(&signed(&own, &header.to_string(), &claims().to_string())).await.is_invalid_token();
        // Ignored means ignored: the right signature is still right.
        server.with_token(&signed(SECRET, &header.to_string(), &claims().to_string())).await.turns();
    }
    let fetched = tokio::time::timeout(std::time::Duration::from_millis(50), listener.accept()).await;
    assert!(fetched.is_err(), "somebody came for the key");
}

#[tokio::test]
async fn bad_input_27_aud() {
    refuses(
        "aud",
        [
            Value::Null,
            json!("other"),
            json!({ "chat-api": true }),
            json!([]),
            json!(["other"]),
            json!([AUDIENCE, 7]),
            json!(7),
            json!(""),
            json!("chat-api "),
        ],
    )
    .await;
}

#[tokio::test]
async fn bad_input_28_iss() {
    refuses("iss", [Value::Null, json!(7), json!([ISSUER]), json!(""), json!("https://login.example.org"), json!({})])
        .await;
}

#[tokio::test]
async fn bad_input_29_sub() {
    refuses(
        "sub",
        [Value::Null, json!(7), json!(""), json!("a".repeat(10_240)), json!("a".repeat(513)), json!(["ada"])],
    )
    .await;
}

#[tokio::test]
async fn bad_input_30_exp() {
    let later = (now() + 600).to_string();
    let past = [now() - 31, now() - 3_600, 0].map(|exp| json!(exp));
    let odd = [Value::Null, json!(later), json!(1e300), json!(-1), json!(true), json!([now() + 600]), json!(u64::MAX)];
    refuses("exp", odd.into_iter().chain(past)).await;
    // Within the leeway, and with a fraction.
    let server = gate().await;
    server.with_token(&token(&claims_with("exp", json!(now() - 20)))).await.turns();
    server.with_token(&token(&claims_with("exp", json!(now() as f64 + 60.5)))).await.turns();
    let strict = Server::start(memory(scoped(verifier().leeway(std::time::Duration::ZERO)))).await;
    strict.with_token(&token(&claims_with("exp", json!(now() - 1)))).await.is_invalid_token();
    strict.with_token(&token(&claims())).await.turns();
}

#[tokio::test]
async fn bad_input_31_nbf() {
    refuses("nbf", [json!(now() + 60), json!(now().to_string()), json!(1e300), json!(-5), json!({})]).await;
    let server = gate().await;
    for nbf in [now() - 60, now() + 20] {
        server.with_token(&token(&claims_with("nbf", json!(nbf)))).await.turns();
    }
}

#[tokio::test]
async fn bad_input_32_a_claim_named_twice() {
    let server = gate().await;
    let header = r#"{"alg":"HS256"}"#;
    let good = claims().to_string();
    let body = good.trim_end_matches('}');
    for again in [r#""sub":"ada""#, r#""sub":"eve""#, r#""\u0073ub":"eve""#, r#""aud":"chat-api""#, r#""x":1,"x":1"#] {
        server.with_token(&signed(SECRET, header, &format!("{body},{again}}}"))).await.is_invalid_token();
    }
    for header in [r#"{"alg":"HS256","alg":"HS256"}"#, r#"{"alg":"none","alg":"HS256"}"#] {
        server.with_token(&signed(SECRET, header, &good)).await.is_invalid_token();
    }
}

#[tokio::test]
async fn bad_input_33_typ() {
    let server = Server::start(memory(scoped(verifier().typ("at+jwt")))).await;
    let of = |header: &str| signed(SECRET, header, &claims().to_string());
    for good in ["at+jwt", "AT+JWT", "application/at+jwt"] {
        server.with_token(&of(&format!(r#"{{"alg":"HS256","typ":"{good}"}}"#))).await.turns();
    }
    for bad in [r#""JWT""#, r#""dpop+jwt""#, r#""""#, "null", "7"] {
        server.with_token(&of(&format!(r#"{{"alg":"HS256","typ":{bad}}}"#))).await.is_invalid_token();
    }
    server.with_token(&of(r#"{"alg":"HS256"}"#)).await.is_invalid_token();
}

#[tokio::test]
async fn bad_input_34_encrypted_nested_or_of_other_shapes() {
    let server = gate().await;
    let good = token(&claims());
    let parts: Vec<&str> = good.split('.').collect();
    let (header, payload, signature) = (parts[0], parts[1], parts[2]);
    let jwe = encode(r#"{"alg":"dir","enc":"A256GCM"}"#);
    let odd = [
        format!("{jwe}.a.b.c.d"),
        format!("{jwe}..b.c.d"),
        format!("{good}.{good}"),
        format!("{header}.{payload}"),
        header.to_owned(),
        format!("{header}..{signature}"),
        format!(".{payload}.{signature}"),
        format!("{good}="),
        format!("{good}."),
        "...".to_owned(),
        signed(SECRET, r#"{"alg":"HS256","cty":"JWT"}"#, &good),
        signed(SECRET, r#"{"alg":"HS256","cty":"JWT"}"#, &claims().to_string()),
        signed(SECRET, r#"{"alg":"HS256","crit":["b64"],"b64":false}"#, &claims().to_string()),
        signed(SECRET, r#"{"alg":"HS256"}"#, "[]"),
        signed(SECRET, r#"{"alg":"HS256"}"#, "\"ada\""),
        signed(SECRET, r#"{"alg":"HS256"}"#, ""),
        signed(SECRET, "[]", &claims().to_string()),
        signed(SECRET, r#"{"alg":"HS256"}"#, &format!("{}true", claims())),
        signed(SECRET, r#"{"alg":"HS256"}"#, &format!("{{\"deep\":{}{}}}", "[".repeat(2_000), "]".repeat(2_000))),
    ];
    for token in odd {
        server.with_token(&token).await.is_invalid_token();
    }
}

#[tokio::test]
async fn bad_input_35_a_token_of_a_megabyte() {
    let server = gate().await;
    // hyper itself takes so much of a head and no more: 431 or a closed connection.
    let huge = server.with_token(&format!("{}{}", token(&claims()), "a".repeat(1 << 20))).await;
    assert!(matches!(huge.status, 0 | 401 | 431), "{}", huge.status);
    // What hyper lets through is refused before it is decoded, right as its signature may be.
    let large = token(&claims_with("filler", json!("a".repeat(20_000))));
    server.with_token(&large).await.is_invalid_token();
    server.with_token(&token(&claims_with("filler", json!("a".repeat(8_000))))).await.turns();
}

#[tokio::test]
async fn bad_input_36_two_authorization_headers() {
    let server = gate().await;
    let (ada, eve) = (format!("Bearer {}", token_of("ada")), format!("Bearer {}", token_of("eve")));
    for (first, second) in [(&ada, &ada), (&ada, &eve), (&eve, &ada)] {
        let headers = [("authorization", first.as_str()), ("Authorization", second), (CONVERSATION, "c")];
        server.get("/", &headers).await.refused(400, "bad_identity");
    }
}

#[tokio::test]
async fn bad_input_37_the_scheme_in_odd_forms() {
    let server = gate().await;
    let good = token(&claims());
    let send = async |value: String| server.get("/", &[("authorization", &value), (CONVERSATION, "c")]).await;
    for scheme in ["Bearer", "bearer", "BEARER", "bEaReR"] {
        send(format!("{scheme} {good}")).await.turns();
    }
    for odd in [
        format!("Bearer  {good}"),
        format!("Bearer \t{good}"),
        format!("Bearer {good} {good}"),
        format!("Bearer {good},Bearer {good}"),
        "Bearer".to_owned(),
    ] {
        send(odd).await.is_invalid_token();
    }
    for other in [format!("Bearer\t{good}"), format!("Bearer:{good}"), good.clone(), format!("Token {good}")] {
        send(other).await.refused(401, "unauthenticated");
    }
    let odd = server.get_bytes("/", &[("authorization", b"Bearer caf\xc3\xa9"), (CONVERSATION, b"c")]).await;
    odd.is_invalid_token();
}

#[tokio::test]
async fn bad_input_38_a_revoked_session() {
    let memory = memory(scoped(verifier()));
    let store = memory.store().clone();
    let server = Server::start(memory).await;
    let good = token(&claims());
    let key = server.with_token(&good).await.key();
    assert_eq!(server.with_token(&good).await.turns(), 1);
    let key = tower_session_memory::SessionKey::decode(&key).expect("the server said so");
    tower_session_memory::Store::delete(&store, &key).await.expect("memory deletes");
    assert_eq!(server.with_token(&good).await.turns(), 0, "the token is valid, the old turns are gone");
}

#[tokio::test]
async fn the_signature_is_looked_at() {
    let server = gate().await;
    let good = token(&claims());
    let (message, signature) = good.rsplit_once('.').expect("three parts");
    let other = token_of("eve");
    for forged in [
        format!("{message}.{}", encode([0; 32])),
        format!("{message}."),
        format!("{message}.{}", &signature[..20]),
        format!("{}.{signature}", other.rsplit_once('.').expect("three parts").0),
        signed(b"another secret of thirty-two bytes!", r#"{"alg":"HS256"}"#, &claims().to_string()),
    ] {
        server.with_token(&forged).await.is_invalid_token();
    }
}

#[test]
fn what_cannot_work_is_said_before_the_first_request() {
    let settings = || Jwt::builder(JwtKeys::secret(SECRET)).issuer(ISSUER).audience(AUDIENCE);
    assert!(matches!(settings().build(), Err(JwtError::Missing("algorithm"))));
    let bare = || Jwt::builder(JwtKeys::secret(SECRET)).algorithm(Algorithm::HS256);
    assert!(matches!(bare().audience(AUDIENCE).build(), Err(JwtError::Missing("issuer"))));
    assert!(matches!(bare().issuer(ISSUER).build(), Err(JwtError::Missing("audience"))));
    assert!(matches!(bare().issuer("").audience(AUDIENCE).build(), Err(JwtError::Missing("issuer"))));
    let long = settings().algorithm(Algorithm::HS256).leeway(std::time::Duration::from_secs(31));
    assert!(matches!(long.build(), Err(JwtError::Leeway)));
    // Long enough for one algorithm, too short for the other.
    assert!(matches!(settings().algorithm(Algorithm::HS512).build(), Err(JwtError::Key(_))));
    let with = |keys| Jwt::builder(keys).issuer(ISSUER).audience(AUDIENCE).algorithm(Algorithm::RS256).build();
    for keys in [
        JwtKeys::secret(SECRET),
        JwtKeys::pem("no pem"),
        JwtKeys::pem(""),
        JwtKeys::jwks("{}"),
        JwtKeys::jwks(r#"{"keys":[]}"#),
        JwtKeys::jwks(json!({ "keys": [{ "kty": "oct", "kid": "a", "k": encode(SECRET) }] }).to_string()),
        // 1024 bits.
        JwtKeys::jwks(
            json!({ "keys": [{ "kty": "RSA", "kid": "a", "n": encode([201; 128]), "e": "AQAB" }] }).to_string(),
        ),
    ] {
        let built = with(keys);
        assert!(matches!(built, Err(JwtError::Key(_))), "{built:?}");
    }
    assert!(matches!(with(JwtKeys::jwks_file("/no/such/file")), Err(JwtError::File(_))));
    let twice = json!({ "keys": [{ "kty": "oct", "kid": "a", "k": encode(SECRET) }, { "kty": "oct", "kid": "a", "k": encode([9; 32]) }] });
    let twice =
        Jwt::builder(JwtKeys::jwks(twice.to_string())).issuer(ISSUER).audience(AUDIENCE).algorithm(Algorithm::HS256);
    assert!(matches!(twice.build(), Err(JwtError::Key(_))));
}
