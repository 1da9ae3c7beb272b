//! A PostgreSQL of this test run's own.

use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{LazyLock, Mutex};
use std::time::{Duration, Instant};

use tower_session_memory::store::PostgresOptions;

/// The server that most tests share, each in a schema of its own.
pub(crate) static SHARED: LazyLock<Server> = LazyLock::new(|| Server::start(&[]));

/// A running server. It ends when this is dropped, or when the test process does, however it ends: its
/// keeper waits for the end of a pipe.
pub(crate) struct Server {
    dir: PathBuf,
    port: u16,
    settings: Vec<String>,
    keeper: Mutex<Option<Child>>,
}

impl Server {
    pub(crate) fn start(settings: &[&str]) -> Self {
        let server = Self::create(settings);
        let initdb = ["-A", "trust", "-U", "postgres", "-E", "UTF8", "--no-locale", "-N", "-D"];
        server.run_ok("initdb", &[&initdb[..], &[&server.data()]].concat());
        server.launch();
        server
    }

    /// A standby of another server.
    pub(crate) fn standby_of(primary: &Server) -> Self {
        let server = Self::create(&[]);
        let (port, data) = (primary.port.to_string(), server.data());
        server.run_ok("pg_basebackup", &["-h", "127.0.0.1", "-p", &port, "-U", "postgres", "-R", "-D", &data]);
        server.launch();
        server
    }

    /// A directory, before there is a server in it.
    fn create(settings: &[&str]) -> Self {
        let dir = tempfile::Builder::new().prefix("postgres-").tempdir().unwrap().keep();
        std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o755)).unwrap();
        let settings = settings.iter().map(|s| (*s).to_owned()).collect();
        let server = Self { dir, port: free_port(), settings, keeper: Mutex::default() };
        std::fs::create_dir(server.data()).unwrap();
        std::fs::create_dir(server.sockets()).unwrap();
        for dir in [server.data(), server.sockets()] {
            std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o700)).unwrap();
            server.give(Path::new(&dir));
        }
        std::fs::set_permissions(server.sockets(), std::fs::Permissions::from_mode(0o755)).unwrap();
        server
    }

    /// Gives a file to the user that runs the server.
    pub(crate) fn give(&self, path: &Path) {
        if is_root() {
            assert!(Command::new("chown").arg("postgres:postgres").arg(path).status().unwrap().success());
        }
    }

    pub(crate) fn data(&self) -> String {
        self.dir.join("data").display().to_string()
    }

    pub(crate) fn sockets(&self) -> String {
        self.dir.join("sockets").display().to_string()
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn url(&self) -> String {
        self.url_of("postgres", "postgres")
    }

    pub(crate) fn url_of(&self, user: &str, database: &str) -> String {
        format!("postgres://{user}@127.0.0.1:{}/{database}", self.port)
    }

    /// The options for a schema of this name.
    pub(crate) fn options(&self, schema: &str) -> PostgresOptions {
        PostgresOptions::new(&self.url()).unwrap().schema(schema).unwrap()
    }

    /// Starts the server on its data and waits until it answers.
    pub(crate) fn launch(&self) {
        // The keeper ends with this process, even by SIGKILL: then its standard input ends.
        const KEEPER: &str = r#"dir="$1"; shift; "$@" & pid=$!; cat >/dev/null; kill -QUIT $pid 2>/dev/null; wait $pid
            [ -e "$dir/keep" ] || rm -rf "$dir""#;
        std::fs::remove_file(self.dir.join("keep")).ok();
        let mut command = Command::new("sh");
        command.args(["-c", KEEPER, "sh"]).arg(&self.dir);
        if is_root() {
            command.args(["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]);
        }
        command.arg(program("postgres")).args(["-D", &self.data(), "-k", &self.sockets(), "-p"]);
        command.arg(self.port.to_string()).args(["-c", "listen_addresses=127.0.0.1"]);
        for setting in &self.settings {
            command.args(["-c", setting]);
        }
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.dir.join("log")).unwrap();
        command.stdin(Stdio::piped()).stdout(log.try_clone().unwrap()).stderr(log);
        *self.keeper.lock().unwrap() = Some(command.spawn().unwrap());
        let deadline = Instant::now() + Duration::from_secs(60);
        while !self.run("pg_isready", &["-q", "-h", "127.0.0.1", "-p", &self.port.to_string()]).status.success() {
            assert!(Instant::now() < deadline, "the server did not start: {}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// kill -9, as a crash would.
    pub(crate) fn kill(&self) {
        std::fs::write(self.dir.join("keep"), "").unwrap();
        let pids = std::fs::read_to_string(format!("{}/postmaster.pid", self.data())).unwrap();
        let pid = pids.lines().next().unwrap();
        assert!(Command::new("kill").args(["-9", pid]).status().unwrap().success());
        if let Some(mut keeper) = self.keeper.lock().unwrap().take() {
            drop(keeper.stdin.take());
            keeper.wait().unwrap();
        }
        // Its backends notice by themselves; until then the data is in use.
        let deadline = Instant::now() + Duration::from_secs(20);
        let in_use = || {
            let processes = Command::new("pgrep").args(["-f", &self.data()]).output().unwrap();
            processes.status.success()
        };
        while in_use() {
            assert!(Instant::now() < deadline, "backends outlive the server");
            std::thread::sleep(Duration::from_millis(10));
        }
        std::fs::remove_file(format!("{}/postmaster.pid", self.data())).ok();
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    /// Runs a statement or a script through psql; unaligned rows, columns by `|`.
    pub(crate) fn psql(&self, sql: &str, variables: &[(&str, &str)]) -> Result<String, String> {
        let mut command = Command::new(program("psql"));
        command.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", "postgres"]);
        command.args(["-h", "127.0.0.1", "-p", &self.port.to_string()]);
        for (name, value) in variables {
            command.arg("-v").arg(format!("{name}={value}"));
        }
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(sql.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        if output.status.success() {
            Ok(String::from_utf8(output.stdout).unwrap().trim_end().to_owned())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    }

    fn run_ok(&self, name: &str, arguments: &[&str]) {
        let output = self.run(name, arguments);
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn run(&self, name: &str, arguments: &[&str]) -> Output {
        let mut command = match is_root() {
            true => {
                let mut command = Command::new("setpriv");
                command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]).arg(program(name));
                command
            }
            false => Command::new(program(name)),
        };
        command.args(arguments).current_dir("/").output().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut keeper) = self.keeper.lock().unwrap().take() {
            drop(keeper.stdin.take());
            keeper.wait().ok();
        }
    }
}

pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// PostgreSQL refuses to run as root, so then it runs as its own user.
pub(crate) fn is_root() -> bool {
    Command::new("id").arg("-u").output().unwrap().stdout == b"0\n"
}

/// Where a program of the newest installed PostgreSQL is.
fn program(name: &str) -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> =
        versions.map(|version| version.path().join("bin").join(name)).filter(|path| path.exists()).collect();
    found.sort();
    found.pop().unwrap_or_else(|| missing("PostgreSQL", "postgresql"))
}

/// Without its server a test proves nothing: a failure where `CI` is set, and elsewhere said loudly.
pub(crate) fn missing(what: &str, package: &str) -> ! {
    let ci = std::env::var_os("CI").is_some();
    let word = if ci { "FAILED" } else { "IGNORED" };
    let line = format!("\n{word}: {what} is not installed (Debian package {package}); nothing was tested here\n");
    // Past the capture of the test harness.
    std::io::stderr().write_all(line.as_bytes()).ok();
    std::process::exit(if ci { 1 } else { 0 })
}
