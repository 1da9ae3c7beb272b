//! What a client is told when the layer itself refuses its request.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use serde_json::json;

/// Why a request, or the reply to it, goes no further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The body is not one JSON object with each field once.
    Malformed,
    /// The body is compressed.
    Encoded,
    /// No list of messages.
    NoMessages,
    /// An element that is no strict JSON, or nests too deeply.
    BadMessage,
    /// The body did not come to its end.
    Unread,
    /// The body is larger than the limit.
    TooLarge,
    /// A message, or the turn, is larger than policy allows.
    TurnTooLarge,
    /// Fields contradict each other.
    Contradiction(&'static str),
    /// A reply is named that the conversation does not have.
    UnknownReply,
    /// A reply is to be deleted alone.
    NotDeletable,
    /// The idempotency key was used for another request.
    KeyReused,
    /// The upstream's reply is larger than the limit, broke off, or is in an encoding nobody asked for.
    BadReply,
}

impl Refusal {
    fn told(self) -> (StatusCode, &'static str, &'static str) {
        use StatusCode as S;
        match self {
            Self::Malformed => (S::BAD_REQUEST, "malformed_body", "The body is not one JSON object."),
            Self::Encoded => {
                (S::UNSUPPORTED_MEDIA_TYPE, "encoded_body", "The body must not be compressed: it is to be read.")
            }
            Self::NoMessages => (S::BAD_REQUEST, "no_messages", "The body has no list of messages."),
            Self::BadMessage => (S::BAD_REQUEST, "bad_message", "A message is not strict JSON or nests too deeply."),
            Self::Unread => (S::BAD_REQUEST, "unread_body", "The body could not be read to its end."),
            Self::TooLarge => (S::PAYLOAD_TOO_LARGE, "body_too_large", "The body is larger than the limit."),
            Self::TurnTooLarge => {
                (S::PAYLOAD_TOO_LARGE, "turn_too_large", "The messages are more, or larger, than can be stored.")
            }
            Self::Contradiction(detail) => (S::BAD_REQUEST, "contradiction", detail),
            Self::UnknownReply => {
                (S::NOT_FOUND, "previous_response_not_found", "The conversation has no reply of that id.")
            }
            Self::NotDeletable => (
                S::METHOD_NOT_ALLOWED,
                "response_not_deletable",
                "A reply is kept with its conversation, and deleted with it.",
            ),
            Self::KeyReused => {
                (S::UNPROCESSABLE_ENTITY, "idempotency_key_reused", "The idempotency key was used for another request.")
            }
            Self::BadReply => (S::BAD_GATEWAY, "bad_reply", "The model's reply could not be read; nothing was stored."),
        }
    }

    pub(super) fn code(self) -> &'static str {
        self.told().1
    }

    /// Problem details, with a member `error` beside them where LLM clients look for words.
    pub(super) fn into_response(self) -> Response<Bytes> {
        let (status, code, detail) = self.told();
        let title = status.canonical_reason().unwrap_or("Error");
        let body = json!({
            "type": "about:blank", "title": title, "status": status.as_u16(), "detail": detail, "code": code,
            "error": {"type": code, "code": code, "message": detail},
        });
        let mut response = Response::new(Bytes::from(body.to_string()));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if status == StatusCode::METHOD_NOT_ALLOWED {
            headers.insert(header::ALLOW, HeaderValue::from_static("GET"));
        }
        response
    }
}
