//! The store itself.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::append::{self, Terms};
use super::audit::{self, Erased};
use super::connect::{Connections, Connector, Prepared};
use super::error::{failed, misconfigured, not_connected, standby};
use super::options::{PostgresOptions, Schema, SynchronousCommit};
use super::purge::{self, Purged};
use super::{NAME, list, load, migrate};
use crate::key::{Scope, SessionKey, Subject, Tenant};
use crate::store::{
    Append, Appended, Deleted, Durability, Loaded, Operation, Page, PoolState, Read, SessionPage, Sharing, Store,
    StoreError, StoreInfo,
};

/// Sessions in PostgreSQL. Cheap to clone; clones share the connections.
///
/// See the [module](crate::store::postgres) for schema, audit and operation.
#[derive(Clone)]
pub struct PostgresStore(Arc<Inner>);

struct Inner {
    info: StoreInfo,
    schema: Schema,
    terms: Terms,
    connections: Connections,
    load: Prepared,
    append: Prepared,
}

impl PostgresStore {
    /// Connects with the defaults of [`PostgresOptions`]. The schema must be there:
    /// [`PostgresOptions::migrate`].
    ///
    /// # Errors
    /// As [`PostgresOptions::connect`].
    ///
    /// # Cancellation
    /// As [`PostgresOptions::connect`].
    pub async fn connect(url: &str) -> Result<Self, StoreError> {
        PostgresOptions::new(url)?.connect().await
    }

    pub(super) async fn open(options: PostgresOptions) -> Result<Self, StoreError> {
        let connector = Connector::new(&options, options.statement_timeout)?;
        let limit = options.acquire_timeout;
        let (durability, database) = tokio::time::timeout(limit, examine(&connector, &options))
            .await
            .map_err(|_| StoreError::new(crate::store::ErrorKind::Unavailable, NAME, Operation::Open))??;
        let (load, append) = (load::prepared(&options.schema, 0), append::prepared(&options.schema, 1));
        Ok(Self(Arc::new(Inner {
            info: StoreInfo::new(NAME, Sharing::Network, durability).at(options.location(&database)),
            terms: Terms::of(&options),
            connections: Connections::new(connector, &options, &[&load, &append]),
            schema: options.schema,
            load,
            append,
        })))
    }

    /// Removes up to `limit` sessions whose life is over. Any instance may do this at any time; one
    /// does, the others are told [`Purged::busy`].
    ///
    /// # Errors
    /// As the operations of [`Store`].
    ///
    /// # Cancellation
    /// It is one statement: once sent, the server ends it by itself, and all of it or nothing is removed.
    pub async fn purge(&self, limit: u32) -> Result<Purged, StoreError> {
        let Inner { connections, schema, terms, .. } = &*self.0;
        let mut checkout = connections.get(Operation::Delete).await?;
        purge::purge(checkout.connection(), schema, terms, limit).await
    }

    /// Purges every so often, in batches, for ever: give it to a task. A failure is logged and tried
    /// again next time.
    ///
    /// # Cancellation
    /// Aborting the task is how it is stopped; the batch under way ends as a dropped
    /// [`purge`](Self::purge).
    pub async fn purge_every(self, period: Duration) {
        purge::run(self, period).await;
    }

    /// Erases everything of a subject, in this tenant or in all of them, and says how much it was.
    /// Turns that are under way for it are fenced off. The audit trail, which has no content, remains.
    ///
    /// # Errors
    /// As the operations of [`Store`]; what was erased by then stays erased.
    ///
    /// # Cancellation
    /// Sessions are erased in batches, each whole: what was erased stays erased, a batch that was sent
    /// is ended by the server, and erasing again does the rest. Its receipt is for the rest alone; the
    /// audit trail, if one is kept, has all.
    pub async fn erase(&self, tenant: Option<&Tenant>, subject: &Subject) -> Result<Erased, StoreError> {
        let Inner { connections, schema, terms, .. } = &*self.0;
        let mut checkout = connections.get(Operation::Delete).await?;
        audit::erase(checkout.connection(), schema, terms, tenant, subject).await
    }
}

/// What must hold before the first turn; what the answers of this server are worth, and its database.
async fn examine(connector: &Connector, options: &PostgresOptions) -> Result<(Durability, String), StoreError> {
    const SETTINGS: &str = "SELECT pg_is_in_recovery(), current_setting('server_encoding') = 'UTF8', \
        current_setting('fsync') = 'on', current_setting('synchronous_standby_names') <> '', current_database()::text";
    let client = connector.connect().await.map_err(|error| {
        if error.to_string().contains("connecting") && super::error::describe(&error).0.contains("not allow writes") {
            return misconfigured("the server is a standby or read-only: connect to the primary");
        }
        not_connected(&error, Operation::Open)
    })?;
    let rows = client.query_typed(SETTINGS, &[]).await.map_err(|error| failed(&error, Operation::Open))?;
    let flag = |column| rows.first().is_some_and(|row| row.get::<_, bool>(column));
    let (standby, utf8, fsync, standbys) = (flag(0), flag(1), flag(2), flag(3));
    if standby {
        return Err(misconfigured("the server is a standby: connect to the primary"));
    }
    if !utf8 {
        return Err(misconfigured("the database must have the encoding UTF8"));
    }
    migrate::check(&client, &options.schema).await?;
    let durability = match options.synchronous_commit {
        SynchronousCommit::Off => Durability::Cache,
        _ if !fsync => Durability::Process,
        SynchronousCommit::On | SynchronousCommit::RemoteApply if standbys => Durability::Quorum,
        _ => Durability::Host,
    };
    Ok((durability, rows.first().map_or_else(String::new, |row| row.get(4))))
}

impl Store for PostgresStore {
    fn info(&self) -> StoreInfo {
        self.0.info.clone()
    }

    fn pool(&self) -> Option<PoolState> {
        Some(self.0.connections.state())
    }

    async fn load(&self, key: &SessionKey, read: &Read) -> Result<Loaded, StoreError> {
        let mut checkout = self.0.connections.get(Operation::Load).await?;
        load::load(checkout.connection(), &self.0.load, key, read).await
    }

    async fn append(&self, key: &SessionKey, append: &Append) -> Result<Appended, StoreError> {
        let mut checkout = self.0.connections.get(Operation::Append).await?;
        append::append(checkout.connection(), &self.0.append, &self.0.terms, key, append).await
    }

    async fn delete(&self, key: &SessionKey) -> Result<Deleted, StoreError> {
        let mut checkout = self.0.connections.get(Operation::Delete).await?;
        append::delete(checkout.connection(), &self.0.schema, &self.0.terms, key).await
    }

    async fn list(&self, scope: &Scope, page: &Page) -> Result<SessionPage, StoreError> {
        let mut checkout = self.0.connections.get(Operation::List).await?;
        list::list(checkout.connection(), &self.0.schema, scope, page).await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        let mut checkout = self.0.connections.get(Operation::Ping).await?;
        let sql = "SELECT pg_is_in_recovery()";
        let rows = checkout.connection().query_unprepared(sql, &[], Operation::Ping).await?;
        // A load would do on a standby, an append would not.
        if rows.first().is_some_and(|row| row.get(0)) {
            return Err(standby(Operation::Ping));
        }
        Ok(())
    }
}

impl fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresStore")
            .field("schema", &self.0.schema.name())
            .field("connections", &self.0.connections)
            .finish_non_exhaustive()
    }
}
