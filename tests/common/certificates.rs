//! A certificate authority of the test's own, with a server's and a client's certificate.

use std::path::PathBuf;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tower_session_memory::store::RedisTls;

pub struct Certificates(tempfile::TempDir);

impl Certificates {
    /// Writes `ca.pem`, `server.pem`, `server.key`, `client.pem`, `client.key`, and `stranger.pem`,
    /// an authority that signed none of them.
    pub fn new() -> Self {
        Self::naming(&["localhost", "127.0.0.1"])
    }

    /// The same, of servers that are called like this.
    pub fn naming(names: &[&str]) -> Self {
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
            let names: Vec<String> = names.iter().map(|name| name.to_string()).collect();
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

    /// The settings of a Redis server that serves TLS at this port.
    pub fn settings(&self, port: u16) -> String {
        let path = |name: &str| self.path(name).display().to_string();
        format!(
            "--tls-port {port} --tls-ca-cert-file {} --tls-cert-file {} --tls-key-file {}",
            path("ca.pem"),
            path("server.pem"),
            path("server.key")
        )
    }

    /// What a store trusts that knows these servers' authority alone.
    pub fn trust(&self) -> RedisTls {
        RedisTls::with_ca(&self.read("ca.pem")).expect("a certificate")
    }

    pub fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).expect("it was written")
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).expect("the directory is ours");
    }
}
