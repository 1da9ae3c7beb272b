//! Extractors for axum: `ChatSession` and `Option<ChatSession>`.

use axum_core::extract::{FromRequestParts, OptionalFromRequestParts};
use axum_core::response::{IntoResponse, Response};
use http::StatusCode;
use http::request::Parts;

use crate::error::{AppendError, SessionError};
use crate::service::Bypassed;
use crate::session::ChatSession;

/// Why a handler did not get its [`ChatSession`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SessionRejection {
    /// No [`SessionMemoryLayer`](crate::SessionMemoryLayer) around the route: 500.
    #[error(
        "no ChatSession in the request: is SessionMemoryLayer mounted on this route? `Router::layer` covers \
         only the routes that were added before it, and a layer added later runs earlier"
    )]
    MissingLayer,
    /// The request names no conversation and policy let it through: 400. Take an
    /// `Option<ChatSession>` where that is meant.
    #[error("the request names no conversation")]
    NoSession,
}

impl IntoResponse for SessionRejection {
    fn into_response(self) -> Response {
        match self {
            Self::MissingLayer => {
                tracing::error!("{self}");
                (StatusCode::INTERNAL_SERVER_ERROR, self.to_string()).into_response()
            }
            Self::NoSession => SessionError::MissingConversation.into_response(),
        }
    }
}

/// Answers with problem details, so that handlers may return it with `?`.
impl IntoResponse for SessionError {
    fn into_response(self) -> Response {
        self.into_problem().map(Into::into)
    }
}

/// 413 for what is too large, 500 for what the handler did wrong.
impl IntoResponse for AppendError {
    fn into_response(self) -> Response {
        let status = match self {
            Self::MessageTooLarge { .. } | Self::TooManyMessages { .. } | Self::TurnTooLarge { .. } => {
                StatusCode::PAYLOAD_TOO_LARGE
            }
            Self::Sealed | Self::Role => StatusCode::INTERNAL_SERVER_ERROR,
        };
        (status, self.to_string()).into_response()
    }
}

impl<S: Sync> FromRequestParts<S> for ChatSession {
    type Rejection = SessionRejection;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, SessionRejection> {
        match parts.extensions.get::<Self>() {
            Some(session) => Ok(session.clone()),
            None if parts.extensions.get::<Bypassed>().is_some() => Err(SessionRejection::NoSession),
            None => Err(SessionRejection::MissingLayer),
        }
    }
}

impl<S: Sync> OptionalFromRequestParts<S> for ChatSession {
    type Rejection = SessionRejection;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Option<Self>, SessionRejection> {
        match <Self as FromRequestParts<S>>::from_request_parts(parts, state).await {
            Ok(session) => Ok(Some(session)),
            Err(SessionRejection::NoSession) => Ok(None),
            Err(error) => Err(error),
        }
    }
}
