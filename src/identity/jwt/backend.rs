//! The backend that this crate's features name.

#[cfg(feature = "jwt-aws-lc")]
use jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER;
#[cfg(not(feature = "jwt-aws-lc"))]
use jsonwebtoken::crypto::rust_crypto::DEFAULT_PROVIDER;

/// Whether signatures can be verified. With several backends compiled in, jsonwebtoken would panic
/// at the first token unless one is chosen; one that the application installed stays.
pub(super) fn is_there(_installed_by_application: bool) -> bool {
    let _ = DEFAULT_PROVIDER.install_default();
    true
}
