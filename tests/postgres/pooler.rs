//! Behind PgBouncer in transaction mode: the whole suite, and what goes wrong without the option.

use std::sync::LazyLock;
use std::time::Duration;

use tokio::sync::OnceCell;
use tower_session_memory::store::conformance::Instances;
use tower_session_memory::store::{ErrorKind, PostgresOptions, Store};

use crate::kit::{append, client, key, told};
use crate::server::{Bouncer, SHARED};

static BOUNCER: LazyLock<Bouncer> = LazyLock::new(|| Bouncer::start(&SHARED));

fn options(schema: &str) -> PostgresOptions {
    PostgresOptions::new(&BOUNCER.url()).unwrap().schema(schema).unwrap().transaction_pooler(true)
}

async fn instances() -> Instances {
    static MIGRATED: OnceCell<()> = OnceCell::const_new();
    MIGRATED.get_or_init(|| async { options("pooled").migrate().await.map(|_| ()).unwrap() }).await;
    Instances::new(options("pooled").connect().await.unwrap()).and(options("pooled").connect().await.unwrap())
}

tower_session_memory::conformance_tests!(instances);

#[tokio::test]
async fn without_the_option_it_is_refused_with_a_hint() {
    let options = PostgresOptions::new(&BOUNCER.url()).unwrap();
    let error = options.connect().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Misconfigured, "{}", told(&error));
    assert!(told(&error).contains("transaction_pooler"), "{}", told(&error));
}

#[tokio::test]
async fn settings_travel_with_the_statement_and_stay_in_its_transaction() {
    use tower_session_memory::store::postgres::SynchronousCommit;
    let options = options("pooled_settings")
        .lock_timeout(Duration::from_millis(1234))
        .synchronous_commit(SynchronousCommit::RemoteWrite);
    options.migrate().await.unwrap();
    let client = client(&SHARED).await;
    client
        .batch_execute(
            "CREATE TABLE pooled_settings.seen (setting text);
             CREATE FUNCTION pooled_settings.see() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 INSERT INTO pooled_settings.seen
                 VALUES (current_setting('lock_timeout') || ' ' || current_setting('synchronous_commit'));
                 RETURN NULL;
             END $$;
             CREATE TRIGGER see AFTER INSERT ON pooled_settings.turn
                 FOR EACH ROW EXECUTE FUNCTION pooled_settings.see();",
        )
        .await
        .unwrap();
    let store = options.connect().await.unwrap();
    store.append(&key(), &append("hello")).await.unwrap();
    let seen = client.query_one("SELECT setting FROM pooled_settings.seen", &[]).await.unwrap();
    assert_eq!(seen.get::<_, String>(0), "1234ms remote_write");
    // The next transaction of whoever gets that connection finds the server's own settings.
    let (other, connection) = tokio_postgres::connect(&BOUNCER.url(), tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    for _ in 0..20 {
        let shown = other.simple_query("SELECT current_setting('lock_timeout')").await.unwrap();
        let value = shown.iter().find_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        });
        assert_eq!(value.as_deref(), Some("0"));
    }
}
