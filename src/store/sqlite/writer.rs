//! Writes: all on one thread, as many in one transaction as are waiting, answered after its commit.

use std::time::{Duration, Instant};

use rusqlite::{Connection, Transaction, TransactionBehavior};
use tokio::sync::oneshot;

use super::failure::Failure;
use super::lane::{Jobs, Lane};
use super::open::File;
use super::purge;
use crate::store::ErrorKind;

/// The most writes of one transaction: more share one sync of the disk, and wait for each other.
const GROUP: usize = 128;

/// A write that may be run again when the transaction around it was rolled back.
pub(super) trait WriteJob: Send {
    /// Does the work. A refusal is the job's own answer and has changed nothing; an error of SQLite
    /// is returned and spoils the transaction.
    fn run(&mut self, connection: &Connection) -> Result<(), Failure>;
    /// Tells whoever waits, if anybody does. `Ok`: what `run` did last is durable.
    fn answer(self: Box<Self>, outcome: Result<(), Failure>);
}

struct Task<T, W> {
    work: W,
    result: Option<Result<T, Failure>>,
    reply: oneshot::Sender<Result<T, Failure>>,
}

impl<T, W> WriteJob for Task<T, W>
where
    T: Send,
    W: Fn(&Connection) -> Result<T, Failure> + Send,
{
    fn run(&mut self, connection: &Connection) -> Result<(), Failure> {
        match (self.work)(connection) {
            Err(failure @ Failure::Sqlite(..)) => Err(failure),
            result => {
                self.result = Some(result);
                Ok(())
            }
        }
    }

    fn answer(self: Box<Self>, outcome: Result<(), Failure>) {
        let Self { result, reply, .. } = *self;
        let result = outcome.and_then(|()| result.expect("a job whose group was committed has run"));
        // Nobody may wait by now; the write stands all the same.
        let _ = reply.send(result);
    }
}

/// Runs `work` on the writer and answers once it is durable.
///
/// # Cancellation
/// Once accepted, the write is done whether or not anybody waits.
pub(super) async fn write<T, W>(writer: &Lane<Box<dyn WriteJob>>, work: W) -> Result<T, Failure>
where
    T: Send + 'static,
    W: Fn(&Connection) -> Result<T, Failure> + Send + 'static,
{
    let (reply, answer) = oneshot::channel();
    writer.send(Box::new(Task { work, result: None, reply })).await?;
    answer.await.unwrap_or_else(|_| Err(Failure::refused(ErrorKind::Ambiguous, "the writer thread died")))
}

/// The writer thread's own.
pub(super) struct Writer {
    pub(super) connection: Connection,
    pub(super) file: File,
}

/// The writer thread.
pub(super) fn run(mut writer: Writer, jobs: &Jobs<Box<dyn WriteJob>>) {
    let mut group = Vec::with_capacity(GROUP);
    let mut purge_at = Instant::now();
    while jobs.next_group(&mut group, GROUP) > 0 {
        writer.settle(&mut group);
        if purge_at <= Instant::now() {
            purge_at = Instant::now() + writer.purge();
        }
    }
}

impl Writer {
    /// Runs the jobs, together if possible, and answers each.
    fn settle(&mut self, group: &mut Vec<Box<dyn WriteJob>>) {
        let outcome = self.transact(group);
        match outcome {
            // One of them failed, or all of them were too much at once, and nothing was written:
            // each on its own, so that none suffers for another.
            Err(Failure::Sqlite(kind, _)) if group.len() > 1 && alone_may_do(kind) => {
                for mut job in group.drain(..) {
                    let outcome = self.transact(std::slice::from_mut(&mut job));
                    job.answer(outcome);
                }
            }
            outcome => group.drain(..).for_each(|job| job.answer(outcome.clone())),
        }
    }

    fn transact(&mut self, group: &mut [Box<dyn WriteJob>]) -> Result<(), Failure> {
        self.file.check()?;
        if !self.connection.is_autocommit() {
            self.connection.execute_batch("ROLLBACK")?;
        }
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        for job in group {
            // An early return drops the transaction, which rolls it back.
            job.run(&transaction)?;
        }
        commit(transaction)
    }

    /// Removes some of what expired; returns when to look again.
    fn purge(&mut self) -> Duration {
        match self.connection.transaction_with_behavior(TransactionBehavior::Immediate).and_then(|transaction| {
            let more = purge::some_of_the_expired(&transaction)?;
            transaction.commit().map(|()| more)
        }) {
            Ok(true) => Duration::from_secs(1),
            Ok(false) => Duration::from_secs(60),
            Err(error) => {
                tracing::warn!(error = %error, "expired sessions could not be removed; they stay hidden");
                Duration::from_secs(60)
            }
        }
    }
}

fn commit(transaction: Transaction<'_>) -> Result<(), Failure> {
    transaction.commit().map_err(Failure::of_commit)
}

/// Whether the failure may be due to one job's data. A lock or an unknown outcome is everybody's.
fn alone_may_do(kind: ErrorKind) -> bool {
    !matches!(kind, ErrorKind::Unavailable | ErrorKind::Ambiguous | ErrorKind::Misconfigured)
}
