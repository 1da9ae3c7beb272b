//! Tokens as OpenAI's models count them.

use std::fmt;

use tiktoken_rs::CoreBPE;

use super::window::TokenCounter;

/// Counts with OpenAI's own encodings (feature `tiktoken`). Exact for text; an element is counted as
/// the JSON that it is, which is a little more than a provider bills. Other providers' tokens differ.
///
/// ```
/// use std::sync::Arc;
/// use tower_session_memory::llm::{ModelWindow, Tiktoken};
///
/// let mut window = ModelWindow::default();
/// window.tokens = 100_000;
/// window.counter = Arc::new(Tiktoken::o200k());
/// ```
pub struct Tiktoken {
    encoding: &'static CoreBPE,
    name: &'static str,
}

impl Tiktoken {
    /// The encoding of GPT-4o and later. The table is read once in a process, which takes a while.
    pub fn o200k() -> Self {
        Self { encoding: tiktoken_rs::o200k_base_singleton(), name: "o200k" }
    }

    /// The encoding of GPT-4 and GPT-3.5. The table is read once in a process, which takes a while.
    pub fn cl100k() -> Self {
        Self { encoding: tiktoken_rs::cl100k_base_singleton(), name: "cl100k" }
    }
}

impl TokenCounter for Tiktoken {
    fn name(&self) -> &str {
        self.name
    }

    fn count(&self, element: &str) -> usize {
        self.encoding.encode_ordinary(element).len()
    }
}

impl fmt::Debug for Tiktoken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Tiktoken").field(&self.name).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_counts() {
        let tiktoken = Tiktoken::cl100k();
        assert_eq!(tiktoken.count("hello world"), 2);
        assert_eq!(tiktoken.count(""), 0);
        assert_eq!(Tiktoken::o200k().count("hello world"), 2);
    }
}
