//! TLS by rustls with ring, always verified.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_postgres::config::{Config, Host, SslMode};
use tokio_postgres_rustls::MakeRustlsConnect;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::error::misconfigured;
use crate::store::StoreError;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Plain,
    Verified,
}

impl Mode {
    pub(super) fn of(sslmode: Option<&str>, config: &Config) -> Result<Self, StoreError> {
        match sslmode {
            Some("disable") => Ok(Self::Plain),
            Some("require" | "verify-ca" | "verify-full") => Ok(Self::Verified),
            None if config.get_hosts().iter().all(local) => Ok(Self::Plain),
            None => Ok(Self::Verified),
            Some(_) => Err(misconfigured("sslmode must be disable, require, verify-ca or verify-full")),
        }
    }
}

fn local(host: &Host) -> bool {
    match host {
        Host::Tcp(name) => {
            name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
        }
        #[cfg(unix)]
        Host::Unix(_) => true,
    }
}

/// A connection string without what only this module understands.
pub(super) struct Parsed {
    pub(super) rest: String,
    pub(super) sslmode: Option<String>,
    pub(super) root_certificates: Option<PathBuf>,
}

/// Takes `sslmode` and `sslrootcert` out: the driver knows neither the verifying modes nor files.
pub(super) fn split(url: &str) -> Parsed {
    let mut parsed = Parsed { rest: String::new(), sslmode: None, root_certificates: None };
    let mut keep = |pair: &&str| match pair.split_once('=') {
        Some(("sslmode", mode)) => {
            parsed.sslmode = Some(mode.to_owned());
            false
        }
        Some(("sslrootcert", path)) => {
            parsed.root_certificates = Some(PathBuf::from(path.replace("%2F", "/").replace("%2f", "/")));
            false
        }
        _ => true,
    };
    let is_url = url.starts_with("postgres://") || url.starts_with("postgresql://");
    parsed.rest = match url.split_once('?').filter(|_| is_url) {
        Some((base, query)) => {
            let query: Vec<&str> = query.split('&').filter(&mut keep).collect();
            if query.is_empty() { base.to_owned() } else { format!("{base}?{}", query.join("&")) }
        }
        None if is_url => url.to_owned(),
        None => url.split(' ').filter(&mut keep).collect::<Vec<_>>().join(" "),
    };
    parsed
}

/// The connector; its provider is named, so that no process-wide default is needed or touched.
pub(super) fn connector(
    mode: Mode,
    roots: Option<&Path>,
    config: &mut Config,
) -> Result<MakeRustlsConnect, StoreError> {
    let mut store = RootCertStore::empty();
    match mode {
        Mode::Plain => {
            config.ssl_mode(SslMode::Disable);
        }
        Mode::Verified => {
            config.ssl_mode(SslMode::Require);
            match roots {
                Some(path) => {
                    let unreadable = |_| misconfigured("sslrootcert names no readable PEM file of certificates");
                    for certificate in CertificateDer::pem_file_iter(path).map_err(unreadable)? {
                        store
                            .add(certificate.map_err(unreadable)?)
                            .map_err(|_| misconfigured("sslrootcert holds a certificate that is not an authority's"))?;
                    }
                }
                None => {
                    store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
                }
            }
            if store.is_empty() {
                return Err(misconfigured("no certificate authorities: install the system's or give sslrootcert"));
            }
        }
    }
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let tls = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring speaks TLS 1.2 and 1.3")
        .with_root_certificates(store)
        .with_no_client_auth();
    Ok(MakeRustlsConnect::new(tls))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(url: &str) -> Result<Mode, StoreError> {
        let parsed = split(url);
        Mode::of(parsed.sslmode.as_deref(), &parsed.rest.parse().unwrap())
    }

    #[test]
    fn a_remote_host_means_tls_unless_told_otherwise() {
        assert_eq!(mode("postgres://a@db.example.org/x").unwrap(), Mode::Verified);
        assert_eq!(mode("postgres://a@db.example.org/x?sslmode=disable").unwrap(), Mode::Plain);
        assert_eq!(mode("postgres://a@127.0.0.1/x").unwrap(), Mode::Plain);
        assert_eq!(mode("postgres://a@127.0.0.1/x?sslmode=verify-full&connect_timeout=1").unwrap(), Mode::Verified);
        assert_eq!(mode("host=/run/postgresql user=a").unwrap(), Mode::Plain);
        assert_eq!(mode("host=db.example.org sslmode=verify-ca user=a").unwrap(), Mode::Verified);
        assert!(mode("postgres://a@db.example.org/x?sslmode=prefer").is_err());
    }

    #[test]
    fn a_root_certificate_is_taken_out_of_either_form() {
        for url in ["postgres://a@h/x?sslrootcert=%2Fca.pem&connect_timeout=1", "host=h sslrootcert=/ca.pem"] {
            let parsed = split(url);
            assert_eq!(parsed.root_certificates.as_deref(), Some(Path::new("/ca.pem")));
            assert!(!parsed.rest.contains("sslrootcert"));
            assert!(parsed.rest.parse::<Config>().is_ok());
        }
    }
}
