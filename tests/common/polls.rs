//! Callers that leave.

use std::future::Future;
use std::pin::pin;
use std::task::Poll;

/// Polls a future this often and drops it; whether it ended before.
pub async fn dropped_after<F: Future>(polls: usize, future: F) -> bool {
    let mut future = pin!(future);
    let mut left = polls;
    std::future::poll_fn(|context| {
        if left == 0 {
            return Poll::Ready(false);
        }
        left -= 1;
        future.as_mut().poll(context).map(|_| true)
    })
    .await
}
