//! The layer: which protocols, how large, how much of the history.

use std::fmt;
use std::sync::Arc;

use http::request::Parts;
use tower_layer::Layer;

use super::protocol::{AnthropicMessages, Gemini, OllamaChat, OpenAiChat, OpenAiResponses, Protocol, Recall};
use super::service::LlmMemory;
use super::window::ModelWindow;

/// Gives an endpoint that speaks an LLM's wire format the memory of the session it belongs to.
///
/// Goes *inside* [`SessionMemoryLayer`](crate::SessionMemoryLayer), around anything that answers such
/// requests: a handler, a router, a reverse proxy. Requests that are not recognised, or have no
/// session, pass untouched.
#[derive(Clone)]
pub struct LlmMemoryLayer {
    settings: Arc<Settings>,
}

/// What the service needs for each request.
pub(super) struct Settings {
    pub(super) protocols: Vec<Arc<dyn Protocol>>,
    /// Whether the one protocol is taken without a look at the path.
    pub(super) fixed: bool,
    pub(super) window: ModelWindow,
    pub(super) request_bytes: usize,
    pub(super) reply_bytes: usize,
    pub(super) on_malformed: OnMalformed,
}

/// What becomes of a request that speaks a known protocol but cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnMalformed {
    /// Answer 400 (415 for a compressed body).
    Refuse,
    /// Pass it on untouched and store nothing. Costs an answer without the memory, if the upstream
    /// is more lenient.
    Pass,
}

impl LlmMemoryLayer {
    /// A layer for all protocols of this crate, told apart by the path.
    pub fn new() -> Self {
        let protocols: Vec<Arc<dyn Protocol>> = vec![
            Arc::new(OpenAiChat),
            Arc::new(OpenAiResponses),
            Arc::new(AnthropicMessages),
            Arc::new(OllamaChat),
            Arc::new(Gemini),
        ];
        Self::of(protocols, false)
    }

    /// A layer for this protocol alone, whatever the path: every POST is taken to speak it.
    pub fn speaking(protocol: impl Protocol) -> Self {
        Self::of(vec![Arc::new(protocol)], true)
    }

    fn of(protocols: Vec<Arc<dyn Protocol>>, fixed: bool) -> Self {
        let settings = Settings {
            protocols,
            fixed,
            window: ModelWindow::default(),
            request_bytes: 8 << 20,
            reply_bytes: 8 << 20,
            on_malformed: OnMalformed::Refuse,
        };
        Self { settings: Arc::new(settings) }
    }

    /// Also speaks this protocol; it is asked before those that are there.
    #[must_use]
    pub fn with_protocol(self, protocol: impl Protocol) -> Self {
        self.with(|settings| settings.protocols.insert(0, Arc::new(protocol)))
    }

    /// How much of the history a model is shown. Default: all that was loaded; it costs tokens, and the
    /// model's refusal once its own context is too small.
    #[must_use]
    pub fn with_window(self, window: ModelWindow) -> Self {
        self.with(|settings| settings.window = window)
    }

    /// The most bytes of a request's body; more is answered 413. Default: 8 MiB; it costs that much memory
    /// for each request at work, and clients that send large files inline a larger limit.
    #[must_use]
    pub fn with_request_limit(self, bytes: usize) -> Self {
        self.with(|settings| settings.request_bytes = bytes)
    }

    /// The most bytes of a reply that is one JSON body; more is answered 502. Default: 8 MiB; it costs that
    /// much memory for each such reply at work, and a reply that was paid for where it is larger.
    /// Streamed replies are bounded by [`Limits::turn_bytes`](crate::Limits).
    #[must_use]
    pub fn with_reply_limit(self, bytes: usize) -> Self {
        self.with(|settings| settings.reply_bytes = bytes)
    }

    /// What becomes of requests that cannot be read. Default: [`OnMalformed::Refuse`]; it costs an answer
    /// where the upstream would have taken the request all the same.
    #[must_use]
    pub fn with_malformed(self, on_malformed: OnMalformed) -> Self {
        self.with(|settings| settings.on_malformed = on_malformed)
    }

    fn with(self, change: impl FnOnce(&mut Settings)) -> Self {
        let old = &*self.settings;
        let mut settings = Settings {
            protocols: old.protocols.clone(),
            fixed: old.fixed,
            window: old.window.clone(),
            request_bytes: old.request_bytes,
            reply_bytes: old.reply_bytes,
            on_malformed: old.on_malformed,
        };
        change(&mut settings);
        Self { settings: Arc::new(settings) }
    }
}

impl Settings {
    pub(super) fn protocol(&self, parts: &Parts) -> Option<Arc<dyn Protocol>> {
        let json = parts.headers.get(http::header::CONTENT_TYPE).is_none_or(|value| {
            let essence = value.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim();
            essence.eq_ignore_ascii_case("application/json")
                // Ollama's own clients, and curl's default.
                || essence.eq_ignore_ascii_case("application/x-www-form-urlencoded")
        });
        if !json || parts.method != http::Method::POST {
            return None;
        }
        self.protocols.iter().find(|protocol| self.fixed || protocol.speaks(parts)).cloned()
    }

    /// The stored reply that the request is about, if it is about one.
    pub(super) fn recalls(&self, parts: &Parts) -> Option<(Arc<dyn Protocol>, Recall)> {
        self.protocols.iter().find_map(|protocol| Some((protocol.clone(), protocol.recalls(parts)?)))
    }
}

impl Default for LlmMemoryLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Layer<S> for LlmMemoryLayer {
    type Service = LlmMemory<S>;

    fn layer(&self, inner: S) -> LlmMemory<S> {
        LlmMemory::new(inner, self.settings.clone())
    }
}

impl fmt::Debug for LlmMemoryLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocols: Vec<_> = self.settings.protocols.iter().map(|protocol| protocol.name()).collect();
        f.debug_struct("LlmMemoryLayer")
            .field("protocols", &protocols)
            .field("window", &self.settings.window)
            .finish_non_exhaustive()
    }
}
