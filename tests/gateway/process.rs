//! The gateway's process, and a client for it.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};

use crate::servers::{Process, eventually};

pub(crate) const CHAT: &str = "/v1/chat/completions";
const PATIENCE: Duration = Duration::from_secs(30);

/// Fails the test when it takes too long.
pub(crate) async fn patient<T>(what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work).await.unwrap_or_else(|_| panic!("{what}: not within {PATIENCE:?}"))
}

pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The example's binary, built by the cargo that runs this test.
pub(crate) fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
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
pub(crate) struct Gateway {
    process: Process,
    folder: tempfile::TempDir,
    pub(crate) url: String,
}

impl Gateway {
    pub(crate) fn start(options: &[&str]) -> Self {
        Self::with(options, &[])
    }

    /// With these variables in its environment.
    pub(crate) fn with(options: &[&str], variables: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let log = std::fs::File::create(folder.path().join("log")).expect("the folder is ours");
        let mut command = Command::new(binary());
        command.args(["--listen", "127.0.0.1:0"]).args(options);
        command.env("RUST_LOG", "info").envs(variables.iter().copied()).stdout(Stdio::null()).stderr(log);
        let process = Process::spawn(&mut command);
        let mut gateway = Self { process, folder, url: String::new() };
        gateway.url = eventually("the gateway listens", || {
            let log = gateway.log();
            let address = log.split_once("address=").and_then(|(_, rest)| rest.split_once(' ')).map(|(it, _)| it);
            assert!(address.is_some() || gateway.process.is_running(), "it ended: {log}");
            address.map(|address| format!("http://{address}"))
        });
        gateway
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    pub(crate) fn kill_9(&mut self) {
        self.process.kill_9();
    }

    pub(crate) fn terminate(&self) {
        self.process.signal("TERM");
    }

    /// How it ended, once it has.
    pub(crate) fn ended(&mut self) -> ExitStatus {
        eventually("the gateway ends", || self.process.status())
    }

    /// A request as a client sends it: the answer's body is still to be read.
    pub(crate) async fn open(&self, path: &str, headers: &[(&str, &str)], body: &Value) -> Response<Incoming> {
        let method = if body.is_null() { "GET" } else { "POST" };
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.url));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let body = if body.is_null() { Bytes::new() } else { body.to_string().into() };
        let request = request.header("content-type", "application/json").body(Full::new(body)).expect("a request");
        let client = Client::builder(TokioExecutor::new()).build_http();
        patient("the head", client.request(request)).await.expect("the gateway answers")
    }

    pub(crate) async fn send(&self, path: &str, headers: &[(&str, &str)], body: &Value) -> Answer {
        let (head, body) = self.open(path, headers, body).await.into_parts();
        let body = patient("the body", body.collect()).await.expect("it comes to its end").to_bytes();
        Answer { status: head.status, headers: head.headers, body }
    }

    /// What the model says to this in Ada's conversation `c`.
    pub(crate) async fn says(&self, text: &str) -> String {
        let answer = self.send(CHAT, &ADA, &question(text)).await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}: {}", self.log());
        answer.said()
    }
}

pub(crate) const ADA: [(&str, &str); 2] = [("x-user-id", "ada"), ("x-conversation-id", "c")];

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub(crate) fn said(&self) -> String {
        let said = self.json()["choices"][0]["message"]["content"].as_str().map(str::to_owned);
        said.unwrap_or_else(|| panic!("it says nothing: {self:?}"))
    }
}

pub(crate) fn question(text: &str) -> Value {
    json!({"model": "m", "messages": [{"role": "user", "content": text}]})
}

pub(crate) fn streamed(text: &str) -> Value {
    json!({"model": "m", "stream": true, "messages": [{"role": "user", "content": text}]})
}
