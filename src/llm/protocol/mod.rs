//! The wire formats, each in its own room behind one trait.

use std::fmt::Debug;

use bytes::Bytes;
use http::request::Parts;
use serde_json::value::RawValue;

use super::envelope::Envelope;
use super::sse::{Event, Framing};
use crate::{Message, MessageError};

mod anthropic;
mod chat;
mod completion;
mod debug;
mod element;
mod gemini;
mod ollama;
mod partial;
mod responses;

pub use self::anthropic::AnthropicMessages;
pub use self::chat::OpenAiChat;
pub use self::gemini::Gemini;
pub use self::ollama::OllamaChat;
pub use self::responses::OpenAiResponses;

/// What the layer must know of a wire format.
///
/// An *element* is one entry of the list that carries the conversation (`messages`, `input`,
/// `contents`), as raw JSON. Each element is stored as one [`Message`].
pub trait Protocol: Debug + Send + Sync + 'static {
    /// One lower-case word, for logs and notes.
    fn name(&self) -> &'static str;

    /// Whether a request, seen from its method and path, speaks this protocol.
    fn speaks(&self, parts: &Parts) -> bool;

    /// The field that holds the list of elements.
    fn list(&self) -> &'static str;

    /// The element that a bare string in place of the list stands for, where the protocol allows one.
    fn lift(&self, _text: &str) -> Option<Bytes> {
        None
    }

    /// Who an element speaks for.
    fn voice(&self, element: &[u8]) -> Voice;

    /// Who an element with this `role`, given once, speaks for, where that alone tells it. It spares a
    /// look at the element.
    fn voice_of_role(&self, _role: &[u8]) -> Option<Voice> {
        None
    }

    /// The element as a message to store. An object with a known string `role` is kept as it is; any
    /// other is wrapped, byte for byte.
    ///
    /// # Errors
    /// [`MessageError`] for what is no strict JSON object.
    fn store(&self, element: Bytes) -> Result<Message, MessageError> {
        element::store(element, |element| match self.voice(element) {
            Voice::Instructions => "system",
            Voice::Client => "user",
            Voice::Model => "assistant",
        })
    }

    /// A stored message as an element, byte for byte.
    fn wire(&self, message: &Message) -> Bytes {
        element::wire(message)
    }

    /// Letters without which an element has no tool traffic: a cheap first look.
    fn tool_mark(&self) -> &'static [u8];

    /// The tool calls that an element makes, and the results that it carries.
    fn tools(&self, element: &[u8]) -> Tools;

    /// Whether all results of an element's calls stand in *one* element after it.
    fn results_share_an_element(&self) -> bool {
        false
    }

    /// Whether calls are elements of their own beside what the model says, so that several of them,
    /// and text, stand together before their results.
    fn calls_stand_apart(&self) -> bool {
        false
    }

    /// Elements that answer calls whose results were never stored.
    fn no_result(&self, calls: &[CallId]) -> Vec<Bytes>;

    /// The element without the results that answer no call; `None` when nothing is left.
    fn without_results(&self, element: &Bytes, orphans: &[CallId]) -> Option<Bytes>;

    /// What broke off, in a form that a model takes; `None` when nothing is left.
    fn mended(&self, element: &Bytes) -> Option<Bytes>;

    /// What came whole, without what no model takes back all the same: a call or a thought that the
    /// limit on tokens cut. What is healthy stays byte for byte; `None` when nothing is left.
    fn tidied(&self, element: &Bytes) -> Option<Bytes> {
        self.mended(element).map(|_| element.clone())
    }

    /// Whether an element is nothing without one of the model's after it, so that it must not be the
    /// last of what broke off.
    fn leads(&self, _element: &[u8]) -> bool {
        false
    }

    /// What two spellings of the same element have in common: clients that resend the history send
    /// it in their own spelling.
    fn digest(&self, element: &[u8]) -> u64 {
        element::digest(element)
    }

    /// Fields of the request that are the layer's to act upon.
    ///
    /// # Errors
    /// Words for the client when the fields contradict each other.
    fn ask(&self, _envelope: &Envelope) -> Result<Ask, &'static str> {
        Ok(Ask::default())
    }

    /// How a reply of this content type is framed; `None` for one whole JSON.
    fn framing(&self, content_type: &str) -> Option<Framing> {
        match content_type {
            "text/event-stream" => Some(Framing::Sse),
            "application/x-ndjson" | "application/ndjson" | "application/jsonl" => Some(Framing::Lines),
            _ => None,
        }
    }

    /// How the request wants its reply streamed; `None` for one whole JSON. A reply that is JSON is
    /// taken for a stream only where this says [`Framing::Array`].
    fn wants_stream(&self, _parts: &Parts, envelope: &Envelope) -> Option<Framing> {
        envelope.is_true("stream").then_some(Framing::Sse)
    }

    /// The stored reply that a request is about, where clients may fetch replies by their ids. Such a
    /// request asks no model.
    fn recalls(&self, _parts: &Parts) -> Option<Recall> {
        None
    }

    /// Puts one reply together.
    fn assembler(&self) -> Box<dyn Assembler>;

    /// The answer to a retry of a request, from what was stored.
    fn replay(&self, replay: &Replay<'_>) -> Replayed;
}

/// Who an element speaks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Voice {
    /// The application: system and developer messages. Forwarded, never stored.
    Instructions,
    /// The user's side, tool results included.
    Client,
    /// The model.
    Model,
}

/// What names a tool call. Where a protocol has no ids, the name of the tool, and the order, do.
#[derive(Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct CallId {
    /// The id; empty where there is none.
    pub id: String,
    /// The tool's name; empty where it is not said.
    pub name: String,
}

impl CallId {
    /// A call of this id and tool name; either may be empty.
    pub fn new(id: impl Into<String>, name: impl Into<String>) -> Self {
        Self { id: id.into(), name: name.into() }
    }

    /// Whether `self`, named by a result, means `call`.
    pub(super) fn answers(&self, call: &Self) -> bool {
        if self.id.is_empty() || call.id.is_empty() {
            self.name.is_empty() || call.name.is_empty() || self.name == call.name
        } else {
            self.id == call.id
        }
    }
}

/// Tool traffic of one element.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Tools {
    /// Calls that need a result.
    pub calls: Vec<CallId>,
    /// Results that need a call.
    pub results: Vec<CallId>,
}

impl Tools {
    /// No tool traffic.
    pub const fn none() -> Self {
        Self { calls: Vec::new(), results: Vec::new() }
    }
}

/// What a request asks of the memory itself.
#[derive(Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Ask {
    /// The reply that this request continues, where it names one.
    pub follows: Option<String>,
    /// Fields that the upstream must not see: each is set to `null`.
    pub hide: Vec<&'static str>,
}

/// What a request wants of a reply that was stored.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Recall {
    /// It once more, streamed or not.
    Fetch {
        /// The reply's id.
        id: String,
        /// How it is to be streamed; `None` for one JSON.
        stream: Option<Framing>,
    },
    /// That it be forgotten.
    Delete {
        /// The reply's id.
        id: String,
    },
}

/// What an event of a streamed reply means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Step {
    /// More follows.
    More,
    /// The reply is whole; clients stop reading here.
    Last,
    /// The upstream says that it failed; clients stop reading here.
    Failed,
}

/// Puts one reply together, as it comes.
pub trait Assembler: Send {
    /// One event of a stream.
    fn event(&mut self, event: &Event) -> Step;

    /// The whole reply in one JSON body. False for a body that is not a reply.
    fn json(&mut self, body: &Bytes) -> bool;

    /// About how many bytes the reply has so far.
    fn bytes(&self) -> usize;

    /// The reply, or as much of it as came.
    fn finish(self: Box<Self>) -> Reply;
}

/// A reply that was put together.
#[derive(Default)]
#[non_exhaustive]
pub struct Reply {
    /// What the model said, as elements.
    pub elements: Vec<Bytes>,
    /// Whether the model came to its end.
    pub whole: bool,
    /// The id by which a later request may continue from this reply.
    pub id: Option<String>,
    /// What a replay needs besides the elements: ids, usage, reasons.
    pub head: Option<Box<RawValue>>,
}

impl Reply {
    /// A reply of these elements.
    pub fn new(elements: Vec<Bytes>, whole: bool) -> Self {
        Self { elements, whole, id: None, head: None }
    }
}

/// What a retry is answered from.
#[non_exhaustive]
pub struct Replay<'a> {
    /// What the model said.
    pub elements: Vec<Bytes>,
    /// [`Reply::head`] of that time.
    pub head: Option<&'a RawValue>,
    /// How the answer is to be streamed; `None` for one JSON.
    pub stream: Option<Framing>,
}

impl<'a> Replay<'a> {
    /// A retry of a request that was answered with these elements, not streamed.
    pub fn new(elements: Vec<Bytes>, head: Option<&'a RawValue>) -> Self {
        Self { elements, head, stream: None }
    }
}

/// The answer to a retry.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Replayed {
    /// Its content type.
    pub content_type: &'static str,
    /// Its body.
    pub body: Bytes,
}

impl Replayed {
    /// One JSON body.
    pub fn json(body: impl Into<Bytes>) -> Self {
        Self { content_type: "application/json", body: body.into() }
    }

    /// A stream of server-sent events.
    pub fn sse(body: impl Into<Bytes>) -> Self {
        Self { content_type: "text/event-stream", body: body.into() }
    }

    /// A stream of lines.
    pub fn lines(body: impl Into<Bytes>) -> Self {
        Self { content_type: "application/x-ndjson", body: body.into() }
    }
}
