//! An upstream that says what it is told to and remembers what it got, behind both layers.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full, StreamBody};
use serde_json::Value;
use tokio::sync::Semaphore;
use tower::{Layer, ServiceExt, service_fn};
use tower_session_memory::identity::Header;
use tower_session_memory::llm::LlmMemoryLayer;
use tower_session_memory::store::{Append, Appended, Deleted, Loaded, Page, Read, SessionPage, Store, StoreInfo};
use tower_session_memory::{
    ConversationId, InMemory, Message, Policy, Scope, SessionKey, SessionMemoryLayer, SharedStore, StoreError, Turn,
    Window,
};

pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;
pub(crate) type Chunks = Pin<Box<dyn Stream<Item = Result<Frame<Bytes>, BoxError>> + Send>>;

pub(crate) const CHAT: &str = "/v1/chat/completions";
pub(crate) const MESSAGES: &str = "/v1/messages";
pub(crate) const RESPONSES: &str = "/v1/responses";
pub(crate) const OLLAMA: &str = "/api/chat";
pub(crate) const GEMINI_ARRAY: &str = "/v1beta/models/m:streamGenerateContent";
pub(crate) const GEMINI_STREAM: &str = "/v1beta/models/m:streamGenerateContent?alt=sse";

/// What the upstream got.
#[derive(Debug, Clone)]
pub(crate) struct Got {
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Got {
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

/// What the upstream says next.
pub(crate) struct Said {
    status: StatusCode,
    headers: Vec<(&'static str, String)>,
    body: Chunks,
}

impl Said {
    pub(crate) fn json(body: impl Into<Bytes>) -> Self {
        Self::new("application/json", [body.into()])
    }

    pub(crate) fn new(content_type: &str, chunks: impl IntoIterator<Item = Bytes>) -> Self {
        let chunks: Vec<_> = chunks.into_iter().map(|chunk| Ok(Frame::data(chunk))).collect();
        Self::streamed(content_type, stream::iter(chunks))
    }

    pub(crate) fn streamed(
        content_type: &str,
        body: impl Stream<Item = Result<Frame<Bytes>, BoxError>> + Send + 'static,
    ) -> Self {
        let headers = vec![("content-type", content_type.to_owned())];
        Self { status: StatusCode::OK, headers, body: Box::pin(body) }
    }

    pub(crate) fn status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }

    pub(crate) fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }
}

/// Both layers and their upstream.
#[derive(Clone)]
pub(crate) struct Bed {
    pub(crate) store: SharedStore,
    pub(crate) memory: SessionMemoryLayer,
    pub(crate) llm: LlmMemoryLayer,
    got: Arc<Mutex<Vec<Got>>>,
    says: Arc<Mutex<VecDeque<Said>>>,
}

/// What the client saw.
pub(crate) struct Seen {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    /// Whether the body came to its end.
    pub(crate) ended: bool,
}

impl Seen {
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

impl Bed {
    pub(crate) fn new() -> Self {
        Self::on(InMemory::new(), Policy::default())
    }

    pub(crate) fn on(store: impl Store, policy: Policy) -> Self {
        let store = SharedStore::new(store);
        let memory = SessionMemoryLayer::new(store.clone(), Header::conversation("x-conversation-id").trusted_proxy())
            .with_policy(policy)
            .unwrap();
        Self { store, memory, llm: LlmMemoryLayer::new(), got: Arc::default(), says: Arc::default() }
    }

    pub(crate) fn llm(mut self, change: impl FnOnce(LlmMemoryLayer) -> LlmMemoryLayer) -> Self {
        self.llm = change(self.llm);
        self
    }

    pub(crate) fn says(&self, said: Said) -> &Self {
        self.says.lock().unwrap().push_back(said);
        self
    }

    pub(crate) fn got(&self) -> Vec<Got> {
        self.got.lock().unwrap().clone()
    }

    pub(crate) fn last(&self) -> Got {
        self.got().pop().expect("the upstream was called")
    }

    pub(crate) fn request(path: &str, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
        Request::post(path)
            .header("content-type", "application/json")
            .header("x-conversation-id", "c1")
            .body(Full::new(body.into()))
            .unwrap()
    }

    /// Calls the stack and leaves the body to be read.
    pub(crate) async fn call(
        &self,
        request: Request<Full<Bytes>>,
    ) -> Response<impl Body<Data = Bytes, Error = BoxError> + use<>> {
        let (got, says) = (self.got.clone(), self.says.clone());
        let upstream = service_fn(move |request: Request<_>| answer(got.clone(), says.clone(), request));
        self.memory.layer(self.llm.layer(upstream)).oneshot(request).await.unwrap()
    }

    pub(crate) async fn send(&self, request: Request<Full<Bytes>>) -> Seen {
        let (head, mut body) = self.call(request).await.into_parts();
        let mut seen = Seen { status: head.status, headers: head.headers, body: Bytes::new(), ended: true };
        let mut bytes = Vec::new();
        while let Some(frame) = Pin::new(&mut body).frame().await {
            match frame {
                Ok(frame) => bytes.extend(frame.into_data().unwrap_or_default()),
                Err(_) => {
                    seen.ended = false;
                    break;
                }
            }
        }
        drop(body);
        // What was handed over to the background is part of the answer here.
        while self.memory.pending() > 0 {
            tokio::task::yield_now().await;
        }
        seen.body = bytes.into();
        seen
    }

    pub(crate) async fn post(&self, path: &str, body: impl Into<Bytes>) -> Seen {
        self.send(Self::request(path, body)).await
    }

    /// All turns of the conversation.
    pub(crate) async fn turns(&self) -> Vec<Turn> {
        let key = SessionKey::new(ConversationId::parse("c1").unwrap());
        self.store.load(&key, &Read::new(Window::ALL)).await.unwrap().turns
    }

    pub(crate) async fn stored(&self) -> Vec<String> {
        let turns = self.turns().await;
        turns.iter().flat_map(Turn::messages).map(|message: &Message| message.json().to_owned()).collect()
    }
}

async fn answer<B>(
    got: Arc<Mutex<Vec<Got>>>,
    says: Arc<Mutex<VecDeque<Said>>>,
    request: Request<B>,
) -> Result<Response<StreamBody<Chunks>>, Infallible>
where
    B: Body<Data = Bytes>,
    B::Error: std::fmt::Debug,
{
    let (parts, body) = request.into_parts();
    let promised = body.size_hint().exact();
    let body = body.collect().await.unwrap().to_bytes();
    assert_eq!(promised, Some(body.len() as u64), "the length is said, and right");
    if let Some(length) = parts.headers.get("content-length") {
        assert_eq!(length.to_str().unwrap(), body.len().to_string());
    }
    got.lock().unwrap().push(Got { headers: parts.headers, body });
    let said = says.lock().unwrap().pop_front().expect("the upstream has something to say");
    let mut response = Response::builder().status(said.status);
    for (name, value) in said.headers {
        response = response.header(name, value);
    }
    Ok(response.body(StreamBody::new(said.body)).unwrap())
}

/// A chat completion that says this.
pub(crate) fn chat_reply(text: &str) -> Said {
    Said::json(format!(
        r#"{{"id":"c","object":"chat.completion","created":1,"model":"m","choices":[{{"index":0,"message":{{"role":"assistant","content":"{text}"}},"finish_reason":"stop"}}],"usage":{{"total_tokens":3}}}}"#
    ))
}

/// A chunk per piece, with a breath before each: nothing comes at once.
pub(crate) fn breathing(chunks: Vec<Bytes>) -> Chunks {
    Box::pin(stream::iter(chunks).then(|chunk| async move {
        tokio::task::yield_now().await;
        Ok(Frame::data(chunk))
    }))
}

/// A store whose appends wait for a permit.
#[derive(Debug)]
pub(crate) struct Gate {
    inner: InMemory,
    open: Arc<Semaphore>,
}

impl Gate {
    pub(crate) fn new() -> (Self, Arc<Semaphore>) {
        let open = Arc::new(Semaphore::new(0));
        (Self { inner: InMemory::new(), open: open.clone() }, open)
    }
}

impl Store for Gate {
    fn info(&self) -> StoreInfo {
        self.inner.info()
    }

    async fn load(&self, key: &SessionKey, read: &Read) -> Result<Loaded, StoreError> {
        self.inner.load(key, read).await
    }

    async fn append(&self, key: &SessionKey, append: &Append) -> Result<Appended, StoreError> {
        match self.open.acquire().await {
            Ok(permit) => permit.forget(),
            Err(_) => {
                use tower_session_memory::store::{ErrorKind, Operation};
                return Err(StoreError::new(ErrorKind::Unavailable, "gate", Operation::Append));
            }
        }
        self.inner.append(key, append).await
    }

    async fn delete(&self, key: &SessionKey) -> Result<Deleted, StoreError> {
        self.inner.delete(key).await
    }

    async fn list(&self, scope: &Scope, page: &Page) -> Result<SessionPage, StoreError> {
        self.inner.list(scope, page).await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.inner.ping().await
    }
}
