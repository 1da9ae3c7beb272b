//! Every moment at which a client can leave × every mood of the store, on real sockets: what is stored
//! of the turn, what the log says, and that nothing is left in the background.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt;
use tokio::sync::{Notify, mpsc};
use tower::{Layer, service_fn};
use tower_session_memory::{Message, SessionMemoryLayer, TurnStatus};

use crate::leaving::{answer_holding, leave_before_head, leave_mid_body, post, streaming};
use crate::logs::Logs;
use crate::support::{Client, Mood, Protocol, Watched, layer, patient, serve, until};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum When {
    /// The handler is at work.
    BeforeHead,
    /// Between two tokens.
    MidBody,
    /// The response waits for the store, its head not yet sent.
    CommitBeforeHead,
    /// The last frame waits for the store.
    CommitInBody,
}

async fn leave(protocol: Protocol, when: When, memory: &SessionMemoryLayer, store: &Watched) {
    match when {
        When::BeforeHead => leave_before_head(protocol, memory).await,
        When::MidBody => {
            let (producer_saw, mut saw) = mpsc::unbounded_channel();
            let service = memory.layer(streaming(Arc::new(Notify::new()), producer_saw));
            leave_mid_body(protocol, serve(protocol, service).await).await;
            assert_eq!(patient("the producer", saw.recv()).await, Some(true), "it is told that nobody listens");
        }
        When::CommitBeforeHead | When::CommitInBody => {
            let handler = service_fn(move |request| answer_holding(when == When::CommitInBody, request));
            let address = serve(protocol, memory.layer(handler)).await;
            let mut client = Client::connect(protocol, address).await;
            let sent = tokio::spawn(async move {
                let response = client.send(post(protocol, address)).await.unwrap();
                drop(response.into_body().collect().await);
            });
            until("the commit", async || store.entered() == 1).await;
            sent.abort();
        }
    }
}

pub(crate) async fn check(protocol: Protocol, when: When, mood: Mood) {
    let logs = Logs::capture();
    let store = Watched::new(mood);
    let memory = layer(&store, |_| {});
    leave(protocol, when, &memory, &store).await;
    until("the commit", async || store.entered() == 1).await;
    if mood.waits() {
        until("the hand-over", async || memory.pending() == 1).await;
        assert!(store.turns("s").await.is_empty());
        store.release();
    }
    until("the end of the background work", async || memory.pending() == 0).await;
    patient("the drain", memory.drain(Duration::from_secs(5))).await.unwrap();
    assert_eq!(store.entered(), 1, "stored by one append");

    let turns = store.turns("s").await;
    if mood.fails() {
        assert!(turns.is_empty());
        logs.line(&["ERROR", "turn not committed", "outcome=\"unavailable\""]);
        assert_eq!(logs.count("turn not committed"), 1);
        return;
    }
    assert_eq!(logs.count("turn not committed"), 0);
    assert_eq!(turns.len(), 1);
    let question = Message::user("question");
    let (status, messages) = match when {
        When::BeforeHead => (TurnStatus::Interrupted, vec![question]),
        When::MidBody => (TurnStatus::Interrupted, vec![question, Message::assistant("half ")]),
        When::CommitBeforeHead | When::CommitInBody => (TurnStatus::Complete, vec![question]),
    };
    assert_eq!((turns[0].status(), turns[0].messages()), (status, &messages[..]));
}

/// One test for each cell, so that a failure names it.
macro_rules! departures {
    ($($name:ident: $when:ident, [$($cell:ident $mood:ident),+];)+) => {$(
        mod $name {
            use super::*;
            departures!(@cells h1 H1 $when [$($cell $mood),+]);
            departures!(@cells h2 H2 $when [$($cell $mood),+]);
        }
    )+};
    (@cells $version:ident $protocol:ident $when:ident [$($cell:ident $mood:ident),+]) => {
        mod $version {
            use super::*;
            $(#[tokio::test]
            async fn $cell() {
                check(Protocol::$protocol, When::$when, Mood::$mood).await;
            })+
        }
    };
}

// A commit that is over in one poll cannot be left.
departures! {
    before_head: BeforeHead, [fast Fast, slow Slow, failing Failing, failing_late FailingLate];
    mid_body: MidBody, [fast Fast, slow Slow, failing Failing, failing_late FailingLate];
    commit_before_head: CommitBeforeHead, [slow Slow, failing_late FailingLate];
    commit_in_body: CommitInBody, [slow Slow, failing_late FailingLate];
}
