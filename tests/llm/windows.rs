//! How much a model is shown: in steps, the same on every instance.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};
use tower_session_memory::llm::{ModelWindow, TokenCounter};

use crate::kit::*;

async fn ask(bed: &Bed, number: usize) -> Vec<String> {
    bed.says(chat_reply(&format!("a{number}")));
    let question =
        json!({"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": format!("q{number}")}]});
    assert_eq!(bed.post(CHAT, question.to_string()).await.status, 200);
    let messages = bed.last().json()["messages"].as_array().unwrap().clone();
    messages.iter().map(|message: &Value| message["content"].as_str().unwrap().to_owned()).collect()
}

fn window(change: impl FnOnce(&mut ModelWindow)) -> ModelWindow {
    let mut window = ModelWindow::default();
    change(&mut window);
    window
}

#[tokio::test]
async fn the_cut_moves_in_steps_so_that_prompts_share_their_beginning() {
    let bed = Bed::new().llm(|llm| llm.with_window(window(|w| w.turns = 10)));
    let mut last: Vec<String> = Vec::new();
    let mut cold = Vec::new();
    for number in 0..40 {
        let sent = ask(&bed, number).await;
        assert!(sent.len() <= 22, "ten turns, the instructions and the question");
        if !sent.starts_with(&last[..last.len().saturating_sub(1)]) {
            cold.push(number);
        }
        last = sent;
    }
    // Eleven turns were too many; six were left; five more fit before the next step.
    assert_eq!(cold, [11, 16, 21, 26, 31, 36]);
    assert_eq!(last[1], "q30");
}

#[tokio::test]
async fn the_cut_is_stored_so_that_every_instance_makes_the_same() {
    let small = Bed::new().llm(|llm| llm.with_window(window(|w| w.turns = 4)));
    let wide = small.clone().llm(|llm| llm.with_window(window(|w| w.turns = 1_000)));
    for number in 0..6 {
        ask(&small, number).await;
    }
    let (one, other) = (ask(&small, 6).await, ask(&wide, 7).await);
    assert_eq!(one[1], "q3");
    assert_eq!(other[1], "q3", "an instance with a wider window does not bring back what was cut");
    assert_eq!(ask(&wide, 8).await[1], "q3", "and hands the cut on");
    assert_eq!(small.turns().await.len(), 9, "the store keeps everything");
}

#[tokio::test]
async fn the_first_turns_may_be_kept() {
    let bed = Bed::new().llm(|llm| {
        llm.with_window(window(|w| {
            w.turns = 4;
            w.prefix_turns = 1;
        }))
    });
    let mut last = Vec::new();
    for number in 0..12 {
        last = ask(&bed, number).await;
    }
    assert_eq!(last[..3], ["s", "q0", "a0"]);
    assert!(last.len() <= 10 && last[3] != "q1", "{last:?}");
}

#[tokio::test]
async fn bytes_and_messages_bound_it_too() {
    for window in [window(|w| w.messages = 6), window(|w| w.bytes = 220)] {
        let bed = Bed::new().llm(|llm| llm.with_window(window));
        for number in 0..20 {
            assert!(ask(&bed, number).await.len() <= 8);
        }
    }
}

/// Ten tokens each, whatever they say.
#[derive(Default)]
struct Tens(AtomicUsize);

impl TokenCounter for Tens {
    fn name(&self) -> &str {
        "tens"
    }

    fn count(&self, _: &str) -> usize {
        self.0.fetch_add(1, Ordering::Relaxed);
        10
    }
}

#[tokio::test]
async fn tokens_are_counted_once_and_stored_with_the_turn() {
    let counter = Arc::new(Tens::default());
    let bed = Bed::new().llm(|llm| {
        llm.with_window(window(|w| {
            w.tokens = 100;
            w.counter = counter.clone();
        }))
    });
    for number in 0..10 {
        assert!(ask(&bed, number).await.len() <= 12, "a hundred tokens are ten messages");
    }
    assert_eq!(counter.0.load(Ordering::Relaxed), 20, "each message once");
}
