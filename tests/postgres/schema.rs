//! How the schema comes to be, and which schemas and servers are refused.

use std::sync::Arc;

use tokio::sync::Barrier;
use tower_session_memory::Window;
use tower_session_memory::store::{ErrorKind, PostgresOptions, Read, Store};

use crate::kit::{append, client, key, open, persist, store_in, told, turns};
use crate::server::{SHARED, Server, give};

#[tokio::test(flavor = "multi_thread")]
async fn ten_pods_migrate_an_empty_database_at_once() {
    let start = Arc::new(Barrier::new(10));
    let pods: Vec<_> = (0..10)
        .map(|_| {
            let start = start.clone();
            tokio::spawn(async move {
                let options = SHARED.options("ten_pods");
                start.wait().await;
                let applied = options.migrate().await.unwrap();
                let store = options.connect().await.unwrap();
                store.append(&key(), &append("hello")).await.unwrap();
                applied
            })
        })
        .collect();
    let mut applied = Vec::new();
    for pod in pods {
        applied.extend(pod.await.unwrap());
    }
    applied.sort_unstable();
    assert_eq!(applied, [1, 2, 3], "each migration is applied by one pod");
}

#[tokio::test]
async fn a_missing_and_an_old_schema_are_refused_with_what_mends_them() {
    let options = SHARED.options("old_schema");
    let error = options.clone().connect().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Misconfigured);
    assert!(told(&error).contains("old_schema has version 0 and this build needs 3"), "{}", told(&error));

    options.migrate().await.unwrap();
    SHARED.psql("DELETE FROM old_schema.migration WHERE version = 3", &[]).unwrap();
    let error = options.clone().connect().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Misconfigured);
    let told = told(&error);
    assert!(told.contains("version 2 and this build needs 3"), "{told}");
    assert!(told.contains("PostgresOptions::migrate") && told.contains("psql -f"), "{told}");
}

#[tokio::test]
async fn what_the_refusal_says_mends_an_old_schema() {
    let options = SHARED.options("mended");
    options.migrate().await.unwrap();
    // As it was before the functions were added.
    SHARED
        .psql(
            "SELECT format('DROP FUNCTION %s', oid::regprocedure) FROM pg_proc
             WHERE pronamespace = 'mended'::regnamespace AND proname NOT IN ('sessions_of', 'audit_is_append_only') \\gexec
             DELETE FROM mended.migration WHERE version = 3",
            &[],
        )
        .unwrap();
    assert_eq!(options.clone().connect().await.unwrap_err().kind(), ErrorKind::Misconfigured);
    assert_eq!(options.migrate().await.unwrap(), [3]);
    let store = options.connect().await.unwrap();
    store.append(&key(), &append("hello")).await.unwrap();
}

#[tokio::test]
async fn a_newer_schema_is_refused_only_when_it_breaks_this_build() {
    let options = SHARED.options("newer_schema");
    options.migrate().await.unwrap();
    SHARED.psql("INSERT INTO newer_schema.migration VALUES (4, 'a column more', 3)", &[]).unwrap();
    options.clone().connect().await.unwrap();
    SHARED.psql("INSERT INTO newer_schema.migration VALUES (5, 'all is new', 5)", &[]).unwrap();
    for error in [options.clone().connect().await.unwrap_err(), options.migrate().await.unwrap_err()] {
        assert_eq!(error.kind(), ErrorKind::NewerVersion);
        assert!(told(&error).contains("deploy a newer build"), "{}", told(&error));
    }
}

#[tokio::test]
async fn the_printed_script_does_what_migrate_does() {
    let options = SHARED.options("by_hand");
    let script = options.migration_sql();
    SHARED.psql(&script, &[]).unwrap();
    SHARED.psql(&script, &[]).expect("it may be run again");
    assert_eq!(options.migrate().await.unwrap(), [0; 0], "nothing is left to do");
    let (store, key) = (options.connect().await.unwrap(), key());
    store.append(&key, &append("hello")).await.unwrap();
    assert_eq!(turns(&store, &key).await.len(), 1);

    SHARED.options("by_code").migrate().await.unwrap();
    let dump = |schema: &str| {
        let columns = format!(
            "SELECT table_name, column_name, data_type, is_nullable, column_default FROM information_schema.columns
             WHERE table_schema = '{schema}' ORDER BY 1, ordinal_position;
             SELECT replace(indexdef, '{schema}', '') FROM pg_indexes WHERE schemaname = '{schema}' ORDER BY 1;
             SELECT replace(pg_get_functiondef(oid), '{schema}', '') FROM pg_proc
             WHERE pronamespace = '{schema}'::regnamespace ORDER BY proname"
        );
        SHARED.psql(&columns, &[]).unwrap()
    };
    assert_eq!(dump("by_hand"), dump("by_code"));
}

#[tokio::test]
async fn a_role_that_may_not_create_is_told_so_and_one_that_may_use_works() {
    let admin = SHARED.options("granted");
    SHARED.psql("CREATE ROLE clerk LOGIN", &[]).unwrap();
    let clerk = PostgresOptions::new(&SHARED.url_of("clerk", "postgres")).unwrap().schema("granted").unwrap();
    assert_eq!(clerk.migrate().await.unwrap_err().kind(), ErrorKind::Misconfigured);
    admin.migrate().await.unwrap();
    // The rights that the documentation names.
    let docs = include_str!("../../src/store/postgres/postgres.md");
    let grants: Vec<&str> = docs.lines().filter(|line| line.starts_with("GRANT")).collect();
    assert!(grants.len() >= 2);
    SHARED.psql(&grants.join("\n").replace("session_memory", "granted").replace("chat", "clerk"), &[]).unwrap();
    let (store, key) = (clerk.connect().await.unwrap(), key());
    store.append(&key, &append("hello")).await.unwrap();
    store.delete(&key).await.unwrap();
    store.purge(10).await.unwrap();
}

#[tokio::test]
async fn a_standby_is_refused() {
    let primary = Server::start(&[]);
    let store = store_in(&primary, "session_memory").await;
    store.append(&key(), &append("hello")).await.unwrap();
    let standby = Server::standby_of(&primary);
    let error = standby.options("session_memory").connect().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Misconfigured);
    assert!(told(&error).contains("standby"), "{}", told(&error));
}

/// As after a failover that clients were not told of: connections are made to what is a standby now.
#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_has_become_a_standby_serves_nothing_until_it_is_promoted() {
    let server = Server::start(&[]);
    let (store, key) = (store_in(&server, "m").await, key());
    store.append(&key, &append("first")).await.unwrap();
    tokio::task::block_in_place(|| {
        server.kill();
        let signal = format!("{}/standby.signal", server.data());
        std::fs::write(&signal, "").unwrap();
        give(std::path::Path::new(&signal));
        server.launch();
    });
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    loop {
        // The first may find a connection that has ended.
        let error = store.load(&key, &Read::new(Window::ALL)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{}", told(&error));
        if told(&error).contains("does not allow writes") {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "{}", told(&error));
    }
    let second = append("second");
    for error in [store.append(&key, &second).await.unwrap_err(), store.ping().await.unwrap_err()] {
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{}", told(&error));
    }
    server.psql("SELECT pg_promote()", &[]).unwrap();
    persist(&store, &key, &second).await;
    assert_eq!(turns(&store, &key).await.len(), 2);
}

#[tokio::test]
async fn durability_is_what_the_server_is_set_to() {
    use tower_session_memory::store::{Durability, postgres::SynchronousCommit};
    let options = SHARED.options("durability");
    assert_eq!(open(options.clone()).await.info().durability, Durability::Host);
    let off = options.synchronous_commit(SynchronousCommit::Off);
    assert_eq!(open(off).await.info().durability, Durability::Cache);
    let unsafe_server = Server::start(&["fsync=off"]);
    assert_eq!(store_in(&unsafe_server, "m").await.info().durability, Durability::Process);
}

#[tokio::test]
async fn a_location_is_the_server_the_database_and_the_schema() {
    let first = open(SHARED.options("located")).await.info().location.unwrap();
    let words = format!("127.0.0.1 port={} database=postgres schema=located", SHARED.port());
    assert_eq!(first.words(), words, "no user, no password");
    assert_eq!(store_in(&SHARED, "located").await.info().location.unwrap(), first);
    let other = store_in(&SHARED, "located_elsewhere").await.info().location.unwrap();
    assert_ne!(other.fingerprint(), first.fingerprint());
}

#[tokio::test]
async fn a_database_of_another_encoding_is_refused() {
    let sql = "CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'";
    client(&SHARED).await.batch_execute(sql).await.unwrap();
    let options = PostgresOptions::new(&SHARED.url_of("postgres", "latin")).unwrap();
    let error = options.connect().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Misconfigured);
    assert!(told(&error).contains("UTF8"), "{}", told(&error));
}

#[tokio::test]
async fn wrong_strings_and_names_are_told_without_repeating_them() {
    for url in ["postgres://canary:canary@host:port/x", "canary", "host=h user=canary sslmode=prefer", ""] {
        let told = PostgresOptions::new(url).map(|_| ()).map_or_else(|error| told(&error), |()| String::new());
        assert!(!told.contains("canary"), "{told}");
    }
    let options = SHARED.options("x");
    for name in ["", "a\"b", "a b", "A", "1a", "a;drop", &"a".repeat(64)] {
        assert_eq!(options.clone().schema(name).unwrap_err().kind(), ErrorKind::Misconfigured, "{name}");
    }
    let url = SHARED.url_of("canary:canary", "canary");
    let options = PostgresOptions::new(&url).unwrap();
    assert!(!format!("{options:?}").contains("canary"));
    let error = options.connect().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Misconfigured, "{}", told(&error));
}

#[tokio::test]
async fn a_unix_socket_serves_as_well() {
    let admin = SHARED.options("socket");
    admin.migrate().await.unwrap();
    for url in [
        format!("host={} port={} user=postgres dbname=postgres", SHARED.sockets(), SHARED.port()),
        format!(
            "postgres:///postgres?host={}&port={}&user=postgres",
            SHARED.sockets().replace('/', "%2F"),
            SHARED.port()
        ),
    ] {
        let store = PostgresOptions::new(&url).unwrap().schema("socket").unwrap().connect().await.unwrap();
        store.append(&key(), &append("hello")).await.unwrap();
    }
}
