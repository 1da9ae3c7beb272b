//! placeholder

#[cfg(feature = "axum")]
mod axum;
mod body;
mod error;
mod future;
mod hex;
mod history;
pub mod identity;
mod json;
mod key;
mod layer;
mod message;
mod policy;
mod problem;
mod service;
mod session;
pub mod store;
mod turn;

#[cfg(feature = "axum")]
pub use self::axum::SessionRejection;
pub use self::body::ResponseBody;
pub use self::error::{AppendError, SessionError};
pub use self::future::ResponseFuture;
pub use self::history::ChatHistory;
pub use self::identity::{Identify, Identity, IdentityError};
pub use self::key::{ConversationId, KeyError, Scope, SessionHash, SessionKey, Subject, Tenant};
pub use self::layer::{PolicyError, SessionMemoryLayer};
pub use self::message::{Content, Message, MessageError, Role, ToolCall};
pub use self::policy::{
    CommitOn, Concurrency, Deadlines, Limits, OnCommitFailure, OnDisconnect, OnLoadFailure, OnMissing, Policy,
    Retention, Roles, Window,
};
pub use self::service::SessionMemory;
pub use self::session::{ChatSession, Committed, Draft, DrainError};
#[cfg(feature = "sqlite")]
pub use self::store::SqliteStore;
pub use self::store::{InMemory, SharedStore, Store, StoreError};
pub use self::turn::{Head, RecordError, Turn, TurnId, TurnStatus};
