//! What can be wrong with a file is said when it is opened, and the file is left as it is.

use std::fs;
use std::path::Path;

use rusqlite::Connection;
use tower_session_memory::store::{ErrorKind, Sharing, Store};
use tower_session_memory::{InMemory, SqliteStore};

use crate::kit::{Place, add, fails_to_open, key, turn, turns};

#[tokio::test]
async fn a_new_file_is_made_and_found_again() {
    let place = Place::new();
    let first = turn("first");
    let store = place.open().await;
    store.ping().await.unwrap();
    add(&store, &key("a"), &first).await.unwrap();
    store.close().await;

    let names: Vec<_> = fs::read_dir(place.directory()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["sessions.db"], "closing moves the log into the file");
    assert_eq!(turns(&place.open().await, &key("a")).await, [first]);
}

#[cfg(unix)]
#[tokio::test]
async fn only_its_owner_reads_a_new_file() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new();
    let store = place.open().await;
    add(&store, &key("a"), &turn("private")).await.unwrap();
    for name in ["sessions.db", "sessions.db-wal", "sessions.db-shm"] {
        let mode = fs::metadata(place.directory().join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}

#[tokio::test]
async fn a_closed_store_answers_that_it_is_closed() {
    let place = Place::new();
    let store = place.open().await;
    let clone = store.clone();
    store.close().await;
    store.close().await;
    assert_eq!(clone.ping().await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(add(&clone, &key("a"), &turn("late")).await.unwrap_err().kind(), ErrorKind::Unavailable);
}

#[tokio::test]
async fn it_says_what_it_is() {
    let place = Place::new();
    let info = place.open().await.info();
    assert_eq!((info.name, info.sharing, info.durability.as_str()), ("sqlite", Sharing::Host, "host"));
    assert!(info.sharing > InMemory::new().info().sharing);
}

#[tokio::test]
async fn its_location_is_the_file_whatever_the_path() {
    let (place, elsewhere) = (Place::new(), Place::new());
    let told = async |path: &Path| {
        let store = SqliteStore::open(path).await.unwrap();
        store.close().await;
        store.info().location.unwrap()
    };
    let first = told(&place.file()).await;
    assert_eq!(told(&place.file()).await, first);
    assert!(first.words().ends_with("/sessions.db") && first.words().starts_with('/'), "{first:?}");
    assert_ne!(told(&elsewhere.file()).await.fingerprint(), first.fingerprint());
    #[cfg(unix)]
    {
        let link = elsewhere.directory().join("link.db");
        std::os::unix::fs::symlink(place.file(), &link).unwrap();
        assert_eq!(told(&link).await.fingerprint(), first.fingerprint());
    }
    // A new file at the old path, as after a restart without a volume.
    fs::remove_file(place.file()).unwrap();
    assert_ne!(told(&place.file()).await.fingerprint(), first.fingerprint());
}

#[tokio::test]
async fn memory_uris_and_directories_are_no_files() {
    let text = fails_to_open(":memory:", ErrorKind::Misconfigured).await;
    assert!(text.contains("InMemory"), "{text}");
    fails_to_open("", ErrorKind::Misconfigured).await;
    let text = fails_to_open("file:x?mode=memory", ErrorKind::Misconfigured).await;
    assert!(text.contains("plain path"), "{text}");
    let place = Place::new();
    fails_to_open(place.directory(), ErrorKind::Misconfigured).await;
    assert!(!Path::new("file:x?mode=memory").exists());
}

#[tokio::test]
async fn a_missing_directory_is_not_made() {
    let place = Place::new();
    let text = fails_to_open(place.directory().join("missing/sessions.db"), ErrorKind::Misconfigured).await;
    assert!(text.contains("directory of the file does not exist"), "{text}");
    assert_eq!(fs::read_dir(place.directory()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_file_of_something_else_is_left_alone() {
    let place = Place::new();
    for content in
        [&b"Dear diary,\n"[..], &[0; 4096], &[0xff; 100_000], b"SQLite format 3\0 and then nothing of the kind"]
    {
        fs::write(place.file(), content).unwrap();
        let text = place.fails_to_open(ErrorKind::Corrupt).await;
        assert!(text.contains("name another file"), "{text}");
        assert_eq!(fs::read(place.file()).unwrap(), content);
    }
}

#[tokio::test]
async fn a_database_of_another_application_is_left_alone() {
    for prepare in [
        "CREATE TABLE theirs (x); INSERT INTO theirs VALUES (1);",
        "PRAGMA application_id = 7;",
        "PRAGMA user_version = 3;",
        // Their log is not moved into their file either.
        "PRAGMA journal_mode = WAL; CREATE TABLE theirs (x); INSERT INTO theirs VALUES (1);",
    ] {
        let place = Place::new();
        let theirs = place.shell();
        theirs.execute_batch(prepare).unwrap();
        let content = || [place.file(), place.directory().join("sessions.db-wal")].map(|file| fs::read(file).ok());
        let before = content();
        let text = place.fails_to_open(ErrorKind::Misconfigured).await;
        assert!(text.contains("another application"), "{text}");
        assert_eq!(content(), before, "after {prepare}");
        drop(theirs);
    }
}

#[tokio::test]
async fn a_newer_schema_is_refused_and_left_alone() {
    let place = Place::new();
    place.open().await.close().await;
    place.shell().execute_batch("PRAGMA user_version = 2").unwrap();
    let before = fs::read(place.file()).unwrap();
    let text = place.fails_to_open(ErrorKind::NewerVersion).await;
    assert!(text.contains("schema version 2"), "{text}");
    assert_eq!(fs::read(place.file()).unwrap(), before);
}

#[tokio::test]
async fn an_altered_schema_is_refused() {
    let place = Place::new();
    place.open().await.close().await;
    place.shell().execute_batch("ALTER TABLE turn RENAME COLUMN record TO text").unwrap();
    let text = place.fails_to_open(ErrorKind::Misconfigured).await;
    assert!(text.contains("altered"), "{text}");
}

#[tokio::test]
async fn a_cut_file_is_refused_and_left_alone() {
    let place = Place::new();
    let store = place.open().await;
    add(&store, &key("a"), &turn("one")).await.unwrap();
    store.close().await;
    let whole = fs::read(place.file()).unwrap();
    for length in [50, 4096, whole.len() / 2, whole.len() - 4096] {
        fs::write(place.file(), &whole[..length]).unwrap();
        place.fails_to_open(ErrorKind::Corrupt).await;
        assert_eq!(fs::read(place.file()).unwrap(), &whole[..length]);
    }
}

#[tokio::test]
async fn many_may_make_the_file_at_once() {
    // Again and again: who looks while another makes the tables must not take them for a stranger's.
    for _ in 0..20 {
        let place = Place::new();
        let opened = futures_util::future::join_all((0..8).map(|_| SqliteStore::open(place.file()))).await;
        for (number, store) in opened.into_iter().enumerate() {
            let store = store.unwrap();
            assert_eq!(add(&store, &key("a"), &turn("hello")).await.unwrap().sequence, number as u64 + 1);
        }
    }
}

/// Root may write everything, so as root the test runs itself again as nobody.
#[cfg(unix)]
#[test]
fn without_the_right_to_write_it_does_not_open() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use std::os::unix::process::CommandExt;
    const NOBODY: u32 = 65534;
    let own = fs::metadata(std::env::temp_dir()).unwrap();
    let this_test = "opening::without_the_right_to_write_it_does_not_open";
    if tempfile::NamedTempFile::new().unwrap().as_file().metadata().unwrap().uid() == 0 {
        assert_ne!(own.mode() & 0o002, 0, "nobody must be able to use the directory for temporary files");
        // A copy, since nobody may not be able to reach the original.
        let place = Place::new();
        fs::set_permissions(place.directory(), fs::Permissions::from_mode(0o755)).unwrap();
        let copy = place.directory().join("tests");
        fs::copy(std::env::current_exe().unwrap(), &copy).unwrap();
        let run = std::process::Command::new(copy)
            .args(["--exact", this_test])
            .uid(NOBODY)
            .current_dir("/")
            .output()
            .unwrap();
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stdout));
        assert!(String::from_utf8_lossy(&run.stdout).contains("1 passed"));
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let place = Place::new();
        place.open().await.close().await;
        let set = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();

        // The log cannot be made beside the file.
        set(place.directory(), 0o500);
        place.fails_to_open(ErrorKind::Misconfigured).await;
        fails_to_open(place.directory().join("new.db"), ErrorKind::Misconfigured).await;
        set(place.directory(), 0o700);

        set(&place.file(), 0o400);
        let text = place.fails_to_open(ErrorKind::Misconfigured).await;
        assert!(text.contains("read-only"), "{text}");
        set(&place.file(), 0o000);
        place.fails_to_open(ErrorKind::Misconfigured).await;
        set(&place.file(), 0o600);

        place.open().await.ping().await.unwrap();
    });
}

#[tokio::test]
async fn the_tables_are_for_people_too() {
    let place = Place::new();
    let store = place.open().await;
    let one = turn("one");
    add(&store, &key("a"), &one).await.unwrap();
    let shell: Connection = place.shell();
    let row: (String, i64, String, i64, i64, String) = shell
        .query_row(
            "SELECT key, turn.sequence, turn.id, messages, bytes, json_extract(record, '$.messages[0].content')
             FROM session JOIN turn ON turn.session = session.id WHERE subject = 'canary%20ada'",
            [],
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?)),
        )
        .unwrap();
    let id = one.id().to_string();
    assert_eq!(row, (key("a").encoded().to_owned(), 1, id, 2, one.bytes() as i64, "canary one".to_owned()));
    let check: String = shell.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(check, "ok");
}
