//! Loading: one statement, one snapshot.

use bytes::Bytes;
use tokio_postgres::Row;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::NAME;
use super::connect::{Connection, Prepared};
use super::error::{failed, standby};
use super::options::Schema;
use super::values::{Json, bigint, count, session_id};
use crate::key::SessionKey;
use crate::store::{ErrorKind, Loaded, Operation, Read, StoreError};
use crate::turn::{Head, RecordError, Turn};

/// `$1` session, `$2`-`$4` the window's turns, messages, bytes, `$5`, `$6` the known head (epoch -1: none),
/// `$7` the turn to find (all zeros: none).
///
/// A turn fits the window if everything from it to the newest fits, which the running sums say row by
/// row; the newest always fits. `since` is the known sequence if the turn after it still fits (so all
/// later ones do), else NULL.
const LOAD: &str = "\
WITH head AS (
    SELECT s.*, s.trimmed_messages + s.messages AS all_messages, s.trimmed_bytes + s.bytes AS all_bytes
    FROM {schema}.session s
    WHERE s.session = $1 AND (s.expires_at IS NULL OR s.expires_at > now())
), span AS (
    SELECT h.*, greatest(h.trimmed_turns, h.sequence - $2::bigint) AS floor,
        CASE WHEN h.epoch = $5::bigint AND (h.sequence = $6::bigint OR EXISTS (
            SELECT FROM {schema}.turn t
            WHERE t.session = $1 AND t.sequence = $6::bigint + 1 AND t.sequence > h.sequence - $2::bigint
              AND (t.sequence = h.sequence
                   OR h.all_messages - t.messages_before <= $3::bigint AND h.all_bytes - t.bytes_before <= $4::bigint)
        )) THEN $6::bigint END AS since
    FROM head h
)
SELECT h.epoch, h.sequence, h.since,
       h.sequence - h.trimmed_turns > least($2::bigint, 1)
         AND (h.sequence - h.trimmed_turns > $2::bigint OR h.messages > $3::bigint OR h.bytes > $4::bigint) AS truncated,
       t.sequence, t.record, t.found, pg_is_in_recovery() AS standby, h.sequence - h.trimmed_turns AS kept
FROM span h
LEFT JOIN LATERAL (
    SELECT t.sequence, t.record, false AS found FROM {schema}.turn t
    WHERE t.session = $1 AND t.sequence > greatest(h.floor, h.since)
      AND (t.sequence = h.sequence
           OR h.all_messages - t.messages_before <= $3::bigint AND h.all_bytes - t.bytes_before <= $4::bigint)
    UNION ALL
    SELECT t.sequence, t.record, true FROM {schema}.turn t WHERE t.session = $1 AND t.turn_id = $7::uuid
) t ON true";

pub(super) fn prepared(schema: &Schema, index: usize) -> Prepared {
    Prepared { sql: schema.sql(LOAD), index }
}

pub(super) async fn load(
    connection: &mut Connection,
    statement: &Prepared,
    key: &SessionKey,
    read: &Read,
) -> Result<Loaded, StoreError> {
    let session = session_id(key);
    let window = (bigint(read.window.turns), bigint(read.window.messages), bigint(read.window.bytes));
    // Never NULL: a plan for a NULL leaves parts of the statement out, so PostgreSQL takes it for cheaper than
    // the plan for any parameters, and goes on planning each load, which takes longer than the load itself.
    let (epoch, sequence) =
        read.known.map_or((-1, 0), |head| (bigint(head.epoch), bigint(head.sequence).min(i64::MAX - 1)));
    let find = read.find.map_or(Uuid::nil(), |id| Uuid::from_bytes(*id.as_bytes()));
    let rows = connection
        .query(
            statement,
            &[
                (&session, Type::UUID),
                (&window.0, Type::INT8),
                (&window.1, Type::INT8),
                (&window.2, Type::INT8),
                (&epoch, Type::INT8),
                (&sequence, Type::INT8),
                (&find, Type::UUID),
            ],
            Operation::Load,
        )
        .await?;
    let Some(first) = rows.first() else { return Ok(Loaded::absent()) };
    let first = Answer::read(first).map_err(unreadable)?;
    if first.standby {
        return Err(standby(Operation::Load));
    }
    let (mut turns, mut found) = (Vec::with_capacity(rows.len()), None);
    for row in &rows {
        let answer = Answer::read(row).map_err(unreadable)?;
        let Some((sequence, record)) = answer.turn else { continue };
        let turn = Turn::from_record(key, record).map_err(|error| damaged(error, Operation::Load))?;
        if answer.found { found = Some(turn) } else { turns.push((sequence, turn)) }
    }
    // The id that stands for none may be a turn's all the same.
    let found = found.filter(|_| read.find.is_some());
    turns.sort_unstable_by_key(|(sequence, _)| *sequence);
    let consecutive = turns.windows(2).all(|pair| pair[0].0 + 1 == pair[1].0);
    if !consecutive || turns.last().is_some_and(|(newest, _)| *newest != first.head.sequence) {
        return Err(damaged(RecordError::Corrupt, Operation::Load));
    }
    let turns = turns.into_iter().map(|(_, turn)| turn).collect();
    let known = first.since.and(read.known);
    Ok(Loaded::new(first.head, turns, first.truncated).kept(first.kept).since(known).found(found))
}

/// One row: the head, repeated, and one turn.
struct Answer {
    head: Head,
    since: Option<i64>,
    truncated: bool,
    turn: Option<(u64, Bytes)>,
    found: bool,
    standby: bool,
    kept: u64,
}

impl Answer {
    fn read(row: &Row) -> Result<Self, tokio_postgres::Error> {
        let sequence: Option<i64> = row.try_get(4)?;
        let record: Option<Json<Bytes>> = row.try_get(5)?;
        Ok(Self {
            head: Head::new(count(row.try_get(0)?), count(row.try_get(1)?)),
            since: row.try_get(2)?,
            truncated: row.try_get(3)?,
            turn: sequence.map(count).zip(record.map(|json| json.0)),
            found: row.try_get::<_, Option<bool>>(6)?.unwrap_or(false),
            standby: row.try_get(7)?,
            kept: count(row.try_get(8)?),
        })
    }
}

fn unreadable(error: tokio_postgres::Error) -> StoreError {
    failed(&error, Operation::Load)
}

pub(super) fn damaged(error: RecordError, operation: Operation) -> StoreError {
    let kind = match error {
        RecordError::NewerVersion { .. } => ErrorKind::NewerVersion,
        _ => ErrorKind::Corrupt,
    };
    StoreError::new(kind, NAME, operation).with_source(error)
}
