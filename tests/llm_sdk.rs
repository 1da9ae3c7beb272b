//! The providers' own SDKs as clients of two gateways that share one store.
//!
//! `tests/sdk/install.sh` installs them. Without them a test fails where `CI` is set, and says loudly
//! that it did nothing elsewhere.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The gateway, built by the cargo that runs this test.
fn gateway() -> &'static Path {
    static GATEWAY: OnceLock<PathBuf> = OnceLock::new();
    GATEWAY.get_or_init(|| {
        let built = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "--all-features", "--example", "gateway"])
            .current_dir(root())
            .status()
            .expect("cargo runs");
        assert!(built.success(), "the gateway builds");
        let deps = std::env::current_exe().expect("this test has a path");
        deps.ancestors().nth(3).expect("target/PROFILE/deps/test").join("debug/examples/gateway")
    })
}

/// A process that ends with the test.
struct Gateway {
    child: Child,
    url: String,
}

impl Gateway {
    fn start(store: &str) -> Self {
        let mut child = Command::new(gateway())
            .args(["--upstream", "demo:", "--listen", "127.0.0.1:0", "--store", store])
            .env("RUST_LOG", "info")
            .stderr(Stdio::piped())
            .spawn()
            .expect("the gateway starts");
        let mut log = BufReader::new(child.stderr.take().expect("piped"));
        let mut line = String::new();
        let url = loop {
            line.clear();
            assert!(log.read_line(&mut line).expect("readable") > 0, "the gateway ended before it listened");
            if let Some((_, rest)) = line.split_once("address=") {
                break format!("http://{}", rest.split_whitespace().next().expect("an address"));
            }
        };
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        Self { child, url }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn missing(what: &str) {
    assert!(std::env::var_os("CI").is_none(), "{what} is missing: run tests/sdk/install.sh");
    eprintln!("IGNORED: {what} is missing, nothing was tested. Run tests/sdk/install.sh.");
}

/// Runs a script against two gateways on one file.
fn run(script: &str) {
    let folder = tempfile::tempdir().expect("a folder");
    run_on(script, &format!("sqlite:{}", folder.path().join("chat.db").display()));
}

/// Runs a script with the addresses of two gateways on one store; it prints `ok` when all held.
fn run_on(script: &str, store: &str) {
    let sdk = root().join("tests/sdk");
    let (program, installed) = match Path::new(script).extension().and_then(|extension| extension.to_str()) {
        Some("py") => (sdk.join(".venv/bin/python"), sdk.join(".venv/bin/python")),
        _ => (PathBuf::from("node"), sdk.join("node_modules/openai")),
    };
    if !installed.exists() {
        return missing(if script.ends_with("py") { "the Python SDKs" } else { "the JavaScript SDKs" });
    }
    let gateways = [Gateway::start(store), Gateway::start(store)];
    let output = Command::new(program)
        .arg(sdk.join(script))
        .args(gateways.iter().map(|gateway| &gateway.url))
        .env("NO_PROXY", "127.0.0.1")
        .output()
        .expect("the interpreter runs");
    let (said, complained) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.ends_with("ok\n"), "{script}: {said}\n{complained}");
}

#[test]
fn openai_python_chat() {
    run("openai_chat.py");
}

#[test]
fn openai_python_responses() {
    run("openai_responses.py");
}

#[test]
fn openai_javascript() {
    run("openai.cjs");
}

#[test]
fn anthropic_python() {
    run("anthropic_messages.py");
}

#[test]
fn anthropic_javascript() {
    run("anthropic.cjs");
}

#[test]
fn ollama_python() {
    run("ollama_chat.py");
}

#[test]
fn google_genai_python() {
    run("google_genai.py");
}

/// A Redis of the test's own, which ends with it.
struct Redis {
    child: Child,
    url: String,
    _folder: tempfile::TempDir,
}

impl Redis {
    /// `None` where there is no server to start.
    fn start() -> Option<Self> {
        let folder = tempfile::tempdir().expect("a folder");
        let port = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port();
        let mut child = Command::new("redis-server")
            .args(["--bind", "127.0.0.1", "--appendonly", "yes", "--port", &port.to_string(), "--dir"])
            .arg(folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .ok()?;
        let mut log = BufReader::new(child.stdout.take().expect("piped"));
        let mut line = String::new();
        while !line.contains("Ready to accept connections") {
            line.clear();
            assert!(log.read_line(&mut line).expect("readable") > 0, "Redis ended before it was ready");
        }
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        Some(Self { child, url: format!("redis://127.0.0.1:{port}"), _folder: folder })
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The same on one Redis, as pods would share it.
#[test]
fn all_on_one_redis() {
    let Some(redis) = Redis::start() else { return missing("redis-server") };
    let scripts =
        ["openai_chat.py", "openai_responses.py", "anthropic_messages.py", "ollama_chat.py", "google_genai.py"];
    for script in scripts.into_iter().chain(["openai.cjs", "anthropic.cjs"]) {
        run_on(script, &redis.url);
    }
}
