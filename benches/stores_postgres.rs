//! What `PostgresStore` costs beside tokio-postgres itself, on the same server in the same run:
//! `cargo bench --features postgres --bench stores_postgres`. Read the ratios; the rates are this machine's.

#![expect(clippy::print_stdout, reason = "it is what a benchmark is for")]

use std::time::{Duration, Instant};

use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, NoTls};
use tower_session_memory::store::postgres::SynchronousCommit;
use tower_session_memory::store::{Append, PostgresStore, Read, Store};
use tower_session_memory::{ConversationId, Head, Message, SessionKey, Turn, TurnId, TurnStatus, Window};
use uuid::Uuid;

#[allow(dead_code, reason = "the tests use the rest")]
#[path = "../tests/postgres/server.rs"]
mod server;

const ROUNDS: usize = 5;
const CALLS: usize = 2_000;
const TURNS: usize = 20;

/// What the store sends, sent by hand.
const APPEND: &str = "SELECT outcome, head_epoch, head_sequence, turn_sequence, stored FROM m.append_turn(
    $1::text::uuid, NULL, NULL, $2, $3::text::uuid, 'complete', now(), 2, $4, $5::text::json, $6, $7, false, NULL, NULL, NULL,
    false, NULL, 'on', NULL)";

type Failure = Box<dyn std::error::Error + Send + Sync>;

fn main() -> Result<(), Failure> {
    let server = server::Server::start(&[]);
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?.block_on(compare(&server))
}

async fn compare(server: &server::Server) -> Result<(), Failure> {
    server.options("m").migrate().await?;
    for (words, commit) in [("synchronous_commit=on", SynchronousCommit::On), ("off", SynchronousCommit::Off)] {
        let store = server.options("m").synchronous_commit(commit).pool_size(8).connect().await?;
        for writers in [1, 8, 64] {
            println!("{CALLS} appends of two messages, 800 bytes; {writers} at once, {words}; median of {ROUNDS}");
            let mut clients = Vec::new();
            for _ in 0..writers.min(8) {
                clients.push(client(server, commit).await?);
            }
            let [mut insert, mut raw, mut ours] = [const { Vec::new() }; 3];
            for _ in 0..ROUNDS {
                insert.push(each(&clients, Work::Insert).await?);
                raw.push(each(&clients, Work::Append).await?);
                ours.push(appends(&store, writers).await?);
            }
            let raw = median(raw);
            line("tokio-postgres, plain INSERT, not exactly-once", median(insert), raw);
            line("tokio-postgres, the same function", raw, raw);
            line("PostgresStore", median(ours), raw);
        }
    }
    println!("{CALLS} loads of {TURNS} turns, one at a time; median of {ROUNDS}");
    let store = server.options("m").pool_size(8).connect().await?;
    let key = SessionKey::new(ConversationId::random());
    let mut head = Head::ABSENT;
    for _ in 0..TURNS {
        head = store.append(&key, &Append::new(turn(), head)).await?.head;
    }
    let client = client(server, SynchronousCommit::On).await?;
    let (whole, newer) =
        (Read::new(Window::default()), Read::new(Window::default()).known(Head::new(head.epoch, head.sequence - 1)));
    let [mut raw, mut all, mut one] = [const { Vec::new() }; 3];
    for _ in 0..ROUNDS {
        raw.push(selects(&client, &key).await?);
        all.push(loads(&store, &key, &whole).await?);
        one.push(loads(&store, &key, &newer).await?);
    }
    let raw = median(raw);
    line("tokio-postgres, SELECT of the records", raw, raw);
    line("PostgresStore, whole history", median(all), raw);
    line("PostgresStore, one turn newer than a known head", median(one), raw);
    Ok(())
}

fn line(what: &str, took: Duration, baseline: Duration) {
    let ratio = baseline.as_secs_f64() / took.as_secs_f64();
    let each = took / CALLS as u32;
    println!("  {what:<48} {:>9.0}/s  {each:>10.1?} each  {ratio:>6.2} x", CALLS as f64 / took.as_secs_f64());
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn turn() -> Turn {
    let messages = vec![Message::user("q".repeat(100)), Message::assistant("a".repeat(600))];
    Turn::new(TurnId::random(), TurnStatus::Complete, messages)
}

async fn client(server: &server::Server, commit: SynchronousCommit) -> Result<Client, Failure> {
    let (client, connection) = tokio_postgres::connect(&server.url(), NoTls).await?;
    tokio::spawn(connection);
    let on = if commit == SynchronousCommit::Off { "off" } else { "on" };
    client.batch_execute(&format!("SET synchronous_commit = {on}; SET lock_timeout = '2s'")).await?;
    client.batch_execute("CREATE TABLE IF NOT EXISTS plain (session uuid, sequence bigint, record json, PRIMARY KEY (session, sequence))").await?;
    Ok(client)
}

#[derive(Clone, Copy)]
enum Work {
    Insert,
    Append,
}

/// The calls, spread over the connections, each with a session of its own.
async fn each(clients: &[Client], work: Work) -> Result<Duration, Failure> {
    let start = Instant::now();
    let all = clients.iter().map(|client| by_hand(client, work, CALLS / clients.len()));
    futures_util::future::try_join_all(all).await?;
    Ok(start.elapsed())
}

async fn by_hand(client: &Client, work: Work, calls: usize) -> Result<(), Failure> {
    let sql = match work {
        Work::Insert => "INSERT INTO plain VALUES ($1::text::uuid, $2, $3::text::json)",
        // The level that the connection has already.
        Work::Append => &APPEND.replace("'on'", "current_setting('synchronous_commit')"),
    };
    let statement = client.prepare(sql).await?;
    let key = SessionKey::new(ConversationId::random());
    let session = Uuid::from_bytes(*TurnId::random().as_bytes()).to_string();
    let mut head = Head::ABSENT;
    for sequence in 0..calls {
        let turn = turn();
        let record = String::from_utf8(turn.to_record(&key))?;
        match work {
            Work::Insert => {
                client.execute(&statement, &[&session, &(sequence as i64), &record]).await?;
            }
            Work::Append => {
                let (epoch, last) = (head.epoch as i64, head.sequence as i64);
                let values: [&(dyn ToSql + Sync); 7] = [
                    &session,
                    &key.conversation().as_str(),
                    &turn.id().to_string(),
                    &(turn.bytes() as i64),
                    &record,
                    &epoch,
                    &last,
                ];
                let row = client.query_one(&statement, &values).await?;
                head = Head::new(row.get::<_, i64>(1) as u64, row.get::<_, i64>(2) as u64);
            }
        }
    }
    Ok(())
}

async fn appends(store: &PostgresStore, writers: usize) -> Result<Duration, Failure> {
    let start = Instant::now();
    let all = (0..writers).map(|_| async {
        let key = SessionKey::new(ConversationId::random());
        let mut head = Head::ABSENT;
        for _ in 0..CALLS / writers {
            head = store.append(&key, &Append::new(turn(), head)).await?.head;
        }
        Ok::<_, Failure>(())
    });
    futures_util::future::try_join_all(all).await?;
    Ok(start.elapsed())
}

async fn selects(client: &Client, key: &SessionKey) -> Result<Duration, Failure> {
    let sql = "SELECT t.record::text FROM m.turn t JOIN m.session s USING (session) WHERE s.conversation = $1 AND s.session = $2::text::uuid ORDER BY t.sequence";
    let statement = client.prepare(sql).await?;
    let find = "SELECT session::text FROM m.session WHERE conversation = $1";
    let session: String = client.query_one(find, &[&key.conversation().as_str()]).await?.get(0);
    let start = Instant::now();
    for _ in 0..CALLS {
        let rows = client.query(&statement, &[&key.conversation().as_str(), &session]).await?;
        let records: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        assert_eq!(records.len(), TURNS);
    }
    Ok(start.elapsed())
}

async fn loads(store: &PostgresStore, key: &SessionKey, read: &Read) -> Result<Duration, Failure> {
    let start = Instant::now();
    for _ in 0..CALLS {
        store.load(key, read).await?;
    }
    Ok(start.elapsed())
}
