//! Appending and deleting: one call of a function each, which decides and writes in one transaction.

use std::time::Duration;

use bytes::Bytes;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::NAME;
use super::audit::AuditTrail;
use super::connect::{Connection, Prepared};
use super::error::failed;
use super::load::damaged;
use super::options::{PostgresOptions, Schema};
use super::values::{Json, bigint, count, micros, session_id, timestamp};
use crate::key::{SessionKey, Subject, Tenant};
use crate::policy::Concurrency;
use crate::store::{Append, Appended, Deleted, ErrorKind, Operation, StoreError};
use crate::turn::{Head, Turn};

const APPEND: &str = "\
SELECT outcome, head_epoch, head_sequence, turn_sequence, stored FROM {schema}.append_turn(
    $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13,
    $14::float8 * interval '1 microsecond', $15, $16, $17, $18, $19, $20)";

const DELETE: &str = "\
SELECT turns FROM {schema}.delete_session($1, $2::float8 * interval '1 microsecond', 'delete', $3, $4, $5)";

/// How long a deleted session's epoch is remembered: longer than any turn takes.
pub(super) const FENCE: Duration = Duration::from_secs(24 * 3600);

pub(super) fn prepared(schema: &Schema, index: usize) -> Prepared {
    Prepared { sql: schema.sql(APPEND), index }
}

/// What every writing call says about how it wants to be run.
#[derive(Debug, Clone)]
pub(super) struct Terms {
    pub(super) audit: Option<AuditTrail>,
    pub(super) commit: &'static str,
    /// Only where the connection's own setting cannot be relied on.
    pub(super) lock_timeout: Option<String>,
}

impl Terms {
    pub(super) fn of(options: &PostgresOptions) -> Self {
        Self {
            audit: options.audit.clone(),
            commit: options.synchronous_commit.as_str(),
            lock_timeout: options
                .transaction_pooler
                .then(|| options.lock_timeout.as_millis().clamp(1, i32::MAX as u128).to_string()),
        }
    }
}

pub(super) async fn append(
    connection: &mut Connection,
    statement: &Prepared,
    terms: &Terms,
    key: &SessionKey,
    append: &Append,
) -> Result<Appended, StoreError> {
    let turn = &append.turn;
    let record = turn.to_record(key);
    let (messages, bytes) = (i32::try_from(turn.messages().len()).unwrap_or(i32::MAX), bigint(turn.bytes()));
    let expected = append.expected;
    let retention = append.retention;
    let rows = connection
        .query(
            statement,
            &[
                (&session_id(key), Type::UUID),
                (&key.tenant().map(Tenant::encoded), Type::TEXT),
                (&key.subject().map(Subject::encoded), Type::TEXT),
                (&key.conversation().as_str(), Type::TEXT),
                (&Uuid::from_bytes(*turn.id().as_bytes()), Type::UUID),
                (&turn.status().as_str(), Type::TEXT),
                (&timestamp(turn.at()), Type::TIMESTAMPTZ),
                (&messages, Type::INT4),
                (&bytes, Type::INT8),
                (&Json(record.as_slice()), Type::JSON),
                (&expected.map(|head| bigint(head.epoch)), Type::INT8),
                (&expected.map(|head| bigint(head.sequence)), Type::INT8),
                (&(append.concurrency == Concurrency::Strict), Type::BOOL),
                (&append.ttl.map(micros), Type::FLOAT8),
                (&retention.turns.map(bigint), Type::INT8),
                (&retention.bytes.map(bigint), Type::INT8),
                (&terms.audit.is_some(), Type::BOOL),
                (&terms.audit.as_ref().and_then(|trail| trail.subject_hash(key)), Type::TEXT),
                (&terms.commit, Type::TEXT),
                (&terms.lock_timeout, Type::TEXT),
            ],
            Operation::Append,
        )
        .await?;
    let refused = |kind| Err(StoreError::new(kind, NAME, Operation::Append));
    let unreadable = |error: tokio_postgres::Error| failed(&error, Operation::Append);
    let Some(row) = rows.first() else { return refused(ErrorKind::Other) };
    let head =
        || -> Result<Head, tokio_postgres::Error> { Ok(Head::new(count(row.try_get(1)?), count(row.try_get(2)?))) };
    match row.try_get::<_, Option<&str>>(0).map_err(unreadable)? {
        Some("stored") => Ok(Appended::stored(head().map_err(unreadable)?)),
        Some("duplicate") => {
            let sequence = count(row.try_get(3).map_err(unreadable)?);
            let Json(record): Json<Bytes> = row.try_get(4).map_err(unreadable)?;
            let turn = Turn::from_record(key, record).map_err(|error| damaged(error, Operation::Append))?;
            Ok(Appended::duplicate(head().map_err(unreadable)?, sequence, turn))
        }
        Some("gone") => refused(ErrorKind::Gone),
        Some("rolled_back") => refused(ErrorKind::RolledBack),
        Some("conflict") => refused(ErrorKind::Conflict),
        _ => refused(ErrorKind::Other),
    }
}

pub(super) async fn delete(
    connection: &mut Connection,
    schema: &Schema,
    terms: &Terms,
    key: &SessionKey,
) -> Result<Deleted, StoreError> {
    let rows = connection
        .query_unprepared(
            &schema.sql(DELETE),
            &[
                (&session_id(key), Type::UUID),
                (&micros(FENCE), Type::FLOAT8),
                (&terms.audit.is_some(), Type::BOOL),
                (&terms.commit, Type::TEXT),
                (&terms.lock_timeout, Type::TEXT),
            ],
            Operation::Delete,
        )
        .await?;
    let Some(row) = rows.first() else { return Ok(Deleted::new(0)) };
    row.try_get(0).map(|turns| Deleted::new(count(turns))).map_err(|error| failed(&error, Operation::Delete))
}
