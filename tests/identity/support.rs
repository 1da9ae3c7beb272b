//! What every test here stands on: a running server, a client that can send anything, captured logs.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tower::{Layer, Service, service_fn};
use tower_session_memory::identity::Secrets;
use tower_session_memory::{ChatSession, Identify, InMemory, Message, OnMissing, Policy, SessionMemoryLayer};

pub(crate) use crate::logs::Logs;

/// Nothing here takes longer, unless it never ends.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
pub(crate) const CONVERSATION: &str = "x-conversation-id";

/// The layer over the chat of [`chat`], on a port of its own. Ends when dropped.
pub(crate) struct Server {
    address: SocketAddr,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A layer over an empty store.
pub(crate) fn memory(identity: impl Identify) -> SessionMemoryLayer {
    SessionMemoryLayer::new(InMemory::new(), identity)
}

pub(crate) fn minting(header: &'static str) -> Policy {
    let mut policy = Policy::default();
    policy.on_missing = OnMissing::Mint { header };
    policy
}

pub(crate) fn secrets(byte: u8) -> Secrets {
    Secrets::new([byte; 32]).expect("32 bytes are enough")
}

impl Server {
    pub(crate) async fn start(memory: SessionMemoryLayer) -> Self {
        Self::serving(memory.layer(service_fn(chat))).await
    }

    pub(crate) async fn serving<S, B>(service: S) -> Self
    where
        S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
        S::Future: Send,
        S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let address = listener.local_addr().expect("it is bound");
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let service = TowerToHyperService::new(service.clone());
                connections.spawn(async move {
                    let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                    let _ = server.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { address, task }
    }

    /// Sends exactly these header lines.
    pub(crate) async fn get_bytes(&self, target: &str, headers: &[(&str, &[u8])]) -> Answer {
        let mut request = format!("GET {target} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n").into_bytes();
        for (name, value) in headers {
            request.extend_from_slice(name.as_bytes());
            request.extend_from_slice(b": ");
            request.extend_from_slice(value);
            request.extend_from_slice(b"\r\n");
        }
        request.extend_from_slice(b"\r\n");
        let exchange = async {
            let mut stream = TcpStream::connect(self.address).await.expect("the server listens");
            let (mut reader, mut writer) = stream.split();
            // A server that refuses early may hang up while the request is still being written.
            let (_, answer) = tokio::join!(writer.write_all(&request), async {
                let mut answer = Vec::new();
                let _ = reader.read_to_end(&mut answer).await;
                answer
            });
            answer
        };
        let answer = tokio::time::timeout(PATIENCE, exchange).await.expect("the server answers");
        Answer::parse(&answer)
    }

    pub(crate) async fn get(&self, target: &str, headers: &[(&str, &str)]) -> Answer {
        let headers: Vec<(&str, &[u8])> = headers.iter().map(|(name, value)| (*name, value.as_bytes())).collect();
        self.get_bytes(target, &headers).await
    }

    /// A turn of conversation `c` under this token.
    pub(crate) async fn with_token(&self, token: &str) -> Answer {
        self.get("/", &[("authorization", &format!("Bearer {token}")), (CONVERSATION, "c")]).await
    }
}

/// Stores one turn a request and tells what the session held before it. `?fail` answers 500,
/// `?silent` stores nothing, `?theme` sets a cookie of the application's.
async fn chat(mut request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let Some(session) = request.extensions_mut().remove::<ChatSession>() else {
        return Ok(Response::new(Full::new(Bytes::from_static(br#"{"session":false}"#))));
    };
    let silent = request.uri().query().is_some_and(|query| query.contains("silent"));
    if !silent {
        let question = request.headers().get("x-question").map_or("question", |value| value.to_str().unwrap_or("odd"));
        session.append(Message::user(question)).expect("a short message");
        session.append(Message::assistant("answer")).expect("a short message");
    }
    let told = json!({
        "session": true,
        "turns": session.history().turns().len(),
        "replay": session.replay().is_some(),
        "hash": session.key().hashed().to_string(),
        "key": session.key().encoded(),
    });
    let mut response = Response::new(Full::new(Bytes::from(told.to_string())));
    if request.uri().query().is_some_and(|query| query.contains("theme")) {
        response.headers_mut().insert("set-cookie", http::HeaderValue::from_static("theme=dark"));
    }
    if request.uri().query().is_some_and(|query| query.contains("fail")) {
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
    }
    Ok(response)
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HashMap<String, Vec<String>>,
    pub(crate) text: String,
    pub(crate) raw: String,
}

impl Answer {
    fn parse(bytes: &[u8]) -> Self {
        let raw = String::from_utf8_lossy(bytes).into_owned();
        let (head, text) = raw.split_once("\r\n\r\n").unwrap_or((&raw, ""));
        let mut lines = head.lines();
        let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok()).unwrap_or(0);
        let mut headers: HashMap<String, Vec<String>> = HashMap::new();
        for (name, value) in lines.filter_map(|line| line.split_once(':')) {
            headers.entry(name.to_ascii_lowercase()).or_default().push(value.trim().to_owned());
        }
        Self { status, headers, text: text.to_owned(), raw: raw.clone() }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.first().map(String::as_str)
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The turns that the session held when the request came; panics unless the answer is 200.
    #[track_caller]
    pub(crate) fn turns(&self) -> u64 {
        assert_eq!(self.status, 200, "{self:?}");
        self.json()["turns"].as_u64().unwrap_or_else(|| panic!("no session: {self:?}"))
    }

    #[track_caller]
    pub(crate) fn key(&self) -> String {
        assert_eq!(self.status, 200, "{self:?}");
        self.json()["key"].as_str().expect("a session").to_owned()
    }

    /// Refused with this status, in problem details with this code.
    #[track_caller]
    pub(crate) fn refused(&self, status: u16, code: &str) {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        assert_eq!(self.json()["code"], code, "{self:?}");
        let challenge = self.header("www-authenticate");
        match (status, code) {
            (401, "invalid_token") => assert_eq!(challenge, Some(r#"Bearer error="invalid_token""#), "{self:?}"),
            (401, _) => assert_eq!(challenge, Some("Bearer"), "{self:?}"),
            _ => assert_eq!(challenge, None, "{self:?}"),
        }
    }

    /// Refused as a token that does not verify.
    #[track_caller]
    pub(crate) fn is_invalid_token(&self) {
        self.refused(401, "invalid_token");
    }

    /// The name and value of the one cookie that was set, and its attributes.
    #[track_caller]
    pub(crate) fn cookie(&self) -> (String, String) {
        let set = self.headers.get("set-cookie").unwrap_or_else(|| panic!("no cookie: {self:?}"));
        assert_eq!(set.len(), 1, "{self:?}");
        let (cookie, attributes) = set[0].split_once("; ").unwrap_or((&set[0], ""));
        (cookie.to_owned(), attributes.to_owned())
    }
}

/// Polls until `condition` holds.
pub(crate) async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let polling = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, polling).await.unwrap_or_else(|_| panic!("{what}: not within {PATIENCE:?}"));
}
