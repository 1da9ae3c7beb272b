//! What signs the ids that this server gives to clients.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// The secrets that cookies and signed ids are made with: the newest signs, older ones still verify.
///
/// To rotate, put a fresh secret first and keep the old one for as long as clients may hold ids made
/// with it. Whoever comes with such an id is given it anew under the newest secret, if the policy's
/// [`OnMissing::Mint`](crate::OnMissing::Mint) says in which header.
///
/// ```
/// use tower_session_memory::identity::Secrets;
///
/// # let (new, old) = ([1; 32], [2; 32]);
/// let secrets = Secrets::new(new)?.or_older(old)?;
/// # Ok::<(), tower_session_memory::identity::SecretTooShort>(())
/// ```
#[derive(Clone)]
pub struct Secrets(Vec<Vec<u8>>);

/// A secret of less than 32 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a secret needs at least {} random bytes", Secrets::MIN_BYTES)]
#[non_exhaustive]
pub struct SecretTooShort;

impl Secrets {
    /// The fewest bytes of a secret.
    pub const MIN_BYTES: usize = 32;

    /// One secret: at least 32 random bytes, the same on every instance.
    ///
    /// # Errors
    /// [`SecretTooShort`].
    pub fn new(secret: impl AsRef<[u8]>) -> Result<Self, SecretTooShort> {
        Self(Vec::new()).or_older(secret)
    }

    /// Also takes ids that were made with an older secret.
    ///
    /// # Errors
    /// [`SecretTooShort`].
    pub fn or_older(mut self, secret: impl AsRef<[u8]>) -> Result<Self, SecretTooShort> {
        let secret = secret.as_ref();
        if secret.len() < Self::MIN_BYTES {
            return Err(SecretTooShort);
        }
        self.0.push(secret.to_vec());
        Ok(self)
    }

    /// A key for one purpose from each secret, newest first: what is signed for one use is worth
    /// nothing in another.
    pub(super) fn derive<'a>(&'a self, purpose: &'a str) -> impl Iterator<Item = [u8; 32]> + 'a {
        self.0.iter().map(move |secret| {
            let mut mac = keyed(secret);
            mac.update(b"tower-session-memory ");
            mac.update(purpose.as_bytes());
            mac.finalize().into_bytes().into()
        })
    }
}

/// HMAC-SHA-256 under a key of any length.
pub(super) fn keyed(key: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("HMAC takes keys of any length")
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secrets({})", self.0.len())
    }
}
