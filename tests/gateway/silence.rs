//! Canaries in everything that a client sends and a model says: the gateway's own log has none.

use http_body_util::BodyExt;
use serde_json::{Value, json};

use crate::process::{CHAT, Gateway, patient, streamed};
use crate::servers::free_port;
use crate::upstream::{Upstream, token};

/// Keys come in the query, too.
const CHAT_WITH_KEY: &str = "/v1/chat/completions?key=canary";

#[tokio::test(flavor = "multi_thread")]
async fn the_log_repeats_nothing_that_was_said_and_names_nobody() {
    let upstream = Upstream::start().await;
    let folder = tempfile::tempdir().expect("a folder");
    let store = format!("sqlite:{}", folder.path().join("chat.db").display());
    let options = ["--store", &store, "--silence", "1", "--upstream"];
    let start = |upstream: &str| Gateway::with(&[&options, &[upstream][..]].concat(), &[("RUST_LOG", "debug")]);
    let gateway = start(&upstream.url);

    let who = [("x-user-id", "canary-user"), ("x-conversation-id", "canary-id"), ("authorization", "Bearer canary")];
    let key = |key| [&who[..], &[("idempotency-key", key)]].concat();
    let ask =
        |model: &str| json!({"model": model, "user": "canary", "messages": [{"role": "user", "content": "canary"}]});
    let status = async |gateway: &Gateway, path: &str, headers: &[(&str, &str)], body: &Value| {
        gateway.send(path, headers, body).await.status.as_u16()
    };
    let seen = [
        status(&gateway, CHAT_WITH_KEY, &key("canary-1"), &ask("m")).await,
        status(&gateway, CHAT_WITH_KEY, &key("canary-1"), &ask("m")).await,
        status(&gateway, CHAT_WITH_KEY, &key("canary-1"), &ask("canary")).await,
        status(&gateway, CHAT, &who, &json!(["canary"])).await,
        status(&gateway, CHAT, &who, &json!({"canary": "canary"})).await,
        status(&gateway, "/v1/responses", &who, &json!({"input": "canary", "previous_response_id": "canary"})).await,
        status(&gateway, CHAT, &[("x-user-id", "canary-user"), ("x-conversation-id", "canary{}")], &ask("m")).await,
        status(&gateway, CHAT, &who, &ask("silent")).await,
    ];
    assert_eq!(seen, [200, 200, 422, 400, 400, 404, 400, 504]);

    let script = upstream.next_stream();
    script.send(token("canary")).expect("it listens");
    let mut body = gateway.open(CHAT, &who, &streamed("canary")).await.into_body();
    patient("a token", body.frame()).await.expect("not yet the end").expect("not broken off");
    script.send(Err(std::io::Error::other("canary"))).expect("it listens");
    assert!(patient("the end", body.collect()).await.is_err());
    let gone = start(&format!("http://127.0.0.1:{}", free_port()));
    assert_eq!(status(&gone, CHAT_WITH_KEY, &who, &ask("m")).await, 502);

    for (gateway, lines) in [
        (
            &gateway,
            &[
                "idempotency_key_reused",
                "malformed_body",
                "no_messages",
                "previous_response_not_found",
                "the upstream does not answer",
            ][..],
        ),
        (&gone, &["the upstream cannot be reached"]),
    ] {
        let log = gateway.log();
        lines.iter().for_each(|line| assert!(log.contains(line), "{line}: {log}"));
        for line in log.lines() {
            assert!(!line.to_lowercase().contains("canary"), "{line}");
        }
    }
}
