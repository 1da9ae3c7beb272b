//! How connections are opened, checked and replaced: what the pool asks.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use redis::RedisConnectionInfo;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_rustls::rustls::ClientConfig;

use super::failure::Failure;
use super::link::{Link, Reign};
use super::probe::{Facts, RedisAck};
use super::sentinel::Sentinels;
use super::stream::Stream;
use super::target::Address;
use crate::store::Durability;

/// What holds for every connection of a store.
#[derive(Clone)]
pub(super) struct Setup {
    pub(super) login: RedisConnectionInfo,
    pub(super) tls: Option<Arc<ClientConfig>>,
    /// Connections to one server.
    pub(super) connections: u32,
    /// Opening one, handshakes and checks included.
    pub(super) connect: Duration,
    /// Waiting for one.
    pub(super) acquire: Duration,
    /// Waiting for an answer.
    pub(super) reply: Duration,
    pub(super) ack: RedisAck,
    pub(super) floor: Option<Durability>,
}

impl Setup {
    /// Opens a socket and says hello, as this login.
    pub(super) async fn dial(&self, address: &Address, login: &RedisConnectionInfo) -> Result<Link, Failure> {
        let heard = Arc::new(AtomicU64::new(0));
        let stream = Stream::open(address, self.tls.as_ref(), heard.clone()).await.map_err(Failure::not_sent)?;
        Link::over(stream, login, heard).await
    }

    /// Opens a connection to a server that is good enough.
    async fn open(&self, address: &Address) -> Result<Link, Failure> {
        let link = self.dial(address, &self.login).await?;
        // Every connection is checked: after a failover it is another server.
        let facts = Facts::read(&link, self.connect).await.map_err(before_use)?;
        facts.check(self.ack, self.floor)?;
        self.ack.check(&link, self.connect).await.map_err(before_use)?;
        Ok(link)
    }
}

/// Nothing of a turn was sent on a connection that is still being set up.
fn before_use(failure: Failure) -> Failure {
    match failure {
        Failure::Lost(error) => Failure::NotSent(error),
        other => other,
    }
}

/// Where a pool's connections lead.
#[derive(Clone)]
pub(super) enum Source {
    Fixed(Address),
    /// To the master that Sentinels name at that moment.
    Sentinel(Arc<Sentinels>),
}

/// bb8's manager. In place of bb8-redis's own, which sends a PING per checkout, sets no deadline and
/// never reports a connection as broken.
pub(super) struct Manager {
    pub(super) setup: Arc<Setup>,
    pub(super) source: Source,
    pub(super) reign: Reign,
    /// The last failure to connect, so that those who wait for a connection need not wait in vain.
    pub(super) failed: watch::Sender<Option<Failure>>,
}

impl Manager {
    async fn open(&self) -> Result<Link, Failure> {
        let reign = self.reign.number();
        let address = match &self.source {
            Source::Fixed(address) => address.clone(),
            Source::Sentinel(sentinels) => sentinels.master(&self.setup).await?,
        };
        Ok(self.setup.open(&address).await?.within(&self.reign, reign))
    }
}

impl bb8::ManageConnection for Manager {
    type Connection = Link;
    type Error = Failure;

    async fn connect(&self) -> Result<Link, Failure> {
        let opened = timeout(self.setup.connect, self.open()).await;
        let opened = opened.unwrap_or_else(|elapsed| Err(Failure::not_sent(elapsed)));
        if let Err(failure) = &opened {
            self.failed.send_replace(Some(failure.clone()));
        }
        opened
    }

    /// No I/O: a link knows whether it is broken. The pool then opens another.
    async fn is_valid(&self, link: &mut Link) -> Result<(), Failure> {
        if link.is_broken() { Err(Failure::NotSent(Arc::new(super::failure::Note("broken".into())))) } else { Ok(()) }
    }

    fn has_broken(&self, link: &mut Link) -> bool {
        link.is_broken()
    }
}
