//! Without the feature `metrics`: nothing is counted.

use std::time::Duration;

use crate::store::PoolState;

pub(super) fn loaded(_: &'static str, _: &'static str, _: Duration) {}
pub(super) fn history(_: &'static str, _: usize, _: usize) {}
pub(super) fn replayed(_: &'static str) {}
pub(super) fn degraded(_: &'static str) {}
pub(super) fn committed(_: &'static str, _: &'static str, _: &'static str, _: usize, _: Duration) {}
pub(super) fn handed_over(_: &'static str) {}
pub(super) fn pending(_: usize) {}
pub(super) fn pool(_: &'static str, _: impl FnOnce() -> Option<PoolState>) {}
pub(crate) fn refused(_: &'static str) {}
