//! Opening the file: everything that can be wrong with it is found here, before the first request.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, UNIX_EPOCH};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::failure::Failure;
use super::mounts::network_filesystem;
use super::options::SqliteOptions;
use super::schema::{self, Content};
use crate::store::{ErrorKind, Location};

/// Prepared statements that a connection keeps; more than there are.
const STATEMENTS: usize = 32;

/// What remains of the log after it was moved into the file.
const LOG_BYTES: i64 = 16 << 20;

/// The connections of one store, and the file that they have open.
pub(super) struct Opened {
    pub(super) writer: Connection,
    pub(super) readers: Vec<Connection>,
    pub(super) file: File,
}

/// Blocks: to be called from a thread of its own.
pub(super) fn open(options: &SqliteOptions) -> Result<Opened, Failure> {
    let path = locate(&options.path)?;
    if let Some(filesystem) = path.parent().and_then(network_filesystem) {
        tracing::warn!(
            filesystem,
            "the SQLite store is on a network file system: processes of several hosts will corrupt it; use a disk of \
             this host, or another store"
        );
    }
    let mut writer = writable(&path)?;
    // A file that is not ours is looked at without the right to change it, and left as it is.
    look(&path, options.busy_timeout).map_err(|failure| match failure {
        Failure::Sqlite(ErrorKind::Corrupt, _) => Failure::refused(
            ErrorKind::Corrupt,
            "the file is damaged or no SQLite database at all: restore it from a backup, or name another file",
        ),
        _ => failure,
    })?;
    configure(&mut writer, options)?;
    write_ahead(&writer, options.busy_timeout)?;
    if schema::inspect(&writer)? == Content::Empty {
        schema::create(&mut writer)?;
    }
    let readers = (0..options.readers.max(1)).map(|_| reader(&path, options)).collect::<Result<_, _>>()?;
    Ok(Opened { writer, readers, file: File::at(path)? })
}

/// The absolute path, without links in its directory; SQLite never sees a name that it would take
/// for a URI or for a database in memory.
fn locate(path: &Path) -> Result<PathBuf, Failure> {
    let refused = |cause: &str| Failure::refused(ErrorKind::Misconfigured, cause);
    if path == Path::new(":memory:") || path.as_os_str().is_empty() {
        return Err(refused(
            "an SQLite database in memory is neither shared nor durable: use `InMemory`, or name a file",
        ));
    }
    if path.as_os_str().as_encoded_bytes().starts_with(b"file:") {
        return Err(refused("URIs are not supported: give the plain path of a file"));
    }
    let name = path.file_name().ok_or_else(|| refused("the path names no file"))?;
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let directory = fs::canonicalize(directory).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => refused("the directory of the file does not exist: create it, the store does not"),
        _ => Failure::refused(ErrorKind::Misconfigured, error),
    })?;
    let path = directory.join(name);
    if path.is_dir() {
        return Err(refused("the path is a directory: name a file in it"));
    }
    Ok(path)
}

/// A connection that could write, made without reading: nothing of the file has changed yet, and
/// no log stands beside it.
///
/// Only SQLite ever opens the file: closing it a second time would drop the locks that other
/// connections of this process have on it.
fn writable(path: &Path) -> Result<Connection, Failure> {
    let new = !path.exists();
    // Every connection belongs to one thread, so SQLite's own locks around it are not needed.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    if connection.is_readonly(rusqlite::MAIN_DB)? {
        return Err(Failure::refused(
            ErrorKind::Misconfigured,
            "the file is read-only: give this user the right to write it",
        ));
    }
    if new {
        keep_private(path).map_err(|error| Failure::refused(ErrorKind::Misconfigured, error))?;
    }
    Ok(connection)
}

/// Conversations are nobody else's business: what this store creates, its owner alone may read. The
/// file is still empty, and SQLite gives its log the same mode.
#[cfg(unix)]
fn keep_private(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))
}

#[cfg(not(unix))]
fn keep_private(_: &Path) -> io::Result<()> {
    Ok(())
}

fn look(path: &Path, patience: Duration) -> Result<Content, Failure> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(patience)?;
    schema::inspect(&connection)
}

/// What a connection must be told, since the file does not keep it.
fn configure(connection: &mut Connection, options: &SqliteOptions) -> Result<(), Failure> {
    wait_for_locks(connection, options.busy_timeout)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    // Text in the schema cannot call functions: a file from elsewhere is data, not code.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    connection.pragma_update(None, "foreign_keys", true)?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    // Apple's fsync leaves data in the drive's cache; elsewhere these two change nothing.
    connection.pragma_update(None, "fullfsync", true)?;
    connection.pragma_update(None, "checkpoint_fullfsync", true)?;
    // A log that grew under load gives its room back.
    connection.pragma_update_and_check(None, "journal_size_limit", LOG_BYTES, |_| Ok(()))?;
    if let Some(bytes) = options.max_bytes {
        let page: i64 = connection.pragma_query_value(None, "page_size", |row| row.get(0))?;
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        connection.pragma_update_and_check(None, "max_page_count", (bytes / page).max(1), |_| Ok(()))?;
    }
    Ok(())
}

/// Waits for the locks of other processes, and asks every millisecond. SQLite's own way of waiting
/// asks less and less often, down to ten times a second: beside processes that write all the time,
/// one then waits for seconds (measured with four processes: p99 of 1 s, and of 40 ms like this).
fn wait_for_locks(connection: &mut Connection, patience: Duration) -> rusqlite::Result<()> {
    let mut since = Instant::now();
    connection.busy_handler(Some(move |asked| {
        if asked == 0 {
            since = Instant::now();
        }
        std::thread::sleep(Duration::from_millis(1));
        since.elapsed() < patience
    }))
}

fn reader(path: &Path, options: &SqliteOptions) -> Result<Connection, Failure> {
    let mut connection = writable(path)?;
    configure(&mut connection, options)?;
    connection.pragma_update(None, "query_only", true)?;
    Ok(connection)
}

/// Turns the write-ahead log on. SQLite does not wait here while another process does the same.
fn write_ahead(connection: &Connection, patience: Duration) -> Result<(), Failure> {
    let deadline = Instant::now() + patience;
    let mode: String = loop {
        match connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0)) {
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(2));
            }
            other => break other?,
        }
    };
    if mode.eq_ignore_ascii_case("wal") {
        return Ok(());
    }
    Err(Failure::refused(
        ErrorKind::Misconfigured,
        "the file system cannot hold a write-ahead log, which needs shared memory: use a disk of this host",
    ))
}

/// The file as it was opened, to notice when it is no longer the one at its path.
#[derive(Debug)]
pub(super) struct File {
    path: PathBuf,
    identity: Option<(u64, u64)>,
}

impl File {
    fn at(path: PathBuf) -> Result<Self, Failure> {
        let identity = identity(&path).map_err(|error| Failure::refused(ErrorKind::Misconfigured, error))?;
        Ok(Self { path, identity })
    }

    /// The file itself, not its path: two containers may see one file at two paths, or another file
    /// at the same path. The time of its birth tells it from one that came after it.
    pub(super) fn location(&self) -> Location {
        let path = self.path.display().to_string();
        let born = fs::metadata(&self.path).and_then(|file| file.created()).ok();
        let born = born.map(|born| born.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos());
        match self.identity {
            Some(number) => Location::identified(&path, format!("{number:?} {born:?}")),
            None => Location::identified(&path, format!("{path} {born:?}")),
        }
    }

    /// Whether what is written will be found again. A file that was deleted or replaced while it is
    /// open takes writes as ever, and loses them all with the last process that has it open.
    pub(super) fn check(&self) -> Result<(), Failure> {
        match identity(&self.path) {
            Ok(identity) if identity == self.identity => Ok(()),
            _ => Err(Failure::refused(
                ErrorKind::Misconfigured,
                "the file was deleted, moved or replaced while it was open: put it back and restart",
            )),
        }
    }
}

#[cfg(unix)]
fn identity(path: &Path) -> io::Result<Option<(u64, u64)>> {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(path).map(|file| Some((file.dev(), file.ino())))
}

#[cfg(not(unix))]
fn identity(path: &Path) -> io::Result<Option<(u64, u64)>> {
    fs::metadata(path).map(|_| None)
}
