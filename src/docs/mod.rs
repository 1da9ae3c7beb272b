//! Why it is built this way, and what it promises. Prose, no items.

#[doc = include_str!("architecture.md")]
pub mod architecture {}

#[doc = include_str!("guarantees.md")]
pub mod guarantees {}

#[doc = include_str!("metrics.md")]
pub mod metrics {}

#[doc = include_str!("why-is-my-history-empty.md")]
pub mod why_is_my_history_empty {}
