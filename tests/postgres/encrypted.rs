//! TLS with a certificate authority of one's own.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tower_session_memory::store::{ErrorKind, PostgresOptions, Store};

use crate::kit::{append, client, key, open, told};
use crate::server::{Server, give};

/// A server with a certificate for this name, and the file of the authority that signed it.
fn server_named(name: &str) -> (Server, PathBuf) {
    let mut authority = PathBuf::new();
    let server = Server::prepared(|dir| {
        authority = certificates(dir, name);
        let file = |name: &str| dir.join(name).display().to_string();
        vec![
            "ssl=on".to_owned(),
            format!("ssl_cert_file={}", file("server.pem")),
            format!("ssl_key_file={}", file("server.key")),
        ]
    });
    (server, authority)
}

fn certificates(dir: &Path, name: &str) -> PathBuf {
    let authority_key = KeyPair::generate().unwrap();
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let certificate = authority.self_signed(&authority_key).unwrap();
    let issuer = Issuer::new(authority, authority_key);
    let server_key = KeyPair::generate().unwrap();
    let server = CertificateParams::new([name.to_owned()]).unwrap().signed_by(&server_key, &issuer).unwrap();
    let write = |file: &str, text: String| {
        let path = dir.join(file);
        std::fs::write(&path, text).unwrap();
        path
    };
    write("server.pem", server.pem());
    let key = write("server.key", server_key.serialize_pem());
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    give(&key);
    write("ca.pem", certificate.pem())
}

#[tokio::test]
async fn a_verified_server_is_talked_to_in_secret() {
    let (server, authority) = server_named("127.0.0.1");
    for mode in ["require", "verify-ca", "verify-full"] {
        let url = format!("{}?sslmode={mode}&sslrootcert={}", server.url(), authority.display());
        let store = open(PostgresOptions::new(&url).unwrap()).await;
        store.append(&key(), &append("hello")).await.unwrap();
        let plain = client(&server).await;
        let seen = "SELECT bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)
                    WHERE application_name = 'tower-session-memory'";
        assert!(plain.query_one(seen, &[]).await.unwrap().get::<_, bool>(0));
    }
}

#[tokio::test]
async fn a_server_that_cannot_be_verified_is_refused() {
    let (server, authority) = server_named("another.example.org");
    let (_, stranger) = server_named("127.0.0.1");
    // Another name, another authority, none of the system's; each is refused before anything is said.
    for parameters in [
        format!("sslmode=require&sslrootcert={}", authority.display()),
        format!("sslmode=require&sslrootcert={}", stranger.display()),
        "sslmode=require".to_owned(),
        "sslmode=require&sslrootcert=/no/such/file".to_owned(),
    ] {
        let options = PostgresOptions::new(&format!("{}?{parameters}", server.url())).unwrap();
        let error = options.connect().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Misconfigured, "{parameters}: {}", told(&error));
    }
}

#[tokio::test]
async fn a_server_without_tls_is_refused_where_tls_is_asked_for() {
    let server = Server::start(&[]);
    let (_with, authority) = server_named("127.0.0.1");
    let url = format!("{}?sslmode=require&sslrootcert={}", server.url(), authority.display());
    let error = PostgresOptions::new(&url).unwrap().connect().await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Misconfigured), "{}", told(&error));
}
