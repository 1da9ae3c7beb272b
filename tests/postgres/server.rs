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
        Self::prepared(|_| settings.iter().map(|s| (*s).to_owned()).collect())
    }

    /// With settings that need files, which are put into its directory first.
    pub(crate) fn prepared(prepare: impl FnOnce(&Path) -> Vec<String>) -> Self {
        let mut server = Self::create();
        let initdb = ["-A", "trust", "-U", "postgres", "-E", "UTF8", "--no-locale", "-N", "-D"];
        server.run_ok("initdb", &[&initdb[..], &[&server.data()]].concat());
        server.settings = prepare(&server.dir);
        server.launch();
        server
    }

    /// A standby of another server.
    pub(crate) fn standby_of(primary: &Server) -> Self {
        let server = Self::create();
        let (port, data) = (primary.port.to_string(), server.data());
        server.run_ok("pg_basebackup", &["-h", "127.0.0.1", "-p", &port, "-U", "postgres", "-R", "-D", &data]);
        server.launch();
        server
    }

    /// A directory, before there is a server in it.
    fn create() -> Self {
        let dir = tempfile::Builder::new().prefix("postgres-").tempdir().unwrap().keep();
        std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o755)).unwrap();
        let server = Self { dir, port: free_port(), settings: Vec::new(), keeper: Mutex::default() };
        std::fs::create_dir(server.data()).unwrap();
        std::fs::create_dir(server.sockets()).unwrap();
        for dir in [server.data(), server.sockets()] {
            std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o700)).unwrap();
            give(Path::new(&dir));
        }
        std::fs::set_permissions(server.sockets(), std::fs::Permissions::from_mode(0o755)).unwrap();
        server
    }

    pub(crate) fn data(&self) -> String {
        self.dir.join("data").display().to_string()
    }

    pub(crate) fn sockets(&self) -> String {
        self.dir.join("sockets").display().to_string()
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
        std::fs::remove_file(self.dir.join("keep")).ok();
        let mut arguments = vec!["-D".to_owned(), self.data(), "-k".to_owned(), self.sockets()];
        arguments.extend([
            "-p".to_owned(),
            self.port.to_string(),
            "-c".to_owned(),
            "listen_addresses=127.0.0.1".to_owned(),
        ]);
        for setting in &self.settings {
            arguments.extend(["-c".to_owned(), setting.clone()]);
        }
        *self.keeper.lock().unwrap() = Some(keep(&self.dir, &program("postgres"), &arguments));
        let deadline = Instant::now() + Duration::from_secs(60);
        while !self.run("pg_isready", &["-q", "-h", "127.0.0.1", "-p", &self.port.to_string()]).status.success() {
            assert!(Instant::now() < deadline, "the server did not start: {}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// kill -9, as a crash would; a server that has ended by itself is left at that.
    pub(crate) fn kill(&self) {
        std::fs::write(self.dir.join("keep"), "").unwrap();
        if let Ok(pids) = std::fs::read_to_string(format!("{}/postmaster.pid", self.data())) {
            let killed = Command::new("kill").arg("-9").args(pids.lines().next()).status().unwrap().success();
            assert!(killed || self.log().contains("database system is shut down"), "kill -9: {pids}");
        }
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

/// Runs a program until the returned child's standard input ends, which it does when this process does,
/// even by SIGKILL. Then the directory goes, unless it holds a file `keep`.
fn keep(dir: &Path, program: &Path, arguments: &[String]) -> Child {
    const KEEPER: &str = r#"dir="$1"; shift; "$@" & pid=$!; cat >/dev/null; kill -QUIT $pid 2>/dev/null; kill -TERM $pid 2>/dev/null; wait $pid
        [ -e "$dir/keep" ] || rm -rf "$dir""#;
    let mut command = Command::new("sh");
    command.args(["-c", KEEPER, "sh"]).arg(dir);
    if is_root() {
        command.args(["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]);
    }
    let log = std::fs::OpenOptions::new().create(true).append(true).open(dir.join("log")).unwrap();
    command.arg(program).args(arguments).stdin(Stdio::piped()).stdout(log.try_clone().unwrap()).stderr(log);
    command.spawn().unwrap()
}

/// Gives a file to the user that runs the servers.
pub(crate) fn give(path: &Path) {
    if is_root() {
        assert!(Command::new("chown").arg("postgres:postgres").arg(path).status().unwrap().success());
    }
}

/// A PgBouncer in transaction mode, with fewer connections to the server than any store has to it.
pub(crate) struct Bouncer {
    port: u16,
    keeper: Child,
}

impl Bouncer {
    pub(crate) fn start(server: &Server) -> Self {
        let dir = tempfile::Builder::new().prefix("pgbouncer-").tempdir().unwrap().keep();
        std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o755)).unwrap();
        let port = free_port();
        let users = dir.join("users");
        std::fs::write(&users, "\"postgres\" \"\"\n").unwrap();
        let ini = dir.join("pgbouncer.ini");
        let text = format!(
            "[databases]\npostgres = host=127.0.0.1 port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
             auth_type = trust\nauth_file = {}\npool_mode = transaction\ndefault_pool_size = 3\nmax_client_conn = 500\n\
             unix_socket_dir =\n",
            server.port,
            users.display()
        );
        std::fs::write(&ini, text).unwrap();
        let path = PathBuf::from("/usr/sbin/pgbouncer");
        let path = if path.exists() { path } else { missing("PgBouncer", "pgbouncer") };
        let keeper = keep(&dir, &path, &[ini.display().to_string()]);
        let deadline = Instant::now() + Duration::from_secs(20);
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < deadline, "PgBouncer did not start");
            std::thread::sleep(Duration::from_millis(10));
        }
        Self { port, keeper }
    }

    pub(crate) fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }
}

impl Drop for Bouncer {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        self.keeper.wait().ok();
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
