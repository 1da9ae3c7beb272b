//! What a client is told: problem details (RFC 9457) without ids, text or causes.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use serde::Serialize;

use crate::error::SessionError;
use crate::identity::IdentityFault;
use crate::store::ErrorKind;

/// The body of an answer to a refused request; the media type is `application/problem+json`.
#[derive(Debug, Serialize)]
struct Problem {
    r#type: &'static str,
    title: &'static str,
    status: u16,
    detail: &'static str,
    /// A word for programs to compare.
    code: &'static str,
}

const UNKNOWN: &str = "There is no such conversation.";

impl SessionError {
    /// The status that a client is answered with.
    pub fn status(&self) -> StatusCode {
        self.told().0
    }

    /// The word that names the error to programs: in the problem details' `code`, and in logs.
    pub fn code(&self) -> &'static str {
        self.told().1
    }

    fn told(&self) -> (StatusCode, &'static str, &'static str) {
        use StatusCode as S;
        let try_again = "The conversation store cannot be reached just now. Try again.";
        match self {
            Self::Identity(error) => match error.fault {
                IdentityFault::Unauthenticated | IdentityFault::Refused => {
                    (S::UNAUTHORIZED, "unauthenticated", "The request does not say who is asking.")
                }
                IdentityFault::Token(_) => (S::UNAUTHORIZED, "invalid_token", "The token does not say who is asking."),
                IdentityFault::NotIssued => (S::NOT_FOUND, "unknown_conversation", UNKNOWN),
                IdentityFault::Disagreement => {
                    (S::BAD_REQUEST, "identity_disagreement", "The request names two different conversations.")
                }
                _ => (S::BAD_REQUEST, "bad_identity", "The conversation or its owner is not named in the right form."),
            },
            Self::MissingConversation => {
                (S::BAD_REQUEST, "missing_conversation", "The request does not name a conversation.")
            }
            Self::UnknownConversation => (S::NOT_FOUND, "unknown_conversation", UNKNOWN),
            Self::IdempotencyKey(_) => {
                (S::BAD_REQUEST, "bad_idempotency_key", "The idempotency key is not in the right form.")
            }
            Self::Overloaded => (S::SERVICE_UNAVAILABLE, "overloaded", "The server is busy. Try again."),
            Self::LoadDeadline(_) => (S::SERVICE_UNAVAILABLE, "store_unavailable", try_again),
            Self::CommitDeadline(_) => (
                S::SERVICE_UNAVAILABLE,
                "outcome_unknown",
                "The turn may or may not be stored. Try again with the same idempotency key.",
            ),
            Self::Load(error) | Self::Commit(error) => match error.kind() {
                ErrorKind::Unavailable => (S::SERVICE_UNAVAILABLE, "store_unavailable", try_again),
                ErrorKind::Ambiguous => (
                    S::SERVICE_UNAVAILABLE,
                    "outcome_unknown",
                    "The turn may or may not be stored. Try again with the same idempotency key.",
                ),
                ErrorKind::Conflict => {
                    (S::CONFLICT, "conflict", "Another turn of this conversation was stored meanwhile.")
                }
                ErrorKind::Gone => {
                    (S::CONFLICT, "conversation_gone", "The conversation was deleted or expired meanwhile.")
                }
                ErrorKind::RolledBack => {
                    (S::SERVICE_UNAVAILABLE, "store_rolled_back", "The conversation store lost data.")
                }
                ErrorKind::Full => {
                    (S::INSUFFICIENT_STORAGE, "store_full", "The conversation store has no room. Nothing was stored.")
                }
                ErrorKind::Corrupt | ErrorKind::NewerVersion => {
                    (S::INTERNAL_SERVER_ERROR, "unreadable", "The stored conversation cannot be read.")
                }
                _ => (S::INTERNAL_SERVER_ERROR, "store_failed", "The conversation store failed."),
            },
            Self::Incomplete(_) => (
                S::INTERNAL_SERVER_ERROR,
                "turn_refused",
                "A message of the turn cannot be stored; nothing was stored.",
            ),
            Self::Discarded | Self::BodyDeadline | Self::Lost => {
                (S::INTERNAL_SERVER_ERROR, "internal", "The turn was not stored.")
            }
        }
    }

    /// The answer, with this error in its extensions.
    pub(crate) fn into_problem(self) -> Response<Bytes> {
        let (status, code, detail) = self.told();
        let title = status.canonical_reason().unwrap_or("Error");
        let problem = Problem { r#type: "about:blank", title, status: status.as_u16(), detail, code };
        let body = serde_json::to_vec(&problem).expect("strings and a number serialise");
        let mut response = Response::new(Bytes::from(body));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        // What a session's request was refused with is nobody else's answer.
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if status == StatusCode::UNAUTHORIZED {
            // RFC 6750: no error is named to those who brought no token.
            let challenge = if code == "invalid_token" { r#"Bearer error="invalid_token""# } else { "Bearer" };
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        }
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response.extensions_mut().insert(self);
        response
    }
}
