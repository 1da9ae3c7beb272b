//! placeholder

mod hex;
mod history;
pub mod identity;
mod json;
mod key;
mod message;
mod policy;
pub mod store;
mod turn;

pub use self::history::ChatHistory;
pub use self::identity::{Identify, Identity, IdentityError};
pub use self::key::{ConversationId, KeyError, Scope, SessionHash, SessionKey, Subject, Tenant};
pub use self::message::{Content, Message, MessageError, Role, ToolCall};
pub use self::policy::*;
pub use self::store::{InMemory, SharedStore, Store, StoreError};
pub use self::turn::{Head, RecordError, Turn, TurnId, TurnStatus};
