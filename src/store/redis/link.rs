//! One connection, shared by many calls at once, that knows when it is of no more use.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Cmd, Pipeline, RedisConnectionInfo, Value};
use tokio::task::AbortHandle;
use tokio::time::timeout;

use super::failure::{Failure, Note, of_client};
use super::stream::Stream;

/// What is sent in one go: a command, and where a write must be confirmed, `WAIT` right behind it
/// on the same connection.
#[derive(Clone)]
pub(super) struct Request {
    pub(super) command: Cmd,
    pub(super) confirm: Option<Cmd>,
}

impl Request {
    pub(super) fn new(command: Cmd) -> Self {
        Self { command, confirm: None }
    }
}

/// The answers to a [`Request`].
pub(super) struct Reply {
    pub(super) value: Value,
    pub(super) confirmed: Option<Value>,
}

/// A pipelined connection. Cheap to clone; closed when the last clone is gone.
#[derive(Clone)]
pub(super) struct Link {
    connection: MultiplexedConnection,
    health: Arc<Health>,
    reign: Reign,
    /// The number of the reign that it was opened in.
    opened_in: u64,
    /// Ends the task that drives the socket, once no call is left that waits for it.
    _driver: Option<Arc<Driver>>,
}

#[derive(Default)]
struct Health {
    broken: AtomicBool,
    /// Calls that wait for their answers.
    calls: AtomicUsize,
    /// Bytes that arrived; `None` for a connection that we did not open.
    heard: Option<Arc<AtomicU64>>,
}

/// A call that waits for its answer.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(calls: &'a AtomicUsize) -> Self {
        calls.fetch_add(1, Ordering::Relaxed);
        Self(calls)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The time during which a server is the master. All connections from that time end together: one
/// that is told of the end must not leave others that would go on reading from a replica.
#[derive(Clone, Default)]
pub(super) struct Reign(Arc<AtomicU64>);

impl Reign {
    pub(super) fn number(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Told by many connections at once, or late, it ends once.
    fn end(&self, number: u64) {
        let _ = self.0.compare_exchange(number, number + 1, Ordering::Relaxed, Ordering::Relaxed);
    }
}

/// Lets whoever else can run go first, so that what they ask is sent in one go.
///
/// A send costs more than all that is in it, on both sides; sent as soon as the first task has asked, it
/// would carry little.
struct Gathering<'a, F> {
    driver: Pin<Box<F>>,
    health: &'a Health,
    gathered: bool,
}

impl<F: Future<Output = ()>> Future for Gathering<'_, F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.gathered = !self.gathered && self.health.calls.load(Ordering::Relaxed) > 1;
        if self.gathered {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.driver.as_mut().poll(cx)
    }
}

struct Driver(AbortHandle);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Link {
    /// Says hello on an open socket: protocol, credentials, database.
    pub(super) async fn over(
        stream: Stream,
        login: &RedisConnectionInfo,
        heard: Arc<AtomicU64>,
    ) -> Result<Self, Failure> {
        // The calls have their own deadline, and buffers as deep as the layer lets requests in.
        let config = AsyncConnectionConfig::new().set_response_timeout(None).set_pipeline_buffer_size(512);
        let (connection, driver) = MultiplexedConnection::new_with_config(login, stream, config)
            .await
            .map_err(|error| of_client(error, false))?;
        let health = Arc::new(Health { heard: Some(heard), ..Health::default() });
        let task = tokio::spawn({
            let health = health.clone();
            async move {
                Gathering { driver: Box::pin(driver), health: &health, gathered: false }.await;
                // The peer closed it, at once noticed even while nobody is calling.
                health.broken.store(true, Ordering::Relaxed);
            }
        });
        let driver = Some(Arc::new(Driver(task.abort_handle())));
        Ok(Self { connection, health, reign: Reign::default(), opened_in: 0, _driver: driver })
    }

    /// A connection that somebody else opened.
    pub(super) fn borrowed(connection: MultiplexedConnection) -> Self {
        Self { connection, health: Arc::default(), reign: Reign::default(), opened_in: 0, _driver: None }
    }

    /// The same connection, as one of those that end with this reign.
    pub(super) fn within(self, reign: &Reign, number: u64) -> Self {
        Self { reign: reign.clone(), opened_in: number, ..self }
    }

    pub(super) fn is_broken(&self) -> bool {
        self.health.broken.load(Ordering::Relaxed) || self.reign.number() != self.opened_in
    }

    fn heard(&self) -> Option<u64> {
        self.health.heard.as_ref().map(|heard| heard.load(Ordering::Relaxed))
    }

    fn give_up(&self) {
        self.health.broken.store(true, Ordering::Relaxed);
    }

    /// Sends a request and waits at most this long for the answer. `asking` goes ahead of it.
    ///
    /// # Cancellation
    /// The answer to a dropped call is thrown away when it comes; the connection stays fit for use.
    pub(super) async fn call(&self, request: &Request, asking: bool, patience: Duration) -> Result<Reply, Failure> {
        let heard = self.heard();
        let sent = match timeout(patience, self.send(request, asking)).await {
            Ok(sent) => sent,
            Err(elapsed) => {
                // Slow, or a black hole? Silence for the whole deadline is taken for the latter.
                if heard.is_none() || heard == self.heard() {
                    self.give_up();
                }
                return Err(Failure::lost(elapsed));
            }
        };
        let (value, confirmed) = sent.map_err(|error| {
            self.give_up();
            of_client(error, true)
        })?;
        match value {
            Value::ServerError(error) => {
                // A demoted master: whoever connects anew finds the right one.
                if error.code() == "READONLY" {
                    self.reign.end(self.opened_in);
                }
                Err(Failure::Refused(error))
            }
            value => Ok(Reply { value, confirmed }),
        }
    }

    async fn send(&self, request: &Request, asking: bool) -> redis::RedisResult<(Value, Option<Value>)> {
        let _waiting = Waiting::new(&self.health.calls);
        let mut connection = self.connection.clone();
        if request.confirm.is_none() && !asking {
            return Ok((connection.send_packed_command(&request.command).await?, None));
        }
        let mut pipeline = Pipeline::new();
        if asking {
            pipeline.add_command(redis::cmd("ASKING"));
        }
        pipeline.add_command(request.command.clone());
        if let Some(confirm) = &request.confirm {
            pipeline.add_command(confirm.clone());
        }
        let count = pipeline.len();
        let mut values = connection.send_packed_commands(&pipeline, 0, count).await?;
        let confirmed = if request.confirm.is_some() { values.pop() } else { None };
        Ok((values.pop().unwrap_or(Value::Nil), confirmed))
    }

    /// One command outside the request path: probes, roles, slots.
    pub(super) async fn ask(&self, command: Cmd, patience: Duration) -> Result<Value, Failure> {
        Ok(self.call(&Request::new(command), false, patience).await?.value)
    }
}

/// An answer that has not the shape that was asked for.
pub(super) fn unexpected(what: &str) -> Failure {
    Failure::lost(Note(format!("unexpected answer to {what}")))
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    #[test]
    fn others_go_first_where_there_are_others() {
        let health = Health::default();
        let polls = AtomicUsize::new(0);
        let driver = std::future::poll_fn(|_| {
            polls.fetch_add(1, Ordering::Relaxed);
            Poll::<()>::Pending
        });
        let mut gathering = Gathering { driver: Box::pin(driver), health: &health, gathered: false };
        let mut cx = Context::from_waker(Waker::noop());
        let mut polled = |calls| {
            let _waiting: Vec<_> = (0..calls).map(|_| Waiting::new(&health.calls)).collect();
            let _ = Pin::new(&mut gathering).poll(&mut cx);
            polls.load(Ordering::Relaxed)
        };
        assert_eq!([polled(1), polled(1)], [1, 2], "one call is sent at once");
        assert_eq!([polled(2), polled(2), polled(2), polled(2)], [2, 3, 3, 4], "of many, the others ask first");
        assert_eq!(polled(0), 5);
        assert_eq!(health.calls.load(Ordering::Relaxed), 0);
    }
}
