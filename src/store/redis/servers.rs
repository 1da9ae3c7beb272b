//! The servers behind a store, whatever their number.

use std::sync::Arc;
use std::time::Duration;

use bb8::Pool;
use bb8_redis::RedisConnectionManager;

use super::cluster::Cluster;
use super::failure::Failure;
use super::link::{Reply, Request};
use super::node::{Node, borrow};
use super::probe::Facts;
use crate::store::PoolState;

pub(super) enum Servers {
    /// One server, or the master that Sentinels name.
    One(Arc<Node>),
    Cluster(Cluster),
    /// A pool of the application's, with our reply deadline.
    Borrowed(Pool<RedisConnectionManager>, Duration),
}

/// One master, for what concerns a whole server.
pub(super) enum Master<'a> {
    Node(Arc<Node>),
    Borrowed(&'a Pool<RedisConnectionManager>, Duration),
}

impl Servers {
    /// Sends a request to whoever has this key.
    pub(super) async fn call(&self, key: &[u8], request: &Request) -> Result<Reply, Failure> {
        match self {
            Self::One(node) => node.call(request, false).await,
            Self::Cluster(cluster) => cluster.call(key, request).await,
            Self::Borrowed(pool, patience) => borrow(pool).await?.call(request, false, *patience).await,
        }
    }

    /// Whether two keys may live on different servers, so that no script can see both.
    pub(super) fn are_many(&self) -> bool {
        matches!(self, Self::Cluster(_))
    }

    pub(super) fn masters(&self) -> Vec<Master<'_>> {
        match self {
            Self::One(node) => vec![Master::Node(node.clone())],
            Self::Cluster(cluster) => cluster.masters().into_iter().map(Master::Node).collect(),
            Self::Borrowed(pool, patience) => vec![Master::Borrowed(pool, *patience)],
        }
    }

    /// The connections to all servers. Each is shared: idle ones are those of which no call is being
    /// cloned at this very moment, so they say little.
    pub(super) fn pool(&self) -> PoolState {
        let states = self.masters().into_iter().map(|master| match master {
            Master::Node(node) => node.state(),
            Master::Borrowed(pool, _) => (pool.state().connections, pool.state().idle_connections),
        });
        let sum = states.fold((0, 0), |sum, state| (sum.0 + state.0, sum.1 + state.1));
        PoolState::new(sum.0, sum.1)
    }

    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::One(_) => "one",
            Self::Cluster(_) => "cluster",
            Self::Borrowed(..) => "borrowed pool",
        }
    }
}

impl Master<'_> {
    pub(super) async fn call(&self, request: &Request) -> Result<Reply, Failure> {
        match self {
            Self::Node(node) => node.call(request, false).await,
            Self::Borrowed(pool, patience) => borrow(pool).await?.call(request, false, *patience).await,
        }
    }

    /// What the server tells about itself.
    pub(super) async fn facts(&self, patience: Duration) -> Result<Facts, Failure> {
        let link = match self {
            Self::Node(node) => node.link().await?,
            Self::Borrowed(pool, _) => borrow(pool).await?,
        };
        Facts::read(&link, patience).await
    }
}
