//! The conformance suite on every set-up of servers.

use std::sync::Arc;

use bb8_redis::RedisConnectionManager;
use tower_session_memory::InMemory;
use tower_session_memory::store::conformance::Instances;
use tower_session_memory::store::{Cached, Durability, RedisAck, RedisStore};

use crate::common::certificates::Certificates;
use crate::common::servers::{RedisServer, Shared, free_port};
use crate::common::topologies::{RedisCluster, Trio};

/// Two stores on the same servers, which live as long as the stores do.
async fn twice(url: &str, servers: Arc<impl Send + Sync + 'static>) -> Instances {
    let connect = async || RedisStore::connect(url).await.unwrap();
    Instances::new(connect().await).and(connect().await).keeping(servers)
}

static SERVER: Shared<RedisServer> = Shared::new();

mod standalone {
    use super::*;

    async fn instances() -> Instances {
        let server = SERVER.get(RedisServer::start);
        twice(&server.url(), server).await
    }

    tower_session_memory::conformance_tests!(instances);
}

/// A user with the rights that the store needs and no others, database 3, RESP3.
mod unix_socket_acl_resp3 {
    use super::*;

    async fn instances() -> Instances {
        static SERVER: Shared<RedisServer> = Shared::new();
        let server = SERVER.get(|| {
            let server =
                RedisServer::with(&["--appendonly", "yes", "--unixsocket", "{dir}/socket", "--databases", "4"]);
            server.ask::<()>(concat!(
                "ACL SETUSER pod on >p%ss ~tsm:* ",
                "+eval +evalsha +lrange +lindex +llen +lset +rpush +ltrim +lpos +pexpire +pttl +persist +time ",
                "+zadd +zcard +zrem +zscore +zrevrangebyscore +scan +set +ping +info +config|get +select +hello"
            ));
            server
        });
        let url = format!("unix://{}?db=3&user=pod&pass=p%25ss&protocol=resp3", server.path("socket").display());
        twice(&url, server).await
    }

    tower_session_memory::conformance_tests!(instances);
}

mod tls_with_client_certificate {
    use super::*;

    async fn instances() -> Instances {
        static SERVER: Shared<(RedisServer, Certificates)> = Shared::new();
        let server = SERVER.get(|| {
            let certificates = Certificates::new();
            let settings = format!("--tls-auth-clients yes {}", certificates.settings(free_port()));
            let server = RedisServer::with(&settings.split_whitespace().collect::<Vec<_>>());
            (server, certificates)
        });
        let (redis, certificates) = &*server;
        let tls = certificates.trust().identity(&certificates.read("client.pem"), &certificates.read("client.key"));
        let tls = tls.unwrap();
        let url = format!("rediss://localhost:{}", redis.public_port());
        let connect = async || RedisStore::builder(&url).tls(tls.clone()).connect().await.unwrap();
        Instances::new(connect().await).and(connect().await).keeping(server.clone())
    }

    tower_session_memory::conformance_tests!(instances);
}

/// A pool of bb8-redis, as an application may have one already.
mod borrowed_pool {
    use super::*;

    async fn instances() -> Instances {
        let server = SERVER.get(RedisServer::start);
        let connect = async || {
            let manager = RedisConnectionManager::new(server.url()).unwrap();
            let pool = bb8::Pool::builder().max_size(3).build(manager).await.unwrap();
            RedisStore::from_pool(pool).await.unwrap()
        };
        Instances::new(connect().await).and(connect().await).keeping(server.clone())
    }

    tower_session_memory::conformance_tests!(instances);
}

/// Two pods, each with a cache of its own.
mod cached {
    use super::*;

    async fn instances() -> Instances {
        let server = SERVER.get(RedisServer::start);
        let connect = async || Cached::new(RedisStore::connect(&server.url()).await.unwrap(), 8 << 20);
        Instances::new(connect().await).and(connect().await).keeping(server.clone())
    }

    tower_session_memory::conformance_tests!(instances);
}

/// A cache in front of the specification itself.
mod cached_memory {
    use super::*;

    async fn instances() -> Instances {
        let store = tower_session_memory::SharedStore::new(InMemory::new());
        Instances::new(Cached::new(store.clone(), 8 << 20)).and(Cached::new(store, 8 << 20))
    }

    tower_session_memory::conformance_tests!(instances);
}

/// Three masters.
mod cluster {
    use super::*;

    async fn instances() -> Instances {
        static SERVERS: Shared<RedisCluster> = Shared::new();
        let servers = SERVERS.get(RedisCluster::start);
        twice(&servers.url(), servers).await
    }

    tower_session_memory::conformance_tests!(instances);
}

/// A master, two replicas, three Sentinels; a turn counts once a replica has it.
mod sentinel {
    use super::*;

    async fn instances() -> Instances {
        static SERVERS: Shared<Trio> = Shared::new();
        let servers = SERVERS.get(Trio::start);
        let connect = async || {
            let builder = RedisStore::builder(&servers.url()).acknowledged_by(RedisAck::replicas(1));
            builder.require(Durability::Quorum).connect().await.unwrap()
        };
        Instances::new(connect().await).and(connect().await).keeping(servers.clone())
    }

    tower_session_memory::conformance_tests!(instances);
}

/// Valkey, or any other server that speaks the protocol: named in `VALKEY_SERVER`, or found by its
/// name.
mod valkey {
    use super::*;

    async fn instances() -> Instances {
        let Some(valkey) = crate::common::servers::valkey("redis-server takes its place") else {
            let server = SERVER.get(RedisServer::start);
            return twice(&server.url(), server).await;
        };
        static SERVER_OF_VALKEY: Shared<RedisServer> = Shared::new();
        let server = SERVER_OF_VALKEY.get(|| RedisServer::of(valkey, &["--appendonly", "yes"]));
        twice(&server.url(), server).await
    }

    tower_session_memory::conformance_tests!(instances);
}
