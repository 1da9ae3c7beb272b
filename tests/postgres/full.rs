//! Disks that are full: small ones of memory, mounted for the test.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use tower_session_memory::store::{Append, ErrorKind, Store};
use tower_session_memory::{Message, Turn, TurnId, TurnStatus};

use crate::kit::{append, key, kind, open, persist, told, turns};
use crate::server::{Server, give};

/// A disk of so many megabytes, unmounted when this is dropped.
struct Disk(PathBuf);

impl Disk {
    /// `None`, said loudly, where nothing may be mounted.
    fn mount(megabytes: u32) -> Option<Self> {
        let dir = tempfile::Builder::new().prefix("disk-").tempdir().unwrap().keep();
        let size = format!("size={megabytes}m,mode=0700");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&dir).output();
        if !mounted.is_ok_and(|output| output.status.success()) {
            std::fs::remove_dir(&dir).ok();
            let line = "\nNOT RUN: nothing may be mounted here, so no disk was full; DISK FULL WAS NOT TESTED\n";
            // Past the capture of the test harness.
            std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes()).ok();
            return None;
        }
        give(&dir);
        Some(Self(dir))
    }

    /// Leaves no room.
    fn fill(&self) {
        let mut file = std::fs::File::create(self.filler()).unwrap();
        while std::io::Write::write_all(&mut file, &[0; 4096]).is_ok() {}
    }

    fn make_room(&self) {
        std::fs::remove_file(self.filler()).unwrap();
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: the server may still be ending.
        Command::new("umount").arg("-l").arg(&self.0).status().ok();
        std::fs::remove_dir(&self.0).ok();
    }
}

/// Of text that does not compress.
fn large() -> Append {
    let text: String = (0..4_000).map(|_| TurnId::random().to_string()).collect();
    Append::unconditional(Turn::new(TurnId::random(), TurnStatus::Complete, vec![Message::user(text)]))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_turn_that_finds_no_room_is_refused_whole_and_stored_when_there_is() {
    let Some(disk) = Disk::mount(8) else { return };
    let server = Server::start(&[]);
    let store = open(server.options("m")).await;
    let path = disk.0.display();
    server.psql(&format!("CREATE TABLESPACE small LOCATION '{path}'"), &[]).unwrap();
    // The table alone: an index goes elsewhere, so it is the turn itself that finds no room.
    server.psql("ALTER TABLE m.turn SET TABLESPACE small", &[]).unwrap();
    let key = key();
    store.append(&key, &append("before")).await.unwrap();
    disk.fill();
    let (mut stored, mut refused) = (turns(&store, &key).await, large());
    let error = loop {
        match store.append(&key, &refused).await {
            // Pages that the table had already.
            Ok(_) => stored.push(std::mem::replace(&mut refused, large()).turn),
            Err(error) => break error,
        }
        assert!(stored.len() < 1_000, "8 MB hold no 128 MB");
    };
    assert_eq!(error.kind(), ErrorKind::Full, "{}", told(&error));
    assert!(told(&error).contains("53100"), "{}", told(&error));
    assert_eq!(turns(&store, &key).await, stored, "nothing of it is there");
    assert_eq!(kind(store.append(&key, &refused).await), ErrorKind::Full);
    // Reading and forgetting go on.
    store.ping().await.unwrap();
    disk.make_room();
    store.append(&key, &refused).await.unwrap();
    stored.push(refused.turn);
    assert_eq!(turns(&store, &key).await, stored);
}

/// PostgreSQL refuses a statement that needs a new file of the log, or stops if it cannot go on without.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_whose_log_finds_no_room_loses_nothing_that_was_acknowledged() {
    let Some(disk) = Disk::mount(64) else { return };
    let log = |directory: &Path| directory.join("data/pg_wal");
    let server = Server::prepared(|directory| {
        let moved = Command::new("cp").arg("-a").arg(log(directory)).arg(disk.0.join("pg_wal")).status();
        assert!(moved.unwrap().success());
        std::fs::remove_dir_all(log(directory)).unwrap();
        std::os::unix::fs::symlink(disk.0.join("pg_wal"), log(directory)).unwrap();
        vec!["max_wal_size=64MB".to_owned(), "min_wal_size=32MB".to_owned(), "fsync=off".to_owned()]
    });
    let store = open(server.options("m")).await;
    let (key, mut stored) = (key(), Vec::new());
    disk.fill();
    let unknown = loop {
        let append = large();
        match store.append(&key, &append).await {
            Ok(_) => stored.push(append.turn),
            Err(error) => {
                let expected = error.kind() == ErrorKind::Full || error.kind().is_temporary();
                assert!(expected, "{}", told(&error));
                break append;
            }
        }
        assert!(stored.len() < 1_000, "64 MB hold no 128 MB");
    };
    assert!(server.log().contains("No space left on device"), "{}", server.log());
    disk.make_room();
    let server = tokio::task::spawn_blocking(move || {
        server.kill();
        server.launch();
        server
    });
    let server = server.await.unwrap();
    let began = Instant::now();
    persist(&store, &key, &unknown).await;
    assert!(began.elapsed() < Duration::from_secs(30));
    stored.push(unknown.turn);
    assert_eq!(turns(&store, &key).await, stored, "all, once, in order");
    drop(server);
}
