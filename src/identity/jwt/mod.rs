//! Verified bearer tokens.
//!
//! What is checked, for every request, before anything of the token is believed:
//!
//! * one `Authorization` header, scheme `Bearer` in any case, one space, three parts of base64url;
//! * `alg` is on the list, which holds algorithms of one family: `none`, and an HMAC made with a
//!   public key, never fit;
//! * `kid` only looks up a key among those that were configured; `jku`, `x5u`, `x5c` and `jwk` are not
//!   read, a `crit` header is refused; `typ` is compared when asked for;
//! * the signature;
//! * `exp`, `iss`, `aud` and `sub` are there, of the right type and not empty; `nbf` has come, if it is
//!   there; no claim is named twice.
//!
//! The subject is the pair of `iss` and `sub`: the same `sub` of another issuer is somebody else.
//!
//! ```
//! use tower_session_memory::identity::{Algorithm, Header, Jwt, JwtKeys, Scoped};
//!
//! # let path = std::env::temp_dir().join(format!("doc-{}.json", std::process::id()));
//! # std::fs::write(&path, r#"{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"a","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#)?;
//! let token = Jwt::builder(JwtKeys::jwks_file(&path))
//!     .issuer("https://login.example.org/")
//!     .audience("chat-api")
//!     .algorithm(Algorithm::EdDSA)
//!     .build();
//! # std::fs::remove_file(&path)?;
//! match token {
//!     Ok(token) => drop(Scoped::new(token, Header::conversation("x-conversation-id"))),
//!     // Say which backend verifies signatures: `jwt-rust-crypto` or `jwt-aws-lc`.
//!     Err(error) => eprintln!("{error}"),
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Keys that change
//! [`JwtKeys::jwks_file`] looks at the file's time and size at most once a second, when a request comes,
//! without a thread: a `stat` of a local file, and a read of a few kilobytes when it changed. A file
//! that cannot be read or holds no usable key changes nothing: the old keys stay, and the log says so.
//! Have whatever talks to your issuer write the file beside it and rename it into place.

#[cfg(any(feature = "jwt-aws-lc", feature = "jwt-rust-crypto"))]
mod backend;
#[cfg(not(any(feature = "jwt-aws-lc", feature = "jwt-rust-crypto")))]
#[path = "no_backend.rs"]
mod backend;
mod builder;
mod claims;
mod file;
mod keys;
mod verify;

pub use jsonwebtoken::Algorithm;

pub use self::builder::{JwtBuilder, JwtError};
pub use self::keys::JwtKeys;
pub use self::verify::Jwt;
