//! Connections: how they are made, kept and trusted.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bb8::{ErrorSink, ManageConnection, Pool, PooledConnection, RunError};
use bb8_postgres::PostgresConnectionManager;
use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tokio::time::error::Elapsed;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Config, Row, Statement};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::error::{Cause, failed, no_connection, spoils_connection, unanswered};
use super::options::PostgresOptions;
use super::{NAME, tls};
use crate::store::{ErrorKind, Operation, StoreError};

/// One value of a statement, with its type for connections that prepare nothing.
pub(super) type Parameter<'a> = (&'a (dyn ToSql + Sync), Type);

/// How long an abandoned statement may still keep its connection from the next caller.
const CLEAN_WITHIN: Duration = Duration::from_secs(2);

/// A statement that is prepared once per connection.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) sql: String,
    /// Its place in [`Connection::statements`].
    pub(super) index: usize,
}

/// How to connect: the driver's configuration with all settings, and TLS.
#[derive(Clone)]
pub(super) struct Connector {
    pub(super) config: Config,
    pub(super) tls: MakeRustlsConnect,
}

impl Connector {
    pub(super) fn new(options: &PostgresOptions, statement_timeout: Duration) -> Result<Self, StoreError> {
        let mut config = options.config.clone();
        let tls = tls::connector(options.tls, options.root_certificates.as_deref(), &mut config)?;
        if !options.transaction_pooler {
            // In the start-up message, so that no connection ever works without them.
            let settings = format!(
                "{} -c synchronous_commit={} -c statement_timeout={} -c lock_timeout={} \
                 -c default_transaction_isolation=read\\ committed",
                config.get_options().unwrap_or_default(),
                options.synchronous_commit.as_str(),
                statement_timeout.as_millis(),
                options.lock_timeout.as_millis().max(1),
            );
            config.options(settings);
        }
        Ok(Self { config, tls })
    }

    /// One connection outside of the pool.
    pub(super) async fn connect(&self) -> Result<Client, tokio_postgres::Error> {
        PostgresConnectionManager::new(self.config.clone(), self.tls.clone()).connect().await
    }
}

/// A connection of the pool.
pub(super) struct Connection {
    client: Client,
    /// Empty behind a transaction pooler.
    statements: Vec<Statement>,
    /// A caller left while the server was at work for it.
    abandoned: bool,
    spoiled: bool,
    /// A server that is there has answered by then: it limits statements itself, and sooner.
    limit: Duration,
}

impl Connection {
    /// Runs one statement, which is a transaction of its own.
    ///
    /// # Cancellation
    /// The server still ends the statement, and the driver discards its answer; the next checkout
    /// waits for that. There is never an open transaction, because none is opened over the wire.
    pub(super) async fn query(
        &mut self,
        prepared: &Prepared,
        parameters: &[Parameter<'_>],
        operation: Operation,
    ) -> Result<Vec<Row>, StoreError> {
        let Some(statement) = self.statements.get(prepared.index) else {
            return self.query_unprepared(&prepared.sql, parameters, operation).await;
        };
        let values: Vec<&(dyn ToSql + Sync)> = parameters.iter().map(|(value, _)| *value).collect();
        self.abandoned = true;
        let answer = tokio::time::timeout(self.limit, self.client.query(statement, &values)).await;
        self.judge(answer, operation)
    }

    pub(super) async fn query_unprepared(
        &mut self,
        sql: &str,
        parameters: &[Parameter<'_>],
        operation: Operation,
    ) -> Result<Vec<Row>, StoreError> {
        self.abandoned = true;
        let answer = tokio::time::timeout(self.limit, self.client.query_typed(sql, parameters)).await;
        self.judge(answer, operation)
    }

    fn judge(
        &mut self,
        answer: Result<Result<Vec<Row>, tokio_postgres::Error>, Elapsed>,
        operation: Operation,
    ) -> Result<Vec<Row>, StoreError> {
        let Ok(answer) = answer else {
            self.spoiled = true;
            return Err(unanswered(operation));
        };
        self.abandoned = false;
        answer.map_err(|error| {
            self.spoiled |= spoils_connection(&error);
            failed(&error, operation)
        })
    }
}

/// bb8-postgres's manager with prepared statements, and with a check at checkout that asks the
/// server only after a caller has left it at work.
struct Manager {
    inner: PostgresConnectionManager<MakeRustlsConnect>,
    prepare: Vec<String>,
    limit: Duration,
    reply_limit: Duration,
}

#[derive(Debug, thiserror::Error)]
enum ConnectError {
    #[error(transparent)]
    Driver(#[from] tokio_postgres::Error),
    #[error("no connection within {0:?}")]
    TimedOut(Duration),
    #[error("the connection is closed")]
    Closed,
}

impl ManageConnection for Manager {
    type Connection = Connection;
    type Error = ConnectError;

    async fn connect(&self) -> Result<Connection, ConnectError> {
        let connecting = async {
            let client = self.inner.connect().await?;
            let mut statements = Vec::with_capacity(self.prepare.len());
            for sql in &self.prepare {
                statements.push(client.prepare(sql).await?);
            }
            Ok(Connection { client, statements, abandoned: false, spoiled: false, limit: self.reply_limit })
        };
        // The driver's own limit covers the TCP handshake alone.
        tokio::time::timeout(self.limit, connecting).await.map_err(|_| ConnectError::TimedOut(self.limit))?
    }

    async fn is_valid(&self, connection: &mut Connection) -> Result<(), ConnectError> {
        if connection.client.is_closed() || connection.spoiled {
            return Err(ConnectError::Closed);
        }
        if connection.abandoned {
            let answer = tokio::time::timeout(CLEAN_WITHIN, connection.client.simple_query("")).await;
            answer.map_err(|_| ConnectError::TimedOut(CLEAN_WITHIN))??;
            connection.abandoned = false;
        }
        Ok(())
    }

    fn has_broken(&self, connection: &mut Connection) -> bool {
        connection.client.is_closed() || connection.spoiled
    }
}

/// Connections, handed out in the order in which they were asked for.
pub(super) struct Connections {
    pool: Pool<Manager>,
    /// bb8 gives a free connection to whoever asks first, so under load some callers starve.
    turnstile: Semaphore,
    failures: watch::Receiver<Option<Failure>>,
    limit: Duration,
}

/// A connection for one call.
pub(super) struct Checkout<'a> {
    connection: PooledConnection<'a, Manager>,
    _permit: SemaphorePermit<'a>,
}

impl Checkout<'_> {
    pub(super) fn connection(&mut self) -> &mut Connection {
        &mut self.connection
    }
}

impl Connections {
    pub(super) fn new(connector: Connector, options: &PostgresOptions, prepared: &[&Prepared]) -> Self {
        let (sink, failures) = Sink::new();
        let prepare = if options.transaction_pooler { &[] } else { prepared };
        let manager = Manager {
            inner: PostgresConnectionManager::new(connector.config, connector.tls),
            prepare: prepare.iter().map(|statement| statement.sql.clone()).collect(),
            limit: options.acquire_timeout,
            reply_limit: options.statement_timeout.saturating_add(Duration::from_secs(1)),
        };
        let pool = Pool::builder()
            .max_size(options.pool_size)
            .connection_timeout(options.acquire_timeout)
            // A failed attempt is told to those who wait; the next call is the next attempt.
            .retry_connection(false)
            .error_sink(Box::new(sink))
            .build_unchecked(manager);
        Self { pool, turnstile: Semaphore::new(options.pool_size as usize), failures, limit: options.acquire_timeout }
    }

    /// A connection that has no statement of somebody else under way.
    pub(super) async fn get(&self, operation: Operation) -> Result<Checkout<'_>, StoreError> {
        let unavailable = |why: Cause| StoreError::new(ErrorKind::Unavailable, NAME, operation).with_source(why);
        let taking = async {
            let permit = self.turnstile.acquire().await.expect("the semaphore is never closed");
            let mut failures = self.failures.clone();
            failures.mark_unchanged();
            let getting = self.pool.get();
            tokio::pin!(getting);
            loop {
                tokio::select! {
                    biased;
                    got = &mut getting => {
                        let connection = got.map_err(|error| match error {
                            RunError::User(error) => unavailable(Cause(error.to_string())),
                            RunError::TimedOut => unavailable(Cause("no connection became free in time".to_owned())),
                        })?;
                        return Ok(Checkout { connection, _permit: permit });
                    }
                    _ = failures.changed() => {
                        // With other connections alive, one of them will come free.
                        if self.pool.state().connections == 0
                            && let Some(failure) = failures.borrow_and_update().clone()
                        {
                            return Err(StoreError::new(failure.kind, NAME, operation).with_source(failure.cause));
                        }
                    }
                }
            }
        };
        match tokio::time::timeout(self.limit, taking).await {
            Ok(taken) => taken,
            Err(_) => Err(unavailable(Cause("no connection became free in time".to_owned()))),
        }
    }
}

impl fmt::Debug for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.pool.state();
        f.debug_struct("Connections")
            .field("open", &state.connections)
            .field("idle", &state.idle_connections)
            .finish_non_exhaustive()
    }
}

/// Why the last attempt to connect failed.
#[derive(Debug, Clone)]
struct Failure {
    kind: ErrorKind,
    cause: Cause,
}

/// Tells waiting callers why there is no connection, which bb8 keeps to itself.
#[derive(Debug)]
struct Sink(Arc<watch::Sender<Option<Failure>>>);

impl Sink {
    fn new() -> (Self, watch::Receiver<Option<Failure>>) {
        let (sender, receiver) = watch::channel(None);
        (Self(Arc::new(sender)), receiver)
    }
}

impl ErrorSink<ConnectError> for Sink {
    fn sink(&self, error: ConnectError) {
        let failure = match &error {
            ConnectError::Driver(error) => {
                let (kind, cause) = no_connection(error);
                Failure { kind, cause }
            }
            // A connection that is replaced is no failure to connect.
            ConnectError::Closed => return,
            ConnectError::TimedOut(_) => Failure { kind: ErrorKind::Unavailable, cause: Cause(error.to_string()) },
        };
        tracing::warn!(store = NAME, kind = failure.kind.as_str(), cause = %failure.cause, "no connection");
        self.0.send_replace(Some(failure));
    }

    fn boxed_clone(&self) -> Box<dyn ErrorSink<ConnectError>> {
        Box::new(Self(self.0.clone()))
    }
}
