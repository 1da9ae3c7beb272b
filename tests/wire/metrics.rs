//! A turn that is lost behind its client's back is counted.

use crate::counted::Counted;
use crate::departures::{When, check};
use crate::leaving::BOTH;
use crate::support::Mood;

#[tokio::test]
async fn a_client_that_left_while_the_store_fails_is_counted_and_nothing_stays_pending() {
    for protocol in BOTH {
        for (when, status) in [
            (When::BeforeHead, "interrupted"),
            (When::MidBody, "interrupted"),
            (When::CommitBeforeHead, "complete"),
            (When::CommitInBody, "complete"),
        ] {
            let counted = Counted::begin();
            check(protocol, when, Mood::FailingLate).await;
            let all = counted.all();
            let commits = format!("session_memory_commits_total store=memory,outcome=unavailable,status={status}");
            assert_eq!(all.counters[&commits], 1, "{protocol:?} {when:?} {all:?}");
            assert_eq!(all.counters["session_memory_handovers_total store=memory"], 1, "{protocol:?} {when:?}");
            assert_eq!(all.gauges["session_memory_pending"], 0.0, "{protocol:?} {when:?}");
        }
    }
}
