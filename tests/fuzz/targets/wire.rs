//! Anything at all as a client's request or an upstream's reply.

use std::collections::HashMap;
use std::sync::LazyLock;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use serde_json::value::RawValue;
use tower_session_memory::llm::{
    AnthropicMessages, Gemini, ModelWindow, OllamaChat, OpenAiChat, OpenAiResponses, Protocol, splice,
};
use tower_session_memory::{ChatHistory, Head, Turn, TurnStatus};

use super::converse::{Exchange, PATHS, Resent, converse, window};
use super::kit::*;

/// Path, list of elements, a question, and replies that histories are made of.
struct Wire {
    protocol: &'static dyn Protocol,
    path: &'static str,
    question: &'static str,
    stream: &'static str,
    replies: [&'static [u8]; 3],
}

macro_rules! golden {
    ($name:literal) => {
        include_bytes!(concat!("../../llm/golden/", $name))
    };
}

const ASK: &str = r#"{"stream":true,"messages":[{"role":"user","content":"q"}]}"#;

static WIRES: [Wire; 5] = [
    Wire {
        protocol: &OpenAiChat,
        path: CHAT,
        question: ASK,
        stream: "text/event-stream",
        replies: [golden!("chat/text.sse"), golden!("chat/tools.sse"), golden!("chat/cut_in_tool.sse")],
    },
    Wire {
        protocol: &AnthropicMessages,
        path: MESSAGES,
        question: ASK,
        stream: "text/event-stream",
        replies: [
            golden!("anthropic/thinking.sse"),
            golden!("anthropic/tools.sse"),
            golden!("anthropic/cut_in_thinking.sse"),
        ],
    },
    Wire {
        protocol: &OllamaChat,
        path: OLLAMA,
        question: ASK,
        stream: "application/x-ndjson",
        replies: [golden!("ollama/thinking.ndjson"), golden!("ollama/tools.ndjson"), golden!("ollama/cut.ndjson")],
    },
    Wire {
        protocol: &Gemini,
        path: GEMINI_STREAM,
        question: r#"{"contents":[{"role":"user","parts":[{"text":"q"}]}]}"#,
        stream: "text/event-stream",
        replies: [golden!("gemini/thoughts.sse"), golden!("gemini/tools.sse"), golden!("gemini/cut.sse")],
    },
    Wire {
        protocol: &OpenAiResponses,
        path: RESPONSES,
        question: r#"{"stream":true,"input":[{"role":"user","content":"q"}]}"#,
        stream: "text/event-stream",
        replies: [
            golden!("responses/completed.sse"),
            golden!("responses/output_left_out.sse"),
            golden!("responses/cut_in_call.sse"),
        ],
    },
];

fn run<T>(work: impl Future<Output = T>) -> T {
    thread_local! {
        static RUNTIME: tokio::runtime::Runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime of one thread");
    }
    RUNTIME.with(|runtime| {
        runtime.block_on(async {
            let done = work.await;
            // What was handed to the background, and has nothing to wait for, comes to its end.
            tokio::task::yield_now().await;
            done
        })
    })
}

/// Turns of a conversation in which the model gave all of its replies.
fn history(wire: &Wire) -> ChatHistory {
    let turns = run(async {
        let bed = Bed::new();
        for reply in wire.replies {
            bed.says(Said::new(wire.stream, [Bytes::from_static(reply)]));
            bed.post(wire.path, wire.question).await;
        }
        bed.turns().await
    });
    ChatHistory::new(Head::new(1, turns.len() as u64), turns, false)
}

/// What stands at the top of a request, byte for byte: strings are not looked into.
fn fields(body: &[u8]) -> Option<HashMap<String, Box<RawValue>>> {
    serde_json::from_slice(body).ok()
}

fn elements(wire: &Wire, body: &[u8]) -> Option<Vec<Box<RawValue>>> {
    serde_json::from_str(fields(body)?.get(wire.protocol.list())?.get()).ok()
}

/// The first byte chooses protocol, history and window; the rest is the client's body.
pub(super) fn requests(input: &[u8]) {
    static HISTORIES: LazyLock<Vec<ChatHistory>> = LazyLock::new(|| WIRES.iter().map(history).collect());
    let Some((choice, body)) = input.split_first() else { return };
    let at = usize::from(*choice) % WIRES.len();
    let wire = &WIRES[at];
    let mut window = ModelWindow::default();
    window.turns = match usize::from(*choice) / WIRES.len() % 4 {
        0 => usize::MAX,
        turns => turns,
    };
    let body = Bytes::copy_from_slice(body);
    let spliced = splice::<Full<Bytes>>(wire.protocol, &window, &HISTORIES[at], body.clone());
    let Ok(spliced) = spliced else { return };
    let before = fields(&body).expect("what is no object is refused");
    let promised = http_body::Body::size_hint(&spliced).exact();
    let sent = run(spliced.collect()).expect("it cannot fail").to_bytes();
    assert_eq!(promised, Some(sent.len() as u64));

    let after = fields(&sent).expect("the upstream gets JSON");
    assert_eq!(after.len(), before.len(), "no field comes or goes");
    for (name, value) in &before {
        let hidden = after[name].get() == "null" && ["previous_response_id", "conversation"].contains(&&**name);
        assert!(hidden || name == wire.protocol.list() || after[name].get() == value.get(), "{name} is the client's");
    }
    // All that the client sent stands in it, byte for byte and in order.
    let Some(asked) = elements(wire, &body) else { return };
    let whole = elements(wire, &sent).expect("a list stays a list");
    let mut rest = whole.iter();
    assert!(asked.iter().all(|element| rest.any(|other| other.get() == element.get())), "an element is lost");
}

/// What became of a reply: what the client saw of it, what is stored.
struct Outcome {
    seen: Seen,
    turns: Vec<Turn>,
    bed: Bed,
}

async fn reply(wire: &Wire, content_type: &str, chunks: Vec<Bytes>) -> Outcome {
    let bed = Bed::new();
    bed.says(Said::streamed(content_type, breathing(chunks)));
    let seen = bed.post(wire.path, wire.question).await;
    let turns = bed.turns().await;
    Outcome { seen, turns, bed }
}

/// The first byte chooses protocol and form, the next three where to cut; the rest is the reply.
pub(super) fn replies(input: &[u8]) {
    let Some((&[choice, ref cuts @ ..], body)) = input.split_first_chunk::<4>() else { return };
    let wire = &WIRES[usize::from(choice) % WIRES.len()];
    let content_type = if choice < 200 { wire.stream } else { "application/json" };
    let body = Bytes::copy_from_slice(body);
    let mut cuts = cuts.map(|cut| usize::from(cut) * body.len() / 256);
    cuts.sort_unstable();
    let bounds = [0, cuts[0], cuts[1], cuts[2], body.len()];
    let chunks = bounds.windows(2).map(|pair| body.slice(pair[0]..pair[1])).collect();
    run(async {
        let whole = reply(wire, content_type, vec![body.clone()]).await;
        let cut = reply(wire, content_type, chunks).await;
        assert!(body.starts_with(&whole.seen.body) && body.starts_with(&cut.seen.body), "the bytes pass unchanged");
        assert!(!whole.seen.ended || whole.seen.body == body);
        assert_eq!((whole.seen.status, whole.seen.ended), (cut.seen.status, cut.seen.ended));
        let told = |outcome: &Outcome| -> Vec<(TurnStatus, Vec<String>)> {
            let texts = |turn: &Turn| turn.messages().iter().map(|message| message.json().to_owned()).collect();
            outcome.turns.iter().map(|turn| (turn.status(), texts(turn))).collect()
        };
        assert_eq!(told(&whole), told(&cut), "cuts do not matter");

        // The conversation goes on, whatever is in it.
        let Outcome { bed, .. } = whole;
        bed.says(Said::json("{}").status(http::StatusCode::IM_A_TEAPOT));
        assert_eq!(bed.post(wire.path, wire.question).await.status, http::StatusCode::IM_A_TEAPOT);
        let asked = elements(wire, wire.question.as_bytes()).expect("a list");
        let sent = elements(wire, &bed.last().body).expect("the upstream gets JSON");
        assert_eq!(sent.last().map(|it| it.get()), asked.last().map(|it| it.get()), "the question comes last");
    });
}

/// The first byte chooses the protocol, the next six the window; then three for each exchange.
pub(super) fn conversations(input: &[u8]) {
    let Some((&[choice, ref limits @ ..], rest)) = input.split_first_chunk::<7>() else { return };
    let exchange = |&[how, end, at]: &[u8; 3]| Exchange {
        results: usize::from(how) % 3,
        reply: usize::from(how) / 3 % 8,
        end,
        // Mostly none.
        copy: Resent::ALL[usize::from(how / 24).saturating_sub(5)].clone(),
        at,
    };
    let exchanges: Vec<Exchange> = rest.as_chunks().0.iter().take(16).map(exchange).collect();
    if let Err(fault) = run(converse(PATHS[usize::from(choice) % PATHS.len()], &exchanges, window(*limits))) {
        panic!("{fault}");
    }
}
