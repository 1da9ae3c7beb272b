//! `GET /healthz`: the process lives. `GET /readyz`: the store answers too.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use tower::{Layer, Service};
use tower_session_memory::SharedStore;
use tower_session_memory::store::Store;

use super::upstream::{BoxBody, BoxError};

/// How long the store may take to say that it is there.
const PATIENCE: Duration = Duration::from_secs(2);

#[derive(Clone)]
pub(crate) struct HealthLayer {
    store: SharedStore,
}

impl HealthLayer {
    pub(crate) fn new(store: SharedStore) -> Self {
        Self { store }
    }
}

impl<S> Layer<S> for HealthLayer {
    type Service = Health<S>;

    fn layer(&self, inner: S) -> Health<S> {
        Health { inner, store: self.store.clone() }
    }
}

#[derive(Clone)]
pub(crate) struct Health<S> {
    inner: S,
    store: SharedStore,
}

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for Health<S>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
    ResBody: Body<Data = Bytes, Error = BoxError> + Send + 'static,
{
    type Response = Response<BoxBody>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<BoxBody>, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<ReqBody>) -> Self::Future {
        if request.method() == Method::GET && request.uri().path() == "/healthz" {
            return Box::pin(async { said(StatusCode::OK, "alive\n") });
        }
        if request.method() == Method::GET && request.uri().path() == "/readyz" {
            let store = self.store.clone();
            return Box::pin(async move {
                let pinged = tokio::time::timeout(PATIENCE, store.ping()).await;
                let Err(error) = pinged.map_err(BoxError::from).and_then(|pinged| pinged.map_err(BoxError::from))
                else {
                    return said(StatusCode::OK, "ready\n");
                };
                tracing::warn!(error = &*error as &(dyn std::error::Error + 'static), "not ready");
                said(StatusCode::SERVICE_UNAVAILABLE, "the store does not answer\n")
            });
        }
        let response = self.inner.call(request);
        Box::pin(async move { Ok(response.await.map_err(Into::into)?.map(BodyExt::boxed_unsync)) })
    }
}

fn said(status: StatusCode, text: &'static str) -> Result<Response<BoxBody>, BoxError> {
    let body = Full::new(Bytes::from_static(text.as_bytes())).map_err(|never| match never {}).boxed_unsync();
    Ok(Response::builder().status(status).body(body)?)
}
