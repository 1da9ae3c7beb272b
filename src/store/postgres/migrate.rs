//! The schema: how it comes to be, and whether this build fits it.

use std::time::Duration;

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::NAME;
use super::connect::Connector;
use super::error::{Cause, failed, misconfigured, not_connected};
use super::options::{PostgresOptions, Schema};
use crate::store::{ErrorKind, Operation, StoreError};

struct Migration {
    version: i32,
    name: &'static str,
    /// The oldest version whose code can run on the schema afterwards.
    compatible: i32,
    sql: &'static str,
}

const VERSIONS: &str = include_str!("migrations/0000_versions.sql");

const MIGRATIONS: &[Migration] = &[
    Migration { version: 1, name: "sessions", compatible: 1, sql: include_str!("migrations/0001_sessions.sql") },
    Migration { version: 2, name: "audit", compatible: 1, sql: include_str!("migrations/0002_audit.sql") },
    Migration { version: 3, name: "functions", compatible: 3, sql: include_str!("migrations/0003_functions.sql") },
];

/// The version that this build needs.
const CURRENT: i32 = 3;

/// How long a migration may take, and wait for another instance's.
const LIMIT: Duration = Duration::from_secs(300);

pub(super) async fn run(options: &PostgresOptions) -> Result<Vec<i32>, StoreError> {
    // `lock_timeout` would cut the wait for the advisory lock short.
    let connector = Connector::new(&options.clone().lock_timeout(LIMIT), LIMIT)?;
    let client = connector.connect().await.map_err(|error| not_connected(&error, Operation::Open))?;
    let schema = &options.schema;
    let mut applied = Vec::new();
    if version(&client, schema).await?.is_none() {
        apply(&client, &format!("{}\n{}", lock(schema), schema.sql(VERSIONS))).await?;
    }
    for migration in MIGRATIONS {
        let present = version(&client, schema).await?.unwrap_or(Version::NONE);
        if present.current >= migration.version {
            continue;
        }
        // The row first: if another instance was faster, this waited for its commit and now the
        // row exists, and the whole batch, which is one transaction, does nothing.
        let batch = format!("{}\n{}\n{}", lock(schema), row(schema, migration), schema.sql(migration.sql));
        match client.batch_execute(&batch).await {
            Ok(()) => applied.push(migration.version),
            Err(error) if error.code() == Some(&SqlState::UNIQUE_VIOLATION) => {}
            Err(error) => return Err(failed(&error, Operation::Open)),
        }
    }
    check(&client, schema).await?;
    Ok(applied)
}

async fn apply(client: &Client, batch: &str) -> Result<(), StoreError> {
    client.batch_execute(batch).await.map_err(|error| failed(&error, Operation::Open))
}

fn lock(schema: &Schema) -> String {
    format!("SELECT pg_advisory_xact_lock(hashtextextended('{} migrate', 0));", schema.sql("{schema}"))
}

fn row(schema: &Schema, Migration { version, name, compatible, .. }: &Migration) -> String {
    schema.sql(&format!(
        "INSERT INTO {{schema}}.migration (version, name, compatible) VALUES ({version}, '{name}', {compatible});"
    ))
}

/// All migrations for psql.
pub(super) fn script(schema: &Schema) -> String {
    let mut script = format!(
        "-- tower-session-memory: schema {}, version {CURRENT}\n\\set ON_ERROR_STOP on\nBEGIN;\n{}\n{}",
        schema.name(),
        lock(schema),
        schema.sql(VERSIONS)
    );
    for migration in MIGRATIONS {
        let version = migration.version;
        script += &schema.sql(&format!(
            "\nSELECT NOT EXISTS (SELECT FROM {{schema}}.migration WHERE version = {version}) AS missing \\gset\n\
             \\if :missing\n{}\n{}\\endif\n",
            row(schema, migration),
            migration.sql
        ));
    }
    script + "COMMIT;\n"
}

struct Version {
    current: i32,
    compatible: i32,
}

impl Version {
    const NONE: Self = Self { current: 0, compatible: 0 };
}

/// The newest migration of the schema; `None` where there is no table of them.
async fn version(client: &Client, schema: &Schema) -> Result<Option<Version>, StoreError> {
    let failed = |error: tokio_postgres::Error| failed(&error, Operation::Open);
    let table = client
        .query_typed(
            "SELECT to_regclass($1) IS NOT NULL",
            &[(&schema.sql("{schema}.migration"), tokio_postgres::types::Type::TEXT)],
        )
        .await
        .map_err(failed)?;
    if !table.first().is_some_and(|row| row.get(0)) {
        return Ok(None);
    }
    let sql = "SELECT version, compatible FROM {schema}.migration ORDER BY version DESC LIMIT 1";
    let newest = client.query_typed(&schema.sql(sql), &[]).await.map_err(failed)?;
    let newest = newest.first().map(|row| Version { current: row.get(0), compatible: row.get(1) });
    Ok(Some(newest.unwrap_or(Version::NONE)))
}

/// Refuses a schema that this build cannot work on.
pub(super) async fn check(client: &Client, schema: &Schema) -> Result<(), StoreError> {
    let Version { current, compatible } = version(client, schema).await?.unwrap_or(Version::NONE);
    let name = schema.name();
    if current < CURRENT {
        return Err(misconfigured(format!(
            "the schema {name} has version {current} and this build needs {CURRENT}: \
             call PostgresOptions::migrate, or run the output of PostgresOptions::migration_sql with `psql -f`"
        )));
    }
    if compatible > CURRENT {
        return Err(StoreError::new(ErrorKind::NewerVersion, NAME, Operation::Open).with_source(Cause(format!(
            "the schema {name} has version {current}, which needs code for {compatible} or newer, \
             and this build is for {CURRENT}: deploy a newer build"
        ))));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_count_up_to_the_current_one() {
        let versions: Vec<i32> = MIGRATIONS.iter().map(|migration| migration.version).collect();
        assert_eq!(versions, (1..=CURRENT).collect::<Vec<_>>());
        assert!(MIGRATIONS.iter().all(|migration| migration.compatible <= migration.version));
    }
}
