//! What a layer tells those who run it.
//!
//! | signal | when | how |
//! |---|---|---|
//! | start-up lines | always | `tracing`, info to error |
//! | spans `session_load`, `session_commit` | always | `tracing`, debug, with OpenTelemetry's `gen_ai.conversation.id` |
//! | outcomes | always | `tracing`, debug to error |
//! | "identity looks unstable" | when it does | `tracing`, warn, once an interval |
//! | `Server-Timing`, `x-session-memory` | [`Diagnostics::headers`] | response headers |
//! | counters, gauges, histograms | feature `metrics` | the `metrics` facade; see [`docs::metrics`](crate::docs::metrics) |
//!
//! None of them has an id, a claim, a token or a message in it, but for
//! [`Diagnostics::plain_conversation_id`].

use std::sync::OnceLock;
use std::time::Duration;

mod headers;
#[cfg(feature = "metrics")]
mod metrics;
#[cfg(not(feature = "metrics"))]
#[path = "no_metrics.rs"]
mod metrics;
mod observer;
mod stability;

pub(crate) use self::headers::Report;
pub(crate) use self::metrics::refused;
pub(crate) use self::observer::Observer;

/// What a layer shows beyond its logs, and when it raises its voice. Plain data, for
/// [`SessionMemoryLayer::with_diagnostics`](crate::SessionMemoryLayer::with_diagnostics).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Diagnostics {
    /// Adds two response headers: the standard `Server-Timing` with the milliseconds of
    /// `session-load` and, where it comes before the head, `session-commit`; and `x-session-memory`
    /// with store, sharing, location, instance, turns loaded, head and hashed session. Default: off; it costs
    /// a look into the kitchen for every client.
    pub headers: bool,
    /// Puts the conversation's id itself into the field `gen_ai.conversation.id` of spans, so that
    /// traces can be found by it. Default: off, the hash that logs use; it costs that ids which
    /// clients chose are in the traces.
    pub plain_conversation_id: bool,
    /// After this many loads the layer looks back: were nearly all of them of new sessions? Default:
    /// 200; it costs that a fault is told only after so many loads, and a few small counters. 0 never
    /// looks.
    pub stretch: u32,
    /// The least time between two such warnings. Default: 10 minutes; it costs that a second fault in
    /// between is not told.
    pub interval: Duration,
}

impl Default for Diagnostics {
    fn default() -> Self {
        Self { headers: false, plain_conversation_id: false, stretch: 200, interval: Duration::from_secs(600) }
    }
}

/// Tells this process from the others, in logs and headers: random, for the life of the process.
pub(crate) fn instance() -> &'static str {
    static INSTANCE: OnceLock<String> = OnceLock::new();
    INSTANCE.get_or_init(|| crate::hex::encode(&crate::hex::random_16()[..4]))
}
