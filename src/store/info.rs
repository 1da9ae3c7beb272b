//! What a store says of itself: what it is, where it keeps its sessions, how its connections are.

use std::sync::Arc;

use sha2::{Digest, Sha256};

/// What a store is, for start-up lines, limits and honest answers.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoreInfo {
    /// One lower-case word: `memory`, `sqlite`, `redis`.
    pub name: &'static str,
    /// Who sees the same sessions.
    pub sharing: Sharing,
    /// What survives once `append` has answered.
    pub durability: Durability,
    /// The most bytes of messages in one turn, where the store has a limit of its own.
    pub max_turn_bytes: Option<usize>,
    /// Where it keeps them, so that two instances can be compared. `None` where there is nothing to
    /// compare, as in a store of one process.
    pub location: Option<Location>,
}

impl StoreInfo {
    /// A store of this name.
    pub const fn new(name: &'static str, sharing: Sharing, durability: Durability) -> Self {
        Self { name, sharing, durability, max_turn_bytes: None, location: None }
    }

    /// The same, at this location.
    #[must_use]
    pub fn at(mut self, location: Location) -> Self {
        self.location = Some(location);
        self
    }

    /// The same, with a limit on one turn's bytes.
    #[must_use]
    pub const fn max_turn_bytes(mut self, bytes: usize) -> Self {
        self.max_turn_bytes = Some(bytes);
        self
    }
}

/// Where a store keeps its sessions, told without secrets: words for the log, and a fingerprint that
/// goes into headers, too.
///
/// ```
/// use tower_session_memory::store::Location;
///
/// let location = |prefix: &str| Location::new(&format!("kv.example.org:7000 prefix={prefix}"));
/// assert_eq!(location("chat").fingerprint(), location("chat").fingerprint(), "on every instance");
/// assert_ne!(location("chat").fingerprint(), location("other").fingerprint());
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    words: Arc<str>,
    fingerprint: [u8; 4],
}

impl Location {
    /// The location that these words name: address, database, prefix, schema, table. They are logged:
    /// no user, no password.
    pub fn new(words: &str) -> Self {
        Self::identified(words, words)
    }

    /// A location that words name, and something else identifies: a file has a number, whatever its
    /// path. Only a hash of the identity is ever shown.
    pub fn identified(words: &str, identity: impl AsRef<[u8]>) -> Self {
        let digest = Sha256::new().chain_update(b"tower-session-memory location\0").chain_update(identity).finalize();
        Self { words: words.into(), fingerprint: [digest[0], digest[1], digest[2], digest[3]] }
    }

    /// What the log calls it.
    pub fn words(&self) -> &str {
        &self.words
    }

    /// Eight hexadecimal digits: different ones are different locations.
    pub fn fingerprint(&self) -> String {
        crate::hex::encode(&self.fingerprint)
    }
}

/// The connections of a store that keeps a pool of them, at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct PoolState {
    /// Open connections, those at work included.
    pub open: u32,
    /// Open connections that nobody uses.
    pub idle: u32,
}

impl PoolState {
    /// This many connections are open, and of them this many idle.
    pub const fn new(open: u32, idle: u32) -> Self {
        Self { open, idle }
    }
}

/// Who sees the same sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Sharing {
    /// This process alone.
    Process,
    /// The processes of this host.
    Host,
    /// Every host that reaches the store.
    Network,
}

impl Sharing {
    /// The word that logs use.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Process => "process",
            Self::Host => "host",
            Self::Network => "network",
        }
    }
}

/// What an acknowledged turn survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Durability {
    /// Nothing: it may be evicted, and a restart loses it.
    Cache,
    /// `kill -9` of this process and of the store's, but not the loss of the store's host.
    Process,
    /// A power failure of the store's host.
    Host,
    /// The loss of a host.
    Quorum,
}

impl Durability {
    /// The word that logs use.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cache => "cache",
            Self::Process => "process",
            Self::Host => "host",
            Self::Quorum => "quorum",
        }
    }
}
