//! TLS to the servers, with a provider of our own choice: never the process's default, which
//! another part of the program may have set, or nobody.

use std::fmt;
use std::sync::Arc;

use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::failure::{Failure, Note};
use crate::store::{Operation, StoreError};

/// Whom to trust, and who we are, on `rediss://` connections.
///
/// ```
/// use tower_session_memory::store::RedisTls;
///
/// # fn tls(ca: &[u8], certificate: &[u8], key: &[u8]) -> Result<RedisTls, tower_session_memory::StoreError> {
/// let tls = RedisTls::with_ca(ca)?.identity(certificate, key)?;
/// # Ok(tls) }
/// ```
#[derive(Clone)]
pub struct RedisTls {
    roots: Arc<RootCertStore>,
    identity: Option<Arc<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>>,
}

impl RedisTls {
    /// Trusts the operating system's certificate authorities: what `rediss://` does when nothing
    /// else is said.
    ///
    /// # Errors
    /// [`Misconfigured`](crate::store::ErrorKind::Misconfigured) when the system has none.
    pub fn system() -> Result<Self, StoreError> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        Self::trusting(roots, "the system has no certificate authorities")
    }

    /// Trusts only these certificate authorities: one or more certificates in PEM form.
    ///
    /// # Errors
    /// [`Misconfigured`](crate::store::ErrorKind::Misconfigured) when there is no certificate in it.
    pub fn with_ca(pem: &[u8]) -> Result<Self, StoreError> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(CertificateDer::pem_slice_iter(pem).flatten());
        Self::trusting(roots, "the PEM text has no certificate in it")
    }

    fn trusting(roots: RootCertStore, otherwise: &str) -> Result<Self, StoreError> {
        if roots.is_empty() {
            return Err(wrong(otherwise));
        }
        Ok(Self { roots: Arc::new(roots), identity: None })
    }

    /// Presents this client certificate: the chain and its key in PEM form.
    ///
    /// # Errors
    /// [`Misconfigured`](crate::store::ErrorKind::Misconfigured) when either cannot be read.
    pub fn identity(mut self, chain_pem: &[u8], key_pem: &[u8]) -> Result<Self, StoreError> {
        let chain: Vec<_> = CertificateDer::pem_slice_iter(chain_pem).flatten().collect();
        let key = PrivateKeyDer::from_pem_slice(key_pem).map_err(|_| wrong("the PEM text has no private key in it"))?;
        if chain.is_empty() {
            return Err(wrong("the PEM text has no client certificate in it"));
        }
        self.identity = Some(Arc::new((chain, key)));
        Ok(self)
    }

    pub(super) fn client_config(&self) -> Result<Arc<ClientConfig>, Failure> {
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(Failure::misconfigured)?
            .with_root_certificates(self.roots.clone());
        let config = match &self.identity {
            None => builder.with_no_client_auth(),
            Some(identity) => builder
                .with_client_auth_cert(identity.0.clone(), identity.1.clone_key())
                .map_err(Failure::misconfigured)?,
        };
        Ok(Arc::new(config))
    }
}

fn wrong(why: &str) -> StoreError {
    Failure::misconfigured(Note(why.to_owned())).into_error(Operation::Open)
}

impl fmt::Debug for RedisTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisTls")
            .field("authorities", &self.roots.len())
            .field("identity", &self.identity.is_some())
            .finish()
    }
}
