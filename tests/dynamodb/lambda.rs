//! Where the process freezes when the response is complete: the adapter between the Lambda runtime and a
//! Tower service, on a runtime that is never polled again once the adapter has answered.

use std::convert::Infallible;

use http::Response;
use lambda_http::request::LambdaRequest;
use lambda_http::{Adapter, Body, Context, LambdaEvent, Request};
use tower::{Layer, ServiceExt, service_fn};
use tower_session_memory::identity::{Header, Scoped};
use tower_session_memory::store::{Read, Store};
use tower_session_memory::{ChatSession, ConversationId, Message, SessionKey, SessionMemoryLayer, Subject, Window};

use crate::server::{SHARED, config};

/// An event of API Gateway's HTTP APIs.
fn event(conversation: &str) -> LambdaRequest {
    let event = serde_json::json!({
        "version": "2.0", "routeKey": "$default", "rawPath": "/chat", "rawQueryString": "",
        "headers": {"host": "example.org", "x-user-id": "ada", "x-conversation-id": conversation},
        "requestContext": {
            "accountId": "1", "apiId": "1", "domainName": "example.org", "domainPrefix": "", "requestId": "1",
            "routeKey": "$default", "stage": "$default", "time": "", "timeEpoch": 0,
            "http": {"method": "POST", "path": "/chat", "protocol": "HTTP/1.1", "sourceIp": "127.0.0.1", "userAgent": ""}
        },
        "body": "hello", "isBase64Encoded": false
    });
    serde_json::from_value(event).unwrap()
}

async fn chat(request: Request) -> Result<Response<Body>, Infallible> {
    let session = request.extensions().get::<ChatSession>().unwrap();
    session.append(Message::user("hello")).unwrap();
    session.append(Message::assistant("hi")).unwrap();
    Ok(Response::new(Body::from("hi")))
}

#[test]
fn the_turn_is_stored_when_the_adapter_has_answered_and_nothing_runs_any_more() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let options = SHARED.options();
    runtime().block_on(options.clone().with_config(&config()).create_table()).unwrap();
    for (number, conversation) in ["c1", "c1", "c2"].into_iter().enumerate() {
        let frozen = runtime();
        frozen.block_on(async {
            let identity =
                Scoped::new(Header::subject("x-user-id").trusted_proxy(), Header::conversation("x-conversation-id"));
            let memory = SessionMemoryLayer::new(options.clone().with_config(&config()), identity);
            let function = Adapter::from(memory.layer(service_fn(chat)));
            let answer = function.oneshot(LambdaEvent::new(event(conversation), Context::default())).await.unwrap();
            let answer = serde_json::to_value(&answer).unwrap();
            assert_eq!((&answer["statusCode"], &answer["body"]), (&200.into(), &"hi".into()), "{answer}");
            assert_eq!(memory.pending(), 0);
        });
        // Not shut down in order, only never polled again; then another process looks.
        std::mem::forget(frozen);
        let key =
            SessionKey::new(ConversationId::parse(conversation).unwrap()).with_subject(Subject::new("ada").unwrap());
        let other = options.clone().with_config(&config());
        let loaded = runtime().block_on(other.load(&key, &Read::new(Window::ALL))).unwrap();
        assert_eq!(loaded.turns.len(), [1, 2, 1][number]);
    }
}
