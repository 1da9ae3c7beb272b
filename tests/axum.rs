//! The layer and its extractors in axum routers, and around bodies that axum did not make.

use std::convert::Infallible;

use axum::Router;
use axum::body::Body;
use axum::response::IntoResponse;
use axum::routing::{get, post};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use tower::{Layer, ServiceExt, service_fn};
use tower_session_memory::identity::Header;
use tower_session_memory::store::Read;
use tower_session_memory::{
    AppendError, ChatSession, ConversationId, InMemory, Message, OnMissing, Policy, SessionKey, SessionMemoryLayer,
    Store, Window,
};

fn memory() -> SessionMemoryLayer {
    SessionMemoryLayer::new(InMemory::new(), Header::conversation("x-conversation-id"))
}

async fn stored(memory: &SessionMemoryLayer) -> usize {
    let key = SessionKey::new(ConversationId::parse("s").unwrap());
    memory.store().load(&key, &Read::new(Window::ALL)).await.unwrap().turns.len()
}

async fn send(app: Router, path: &str, session: Option<&str>) -> (StatusCode, String) {
    let mut request = Request::post(path);
    if let Some(session) = session {
        request = request.header("x-conversation-id", session);
    }
    let response = app.oneshot(request.body(Body::from("hello")).unwrap()).await.unwrap();
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

async fn chat(session: ChatSession, message: String) -> Result<String, AppendError> {
    session.append(Message::user(message))?;
    Ok(session.history().turns().len().to_string())
}

#[tokio::test]
async fn a_router_under_the_layer_remembers() {
    let memory = memory();
    let app = Router::new().route("/chat", post(chat)).layer(memory.clone());
    for turns in ["0", "1", "2"] {
        assert_eq!(send(app.clone(), "/chat", Some("s")).await, (StatusCode::OK, turns.to_owned()));
    }
    assert_eq!(stored(&memory).await, 3);
}

#[tokio::test]
async fn a_route_layer_covers_its_routes_alone() {
    let app = Router::new().route("/chat", post(chat)).route_layer(memory()).route("/health", post(|| async { "ok" }));
    assert_eq!(send(app.clone(), "/chat", None).await.0, StatusCode::BAD_REQUEST);
    assert_eq!(send(app.clone(), "/health", None).await.0, StatusCode::OK);
    assert_eq!(send(app, "/nowhere", None).await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_missing_layer_names_the_mistake() {
    let (status, said) = send(Router::new().route("/chat", post(chat)), "/chat", Some("s")).await;
    assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(said.contains("is SessionMemoryLayer mounted on this route?"), "{said}");
    let optional =
        Router::new().route("/chat", post(|session: Option<ChatSession>| async move { format!("{session:?}") }));
    assert_eq!(send(optional, "/chat", Some("s")).await.0, StatusCode::INTERNAL_SERVER_ERROR);
}

#[tokio::test]
async fn a_request_let_through_is_none_or_400() {
    let mut policy = Policy::default();
    policy.on_missing = OnMissing::Bypass;
    let app = Router::new()
        .route("/chat", post(chat))
        .route("/any", post(|session: Option<ChatSession>| async move { session.is_some().to_string() }))
        .layer(memory().with_policy(policy).unwrap());
    assert_eq!(send(app.clone(), "/any", None).await.1, "false");
    assert_eq!(send(app.clone(), "/any", Some("s")).await.1, "true");
    let (status, said) = send(app, "/chat", None).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(said.contains("missing_conversation"), "{said}");
}

#[tokio::test]
async fn an_outer_layer_renders_the_error_its_own_way() {
    let render = axum::middleware::map_response(|response: axum::response::Response| async move {
        match response.extensions().get::<tower_session_memory::SessionError>() {
            Some(error) => (error.status(), format!("sorry: {}", error.code())).into_response(),
            None => response,
        }
    });
    let app = Router::new().route("/chat", post(chat)).layer(memory()).layer(render);
    assert_eq!(send(app, "/chat", Some("a b")).await, (StatusCode::BAD_REQUEST, "sorry: bad_identity".to_owned()));
}

#[tokio::test]
async fn errors_of_append_are_answers() {
    let app = Router::new().route(
        "/chat",
        post(
            |session: ChatSession| async move { session.append(Message::user("x".repeat(300_000))).map(|()| "stored") },
        ),
    );
    let memory = memory();
    assert_eq!(send(app.layer(memory.clone()), "/chat", Some("s")).await.0, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(stored(&memory).await, 0);
}

#[tokio::test]
async fn a_get_without_a_word_stores_nothing() {
    let memory = memory();
    let app = Router::new().route("/", get(|_: ChatSession| async { "hi" })).layer(memory.clone());
    let request = Request::get("/").header("x-conversation-id", "s").body(Body::empty()).unwrap();
    assert_eq!(app.oneshot(request).await.unwrap().status(), StatusCode::OK);
    assert_eq!(stored(&memory).await, 0);
}

/// The shape of a gRPC response: an unsized boxed body that ends in trailers.
#[tokio::test]
async fn a_boxed_body_with_trailers_passes_whole() {
    let memory = memory();
    let service = memory.layer(service_fn(|request: Request<()>| async move {
        let session = request.extensions().get::<ChatSession>().unwrap().clone();
        session.append(Message::user("call")).unwrap();
        let mut status = HeaderMap::new();
        status.insert("grpc-status", HeaderValue::from_static("0"));
        let frames =
            [Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"\0\0\0\0\x02hi"))), Ok(Frame::trailers(status))];
        let body = http_body_util::StreamBody::new(futures_util::stream::iter(frames));
        let mut response = Response::new(UnsyncBoxBody::<Bytes, Infallible>::new(body));
        response.extensions_mut().insert(session);
        Ok::<_, Infallible>(response)
    }));
    let request = Request::builder().header("x-conversation-id", "s").body(()).unwrap();
    let body = service.oneshot(request).await.unwrap().into_body().collect().await.unwrap();
    assert_eq!(body.trailers().unwrap()["grpc-status"], "0");
    assert_eq!(body.to_bytes(), "\0\0\0\0\u{2}hi");
    assert_eq!(stored(&memory).await, 1);
}
