//! The audit trail, and erasing a subject.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use ring::hmac;
use tokio_postgres::types::Type;

use super::append::{FENCE, Terms};
use super::connect::Connection;
use super::error::failed;
use super::options::Schema;
use super::values::{count, micros};
use crate::key::{SessionKey, Subject, Tenant};
use crate::store::{Operation, StoreError};

const ERASE: &str = "\
SELECT sessions, turns, bytes, at
FROM {schema}.erase_subject($1, $2, $3, $4::float8 * interval '1 microsecond', $5, $6, $7)";

/// Sessions per statement.
const BATCH: i32 = 100;

/// How the audit trail names subjects: by a keyed hash, so that whoever reads the trail without the
/// secret can neither read a name nor try out guesses.
///
/// The same secret gives the same hash; keep it as long as the trail.
#[derive(Clone)]
pub struct AuditTrail(Arc<hmac::Key>);

impl AuditTrail {
    /// A trail whose subjects are hashed with HMAC-SHA-256 under this secret: 32 random bytes or more.
    pub fn new(secret: impl AsRef<[u8]>) -> Self {
        Self(Arc::new(hmac::Key::new(hmac::HMAC_SHA256, secret.as_ref())))
    }

    /// What the column `subject_hash` holds for a subject of a tenant: 64 hexadecimal digits.
    pub fn hash(&self, tenant: Option<&Tenant>, subject: &Subject) -> String {
        // `:` stands in neither part.
        let name = format!("{}:{}", tenant.map_or("", Tenant::encoded), subject.encoded());
        let tag = hmac::sign(&self.0, name.as_bytes());
        tag.as_ref().iter().fold(String::with_capacity(64), |mut hex, byte| {
            use fmt::Write;
            write!(hex, "{byte:02x}").expect("writing to a String cannot fail");
            hex
        })
    }

    pub(super) fn subject_hash(&self, key: &SessionKey) -> Option<String> {
        key.subject().map(|subject| self.hash(key.tenant(), subject))
    }
}

impl fmt::Debug for AuditTrail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AuditTrail(redacted)")
    }
}

/// The receipt of an erasure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Erased {
    /// Sessions that are no more.
    pub sessions: u64,
    /// Their turns.
    pub turns: u64,
    /// Bytes of their messages.
    pub bytes: u64,
    /// When the last of them was erased, by the database's clock.
    pub at: SystemTime,
}

/// Erases all sessions of a subject, in batches that are whole each: if one fails, what came before
/// stays erased, and erasing again does the rest.
pub(super) async fn erase(
    connection: &mut Connection,
    schema: &Schema,
    terms: &Terms,
    tenant: Option<&Tenant>,
    subject: &Subject,
) -> Result<Erased, StoreError> {
    let unreadable = |error: tokio_postgres::Error| failed(&error, Operation::Delete);
    let mut receipt = Erased { sessions: 0, turns: 0, bytes: 0, at: SystemTime::UNIX_EPOCH };
    loop {
        let rows = connection
            .query_unprepared(
                &schema.sql(ERASE),
                &[
                    (&subject.encoded(), Type::TEXT),
                    (&tenant.map(Tenant::encoded), Type::TEXT),
                    (&BATCH, Type::INT4),
                    (&micros(FENCE), Type::FLOAT8),
                    (&terms.audit.is_some(), Type::BOOL),
                    (&terms.commit, Type::TEXT),
                    (&terms.lock_timeout, Type::TEXT),
                ],
                Operation::Delete,
            )
            .await?;
        let Some(row) = rows.first() else { return Ok(receipt) };
        let sessions = count(row.try_get(0).map_err(unreadable)?);
        receipt.sessions += sessions;
        receipt.turns += count(row.try_get(1).map_err(unreadable)?);
        receipt.bytes += count(row.try_get(2).map_err(unreadable)?);
        receipt.at = row.try_get(3).map_err(unreadable)?;
        if sessions == 0 {
            return Ok(receipt);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_depends_on_secret_tenant_and_subject() {
        let (a, b) = (AuditTrail::new([1; 32]), AuditTrail::new([2; 32]));
        let subject = Subject::new("ada").unwrap();
        let tenant = Tenant::new("acme").unwrap();
        assert_eq!(a.hash(None, &subject), a.hash(None, &subject));
        assert_eq!(a.hash(None, &subject).len(), 64);
        assert_ne!(a.hash(None, &subject), b.hash(None, &subject));
        assert_ne!(a.hash(None, &subject), a.hash(Some(&tenant), &subject));
    }
}
