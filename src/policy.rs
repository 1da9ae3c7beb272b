//! Every decision that is the application's to make, as plain data.

use std::time::Duration;

/// What the layer does where more than one answer would be right.
///
/// Plain data: start from [`Policy::default`], change fields, give it to
/// [`SessionMemoryLayer::with_policy`](crate::SessionMemoryLayer::with_policy).
///
/// ```
/// use std::time::Duration;
/// use tower_session_memory::{OnDisconnect, Policy};
///
/// let mut policy = Policy::default();
/// policy.on_disconnect = OnDisconnect::Discard;
/// policy.ttl = Some(Duration::from_secs(30 * 24 * 3600));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Policy {
    /// A request without a conversation id. Default: [`OnMissing::Reject`]; it costs every client
    /// the work of choosing an id.
    pub on_missing: OnMissing,
    /// A conversation that does not exist yet. Default: [`OnUnknown::Begin`]; it costs that a client's
    /// misspelt id looks like an empty chat.
    pub on_unknown: OnUnknown,
    /// The store cannot be read. Default: [`OnLoadFailure::Reject`]; it costs availability while
    /// the store is away, and never lets an outage look like an empty chat.
    pub on_load_failure: OnLoadFailure,
    /// The turn cannot be made durable. Default: [`OnCommitFailure::Fail`]; it costs the client an
    /// answer that was ready, and never lets a lost turn look like a stored one.
    pub on_commit_failure: OnCommitFailure,
    /// The client leaves before the end. Default: [`OnDisconnect::Keep`]; it costs a turn in the
    /// history that may lack its answer.
    pub on_disconnect: OnDisconnect,
    /// Which responses commit. Default: [`CommitOn::SuccessAndRedirect`]; it costs the question of
    /// a failed request, so that a client's retry does not find it there already.
    pub commit_on: CommitOn,
    /// Two turns at once on one session. Default: [`Concurrency::Rebase`]; it costs that a turn may
    /// follow one that its handler had not seen.
    pub concurrency: Concurrency,
    /// Which roles may be appended. Default: [`Roles::Known`]; it costs a setting for protocols
    /// that use other names.
    pub roles: Roles,
    /// How much of the history is loaded. Default: 500 turns, 2,000 messages, 1 MiB; it costs that
    /// older turns are not in the history (they stay in the store).
    pub window: Window,
    /// How long a session lives after its newest turn. Default: `None`, forever; it costs space.
    pub ttl: Option<Duration>,
    /// How much of a session is kept. Default: everything; it costs space.
    pub retention: Retention,
    /// How long things may take.
    pub deadlines: Deadlines,
    /// How large things may be.
    pub limits: Limits,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            on_missing: OnMissing::Reject,
            on_unknown: OnUnknown::Begin,
            on_load_failure: OnLoadFailure::Reject,
            on_commit_failure: OnCommitFailure::Fail,
            on_disconnect: OnDisconnect::Keep,
            commit_on: CommitOn::SuccessAndRedirect,
            concurrency: Concurrency::Rebase,
            roles: Roles::Known,
            window: Window::default(),
            ttl: None,
            retention: Retention::default(),
            deadlines: Deadlines::default(),
            limits: Limits::default(),
        }
    }
}

/// What becomes of a request without a conversation id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnMissing {
    /// Answer 400.
    Reject,
    /// Begin a session under a fresh random id and tell the client in this response header, before
    /// the body. Costs a new session for every client that does not send the id back.
    Mint {
        /// The response header that carries the id, such as `x-conversation-id`, or `set-cookie`
        /// for a [`Cookie`](crate::identity) source. The source decides on the form:
        /// [`Signed`](crate::identity::Signed) ids come signed.
        header: &'static str,
    },
    /// Call the inner service without a [`ChatSession`](crate::ChatSession).
    Bypass,
}

/// What becomes of a request that names a conversation without a turn: one that was never begun,
/// was deleted, has expired, or is somebody else's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnUnknown {
    /// It begins with this request.
    Begin,
    /// Answer 404. Conversations begin only by [`OnMissing::Mint`], or by appending to the store.
    Refuse,
}

/// What becomes of a request whose history cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnLoadFailure {
    /// Answer 503 with `Retry-After`.
    Reject,
    /// Go on with an empty history that says it is degraded; the turn is appended to whatever the
    /// store holds by then. Costs answers that know nothing, and the fence around deleted sessions.
    Degrade,
}

/// What becomes of a response whose turn cannot be made durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnCommitFailure {
    /// Before the head: answer 503. After it: break the body off, so that nobody takes it for whole.
    Fail,
    /// Deliver the response all the same and log an error. Costs the promise: a complete response
    /// no longer means a stored turn.
    Deliver,
}

/// What becomes of a turn whose client left before the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnDisconnect {
    /// Keep what was appended, as an interrupted turn.
    Keep,
    /// Store nothing.
    Discard,
    /// Read the response to its end in the background and keep it whole; bounded by
    /// [`Deadlines::body`] and [`Limits::pending`]. Costs a task per streamed response, and the
    /// model's work for an answer that nobody waits for. A client that leaves before the head of the
    /// response is treated as in [`OnDisconnect::Keep`].
    Finish,
}

/// Which responses commit their turn; the others discard it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum CommitOn {
    /// 2xx and 3xx.
    SuccessAndRedirect,
    /// 2xx only.
    Success,
    /// Every response; only an error of the inner service discards.
    Any,
}

/// What becomes of a turn when another one was stored since its history was loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Concurrency {
    /// Both are kept, in the order of their commits.
    Rebase,
    /// The later one is refused with 409 and not stored.
    Strict,
}

/// Which roles a message may have to be appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Roles {
    /// `system`, `developer`, `user`, `assistant` and `tool`.
    Known,
    /// Any role.
    Any,
}

/// How much of a history is loaded: the newest whole turns that fit all three.
///
/// The newest turn is always loaded, whatever its size, unless `turns` is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Window {
    /// The most turns.
    pub turns: usize,
    /// The most messages.
    pub messages: usize,
    /// The most bytes of messages.
    pub bytes: usize,
}

impl Default for Window {
    fn default() -> Self {
        Self { turns: 500, messages: 2_000, bytes: 1 << 20 }
    }
}

impl Window {
    /// The whole session. Costs memory without a bound: for exports, not for every request.
    pub const ALL: Self = Self { turns: usize::MAX, messages: usize::MAX, bytes: usize::MAX };
    /// Nothing but the head.
    pub const NONE: Self = Self { turns: 0, messages: 0, bytes: 0 };

    /// A window of at most this many turns, messages and bytes.
    pub const fn new(turns: usize, messages: usize, bytes: usize) -> Self {
        Self { turns, messages, bytes }
    }

    /// The newest turns, as many as there are.
    pub const fn newest(turns: usize) -> Self {
        Self { turns, ..Self::ALL }
    }

    /// How many turns fit, given the messages and bytes of each, **newest first**.
    pub fn fit(&self, newest_first: impl IntoIterator<Item = (usize, usize)>) -> usize {
        let (mut messages, mut bytes) = (0usize, 0usize);
        newest_first
            .into_iter()
            .take(self.turns)
            .enumerate()
            .take_while(|&(index, (m, b))| {
                messages = messages.saturating_add(m);
                bytes = bytes.saturating_add(b);
                index == 0 || (messages <= self.messages && bytes <= self.bytes)
            })
            .count()
    }
}

/// How much of a session is kept: whole oldest turns are dropped, never the newest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Retention {
    /// The most turns; `None` keeps all.
    pub turns: Option<u64>,
    /// The most bytes of messages; `None` keeps all.
    pub bytes: Option<u64>,
}

impl Retention {
    /// Keep at most this many turns.
    pub const fn turns(turns: u64) -> Self {
        Self { turns: Some(turns), bytes: None }
    }

    /// Keep at most this many bytes of messages.
    pub const fn bytes(bytes: u64) -> Self {
        Self { turns: None, bytes: Some(bytes) }
    }

    /// How many of the oldest turns must go, given the bytes of each turn, **oldest first**.
    pub fn excess(&self, oldest_first: &[usize]) -> usize {
        let mut bytes: u64 = oldest_first.iter().map(|b| *b as u64).sum();
        let mut left = oldest_first.len() as u64;
        oldest_first
            .iter()
            .take_while(|size| {
                let over = left > 1
                    && (self.turns.is_some_and(|most| left > most) || self.bytes.is_some_and(|most| bytes > most));
                bytes -= **size as u64;
                left -= 1;
                over
            })
            .count()
    }
}

/// How long things may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Deadlines {
    /// Loading the history. Default: 2 s; a slower store means 503.
    pub load: Duration,
    /// Making the turn durable. Default: 10 s; a slower store means a failed response whose turn
    /// may or may not be stored.
    pub commit: Duration,
    /// From the head of a response to the end of its body. Default: one hour; a response that takes
    /// longer is broken off and its turn kept as interrupted, even if the client reads nothing.
    pub body: Duration,
    /// How long the end of a body is waited for once all promised bytes were seen, and how long an
    /// interrupted turn waits for writers that are still at work. Default: 1 s; it costs what a writer
    /// appends later, and a client of a writer that never stops that long at the end.
    pub grace: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            load: Duration::from_secs(2),
            commit: Duration::from_secs(10),
            body: Duration::from_secs(3600),
            grace: Duration::from_secs(1),
        }
    }
}

/// How large things may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Bytes of one message. Default: 256 KiB; it costs messages that carry more, such as pictures: the
    /// handler is told, and the turn cannot be stored.
    pub message_bytes: usize,
    /// Messages in one turn. Default: 256; it costs agents that call more tools in one request.
    pub turn_messages: usize,
    /// Bytes of all messages of one turn. Default: 1 MiB; it costs up to so much memory for each
    /// request under way, and turns that are larger. A store may allow less.
    pub turn_bytes: usize,
    /// Commits and bodies that go on in the background after their clients left. Default: 1,024;
    /// at the limit *new* requests get 503, accepted turns are never dropped.
    pub pending: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { message_bytes: 256 << 10, turn_messages: 256, turn_bytes: 1 << 20, pending: 1_024 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_takes_the_newest_turns_that_fit() {
        let turns = [(2, 10), (2, 10), (2, 10)];
        assert_eq!(Window::new(9, 9, 99).fit(turns), 3);
        assert_eq!(Window::new(2, 9, 99).fit(turns), 2);
        assert_eq!(Window::new(9, 5, 99).fit(turns), 2);
        assert_eq!(Window::new(9, 9, 25).fit(turns), 2);
        assert_eq!(Window::new(9, 1, 1).fit(turns), 1, "the newest always fits");
        assert_eq!(Window::NONE.fit(turns), 0);
        assert_eq!(Window::ALL.fit([]), 0);
    }

    #[test]
    fn retention_drops_whole_oldest_turns_and_never_the_newest() {
        let turns = [10, 10, 10];
        assert_eq!(Retention::default().excess(&turns), 0);
        assert_eq!(Retention::turns(2).excess(&turns), 1);
        assert_eq!(Retention::turns(0).excess(&turns), 2);
        assert_eq!(Retention::bytes(20).excess(&turns), 1);
        assert_eq!(Retention::bytes(19).excess(&turns), 2);
        assert_eq!(Retention::bytes(0).excess(&turns), 2);
    }
}
