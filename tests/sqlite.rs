//! [`SqliteStore`] on real files.

use tower_session_memory::store::{Append, ErrorKind, Page, Read, Store};
use tower_session_memory::{
    ConversationId, Head, Message, Scope, SessionKey, SqliteStore, Subject, Turn, TurnId, TurnStatus,
};

fn key(conversation: &str) -> SessionKey {
    SessionKey::new(ConversationId::parse(conversation).unwrap()).with_subject(Subject::new("ada").unwrap())
}

fn turn(text: &str) -> Turn {
    Turn::new(TurnId::random(), TurnStatus::Complete, vec![Message::user(text), Message::assistant("ok")])
}

#[tokio::test]
async fn smoke() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("sessions.db");
    let store = SqliteStore::open(&path).await.unwrap();
    store.ping().await.unwrap();
    let first = turn("one");
    let appended = store.append(&key("a"), &Append::new(first.clone(), Head::ABSENT)).await.unwrap();
    assert_eq!(appended.sequence, 1);
    let again = store.append(&key("a"), &Append::new(first.clone(), Head::ABSENT)).await.unwrap();
    assert_eq!(again.duplicate_of, Some(first.clone()));
    let loaded = store.load(&key("a"), &Read::new(Default::default())).await.unwrap();
    assert_eq!(loaded.turns, [first]);
    let listed = store.list(&Scope::of(&key("a")), &Page::first(10)).await.unwrap();
    assert_eq!(listed.sessions.len(), 1);
    assert_eq!(store.delete(&key("a")).await.unwrap().turns, 1);
    let gone = store.append(&key("a"), &Append::new(turn("late"), appended.head)).await.unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::Gone);
    store.close().await;
    assert_eq!(store.ping().await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert!(!directory.path().join("sessions.db-wal").exists());
}
