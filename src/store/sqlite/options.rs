//! Where the file is and what the store may take.

use std::path::{Path, PathBuf};
use std::time::Duration;

/// How to open a [`SqliteStore`](super::SqliteStore).
///
/// ```
/// use std::time::Duration;
/// use tower_session_memory::store::SqliteOptions;
///
/// let options = SqliteOptions::new("/var/lib/chat/sessions.db").busy_timeout(Duration::from_secs(2)).readers(2);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SqliteOptions {
    /// The file. If it does not exist it is created, for its owner alone to read; its directory is
    /// not. To share it between users, create it empty with the mode it should have.
    pub path: PathBuf,
    /// How long a write waits while another process writes, before it fails with
    /// [`ErrorKind::Unavailable`](crate::store::ErrorKind::Unavailable). Default: 5 s.
    pub busy_timeout: Duration,
    /// Threads that read, each with a connection of its own; at least 1. Default: 2.
    pub readers: usize,
    /// The most bytes the database may grow to through this store, rounded down to pages of 4 KiB;
    /// beyond it, appends fail with [`ErrorKind::Full`](crate::store::ErrorKind::Full). The
    /// write-ahead log beside it is not counted. Default: `None`, as much as the disk takes.
    pub max_bytes: Option<u64>,
}

impl SqliteOptions {
    /// The defaults, for this file.
    pub fn new(path: impl AsRef<Path>) -> Self {
        Self { path: path.as_ref().to_owned(), busy_timeout: Duration::from_secs(5), readers: 2, max_bytes: None }
    }

    /// How long a write waits while another process writes.
    #[must_use]
    pub fn busy_timeout(mut self, timeout: Duration) -> Self {
        self.busy_timeout = timeout;
        self
    }

    /// Threads that read.
    #[must_use]
    pub fn readers(mut self, readers: usize) -> Self {
        self.readers = readers.max(1);
        self
    }

    /// The most bytes the database may grow to.
    #[must_use]
    pub fn max_bytes(mut self, bytes: u64) -> Self {
        self.max_bytes = Some(bytes);
        self
    }
}
