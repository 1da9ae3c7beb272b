//! How values of this crate are written as PostgreSQL's.

use std::error::Error;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::{Bytes, BytesMut};
use sha2::{Digest, Sha256};
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, accepts, to_sql_checked};
use uuid::Uuid;

use crate::key::SessionKey;

/// The session's row: the hash that logs show of it, continued to 128 bits, so that keys of any length
/// fit an index. Two keys with the same 128 bits are not to be found, and if they were, a turn of
/// the one would fail its checksum under the other.
pub(super) fn session_id(key: &SessionKey) -> Uuid {
    let digest = Sha256::new().chain_update(b"tower-session-memory session\0").chain_update(key.encoded()).finalize();
    let mut id = [0; 16];
    id.copy_from_slice(&digest[..16]);
    Uuid::from_bytes(id)
}

/// Counts and sizes: `bigint` has no sign to spare, and nothing real is that large.
pub(super) fn bigint(count: impl TryInto<i64>) -> i64 {
    count.try_into().unwrap_or(i64::MAX)
}

pub(super) fn count(bigint: i64) -> u64 {
    bigint.try_into().unwrap_or(0)
}

/// A span as microseconds for `* interval '1 microsecond'`; at most 1,000 years, which a
/// `timestamptz` still holds when added to now.
pub(super) fn micros(span: Duration) -> f64 {
    span.min(Duration::from_secs(1_000 * 365 * 86_400)).as_micros() as f64
}

/// A time that a `timestamptz` holds, whatever the clock said: at most the year 9999.
pub(super) fn timestamp(at: SystemTime) -> SystemTime {
    at.min(UNIX_EPOCH + Duration::from_secs(253_402_300_799))
}

/// A value of type `json`, byte for byte.
#[derive(Debug)]
pub(super) struct Json<T>(pub(super) T);

impl ToSql for Json<&[u8]> {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        out.extend_from_slice(self.0);
        Ok(IsNull::No)
    }

    accepts!(JSON);
    to_sql_checked!();
}

impl<'a> FromSql<'a> for Json<Bytes> {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(Self(Bytes::copy_from_slice(raw)))
    }

    accepts!(JSON);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::ConversationId;

    #[test]
    fn a_log_line_leads_to_its_row() {
        let key = SessionKey::new(ConversationId::parse("chat-42").unwrap());
        let id = session_id(&key).simple().to_string();
        assert!(id.starts_with(&key.hashed().to_string()), "{id}");
    }

    #[test]
    fn extreme_values_fit() {
        assert_eq!(bigint(u64::MAX), i64::MAX);
        assert_eq!(bigint(usize::MAX), i64::MAX);
        assert_eq!(count(-1), 0);
        assert!(micros(Duration::MAX) < 1e17);
        assert!(timestamp(UNIX_EPOCH + Duration::from_secs(u64::MAX >> 2)) < UNIX_EPOCH + Duration::from_secs(1 << 40));
    }
}
