//! What `SqliteStore` costs beside rusqlite itself, on the same disk in the same run:
//! `cargo bench --bench sqlite`. Read the ratios; the rates are this machine's.

#![expect(clippy::print_stdout, reason = "it is what a benchmark is for")]

use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::{Connection, params};
use tower_session_memory::store::{Append, Read, Store};
use tower_session_memory::{ConversationId, Head, Message, SessionKey, SqliteStore, Turn, TurnId, TurnStatus, Window};

const APPENDS: usize = 2_000;
const LOADS: usize = 2_000;
const ROUNDS: usize = 3;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    // Beside the target directory: temporary directories are often in memory and sync nothing.
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;

    println!("{APPENDS} appends of one turn of two messages, 800 bytes; median of {ROUNDS} rounds");
    let [mut raw, mut one, mut fifty] = [const { Vec::new() }; 3];
    for round in 0..ROUNDS {
        let path = |name: &str| directory.path().join(format!("{name}{round}.db"));
        raw.push(raw_inserts(&path("raw"))?);
        one.push(runtime.block_on(appends(&path("one"), 1))?);
        fifty.push(runtime.block_on(appends(&path("fifty"), 50))?);
    }
    let raw = median(raw);
    line("rusqlite, INSERT in a transaction of its own", raw, raw, APPENDS);
    line("SqliteStore, 1 writer", median(one), raw, APPENDS);
    line("SqliteStore, 50 writers at once", median(fifty), raw, APPENDS);

    for turns in [20, 200] {
        println!("{LOADS} loads of a history of {turns} turns");
        let path = directory.path().join(format!("load{turns}.db"));
        let (store, key) = runtime.block_on(filled(&path, turns))?;
        let [mut raw, mut whole, mut newer] = [const { Vec::new() }; 3];
        for _ in 0..ROUNDS {
            raw.push(raw_selects(&path, turns)?);
            whole.push(runtime.block_on(loads(&store, &key, false))?);
            newer.push(runtime.block_on(loads(&store, &key, true))?);
        }
        let raw = median(raw);
        line("rusqlite, SELECT of the records", raw, raw, LOADS);
        line("SqliteStore, whole history", median(whole), raw, LOADS);
        line("SqliteStore, one turn newer than a known head", median(newer), raw, LOADS);
    }
    Ok(())
}

fn line(what: &str, took: Duration, baseline: Duration, count: usize) {
    let ratio = baseline.as_secs_f64() / took.as_secs_f64();
    let each = took / count as u32;
    println!("  {what:<48} {:>9.0}/s  {each:>10.1?} each  {ratio:>6.2} x", count as f64 / took.as_secs_f64());
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn turn() -> Turn {
    let messages = vec![Message::user("q".repeat(100)), Message::assistant("a".repeat(600))];
    Turn::new(TurnId::random(), TurnStatus::Complete, messages)
}

fn key(number: usize) -> SessionKey {
    SessionKey::new(ConversationId::parse(&format!("c{number}")).expect("letters and digits"))
}

fn raw_inserts(path: &Path) -> rusqlite::Result<Duration> {
    let connection = Connection::open(path)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.execute_batch(
        "CREATE TABLE turn (session INTEGER, sequence INTEGER, record TEXT, UNIQUE (session, sequence))",
    )?;
    let (key, record) = (key(0), turn());
    let start = Instant::now();
    for sequence in 0..APPENDS {
        let record = String::from_utf8(record.to_record(&key)).expect("JSON is UTF-8");
        let transaction = connection.unchecked_transaction()?;
        connection.prepare_cached("INSERT INTO turn VALUES (1, ?1, ?2)")?.execute(params![sequence as i64, record])?;
        transaction.commit()?;
    }
    Ok(start.elapsed())
}

async fn appends(path: &Path, writers: usize) -> Result<Duration, Box<dyn std::error::Error>> {
    let store = SqliteStore::open(path).await?;
    let start = Instant::now();
    let tasks: Vec<_> = (0..writers)
        .map(|number| {
            let (store, key) = (store.clone(), key(number));
            tokio::spawn(async move {
                let mut head = Head::ABSENT;
                for _ in 0..APPENDS / writers {
                    head = store.append(&key, &Append::new(turn(), head)).await?.head;
                }
                Ok::<_, tower_session_memory::StoreError>(())
            })
        })
        .collect();
    for task in tasks {
        task.await??;
    }
    Ok(start.elapsed())
}

async fn filled(path: &Path, turns: usize) -> Result<(SqliteStore, SessionKey), Box<dyn std::error::Error>> {
    let store = SqliteStore::open(path).await?;
    for _ in 0..turns {
        // Other sessions in between, as in life.
        for number in 0..5 {
            store.append(&key(number), &Append::unconditional(turn())).await?;
        }
    }
    Ok((store, key(0)))
}

fn raw_selects(path: &Path, turns: usize) -> rusqlite::Result<Duration> {
    let connection = Connection::open(path)?;
    let session: i64 = connection.query_row("SELECT id FROM session WHERE key = '::c0'", [], |row| row.get(0))?;
    let start = Instant::now();
    for _ in 0..LOADS {
        let mut statement = connection
            .prepare_cached("SELECT record FROM turn WHERE session = ?1 AND sequence > 0 ORDER BY sequence")?;
        let records = statement.query_map([session], |row| row.get::<_, String>(0))?;
        assert_eq!(records.collect::<Result<Vec<_>, _>>()?.len(), turns);
    }
    Ok(start.elapsed())
}

async fn loads(store: &SqliteStore, key: &SessionKey, known: bool) -> Result<Duration, Box<dyn std::error::Error>> {
    let mut read = Read::new(Window::default());
    if known {
        let head = store.load(key, &Read::new(Window::NONE)).await?.head;
        read = read.known(Head::new(head.epoch, head.sequence - 1));
    }
    let start = Instant::now();
    for _ in 0..LOADS {
        store.load(key, &read).await?;
    }
    Ok(start.elapsed())
}
