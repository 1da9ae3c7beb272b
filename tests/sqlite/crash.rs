//! Processes that are killed: what was acknowledged is there, once.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tower_session_memory::{SessionKey, SqliteStore, TurnId};

use crate::kit::{Place, add, key, turn, turns};

const FILE: &str = "TSM_TEST_CHILD_FILE";
const NAME: &str = "TSM_TEST_CHILD_NAME";
const SESSIONS: usize = 4;

/// Killed with SIGKILL and reaped when it is dropped.
struct Writer(Child);

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Writer {
    fn start(file: &Path, name: &str) -> Self {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "crash::the_process_that_is_killed", "--ignored", "--nocapture"])
            .env(FILE, file)
            .env(NAME, name)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self(child)
    }

    /// Kills it after this many acknowledgements; all that it wrote before it died.
    fn kill_after(mut self, count: usize) -> Vec<(usize, TurnId)> {
        let mut lines = BufReader::new(self.0.stdout.take().unwrap());
        let mut acknowledged = Vec::new();
        let mut line = String::new();
        while lines.read_line(&mut line).unwrap() > 0 {
            // Without its end, the line was cut by the kill.
            if let Some(ack) = line.strip_suffix('\n').and_then(|line| line.strip_prefix("ack ")) {
                let (session, id) = ack.split_once(' ').unwrap();
                acknowledged.push((session.parse().unwrap(), TurnId::parse(id).unwrap()));
            }
            if acknowledged.len() == count {
                self.0.kill().unwrap();
            }
            line.clear();
        }
        assert!(acknowledged.len() >= count, "the writer ended by itself after {}", acknowledged.len());
        acknowledged
    }
}

fn session(name: &str, number: usize) -> SessionKey {
    key(&format!("{name}-{number}"))
}

/// Appends until it is killed, and says so after each.
#[test]
#[ignore = "not a test: the process that the tests of this file start and kill"]
fn the_process_that_is_killed() {
    let (file, name) = (std::env::var_os(FILE).unwrap(), std::env::var(NAME).unwrap());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    runtime.block_on(async {
        let store = SqliteStore::open(file).await.unwrap();
        let writers = (0..SESSIONS).map(|number| {
            let (store, name) = (store.clone(), name.clone());
            tokio::spawn(async move {
                // More than any test waits for: an orphan ends by itself.
                for count in 0..20_000 {
                    let turn = turn(&format!("{count}"));
                    add(&store, &session(&name, number), &turn).await.unwrap();
                    let mut out = std::io::stdout().lock();
                    writeln!(out, "ack {number} {}", turn.id()).unwrap();
                    out.flush().unwrap();
                }
            })
        });
        for writer in writers.collect::<Vec<_>>() {
            writer.await.unwrap();
        }
    });
}

async fn every_acknowledged_turn_is_there_once(store: &SqliteStore, name: &str, acknowledged: &[(usize, TurnId)]) {
    let mut stored: BTreeMap<usize, Vec<TurnId>> = BTreeMap::new();
    for number in 0..SESSIONS {
        let ids: Vec<TurnId> = turns(store, &session(name, number)).await.iter().map(|turn| turn.id()).collect();
        assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len(), "a turn is stored twice");
        stored.insert(number, ids);
    }
    for (number, id) in acknowledged {
        assert!(stored[number].contains(id), "an acknowledged turn is lost");
    }
    // Each session has one writer, which waits for every answer: at most the last one is unheard of.
    let stored: usize = stored.values().map(Vec::len).sum();
    assert!(stored <= acknowledged.len() + SESSIONS, "{stored} stored, {} acknowledged", acknowledged.len());
}

#[tokio::test]
async fn a_killed_process_loses_nothing_it_acknowledged() {
    let place = Place::new();
    let mut rounds = Vec::new();
    for (round, count) in [1, 40, 150, 400].into_iter().enumerate() {
        let name = format!("round{round}");
        let acknowledged = Writer::start(&place.file(), &name).kill_after(count);
        rounds.push((name, acknowledged));
        // Opened by the next process, which finds the log of the dead one.
        let store = place.open().await;
        for (name, acknowledged) in &rounds {
            every_acknowledged_turn_is_there_once(&store, name, acknowledged).await;
        }
        add(&store, &key("after"), &turn("goes on")).await.unwrap();
        if round % 2 == 0 {
            store.close().await;
        }
    }
    let check: String = place.shell().query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(check, "ok");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_share_the_file_and_survive_each_other() {
    let place = Place::new();
    let store = place.open().await;
    let children = ["left", "right"].map(|name| (name, Writer::start(&place.file(), name)));
    let killed = children.map(|(name, child)| tokio::task::spawn_blocking(move || (name, child.kill_after(100))));
    // This process writes while the two do, and while they die.
    let mut given = Vec::new();
    while !killed.iter().all(tokio::task::JoinHandle::is_finished) {
        let turn = turn("beside them");
        add(&store, &key("own"), &turn).await.unwrap();
        given.push(turn);
    }
    for child in killed {
        let (name, acknowledged) = child.await.unwrap();
        every_acknowledged_turn_is_there_once(&store, name, &acknowledged).await;
    }
    assert_eq!(turns(&store, &key("own")).await, given);
}
