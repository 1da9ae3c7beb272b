//! One request's share of a session: the handle, the buffer, the duty to settle.

use std::fmt;
use std::sync::Arc;

use serde_json::value::RawValue;

mod commit;
mod draft;
mod guard;
mod handover;
mod pending;

/// What `pending` locks with; the model checker puts its own here.
mod sync {
    pub(super) use std::sync::{Mutex, MutexGuard, PoisonError};
}

pub use self::commit::Committed;
pub(crate) use self::commit::{Chain, Commit, CommitResult};
pub use self::draft::Draft;
pub(crate) use self::guard::{Background, TurnGuard, Watch};
pub use self::handover::DrainError;
pub(crate) use self::handover::HandOver;

use self::pending::Pending;
use crate::diagnostics::Observer;
use crate::error::{AppendError, SessionError};
use crate::history::ChatHistory;
use crate::key::SessionKey;
use crate::message::Message;
use crate::policy::{OnDisconnect, Policy, Roles};
use crate::store::{Lineage, Loaded, SharedStore, StoreInfo};
use crate::turn::{Head, Turn, TurnId, TurnStatus};

/// What all requests of a layer share.
#[derive(Debug, Clone)]
pub(crate) struct Backend {
    pub(crate) store: SharedStore,
    pub(crate) info: StoreInfo,
    pub(crate) policy: Policy,
    pub(crate) handover: Arc<HandOver>,
    pub(crate) observer: Arc<Observer>,
}

/// A conversation as one request sees it: the history to read, and the turn it adds.
///
/// The layer puts it into the request extensions. Cheap to clone; clones may go to other tasks. What
/// is appended becomes durable when the response ends, or with [`ChatSession::commit`]; **drop every
/// clone when you are done**: while one is alive the layer must wait for the body's end to know that
/// the turn is whole.
///
/// ```
/// use tower_session_memory::{AppendError, ChatSession, Message};
///
/// fn answer(session: &ChatSession, question: &str) -> Result<String, AppendError> {
///     let turns = session.history().turns().len();
///     let reply = format!("This is turn {}.", turns + 1);
///     session.append(Message::user(question))?;
///     session.append(Message::assistant(&reply))?;
///     Ok(reply)
/// }
/// ```
#[derive(Clone)]
pub struct ChatSession(Arc<Writer>);

/// The end of the last handle is the end of writing.
struct Writer {
    shared: Arc<Shared>,
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.shared.pending.close_writers();
    }
}

/// One turn on its way, seen by handlers, guard and commit.
pub(crate) struct Shared {
    backend: Arc<Backend>,
    key: SessionKey,
    history: ChatHistory,
    replay: Option<Turn>,
    id: TurnId,
    id_is_clients: bool,
    /// `None` when the history could not be loaded.
    expected: Option<Head>,
    lineage: Option<Lineage>,
    pending: Pending<Buffer, CommitResult>,
}

/// The turn's messages so far.
#[derive(Default)]
struct Buffer {
    messages: Vec<Message>,
    bytes: usize,
    note: Option<Box<RawValue>>,
    /// Why the turn cannot be whole any more.
    refused: Option<AppendError>,
    /// A reply in it broke off.
    broke_off: bool,
}

impl ChatSession {
    /// The most bytes of a turn's note.
    pub const MAX_NOTE: usize = 8 << 10;

    /// A session for one request, and the guard that will settle its turn. `loaded` is `None` when
    /// policy went on without the store.
    pub(crate) fn begin(
        backend: Arc<Backend>,
        key: SessionKey,
        client_id: Option<TurnId>,
        loaded: Option<Loaded>,
    ) -> (Self, TurnGuard) {
        let expected = loaded.as_ref().map(|loaded| loaded.head);
        let loaded = loaded.unwrap_or_default();
        let shared = Arc::new(Shared {
            backend,
            key,
            history: ChatHistory::new(loaded.head, loaded.turns, loaded.truncated),
            lineage: loaded.lineage,
            replay: loaded.found,
            id: client_id.unwrap_or_else(TurnId::random),
            id_is_clients: client_id.is_some(),
            expected,
            pending: Pending::new(Buffer::default()),
        });
        let guard = TurnGuard::new(shared.clone());
        (Self(Arc::new(Writer { shared })), guard)
    }

    fn shared(&self) -> &Shared {
        &self.0.shared
    }

    /// Whose conversation it is.
    pub fn key(&self) -> &SessionKey {
        &self.shared().key
    }

    /// The conversation as it was when the request began.
    pub fn history(&self) -> &ChatHistory {
        &self.shared().history
    }

    /// The id under which this request's turn will be stored.
    pub fn turn_id(&self) -> TurnId {
        self.shared().id
    }

    /// Whether the client named this turn by an idempotency key, so that a retry will find it.
    pub fn is_named_by_client(&self) -> bool {
        self.shared().id_is_clients
    }

    /// The turn that an earlier attempt of this very request stored: a client that repeats its
    /// idempotency key is to be answered from it, not by the model again.
    ///
    /// An interrupted turn is not replayed: the retry runs and is stored whole.
    pub fn replay(&self) -> Option<&Turn> {
        self.shared().replay.as_ref()
    }

    /// The policy of the layer that the request came through.
    pub fn policy(&self) -> &Policy {
        &self.shared().backend.policy
    }

    /// Whether the store could not be read and policy went on without it: the history is empty
    /// because it is unknown, not because the conversation is new.
    pub fn is_degraded(&self) -> bool {
        self.shared().expected.is_none()
    }

    /// Adds a message to this request's turn. No I/O: callable from any task.
    ///
    /// # Errors
    /// [`AppendError::Sealed`] once the turn is settled. Any other error says which limit the message
    /// breaks; the turn can then only be discarded, since a part of it would be missing.
    pub fn append(&self, message: impl Into<Message>) -> Result<(), AppendError> {
        let message = message.into();
        let shared = self.shared();
        let appended = shared.pending.with_open(|buffer| {
            let bytes = buffer.bytes + message.len();
            match shared.backend.refusal(&message, buffer.messages.len(), bytes) {
                None => {
                    buffer.messages.push(message);
                    buffer.bytes = bytes;
                    Ok(())
                }
                Some(refused) => {
                    buffer.refused.get_or_insert(refused.clone());
                    Err(refused)
                }
            }
        });
        appended.unwrap_or(Err(AppendError::Sealed))
    }

    /// Keeps a note beside the turn's messages, in place of an earlier one: for layers on top, to read
    /// back with [`Turn::note`]. Never shown to a model. A turn without messages is not stored, whatever
    /// its note.
    ///
    /// # Errors
    /// [`AppendError::Sealed`] once the turn is settled; [`AppendError::MessageTooLarge`] for a note
    /// of more than [`ChatSession::MAX_NOTE`] bytes, and then the turn has no note.
    pub fn annotate(&self, note: Option<Box<RawValue>>) -> Result<(), AppendError> {
        let bytes = note.as_ref().map_or(0, |note| note.get().len());
        let fits = bytes <= Self::MAX_NOTE;
        let note = note.filter(|_| fits);
        self.shared().pending.with_open(|buffer| buffer.note = note).ok_or(AppendError::Sealed)?;
        if fits { Ok(()) } else { Err(AppendError::MessageTooLarge { bytes, limit: Self::MAX_NOTE }) }
    }

    /// Notes that the turn lacks something, so that it is not stored as if it were whole.
    fn refuse(&self, refused: AppendError) -> AppendError {
        self.shared().pending.with_open(|buffer| buffer.refused.get_or_insert_with(|| refused.clone()).clone());
        refused
    }

    /// Appends a reply that broke off. A turn that is settled already has no use for it.
    fn append_broken_off(&self, message: Message) {
        self.shared().pending.with_open(|buffer| buffer.broke_off = true);
        // Refused, it spoils the turn as any other message.
        let _ = self.append(message);
    }

    /// Begins an assistant's reply that comes token by token; see [`Draft`].
    pub fn draft(&self) -> Draft {
        Draft::new(self.clone())
    }

    /// Forgets what was appended; nothing can be appended any more and nothing will be stored.
    ///
    /// Meant so by the handler, it is no failure: the response goes out as it is, and
    /// [`ChatSession::commit`] gives [`Committed::Nothing`].
    pub fn discard(&self) {
        self.shared().discard(Ok(Committed::Nothing));
    }

    /// Makes the turn durable now, before the response ends. Nothing can be appended after it.
    ///
    /// For handlers whose clients stop reading before the end of the body, such as event streams
    /// with a terminator of their own: commit, then send `[DONE]`. Called again, or while another
    /// call is at work, it gives the same result.
    ///
    /// # Errors
    /// [`SessionError`] when the turn could not be stored ([`SessionError::Commit`]), may or may not
    /// be stored ([`SessionError::CommitDeadline`]), or was discarded.
    ///
    /// # Cancellation
    /// Once polled, the commit runs to its end, in the background if this future is dropped.
    pub async fn commit(&self) -> Result<Committed, SessionError> {
        Commit::begin(self.0.shared.clone(), TurnStatus::Complete).await
    }

    /// As [`ChatSession::commit`], for a reply that broke off although the response will end in order:
    /// the turn is kept as interrupted, or discarded where policy says so of interrupted turns.
    ///
    /// # Errors
    /// As [`ChatSession::commit`].
    ///
    /// # Cancellation
    /// As [`ChatSession::commit`].
    pub async fn commit_interrupted(&self) -> Result<Committed, SessionError> {
        if self.policy().on_disconnect == OnDisconnect::Discard {
            self.discard();
        }
        Commit::begin(self.0.shared.clone(), TurnStatus::Interrupted).await
    }
}

impl Backend {
    /// Why a message cannot join a turn that has `messages` and would have `bytes`.
    fn refusal(&self, message: &Message, messages: usize, bytes: usize) -> Option<AppendError> {
        let limits = &self.policy.limits;
        let turn_bytes = self.info.max_turn_bytes.map_or(limits.turn_bytes, |own| own.min(limits.turn_bytes));
        if self.policy.roles == Roles::Known && !message.role().is_known() {
            Some(AppendError::Role)
        } else if message.len() > limits.message_bytes {
            Some(AppendError::MessageTooLarge { bytes: message.len(), limit: limits.message_bytes })
        } else if messages >= limits.turn_messages {
            Some(AppendError::TooManyMessages { limit: limits.turn_messages })
        } else if bytes > turn_bytes {
            Some(AppendError::TurnTooLarge { bytes, limit: turn_bytes })
        } else {
            None
        }
    }
}

impl fmt::Debug for ChatSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChatSession")
            .field("key", self.key())
            .field("history", self.history())
            .field("turn_id", &self.turn_id())
            .finish_non_exhaustive()
    }
}
