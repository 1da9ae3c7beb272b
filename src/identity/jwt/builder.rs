//! What a verifier is told, and what is wrong with it, before the first request.

use std::collections::HashSet;
use std::time::Duration;

use jsonwebtoken::{Algorithm, Validation};

use super::backend;
use super::claims::Rules;
use super::keys::JwtKeys;
use super::verify::Jwt;

/// The most leeway that may be set: more would make a clock's fault a way in.
const MAX_LEEWAY: Duration = Duration::from_secs(30);

/// Settings of a [`Jwt`]; from [`Jwt::builder`].
#[derive(Debug, Clone)]
#[must_use]
pub struct JwtBuilder {
    keys: JwtKeys,
    issuers: HashSet<String>,
    audiences: HashSet<String>,
    algorithms: Vec<Algorithm>,
    tenant_claim: Option<String>,
    typ: Option<String>,
    leeway: Duration,
    installed_backend: bool,
}

/// A verifier that cannot be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JwtError {
    /// No `issuer`, `audience` or `algorithm` was named, or an empty one.
    #[error("tokens need at least one {0} that they are checked against")]
    Missing(&'static str),
    /// Algorithms of several families: one key must never serve two of them.
    #[error("the algorithms are of more than one family")]
    MixedFamilies,
    /// More leeway than 30 seconds.
    #[error("the leeway is longer than 30 seconds")]
    Leeway,
    /// A key that cannot be read, does not fit the algorithms, or is too weak for them.
    #[error("the key: {0}")]
    Key(&'static str),
    /// The file of keys cannot be read.
    #[error("the file of keys cannot be read")]
    File(#[source] std::io::Error),
    /// This build can verify no signature.
    #[error(
        "no backend verifies signatures in this build: enable the feature `jwt-rust-crypto` or `jwt-aws-lc`, or \
         install a provider of jsonwebtoken and say installed_backend()"
    )]
    NoBackend,
}

impl JwtBuilder {
    pub(super) fn new(keys: JwtKeys) -> Self {
        Self {
            keys,
            issuers: HashSet::new(),
            audiences: HashSet::new(),
            algorithms: Vec::new(),
            tenant_claim: None,
            typ: None,
            leeway: MAX_LEEWAY,
            installed_backend: false,
        }
    }

    /// Accepts tokens whose `iss` is this text, exactly. Needed; several may be named.
    pub fn issuer(mut self, issuer: impl Into<String>) -> Self {
        self.issuers.insert(issuer.into());
        self
    }

    /// Accepts tokens whose `aud` is this text, or a list with it. Needed; several may be named.
    pub fn audience(mut self, audience: impl Into<String>) -> Self {
        self.audiences.insert(audience.into());
        self
    }

    /// Accepts tokens signed with this algorithm. Needed; several of one family may be named.
    pub fn algorithm(mut self, algorithm: Algorithm) -> Self {
        self.algorithms.push(algorithm);
        self
    }

    /// Reads the tenant from this claim, a text, which every token must then have.
    pub fn tenant_claim(mut self, claim: impl Into<String>) -> Self {
        self.tenant_claim = Some(claim.into());
        self
    }

    /// Accepts only tokens whose `typ` header is this, such as `at+jwt` (RFC 9068): an ID token of
    /// the same issuer is then no access token. Case and a leading `application/` do not matter.
    pub fn typ(mut self, typ: impl Into<String>) -> Self {
        self.typ = Some(typ.into());
        self
    }

    /// How far clocks may differ. Default, and at most: 30 seconds.
    pub fn leeway(mut self, leeway: Duration) -> Self {
        self.leeway = leeway;
        self
    }

    /// States that the application has called `jsonwebtoken::crypto::CryptoProvider::install_default`
    /// with a backend of its own.
    pub fn installed_backend(mut self) -> Self {
        self.installed_backend = true;
        self
    }

    /// Checks everything that can be checked without a token.
    ///
    /// # Errors
    /// [`JwtError`] that says what is missing or wrong.
    pub fn build(self) -> Result<Jwt, JwtError> {
        let named = |names: &HashSet<String>| !names.is_empty() && !names.contains("");
        if !named(&self.issuers) {
            return Err(JwtError::Missing("issuer"));
        }
        if !named(&self.audiences) {
            return Err(JwtError::Missing("audience"));
        }
        let family = self.algorithms.first().ok_or(JwtError::Missing("algorithm"))?.family();
        if self.algorithms.iter().any(|algorithm| algorithm.family() != family) {
            return Err(JwtError::MixedFamilies);
        }
        if self.leeway > MAX_LEEWAY {
            return Err(JwtError::Leeway);
        }
        if !backend::is_there(self.installed_backend) {
            return Err(JwtError::NoBackend);
        }
        let keys = self.keys.open(&self.algorithms)?;

        let mut validation = Validation {
            algorithms: self.algorithms,
            leeway: self.leeway.as_secs(),
            validate_nbf: true,
            iss: Some(self.issuers.clone()),
            aud: Some(self.audiences.clone()),
            ..Validation::default()
        };
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        let rules = Rules {
            issuers: self.issuers,
            audiences: self.audiences,
            tenant_claim: self.tenant_claim,
            leeway: self.leeway.as_secs_f64(),
        };
        Ok(Jwt::new(keys, validation, rules, self.typ.map(|typ| bare_type(&typ))))
    }
}

/// A media type without what RFC 7515 lets tokens leave out.
pub(super) fn bare_type(typ: &str) -> String {
    let typ = typ.to_ascii_lowercase();
    typ.strip_prefix("application/").map(str::to_owned).unwrap_or(typ)
}
