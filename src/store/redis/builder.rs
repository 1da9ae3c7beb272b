//! How a store comes about.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;

use bb8::Pool;
use bb8_redis::RedisConnectionManager;

use super::cluster::Cluster;
use super::codec::Names;
use super::failure::{Failure, Note};
use super::manager::Setup;
use super::node::{Node, borrow};
use super::probe::{Facts, RedisAck, location_of};
use super::script::Scripts;
use super::servers::Servers;
use super::store::RedisStore;
use super::target::{Address, Target, Topology};
use super::tls::RedisTls;
use crate::store::{Durability, Location, Operation, StoreError};

/// Settings of a [`RedisStore`] before it connects; each default says what it costs.
#[derive(Clone)]
#[must_use = "nothing happens before `connect`"]
pub struct RedisBuilder {
    url: String,
    prefix: String,
    tls: Option<RedisTls>,
    sentinel_login: Option<(Option<String>, String)>,
    connections: u32,
    connect: Duration,
    acquire: Duration,
    reply: Duration,
    ack: RedisAck,
    floor: Option<Durability>,
}

impl RedisStore {
    /// Connects with the defaults of [`RedisStore::builder`].
    ///
    /// # Errors
    /// As [`RedisBuilder::connect`].
    ///
    /// # Cancellation
    /// As [`RedisBuilder::connect`].
    pub async fn connect(url: &str) -> Result<Self, StoreError> {
        Self::builder(url).connect().await
    }

    /// Settings for the servers that a URL names:
    ///
    /// | URL | for |
    /// |---|---|
    /// | `redis://[user[:password]@]host[:port][/db]` | one server |
    /// | `rediss://...` | one server, TLS |
    /// | `unix:///path/to/socket[?db=1&user=..&pass=..]` | one server, Unix socket |
    /// | `redis+sentinel://host[:port],host.../master[/db]` | the master that Sentinels name |
    /// | `redis+cluster://host[:port],host...` | a Cluster, by some of its nodes |
    ///
    /// `rediss+...` is the same over TLS, `valkey` may stand for `redis`, and `?protocol=resp3`
    /// speaks RESP3.
    pub fn builder(url: &str) -> RedisBuilder {
        RedisBuilder {
            url: url.to_owned(),
            prefix: "tsm".to_owned(),
            tls: None,
            sentinel_login: None,
            connections: 2,
            connect: Duration::from_secs(1),
            acquire: Duration::from_secs(1),
            reply: Duration::from_secs(1),
            ack: RedisAck::Master,
            floor: None,
        }
    }

    /// A store on a pool that the application has already, of one server. It is asked what an
    /// acknowledgement is worth.
    ///
    /// Each call borrows a connection, clones it and gives it back at once. bb8-redis sends a PING
    /// per checkout (switch it off with `test_on_check_out(false)` and broken connections stay for
    /// ever), so this costs a round trip more than [`RedisStore::connect`].
    ///
    /// # Errors
    /// [`Unavailable`](crate::store::ErrorKind::Unavailable) when the server cannot be reached,
    /// [`Misconfigured`](crate::store::ErrorKind::Misconfigured) when it is too old or a replica.
    ///
    /// # Cancellation
    /// It only asks: the pool has its connection back, and an answer that still comes is thrown away.
    pub async fn from_pool(pool: Pool<RedisConnectionManager>) -> Result<Self, StoreError> {
        let RedisBuilder { prefix, reply, ack, .. } = Self::builder("");
        let opened = async {
            let link = borrow(&pool).await?;
            let facts = Facts::read(&link, reply).await?;
            facts.check(ack, None)?;
            let location = location_of(&link, &prefix, reply).await?;
            facts.announce(ack, location.as_ref());
            Ok((facts.durability(ack), location))
        };
        let (durability, location) = opened.await.map_err(|failure: Failure| failure.into_error(Operation::Open))?;
        Ok(Self::on(Servers::Borrowed(pool, reply), prefix, ack, durability, location))
    }

    fn on(servers: Servers, prefix: String, ack: RedisAck, durability: Durability, location: Option<Location>) -> Self {
        let names = Names::new(prefix);
        Self {
            servers,
            names,
            scripts: Scripts::new(),
            ack,
            durability,
            location,
            trims: AtomicBool::new(false),
            lineages: AtomicU64::new(u128::from_ne_bytes(crate::hex::random_16()) as u64),
        }
    }
}

impl RedisBuilder {
    /// What the store's keys begin with. Default: `tsm`. Braces are refused: they would decide where a
    /// Cluster keeps the keys.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// Whom to trust on `rediss` URLs. Default: the operating system's authorities.
    pub fn tls(mut self, tls: RedisTls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// User and password for the Sentinels, which often have others than the servers. Default: none.
    pub fn sentinel_login(mut self, user: Option<&str>, password: &str) -> Self {
        self.sentinel_login = Some((user.map(str::to_owned), password.to_owned()));
        self
    }

    /// Connections to each server, shared by all calls. Default: 2. More cost syscalls on both
    /// sides; they help when single turns are so large that one delays the next. With
    /// [`acknowledged_by`](Self::acknowledged_by) as many again.
    pub fn connections(mut self, connections: u32) -> Self {
        self.connections = connections.max(1);
        self
    }

    /// How long opening a connection may take, checks included. Default: 1 s.
    pub fn connect_timeout(mut self, deadline: Duration) -> Self {
        self.connect = deadline;
        self
    }

    /// How long a call waits for a connection. Default: 1 s. While the server refuses connections
    /// nobody waits at all.
    pub fn acquire_timeout(mut self, deadline: Duration) -> Self {
        self.acquire = deadline;
        self
    }

    /// How long a call waits for its answer. Default: 1 s. A connection on which nothing at all
    /// arrived in that time is replaced.
    pub fn reply_timeout(mut self, deadline: Duration) -> Self {
        self.reply = deadline;
        self
    }

    /// Whose word to wait for. Default: the master's. The rest costs a round trip to the replicas,
    /// during which the connection carries nothing else; so such writes have connections of their own,
    /// and loads go on while a replica is away.
    pub fn acknowledged_by(mut self, ack: RedisAck) -> Self {
        self.ack = ack;
        self
    }

    /// What an acknowledgement must be worth at least: a server that cannot give it is refused, now
    /// and after every failover. Default: anything goes, and is told in
    /// [`StoreInfo::durability`](crate::store::StoreInfo::durability).
    pub fn require(mut self, floor: Durability) -> Self {
        self.floor = Some(floor);
        self
    }

    /// Connects, and asks every server what it is worth.
    ///
    /// # Errors
    /// [`Misconfigured`](crate::store::ErrorKind::Misconfigured) for a wrong URL or login, and for
    /// servers that are too old, cannot do what was asked for, or are below the floor;
    /// [`Unavailable`](crate::store::ErrorKind::Unavailable) when there is nobody, or nobody whose
    /// certificate is trusted.
    ///
    /// # Cancellation
    /// It only asks: there is no store, and the connections that it has made or is making close.
    pub async fn connect(self) -> Result<RedisStore, StoreError> {
        self.connect_now().await.map_err(|failure| failure.into_error(Operation::Open))
    }

    async fn connect_now(self) -> Result<RedisStore, Failure> {
        let target = Target::parse(&self.url)?;
        let setup = Arc::new(self.setup(&target)?);
        let location = location(&target, &self.prefix);
        let servers = match target.topology {
            Topology::Cluster => Servers::Cluster(Cluster::connect(target.addresses, setup.clone()).await?),
            _ => Servers::One(Arc::new(Node::single(&target, self.login_to_sentinels(), setup.clone()))),
        };
        let mut durability = Durability::Quorum;
        for master in servers.masters() {
            let facts = master.facts(setup.reply).await?;
            facts.announce(self.ack, Some(&location));
            durability = durability.min(facts.durability(self.ack));
        }
        Ok(RedisStore::on(servers, self.prefix, self.ack, durability, Some(location)))
    }

    fn setup(&self, target: &Target) -> Result<Setup, Failure> {
        let wrong = |why: &str| Err(Failure::misconfigured(Note(why.to_owned())));
        if self.prefix.is_empty() || self.prefix.contains(['{', '}']) {
            return wrong("the prefix of keys must not be empty or have braces");
        }
        let tls = match (target.tls, &self.tls) {
            (false, None) => None,
            (false, Some(_)) => return wrong("TLS is set up, and the URL does not ask for it: rediss://"),
            (true, Some(tls)) => Some(tls.client_config()?),
            (true, None) => Some(RedisTls::system().map_err(Failure::misconfigured)?.client_config()?),
        };
        Ok(Setup {
            login: target.login.clone(),
            tls,
            connections: self.connections,
            connect: self.connect,
            acquire: self.acquire,
            reply: self.reply,
            ack: self.ack,
            floor: self.floor,
        })
    }

    fn login_to_sentinels(&self) -> redis::RedisConnectionInfo {
        let login = redis::RedisConnectionInfo::default();
        match &self.sentinel_login {
            None => login,
            Some((None, password)) => login.set_password(password),
            Some((Some(user), password)) => login.set_username(user).set_password(password),
        }
    }
}

/// Where a URL leads, without its login.
fn location(target: &Target, prefix: &str) -> Location {
    let address = |address: &Address| match address {
        Address::Tcp { host, port } => format!("{host}:{port}"),
        Address::Unix(path) => path.display().to_string(),
    };
    let mut addresses: Vec<_> = target.addresses.iter().map(address).collect();
    addresses.sort();
    let servers = match &target.topology {
        Topology::Standalone => String::new(),
        Topology::Sentinel { master } => format!(" master={master}"),
        Topology::Cluster => " cluster".to_owned(),
    };
    Location::new(&format!("{}{servers} db={} prefix={prefix}", addresses.join(","), target.login.db()))
}

impl std::fmt::Debug for RedisBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The URL may hold a password.
        f.debug_struct("RedisBuilder").field("ack", &self.ack).field("floor", &self.floor).finish_non_exhaustive()
    }
}
