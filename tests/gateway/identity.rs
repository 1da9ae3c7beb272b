//! Tokens decide whose conversation it is, and end at the gateway.

use std::path::Path;

use http::StatusCode;
use serde_json::{Value, json};

use crate::issuer::{pyjwt, text};
use crate::process::{ADA, Answer, CHAT, Gateway, binary, patient, question};
use crate::upstream::Upstream;

const ISSUER: &str = "https://login.example.org/";
const AUDIENCE: &str = "chat";

fn claims(subject: &str) -> Value {
    // Year 2100: these tokens outlive the test.
    json!({"iss": ISSUER, "aud": AUDIENCE, "sub": subject, "exp": 4_102_444_800_u64})
}

/// Puts a set of these keys in place, in one step.
fn publish(path: &Path, made: &Value, kids: &[&str]) {
    let keys: Vec<&Value> = kids.iter().map(|kid| &made["jwks"][kid]).collect();
    let beside = path.with_extension("new");
    std::fs::write(&beside, json!({"keys": keys}).to_string()).expect("the folder is ours");
    std::fs::rename(&beside, path).expect("the folder is ours");
}

/// A question in conversation `c`, which all share, with this for `Authorization`.
async fn ask(gateway: &Gateway, token: &str, text: &str) -> Answer {
    let bearer = format!("Bearer {token}");
    gateway.send(CHAT, &[("authorization", &bearer), ("x-conversation-id", "c")], &question(text)).await
}

/// A gateway that verifies tokens of a key `old`, its key file, and what PyJWT made.
struct Verifying {
    gateway: Gateway,
    upstream: Upstream,
    made: Value,
    keys: std::path::PathBuf,
    _folder: tempfile::TempDir,
}

/// `None` where there is no PyJWT.
async fn verifying(tokens: Value, variables: &[(&str, &str)]) -> Option<Verifying> {
    let keys = json!([{"kid": "old", "alg": "RS256"}, {"kid": "new", "alg": "RS256"}]);
    let made = pyjwt(&json!({"keys": keys, "tokens": tokens}))?;
    let folder = tempfile::tempdir().expect("a folder");
    let keys = folder.path().join("jwks.json");
    publish(&keys, &made, &["old"]);
    let upstream = Upstream::start().await;
    let store = format!("sqlite:{}", folder.path().join("chat.db").display());
    let jwks = keys.display().to_string();
    let options = ["--upstream", &upstream.url, "--store", &store, "--jwks", &jwks];
    let gateway = Gateway::with(&[&options[..], &["--issuer", ISSUER, "--audience", AUDIENCE]].concat(), variables);
    Some(Verifying { gateway, upstream, made, keys, _folder: folder })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_says_whose_conversation_it_is() {
    let mut expired = claims("ada");
    expired["exp"] = 1_000_000_000.into();
    let mut elsewhere = claims("ada");
    elsewhere["aud"] = "billing".into();
    let old = |claims: Value| json!({"kid": "old", "claims": claims});
    let other_key = json!({"kid": "new", "claims": claims("ada"), "headers": {"kid": "old"}});
    let tokens = json!([old(claims("ada")), old(claims("bob")), old(expired), old(elsewhere), other_key]);
    let Some(it) = verifying(tokens, &[("UPSTREAM_HEADER", "Authorization: Bearer the-key-of-the-upstream")]).await
    else {
        return;
    };
    let Verifying { gateway, upstream, made, .. } = &it;
    let token = |index: usize| text(made, &format!("/tokens/{index}"));

    // The same id is two conversations: neither sees the other's.
    for turn in 0..3 {
        for person in [0, 1] {
            let answer = ask(gateway, &token(person), "q").await;
            assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
            assert_eq!(answer.said(), format!("{} messages", turn * 2 + 1));
        }
    }
    // What a client says of itself beside its token counts for nothing.
    let bearer = format!("Bearer {}", token(0));
    let headers = [("authorization", &*bearer), ("x-conversation-id", "c"), ("x-user-id", "bob")];
    assert_eq!(gateway.send(CHAT, &headers, &question("q")).await.said(), "7 messages");

    let last = upstream.last();
    assert_eq!(last.headers.get_all("authorization").iter().collect::<Vec<_>>(), ["Bearer the-key-of-the-upstream"]);
    for name in ["x-user-id", "x-conversation-id"] {
        assert!(!last.headers.contains_key(name), "{name} ends at the gateway");
    }

    let asked = upstream.got().len();
    // Ada's claims under the signature of Bob's.
    let (ada, bob) = (token(0), token(1));
    let claims = ada.rsplit_once('.').expect("three parts").0;
    let forged = format!("{claims}.{}", bob.rsplit_once('.').expect("three parts").1);
    for bad in [token(2), token(3), token(4), forged, "x".to_owned(), String::new()] {
        let answer = ask(gateway, &bad, "q").await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{bad}: {answer:?}");
        assert_eq!(answer.headers["content-type"], "application/problem+json");
        assert!(answer.headers["www-authenticate"].to_str().expect("text").starts_with("Bearer"), "{answer:?}");
    }
    let answer = gateway.send(CHAT, &ADA, &question("q")).await;
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "a header is no identity here: {answer:?}");
    assert_eq!(upstream.got().len(), asked, "the upstream heard of none of them");
    let log = gateway.log();
    assert!(!log.contains(&token(0)) && !log.contains("the-key-of-the-upstream"), "secrets stay out of the log");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_rotated_while_the_gateway_runs() {
    let tokens = json!([{"kid": "old", "claims": claims("ada")}, {"kid": "new", "claims": claims("ada")}]);
    let Some(it) = verifying(tokens, &[]).await else { return };
    let Verifying { gateway, upstream, made, keys, .. } = &it;
    let (old, new) = (text(made, "/tokens/0"), text(made, "/tokens/1"));
    assert_eq!(ask(gateway, &old, "q").await.said(), "1 messages");
    assert!(!upstream.last().headers.contains_key("authorization"), "a token is not the upstream's");
    assert_eq!(ask(gateway, &new, "q").await.status, StatusCode::UNAUTHORIZED);

    publish(keys, made, &["old", "new"]);
    let answer = until(async || Some(ask(gateway, &new, "q").await).filter(|it| it.status == StatusCode::OK)).await;
    assert_eq!(answer.said(), "3 messages", "the key changed, the person did not");
    assert_eq!(ask(gateway, &old, "q").await.said(), "5 messages");

    publish(keys, made, &["new"]);
    until(async || (ask(gateway, &old, "q").await.status == StatusCode::UNAUTHORIZED).then_some(())).await;
    assert_eq!(ask(gateway, &new, "q").await.status, StatusCode::OK);

    // A file that cannot be read changes nothing.
    std::fs::write(keys, "{").expect("the folder is ours");
    until(async || {
        assert_eq!(ask(gateway, &new, "q").await.status, StatusCode::OK);
        gateway.log().contains("the old ones stay in use").then_some(())
    })
    .await;
}

async fn until<T>(condition: impl AsyncFn() -> Option<T>) -> T {
    patient("the change is noticed", async {
        loop {
            if let Some(value) = condition().await {
                return value;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn without_keys_a_client_s_authorization_is_the_upstream_s() {
    let upstream = Upstream::start().await;
    let passing = Gateway::start(&["--upstream", &upstream.url]);
    let headers = [ADA[0], ADA[1], ("authorization", "Bearer my own key"), ("x-api-key", "another")];
    assert_eq!(passing.send(CHAT, &headers, &question("q")).await.status, StatusCode::OK);
    let got = upstream.last().headers;
    assert_eq!(
        (&got["authorization"], &got["x-api-key"]),
        (&"Bearer my own key".parse().unwrap(), &"another".parse().unwrap())
    );
    assert!(!got.contains_key("x-user-id"));

    let replacing = Gateway::with(&["--upstream", &upstream.url], &[("UPSTREAM_HEADER", "x-api-key: ours")]);
    assert_eq!(replacing.send(CHAT, &headers, &question("q")).await.status, StatusCode::OK);
    let got = upstream.last().headers;
    assert_eq!(got.get_all("x-api-key").iter().collect::<Vec<_>>(), ["ours"]);
}

/// What cannot work says so before it listens.
#[test]
fn settings_that_do_not_fit_are_refused_at_the_start() {
    let folder = tempfile::tempdir().expect("a folder");
    let broken = folder.path().join("broken.json").display().to_string();
    std::fs::write(&broken, "{").expect("the folder is ours");
    let demo = ["--upstream", "demo:"];
    let keyed = |file: &str| {
        [&demo[..], &["--jwks", file, "--issuer", "i", "--audience", "a"]]
            .concat()
            .iter()
            .map(|&it| it.to_owned())
            .collect::<Vec<_>>()
    };
    let plain = |options: &[&str]| options.iter().map(|&it| it.to_owned()).collect::<Vec<_>>();
    for (options, says) in [
        (keyed("/nowhere/jwks.json"), "/nowhere/jwks.json"),
        (keyed(&broken), "broken.json"),
        ([keyed(&broken), plain(&["--algorithm", "none"])].concat(), "--algorithm none"),
        (plain(&["--upstream", "demo:", "--jwks", &broken]), "--jwks needs --issuer and --audience"),
        (plain(&["--upstream", "demo:", "--issuer", "i"]), "go with --jwks"),
        (plain(&["--upstream", "localhost"]), "http://"),
        (plain(&["--upstream", "demo:", "--store", "mysql://u:canary@x"]), "--store: it must be memory:"),
        (plain(&["--upstream", "demo:", "--store", "redis://u:canary@x/y"]), "Invalid database number"),
        (plain(&["--upstream", "demo:", "--store", "postgres://u:canary@["]), "the connection string cannot be read"),
        (plain(&["--upstream", "u:canary@x"]), "--upstream: it must be a URL of http://"),
        (plain(&["--upstream", "demo:", "--listen", "nowhere"]), "nowhere"),
        (plain(&["--listen"]), "--listen needs a value"),
        (plain(&["--verbose", "x"]), "--verbose"),
        (plain(&[]), "--upstream is missing"),
    ] {
        let ended = std::process::Command::new(binary()).args(&options).output().expect("it runs");
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert!(!ended.status.success() && said.contains(says), "{options:?} says: {said}");
        assert!(!said.contains("panicked") && !said.contains("canary"), "{said}");
    }
    let mut misspelt = std::process::Command::new(binary());
    misspelt.args(["--upstream", "http://127.0.0.1:1"]).env("UPSTREAM_HEADER", "a-secret-alone");
    let said = String::from_utf8_lossy(&misspelt.output().expect("it runs").stderr).into_owned();
    assert!(said.contains("UPSTREAM_HEADER: not of the form") && !said.contains("a-secret-alone"), "{said}");
    let help = std::process::Command::new(binary()).arg("--help").output().expect("it runs");
    assert!(help.status.success() && String::from_utf8_lossy(&help.stdout).contains("--upstream URL"));
}
