//! How much of a conversation a model is shown.

use std::fmt;
use std::sync::Arc;

/// Counts the tokens of a message.
pub trait TokenCounter: Send + Sync + 'static {
    /// A word that changes when the counting does: counts are stored under it.
    fn name(&self) -> &str;

    /// About how many tokens an element, as raw JSON, costs.
    fn count(&self, element: &str) -> usize;
}

/// A token for every four bytes of JSON: what English costs, within a third.
#[derive(Debug, Clone, Copy, Default)]
pub struct FourBytes;

impl TokenCounter for FourBytes {
    fn name(&self) -> &str {
        "bytes/4"
    }

    fn count(&self, element: &str) -> usize {
        element.len().div_ceil(4)
    }
}

/// How much of the history is spliced into a request: whole turns, the newest that fit.
///
/// Moved in steps: when the history outgrows a limit, the cut moves so far that the rest fits
/// `keep_percent` of every limit, and then stays, so that the beginning of the prompt stays the same
/// from request to request and the provider's prompt cache keeps hitting. The cut is stored with the
/// turn, so that every instance makes the same one.
///
/// What the store loads bounds all of it: see [`Policy::window`](crate::Policy).
///
/// ```
/// use tower_session_memory::llm::ModelWindow;
///
/// let mut window = ModelWindow::default();
/// window.tokens = 100_000;
/// window.prefix_turns = 1;
/// ```
#[derive(Clone)]
#[non_exhaustive]
pub struct ModelWindow {
    /// The most turns. Default: no limit; it costs, like the next three, a prompt that grows with the
    /// conversation up to what was loaded.
    pub turns: usize,
    /// The most messages. Default: no limit.
    pub messages: usize,
    /// The most bytes of messages. Default: no limit.
    pub bytes: usize,
    /// The most tokens. Default: no limit. A limit costs a count of each message, once, when it is stored.
    pub tokens: usize,
    /// How much of each limit is left in use when the cut moves. Default: 60; it costs history that
    /// would have fitted, and saves a cold prompt cache in most turns.
    pub keep_percent: u8,
    /// The first turns of the conversation, kept whatever the cut; they count. Default: 0; it costs what
    /// was agreed on at the beginning.
    pub prefix_turns: usize,
    /// Who counts tokens. Default: [`FourBytes`]; it costs exactness: an estimate may be a third off, and
    /// more where the text is not English.
    pub counter: Arc<dyn TokenCounter>,
}

impl Default for ModelWindow {
    fn default() -> Self {
        Self {
            turns: usize::MAX,
            messages: usize::MAX,
            bytes: usize::MAX,
            tokens: usize::MAX,
            keep_percent: 60,
            prefix_turns: 0,
            counter: Arc::new(FourBytes),
        }
    }
}

/// What one turn takes up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) messages: usize,
    pub(super) bytes: usize,
    pub(super) tokens: usize,
}

impl ModelWindow {
    /// Whether nothing is ever left out.
    pub(super) fn is_open(&self) -> bool {
        [self.turns, self.messages, self.bytes, self.tokens].iter().all(|limit| *limit == usize::MAX)
    }

    pub(super) fn counts_tokens(&self) -> bool {
        self.tokens != usize::MAX
    }

    /// The first turn after the prefix that is shown. `current` is the cut so far; `may_start` says
    /// where a cut leaves no tool result without its call.
    pub(super) fn cut(
        &self,
        turns: &[Size],
        prefix: usize,
        current: usize,
        may_start: impl Fn(usize) -> bool,
    ) -> usize {
        let prefix = prefix.min(turns.len());
        let current = current.clamp(prefix, turns.len());
        let mut shown = Sum::default();
        turns[..prefix].iter().chain(&turns[current..]).for_each(|size| shown.add(size));
        if self.fits(&shown, 100) {
            return current;
        }
        let last = turns.len().saturating_sub(1).max(prefix);
        let less = |cut: &usize| {
            shown.remove(&turns[*cut - 1]);
            self.fits(&shown, self.keep_percent)
        };
        let enough = (current + 1..last).find(less).unwrap_or(last);
        // From there on to the next clean start; failing that back to the last one before it.
        (enough..turns.len())
            .find(|cut| may_start(*cut))
            .or_else(|| (current + 1..enough).rev().find(|cut| may_start(*cut)))
            .unwrap_or(enough)
    }

    fn fits(&self, shown: &Sum, percent: u8) -> bool {
        let within = |used: u128, limit: usize| {
            limit == usize::MAX || used * 100 <= limit as u128 * u128::from(percent.clamp(1, 100))
        };
        within(shown.turns, self.turns)
            && within(shown.messages, self.messages)
            && within(shown.bytes, self.bytes)
            && within(shown.tokens, self.tokens)
    }
}

/// What several turns take up; wide enough for the wildest of counters.
#[derive(Debug, Default)]
struct Sum {
    turns: u128,
    messages: u128,
    bytes: u128,
    tokens: u128,
}

impl Sum {
    fn add(&mut self, size: &Size) {
        self.turns += 1;
        self.messages += size.messages as u128;
        self.bytes += size.bytes as u128;
        self.tokens += size.tokens as u128;
    }

    /// Takes a turn out that was added.
    fn remove(&mut self, size: &Size) {
        self.turns -= 1;
        self.messages -= size.messages as u128;
        self.bytes -= size.bytes as u128;
        self.tokens -= size.tokens as u128;
    }
}

impl fmt::Debug for ModelWindow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ModelWindow")
            .field("turns", &self.turns)
            .field("messages", &self.messages)
            .field("bytes", &self.bytes)
            .field("tokens", &self.tokens)
            .field("keep_percent", &self.keep_percent)
            .field("prefix_turns", &self.prefix_turns)
            .field("counter", &self.counter.name())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(turns: usize) -> ModelWindow {
        ModelWindow { turns, ..ModelWindow::default() }
    }

    #[test]
    fn the_cut_moves_in_steps() {
        let window = window(10);
        let mut cut = 0;
        let mut moves = Vec::new();
        for len in 1..=30 {
            let next = window.cut(&vec![Size::default(); len], 0, cut, |_| true);
            assert!(len - next <= 10);
            if next != cut {
                moves.push(len);
                assert_eq!(len - next, 6);
            }
            cut = next;
        }
        assert_eq!(moves, [11, 16, 21, 26]);
    }

    #[test]
    fn the_newest_turn_always_stays_and_the_prefix_too() {
        let big = Size { bytes: 100, ..Size::default() };
        let window = ModelWindow { bytes: 10, ..ModelWindow::default() };
        assert_eq!(window.cut(&[big; 4], 0, 0, |_| true), 3);
        assert_eq!(window.cut(&[big; 4], 1, 1, |_| true), 3);
        assert_eq!(window.cut(&[big], 0, 0, |_| true), 0);
    }

    /// Each turn is looked at a few times, however many there are: a look at all of them for each would
    /// take minutes here.
    #[test]
    fn the_search_for_the_cut_is_linear() {
        let big = Size { bytes: 100, tokens: usize::MAX, messages: 1 };
        let window = ModelWindow { bytes: 150, ..ModelWindow::default() };
        let begun = std::time::Instant::now();
        assert_eq!(window.cut(&vec![big; 200_000], 0, 0, |_| true), 199_999);
        assert!(begun.elapsed() < std::time::Duration::from_secs(5), "{:?}", begun.elapsed());
    }

    #[test]
    fn a_cut_begins_where_it_may() {
        assert_eq!(window(4).cut(&[Size::default(); 6], 0, 0, |turn| turn != 4), 5);
        assert_eq!(window(4).cut(&[Size::default(); 6], 0, 0, |turn| turn < 4), 3);
    }
}
