//! Listing sessions, most recently active first.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio_postgres::types::Type;
use tokio_postgres::{Error, Row};
use uuid::Uuid;

use super::NAME;
use super::connect::Connection;
use super::error::failed;
use super::options::Schema;
use super::values::{bigint, count};
use crate::key::{ConversationId, KeyError, Scope, SessionKey, Subject, Tenant};
use crate::store::{Cursor, ErrorKind, Operation, Page, SessionEntry, SessionPage, StoreError};
use crate::turn::Head;

/// Not prepared, so that it is planned for the scope it is asked: an absent tenant or subject is folded
/// away, and the index that fits the rest is used.
const LIST: &str = "\
SELECT s.tenant, s.subject, s.conversation, s.epoch, s.sequence, s.last_active, s.session
FROM {schema}.session s
WHERE s.sequence > 0 AND (s.expires_at IS NULL OR s.expires_at > now())
  AND ($1::text IS NULL OR left(s.tenant, 1000) = left($1, 1000) AND s.tenant = $1)
  AND ($2::text IS NULL OR left(s.subject, 1000) = left($2, 1000) AND s.subject = $2)
  AND ($3::timestamptz IS NULL OR (s.last_active, s.session) < ($3, $4::uuid))
ORDER BY s.last_active DESC, s.session DESC LIMIT $5";

pub(super) async fn list(
    connection: &mut Connection,
    schema: &Schema,
    scope: &Scope,
    page: &Page,
) -> Result<SessionPage, StoreError> {
    let after = page.after.as_ref().map(Place::read).transpose()?;
    let limit = bigint(page.limit.max(1));
    let rows = connection
        .query_unprepared(
            &schema.sql(LIST),
            &[
                (&scope.tenant.as_ref().map(Tenant::encoded), Type::TEXT),
                (&scope.subject.as_ref().map(Subject::encoded), Type::TEXT),
                (&after.as_ref().map(|place| place.last_active), Type::TIMESTAMPTZ),
                (&after.as_ref().map(|place| place.session), Type::UUID),
                (&limit.saturating_add(1), Type::INT8),
            ],
            Operation::List,
        )
        .await?;
    let unreadable = |error: Error| failed(&error, Operation::List);
    let shown = rows.len().min(page.limit.max(1));
    let entries = rows[..shown].iter().map(entry).collect::<Result<Vec<_>, _>>().map_err(unreadable)?;
    let sessions = entries
        .into_iter()
        .collect::<Result<_, KeyError>>()
        .map_err(|error| StoreError::new(ErrorKind::Corrupt, NAME, Operation::List).with_source(error))?;
    let next = match rows[..shown].last() {
        Some(last) if rows.len() > shown => Some(Place::of(last).map_err(unreadable)?.write()),
        _ => None,
    };
    Ok(SessionPage::new(sessions, next))
}

fn entry(row: &Row) -> Result<Result<SessionEntry, KeyError>, Error> {
    let (tenant, subject): (Option<&str>, Option<&str>) = (row.try_get(0)?, row.try_get(1)?);
    let conversation: Option<&str> = row.try_get(2)?;
    let head = Head::new(count(row.try_get(3)?), count(row.try_get(4)?));
    let last_active: SystemTime = row.try_get(5)?;
    let key = || -> Result<SessionKey, KeyError> {
        Ok(SessionKey::from_parts(
            tenant.map(Tenant::decode).transpose()?,
            subject.map(Subject::decode).transpose()?,
            ConversationId::parse(conversation.unwrap_or_default())?,
        ))
    };
    Ok(key().map(|key| SessionEntry::new(key, head, last_active)))
}

/// Where a page ended; the id tells sessions of one moment apart.
struct Place {
    last_active: SystemTime,
    session: Uuid,
}

impl Place {
    fn of(row: &Row) -> Result<Self, Error> {
        Ok(Self { last_active: row.try_get(5)?, session: row.try_get(6)? })
    }

    fn write(&self) -> Cursor {
        let micros = self.last_active.duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
        Cursor(format!("{micros}.{}", self.session.simple()))
    }

    fn read(cursor: &Cursor) -> Result<Self, StoreError> {
        let parsed = cursor.0.split_once('.').and_then(|(micros, session)| {
            let last_active = UNIX_EPOCH.checked_add(Duration::from_micros(micros.parse().ok()?))?;
            Some(Self { last_active, session: Uuid::parse_str(session).ok()? })
        });
        parsed.ok_or_else(|| StoreError::new(ErrorKind::Other, NAME, Operation::List))
    }
}
