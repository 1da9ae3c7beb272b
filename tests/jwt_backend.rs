//! Which backend verifies signatures is the application's choice, and its absence an error when the
//! verifier is built. Run with `--features jwt` alone, and with each backend.

use tower_session_memory::identity::{Algorithm, Header, Identify, Jwt, JwtBuilder, JwtError, JwtKeys, Scoped};

fn settings() -> JwtBuilder {
    Jwt::builder(JwtKeys::secret([1; 32])).issuer("issuer").audience("audience").algorithm(Algorithm::HS256)
}

#[test]
fn a_build_without_a_backend_is_an_error_not_a_panic_at_the_first_request() {
    let chosen = cfg!(any(feature = "jwt-aws-lc", feature = "jwt-rust-crypto"));
    for built in [settings().build(), settings().installed_backend().build(), settings().installed_backend().build()] {
        match built {
            Ok(verifier) => {
                assert!(chosen, "nobody has installed a backend");
                let mut request = http::Request::new(());
                // {"alg":"HS256"}.{}.
                request
                    .headers_mut()
                    .insert("authorization", "Bearer eyJhbGciOiJIUzI1NiJ9.e30.AAAA".parse().expect("ASCII"));
                let identity = Scoped::new(verifier, Header::conversation("x-conversation-id"));
                assert!(identity.identify(&request.into_parts().0).is_err());
            }
            Err(error) => {
                assert!(!chosen && matches!(error, JwtError::NoBackend), "{error}");
                assert!(error.to_string().contains("jwt-rust-crypto"), "the error names the cure");
            }
        }
    }
}
