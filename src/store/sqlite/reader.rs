//! Reads: each on one of a few threads, so that none waits for a writer's disk.

use rusqlite::Connection;
use tokio::sync::oneshot;

use super::failure::Failure;
use super::lane::{Jobs, Lane};
use crate::store::ErrorKind;

pub(super) type ReadJob = Box<dyn FnOnce(&Connection) + Send>;

/// One reader thread.
pub(super) fn run(connection: Connection, jobs: &Jobs<ReadJob>) {
    while let Some(job) = jobs.next() {
        job(&connection);
    }
}

/// Runs `work` on a reader. It sees one moment of the database, whatever it asks.
///
/// # Cancellation
/// A read that nobody waits for is skipped if it has not begun.
pub(super) async fn read<T, W>(readers: &Lane<ReadJob>, work: W) -> Result<T, Failure>
where
    T: Send + 'static,
    W: FnOnce(&Connection) -> Result<T, Failure> + Send + 'static,
{
    let (reply, answer) = oneshot::channel();
    let job = move |connection: &Connection| {
        if !reply.is_closed() {
            // Nobody may wait by now; then nobody misses the answer.
            let _ = reply.send(at_one_moment(connection, work));
        }
    };
    readers.send(Box::new(job)).await?;
    answer.await.unwrap_or_else(|_| Err(Failure::refused(ErrorKind::Unavailable, "a reader thread died")))
}

fn at_one_moment<T>(
    connection: &Connection,
    work: impl FnOnce(&Connection) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let snapshot = connection.unchecked_transaction()?;
    let result = work(&snapshot);
    // Nothing was written, so there is nothing to lose by rolling back, which cannot fail halfway.
    snapshot.rollback()?;
    result
}
