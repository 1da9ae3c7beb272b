//! The keys that tokens are verified with.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, DecodingKeyKind};
use serde::Deserialize;
use serde_json::Value;

use super::builder::JwtError;
use super::file::KeyFile;

/// Where the keys come from. They are read when the verifier is built.
#[derive(Clone)]
pub struct JwtKeys(Source);

#[derive(Clone)]
enum Source {
    Secret(Vec<u8>),
    Pem(Vec<u8>),
    Jwks(String),
    File(PathBuf),
}

impl JwtKeys {
    /// A secret that this server shares with the issuer, for `HS256` and its kin: at least as many
    /// bytes as the algorithm's hash (32, 48, 64). Whoever has it can make tokens.
    pub fn secret(secret: impl Into<Vec<u8>>) -> Self {
        Self(Source::Secret(secret.into()))
    }

    /// One public key in PEM, RSA (2048 bits or more), elliptic curve or Ed25519, as the algorithms
    /// say. A token's `kid` does not matter.
    pub fn pem(pem: impl Into<Vec<u8>>) -> Self {
        Self(Source::Pem(pem.into()))
    }

    /// A JSON Web Key Set. A token must name one of its keys by `kid`, unless there is only one that
    /// fits the algorithm. Keys that are not for verifying with these algorithms are left out.
    pub fn jwks(document: impl Into<String>) -> Self {
        Self(Source::Jwks(document.into()))
    }

    /// A file with a JSON Web Key Set, read again when it changes; see the [module's docs](super).
    pub fn jwks_file(path: impl Into<PathBuf>) -> Self {
        Self(Source::File(path.into()))
    }

    pub(super) fn open(self, algorithms: &[Algorithm]) -> Result<OpenKeys, JwtError> {
        let fixed = |keys: KeySet| OpenKeys::Fixed(Arc::new(keys));
        match self.0 {
            Source::Secret(secret) => KeySet::one(DecodingKey::from_secret(&secret), algorithms).map(fixed),
            Source::Pem(pem) => {
                let key = match algorithms.first().map(|algorithm| algorithm.family()) {
                    Some(AlgorithmFamily::Rsa) => DecodingKey::from_rsa_pem(&pem),
                    Some(AlgorithmFamily::Ec) => DecodingKey::from_ec_pem(&pem),
                    Some(AlgorithmFamily::Ed) => DecodingKey::from_ed_pem(&pem),
                    Some(AlgorithmFamily::Hmac) | None => {
                        return Err(JwtError::Key("a public key cannot verify an HMAC"));
                    }
                };
                let key = key.map_err(|_| JwtError::Key("is not a public key in PEM that the algorithms take"))?;
                KeySet::one(key, algorithms).map(fixed)
            }
            Source::Jwks(document) => KeySet::of_document(document.as_bytes(), algorithms).map(fixed),
            Source::File(path) => KeyFile::open(path, algorithms.to_vec()).map(OpenKeys::File),
        }
    }
}

/// Keys in use.
#[derive(Debug)]
pub(super) enum OpenKeys {
    Fixed(Arc<KeySet>),
    File(KeyFile),
}

impl OpenKeys {
    pub(super) fn current(&self) -> Arc<KeySet> {
        match self {
            Self::Fixed(keys) => keys.clone(),
            Self::File(file) => file.current(),
        }
    }
}

/// Keys of one family.
pub(super) struct KeySet {
    keys: Vec<Entry>,
    /// Whether tokens must tell the keys apart.
    named: bool,
}

struct Entry {
    id: Option<String>,
    /// The algorithms that this very key may verify.
    algorithms: Vec<Algorithm>,
    key: DecodingKey,
}

/// A set, with keys that are not understood left as they are: they must not spoil the others.
#[derive(Deserialize)]
struct Document {
    keys: Vec<Value>,
}

impl KeySet {
    fn one(key: DecodingKey, algorithms: &[Algorithm]) -> Result<Self, JwtError> {
        if !algorithms.iter().all(|algorithm| fits(&key, *algorithm)) {
            return Err(JwtError::Key("does not fit the algorithms, or is too short for them"));
        }
        Ok(Self { keys: vec![Entry { id: None, algorithms: algorithms.to_vec(), key }], named: false })
    }

    pub(super) fn of_document(document: &[u8], algorithms: &[Algorithm]) -> Result<Self, JwtError> {
        let document: Document =
            serde_json::from_slice(document).map_err(|_| JwtError::Key("is not a JSON Web Key Set"))?;
        let keys =
            document.keys.into_iter().filter_map(|key| Entry::of_jwk(serde_json::from_value(key).ok()?, algorithms));
        let keys: Vec<Entry> = keys.collect();
        if keys.is_empty() {
            return Err(JwtError::Key("the set holds no key that the algorithms take"));
        }
        for (index, entry) in keys.iter().enumerate() {
            if entry.id.is_some() && keys[..index].iter().any(|other| other.id == entry.id) {
                return Err(JwtError::Key("the set holds two keys of one id"));
            }
        }
        Ok(Self { keys, named: true })
    }

    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    /// The key to verify with: the one of this id, or the only one there is.
    pub(super) fn find(&self, id: Option<&str>, algorithm: Algorithm) -> Option<&DecodingKey> {
        let mut fitting = self.keys.iter().filter(|entry| entry.algorithms.contains(&algorithm));
        match id.filter(|_| self.named) {
            Some(id) => fitting.find(|entry| entry.id.as_deref() == Some(id)).map(|entry| &entry.key),
            None => match (fitting.next(), fitting.next()) {
                (Some(only), None) => Some(&only.key),
                _ => None,
            },
        }
    }
}

impl Entry {
    fn of_jwk(jwk: Jwk, algorithms: &[Algorithm]) -> Option<Self> {
        let common = &jwk.common;
        let for_signatures = common.public_key_use.as_ref().is_none_or(|usage| *usage == PublicKeyUse::Signature);
        let operations = common.key_operations.as_ref();
        let for_verifying = operations.is_none_or(|operations| operations.contains(&KeyOperations::Verify));
        if !for_signatures || !for_verifying || !curve_is_known(&jwk.algorithm) {
            return None;
        }
        let key = DecodingKey::from_jwk(&jwk).ok()?;
        let own = common.key_algorithm;
        let takes = |algorithm: &Algorithm| own.is_none_or(|own| own == (*algorithm).into()) && fits(&key, *algorithm);
        let algorithms: Vec<Algorithm> = algorithms.iter().copied().filter(takes).collect();
        (!algorithms.is_empty()).then(|| Self { id: jwk.common.key_id, algorithms, key })
    }
}

fn curve_is_known(parameters: &AlgorithmParameters) -> bool {
    match parameters {
        AlgorithmParameters::EllipticCurve(ec) => matches!(ec.curve, EllipticCurve::P256 | EllipticCurve::P384),
        AlgorithmParameters::OctetKeyPair(pair) => pair.curve == EllipticCurve::Ed25519,
        _ => true,
    }
}

/// Whether a key is of the algorithm's family, of its curve, and long enough for it.
fn fits(key: &DecodingKey, algorithm: Algorithm) -> bool {
    if key.family() != algorithm.family() {
        return false;
    }
    let bytes = match key.kind() {
        DecodingKeyKind::SecretOrDer(bytes) => bytes.len(),
        DecodingKeyKind::RsaModulusExponent { n, .. } => n.len(),
    };
    match algorithm {
        // RFC 7518: at least as long as the hash.
        Algorithm::HS256 => bytes >= 32,
        Algorithm::HS384 => bytes >= 48,
        Algorithm::HS512 => bytes >= 64,
        // An uncompressed point.
        Algorithm::ES256 => bytes == 65,
        Algorithm::ES384 => bytes == 97,
        Algorithm::EdDSA => bytes == 32,
        // A modulus of 2048 bits, bare or within a few bytes of DER.
        _ => bytes >= 256,
    }
}

impl fmt::Debug for JwtKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Source::Secret(_) => f.write_str("JwtKeys::secret(redacted)"),
            Source::Pem(_) => f.write_str("JwtKeys::pem"),
            Source::Jwks(_) => f.write_str("JwtKeys::jwks"),
            Source::File(_) => f.write_str("JwtKeys::jwks_file"),
        }
    }
}

impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeySet").field("keys", &self.len()).finish_non_exhaustive()
    }
}
