//! No backend was named by this crate's features; the application may have installed its own.

use std::sync::OnceLock;

use jsonwebtoken::crypto::{CryptoProvider, KeyUtils};
use jsonwebtoken::errors::ErrorKind;

/// Refuses, where jsonwebtoken's own stand-in panics.
static REFUSING: CryptoProvider = CryptoProvider {
    signer_factory: |_, _| Err(ErrorKind::UnsupportedAlgorithm.into()),
    verifier_factory: |_, _| Err(ErrorKind::UnsupportedAlgorithm.into()),
    key_utils: KeyUtils::new_unimplemented(),
};

/// Whether signatures can be verified. There is no way to ask jsonwebtoken without making it choose,
/// for the life of the process: it is asked only when the application says that it has chosen.
pub(super) fn is_there(installed_by_application: bool) -> bool {
    static CHOSEN: OnceLock<bool> = OnceLock::new();
    installed_by_application && *CHOSEN.get_or_init(|| REFUSING.install_default().is_err())
}
