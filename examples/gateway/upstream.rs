//! Where requests go: a real endpoint, or the scripted model.

use std::error::Error as _;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Request, Response, StatusCode, Uri};
use http_body::{Body, Frame, SizeHint};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::time::{Instant, Sleep, sleep};
use tower::Service;

use super::demo;

pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;
pub(crate) type BoxBody = UnsyncBoxBody<Bytes, BoxError>;

#[derive(Clone)]
pub(crate) enum Upstream {
    Demo,
    Real(Box<Real>),
}

#[derive(Clone)]
pub(crate) struct Real {
    base: Uri,
    silence: Duration,
    client: Client<HttpsConnector<HttpConnector>, BoxBody>,
    /// Whether the client's own authorization ends here.
    strip: bool,
    /// What the upstream gets in place of the client's.
    credential: Option<(HeaderName, HeaderValue)>,
}

impl Upstream {
    pub(crate) fn new(upstream: &str, silence: Duration) -> Result<Self, BoxError> {
        if upstream == "demo:" {
            return Ok(Self::Demo);
        }
        // Not repeated: it may hold a key.
        let base = upstream.parse().ok().filter(|uri: &Uri| uri.scheme().is_some());
        let base = base.ok_or("--upstream: it must be a URL of http:// or https://, or demo:")?;
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(Duration::from_secs(10)));
        let https = hyper_rustls::HttpsConnectorBuilder::new()
            .with_webpki_roots()
            .https_or_http()
            .enable_http1()
            .enable_http2()
            .wrap_connector(tcp);
        let client = Client::builder(TokioExecutor::new()).build(https);
        Ok(Self::Real(Box::new(Real { base, silence, client, strip: false, credential: None })))
    }

    /// Takes the header by which the upstream knows us from the environment. `strip`: a token that
    /// says who the user is, is not for the upstream.
    pub(crate) fn with_credential(mut self, strip: bool) -> Result<Self, BoxError> {
        if let Self::Real(real) = &mut self {
            real.strip = strip;
            if let Ok(header) = std::env::var("UPSTREAM_HEADER") {
                // Never told: it may be the secret alone.
                let fault = "UPSTREAM_HEADER: not of the form `name: value`";
                let (name, value) = header.split_once(':').ok_or(fault)?;
                let mut value = HeaderValue::try_from(value.trim()).map_err(|_| fault)?;
                value.set_sensitive(true);
                real.credential = Some((name.trim().parse().map_err(|_| fault)?, value));
            }
        }
        Ok(self)
    }
}

impl<B> Service<Request<B>> for Upstream
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<BoxBody>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<BoxBody>, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let this = self.clone();
        Box::pin(async move {
            match this {
                Self::Demo => demo::answer(request).await,
                Self::Real(real) => {
                    let silence = real.silence;
                    let asked = real.client.request(real.forwarded(request)?);
                    match tokio::time::timeout(silence, asked).await {
                        Ok(Ok(mut response)) => {
                            remove_hops(response.headers_mut());
                            Ok(response.map(|body| Watched::new(body, silence).boxed_unsync()))
                        }
                        Ok(Err(error)) => {
                            let causes = std::iter::successors(error.source(), |error| (*error).source());
                            let cause = causes.last().map(ToString::to_string);
                            tracing::warn!(%error, cause, "the upstream cannot be reached");
                            failed(StatusCode::BAD_GATEWAY, "the upstream cannot be reached")
                        }
                        Err(_) => {
                            tracing::warn!(?silence, "the upstream does not answer");
                            failed(StatusCode::GATEWAY_TIMEOUT, "the upstream does not answer")
                        }
                    }
                }
            }
        })
    }
}

impl Real {
    /// The request as the upstream gets it: its own address, and no headers that end here.
    fn forwarded<B>(&self, request: Request<B>) -> Result<Request<BoxBody>, BoxError>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let (mut parts, body) = request.into_parts();
        let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
        let mut uri = self.base.clone().into_parts();
        uri.path_and_query = Some(format!("{}{path}", self.base.path().trim_end_matches('/')).parse()?);
        parts.uri = Uri::from_parts(uri)?;
        parts.version = http::Version::HTTP_11;
        remove_hops(&mut parts.headers);
        // Whose conversation it is, is nobody's business upstream.
        for name in ["host", "x-user-id", "x-conversation-id"] {
            parts.headers.remove(name);
        }
        if self.strip {
            parts.headers.remove(header::AUTHORIZATION);
        }
        if let Some((name, value)) = &self.credential {
            parts.headers.insert(name, value.clone());
        }
        Ok(Request::from_parts(parts, body.map_err(Into::into).boxed_unsync()))
    }
}

/// Headers of one connection, RFC 9110 section 7.6.1, and those that they name.
fn remove_hops(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named {
        headers.remove(name);
    }
    for name in ["connection", "proxy-connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"] {
        headers.remove(name);
    }
}

fn failed(status: StatusCode, text: &'static str) -> Result<Response<BoxBody>, BoxError> {
    let body = format!(r#"{{"error":{{"message":"{text}","type":"gateway"}}}}"#);
    let body = Full::new(Bytes::from(body)).map_err(|never| match never {}).boxed_unsync();
    Ok(Response::builder().status(status).header(header::CONTENT_TYPE, "application/json").body(body)?)
}

/// A body that breaks off when it says nothing for too long.
struct Watched<B> {
    body: Pin<Box<B>>,
    silence: Duration,
    patience: Pin<Box<Sleep>>,
}

impl<B> Watched<B> {
    fn new(body: B, silence: Duration) -> Self {
        Self { body: Box::pin(body), silence, patience: Box::pin(sleep(silence)) }
    }
}

impl<B> Body for Watched<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Self { body, silence, patience } = &mut *self;
        if let Poll::Ready(frame) = body.as_mut().poll_frame(cx) {
            patience.as_mut().reset(Instant::now() + *silence);
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        ready!(patience.as_mut().poll(cx));
        tracing::warn!(?silence, "the upstream fell silent in the middle of a reply");
        Poll::Ready(Some(Err("the upstream is silent".into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
