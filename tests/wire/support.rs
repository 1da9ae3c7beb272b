//! What every wire test stands on: a store that can be watched and stalled, a server, a client.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tower::Service;
use tower_session_memory::identity::Header;
use tower_session_memory::store::{Append, Appended, ErrorKind, Loaded, Operation, Read};
use tower_session_memory::{
    ConversationId, InMemory, Policy, ResponseBody, SessionKey, SessionMemoryLayer, Store, StoreError, Turn, Window,
};

use crate::around::{Around, Wrapped};

pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Nothing here takes longer, unless it never ends.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
pub(crate) const SESSION_HEADER: &str = "x-conversation-id";

pub(crate) async fn patient<T>(what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work).await.unwrap_or_else(|_| panic!("{what}: not within {PATIENCE:?}"))
}

/// Polls until `condition` holds.
pub(crate) async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    patient(what, async {
        while !condition().await {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// How the store answers appends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mood {
    Fast,
    /// Not before [`Watched::release`].
    Slow,
    Failing,
    /// Not before [`Watched::release`], and then failing.
    FailingLate,
}

impl Mood {
    pub(crate) fn waits(self) -> bool {
        matches!(self, Self::Slow | Self::FailingLate)
    }

    pub(crate) fn fails(self) -> bool {
        matches!(self, Self::Failing | Self::FailingLate)
    }
}

/// An in-memory store that tells how far an append has come.
#[derive(Clone, Debug)]
pub(crate) struct Watched(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: InMemory,
    mood: Mood,
    gate: Semaphore,
    entered: AtomicUsize,
    acknowledged: AtomicUsize,
    loads_fail: AtomicBool,
}

impl Watched {
    pub(crate) fn new(mood: Mood) -> Self {
        Self(Arc::new(Inner {
            store: InMemory::new(),
            mood,
            gate: Semaphore::new(0),
            entered: AtomicUsize::new(0),
            acknowledged: AtomicUsize::new(0),
            loads_fail: AtomicBool::new(false),
        }))
    }

    pub(crate) fn release(&self) {
        self.0.gate.add_permits(1_000_000);
    }

    /// Appends that have begun.
    pub(crate) fn entered(&self) -> usize {
        self.0.entered.load(Ordering::SeqCst)
    }

    /// Appends that were acknowledged.
    pub(crate) fn acknowledged(&self) -> usize {
        self.0.acknowledged.load(Ordering::SeqCst)
    }

    pub(crate) fn fail_loads(&self, fail: bool) {
        self.0.loads_fail.store(fail, Ordering::SeqCst);
    }

    /// What the store holds now.
    pub(crate) async fn turns(&self, session: &str) -> Vec<Turn> {
        self.0.store.load(&key(session), &Read::new(Window::ALL)).await.expect("memory loads").turns
    }
}

impl Around for Watched {
    type Inside = InMemory;

    fn inside(&self) -> &InMemory {
        &self.0.store
    }

    async fn load(&self, key: &SessionKey, read: &Read) -> Result<Loaded, StoreError> {
        if self.0.loads_fail.load(Ordering::SeqCst) {
            return Err(StoreError::new(ErrorKind::Unavailable, "watched", Operation::Load));
        }
        self.0.store.load(key, read).await
    }

    async fn append(&self, key: &SessionKey, append: &Append) -> Result<Appended, StoreError> {
        self.0.entered.fetch_add(1, Ordering::SeqCst);
        if self.0.mood.waits() {
            self.0.gate.acquire().await.expect("the gate is never closed").forget();
        }
        if self.0.mood.fails() {
            return Err(StoreError::new(ErrorKind::Unavailable, "watched", Operation::Append));
        }
        let appended = self.0.store.append(key, append).await?;
        self.0.acknowledged.fetch_add(1, Ordering::SeqCst);
        Ok(appended)
    }
}

pub(crate) fn key(session: &str) -> SessionKey {
    SessionKey::new(ConversationId::parse(session).expect("tests name sessions rightly"))
}

pub(crate) fn layer(store: &Watched, change: impl FnOnce(&mut Policy)) -> SessionMemoryLayer {
    let mut policy = Policy::default();
    change(&mut policy);
    SessionMemoryLayer::new(Wrapped(store.clone()), Header::conversation(SESSION_HEADER))
        .with_policy(policy)
        .expect("tests use policies that can be kept")
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    H1,
    H2,
}

/// Serves `service` on a free loopback port for as long as the test lives.
pub(crate) async fn serve<S, B>(protocol: Protocol, service: S) -> SocketAddr
where
    S: Service<Request<Incoming>, Response = Response<ResponseBody<B>>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            stream.set_nodelay(true).expect("a TCP socket");
            let io = TokioIo::new(stream);
            let service = TowerToHyperService::new(service.clone());
            tokio::spawn(async move {
                // How a connection ended is what the client side asserts.
                let _ = match protocol {
                    Protocol::H1 => hyper::server::conn::http1::Builder::new().serve_connection(io, service).await,
                    Protocol::H2 => {
                        hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                            .max_concurrent_streams(2_000)
                            .serve_connection(io, service)
                            .await
                    }
                };
            });
        }
    });
    address
}

/// A client on one connection; dropping it closes the connection.
pub(crate) struct Client {
    sender: Sender,
    connection: tokio::task::JoinHandle<()>,
}

enum Sender {
    H1(hyper::client::conn::http1::SendRequest<Full<Bytes>>),
    H2(hyper::client::conn::http2::SendRequest<Full<Bytes>>),
}

impl Client {
    pub(crate) async fn connect(protocol: Protocol, address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("the server listens");
        stream.set_nodelay(true).expect("a TCP socket");
        let io = TokioIo::new(stream);
        let (sender, connection) = match protocol {
            Protocol::H1 => {
                let (sender, connection) = hyper::client::conn::http1::handshake(io).await.expect("a handshake");
                (Sender::H1(sender), tokio::spawn(async move { drop(connection.await) }))
            }
            Protocol::H2 => {
                let (sender, connection) =
                    hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.expect("a handshake");
                (Sender::H2(sender), tokio::spawn(async move { drop(connection.await) }))
            }
        };
        Self { sender, connection }
    }

    pub(crate) async fn send(&mut self, request: Request<Full<Bytes>>) -> hyper::Result<Response<Incoming>> {
        match &mut self.sender {
            Sender::H1(sender) => sender.send_request(request).await,
            Sender::H2(sender) => sender.send_request(request).await,
        }
    }

    /// One of many at once on this connection.
    pub(crate) fn stream(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> impl Future<Output = hyper::Result<Response<Incoming>>> + Send + use<> {
        match &mut self.sender {
            Sender::H1(_) => panic!("HTTP/1 has one request at a time"),
            Sender::H2(sender) => sender.send_request(request),
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// A request to session `s`.
pub(crate) fn request(protocol: Protocol, method: &str, address: SocketAddr) -> http::request::Builder {
    let builder = Request::builder().method(method);
    match protocol {
        Protocol::H1 => builder.uri("/chat").header("host", address.to_string()),
        Protocol::H2 => builder.uri(format!("http://{address}/chat")),
    }
}

pub(crate) fn empty() -> Full<Bytes> {
    Full::default()
}

pub(crate) async fn text(body: Incoming) -> String {
    let bytes = patient("the body", body.collect()).await.expect("a whole body").to_bytes();
    String::from_utf8(bytes.to_vec()).expect("text")
}

/// A handler's answer that needs nothing special.
pub(crate) fn plain(text: impl Into<String>) -> Result<Response<Full<Bytes>>, Infallible> {
    Ok(Response::new(Full::new(Bytes::from(text.into()))))
}
