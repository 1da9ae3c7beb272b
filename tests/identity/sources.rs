//! Paths, queries, and sources combined.

use tower_session_memory::identity::{Header, Identify, Or, Path, Query, Scoped};

use crate::support::{CONVERSATION, Logs, Server, memory};
use crate::tokens::{token_of, verifier};

const BAD_IDS: [&str; 15] = [
    "%7Bother%7D",
    "chat%2D42",
    "%",
    "a%20b",
    "a+b",
    "{other}",
    "a:b",
    "a,b",
    "*",
    "a;b",
    "a@b",
    "a=b",
    "a'b",
    "~%00",
    "a!b",
];

#[tokio::test]
async fn bad_input_08_a_path_is_never_decoded() {
    let path = Path::conversation("/conversations/{id}/messages").expect("a template");
    let server = Server::start(memory(path)).await;
    let send = async |id: &str| server.get(&format!("/conversations/{id}/messages"), &[]).await;
    assert_eq!(send("chat-42").await.key(), "::chat-42");
    for bad in BAD_IDS {
        send(bad).await.refused(400, "bad_identity");
    }
    send(&"a".repeat(129)).await.refused(400, "bad_identity");
    assert_eq!(send(&"a".repeat(128)).await.turns(), 0);
    send("").await.refused(400, "bad_identity");
    for other in [
        "/",
        "/conversations",
        "/conversations/a",
        "/conversations/a/messages/",
        "/conversations/a/b/messages",
        "/Conversations/a/messages",
    ] {
        server.get(other, &[]).await.refused(400, "missing_conversation");
    }
    // Nothing walks up from here.
    send("..").await.refused(400, "bad_identity");
    assert_eq!(send("...").await.key(), "::...");
}

#[tokio::test]
async fn bad_input_02_and_08_a_query_parameter_is_single_and_never_decoded() {
    let server = Server::start(memory(Query::conversation("conversation"))).await;
    let send = async |query: &str| server.get(&format!("/chat?{query}"), &[]).await;
    assert_eq!(send("a=b&conversation=chat-42&c").await.key(), "::chat-42");
    for bad in BAD_IDS.iter().filter(|id| !id.contains('=')) {
        send(&format!("conversation={bad}")).await.refused(400, "bad_identity");
    }
    for bad in [
        "conversation=a&conversation=a",
        "conversation=a&conversation=b",
        "conversation=",
        "conversation",
        "conversation=a=b",
    ] {
        send(bad).await.refused(400, "bad_identity");
    }
    for other in ["", "a=b", "Conversation=a", "%63onversation=a", "xconversation=a"] {
        send(other).await.refused(400, "missing_conversation");
    }
}

#[tokio::test]
async fn bad_input_14_sources_that_disagree_are_refused_and_others_not_read() {
    let path = Path::conversation("/c/{id}/{*rest}").expect("a template");
    let identity = Or::new(Or::new(Header::conversation(CONVERSATION), Query::conversation("c")), path);
    let server = Server::start(memory(identity)).await;
    let send = async |target: &str, header: Option<&str>| {
        let headers: Vec<(&str, &str)> = header.map(|id| (CONVERSATION, id)).into_iter().collect();
        server.get(target, &headers).await
    };
    assert_eq!(send("/?c=a", None).await.turns(), 0);
    assert_eq!(send("/c/a/x", None).await.turns(), 1);
    assert_eq!(send("/", Some("a")).await.turns(), 2);
    assert_eq!(send("/c/a/x/y?c=a", Some("a")).await.turns(), 3);
    for (target, header) in
        [("/?c=b", Some("a")), ("/c/b/x", Some("a")), ("/c/a/x?c=b", None), ("/c/b/x?c=a", Some("a"))]
    {
        send(target, header).await.refused(400, "identity_disagreement");
    }
    // A cookie is no source here.
    assert_eq!(server.get("/?c=a", &[("cookie", "conversation=b")]).await.turns(), 4);
}

#[tokio::test]
async fn tenant_subject_and_conversation_from_three_sources() {
    let logs = Logs::capture();
    let identity = Scoped::new(
        Header::tenant("x-tenant"),
        Scoped::new(verifier().build().expect("whole"), Path::conversation("/{version}/{id}").expect("a template")),
    );
    assert!(identity.is_verified(), "one part that cannot be claimed is enough");
    let server = Server::start(memory(identity)).await;
    assert_eq!(logs.count("nobody verifies"), 0);
    let send = async |tenant: &str, subject: &str, id: &str| {
        let bearer = format!("Bearer {}", token_of(subject));
        server.get(&format!("/v1/{id}"), &[("authorization", &bearer), ("x-tenant", tenant)]).await
    };
    let key = send("red", "ada", "c").await.key();
    assert_eq!(key, "red:https%3A%2F%2Flogin.example.org%2F/ada:c");
    for (tenant, subject, id) in [("blue", "ada", "c"), ("red", "eve", "c"), ("red", "ada", "d")] {
        assert_eq!(send(tenant, subject, id).await.turns(), 0);
    }
    assert_eq!(send("red", "ada", "c").await.turns(), 1);
    server.get("/v1/c", &[("x-tenant", "red")]).await.refused(401, "unauthenticated");
}

#[test]
fn templates_that_name_no_conversation_are_refused() {
    for bad in ["", "conversations/{id}", "/conversations", "/{id}/{id}", "/{*rest}/{id}", "/{*id}"] {
        assert!(Path::conversation(bad).is_err(), "{bad}");
    }
}
