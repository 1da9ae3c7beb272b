//! A store that goes away and comes back: what clients are told, and what the log says.

use http::StatusCode;
use serde_json::Value;

use crate::postgres;
use crate::process::{ADA, CHAT, Gateway, patient, question};
use crate::servers::RedisServer;
use crate::upstream::Upstream;

#[tokio::test(flavor = "multi_thread")]
async fn redis_goes_away_and_comes_back() {
    let redis = RedisServer::start();
    survived(&redis.url(), || redis.kill_9(), || redis.restart()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_goes_away_and_comes_back() {
    let postgres = postgres::Server::start(&[]);
    survived(&postgres.url(), || postgres.kill(), || postgres.launch()).await;
}

async fn survived(store: &str, kill: impl Fn(), restart: impl Fn()) {
    let upstream = Upstream::start().await;
    let gateway = Gateway::start(&["--upstream", &upstream.url, "--store", store]);
    let status = async |path: &str| gateway.send(path, &[], &Value::Null).await.status;
    let lines = |level: &str, said: &str| {
        gateway.log().lines().filter(|line| line.contains(level) && line.contains(said)).count()
    };
    assert_eq!((status("/healthz").await, status("/readyz").await), (StatusCode::OK, StatusCode::OK));
    assert_eq!(gateway.says("one").await, "1 messages");

    kill();
    assert_eq!(status("/readyz").await, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(status("/healthz").await, StatusCode::OK, "a restart of the gateway would mend nothing");
    let asked = upstream.got().len();
    for _ in 0..100 {
        let answer = gateway.send(CHAT, &ADA, &question("two")).await;
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "never an empty history");
        assert_eq!(answer.json()["code"], "store_unavailable");
    }
    assert_eq!(upstream.got().len(), asked);
    // Whoever is on call finds what matters: the breaker's word, not one for each request.
    assert_eq!(lines("ERROR", "the store is away"), 1, "{}", gateway.log());
    assert!(lines("ERROR", "") <= 8, "{}", gateway.log());

    restart();
    patient("the store is back", async { while status("/readyz").await != StatusCode::OK {} }).await;
    assert_eq!(gateway.says("two").await, "3 messages");
    assert_eq!(lines("WARN", "the store is back"), 1, "{}", gateway.log());
}
