//! The providers' own SDKs as clients of two gateways that share one Redis, as pods would.
//!
//! `tests/sdk/install.sh` installs them. Without them, or without Redis, a test fails where `CI` is
//! set, and says loudly that it did nothing elsewhere.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::{Gateway, root};
use crate::servers::{RedisServer, Shared, optional_program};

/// What all scripts share; each has conversations of its own.
struct Pods {
    gateways: [Gateway; 2],
    _redis: RedisServer,
}

static PODS: Shared<Pods> = Shared::new();

fn pods() -> Pods {
    let redis = RedisServer::start();
    let start = || Gateway::start(&["--upstream", "demo:", "--store", &redis.url()]);
    Pods { gateways: [start(), start()], _redis: redis }
}

fn missing(what: &str) {
    assert!(std::env::var_os("CI").is_none(), "{what} is missing: run tests/all.sh");
    // Not eprintln: the harness would swallow it.
    let _ = writeln!(std::io::stderr(), "IGNORED: {what} is missing, nothing was tested. Run tests/all.sh.");
}

/// Runs a script with the addresses of both gateways; it prints `ok` when all held.
fn run(script: &str) {
    let sdk = root().join("tests/sdk");
    let (program, installed) = match Path::new(script).extension().and_then(|extension| extension.to_str()) {
        Some("py") => (sdk.join(".venv/bin/python"), sdk.join(".venv/bin/python")),
        _ => (PathBuf::from("node"), sdk.join("node_modules/openai")),
    };
    if !installed.exists() {
        return missing(if script.ends_with("py") { "the Python SDKs" } else { "the JavaScript SDKs" });
    }
    if optional_program("redis-server", "REDIS_SERVER").is_none() {
        return missing("redis-server");
    }
    let pods = PODS.get(pods);
    let output = Command::new(program)
        .arg(sdk.join(script))
        .args(pods.gateways.iter().map(|gateway| &gateway.url))
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
