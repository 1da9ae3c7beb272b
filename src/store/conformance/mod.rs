//! The suite that every [`Store`] passes: its contract, sentence by sentence, as named cases.
//!
//! A store of your own passes it when each case does. In a test file, one line makes one test of
//! each case, so that `cargo test` names them all. The dev-dependencies need this crate with
//! feature `conformance`, and `tokio` with `macros` and `rt-multi-thread`:
//!
//! ```
//! use tower_session_memory::InMemory;
//! use tower_session_memory::store::conformance::Instances;
//!
//! /// What each test works on. Here a store in memory; for a server, connect to it twice.
//! async fn instances() -> Instances {
//!     Instances::new(InMemory::new())
//! }
//!
//! tower_session_memory::conformance_tests!(instances);
//! ```
//!
//! The macro takes the path of a function, or a closure, that returns a future of [`Instances`]; it
//! is called once per test. Put the line into a `mod` to run the suite on several set-ups of a store.
//!
//! Without a test framework, [`run_all`] gives a [`Report`], and [`cases`] the cases to run one by one.
//! Either wants a tokio runtime with time, of several threads where possible: only true parallelism
//! shows some races.
//!
//! Cases use random session keys, so they may share one server, with each other and with other data.
//!
//! # What the suite cannot see
//! * *Durable* at [`StoreInfo::durability`](super::StoreInfo::durability): it reads what was acknowledged from another instance, but
//!   kills no process and no host.
//! * *One round trip*: only a proxy in front of your server can count.
//! * Damaged and foreign data under a session's key: it knows the [`Store`] trait only.
//! * How long the fence of a deleted session is remembered.
//!
//! [`Store`]: super::Store

mod cancel;
mod contract;
mod decide;
mod fence;
mod isolate;
mod kit;
mod life;
mod list;
mod load;
mod once;
mod order;
mod retain;
mod run;
mod tell;
mod whole;

pub use self::contract::SENTENCES;
pub use self::kit::Instances;
pub use self::run::{Broken, Case, Outcome, Report, cases, run_all};
