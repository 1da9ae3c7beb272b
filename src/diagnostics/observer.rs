//! One layer's eye on its requests.

use std::borrow::Cow;
use std::fmt::{self, Display};
use std::time::Duration;

use super::stability::{Odd, Stability};
use super::{Diagnostics, instance, metrics};
use crate::error::SessionError;
use crate::key::SessionKey;
use crate::store::{Durability, Loaded, Location, Sharing, Store, StoreInfo};
use crate::turn::{Turn, TurnStatus};

/// Counts and says what happens; knows the store's and the identity's name, and no session.
#[derive(Debug)]
pub(crate) struct Observer {
    pub(crate) diagnostics: Diagnostics,
    store: StoreInfo,
    identity: Cow<'static, str>,
    stability: Stability,
}

/// A conversation as traces may name it.
pub(crate) struct Conversation<'a> {
    key: &'a SessionKey,
    plain: bool,
}

impl Display for Conversation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.plain {
            true => f.write_str(self.key.conversation().as_str()),
            false => Display::fmt(&self.key.hashed(), f),
        }
    }
}

impl Observer {
    pub(crate) fn new(diagnostics: Diagnostics, store: StoreInfo, identity: Cow<'static, str>) -> Self {
        Self { diagnostics, store, identity, stability: Stability::new() }
    }

    /// The lines that a layer begins with. `flaw` is what keeps its identity from working at all.
    pub(crate) fn say_hello(&self, verified: bool, flaw: Option<&str>) {
        let Self { store, identity, .. } = self;
        tracing::info!(
            store = store.name,
            shared = store.sharing.as_str(),
            durable = store.durability.as_str(),
            location = store.location.as_ref().map(Location::fingerprint),
            at = store.location.as_ref().map(Location::words),
            %identity,
            instance = instance(),
            version = env!("CARGO_PKG_VERSION"),
            record_format = Turn::RECORD_VERSION,
            "session memory is ready"
        );
        if store.sharing == Sharing::Process {
            tracing::warn!(
                store = store.name,
                instance = instance(),
                "sessions live in this process alone: a second instance does not see them"
            );
        }
        if store.durability == Durability::Cache {
            tracing::warn!(store = store.name, "sessions do not survive a restart");
        }
        if let Some(flaw) = flaw {
            tracing::error!(%identity, "{flaw}");
        }
        if !verified {
            tracing::warn!(
                %identity,
                "nobody verifies whose conversation it is: whoever guesses an id reads the chat; \
                 scope it by a verified subject, or say trusted_proxy()"
            );
        }
    }

    /// What spans call the conversation; nothing is computed unless somebody looks.
    pub(crate) fn conversation<'a>(&self, key: &'a SessionKey) -> Conversation<'a> {
        Conversation { key, plain: self.diagnostics.plain_conversation_id }
    }

    pub(crate) fn loaded(&self, loaded: &Loaded, minted: bool, took: Duration) {
        let store = self.store.name;
        let bytes = loaded.turns.iter().map(Turn::bytes).sum();
        let outcome = if loaded.lost { "rolled_back" } else { "loaded" };
        tracing::debug!(outcome, turns = loaded.turns.len(), bytes, "history loaded");
        if loaded.lost {
            tracing::error!(outcome, turns = loaded.turns.len(), "the store lost turns that this process had seen");
        }
        metrics::loaded(store, outcome, took);
        metrics::history(store, loaded.turns.len(), bytes);
        if loaded.found.is_some() {
            metrics::replayed(store);
        }
        let Diagnostics { stretch, interval, .. } = self.diagnostics;
        if let Some(odd) = self.stability.load(loaded.head.sequence == 0, minted, stretch, interval) {
            self.warn(&odd);
        }
    }

    fn warn(&self, odd: &Odd) {
        let Odd { loads, fresh, minted, stored } = *odd;
        let identity = &*self.identity;
        if stored == 0 {
            tracing::warn!(
                loads,
                fresh,
                minted,
                stored,
                identity,
                "nothing is ever stored: nearly every request finds an empty history, because no handler appends \
                 to its session, or every response fails"
            );
        } else if minted * 2 > loads {
            tracing::warn!(
                loads,
                fresh,
                minted,
                stored,
                identity,
                "identity looks unstable: nearly every request comes without an id and is given a fresh one; \
                 clients do not send it back"
            );
        } else {
            tracing::warn!(
                loads,
                fresh,
                minted,
                stored,
                identity,
                "identity looks unstable: nearly every request opens a new session, so no history is ever found"
            );
        }
    }

    pub(crate) fn not_loaded(&self, error: &SessionError, degraded: bool, took: Duration) {
        let outcome = match error {
            SessionError::Load(error) => error.kind().as_str(),
            error => error.code(),
        };
        metrics::loaded(self.store.name, outcome, took);
        if degraded {
            metrics::degraded(self.store.name);
        }
    }

    /// A commit came to its end: `outcome` is one of a few words.
    pub(crate) fn committed(&self, outcome: &'static str, stored: bool, turn: (TurnStatus, usize), took: Duration) {
        let (status, bytes) = turn;
        if stored {
            self.stability.stored();
        }
        metrics::committed(self.store.name, outcome, status.as_str(), bytes, took);
    }

    pub(crate) fn pool(&self, store: &impl Store) {
        metrics::pool(self.store.name, || store.pool());
    }

    pub(crate) fn handed_over(&self, pending: usize) {
        metrics::handed_over(self.store.name);
        metrics::pending(pending);
    }

    pub(crate) fn pending(&self, pending: usize) {
        metrics::pending(pending);
    }
}
