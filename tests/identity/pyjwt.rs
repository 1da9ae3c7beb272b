//! Tokens that an independent library made, and keys that change while the server runs.

use serde_json::{Value, json};
use tower_session_memory::identity::{Algorithm, Jwt, JwtKeys};

use crate::issuer::{pyjwt, text};
use crate::support::{Logs, Server, memory, until};
use crate::tokens::{AUDIENCE, ISSUER, claims, claims_with, now, scoped};

#[tokio::test]
async fn every_asymmetric_algorithm_by_jwks_and_by_pem() {
    let algorithms = [
        ("RS256", Algorithm::RS256),
        ("PS256", Algorithm::PS256),
        ("ES256", Algorithm::ES256),
        ("ES384", Algorithm::ES384),
        ("EdDSA", Algorithm::EdDSA),
    ];
    let keys: Vec<Value> = algorithms.iter().map(|(name, _)| json!({ "kid": name, "alg": name })).collect();
    let expired = claims_with("exp", json!(now() - 60));
    let no_audience = claims_with("aud", Value::Null);
    let tokens: Vec<Value> = algorithms
        .iter()
        .flat_map(|(name, _)| [claims(), expired.clone(), no_audience.clone()].map(|claims| (name, claims)))
        .map(|(name, claims)| json!({ "kid": name, "claims": claims }))
        .collect();
    let Some(made) = pyjwt(&json!({ "keys": keys, "tokens": tokens })) else { return };
    let all: Vec<Value> = made["jwks"].as_object().expect("keys").values().cloned().collect();
    for (index, (name, algorithm)) in algorithms.into_iter().enumerate() {
        let pem = JwtKeys::pem(text(&made, &format!("/pem/{name}")));
        // Keys of other families stand beside it in the set, as issuers have them.
        let set = JwtKeys::jwks(json!({ "keys": all }).to_string());
        for keys in [pem, set] {
            let settings = Jwt::builder(keys).issuer(ISSUER).audience(AUDIENCE).algorithm(algorithm);
            let server = Server::start(memory(scoped(settings))).await;
            let token = |offset: usize| text(&made, &format!("/tokens/{}", index * 3 + offset));
            assert_eq!(server.with_token(&token(0)).await.turns(), 0, "{name}");
            assert_eq!(server.with_token(&token(0)).await.turns(), 1, "{name}");
            server.with_token(&token(1)).await.is_invalid_token();
            server.with_token(&token(2)).await.is_invalid_token();
            // A token of every other family is refused.
            let other = text(&made, &format!("/tokens/{}", (index + 3) % algorithms.len() * 3));
            server.with_token(&other).await.is_invalid_token();
        }
    }
}

#[tokio::test]
async fn keys_are_rotated_while_the_server_runs() {
    let keys = ["old", "new"].map(|kid| json!({ "kid": kid, "alg": "ES256" }));
    let tokens = ["old", "new"].map(|kid| json!({ "kid": kid, "claims": claims() }));
    let Some(made) = pyjwt(&json!({ "keys": keys, "tokens": tokens })) else { return };
    let (old, new) = (text(&made, "/tokens/0"), text(&made, "/tokens/1"));
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("jwks.json");
    let publish = |kids: &[&str]| {
        let keys: Vec<&Value> = kids.iter().map(|kid| &made["jwks"][kid]).collect();
        let beside = folder.path().join("jwks.json.new");
        std::fs::write(&beside, json!({ "keys": keys }).to_string()).expect("the folder can be written to");
        std::fs::rename(&beside, &path).expect("the file can be put in place");
    };

    let logs = Logs::capture();
    publish(&["old"]);
    let settings = Jwt::builder(JwtKeys::jwks_file(&path)).issuer(ISSUER).audience(AUDIENCE);
    let server = Server::start(memory(scoped(settings.algorithm(Algorithm::ES256)))).await;
    assert_eq!(server.with_token(&old).await.turns(), 0);
    server.with_token(&new).await.is_invalid_token();

    publish(&["old", "new"]);
    until("the new key is known", async || server.with_token(&new).await.status == 200).await;
    let before = server.with_token(&old).await.turns();
    assert!(before >= 2, "the key changed, the subject did not: {before} turns");

    publish(&["new"]);
    until("the old key is forgotten", async || server.with_token(&old).await.status == 401).await;
    server.with_token(&new).await.turns();
    logs.line(&["INFO", "token keys read again"]);

    // A broken file changes nothing, and is reported once.
    std::fs::write(&path, "{").expect("the file can be written to");
    until("the fault is noticed", async || {
        server.with_token(&new).await.turns();
        logs.count("the old ones stay in use") == 1
    })
    .await;
    std::fs::remove_file(&path).expect("the file can be removed");
    tokio::time::sleep(std::time::Duration::from_millis(1_100)).await;
    server.with_token(&new).await.turns();
    assert_eq!(logs.count("the old ones stay in use"), 1, "said once, not once a second");

    publish(&["old"]);
    until("the file is back", async || server.with_token(&old).await.status == 200).await;
    server.with_token(&new).await.is_invalid_token();
}
