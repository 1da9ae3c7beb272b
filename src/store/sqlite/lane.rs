//! Jobs on their way to threads of their own, which nobody's cancellation reaches.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{mpsc, watch};

use super::failure::Failure;
use crate::store::ErrorKind;

/// Jobs that may wait; a caller beyond that waits before its job is accepted.
const QUEUE: usize = 1_024;

/// The near end of a queue. Its threads end when it was closed or dropped and everything that was
/// accepted before is done.
#[derive(Debug)]
pub(super) struct Lane<J> {
    queue: Mutex<Option<mpsc::Sender<J>>>,
    /// Every thread holds a receiver for as long as it lives.
    threads: watch::Sender<()>,
}

/// The far end; the threads of a lane share it.
pub(super) struct Jobs<J> {
    queue: Arc<Mutex<mpsc::Receiver<J>>>,
    _alive: watch::Receiver<()>,
}

impl<J: Send + 'static> Lane<J> {
    /// Starts one thread for each worker.
    pub(super) fn start<W>(name: &str, workers: Vec<W>, run: fn(W, &Jobs<J>)) -> Result<Self, Failure>
    where
        W: Send + 'static,
    {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let receiver = Arc::new(Mutex::new(receiver));
        let lane = Self { queue: Mutex::new(Some(sender)), threads: watch::Sender::new(()) };
        for worker in workers {
            // Outlives the worker: who waits for the thread's end waits for the worker's connection too.
            let jobs = Jobs { queue: receiver.clone(), _alive: lane.threads.subscribe() };
            let thread = std::thread::Builder::new().name(name.to_owned());
            thread
                .spawn(move || run(worker, &jobs))
                .map_err(|error| Failure::refused(ErrorKind::Unavailable, error))?;
        }
        Ok(lane)
    }

    /// Hands a job over; it runs whether or not anybody waits for it.
    ///
    /// # Cancellation
    /// Dropped while the queue is full, the job was never accepted.
    pub(super) async fn send(&self, job: J) -> Result<(), Failure> {
        let closed = || Failure::refused(ErrorKind::Unavailable, "the store was closed");
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner).clone().ok_or_else(closed)?;
        queue.send(job).await.map_err(|_| closed())
    }

    /// Accepts no more and waits until all that was accepted is done and the threads have ended.
    pub(super) async fn close(&self) {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.threads.closed().await;
    }
}

impl<J> Jobs<J> {
    /// Waits for the next job; `None` when there will be none.
    pub(super) fn next(&self) -> Option<J> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).blocking_recv()
    }

    /// Waits for at least one job and takes what else waits already; 0 when there will be none.
    pub(super) fn next_group(&self, group: &mut Vec<J>, most: usize) -> usize {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).blocking_recv_many(group, most)
    }
}
