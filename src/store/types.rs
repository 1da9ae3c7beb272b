//! What goes into a store's operations and what comes out.

use std::time::{Duration, SystemTime};

use crate::key::SessionKey;
use crate::policy::{Concurrency, Retention, Window};
use crate::turn::{Head, Turn, TurnId};

/// Tells two histories with the same head apart.
///
/// A store that replicates asynchronously may lose acknowledged turns in a failover, and other turns
/// may take their numbers before anybody notices. Each append of such a store has a mark of its own: the
/// same mark at the same place means the same turns up to there. Only the store that gave it can tell
/// what the four numbers mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Lineage(pub [u64; 4]);

/// What to load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Read {
    /// How much.
    pub window: Window,
    /// A head that the caller already has the history of: only newer turns are wanted.
    pub known: Option<Head>,
    /// The [`Loaded::lineage`] of that known history: a store that gives one does not answer with what is
    /// newer than turns that it has lost.
    pub lineage: Option<Lineage>,
    /// A turn to look for in the whole session, for replays.
    pub find: Option<TurnId>,
}

impl Read {
    /// The newest turns that fit.
    pub const fn new(window: Window) -> Self {
        Self { window, known: None, lineage: None, find: None }
    }

    /// Only what is newer than this head.
    #[must_use]
    pub const fn known(mut self, head: Head) -> Self {
        self.known = Some(head);
        self
    }

    /// The lineage of the known history.
    #[must_use]
    pub const fn lineage(mut self, lineage: Option<Lineage>) -> Self {
        self.lineage = lineage;
        self
    }

    /// Also look for this turn.
    #[must_use]
    pub const fn find(mut self, id: TurnId) -> Self {
        self.find = Some(id);
        self
    }
}

/// What was loaded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Loaded {
    /// The session's head: [`Head::ABSENT`] for one that does not exist; the epoch of the next life
    /// and sequence 0 for one that was deleted.
    pub head: Head,
    /// Oldest first, ending at `head.sequence`.
    pub turns: Vec<Turn>,
    /// Whether the store holds older turns of the session. Beside `since` it speaks of the newest that
    /// fit the window, not of `turns`, and only where `kept` is `None`: otherwise `kept` says it.
    pub truncated: bool,
    /// `Some(known)` when `turns` are just those after [`Read::known`]; `None` when they are the
    /// newest that fit the window, known or not.
    pub since: Option<Head>,
    /// The turn that [`Read::find`] asked for, if the session holds it.
    pub found: Option<Turn>,
    /// How many turns of the session are stored, where the store knows without counting. `Cached`
    /// needs it: without, it asks for the whole window again wherever the session fits in it.
    pub kept: Option<u64>,
    /// Which history this is, from a store that may lose turns it has acknowledged.
    pub lineage: Option<Lineage>,
    /// Whether turns of this life that this process had seen in the store are no longer there: a failover, or
    /// a backup. `Cached` notices it, and the layer reports it.
    pub lost: bool,
}

impl Loaded {
    /// The answer for a session that does not exist.
    pub fn absent() -> Self {
        Self::default()
    }

    /// These turns, ending at this head.
    pub fn new(head: Head, turns: Vec<Turn>, truncated: bool) -> Self {
        Self { head, turns, truncated, since: None, found: None, kept: None, lineage: None, lost: false }
    }

    /// The same, with the number of turns that are stored.
    #[must_use]
    pub fn kept(mut self, turns: u64) -> Self {
        self.kept = Some(turns);
        self
    }

    /// The same, as just what is newer than a known head.
    #[must_use]
    pub fn since(mut self, known: Option<Head>) -> Self {
        self.since = known;
        self
    }

    /// The same, with the turn that was looked for.
    #[must_use]
    pub fn found(mut self, turn: Option<Turn>) -> Self {
        self.found = turn;
        self
    }
}

/// A turn to store, and under which conditions.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Append {
    /// The turn.
    pub turn: Turn,
    /// The head that its history was loaded at; `None` appends to whatever is there.
    pub expected: Option<Head>,
    /// The [`Loaded::lineage`] of that history: a store that gives one refuses a turn whose history it has
    /// lost, even when other turns have taken the places
    /// ([`ErrorKind::RolledBack`](super::ErrorKind::RolledBack)).
    pub lineage: Option<Lineage>,
    /// What happens when other turns were stored since.
    pub concurrency: Concurrency,
    /// The session's life from now on; `None` for ever.
    pub ttl: Option<Duration>,
    /// What is kept of the session.
    pub retention: Retention,
    /// The caller vouches that no turn up to `expected` has this id: it looked with [`Read::find`],
    /// or made the id afresh. A store may then look for it among the later turns only.
    pub searched: bool,
}

impl Append {
    /// Appends to a session that was loaded at this head, rebasing, keeping everything for ever.
    pub fn new(turn: Turn, expected: Head) -> Self {
        Self { expected: Some(expected), ..Self::unconditional(turn) }
    }

    /// Appends to whatever is there.
    pub fn unconditional(turn: Turn) -> Self {
        Self {
            turn,
            expected: None,
            lineage: None,
            concurrency: Concurrency::Rebase,
            ttl: None,
            retention: Retention::default(),
            searched: false,
        }
    }

    /// The lineage of the history that was loaded.
    #[must_use]
    pub fn lineage(mut self, lineage: Option<Lineage>) -> Self {
        self.lineage = lineage;
        self
    }

    /// What happens when other turns were stored since.
    #[must_use]
    pub fn concurrency(mut self, concurrency: Concurrency) -> Self {
        self.concurrency = concurrency;
        self
    }

    /// How long the session lives from now on.
    #[must_use]
    pub fn ttl(mut self, ttl: Option<Duration>) -> Self {
        self.ttl = ttl;
        self
    }

    /// Vouches that no turn up to the expected head has this id.
    #[must_use]
    pub fn searched(mut self) -> Self {
        self.searched = true;
        self
    }

    /// What is kept of the session.
    #[must_use]
    pub fn retention(mut self, retention: Retention) -> Self {
        self.retention = retention;
        self
    }
}

/// A turn that is durable.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Appended {
    /// The session's head after the append; for a duplicate, the head now.
    pub head: Head,
    /// Where the turn stands: its own sequence number.
    pub sequence: u64,
    /// The turn that was already stored under this id; nothing was stored now.
    pub duplicate_of: Option<Turn>,
    /// Which history ends with the turn that was stored now, as [`Loaded::lineage`].
    pub lineage: Option<Lineage>,
}

impl Appended {
    /// Stored now, as the newest turn.
    pub const fn stored(head: Head) -> Self {
        Self { head, sequence: head.sequence, duplicate_of: None, lineage: None }
    }

    /// Stored before, at this place.
    pub const fn duplicate(head: Head, sequence: u64, turn: Turn) -> Self {
        Self { head, sequence, duplicate_of: Some(turn), lineage: None }
    }
}

/// What `delete` removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Deleted {
    /// Turns that were stored and are no more; 0 for a session that did not exist.
    pub turns: u64,
}

impl Deleted {
    /// This many turns were removed.
    pub const fn new(turns: u64) -> Self {
        Self { turns }
    }
}

/// Which part of a long listing.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Page {
    /// The most entries; at least 1.
    pub limit: usize,
    /// Where the last page ended.
    pub after: Option<Cursor>,
}

impl Page {
    /// The first page, of at most this many entries.
    pub fn first(limit: usize) -> Self {
        Self { limit: limit.max(1), after: None }
    }

    /// The page after this cursor.
    #[must_use]
    pub fn after(mut self, cursor: Option<Cursor>) -> Self {
        self.after = cursor;
        self
    }
}

/// A place in a listing; only the store that made it can read it. It may name sessions, so
/// `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Cursor(pub String);

impl std::fmt::Debug for Cursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Cursor(redacted)")
    }
}

/// Some sessions, most recently active first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SessionPage {
    /// The entries.
    pub sessions: Vec<SessionEntry>,
    /// Where the next page begins; `None` when this was the last.
    pub next: Option<Cursor>,
}

impl SessionPage {
    /// A page of these entries.
    pub fn new(sessions: Vec<SessionEntry>, next: Option<Cursor>) -> Self {
        Self { sessions, next }
    }
}

/// One session in a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SessionEntry {
    /// Its address.
    pub key: SessionKey,
    /// Its version.
    pub head: Head,
    /// When its newest turn was stored.
    pub last_active: SystemTime,
}

impl SessionEntry {
    /// An entry of a listing.
    pub const fn new(key: SessionKey, head: Head, last_active: SystemTime) -> Self {
        Self { key, head, last_active }
    }
}
