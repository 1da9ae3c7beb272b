//! A TCP proxy that does to a connection what networks do.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::task::AbortOnDropHandle;

use super::chance::Chance;

/// What may happen to a piece of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It never arrives, and both sides see the connection end.
    CutBeforeSend,
    /// It arrives, and the client sees the connection end instead of the answer.
    CutAfterSend,
    /// It arrives; the answer comes late.
    Stall,
    /// It arrives a byte at a time.
    Slice,
    /// It takes its time.
    Slow,
    /// From now on nothing arrives on either side, and nobody is told.
    HalfOpen,
}

const FAULTS: [Fault; 6] =
    [Fault::CutBeforeSend, Fault::CutAfterSend, Fault::Stall, Fault::Slice, Fault::Slow, Fault::HalfOpen];

/// Longer than the reply deadline of the stores under test.
const STALL: Duration = Duration::from_millis(500);

/// Longer than any test.
const FOR_EVER: Duration = Duration::from_secs(3600);

/// Forwards connections to a server until it is dropped.
pub struct Proxy {
    pub port: u16,
    state: Arc<State>,
    _task: AbortOnDropHandle<()>,
}

struct State {
    server: u16,
    seed: u64,
    delay: Duration,
    /// Faults in a thousand pieces of requests.
    faults: AtomicU64,
    /// The next piece of a request meets this one.
    next: std::sync::Mutex<Option<Fault>>,
    connections: AtomicU64,
    injected: AtomicU64,
    /// Bytes from the server to clients.
    answered: AtomicU64,
    /// An error that is answered in the server's place, and how many times more.
    refusal: std::sync::Mutex<(String, u64)>,
}

impl Proxy {
    pub async fn start(server: u16, seed: u64) -> Self {
        Self::with_delay(server, seed, Duration::ZERO).await
    }

    /// With this much added each way.
    pub async fn with_delay(server: u16, seed: u64, delay: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let state = Arc::new(State {
            server,
            seed,
            delay,
            faults: AtomicU64::new(0),
            next: std::sync::Mutex::default(),
            connections: AtomicU64::new(0),
            injected: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            refusal: std::sync::Mutex::default(),
        });
        let accepting = state.clone();
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let number = accepting.connections.fetch_add(1, Ordering::Relaxed);
                connections.spawn(carry(client, accepting.clone(), number));
            }
        });
        Self { port, state, _task: AbortOnDropHandle::new(task) }
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// So many of a thousand pieces of requests meet a fault from now on; 0 is calm.
    pub fn faults(&self, in_thousand: u64) {
        self.state.faults.store(in_thousand, Ordering::Relaxed);
    }

    /// The next piece of a request meets this fault.
    pub fn next(&self, fault: Fault) {
        *self.state.next.lock().expect("nobody panics with it") = Some(fault);
    }

    /// So many calls of scripts and ranges are not passed on, but answered with this error.
    #[allow(dead_code, reason = "not every test has such servers")]
    pub fn refuse(&self, error: &str, times: u64) {
        *self.state.refusal.lock().expect("nobody panics with it") = (format!("-{error}\r\n"), times);
    }

    pub fn connections(&self) -> u64 {
        self.state.connections.load(Ordering::Relaxed)
    }

    pub fn injected(&self) -> u64 {
        self.state.injected.load(Ordering::Relaxed)
    }

    /// Bytes that the server has answered so far.
    pub fn answered(&self) -> u64 {
        self.state.answered.load(Ordering::Relaxed)
    }
}

impl State {
    fn refusal(&self, piece: &[u8]) -> Option<Vec<u8>> {
        let mut refusal = self.refusal.lock().expect("nobody panics with it");
        let text = String::from_utf8_lossy(piece);
        if refusal.1 == 0 || !(text.contains("EVALSHA") || text.contains("LRANGE")) {
            return None;
        }
        refusal.1 -= 1;
        Some(refusal.0.clone().into_bytes())
    }

    fn fault(&self, chance: &mut Chance) -> Option<Fault> {
        let planned = self.next.lock().expect("nobody panics with it").take();
        let drawn = chance
            .one_in_thousand(self.faults.load(Ordering::Relaxed))
            .then(|| FAULTS[chance.below(FAULTS.len() as u64) as usize]);
        let fault = planned.or(drawn);
        self.injected.fetch_add(u64::from(fault.is_some()), Ordering::Relaxed);
        fault
    }
}

/// Carries one connection to its end; an error is one way to end.
async fn carry(client: TcpStream, state: Arc<State>, number: u64) {
    let _ = try_carry(client, state, number).await;
}

async fn try_carry(client: TcpStream, state: Arc<State>, number: u64) -> io::Result<()> {
    let mut chance = Chance::new(state.seed ^ number.wrapping_mul(0x9e37_79b9));
    let server = TcpStream::connect(("127.0.0.1", state.server)).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (mut from_client, to_client) = client.into_split();
    let (from_server, mut to_server) = server.into_split();
    let (stall, stalled) = tokio::sync::watch::channel(None::<Instant>);
    let (answers, answers_due) = mpsc::unbounded_channel::<(Instant, Vec<u8>)>();
    let refusals = answers.clone();
    let carried = answer(from_server, to_client, state.clone(), stalled, answers, answers_due);
    let answers = AbortOnDropHandle::new(tokio::spawn(carried));
    let (delayed, mut due) = mpsc::unbounded_channel::<(Instant, Vec<u8>)>();
    let forward = async {
        while let Some((at, piece)) = due.recv().await {
            sleep_until(at).await;
            to_server.write_all(&piece).await?;
        }
        io::Result::Ok(())
    };
    let read = async {
        let mut buffer = vec![0; 64 << 10];
        loop {
            let count = from_client.read(&mut buffer).await?;
            if count == 0 {
                return io::Result::Ok(());
            }
            let piece = buffer[..count].to_vec();
            let mut at = Instant::now() + state.delay;
            if let Some(error) = state.refusal(&piece) {
                let _ = refusals.send((at, error));
                continue;
            }
            match state.fault(&mut chance) {
                None => {}
                Some(Fault::CutBeforeSend) => return Err(io::ErrorKind::ConnectionReset.into()),
                Some(Fault::CutAfterSend) => {
                    // No answer gets through any more; the server still reads what was sent.
                    answers.abort();
                    let _ = delayed.send((at, piece));
                    sleep(state.delay + Duration::from_millis(20)).await;
                    return Err(io::ErrorKind::ConnectionReset.into());
                }
                Some(Fault::Stall) => {
                    let _ = stall.send(Some(Instant::now() + STALL));
                }
                Some(Fault::Slice) => {
                    for byte in &piece {
                        at += Duration::from_micros(200);
                        let _ = delayed.send((at, vec![*byte]));
                    }
                    continue;
                }
                Some(Fault::Slow) => at += Duration::from_millis(chance.below(60)),
                Some(Fault::HalfOpen) => {
                    // Held, not ended: dropping the answers' half would tell the client.
                    let _ = stall.send(Some(Instant::now() + FOR_EVER));
                    while from_client.read(&mut buffer).await? > 0 {}
                    return Ok(());
                }
            }
            let _ = delayed.send((at, piece));
        }
    };
    tokio::select! { ended = read => ended, ended = forward => ended }
}

async fn answer(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    state: Arc<State>,
    stalled: tokio::sync::watch::Receiver<Option<Instant>>,
    delayed: mpsc::UnboundedSender<(Instant, Vec<u8>)>,
    mut due: mpsc::UnboundedReceiver<(Instant, Vec<u8>)>,
) -> io::Result<()> {
    let forward = async {
        while let Some((at, piece)) = due.recv().await {
            sleep_until(at).await;
            to.write_all(&piece).await?;
        }
        io::Result::Ok(())
    };
    let read = async {
        let mut buffer = vec![0; 64 << 10];
        loop {
            let count = from.read(&mut buffer).await?;
            if count == 0 {
                return io::Result::Ok(());
            }
            state.answered.fetch_add(count as u64, Ordering::Relaxed);
            let at = (Instant::now() + state.delay).max(stalled.borrow().unwrap_or_else(Instant::now));
            let _ = delayed.send((at, buffer[..count].to_vec()));
        }
    };
    tokio::select! { ended = read => ended, ended = forward => ended }
}
