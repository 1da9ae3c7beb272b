//! The store itself.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use aws_config::{BehaviorVersion, SdkConfig};
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::retry::RetryConfig;
use aws_sdk_dynamodb::config::timeout::TimeoutConfig;
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use tokio::sync::Mutex;

use super::calls::Table;
use super::delete::{self, Purged};
use super::parts::LargeTurns;
use super::{NAME, append, list, load, table};
use crate::key::{Scope, SessionKey};
use crate::store::{
    Append, Appended, Cursor, Deleted, Durability, Loaded, Location, Operation, Page, Read, SessionPage, Sharing,
    Store, StoreError, StoreInfo,
};

/// How a [`DynamoDbStore`] works.
///
/// ```no_run
/// use tower_session_memory::store::DynamoDbOptions;
///
/// # async fn open() -> Result<(), tower_session_memory::StoreError> {
/// let store = DynamoDbOptions::new("chat-memory").connect().await;
/// store.create_table().await?; // unless your infrastructure's own tools do
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct DynamoDbOptions {
    table: String,
    index: String,
    patience: Duration,
    attempt_timeout: Duration,
    large_turns: LargeTurns,
    endpoint: Option<String>,
}

impl DynamoDbOptions {
    /// A store in the table of this name.
    pub fn new(table: impl Into<String>) -> Self {
        Self {
            table: table.into(),
            index: "by_subject".to_owned(),
            patience: Duration::from_secs(8),
            attempt_timeout: Duration::from_secs(3),
            large_turns: LargeTurns::default(),
            endpoint: None,
        }
    }

    /// The index by subject. Default: `by_subject`.
    #[must_use]
    pub fn index(mut self, name: impl Into<String>) -> Self {
        self.index = name.into();
        self
    }

    /// How long a call goes on while the table throttles or others are faster. Default: 8 s, within
    /// the layer's deadline for a commit.
    #[must_use]
    pub fn patience(mut self, limit: Duration) -> Self {
        self.patience = limit;
        self
    }

    /// How long one request may take before it is repeated. Default: 3 s.
    #[must_use]
    pub fn attempt_timeout(mut self, limit: Duration) -> Self {
        self.attempt_timeout = limit;
        self
    }

    /// What becomes of a turn that is larger than one item. Default: [`LargeTurns::Split`].
    /// Instances that differ in this read each other's turns all the same.
    #[must_use]
    pub fn large_turns(mut self, policy: LargeTurns) -> Self {
        self.large_turns = policy;
        self
    }

    /// Another endpoint than the region's: a VPC endpoint, or a local server.
    #[must_use]
    pub fn endpoint(mut self, url: impl Into<String>) -> Self {
        self.endpoint = Some(url.into());
        self
    }

    /// With region and credentials of the environment, as every AWS client finds them.
    ///
    /// # Cancellation
    /// It only reads the environment, and on AWS the instance's metadata: nothing is left behind.
    pub async fn connect(self) -> DynamoDbStore {
        let http =
            aws_smithy_http_client::Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https();
        let config = aws_config::defaults(BehaviorVersion::latest()).http_client(http).load().await;
        self.with_config(&config)
    }

    /// With a configuration of your own, which must have an HTTP client.
    pub fn with_config(self, config: &SdkConfig) -> DynamoDbStore {
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(self.attempt_timeout)
            .operation_attempt_timeout(self.attempt_timeout)
            .operation_timeout(self.patience.max(self.attempt_timeout))
            .build();
        let endpoint = self.endpoint.as_deref().or(config.endpoint_url());
        let mut builder = aws_sdk_dynamodb::config::Builder::from(config).timeout_config(timeouts);
        if let Some(endpoint) = &self.endpoint {
            builder = builder.endpoint_url(endpoint);
        }
        let region = config.region().map_or("none", |region| region.as_ref());
        let location = match endpoint {
            None => format!("region={region} table={}", self.table),
            Some(url) => format!("{} region={region} table={}", without_login(url), self.table),
        };
        // Throttled and failed requests are repeated with growing, random pauses.
        let retries = RetryConfig::standard().with_max_attempts(6).with_max_backoff(Duration::from_secs(1));
        DynamoDbStore(Table {
            client: Client::from_conf(builder.clone().retry_config(retries).build()),
            writer: Client::from_conf(builder.retry_config(RetryConfig::disabled()).build()),
            location: Location::new(&location),
            name: self.table,
            index: self.index,
            patience: self.patience,
            large_turns: self.large_turns,
            turnstiles: (0..256).map(|_| Mutex::new(())).collect::<Arc<[_]>>(),
        })
    }
}

impl fmt::Debug for DynamoDbOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The endpoint is a URL, which may hold a password.
        f.debug_struct("DynamoDbOptions")
            .field("table", &self.table)
            .field("index", &self.index)
            .field("patience", &self.patience)
            .field("attempt_timeout", &self.attempt_timeout)
            .field("large_turns", &self.large_turns)
            .field("endpoint", &self.endpoint.is_some())
            .finish()
    }
}

/// A URL as logs may show it.
fn without_login(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("http", url));
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    format!("{scheme}://{host}")
}

/// Sessions in a DynamoDB table. Cheap to clone.
///
/// See the [module](crate::store::dynamodb) for the table, its costs and the rights it needs.
#[derive(Clone)]
pub struct DynamoDbStore(Table);

impl DynamoDbStore {
    /// Makes the table with its index and its time to live, unless it is there, and waits until it
    /// serves: on-demand capacity. Any number of instances may do this at once.
    ///
    /// # Errors
    /// [`Misconfigured`](crate::store::ErrorKind::Misconfigured) without the rights.
    ///
    /// # Cancellation
    /// The table may be there, or be about to, without its time to live; calling it again does the rest.
    pub async fn create_table(&self) -> Result<(), StoreError> {
        table::create(&self.0).await
    }

    /// Looks at one page of the table (1 MB) and removes what belongs to no living session. Loads do not
    /// need it; it gives back room. Run it from a schedule, page after page, until there is no next.
    ///
    /// # Errors
    /// As the operations of [`Store`].
    ///
    /// # Cancellation
    /// What was removed belonged to no living session and stays removed; the same page again does the rest.
    pub async fn purge(&self, after: Option<&Cursor>) -> Result<Purged, StoreError> {
        delete::purge(&self.0, after).await
    }
}

impl Store for DynamoDbStore {
    fn info(&self) -> StoreInfo {
        StoreInfo::new(NAME, Sharing::Network, Durability::Quorum)
            .max_turn_bytes(self.0.large_turns.max_turn_bytes())
            .at(self.0.location.clone())
    }

    async fn load(&self, key: &SessionKey, read: &Read) -> Result<Loaded, StoreError> {
        load::load(&self.0, key, read).await
    }

    async fn append(&self, key: &SessionKey, append: &Append) -> Result<Appended, StoreError> {
        append::append(&self.0, key, append).await
    }

    async fn delete(&self, key: &SessionKey) -> Result<Deleted, StoreError> {
        delete::delete(&self.0, key).await
    }

    async fn list(&self, scope: &Scope, page: &Page) -> Result<SessionPage, StoreError> {
        list::list(&self.0, scope, page).await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        // A key that no session has.
        self.0.get("~", super::item::HEADER, Operation::Ping).await.map(|_| ())
    }
}

impl fmt::Debug for DynamoDbStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DynamoDbStore").field("table", &self.0.name).finish_non_exhaustive()
    }
}
