//! Whose conversation it is: a verified token's subject, or a header that a proxy in front sets.

use tower_session_memory::identity::{Header, Scoped};
use tower_session_memory::{SessionMemoryLayer, SharedStore};

use super::options::Options;
use super::upstream::BoxError;

pub(crate) fn layer(store: SharedStore, options: &Options) -> Result<SessionMemoryLayer, BoxError> {
    let conversation = Header::conversation("x-conversation-id");
    match &options.jwks {
        #[cfg(feature = "jwt")]
        Some(path) => {
            use std::error::Error as _;
            use tower_session_memory::identity::{Algorithm, Jwt, JwtError, JwtKeys};
            let fault = |error: JwtError| match error.source() {
                Some(cause) => format!("--jwks {path}: {error}: {cause}"),
                None => format!("--jwks {path}: {error}"),
            };
            let algorithm: Algorithm =
                options.algorithm.parse().map_err(|_| format!("--algorithm {}: no such one", options.algorithm))?;
            let token = Jwt::builder(JwtKeys::jwks_file(path))
                .issuer(options.issuer.clone())
                .audience(options.audience.clone())
                .algorithm(algorithm)
                .build()
                .map_err(fault)?;
            Ok(SessionMemoryLayer::new(store, Scoped::new(token, conversation)))
        }
        #[cfg(not(feature = "jwt"))]
        Some(_) => Err("--jwks: this build has no feature jwt".into()),
        // A proxy in front must set it, and must not let clients set it.
        None => {
            Ok(SessionMemoryLayer::new(store, Scoped::new(Header::subject("x-user-id").trusted_proxy(), conversation)))
        }
    }
}
