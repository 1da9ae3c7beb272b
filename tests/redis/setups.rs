//! Connecting: what is refused, and with which words.

use tower_session_memory::store::{Durability, ErrorKind, RedisAck, RedisBuilder, RedisStore, RedisTls, Store};

use crate::common::certificates::Certificates;
use crate::common::servers::{RedisServer, free_port};

#[tokio::test]
async fn a_server_says_what_an_acknowledgement_is_worth() {
    for (settings, expected) in [
        (&["--appendonly", "no"][..], Durability::Cache),
        (&["--appendonly", "yes", "--appendfsync", "everysec"], Durability::Process),
        (&["--appendonly", "yes", "--appendfsync", "always"], Durability::Host),
        (&["--appendonly", "yes", "--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"], Durability::Cache),
    ] {
        let server = RedisServer::with(settings);
        let store = RedisStore::connect(&server.url()).await.unwrap();
        assert_eq!(store.info().durability, expected, "{settings:?}");
        let higher = [Durability::Process, Durability::Host, Durability::Quorum].into_iter().filter(|l| *l > expected);
        for floor in higher {
            let refused = RedisStore::builder(&server.url()).require(floor).connect().await.unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::Misconfigured, "{settings:?} {floor:?}");
        }
        RedisStore::builder(&server.url()).require(expected).connect().await.unwrap();
    }
}

/// Two instances that are not configured alike are told apart by this, whatever their logins are.
#[tokio::test]
async fn a_location_is_the_server_the_database_and_the_prefix() {
    let server = RedisServer::with(&["--requirepass", "canary"]);
    let url = format!("redis://:canary@127.0.0.1:{}", server.port);
    let told = async |builder: RedisBuilder| builder.connect().await.unwrap().info().location.unwrap();
    let first = told(RedisStore::builder(&url)).await;
    assert_eq!(first.words(), format!("127.0.0.1:{} db=0 prefix=tsm", server.port));
    let with_user = RedisStore::builder(&url.replace("//:", "//default:"));
    assert_eq!(told(with_user).await, first);
    let others =
        [told(RedisStore::builder(&url).prefix("other")).await, told(RedisStore::builder(&format!("{url}/1"))).await];
    assert!(others.iter().all(|other| other.fingerprint() != first.fingerprint()), "{first:?} {others:?}");
    assert_ne!(others[0].fingerprint(), others[1].fingerprint());

    let pool = bb8::Pool::builder().build(bb8_redis::RedisConnectionManager::new(url).unwrap()).await.unwrap();
    let borrowed = RedisStore::from_pool(pool).await.unwrap().info().location.unwrap();
    assert_eq!(borrowed, first, "the server knows where it is asked");
}

#[tokio::test]
async fn a_wrong_login_certificate_or_server_is_told_as_such() {
    let server = RedisServer::with(&["--requirepass", "right"]);
    let kind = async |url: &str| RedisStore::connect(url).await.unwrap_err().kind();
    assert_eq!(kind(&server.url()).await, ErrorKind::Misconfigured);
    assert_eq!(kind(&format!("redis://:wrong@127.0.0.1:{}", server.port)).await, ErrorKind::Misconfigured);
    assert_eq!(
        kind(&format!("redis://:wrong@127.0.0.1:{}?protocol=resp3", server.port)).await,
        ErrorKind::Misconfigured
    );
    RedisStore::connect(&format!("redis://:right@127.0.0.1:{}", server.port)).await.unwrap();
    assert_eq!(kind(&format!("redis://:right@127.0.0.1:{}/99", server.port)).await, ErrorKind::Misconfigured);
    assert_eq!(kind(&format!("redis://127.0.0.1:{}", free_port())).await, ErrorKind::Unavailable);
    assert_eq!(kind(&format!("redis+cluster://:right@127.0.0.1:{}", server.port)).await, ErrorKind::Misconfigured);
    let old = RedisStore::builder(&format!("redis://:right@127.0.0.1:{}", server.port));
    if version(&server) < (7, 2) {
        let refused = old.acknowledged_by(RedisAck::disks(0)).connect().await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Misconfigured, "WAITAOF on a server that has none");
    }
}

fn version(server: &RedisServer) -> (u32, u32) {
    let client = redis::Client::open(format!("redis://:right@127.0.0.1:{}", server.port)).unwrap();
    let info: String = redis::cmd("INFO").query(&mut client.get_connection().unwrap()).unwrap();
    let version = info.lines().find_map(|line| line.strip_prefix("redis_version:")).unwrap();
    let mut parts = version.split('.').map(|part| part.parse().unwrap());
    (parts.next().unwrap(), parts.next().unwrap())
}

#[tokio::test]
async fn a_server_of_another_authority_is_not_trusted() {
    let certificates = Certificates::new();
    let port = free_port();
    let settings = format!("--port 0 --tls-auth-clients no {}", certificates.settings(port));
    let _server = RedisServer::with(&settings.split_whitespace().collect::<Vec<_>>());
    let url = format!("rediss://localhost:{port}");
    let with = async |ca: &str| {
        let tls = RedisTls::with_ca(&certificates.read(ca)).unwrap();
        RedisStore::builder(&url).tls(tls).connect().await
    };
    with("ca.pem").await.unwrap();
    assert_eq!(with("stranger.pem").await.unwrap_err().kind(), ErrorKind::Unavailable);
    let without_tls = RedisStore::connect(&format!("redis://localhost:{port}")).await.unwrap_err();
    assert_eq!(without_tls.kind(), ErrorKind::Unavailable);
}
