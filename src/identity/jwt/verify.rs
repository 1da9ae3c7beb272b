//! From an `Authorization` header to a subject.

use std::borrow::Cow;
use std::fmt;

use http::header::AUTHORIZATION;
use http::request::Parts;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Validation, decode, decode_header};

use super::builder::{JwtBuilder, bare_type};
use super::claims::{Claims, Rules};
use super::keys::{JwtKeys, OpenKeys};
use crate::identity::header::single;
use crate::identity::{Identify, Identity, IdentityError, IdentityFault, TokenFault};

/// The longest token that is looked at, in bytes. Whatever is longer is refused unread.
const MAX_BYTES: usize = 16 << 10;

/// The subject, and the tenant if a claim is named for it, of a verified bearer token.
///
/// A request without an `Authorization` header of scheme `Bearer` has no identity from here; scope the
/// conversation by it, and such a request is refused with 401. A token that does not verify is refused
/// with 401, whatever else names the request's owner. See the [module's docs](super) for the rules.
pub struct Jwt {
    keys: OpenKeys,
    validation: Validation,
    rules: Rules,
    typ: Option<String>,
}

impl Jwt {
    /// Begins a verifier that trusts these keys.
    pub fn builder(keys: JwtKeys) -> JwtBuilder {
        JwtBuilder::new(keys)
    }

    pub(super) fn new(keys: OpenKeys, validation: Validation, rules: Rules, typ: Option<String>) -> Self {
        Self { keys, validation, rules, typ }
    }

    fn verify(&self, token: &str) -> Result<Identity, TokenFault> {
        if token.len() > MAX_BYTES {
            return Err(TokenFault::TooLong);
        }
        if token.split('.').count() != 3 {
            return Err(TokenFault::Malformed);
        }
        // An unknown algorithm, `none` among them, is no header to the library.
        let header = decode_header(token).map_err(|_| TokenFault::Malformed)?;
        if !self.validation.algorithms.contains(&header.alg) {
            return Err(TokenFault::Algorithm);
        }
        // An extension that must be understood, or a token within the token.
        if header.crit.is_some() || header.cty.is_some_and(|cty| bare_type(&cty) == "jwt") {
            return Err(TokenFault::Malformed);
        }
        if let Some(expected) = &self.typ
            && header.typ.as_deref().map(bare_type).as_ref() != Some(expected)
        {
            return Err(TokenFault::Type);
        }
        let keys = self.keys.current();
        let key = keys.find(header.kid.as_deref(), header.alg).ok_or(TokenFault::UnknownKey)?;
        let token = decode::<Claims>(token, key, &self.validation).map_err(|error| fault(error.kind()))?;
        token.claims.identity(&self.rules)
    }
}

/// The library's word as ours.
fn fault(error: &ErrorKind) -> TokenFault {
    let claim = |name: &str| {
        TokenFault::Claim(match name {
            "exp" => "exp",
            "nbf" => "nbf",
            "iss" => "iss",
            "aud" => "aud",
            _ => "sub",
        })
    };
    match error {
        ErrorKind::MissingRequiredClaim(name) | ErrorKind::InvalidClaimFormat(name) => claim(name),
        ErrorKind::ExpiredSignature => TokenFault::Expired,
        ErrorKind::ImmatureSignature => TokenFault::NotYetValid,
        ErrorKind::InvalidIssuer => TokenFault::Issuer,
        ErrorKind::InvalidAudience => TokenFault::Audience,
        ErrorKind::InvalidSubject => TokenFault::Claim("sub"),
        ErrorKind::Json(_) | ErrorKind::Utf8(_) | ErrorKind::Base64(_) | ErrorKind::InvalidToken => {
            TokenFault::Malformed
        }
        _ => TokenFault::Signature,
    }
}

/// What follows the scheme; `None` for another scheme.
fn bearer(value: &str) -> Option<Result<&str, TokenFault>> {
    let (scheme, token) = value.split_once(' ').unwrap_or((value, ""));
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let well_formed = !token.is_empty() && !token.contains([' ', '\t']);
    Some(if well_formed { Ok(token) } else { Err(TokenFault::Malformed) })
}

impl Identify for Jwt {
    fn identify(&self, parts: &Parts) -> Result<Identity, IdentityError> {
        let read = || -> Result<Identity, IdentityFault> {
            let value = match single(&parts.headers, &AUTHORIZATION) {
                Err(IdentityFault::Encoding) => return Err(TokenFault::Malformed.into()),
                value => value?,
            };
            match value.and_then(bearer) {
                Some(token) => Ok(self.verify(token?)?),
                None => Ok(Identity::none()),
            }
        };
        read().map_err(|fault| IdentityError::new(self.describe(), fault))
    }

    fn describe(&self) -> Cow<'static, str> {
        Cow::Borrowed("bearer token")
    }

    fn is_verified(&self) -> bool {
        true
    }
}

impl fmt::Debug for Jwt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { keys, validation, rules, typ } = self;
        f.debug_struct("Jwt")
            .field("keys", keys)
            .field("algorithms", &validation.algorithms)
            .field("rules", rules)
            .field("typ", typ)
            .finish()
    }
}
