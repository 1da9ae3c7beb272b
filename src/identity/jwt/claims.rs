//! The claims of a token whose signature verified. The library's own checks run as well; these are
//! the ones that it leaves out: a missing `iss`, a list as `iss`, an empty `sub`, a name given twice.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, Visitor};
use serde_json::Value;

use crate::identity::{Identity, TokenFault};
use crate::key::{Subject, Tenant};

/// What claims are checked against.
#[derive(Debug)]
pub(super) struct Rules {
    pub(super) issuers: HashSet<String>,
    pub(super) audiences: HashSet<String>,
    pub(super) tenant_claim: Option<String>,
    pub(super) leeway: f64,
}

/// The claims by name. Reading fails when a name is there twice: which one counts would be the
/// parser's choice.
pub(super) struct Claims(BTreeMap<String, Value>);

impl<'de> Deserialize<'de> for Claims {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Names)
    }
}

struct Names;

impl<'de> Visitor<'de> for Names {
    type Value = Claims;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of claims")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Claims, A::Error> {
        let mut claims = BTreeMap::new();
        while let Some((name, value)) = map.next_entry::<String, Value>()? {
            if claims.insert(name, value).is_some() {
                return Err(A::Error::custom("a claim is named twice"));
            }
        }
        Ok(Claims(claims))
    }
}

impl Claims {
    /// Whose token it is, if it is one that `rules` let in now.
    pub(super) fn identity(&self, rules: &Rules) -> Result<Identity, TokenFault> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        if self.date("exp")?.ok_or(TokenFault::Claim("exp"))? + rules.leeway <= now {
            return Err(TokenFault::Expired);
        }
        if self.date("nbf")?.is_some_and(|begin| begin > now + rules.leeway) {
            return Err(TokenFault::NotYetValid);
        }
        let issuer = self.text("iss").ok_or(TokenFault::Claim("iss"))?;
        if !rules.issuers.contains(issuer) {
            return Err(TokenFault::Issuer);
        }
        if !self.audiences().ok_or(TokenFault::Claim("aud"))?.iter().any(|given| rules.audiences.contains(*given)) {
            return Err(TokenFault::Audience);
        }
        let subject = self.text("sub").ok_or(TokenFault::Claim("sub"))?;
        let subject = Subject::from_parts(&[issuer, subject]).map_err(|_| TokenFault::Claim("sub"))?;
        let tenant = match &rules.tenant_claim {
            Some(name) => {
                let tenant = self.text(name).and_then(|tenant| Tenant::new(tenant).ok());
                Some(tenant.ok_or(TokenFault::Claim("tenant"))?)
            }
            None => None,
        };
        Ok(Identity { tenant, subject: Some(subject), ..Identity::none() })
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.as_str().filter(|text| !text.is_empty())
    }

    /// A text, or a list of nothing but texts.
    fn audiences(&self) -> Option<Vec<&str>> {
        match self.0.get("aud")? {
            Value::String(one) => Some(vec![one]),
            Value::Array(list) => list.iter().map(Value::as_str).collect(),
            _ => None,
        }
    }

    /// Seconds since 1970, within what a clock can mean.
    fn date(&self, name: &'static str) -> Result<Option<f64>, TokenFault> {
        const LATEST: f64 = 253_402_300_799.0; // the end of the year 9999
        match self.0.get(name) {
            None => Ok(None),
            Some(value) => match value.as_f64().filter(|seconds| (0.0..=LATEST).contains(seconds)) {
                Some(seconds) => Ok(Some(seconds)),
                None => Err(TokenFault::Claim(name)),
            },
        }
    }
}
