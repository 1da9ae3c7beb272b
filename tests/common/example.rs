//! The example server as its users meet it: a process of its own, real sockets.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::OnceLock;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

const PATIENCE: Duration = Duration::from_secs(20);

/// The example's binary, built by the cargo that runs this test.
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        let built = std::process::Command::new(env!("CARGO"))
            .args(["build", "--quiet", "--example", "server"])
            // As this test was built, or cargo would build everything once more.
            .args(features())
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .status()
            .expect("cargo runs");
        assert!(built.success(), "the example builds");
        let deps = std::env::current_exe().expect("this test has a path");
        let target = deps.ancestors().nth(3).expect("target/PROFILE/deps/test");
        target.join("debug/examples/server")
    })
}

fn features() -> Vec<&'static str> {
    let enabled = [
        ("cache", cfg!(feature = "cache")),
        ("dynamodb", cfg!(feature = "dynamodb")),
        ("postgres", cfg!(feature = "postgres")),
        ("redis", cfg!(feature = "redis")),
        ("resilience", cfg!(feature = "resilience")),
    ];
    if enabled.iter().all(|(_, enabled)| *enabled) {
        return vec!["--all-features"];
    }
    enabled.iter().filter(|(_, enabled)| *enabled).flat_map(|(name, _)| ["--features", name]).collect()
}

pub async fn patient<T>(what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work).await.unwrap_or_else(|_| panic!("{what}: not within {PATIENCE:?}"))
}

/// A server process, killed when dropped.
pub struct Server {
    pub child: Child,
    pub address: SocketAddr,
    pub log: tokio::sync::mpsc::UnboundedReceiver<String>,
    pub client: Client<HttpConnector, Full<Bytes>>,
}

impl Server {
    pub async fn start(store: &str, more: &[&str]) -> Self {
        Self::start_with(store, more, &[]).await
    }

    /// With these variables in its environment.
    pub async fn start_with(store: &str, more: &[&str], environment: &[(&str, &str)]) -> Self {
        let mut child = Command::new(binary())
            .args(["--listen", "127.0.0.1:0", "--store", store])
            .args(more)
            .env("OPENAI_API_KEY", "canary-key")
            .envs(environment.iter().copied())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the server starts");
        let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
        let (sender, mut log) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                let _ = sender.send(line);
            }
        });
        let address = patient("the start", async {
            loop {
                let line = log.recv().await.expect("the server says where it listens");
                if let Some((_, rest)) = line.split_once("address=") {
                    let address = rest.split_whitespace().next().expect("an address");
                    return address.parse().expect("an address");
                }
            }
        })
        .await;
        Self { child, address, log, client: Client::builder(TokioExecutor::new()).build_http() }
    }

    /// `None` when the server is not there or breaks off.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: &Value,
    ) -> Option<(StatusCode, Bytes)> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.address))
            .header("content-type", "application/json");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let body = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
        let response = self.client.request(request.body(Full::new(body)).expect("a request")).await.ok()?;
        let status = response.status();
        Some((status, response.into_body().collect().await.ok()?.to_bytes()))
    }

    /// One turn of Ada's conversation `c`.
    pub async fn chat(&self, message: &str) -> Option<Value> {
        let (status, body) = self.send(Method::POST, "/chat", &ADA, &json!({"message": message})).await?;
        (status == StatusCode::OK).then(|| serde_json::from_slice(&body).expect("JSON"))
    }

    pub async fn reply(&self, message: &str) -> String {
        let reply = patient("a reply", self.chat(message)).await.expect("a whole reply");
        reply["reply"].as_str().expect("text").to_owned()
    }

    pub async fn history(&self, query: &str) -> Vec<Value> {
        let path = format!("/history{query}");
        let history = self.send(Method::GET, &path, &ADA, &Value::Null);
        let (status, body) = patient("the history", history).await.expect("a whole history");
        assert_eq!(status, StatusCode::OK);
        let history: Value = serde_json::from_slice(&body).expect("JSON");
        history["turns"].as_array().expect("a list").clone()
    }
}

pub const ADA: [(&str, &str); 2] = [("x-user-id", "ada"), ("x-conversation-id", "c")];

/// What each turn's user said; asserts that every turn is whole.
pub fn questions(turns: &[Value]) -> Vec<String> {
    let whole = |turn: &Value| {
        assert_eq!(turn["status"], "complete", "{turn}");
        let messages = turn["messages"].as_array().expect("a list");
        assert_eq!((messages.len(), &messages[1]["role"]), (2, &json!("assistant")), "{turn}");
        messages[0]["content"].as_str().expect("text").to_owned()
    };
    turns.iter().map(whole).collect()
}

/// Two processes on one store: turns, `kill -9` under load, and what is there afterwards.
pub async fn remembers_through_a_kill(store: &str, environment: &[(&str, &str)]) {
    let start = async || Server::start_with(store, &[], environment).await;
    let (mut first, second) = (start().await, start().await);
    assert_eq!(first.reply("My name is Ada.").await, "Nice to meet you, Ada. This is turn 1.");
    assert_eq!(second.reply("Who am I?").await, "Your name is Ada. This is turn 2.");
    let once = [ADA[0], ADA[1], ("idempotency-key", "\"once\"")];
    let ask_once = async |server: &Server| {
        let answer = server.send(Method::POST, "/chat", &once, &json!({"message": "once"})).await;
        serde_json::from_slice::<Value>(&answer.expect("a whole reply").1).expect("JSON")["reply"].clone()
    };
    let reply = ask_once(&first).await;

    // The process ends in the middle of whatever it does; what it acknowledged is there.
    let mut acknowledged = Vec::new();
    let mut killer = None;
    loop {
        let message = format!("message {}", acknowledged.len());
        if acknowledged.len() == 5 && killer.is_none() {
            let pid = first.child.id().expect("it runs").to_string();
            killer =
                Some(Command::new("sh").args(["-c", &format!("sleep 0.05; kill -9 {pid}")]).spawn().expect("a shell"));
        }
        let Some(_) = patient("a reply", first.chat(&message)).await else { break };
        acknowledged.push(message);
    }
    assert!(acknowledged.len() >= 5, "the kill came in the middle: {}", acknowledged.len());
    first.child.wait().await.expect("it is gone");
    killer.expect("it was started").wait().await.expect("it ends");

    let third = start().await;
    let said = questions(&third.history("").await);
    assert_eq!(said[..3], ["My name is Ada.", "Who am I?", "once"]);
    let rest = &said[3..];
    assert!(rest.starts_with(&acknowledged) && rest.len() <= acknowledged.len() + 1, "{rest:?}");
    assert_eq!(questions(&second.history("").await), said);
    assert_eq!(ask_once(&third).await, reply, "a request that is sent again is answered as before");
    assert_eq!(third.reply("Who am I?").await, format!("Your name is Ada. This is turn {}.", said.len() + 1));
    let forgotten = third.send(Method::DELETE, "/history", &ADA, &Value::Null).await.expect("an answer");
    assert_eq!(forgotten.0, StatusCode::NO_CONTENT);
    assert!(second.history("").await.is_empty());
}
