//! The example server as its users meet it: a process of its own, real sockets, one SQLite file.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use tokio::process::Command;

#[allow(dead_code, unreachable_pub, reason = "this test binary uses its own part")]
#[path = "common/example.rs"]
mod example;

use example::{ADA, Server, binary, patient, questions};

fn sqlite(directory: &tempfile::TempDir) -> String {
    format!("sqlite:{}", directory.path().join("chat.db").display())
}

#[tokio::test]
async fn memory_survives_a_restart_and_a_kill() {
    let directory = tempfile::tempdir().unwrap();
    let mut server = Server::start(&sqlite(&directory), &[]).await;
    assert_eq!(server.reply("What is my name?").await, "You have not told me your name. This is turn 1.");
    assert_eq!(server.reply("My name is Ada.").await, "Nice to meet you, Ada. This is turn 2.");
    server.reply("Tell me something.").await;
    server.child.kill().await.unwrap();
    let server = Server::start(&sqlite(&directory), &[]).await;
    assert_eq!(server.reply("Who am I?").await, "Your name is Ada. This is turn 4.");
}

#[tokio::test]
async fn two_processes_on_one_file_take_turns() {
    let directory = tempfile::tempdir().unwrap();
    let servers = [Server::start(&sqlite(&directory), &[]).await, Server::start(&sqlite(&directory), &[]).await];
    for turn in 1..=10 {
        let reply = servers[turn % 2].reply(&format!("message {turn}")).await;
        assert!(reply.ends_with(&format!("This is turn {turn}.")), "{reply}");
        if turn > 1 {
            assert!(reply.contains(&format!("before that \"message {}\"", turn - 1)), "{reply}");
        }
    }
    let seen = [servers[0].history("").await, servers[1].history("").await];
    assert_eq!(seen[0], seen[1]);
    assert_eq!(questions(&seen[0]), (1..=10).map(|turn| format!("message {turn}")).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_kill_in_the_middle_of_load_loses_no_turn_whose_response_was_whole() {
    let directory = tempfile::tempdir().unwrap();
    let servers =
        Arc::new([Server::start(&sqlite(&directory), &[]).await, Server::start(&sqlite(&directory), &[]).await]);
    let (acknowledged, mut seen) = tokio::sync::mpsc::unbounded_channel();
    let mut clients = tokio::task::JoinSet::new();
    for client in 0..8 {
        let (servers, acknowledged) = (servers.clone(), acknowledged.clone());
        clients.spawn(async move {
            for turn in 0..25 {
                let message = format!("{client}/{turn}");
                if servers[client % 2].chat(&message).await.is_some() {
                    let _ = acknowledged.send(message);
                }
            }
        });
    }
    drop(acknowledged);
    let mut whole = HashSet::new();
    while let Some(message) = patient("the load", seen.recv()).await {
        whole.insert(message);
        if whole.len() == 40 {
            let pid = servers[0].child.id().expect("it runs").to_string();
            assert!(
                std::process::Command::new("sh").args(["-c", &format!("kill -9 {pid}")]).status().unwrap().success()
            );
        }
    }
    while clients.join_next().await.is_some() {}
    assert!(whole.len() >= 100, "the other server went on: {}", whole.len());
    assert!(whole.len() < 200, "the kill came in the middle");

    let stored = questions(&servers[1].history("").await);
    let distinct: HashSet<_> = stored.iter().cloned().collect();
    assert_eq!(distinct.len(), stored.len(), "a turn is there twice");
    let lost: Vec<_> = whole.difference(&distinct).collect();
    assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
    // Each client's turns stand in the order in which it sent them.
    for client in 0..8 {
        let own: Vec<usize> =
            stored.iter().filter_map(|said| said.strip_prefix(&format!("{client}/"))?.parse().ok()).collect();
        assert!(own.is_sorted(), "{own:?}");
    }
}

#[tokio::test]
async fn fifty_concurrent_turns_are_all_kept_whole_and_in_order() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(&sqlite(&directory), &[]).await;
    let mut told = HashMap::new();
    // The second fifty begin when the first are acknowledged.
    for wave in 0..2 {
        let turns = futures_util::stream::iter(wave * 50..(wave + 1) * 50)
            .map(async |turn| {
                let question = format!("message {turn}");
                let reply = server.chat(&question).await.expect("a whole reply");
                (question, reply["reply"].as_str().expect("text").to_owned())
            })
            .buffer_unordered(50);
        told.extend(patient("the turns", turns.collect::<Vec<_>>()).await);
    }
    let history = server.history("").await;
    let stored = questions(&history);
    assert_eq!((stored.len(), told.len()), (100, 100));
    for (place, turn) in history.iter().enumerate() {
        // Whole: the question with the very reply that its client was given.
        let reply = turn["messages"][1]["content"].as_str().expect("text");
        assert_eq!(reply, told[&stored[place]], "{}", stored[place]);
        // In order: the model says how many turns it saw, and which was the last; these are before it, in
        // the same order now as then.
        let (rest, number) = reply.trim_end_matches('.').rsplit_once(' ').expect("words");
        let seen = number.parse::<usize>().expect("the number of the turn") - 1;
        assert!(seen <= place, "turn {place} saw {seen}");
        match seen {
            0 => assert!(!rest.contains("before that"), "{reply}"),
            _ => assert!(rest.contains(&format!("before that \"{}\"", stored[seen - 1])), "{reply}"),
        }
    }
    let (first, second) = stored.split_at(50);
    let of_wave = |question: &String| question["message ".len()..].parse::<usize>().expect("a number") / 50;
    assert!(first.iter().all(|question| of_wave(question) == 0), "{first:?}");
    assert!(second.iter().all(|question| of_wave(question) == 1), "{second:?}");
}

#[tokio::test]
async fn a_request_sent_twice_is_one_turn_with_one_reply() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(&sqlite(&directory), &[]).await;
    let headers = [ADA[0], ADA[1], ("idempotency-key", "\"once\"")];
    let body = json!({"message": "hello"});
    let first = server.send(Method::POST, "/chat", &headers, &body).await.unwrap();
    server.reply("something else").await;
    let again = server.send(Method::POST, "/chat", &headers, &body).await.unwrap();
    let reply = |(_, body): &(StatusCode, Bytes)| serde_json::from_slice::<Value>(body).unwrap()["reply"].clone();
    assert_eq!(reply(&first), reply(&again));
    let streamed = server.send(Method::POST, "/chat/stream", &headers, &body).await.unwrap();
    let streamed = String::from_utf8(streamed.1.to_vec()).unwrap();
    assert!(streamed.contains(first_words(&reply(&first))) && streamed.ends_with("data: [DONE]\n\n"), "{streamed}");
    assert_eq!(questions(&server.history("").await), ["hello", "something else"]);
}

fn first_words(reply: &Value) -> &str {
    reply.as_str().and_then(|reply| reply.split(' ').next()).expect("text")
}

#[tokio::test]
async fn a_stream_is_stored_when_its_terminator_is_seen_and_kept_when_the_client_leaves() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(&sqlite(&directory), &[]).await;
    let stream = async |message: &str| {
        let request = Request::post(format!("http://{}/chat/stream", server.address))
            .header("content-type", "application/json")
            .header(ADA[0].0, ADA[0].1)
            .header(ADA[1].0, ADA[1].1)
            .body(Full::from(json!({"message": message}).to_string()))
            .unwrap();
        patient("the head", server.client.request(request)).await.unwrap().into_body()
    };
    let mut body = stream("My name is Ada.").await;
    let mut seen = String::new();
    while !seen.ends_with("data: [DONE]\n\n") {
        let frame = patient("a token", body.frame()).await.expect("not yet the end").unwrap();
        seen += std::str::from_utf8(frame.data_ref().unwrap()).unwrap();
    }
    // The body has not ended for us, and the turn is there.
    assert_eq!(questions(&server.history("").await), ["My name is Ada."]);
    drop(body);

    let mut body = stream("What is my name?").await;
    patient("a token", body.frame()).await.unwrap().unwrap();
    drop(body);
    let turns = patient("the interrupted turn", async {
        loop {
            let turns = server.history("").await;
            if turns.len() == 2 {
                return turns;
            }
        }
    })
    .await;
    assert_eq!(turns[1]["status"], "interrupted");
    let kept = turns[1]["messages"][1]["content"].as_str().unwrap();
    assert!("Your name is Ada. This is turn 2.".starts_with(kept) && !kept.is_empty(), "{kept}");
}

#[tokio::test]
async fn history_is_shown_in_part_and_forgotten_on_request() {
    let server = Server::start("memory:", &[]).await;
    for message in ["one", "two", "three"] {
        server.reply(message).await;
    }
    assert_eq!(questions(&server.history("?last=2").await), ["two", "three"]);
    let turn = &server.history("?last=1").await[0];
    assert_eq!(turn["id"].as_str().unwrap().len(), 32);
    assert!(turn["at"].as_u64().unwrap() > 1_700_000_000_000);
    assert!(
        server.send(Method::GET, "/history", &[("x-user-id", "eve"), ADA[1]], &Value::Null).await.unwrap().1.len() < 20
    );
    let forgotten = server.send(Method::DELETE, "/history", &ADA, &Value::Null).await.unwrap();
    assert_eq!(forgotten.0, StatusCode::NO_CONTENT);
    assert!(server.history("").await.is_empty());
    assert_eq!(server.reply("again").await, "You said \"again\". This is turn 1.");
    for path in ["/healthz", "/readyz"] {
        assert_eq!(server.send(Method::GET, path, &[], &Value::Null).await.unwrap().0, StatusCode::OK);
    }
}

#[tokio::test]
async fn a_server_that_is_told_to_stop_finishes_what_it_began() {
    let directory = tempfile::tempdir().unwrap();
    let mut server = Server::start(&sqlite(&directory), &[]).await;
    let request = Request::post(format!("http://{}/chat/stream", server.address))
        .header("content-type", "application/json")
        .header(ADA[0].0, ADA[0].1)
        .header(ADA[1].0, ADA[1].1)
        .body(Full::from(json!({"message": "a few words that take their time"}).to_string()))
        .unwrap();
    let mut body = patient("the head", server.client.request(request)).await.unwrap().into_body();
    patient("a token", body.frame()).await.unwrap().unwrap();
    let pid = server.child.id().unwrap();
    std::process::Command::new("sh").args(["-c", &format!("kill {pid}")]).status().unwrap();
    let rest = patient("the rest", body.collect()).await.unwrap().to_bytes();
    assert!(rest.ends_with(b"data: [DONE]\n\n"));
    // Idle connections are let go: they do not keep the process.
    server.client = Client::builder(TokioExecutor::new()).build_http();
    assert!(patient("the end", server.child.wait()).await.unwrap().success());
    let mut log = String::new();
    while let Some(line) = server.log.recv().await {
        log += &line;
    }
    assert!(log.contains("session memory drained"), "{log}");
    assert!(!log.contains("words that take"), "{log}");
    let server = Server::start(&sqlite(&directory), &[]).await;
    assert_eq!(questions(&server.history("").await), ["a few words that take their time"]);
}

/// An OpenAI-compatible endpoint that answers with how many messages it was sent.
async fn upstream(seen: tokio::sync::mpsc::UnboundedSender<Value>) -> SocketAddr {
    let app = axum::Router::new().route(
        "/v1/chat/completions",
        axum::routing::post(async move |headers: http::HeaderMap, axum::Json(body): axum::Json<Value>| {
            let count = body["messages"].as_array().unwrap().len();
            seen.send(json!({"body": body, "authorization": headers["authorization"].to_str().unwrap()})).unwrap();
            let chunk = |text: &str| {
                format!("data: {}\r\n\r\n", json!({"choices": [{"index": 0, "delta": {"content": text}}]}))
            };
            let stream = format!(": hello\n\n{}{}data: [DONE]\n\n", chunk(&format!("{count} ")), chunk("messages"));
            // Cut where it hurts: in the middle of lines.
            let pieces: Vec<_> = stream
                .as_bytes()
                .chunks(7)
                .map(|piece| Ok::<_, std::io::Error>(Bytes::copy_from_slice(piece)))
                .collect();
            axum::body::Body::from_stream(futures_util::stream::iter(pieces))
        }),
    );
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });
    address
}

#[tokio::test]
async fn an_upstream_is_asked_with_the_whole_conversation() {
    let (sender, mut seen) = tokio::sync::mpsc::unbounded_channel();
    let url = format!("http://{}/v1", upstream(sender).await);
    let server = Server::start("memory:", &["--upstream", &url, "--model", "tiny"]).await;
    assert_eq!(server.reply("one").await, "1 messages");
    assert_eq!(server.reply("two").await, "3 messages");
    let first = seen.recv().await.unwrap();
    assert_eq!(first["authorization"], "Bearer canary-key");
    assert_eq!(first["body"]["model"], "tiny");
    let second = seen.recv().await.unwrap();
    assert_eq!(
        second["body"]["messages"],
        json!([
            {"role": "user", "content": "one"},
            {"role": "assistant", "content": "1 messages"},
            {"role": "user", "content": "two"},
        ])
    );
}

#[tokio::test]
async fn an_upstream_that_fails_leaves_no_turn() {
    let server = Server::start("memory:", &["--upstream", "http://127.0.0.1:1/v1", "--model", "tiny"]).await;
    let (status, _) = server.send(Method::POST, "/chat", &ADA, &json!({"message": "one"})).await.unwrap();
    assert_eq!(status, StatusCode::BAD_GATEWAY);
    assert!(server.history("").await.is_empty());
}

#[tokio::test]
async fn what_cannot_be_started_says_why() {
    let directory = tempfile::tempdir().unwrap();
    let broken = directory.path().join("broken.db");
    std::fs::write(&broken, "this is not a database, it is a sentence".repeat(100)).unwrap();
    let broken = format!("sqlite:{}", broken.display());
    for (arguments, says) in [
        (vec!["--store", "mysql://u:canary@x"], "it must be memory:, sqlite:PATH"),
        (
            vec!["--store", "memory:", "--upstream", "u:canary@x", "--model", "m"],
            "upstream: it must be a URL of http://",
        ),
        (vec!["--store", &broken], "restore it from a backup"),
        (vec!["--listen", "127.0.0.1:no", "--store", "memory:"], "127.0.0.1:no"),
        (vec!["--model", "x"], "--upstream and --model go together"),
        (vec!["--verbose", "x"], "--verbose is not an option"),
        (vec!["--store"], "--store needs a value"),
    ] {
        let ended = Command::new(binary()).args(&arguments).output();
        let ended = patient("the end", ended).await.unwrap();
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert!(!ended.status.success() && said.contains(says), "{arguments:?}: {said}");
        assert!(!said.contains("canary"), "{arguments:?}: {said}");
    }
    let help = Command::new(binary()).arg("--help").output().await.unwrap();
    assert!(help.status.success() && String::from_utf8_lossy(&help.stdout).contains("--upstream URL"));
}
