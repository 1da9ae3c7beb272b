//! The layer: which store, whose identity, which policy.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use http::HeaderName;
use tower_layer::Layer;

use crate::diagnostics::{Diagnostics, Observer};
use crate::identity::Identify;
use crate::key::ConversationId;
use crate::policy::{OnMissing, Policy};
use crate::service::SessionMemory;
use crate::session::{Backend, DrainError};
use crate::store::{SharedStore, Store};

/// Gives every request of the inner service the conversation it belongs to.
///
/// Without type parameters, so it can be a field of your state; cheap to clone, and clones share
/// their store and their background work.
///
/// ```
/// use tower::{ServiceBuilder, service_fn};
/// use tower_session_memory::identity::{Header, Scoped};
/// use tower_session_memory::{ChatSession, InMemory, Message, SessionMemoryLayer};
///
/// let identity = Scoped::new(
///     Header::subject("x-user-id").trusted_proxy(),
///     Header::conversation("x-conversation-id"),
/// );
/// let memory = SessionMemoryLayer::new(InMemory::new(), identity);
///
/// let service = ServiceBuilder::new().layer(memory).service(service_fn(
///     |request: http::Request<String>| async move {
///         let session = request.extensions().get::<ChatSession>().expect("the layer puts it there");
///         session.append(Message::user(request.body()))?;
///         Ok::<_, tower_session_memory::AppendError>(http::Response::new(request.into_body()))
///     },
/// ));
/// # let _ = service;
/// ```
#[derive(Clone)]
pub struct SessionMemoryLayer {
    shared: Arc<Settings>,
}

/// What the service of one layer needs for each request.
pub(crate) struct Settings {
    pub(crate) backend: Arc<Backend>,
    pub(crate) identify: Arc<dyn Identify>,
    pub(crate) idempotency: Option<HeaderName>,
    pub(crate) mint: Option<HeaderName>,
    /// Whether this layer has complained of being mounted twice.
    pub(crate) complained: AtomicBool,
}

/// A [`Policy`] that cannot be kept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("policy: {0}")]
pub struct PolicyError(&'static str);

impl SessionMemoryLayer {
    /// A layer with the default [`Policy`]. Logs one line that says which store it uses, who shares
    /// it and what it survives.
    pub fn new(store: impl Store, identify: impl Identify) -> Self {
        let store = SharedStore::new(store);
        let info = store.info();
        let observer = Observer::new(Diagnostics::default(), info.clone(), identify.describe());
        observer.say_hello(identify.is_verified(), identify.flaw().as_deref());
        let backend =
            Backend { store, info, policy: Policy::default(), handover: Arc::default(), observer: Arc::new(observer) };
        Self {
            shared: Arc::new(Settings {
                backend: Arc::new(backend),
                identify: Arc::new(identify),
                idempotency: Some(HeaderName::from_static("idempotency-key")),
                mint: None,
                complained: AtomicBool::new(false),
            }),
        }
    }

    /// The same layer, with the same store and background work, under another policy.
    ///
    /// ```
    /// # use tower_session_memory::{identity::Header, InMemory, SessionMemoryLayer};
    /// use tower_session_memory::{Policy, Window};
    ///
    /// # let memory = SessionMemoryLayer::new(InMemory::new(), Header::conversation("x-conversation-id"));
    /// let mut policy = Policy::default();
    /// policy.window = Window::newest(20);
    /// let memory = memory.with_policy(policy)?;
    /// # Ok::<(), tower_session_memory::PolicyError>(())
    /// ```
    ///
    /// # Errors
    /// [`PolicyError`] when the policy cannot be kept, such as a deadline of zero.
    pub fn with_policy(self, policy: Policy) -> Result<Self, PolicyError> {
        let mint = check(&policy)?;
        if let Some(header) = &mint
            && self.shared.identify.issue(&ConversationId::random(), header).is_none()
        {
            return Err(PolicyError("the identity source does not issue ids in the header for minted ids"));
        }
        let backend = Arc::new(Backend { policy, ..Backend::clone(&self.shared.backend) });
        Ok(self.with(|settings| Settings { backend, mint, ..settings }))
    }

    /// The same layer with other diagnostics.
    ///
    /// ```
    /// # use tower_session_memory::{identity::Header, Diagnostics, InMemory, SessionMemoryLayer};
    /// # let memory = SessionMemoryLayer::new(InMemory::new(), Header::conversation("x-conversation-id"));
    /// let mut diagnostics = Diagnostics::default();
    /// diagnostics.headers = true;
    /// let memory = memory.with_diagnostics(diagnostics);
    /// ```
    #[must_use]
    pub fn with_diagnostics(self, diagnostics: Diagnostics) -> Self {
        let backend = &self.shared.backend;
        let observer = Arc::new(Observer::new(diagnostics, backend.info.clone(), self.shared.identify.describe()));
        let backend = Arc::new(Backend { observer, ..Backend::clone(backend) });
        self.with(|settings| Settings { backend, ..settings })
    }

    /// Reads the idempotency key from this header instead of `idempotency-key`; `None` reads none.
    #[must_use]
    pub fn with_idempotency_header(self, header: Option<HeaderName>) -> Self {
        self.with(|settings| Settings { idempotency: header, ..settings })
    }

    fn with(self, change: impl FnOnce(Settings) -> Settings) -> Self {
        let old = &*self.shared;
        let copy = Settings {
            backend: old.backend.clone(),
            identify: old.identify.clone(),
            idempotency: old.idempotency.clone(),
            mint: old.mint.clone(),
            complained: AtomicBool::new(false),
        };
        Self { shared: Arc::new(change(copy)) }
    }

    /// The policy in force.
    pub fn policy(&self) -> &Policy {
        &self.shared.backend.policy
    }

    /// The store, for what is not a chat turn: exports, deletes, listings, readiness probes.
    pub fn store(&self) -> &SharedStore {
        &self.shared.backend.store
    }

    /// Waits until no turn is being settled in the background any more.
    ///
    /// Call it last at shutdown, after the server has let go of its connections: a connection that
    /// is cut hands its turn over to the background.
    ///
    /// # Errors
    /// [`DrainError`] with the number of turns that the deadline left unsettled; the log names them
    /// by hash. They go on while the runtime lives.
    ///
    /// # Cancellation
    /// Dropping it ends the waiting only: the turns go on, and it may be called again.
    pub async fn drain(&self, deadline: Duration) -> Result<(), DrainError> {
        self.shared.backend.handover.drain(deadline).await
    }

    /// How many turns are being settled in the background.
    pub fn pending(&self) -> usize {
        self.shared.backend.handover.len()
    }
}

/// Checks what the types cannot say; gives the header that minted ids go into.
fn check(policy: &Policy) -> Result<Option<HeaderName>, PolicyError> {
    let Policy { deadlines, limits, on_missing, .. } = policy;
    let deadlines = [deadlines.load, deadlines.commit, deadlines.body];
    if deadlines.iter().any(Duration::is_zero) {
        return Err(PolicyError("the deadlines of load, commit and body must be longer than zero"));
    }
    if [limits.message_bytes, limits.turn_messages, limits.turn_bytes, limits.pending].contains(&0) {
        return Err(PolicyError("a limit of zero lets nothing through"));
    }
    if policy.ttl.is_some_and(|ttl| ttl < Duration::from_millis(1)) {
        return Err(PolicyError("a session must live for at least a millisecond"));
    }
    match on_missing {
        OnMissing::Mint { header } => HeaderName::from_lowercase(header.as_bytes())
            .map(Some)
            .map_err(|_| PolicyError("the header for minted ids must be a header name in lower case")),
        OnMissing::Reject | OnMissing::Bypass => Ok(None),
    }
}

impl<S> Layer<S> for SessionMemoryLayer {
    type Service = SessionMemory<S>;

    fn layer(&self, inner: S) -> SessionMemory<S> {
        SessionMemory::new(inner, self.shared.clone())
    }
}

impl fmt::Debug for SessionMemoryLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionMemoryLayer")
            .field("store", &self.shared.backend.store)
            .field("identity", &self.shared.identify.describe())
            .field("policy", self.policy())
            .finish_non_exhaustive()
    }
}
