//! The sentences of the contract, as a broken case quotes them.

macro_rules! sentences {
    ($($name:ident = $text:literal;)+) => {
        $(pub(super) const $name: &str = $text;)+

        /// Every sentence that a case stands for, as the docs of [`Store`](crate::Store) and of the
        /// types around it say it, without their markup.
        pub const SENTENCES: &[&str] = &[$($name),+];
    };
}

sentences! {
    WHOLE = "Whole. A turn is stored with all its messages, byte for byte, or not at all.";
    DURABLE = "When append returns Ok, the turn survives what StoreInfo::durability says, and every later load, from any instance, includes it.";
    ONCE = "Once. In one session a TurnId is stored at most once, for any number of attempts, until the turn is trimmed or the session deleted.";
    DUPLICATE = "The attempt that finds it stored answers Ok with Appended::duplicate_of, before any other condition is looked at.";
    ORDER = "In order. Turns of one epoch are numbered 1, 2, 3, ... in the order of their commits, and every reader sees them in that order.";
    FENCED = "Fenced. A turn whose history was loaded before the session was deleted, or before it expired, is refused with ErrorKind::Gone.";
    ANEW = "A session that is begun anew has a larger epoch.";
    ATOMIC = "Decided in one step. append compares and writes atomically.";
    GONE = "the session has another epoch than expected, or is gone: ErrorKind::Gone.";
    FIRST_LIFE = "A session that was absent (Head::ABSENT) and has meanwhile begun its first life since then is not gone: two first turns are like any two turns;";
    ROLLED_BACK = "it has fewer turns than expected: ErrorKind::RolledBack;";
    CONFLICT = "it has more: ErrorKind::Conflict if Strict, else go on;";
    LIFE = "move the session's end of life to now + ttl";
    LIFE_OF_DUPLICATE = "A duplicate moves the end of life too.";
    TRIM = "trim whole oldest turns that exceed the retention, never the new one.";
    UNCONDITIONAL = "With expected: None only 1 and 5 apply.";
    ISOLATED = "Isolated. Only SessionKey::encoded decides which session is meant; keys and messages are data, never part of a command.";
    CANCELLED = "Any future may be dropped at any point. A dropped append is stored whole or not at all, and leaves the store fit for the next call.";
    INFO = "What this store is. Cheap: it is asked for every commit.";
    LOAD = "Loads the newest turns that fit Read::window, oldest first, with the head they were read at, as of one moment.";
    WINDOW = "The newest turn is always loaded, whatever its size, unless turns is 0.";
    TRUNCATED = "Whether the store holds older turns of the session.";
    BESIDE_SINCE = "Beside since it speaks of the newest that fit the window, not of turns, and only where kept is None: otherwise kept says it.";
    KEPT = "How many turns of the session are stored, where the store knows without counting.";
    KNOWN = "With Read::known, when that head belongs to this life of the session and everything after it is still stored and fits the window, only what is newer (Loaded::since says so).";
    FIND = "With Read::find, also that turn, wherever in the session it stands.";
    EXPIRED = "A session that expired is absent.";
    DELETE = "Once Ok, no load returns a turn of it and no turn loaded from it can be appended.";
    DELETE_NOTHING = "Deleting what does not exist is Ok.";
    DELETED_HEAD = "Head::ABSENT for one that does not exist; the epoch of the next life and sequence 0 for one that was deleted.";
    LIST = "Lists live sessions with at least one turn, most recently active first.";
    SCOPE = "those of one tenant, of one subject, of both, or all.";
    PAGE = "Where the next page begins; None when this was the last.";
    PING = "Asks whether the store could serve a load and an append now; for readiness probes.";
    REDACTED = "Debug and errors name no session and show no message.";
    TOO_LARGE = "The most bytes of messages in one turn, where the store has a limit of its own.";
}
