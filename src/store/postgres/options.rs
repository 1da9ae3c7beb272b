//! How a [`PostgresStore`] is set up.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use tokio_postgres::config::{Config, Host, TargetSessionAttrs};

use super::audit::AuditTrail;
use super::error::misconfigured;
use super::{PostgresStore, migrate, tls};
use crate::store::{Location, StoreError};

/// How a [`PostgresStore`] connects and what it promises.
///
/// ```no_run
/// use std::time::Duration;
/// use tower_session_memory::store::PostgresOptions;
///
/// # async fn open() -> Result<(), tower_session_memory::StoreError> {
/// let options = PostgresOptions::new("postgres://chat@db.example.org/chat?sslrootcert=/etc/ssl/db-ca.pem")?
///     .schema("memory")?
///     .pool_size(16)
///     .statement_timeout(Duration::from_secs(3));
/// options.migrate().await?; // or run the output of `options.migration_sql()` with psql
/// let store = options.connect().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct PostgresOptions {
    pub(super) config: Config,
    pub(super) tls: tls::Mode,
    pub(super) root_certificates: Option<PathBuf>,
    pub(super) schema: Schema,
    pub(super) pool_size: u32,
    pub(super) acquire_timeout: Duration,
    pub(super) statement_timeout: Duration,
    pub(super) lock_timeout: Duration,
    pub(super) synchronous_commit: SynchronousCommit,
    pub(super) transaction_pooler: bool,
    pub(super) audit: Option<AuditTrail>,
}

/// When a commit counts as done: PostgreSQL's `synchronous_commit`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SynchronousCommit {
    /// Flushed to the disk of this host, and of the synchronous standbys if there are any. The default.
    On,
    /// As `On`, and visible to reads on the synchronous standbys.
    RemoteApply,
    /// Flushed here, written but not flushed by the synchronous standbys.
    RemoteWrite,
    /// Flushed to the disk of this host only.
    Local,
    /// Not flushed: a crash of the server loses the last moments. The store then calls itself a cache.
    Off,
}

impl SynchronousCommit {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::On => "on",
            Self::RemoteApply => "remote_apply",
            Self::RemoteWrite => "remote_write",
            Self::Local => "local",
            Self::Off => "off",
        }
    }
}

impl PostgresOptions {
    /// From a connection string, as URL or as `key=value` pairs: what `libpq` takes, with these
    /// differences.
    ///
    /// * A unix socket is `host=/run/postgresql` (in a URL `host=%2Frun%2Fpostgresql`).
    /// * `sslmode` is `disable`, or `require`, `verify-ca` or `verify-full`, which all verify the
    ///   certificate *and* the name. Without it, TLS is required unless every host is a unix socket or
    ///   loopback. `prefer` and `allow` are refused: they protect against nobody.
    /// * `sslrootcert` names a PEM file of certificate authorities; without it the system's are used.
    ///
    /// # Errors
    /// [`Misconfigured`](crate::store::ErrorKind::Misconfigured); the string itself is never repeated.
    pub fn new(url: &str) -> Result<Self, StoreError> {
        let tls::Parsed { rest, sslmode, root_certificates } = tls::split(url);
        let mut config: Config = rest.parse().map_err(|_| misconfigured("the connection string cannot be read"))?;
        let tls = tls::Mode::of(sslmode.as_deref(), &config)?;
        if config.get_application_name().is_none() {
            config.application_name(env!("CARGO_PKG_NAME"));
        }
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(Duration::from_secs(3));
        }
        if config.get_tcp_user_timeout().is_none() {
            // A peer that vanished is noticed while an answer is awaited, not after the kernel's 15 minutes.
            config.tcp_user_timeout(Duration::from_secs(10));
        }
        config.keepalives_idle(Duration::from_secs(30)).target_session_attrs(TargetSessionAttrs::ReadWrite);
        Ok(Self {
            config,
            tls,
            root_certificates,
            schema: Schema::new("session_memory")?,
            pool_size: 10,
            acquire_timeout: Duration::from_secs(5),
            statement_timeout: Duration::from_secs(5),
            lock_timeout: Duration::from_secs(2),
            synchronous_commit: SynchronousCommit::On,
            transaction_pooler: false,
            audit: None,
        })
    }

    /// The schema that holds the tables. Default: `session_memory`. One store per schema.
    ///
    /// # Errors
    /// [`Misconfigured`](crate::store::ErrorKind::Misconfigured) unless it is `[a-z_][a-z0-9_]*` of at most 63 bytes.
    pub fn schema(mut self, name: &str) -> Result<Self, StoreError> {
        self.schema = Schema::new(name)?;
        Ok(self)
    }

    /// The most connections. Default: 10. All instances together must stay below the server's
    /// `max_connections`; waiting callers are served in the order they came.
    #[must_use]
    pub fn pool_size(mut self, connections: u32) -> Self {
        self.pool_size = connections.max(1);
        self
    }

    /// How long a call waits for a connection. Default: 5 s. While there is none at all, a failed
    /// attempt to connect ends the wait at once.
    #[must_use]
    pub fn acquire_timeout(mut self, limit: Duration) -> Self {
        self.acquire_timeout = limit;
        self
    }

    /// How long the server works on one statement. Default: 5 s.
    #[must_use]
    pub fn statement_timeout(mut self, limit: Duration) -> Self {
        self.statement_timeout = limit;
        self
    }

    /// How long an append waits for another one on the same session. Default: 2 s.
    #[must_use]
    pub fn lock_timeout(mut self, limit: Duration) -> Self {
        self.lock_timeout = limit;
        self
    }

    /// When a commit counts as done. Default: [`SynchronousCommit::On`].
    #[must_use]
    pub fn synchronous_commit(mut self, level: SynchronousCommit) -> Self {
        self.synchronous_commit = level;
        self
    }

    /// For a pooler that gives every transaction another connection, such as PgBouncer's
    /// `pool_mode = transaction`. Default: off.
    ///
    /// Nothing then relies on a connection's state: statements are not prepared (costs the server a
    /// plan per call), and `synchronous_commit` and `lock_timeout` are set by the statement itself.
    /// A statement cannot limit itself: `ALTER ROLE ... SET statement_timeout` for this role.
    #[must_use]
    pub fn transaction_pooler(mut self, yes: bool) -> Self {
        self.transaction_pooler = yes;
        self
    }

    /// Keeps an audit trail: every append, trim, delete, expiry and erasure is noted by the very
    /// statement that does it. Default: none is kept.
    #[must_use]
    pub fn audit(mut self, trail: AuditTrail) -> Self {
        self.audit = Some(trail);
        self
    }

    /// Creates what is missing in the schema; returns the versions that were applied now. Any number
    /// of instances may do this at once.
    ///
    /// # Errors
    /// [`Misconfigured`](crate::store::ErrorKind::Misconfigured) without the rights,
    /// [`NewerVersion`](crate::store::ErrorKind::NewerVersion) when the schema is ahead of this build,
    /// [`Unavailable`](crate::store::ErrorKind::Unavailable) when the server is.
    ///
    /// # Cancellation
    /// Each version is one transaction, applied whole or not at all; the server may still apply the one
    /// that was sent. Migrating again does the rest.
    pub async fn migrate(&self) -> Result<Vec<i32>, StoreError> {
        migrate::run(self).await
    }

    /// All migrations as one script for `psql -f`, for those who migrate by hand. It may be run
    /// again: what is there is left alone.
    pub fn migration_sql(&self) -> String {
        migrate::script(&self.schema)
    }

    /// Where the tables are, for logs: neither user nor password.
    pub(super) fn location(&self, database: &str) -> Location {
        let host = |host: &Host| match host {
            Host::Tcp(name) => name.clone(),
            Host::Unix(path) => path.display().to_string(),
        };
        let hosts = self.config.get_hosts().iter().map(host);
        let addresses = self.config.get_hostaddrs().iter().map(|address| address.to_string());
        let hosts: Vec<_> = hosts.chain(addresses).collect();
        let ports: Vec<_> = self.config.get_ports().iter().map(u16::to_string).collect();
        let port = if ports.is_empty() { "5432".to_owned() } else { ports.join(",") };
        Location::new(&format!("{} port={port} database={database} schema={}", hosts.join(","), self.schema.name))
    }

    /// Connects, and checks what must hold: a primary, an UTF-8 database, the schema's version.
    ///
    /// # Errors
    /// As [`PostgresOptions::migrate`]; a source that says what to do.
    ///
    /// # Cancellation
    /// It only reads: there is no store, and its one connection closes.
    pub async fn connect(self) -> Result<PostgresStore, StoreError> {
        PostgresStore::open(self).await
    }
}

impl fmt::Debug for PostgresOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Neither user, password nor host: they came in one string that may hold secrets.
        f.debug_struct("PostgresOptions")
            .field("schema", &self.schema.name)
            .field("pool_size", &self.pool_size)
            .field("tls", &self.tls)
            .field("synchronous_commit", &self.synchronous_commit)
            .field("transaction_pooler", &self.transaction_pooler)
            .field("audit", &self.audit.is_some())
            .finish_non_exhaustive()
    }
}

/// A schema's name, checked, so that it can stand in a statement.
#[derive(Debug, Clone)]
pub(super) struct Schema {
    name: String,
}

impl Schema {
    fn new(name: &str) -> Result<Self, StoreError> {
        let first = name.bytes().next().is_some_and(|b| b.is_ascii_lowercase() || b == b'_');
        let rest = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
        if first && rest && name.len() <= 63 {
            Ok(Self { name: name.to_owned() })
        } else {
            Err(misconfigured("a schema is named by [a-z_][a-z0-9_]*, at most 63 bytes"))
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The statement with `{schema}` replaced.
    pub(super) fn sql(&self, template: &str) -> String {
        template.replace("{schema}", &format!("\"{}\"", self.name))
    }
}
