//! A certificate authority of the test's own, with a server's and a client's certificate.

use std::path::PathBuf;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

pub struct Certificates(tempfile::TempDir);

impl Certificates {
    /// Writes `ca.pem`, `server.pem`, `server.key`, `client.pem`, `client.key`, and `stranger.pem`,
    /// an authority that signed none of them.
    pub fn new() -> Self {
        let certificates = Self(tempfile::tempdir().expect("a temporary directory"));
        let authority = |name: &str| {
            let mut params = CertificateParams::new(Vec::new()).expect("no names");
            params.distinguished_name.push(DnType::CommonName, name);
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("self-signed")
        };
        let ca = authority("authority");
        certificates.write("ca.pem", &ca.pem());
        certificates.write("stranger.pem", &authority("stranger").pem());
        for who in ["server", "client"] {
            let key = KeyPair::generate().expect("a key");
            let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
            let mut params = CertificateParams::new(names).expect("good names");
            params.distinguished_name.push(DnType::CommonName, who);
            let certificate = params.signed_by(&key, &ca).expect("signed");
            certificates.write(&format!("{who}.pem"), &certificate.pem());
            certificates.write(&format!("{who}.key"), &key.serialize_pem());
        }
        certificates
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).expect("the directory is ours");
    }
}
