//! What these tests are written with.

use std::error::Error;
use std::time::{Duration, Instant};

use tokio_postgres::{Client, NoTls};
use tower_session_memory::store::{Append, ErrorKind, PostgresOptions, PostgresStore, Read, Store, StoreError};
use tower_session_memory::{ConversationId, Message, SessionKey, Subject, Turn, TurnId, TurnStatus, Window};

use crate::server::Server;

/// A store on a schema of its own.
pub(crate) async fn store_in(server: &Server, schema: &str) -> PostgresStore {
    open(server.options(schema)).await
}

pub(crate) async fn open(options: PostgresOptions) -> PostgresStore {
    options.migrate().await.unwrap();
    options.connect().await.unwrap()
}

/// A connection of the test's own, to look and to get in the way.
pub(crate) async fn client(server: &Server) -> Client {
    let (client, connection) = tokio_postgres::connect(&server.url(), NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

pub(crate) fn key() -> SessionKey {
    SessionKey::new(ConversationId::random())
}

pub(crate) fn key_of(subject: &str) -> SessionKey {
    key().with_subject(Subject::new(subject).unwrap())
}

pub(crate) fn turn(text: &str) -> Turn {
    let messages = vec![Message::user(text), Message::assistant(format!("re: {text}"))];
    Turn::new(TurnId::random(), TurnStatus::Complete, messages)
}

pub(crate) fn append(text: &str) -> Append {
    Append::unconditional(turn(text))
}

/// All turns of a session.
pub(crate) async fn turns(store: &PostgresStore, key: &SessionKey) -> Vec<Turn> {
    store.load(key, &Read::new(Window::ALL)).await.unwrap().turns
}

/// An error with its causes.
pub(crate) fn told(error: &StoreError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// Repeats the identical attempt while the store says that it may.
pub(crate) async fn persist(store: &PostgresStore, key: &SessionKey, append: &Append) {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        match store.append(key, append).await {
            Ok(_) => return,
            Err(error) if error.kind().is_temporary() => {
                assert!(Instant::now() < deadline, "still {}", told(&error));
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err(error) => panic!("{}", told(&error)),
        }
    }
}

pub(crate) fn kind<T: std::fmt::Debug>(answer: Result<T, StoreError>) -> ErrorKind {
    answer.unwrap_err().kind()
}

/// Waits for a condition that the database reports: a statement that selects one boolean.
pub(crate) async fn until(client: &Client, condition: &str) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !client.query_one(condition, &[]).await.unwrap().get::<_, bool>(0) {
        assert!(Instant::now() < deadline, "never true: {condition}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
