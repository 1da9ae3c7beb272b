//! Bad inputs and odd requests, each named after its row in the list of what a memory must withstand.

mod ids;
mod keys;
mod requests;
mod turns;

use std::convert::Infallible;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tower::{Layer, ServiceBuilder, service_fn};
use tower_session_memory::identity::{Extension, Header, Scoped};
use tower_session_memory::{ChatSession, Identify, InMemory, Message, SessionMemoryLayer, Subject};

use crate::support::{
    Client, Mood, Protocol, SESSION_HEADER, Watched, empty, layer, patient, plain, request, serve, text,
};

/// Appends a message and answers with the number of turns before it, or "none" without a session.
async fn count(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let Some(session) = request.extensions().get::<ChatSession>().cloned() else { return plain("none") };
    session.append(Message::user("question")).unwrap();
    plain(format!("{}{}", session.history().turns().len(), if session.is_degraded() { " degraded" } else { "" }))
}

async fn counting(memory: &SessionMemoryLayer) -> Api {
    Api(serve(Protocol::H1, memory.layer(service_fn(count))).await)
}

/// A server to send heads to.
struct Api(std::net::SocketAddr);

impl Api {
    async fn send(&self, headers: &[(&str, &[u8])]) -> (StatusCode, http::HeaderMap, String) {
        let mut builder = request(Protocol::H1, "POST", self.0);
        for (name, value) in headers {
            builder = builder.header(*name, http::HeaderValue::from_bytes(value).unwrap());
        }
        let mut client = Client::connect(Protocol::H1, self.0).await;
        let response = patient("an answer", client.send(builder.body(empty()).unwrap())).await.unwrap();
        let (parts, body) = response.into_parts();
        (parts.status, parts.headers, text(body).await)
    }

    async fn session(&self, values: &[&[u8]]) -> (StatusCode, String) {
        let headers: Vec<_> = values.iter().map(|value| (SESSION_HEADER, *value)).collect();
        let (status, _, body) = self.send(&headers).await;
        (status, body)
    }

    /// Sends these very bytes and gives the head and body that come back.
    async fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.0).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        patient("an answer", stream.read_to_end(&mut answer)).await.unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }
}

async fn refuses(values: &[&[u8]]) {
    let store = Watched::new(Mood::Fast);
    let api = counting(&layer(&store, |_| {})).await;
    let headers: Vec<_> = values.iter().map(|value| (SESSION_HEADER, *value)).collect();
    let (status, headers, body) = api.send(&headers).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{body}");
    assert_eq!(headers["content-type"], "application/problem+json");
    let problem: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!((&problem["status"], &problem["code"]), (&400.into(), &"bad_identity".into()));
    assert_eq!(store.entered(), 0);
}

/// Claims that an outer authentication layer left.
#[derive(Clone)]
struct Claims(String);

fn claimed() -> impl Identify {
    let subject = Extension::subject(|claims: &Claims| Some(Subject::new(&claims.0)));
    Scoped::new(subject, Header::conversation(SESSION_HEADER))
}

fn scoped_by_claims() -> SessionMemoryLayer {
    SessionMemoryLayer::new(InMemory::new(), claimed())
}

/// An authentication layer that takes users at their word, so that a test can be anybody.
fn authenticate(mut request: Request<Incoming>) -> Request<Incoming> {
    if let Some(user) = request.headers().get("x-claimed") {
        let user = String::from_utf8(user.as_bytes().to_vec()).unwrap();
        request.extensions_mut().insert(Claims(user));
    }
    request
}

async fn authenticated(memory: &SessionMemoryLayer) -> Api {
    let service = ServiceBuilder::new().map_request(authenticate).layer(memory.clone());
    Api(serve(Protocol::H1, service.service(service_fn(count))).await)
}

impl Api {
    /// One request by `subject`; what it was told.
    async fn by(&self, subject: &str, conversation: &str) -> String {
        self.answer_to(subject, conversation, &[]).await.2
    }

    async fn answer_to(
        &self,
        subject: &str,
        conversation: &str,
        more: &[(&str, &[u8])],
    ) -> (StatusCode, http::HeaderMap, String) {
        let own = [("x-claimed", subject.as_bytes()), (SESSION_HEADER, conversation.as_bytes())];
        self.send(&[&own[..], more].concat()).await
    }
}
