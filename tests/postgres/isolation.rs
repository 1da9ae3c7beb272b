//! Databases and roles whose transactions are isolated by default in another way than this crate wants.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tower_session_memory::store::{ErrorKind, PostgresOptions, PostgresStore, Store};

use crate::kit::{append, key, told, turns};
use crate::server::{Bouncer, Server};

/// Appends of several instances to one session at once, each repeated until it is stored; how many
/// attempts PostgreSQL refused to serialize.
async fn crowd(pods: &[PostgresStore]) -> usize {
    let (key, refused) = (key(), Arc::new(AtomicUsize::new(0)));
    let calls: Vec<_> = (0..60)
        .map(|number| {
            let (store, key, refused) = (pods[number % pods.len()].clone(), key.clone(), refused.clone());
            tokio::spawn(async move {
                let append = append(&format!("turn {number}"));
                while let Err(error) = store.append(&key, &append).await {
                    assert_eq!(error.kind(), ErrorKind::Unavailable, "{}", told(&error));
                    assert!(told(&error).contains("40001"), "{}", told(&error));
                    refused.fetch_add(1, Ordering::Relaxed);
                }
                append.turn
            })
        })
        .collect();
    let mut expected = Vec::new();
    for call in calls {
        expected.push(call.await.unwrap());
    }
    let mut stored = turns(&pods[0], &key).await;
    stored.sort_by_key(|turn| turn.id());
    expected.sort_by_key(|turn| turn.id());
    assert_eq!(stored, expected, "each once");
    refused.load(Ordering::Relaxed)
}

async fn pods(options: PostgresOptions) -> Vec<PostgresStore> {
    let mut pods = Vec::new();
    for _ in 0..4 {
        pods.push(options.clone().pool_size(4).connect().await.unwrap());
    }
    pods
}

#[tokio::test(flavor = "multi_thread")]
async fn a_default_of_the_role_or_the_database_does_not_matter_on_connections_of_our_own() {
    let server = Server::start(&["default_transaction_isolation=serializable"]);
    let options = server.options("m");
    options.migrate().await.unwrap();
    for default in ["ALTER ROLE postgres SET", "ALTER DATABASE postgres SET"] {
        for level in ["repeatable read", "serializable"] {
            server.psql(&format!("{default} default_transaction_isolation = '{level}'"), &[]).unwrap();
            assert_eq!(crowd(&pods(options.clone()).await).await, 0, "{default} {level}");
        }
    }
}

/// A transaction pooler takes no settings, so the default applies, and PostgreSQL refuses what it
/// cannot serialize: with nothing written, to be tried again.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_serialized_behind_a_pooler_may_be_tried_again() {
    for level in ["repeatable read", "serializable"] {
        let server = Server::start(&[]);
        server.psql(&format!("ALTER ROLE postgres SET default_transaction_isolation = '{level}'"), &[]).unwrap();
        let bouncer = Bouncer::start(&server);
        let options = PostgresOptions::new(&bouncer.url()).unwrap().transaction_pooler(true);
        options.migrate().await.unwrap();
        let refused = crowd(&pods(options).await).await;
        println!("{level}: {refused} attempts were refused");
        assert!(refused > 0, "nothing went wrong: this shows nothing");
    }
}
