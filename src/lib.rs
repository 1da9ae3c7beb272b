//! Tower middleware that gives an LLM endpoint a memory that survives scaling.
//!
//! Chat applications keep the conversation in the process's memory. It works on one machine, then
//! breaks on the second: the next request lands elsewhere and the history is empty. The cure is a
//! **shared store, a stable session identity, and requests that are stateless but for their look-up**.
//! [`SessionMemoryLayer`] finds out whose conversation a request belongs to, loads it in one round
//! trip, hands it to your service in the request extensions, and makes what your service appended
//! durable in one more, **before the client can see the end of the response**.
//!
//! # Example
//! ```no_run
//! # #[cfg(all(feature = "axum", feature = "sqlite"))]
//! # mod example {
//! use axum::{Router, routing::post};
//! use tower_session_memory::identity::{Header, Scoped};
//! use tower_session_memory::{ChatSession, Message, SessionMemoryLayer, SqliteStore};
//!
//! # pub
//! async fn router() -> Result<Router, tower_session_memory::StoreError> {
//!     let identity = Scoped::new(
//!         Header::subject("x-user-id").trusted_proxy(), // set by the proxy in front
//!         Header::conversation("x-conversation-id"),    // chosen by the client
//!     );
//!     let memory = SessionMemoryLayer::new(SqliteStore::open("chat.db").await?, identity);
//!     Ok(Router::new().route("/chat", post(chat)).layer(memory))
//! }
//!
//! async fn chat(session: ChatSession, question: String) -> Result<String, tower_session_memory::AppendError> {
//!     let reply = ask_the_model(session.history().messages(), &question).await;
//!     session.append(Message::user(&question))?;
//!     session.append(Message::assistant(&reply))?;
//!     Ok(reply)
//! }
//! # async fn ask_the_model(_: impl Iterator<Item = &Message>, _: &str) -> String { String::new() }
//! # }
//! ```
//!
//! # The promise
//! When a client has seen the end of a response, its turn is in the store: whole, once, in order,
//! under the right owner. [`docs::guarantees`] says exactly what that means, what each store adds to
//! it, and what becomes of every fault.
//!
//! # One request
//! In the order of the source: [`identity`] reads whose conversation it is from the request's head;
//! [`SessionMemory`] loads it from the [`store`]; your service finds a [`ChatSession`] in the request
//! extensions; [`ResponseFuture`] commits the turn before the head goes out where nobody can append any
//! more, else [`ResponseBody`] holds the last frame until the turn is durable. Clients that leave,
//! services that fail, stores that are away: [`Policy`] decides, and each of its defaults says what it
//! costs. [`docs::architecture`] says why it is built this way. When a chat forgets, read
//! [`docs::why_is_my_history_empty`].
//!
//! # Features
//! None is on by default: somebody who only wants one store does not compile another.
//!
//! | feature | gives |
//! |---|---|
//! | `axum` | extractors for `ChatSession` and `Option<ChatSession>` |
//! | `jwt` | verified bearer tokens as identity; with it, who verifies signatures: `jwt-rust-crypto` or `jwt-aws-lc` (compiles C) |
//! | `cookie` | signed or encrypted cookies as identity |
//! | `metrics` | counters, gauges and histograms; see [`docs::metrics`] |
//! | `sqlite` | `SqliteStore`, the embedded store (compiles SQLite) |
//! | `redis` | `RedisStore`: Redis or Valkey, standalone, Sentinel or Cluster |
//! | `postgres` | `PostgresStore`: durable, auditable rows that psql can read |
//! | `dynamodb` | `DynamoDbStore`, for serverless |
//! | `cache` | `store::Cached`: around any store, a load asks only for what is newer |
//! | `resilience` | `store::Resilient`: around any store, safe retries and a breaker |
//! | `llm` | `llm::LlmMemoryLayer`: memory for endpoints that speak an LLM's wire format, their code untouched |
//! | `llm-decompress` | `llm`, for upstreams that compress unasked (compiles C) |
//! | `tiktoken` | `llm`, with `llm::Tiktoken`: windows counted in OpenAI's tokens |
//! | `conformance` | `store::conformance`, the suite for stores of your own |
#![cfg_attr(docsrs, feature(doc_cfg))]
#![warn(clippy::panic, clippy::print_stderr, clippy::print_stdout, clippy::unwrap_used, clippy::unreachable)]

#[cfg(feature = "axum")]
mod axum;
mod body;
mod diagnostics;
pub mod docs;
mod error;
mod future;
mod hex;
mod history;
pub mod identity;
mod json;
mod key;
mod layer;
#[cfg(feature = "llm")]
pub mod llm;
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
pub use self::diagnostics::Diagnostics;
pub use self::error::{AppendError, SessionError};
pub use self::future::ResponseFuture;
pub use self::history::ChatHistory;
pub use self::identity::{Identify, Identity, IdentityError};
pub use self::key::{ConversationId, KeyError, Scope, SessionHash, SessionKey, Subject, Tenant};
pub use self::layer::{PolicyError, SessionMemoryLayer};
pub use self::message::{Content, Message, MessageError, Role, ToolCall};
pub use self::policy::{
    CommitOn, Concurrency, Deadlines, Limits, OnCommitFailure, OnDisconnect, OnLoadFailure, OnMissing, OnUnknown,
    Policy, Retention, Roles, Window,
};
pub use self::service::SessionMemory;
pub use self::session::{ChatSession, Committed, Draft, DrainError};
#[cfg(feature = "sqlite")]
pub use self::store::SqliteStore;
pub use self::store::{InMemory, SharedStore, Store, StoreError};
pub use self::turn::{Head, RecordError, Turn, TurnId, TurnStatus};

/// The README's code is a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
