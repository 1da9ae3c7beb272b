//! Redis servers on free loopback ports, stopped with the last handle on them.

use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

/// Long enough for a loaded machine, short enough for a failure to be told today.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Polls a condition until it holds; fails the test when it does not within [`PATIENCE`].
#[track_caller]
pub fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(began.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Where a program is. Without it: a failure in CI, elsewhere a loud end of this test binary.
pub fn program(name: &str, variable: &str) -> PathBuf {
    optional_program(name, variable).unwrap_or_else(|| {
        assert!(std::env::var_os("CI").is_none(), "{name} is not installed, and CI must have it");
        let note = format!(
            "\nIGNORED: {name} is not installed (nor named in {variable}); the tests of this file DID NOT RUN.\n"
        );
        // Not eprintln: the harness would swallow it.
        std::io::stderr().write_all(note.as_bytes()).expect("stderr is open");
        std::process::exit(0);
    })
}

/// Where a program is, if it is anywhere.
pub fn optional_program(name: &str, variable: &str) -> Option<PathBuf> {
    let given = std::env::var_os(variable).map(PathBuf::from);
    given.or_else(|| {
        let path = std::env::var_os("PATH")?;
        std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]).map(|d| d.join(name)).find(|p| p.is_file())
    })
}

/// Where Valkey is. Without it, which is no failure outside of CI since Debian has none, what becomes of
/// the test is said loudly.
pub fn valkey(otherwise: &str) -> Option<PathBuf> {
    let found = optional_program("valkey-server", "VALKEY_SERVER");
    if found.is_none() {
        assert!(std::env::var_os("CI").is_none(), "valkey-server is not installed, and CI must have it");
        let note = format!("\nIGNORED: no valkey-server (VALKEY_SERVER): {otherwise}\n");
        std::io::stderr().write_all(note.as_bytes()).expect("stderr is open");
    }
    found
}

pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("loopback has a free port").port()
}

/// A process that is killed when this is dropped.
pub struct Process(Child);

impl Process {
    pub fn spawn(command: &mut Command) -> Self {
        Self(command.stdin(Stdio::null()).spawn().unwrap_or_else(|error| panic!("{command:?}: {error}")))
    }

    pub fn id(&self) -> u32 {
        self.0.id()
    }

    pub fn kill_9(&mut self) {
        self.0.kill().expect("the process is ours");
        self.0.wait().expect("the process is ours");
    }

    pub fn is_running(&mut self) -> bool {
        matches!(self.0.try_wait(), Ok(None))
    }

    /// How it ended; `None` while it runs.
    pub fn status(&mut self) -> Option<ExitStatus> {
        self.0.try_wait().expect("the process is ours")
    }

    /// Sends a signal by its name, such as `STOP`.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").arg(format!("-{name}")).arg(self.id().to_string()).status();
        assert!(sent.is_ok_and(|status| status.success()), "kill -{name}");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// One server with its data in a directory of its own.
pub struct RedisServer {
    process: Mutex<Option<Process>>,
    directory: tempfile::TempDir,
    program: PathBuf,
    arguments: Vec<String>,
    pub port: u16,
    /// Beside `port`, which stays open for the test's own commands.
    pub tls_port: Option<u16>,
}

impl RedisServer {
    /// A server that writes every command to its log, so that `kill -9` loses nothing.
    pub fn start() -> Self {
        Self::with(&["--appendonly", "yes", "--appendfsync", "no"])
    }

    pub fn with(arguments: &[&str]) -> Self {
        Self::of(program("redis-server", "REDIS_SERVER"), arguments)
    }

    pub fn of(program: PathBuf, arguments: &[&str]) -> Self {
        Self::launch(program, |port, directory| {
            let port = port.to_string();
            let fixed = ["--save", "", "--bind", "127.0.0.1", "--dir", "."];
            let port = ["--port", &port].into_iter().take(if arguments.contains(&"--port") { 0 } else { 2 });
            let all = fixed.into_iter().chain(port).chain(arguments.iter().copied());
            all.map(|argument| argument.replace("{dir}", &directory.to_string_lossy())).collect()
        })
    }

    /// A Sentinel that watches a master; two of them must agree that it is down. `more` are settings
    /// as on the command line.
    pub fn sentinel(name: &str, master: u16, more: &[&str]) -> Self {
        let more = more.join(" ").replace(" --", "\n").replacen("--", "", 1);
        let mut sentinel = Self::launch(program("redis-server", "REDIS_SERVER"), |port, directory| {
            let settings = format!(
                "port {port}\nbind 127.0.0.1\nsentinel monitor {name} 127.0.0.1 {master} 2\n\
                 sentinel down-after-milliseconds {name} 500\nsentinel failover-timeout {name} 2000\n{more}\n"
            );
            std::fs::write(directory.join("sentinel.conf"), settings).expect("the directory is ours");
            vec!["sentinel.conf".into(), "--sentinel".into()]
        });
        sentinel.tls_port = tls_port(more.split_whitespace());
        sentinel
    }

    fn launch(program: PathBuf, arguments: impl Fn(u16, &Path) -> Vec<String>) -> Self {
        // Another process may take the port in between: then the server ends, and another is tried.
        for _ in 0..5 {
            let directory = tempfile::tempdir().expect("a temporary directory");
            let port = free_port();
            let arguments = arguments(port, directory.path());
            let tls_port = tls_port(arguments.iter().map(String::as_str));
            let process = Mutex::default();
            let server = Self { process, directory, program: program.clone(), arguments, port, tls_port };
            if server.run() {
                return server;
            }
        }
        panic!("{} does not start", program.display());
    }

    /// Starts the process and waits until it answers; false if it ended at once.
    fn run(&self) -> bool {
        self.run_until(&["eady to accept connections", "Sentinel ID is"], &[])
    }

    /// The same, until it logs one of these lines.
    fn run_until(&self, lines: &[&str], more: &[&str]) -> bool {
        let log = std::fs::File::options().create(true).append(true).open(self.path("log")).expect("the log opens");
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).args(more).current_dir(self.directory.path());
        let before = log.metadata().map_or(0, |log| log.len()) as usize;
        let errors = log.try_clone().expect("the log can be shared");
        let mut process = Process::spawn(command.stdout(log).stderr(errors));
        let ready = eventually("the server is ready", || {
            if !process.is_running() {
                return Some(false);
            }
            let log = std::fs::read(self.path("log")).ok()?;
            let last = String::from_utf8_lossy(&log[before..]);
            lines.iter().any(|line| last.contains(line)).then_some(true)
        });
        *self.process.lock().unwrap_or_else(PoisonError::into_inner) = Some(process);
        ready
    }

    /// What was given for a setting on the command line.
    pub fn argument(&self, name: &str) -> &str {
        let at = self.arguments.iter().position(|argument| argument == name).expect("it was given");
        &self.arguments[at + 1]
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// As the machine's power button does it to a process: no warning, no last words.
    pub fn kill_9(&self) {
        self.process.lock().unwrap_or_else(PoisonError::into_inner).take().expect("it runs").kill_9();
    }

    /// After [`RedisServer::kill_9`]: the same data, the same port.
    pub fn restart(&self) {
        assert!(self.run(), "the server does not start again");
    }

    /// The same, but each of its keys takes that long to be read, and nobody waits for it.
    pub fn restart_slowly(&self, each: Duration) {
        let delay = each.as_micros().to_string();
        let more = ["--key-load-delay", &delay, "--loading-process-events-interval-bytes", "1024"];
        assert!(self.run_until(&["Server initialized"], &more), "the server does not start again");
    }

    pub fn signal(&self, name: &str) {
        self.process.lock().unwrap_or_else(PoisonError::into_inner).as_ref().expect("it runs").signal(name);
    }

    /// Where stores, replicas and other nodes find it.
    pub fn public_port(&self) -> u16 {
        self.tls_port.unwrap_or(self.port)
    }

    /// A connection for the test's own commands.
    pub fn connection(&self) -> redis::Connection {
        self.try_connection().expect("the server answers")
    }

    fn try_connection(&self) -> redis::RedisResult<redis::Connection> {
        redis::Client::open(self.url()).expect("the URL is right").get_connection_with_timeout(PATIENCE)
    }

    /// Sends one command, words apart by spaces.
    pub fn ask<T: redis::FromRedisValue>(&self, words: &str) -> T {
        self.try_ask(words).unwrap_or_else(|error| panic!("{words}: {error}"))
    }

    /// The same, where the server may refuse it or hang up.
    pub fn try_ask<T: redis::FromRedisValue>(&self, words: &str) -> redis::RedisResult<T> {
        let mut words = words.split_whitespace();
        let mut command = redis::cmd(words.next().expect("a command has a name"));
        words.for_each(|word| {
            command.arg(word);
        });
        command.query(&mut self.try_connection()?)
    }
}

fn tls_port<'a>(mut words: impl Iterator<Item = &'a str>) -> Option<u16> {
    words.find(|word| word.trim_start_matches("--") == "tls-port")?;
    words.next()?.parse().ok()
}

/// Something costly that tests of one file share: started by the first, stopped with the last.
pub struct Shared<T>(Mutex<Weak<T>>);

impl<T> Shared<T> {
    pub const fn new() -> Self {
        Self(Mutex::new(Weak::new()))
    }

    pub fn get(&self, start: impl FnOnce() -> T) -> Arc<T> {
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        slot.upgrade().unwrap_or_else(|| {
            let started = Arc::new(start());
            *slot = Arc::downgrade(&started);
            started
        })
    }
}
