//! One server, by a few connections that all calls share.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use bb8::{Pool, RunError};
use futures_util::FutureExt;
use futures_util::future::{Either, select};
use tokio::sync::watch;

use super::failure::{Failure, Note};
use super::link::{Link, Reign, Reply, Request};
use super::manager::{Manager, Setup, Source};
use super::probe::RedisAck;
use super::sentinel::Sentinels;
use super::target::{Address, Target, Topology};

/// A server, and the connections to it.
pub(super) struct Node {
    plain: Lane,
    /// For writes that replicas must confirm: `WAIT` holds up all that follows on its connection, and
    /// a replica that is away must not hold up those who only read.
    confirmed: Lane,
    setup: Arc<Setup>,
}

/// A pool whose connections are borrowed for a moment, cloned and given back: each carries many
/// calls at once, so that few are enough and nobody waits for a turn.
#[derive(Clone)]
struct Lane {
    pool: Pool<Manager>,
    failed: watch::Sender<Option<Failure>>,
}

impl Node {
    pub(super) fn at(address: Address, setup: Arc<Setup>) -> Self {
        Self::of(Source::Fixed(address), setup)
    }

    /// The one server, or the master behind the Sentinels, of this target.
    pub(super) fn single(target: &Target, sentinel_login: redis::RedisConnectionInfo, setup: Arc<Setup>) -> Self {
        let source = match &target.topology {
            Topology::Sentinel { master } => Source::Sentinel(Arc::new(Sentinels {
                addresses: target.addresses.clone(),
                master: master.clone(),
                login: sentinel_login,
                last: AtomicUsize::new(0),
            })),
            _ => Source::Fixed(target.addresses[0].clone()),
        };
        Self::of(source, setup)
    }

    fn of(source: Source, setup: Arc<Setup>) -> Self {
        let reign = Reign::default();
        let plain = Lane::of(source.clone(), &setup, &reign);
        let confirmed = match setup.ack {
            RedisAck::Master => plain.clone(),
            _ => Lane::of(source, &setup, &reign),
        };
        Self { plain, confirmed, setup }
    }

    /// A connection that works as far as anybody knows.
    pub(super) async fn link(&self) -> Result<Link, Failure> {
        self.plain.link().await
    }

    /// Connections, and how many of them are idle.
    pub(super) fn state(&self) -> (u32, u32) {
        let lanes = [Some(&self.plain), Some(&self.confirmed).filter(|_| self.setup.ack != RedisAck::Master)];
        let states = lanes.into_iter().flatten().map(|lane| lane.pool.state());
        states.fold((0, 0), |sum, state| (sum.0 + state.connections, sum.1 + state.idle_connections))
    }

    pub(super) async fn call(&self, request: &Request, asking: bool) -> Result<Reply, Failure> {
        let Setup { ack, reply, .. } = *self.setup;
        match request.confirm {
            None => self.plain.link().await?.call(request, asking, reply).await,
            Some(_) => self.confirmed.link().await?.call(request, asking, reply + ack.within()).await,
        }
    }
}

impl Lane {
    fn of(source: Source, setup: &Arc<Setup>, reign: &Reign) -> Self {
        let failed = watch::Sender::new(None);
        let manager = Manager { setup: setup.clone(), source, reign: reign.clone(), failed: failed.clone() };
        let pool = Pool::builder()
            .max_size(setup.connections)
            .min_idle(setup.connections)
            .connection_timeout(setup.acquire)
            // A failed attempt is told at once; the next call makes the next attempt.
            .retry_connection(false)
            .max_lifetime(None)
            .idle_timeout(None)
            .build_unchecked(manager);
        Self { pool, failed }
    }

    async fn link(&self) -> Result<Link, Failure> {
        // Nearly always one is there.
        if let Some(Ok(link)) = self.pool.get().now_or_never() {
            return Ok(link.clone());
        }
        let mut failed = self.failed.subscribe();
        let borrowed = pin!(self.pool.get());
        let refused = pin!(async move {
            let _ = failed.changed().await;
            failed.borrow().clone()
        });
        match select(borrowed, refused).await {
            Either::Left((Ok(link), _)) => Ok(link.clone()),
            Either::Left((Err(RunError::User(failure)), _)) | Either::Right((Some(failure), _)) => Err(failure),
            Either::Left((Err(RunError::TimedOut), _)) | Either::Right((None, _)) => {
                Err(Failure::not_sent(Note("no connection within the acquire deadline".into())))
            }
        }
    }
}

/// The connection of a pool that the application built, borrowed for a moment.
pub(super) async fn borrow(pool: &Pool<bb8_redis::RedisConnectionManager>) -> Result<Link, Failure> {
    let get: &mut (dyn Future<Output = _> + Send + Unpin) = &mut pin!(pool.get());
    match get.await {
        Ok(connection) => Ok(Link::borrowed(connection.clone())),
        Err(RunError::User(error)) => Err(super::failure::of_client(error, false)),
        Err(RunError::TimedOut) => Err(Failure::not_sent(Note("the pool has no connection".into()))),
    }
}
