//! An OpenAI-compatible endpoint, asked with the whole conversation and streamed through.

use std::time::Duration;

use axum::body::Bytes;
use axum::http::{Request, Uri, header};
use http_body_util::{BodyExt, Full};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::mpsc;
use tower_session_memory::Message;

use crate::model::ModelError;
use crate::options;

/// How long the endpoint may say nothing.
const SILENCE: Duration = Duration::from_secs(60);

type Tokens = mpsc::Sender<Result<String, ModelError>>;

pub(crate) struct Upstream {
    uri: Uri,
    model: String,
    key: Option<String>,
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

impl Upstream {
    pub(crate) fn new(options: options::Upstream) -> Result<Self, ModelError> {
        let uri = format!("{}/chat/completions", options.url.trim_end_matches('/'));
        // Not repeated: it may hold a key.
        let uri = uri.parse().ok().filter(|uri: &Uri| uri.scheme().is_some());
        let uri = uri.ok_or_else(|| ModelError("it must be a URL of http:// or https://".to_owned()))?;
        let https =
            hyper_rustls::HttpsConnectorBuilder::new().with_webpki_roots().https_or_http().enable_http1().build();
        let client = Client::builder(TokioExecutor::new()).build(https);
        Ok(Self { uri, model: options.model, key: std::env::var("OPENAI_API_KEY").ok(), client })
    }

    /// Sends the answer's tokens until it ends or nobody listens.
    pub(crate) async fn ask(&self, messages: Vec<Message>, tokens: Tokens) {
        if let Err(error) = self.stream(messages, &tokens).await {
            let _ = tokens.send(Err(error)).await;
        }
    }

    async fn stream(&self, messages: Vec<Message>, tokens: &Tokens) -> Result<(), ModelError> {
        let body = json!({"model": self.model, "stream": true, "messages": messages}).to_string();
        let mut request = Request::post(self.uri.clone()).header(header::CONTENT_TYPE, "application/json");
        if let Some(key) = &self.key {
            request = request.header(header::AUTHORIZATION, format!("Bearer {key}"));
        }
        let request = request.body(Full::from(body)).map_err(|error| ModelError(error.to_string()))?;
        let response = timed(self.client.request(request)).await?.map_err(|error| ModelError(error.to_string()))?;
        if !response.status().is_success() {
            return Err(ModelError(format!("it answered {}", response.status())));
        }
        let mut body = response.into_body();
        let mut buffer = Vec::new();
        while let Some(frame) = timed(body.frame()).await? {
            let frame = frame.map_err(|error| ModelError(error.to_string()))?;
            buffer.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
            while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = buffer.drain(..=end).collect();
                match parse(&line)? {
                    Line::Token(token) => {
                        if tokens.send(Ok(token)).await.is_err() {
                            return Ok(());
                        }
                    }
                    Line::Done => return Ok(()),
                    Line::Other => {}
                }
            }
        }
        Err(ModelError("it stopped before [DONE]".to_owned()))
    }
}

async fn timed<T>(work: impl Future<Output = T>) -> Result<T, ModelError> {
    tokio::time::timeout(SILENCE, work).await.map_err(|_| ModelError("it is silent".to_owned()))
}

enum Line {
    Token(String),
    Done,
    Other,
}

/// One line of an event stream.
fn parse(line: &[u8]) -> Result<Line, ModelError> {
    #[derive(Deserialize)]
    struct Chunk {
        #[serde(default)]
        choices: Vec<Choice>,
    }
    #[derive(Deserialize)]
    struct Choice {
        #[serde(default)]
        delta: Delta,
    }
    #[derive(Default, Deserialize)]
    struct Delta {
        content: Option<String>,
    }
    let Some(data) = line.strip_prefix(b"data:").map(<[u8]>::trim_ascii) else { return Ok(Line::Other) };
    if data == b"[DONE]" {
        return Ok(Line::Done);
    }
    let chunk: Chunk = serde_json::from_slice(data).map_err(|_| ModelError("it sent what is no chunk".to_owned()))?;
    let token = chunk.choices.into_iter().next().and_then(|choice| choice.delta.content);
    Ok(token.filter(|token| !token.is_empty()).map_or(Line::Other, Line::Token))
}
