//! [`SqliteStore`]: the contract, handed to the two lanes.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::failure::Failure;
use super::lane::Lane;
use super::options::SqliteOptions;
use super::reader::{self, ReadJob, read};
use super::writer::{self, WriteJob, Writer, write};
use super::{NAME, append, list, load, open};
use crate::key::{Scope, SessionKey};
use crate::store::{
    Append, Appended, Deleted, Durability, ErrorKind, Loaded, Location, Operation, Page, Read, SessionPage, Sharing,
    Store, StoreError, StoreInfo,
};

/// Sessions in one SQLite file, which several processes of one host may share.
///
/// Cheap to clone; clones are the same store.
///
/// ```
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// # let directory = tempfile::tempdir()?;
/// # let path = directory.path().join("sessions.db");
/// use tower_session_memory::{SqliteStore, store::Store};
///
/// let store = SqliteStore::open(path).await?;
/// store.ping().await?;
/// store.close().await;
/// # Ok(()) }
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(example())?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Durable
/// `append` answers after a `COMMIT` with `synchronous=FULL` in a write-ahead log: the turn is on
/// the disk, and survives `kill -9` and a power failure, as far as the disk keeps what it
/// acknowledged. One thread writes. Appends that wait for each other share a transaction, so that
/// 50 at once cost a few syncs of the disk, not 50; each is answered for itself. Nobody's
/// cancellation reaches that thread. A few other threads read, and never wait for the writer.
///
/// # Shared on one host
/// Several processes may open the same file; a write that waits longer than
/// [`SqliteOptions::busy_timeout`] fails with [`ErrorKind::Unavailable`] and has
/// written nothing. **Not on a network file system** (NFS, SMB, sshfs, ...): the log needs memory
/// that all processes share, so hosts that share a disk would corrupt the file. On Linux a network
/// file system is noticed when the file is opened, and warned about.
///
/// # The file
/// Three files: `sessions.db`, and while it is open `-wal` and `-shm` beside it. A backup is made
/// with `sqlite3 sessions.db ".backup copy.db"` or `VACUUM INTO`, never by copying the first alone.
/// The store refuses to write once the file is no longer the one at its path: what went to a deleted
/// file would be gone with the process.
///
/// The tables are readable in the `sqlite3` shell (3.37 or newer):
///
/// ```sql
/// SELECT key, sequence, datetime(last_active / 1000, 'unixepoch') FROM session ORDER BY last_active DESC;
/// SELECT sequence, status, messages, bytes, record FROM turn WHERE session = 1 ORDER BY sequence;
/// ```
///
/// Expired sessions are invisible at once, and removed in small steps while the store is used (a
/// `ping` suffices). What is deleted is no longer read by anybody, but its bytes stay in the file
/// until SQLite reuses their place; `VACUUM` clears them.
#[derive(Clone)]
pub struct SqliteStore(Arc<Lanes>);

struct Lanes {
    readers: Lane<ReadJob>,
    writer: Lane<Box<dyn WriteJob>>,
    location: Location,
}

impl SqliteStore {
    /// Opens the file at this path, or creates it, with the default [`SqliteOptions`].
    ///
    /// # Errors
    /// As [`SqliteStore::with_options`].
    ///
    /// # Cancellation
    /// As [`SqliteStore::with_options`].
    pub async fn open(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        Self::with_options(SqliteOptions::new(path)).await
    }

    /// Opens or creates the file and starts the store's threads.
    ///
    /// # Errors
    /// [`Operation::Open`], and a source that says what to do:
    /// * [`ErrorKind::Misconfigured`]: no such directory, no right to write, `:memory:`, a database
    ///   of another application;
    /// * [`ErrorKind::Corrupt`]: not a database, or a damaged one;
    /// * [`ErrorKind::NewerVersion`]: written by a newer version of this crate;
    /// * [`ErrorKind::Unavailable`]: another process had it locked for longer than the busy timeout.
    ///
    /// A file that is refused is left as it is.
    ///
    /// # Cancellation
    /// Opening goes on on a thread of its own: a new file is there all the same, and it closes again.
    pub async fn with_options(options: SqliteOptions) -> Result<Self, StoreError> {
        Self::start(options).await.map_err(|failure| failure.at(Operation::Open))
    }

    async fn start(options: SqliteOptions) -> Result<Self, Failure> {
        let (reply, answer) = oneshot::channel();
        std::thread::Builder::new()
            .name("sqlite-open".to_owned())
            // Dropped by a caller that left: then the connections close again.
            .spawn(move || drop(reply.send(open::open(&options))))
            .map_err(|error| Failure::refused(ErrorKind::Unavailable, error))?;
        let died = |_| Err(Failure::refused(ErrorKind::Other, "the thread that opened the file died"));
        let opened = answer.await.unwrap_or_else(died)?;
        let location = opened.file.location();
        let writer = Writer { connection: opened.writer, file: opened.file };
        Ok(Self(Arc::new(Lanes {
            readers: Lane::start("sqlite-reader", opened.readers, reader::run)?,
            writer: Lane::start("sqlite-writer", vec![writer], writer::run)?,
            location,
        })))
    }

    /// Takes no more work, waits for what was accepted, moves the log into the file (if no other
    /// process has it open) and closes it. Every clone answers [`ErrorKind::Unavailable`] from then on.
    ///
    /// Not needed for safety: what was acknowledged is durable. A store that is just dropped does
    /// the same on its own threads, without anybody waiting; a process that ends before they are
    /// done leaves a log that the next one reads.
    ///
    /// # Cancellation
    /// Closing goes on.
    pub async fn close(&self) {
        self.0.readers.close().await;
        // The last connection that closes moves the log, and it must be one that may write.
        self.0.writer.close().await;
    }
}

impl Store for SqliteStore {
    fn info(&self) -> StoreInfo {
        StoreInfo::new(NAME, Sharing::Host, Durability::Host).at(self.0.location.clone())
    }

    async fn load(&self, key: &SessionKey, options: &Read) -> Result<Loaded, StoreError> {
        let (key, options) = (key.clone(), *options);
        let loaded = read(&self.0.readers, move |connection| load::load(connection, &key, &options));
        loaded.await.map_err(|failure| failure.at(Operation::Load))
    }

    async fn append(&self, key: &SessionKey, append: &Append) -> Result<Appended, StoreError> {
        let (key, append) = (key.clone(), append.clone());
        let record = append.turn.to_record(&key);
        let appended = write(&self.0.writer, move |connection| append::append(connection, &key, &append, &record));
        appended.await.map_err(|failure| failure.at(Operation::Append))
    }

    async fn delete(&self, key: &SessionKey) -> Result<Deleted, StoreError> {
        let key = key.clone();
        let deleted = write(&self.0.writer, move |connection| append::delete(connection, &key));
        deleted.await.map_err(|failure| failure.at(Operation::Delete))
    }

    async fn list(&self, scope: &Scope, page: &Page) -> Result<SessionPage, StoreError> {
        let (scope, page) = (scope.clone(), page.clone());
        let listed = read(&self.0.readers, move |connection| list::list(connection, &scope, &page));
        listed.await.map_err(|failure| failure.at(Operation::List))
    }

    async fn ping(&self) -> Result<(), StoreError> {
        let served = async {
            read(&self.0.readers, |connection| Ok(connection.query_row("SELECT 1", [], |_| Ok(()))?)).await?;
            // An empty transaction: the file is still there, and its lock can be had.
            write(&self.0.writer, |_| Ok(())).await
        };
        served.await.map_err(|failure| failure.at(Operation::Ping))
    }
}

impl fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteStore").finish_non_exhaustive()
    }
}
