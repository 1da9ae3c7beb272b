//! Who answers: a small deterministic model, or an endpoint elsewhere.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tower_session_memory::{ChatHistory, Message, Role};

use crate::options;
use crate::upstream::Upstream;

#[derive(Clone)]
pub(crate) enum Model {
    BuiltIn,
    Upstream(Arc<Upstream>),
}

#[derive(Debug, thiserror::Error)]
#[error("upstream: {0}")]
pub(crate) struct ModelError(pub(crate) String);

pub(crate) type Tokens = mpsc::Receiver<Result<String, ModelError>>;

impl Model {
    pub(crate) fn new(upstream: Option<options::Upstream>) -> Result<Self, ModelError> {
        upstream.map_or(Ok(Self::BuiltIn), |upstream| Upstream::new(upstream).map(Arc::new).map(Self::Upstream))
    }

    /// The answer's tokens, as fast as they come.
    pub(crate) fn answer(&self, history: &ChatHistory, question: &Message) -> Tokens {
        self.start(history, question, Duration::ZERO)
    }

    /// The answer's tokens; the built-in model takes its time, as a real one would.
    pub(crate) fn answer_slowly(&self, history: &ChatHistory, question: &Message) -> Tokens {
        self.start(history, question, Duration::from_millis(15))
    }

    fn start(&self, history: &ChatHistory, question: &Message, pause: Duration) -> Tokens {
        let (sender, tokens) = mpsc::channel(16);
        match self {
            Self::BuiltIn => {
                let answer = recall(history, question);
                tokio::spawn(async move {
                    for token in answer.split_inclusive(' ') {
                        if !pause.is_zero() {
                            tokio::time::sleep(pause).await;
                        }
                        if sender.send(Ok(token.to_owned())).await.is_err() {
                            return;
                        }
                    }
                });
            }
            Self::Upstream(upstream) => {
                let upstream = upstream.clone();
                let messages: Vec<Message> = history.messages().chain([question]).cloned().collect();
                tokio::spawn(async move { upstream.ask(messages, sender).await });
            }
        }
        tokens
    }
}

/// Answers from the history it is given and nothing else, so that forgetting shows.
fn recall(history: &ChatHistory, question: &Message) -> String {
    let question = question.text().unwrap_or_default();
    let asked = question.to_lowercase();
    let turn = history.head().sequence + 1;
    let said = || history.messages().filter(|message| *message.role() == Role::User).filter_map(Message::text);
    if let Some(name) = name_in(&question) {
        format!("Nice to meet you, {name}. This is turn {turn}.")
    } else if asked.contains("my name") || asked.contains("who am i") {
        match said().rev().find_map(|text| name_in(&text)) {
            Some(name) => format!("Your name is {name}. This is turn {turn}."),
            None => format!("You have not told me your name. This is turn {turn}."),
        }
    } else {
        match said().next_back() {
            Some(before) => format!("You said \"{question}\", and before that \"{before}\". This is turn {turn}."),
            None => format!("You said \"{question}\". This is turn {turn}."),
        }
    }
}

/// The name in "my name is Ada".
fn name_in(text: &str) -> Option<String> {
    const PHRASE: &str = "my name is ";
    // Lower-casing ASCII alone keeps every byte where it was.
    let at = text.to_ascii_lowercase().find(PHRASE)? + PHRASE.len();
    let name: String = text[at..].chars().take_while(|c| c.is_alphanumeric()).collect();
    (!name.is_empty()).then_some(name)
}
