//! What the tests are written with.

use std::error::Error;
use std::path::{Path, PathBuf};

use rusqlite::Connection;
use tempfile::TempDir;
use tower_session_memory::store::{Append, Appended, ErrorKind, Loaded, Read, SqliteOptions, Store};
use tower_session_memory::{
    ConversationId, Message, SessionKey, SqliteStore, StoreError, Subject, Turn, TurnId, TurnStatus, Window,
};

/// Appears in every key and every message, and must appear in no error.
pub(crate) const CANARY: &str = "canary";

/// A directory of its own with a file in it that does not exist yet.
pub(crate) struct Place {
    directory: TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.directory.path().join("sessions.db")
    }

    pub(crate) async fn open(&self) -> SqliteStore {
        SqliteStore::open(self.file()).await.unwrap()
    }

    /// With a lock wait so short that a test can see it end.
    pub(crate) async fn open_impatient(&self) -> SqliteStore {
        let options = SqliteOptions::new(self.file()).busy_timeout(std::time::Duration::from_millis(50));
        SqliteStore::with_options(options).await.unwrap()
    }

    /// The file as the `sqlite3` shell sees it.
    pub(crate) fn shell(&self) -> Connection {
        Connection::open(self.file()).unwrap()
    }

    pub(crate) async fn fails_to_open(&self, kind: ErrorKind) -> String {
        fails_to_open(self.file(), kind).await
    }
}

/// Opening must fail like this; what the log would say.
pub(crate) async fn fails_to_open(path: impl AsRef<Path>, kind: ErrorKind) -> String {
    let error = SqliteStore::open(path).await.unwrap_err();
    assert_eq!(error.kind(), kind, "{}", told(&error));
    told(&error)
}

/// Everything an error says, to anybody.
pub(crate) fn told(error: &StoreError) -> String {
    let mut text = format!("{error} / {error:?}");
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!(" / {cause} / {cause:?}"));
        source = cause.source();
    }
    assert!(!text.contains(CANARY), "an error names what it must not: {text}");
    text
}

pub(crate) fn key(name: &str) -> SessionKey {
    let conversation = ConversationId::parse(&format!("{CANARY}-{name}")).unwrap();
    SessionKey::new(conversation).with_subject(Subject::new(&format!("{CANARY} ada")).unwrap())
}

pub(crate) fn turn(text: &str) -> Turn {
    let messages = vec![Message::user(format!("{CANARY} {text}")), Message::assistant("yes")];
    // Records keep milliseconds, and so do turns.
    Turn::new(TurnId::random(), TurnStatus::Complete, messages)
}

pub(crate) async fn add(store: &SqliteStore, key: &SessionKey, turn: &Turn) -> Result<Appended, StoreError> {
    store.append(key, &Append::unconditional(turn.clone())).await
}

pub(crate) async fn all(store: &SqliteStore, key: &SessionKey) -> Result<Loaded, StoreError> {
    store.load(key, &Read::new(Window::ALL)).await
}

pub(crate) async fn turns(store: &SqliteStore, key: &SessionKey) -> Vec<Turn> {
    let loaded = all(store, key).await.unwrap();
    assert_eq!(loaded.head.sequence, loaded.turns.len() as u64, "turns are numbered without gaps");
    loaded.turns
}
