//! Memory for LLM endpoints that exist already, without touching their code.
//!
//! A client sends only its new message. [`LlmMemoryLayer`], inside a
//! [`SessionMemoryLayer`](crate::SessionMemoryLayer), splices the stored history into the request,
//! hands it on, and records the reply from its JSON or from the stream, which passes token by token.
//!
//! | protocol | requests |
//! |---|---|
//! | [`OpenAiChat`] | `POST …/chat/completions` |
//! | [`OpenAiResponses`] | `POST …/responses` |
//! | [`AnthropicMessages`] | `POST …/v1/messages` |
//! | [`OllamaChat`] | `POST …/api/chat` |
//! | [`Gemini`] | `POST …:generateContent`, `…:streamGenerateContent` |
//!
//! Anything else passes untouched; a protocol of your own implements [`Protocol`].
//!
//! ```
//! use tower::{ServiceBuilder, service_fn};
//! use tower_session_memory::identity::Header;
//! use tower_session_memory::llm::{LlmMemoryLayer, RequestBody};
//! use tower_session_memory::{InMemory, SessionMemoryLayer};
//!
//! # async fn upstream<B>(_: http::Request<RequestBody<B>>) -> Result<http::Response<String>, std::convert::Infallible> {
//! #     Ok(http::Response::new(String::new()))
//! # }
//! let memory = SessionMemoryLayer::new(InMemory::new(), Header::conversation("x-conversation-id"));
//! let service = ServiceBuilder::new()
//!     .layer(memory)
//!     .layer(LlmMemoryLayer::new())
//!     .service(service_fn(upstream::<String>));
//! # let _ = service;
//! ```
//!
//! # What is stored
//! Every element that the client sent as new, and what the model said, each as one
//! [`Message`](crate::Message), byte for byte. System and developer messages are the application's,
//! per request: they are forwarded and never stored. A reply that broke off is stored in a turn
//! that is [`Interrupted`](crate::TurnStatus), and is shown to the model without what is not whole.
//! A call that the model's limit on tokens cut is shown without its input.
//!
//! # Clients that send the whole history
//! Most SDK chat loops do. A client that sends only new messages never sends what the model said, so
//! one that does carries a history: where it agrees with the stored one, the request passes as it
//! came and only what is new is stored. Where it goes on from an earlier point (an edited question,
//! a reply made anew), the turn is stored as a branch.
//!
//! # What stays the client's own
//! Tool results that a client sends for no call of the conversation are forwarded as they came: the
//! upstream's refusal is the answer that the client needs. Nothing is stored then; where an upstream
//! takes them all the same, they are stored, and no later request is shown them.
//!
//! # Order
//! Put compression of responses outside of [`SessionMemoryLayer`](crate::SessionMemoryLayer): what
//! is to be recorded must be readable here. Requests go on with `Accept-Encoding: identity`.
//! Upstreams that compress all the same need the feature `llm-decompress` (gzip, deflate, brotli,
//! zstd). A reply that cannot be read, or that was compressed and ends early, is refused with 502
//! rather than forgotten; of a stream, what came so far is an interrupted turn.

mod body;
#[cfg(feature = "llm-decompress")]
mod decode;
#[cfg(not(feature = "llm-decompress"))]
#[path = "no_decode.rs"]
mod decode;
mod envelope;
mod layer;
mod note;
mod objects;
mod path;
mod plan;
mod problem;
mod protocol;
mod recorder;
mod relation;
mod reply;
mod scan;
mod service;
mod sse;
mod stitch;
#[cfg(feature = "tiktoken")]
mod tiktoken;
mod view;
mod window;

pub use self::body::RequestBody;
pub use self::envelope::{Envelope, Malformed};
pub use self::layer::{LlmMemoryLayer, OnMalformed};
pub use self::plan::splice;
pub use self::protocol::{
    AnthropicMessages, Ask, Assembler, CallId, Gemini, OllamaChat, OpenAiChat, OpenAiResponses, Protocol, Recall,
    Replay, Replayed, Reply, Step, Tools, Voice,
};
pub use self::reply::ReplyBody;
pub use self::service::LlmMemory;
pub use self::sse::{Event, Framing};
#[cfg(feature = "tiktoken")]
pub use self::tiktoken::Tiktoken;
pub use self::window::{FourBytes, ModelWindow, TokenCounter};

/// Any error of a body.
type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What a model is told of a tool call whose result was never stored.
const NO_RESULT: &str = "[no result: the tool call was interrupted]";
