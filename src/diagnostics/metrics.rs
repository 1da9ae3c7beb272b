//! The `metrics` facade. Names and labels are listed in `docs/metrics.md`; every label is one of a few
//! words.

use std::time::Duration;

use ::metrics::{counter, gauge, histogram};

use crate::store::PoolState;

pub(super) fn loaded(store: &'static str, outcome: &'static str, took: Duration) {
    counter!("session_memory_loads_total", "store" => store, "outcome" => outcome).increment(1);
    histogram!("session_memory_load_seconds", "store" => store, "outcome" => outcome).record(took);
}

pub(super) fn history(store: &'static str, turns: usize, bytes: usize) {
    histogram!("session_memory_loaded_turns", "store" => store).record(turns as f64);
    histogram!("session_memory_loaded_bytes", "store" => store).record(bytes as f64);
}

pub(super) fn replayed(store: &'static str) {
    counter!("session_memory_replays_total", "store" => store).increment(1);
}

pub(super) fn degraded(store: &'static str) {
    counter!("session_memory_degraded_total", "store" => store).increment(1);
}

pub(super) fn committed(
    store: &'static str,
    outcome: &'static str,
    status: &'static str,
    bytes: usize,
    took: Duration,
) {
    counter!("session_memory_commits_total", "store" => store, "outcome" => outcome, "status" => status).increment(1);
    histogram!("session_memory_commit_seconds", "store" => store, "outcome" => outcome).record(took);
    histogram!("session_memory_committed_bytes", "store" => store).record(bytes as f64);
}

pub(super) fn handed_over(store: &'static str) {
    counter!("session_memory_handovers_total", "store" => store).increment(1);
}

pub(super) fn pending(turns: usize) {
    gauge!("session_memory_pending").set(turns as f64);
}

pub(super) fn pool(store: &'static str, state: impl FnOnce() -> Option<PoolState>) {
    if let Some(PoolState { open, idle }) = state() {
        gauge!("session_memory_pool_connections", "store" => store, "state" => "open").set(open);
        gauge!("session_memory_pool_connections", "store" => store, "state" => "idle").set(idle);
    }
}

pub(crate) fn refused(code: &'static str) {
    counter!("session_memory_refused_total", "code" => code).increment(1);
}
