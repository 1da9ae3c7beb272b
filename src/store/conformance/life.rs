//! Sessions with an end of life. A witness with the same life says when it is over, so nothing here
//! waits for a fixed time.

use std::time::{Duration, Instant};

use super::kit::{Check, Instances, ensure, rebase, strict, turn};
use crate::policy::Window;
use crate::store::{Append, Deleted, ErrorKind, Loaded, Read};
use crate::turn::{Head, Turn};

const SHORT: Duration = Duration::from_millis(400);
const HOUR: Duration = Duration::from_secs(3600);

fn living(turn: &Turn, ttl: Option<Duration>) -> Append {
    Append::unconditional(turn.clone()).ttl(ttl)
}

pub(super) async fn a_session_expires(instances: &Instances) -> Check {
    let session = instances.session();
    let began = Instant::now();
    session.append(&living(&turn("hello"), Some(SHORT))).await?;
    session.expires(began, SHORT).await?;
    ensure!(session.elsewhere().all().await? == Loaded::absent(), "the other instance still has it");
    Ok(())
}

pub(super) async fn a_session_without_a_ttl_lives(instances: &Instances) -> Check {
    outlives(instances, |first, ttl| (living(first, Some(ttl)), living(&turn("next"), None))).await
}

pub(super) async fn an_append_extends_the_life(instances: &Instances) -> Check {
    outlives(instances, |first, ttl| (living(first, Some(ttl)), living(&turn("next"), Some(HOUR)))).await
}

pub(super) async fn a_duplicate_extends_the_life(instances: &Instances) -> Check {
    outlives(instances, |first, ttl| (living(first, Some(ttl)), living(first, Some(HOUR)))).await
}

pub(super) async fn a_life_longer_than_any_clock_is_for_ever(instances: &Instances) -> Check {
    outlives(instances, |first, ttl| (living(first, Some(ttl)), living(first, Some(Duration::MAX)))).await
}

/// The first append gives the session a short life, the second one extends it: it must be there
/// when a witness that began its short life later has expired.
async fn outlives(instances: &Instances, appends: impl Fn(&Turn, Duration) -> (Append, Append)) -> Check {
    for ttl in [SHORT, 4 * SHORT, 16 * SHORT] {
        let (session, witness) = (instances.session(), instances.session());
        let (first, second) = appends(&turn("first"), ttl);
        let began = Instant::now();
        let before = session.append(&first).await?;
        session.elsewhere().append(&second).await?;
        if began.elapsed() > ttl / 2 {
            // A machine this slow cannot tell; give it more time.
            continue;
        }
        let began = Instant::now();
        witness.append(&living(&turn("witness"), Some(ttl))).await?;
        witness.expires(began, ttl).await?;
        let after = session.head().await?;
        ensure!(after.epoch == before.head.epoch, "a session whose life was extended is at {after:?}");
        return Ok(());
    }
    Err(format!("two appends took longer than {:?}", 8 * SHORT))
}

pub(super) async fn an_append_can_shorten_the_life(instances: &Instances) -> Check {
    for long in [None, Some(HOUR)] {
        let session = instances.session();
        session.append(&living(&turn("first"), long)).await?;
        let began = Instant::now();
        session.append(&living(&turn("second"), Some(SHORT))).await?;
        session.expires(began, SHORT).await?;
    }
    Ok(())
}

/// A life of no time is over at once; it is not an error, and not for ever.
pub(super) async fn the_shortest_lives_end(instances: &Instances) -> Check {
    for ttl in [Duration::ZERO, Duration::from_nanos(1), Duration::from_micros(1_500)] {
        let session = instances.session();
        let began = Instant::now();
        session.append(&living(&turn("brief"), Some(ttl))).await?;
        session.expires(began, ttl).await.map_err(|seen| format!("a life of {ttl:?}: {seen}"))?;
    }
    Ok(())
}

pub(super) async fn a_turn_loaded_before_the_session_expired_is_gone(instances: &Instances) -> Check {
    let session = instances.session();
    let began = Instant::now();
    let old = session.append(&living(&turn("hello"), Some(SHORT))).await?.head;
    session.expires(began, SHORT).await?;
    session.refuses(&rebase(&turn("in flight"), old), ErrorKind::Gone).await?;
    session.elsewhere().refuses(&strict(&turn("in flight"), old), ErrorKind::Gone).await?;
    session.add(&turn("begun anew")).await?;
    session.refuses(&rebase(&turn("in flight"), old), ErrorKind::Gone).await
}

pub(super) async fn an_expired_session_can_be_begun_anew(instances: &Instances) -> Check {
    let session = instances.session();
    let (first, began) = (turn("first"), Instant::now());
    let old = session.append(&living(&first, Some(SHORT))).await?.head;
    session.expires(began, SHORT).await?;
    let found = session.load(Read::new(Window::ALL).known(old).find(first.id())).await?;
    ensure!(found == Loaded::absent(), "of an expired session {found:?} is loaded");
    ensure!(session.delete().await? == Deleted::new(0), "turns of an expired session were deleted");

    // The same turn again: its first life is over, so it is no duplicate.
    let answer = session.append(&rebase(&first, session.head().await?)).await?;
    ensure!(answer.duplicate_of.is_none(), "a turn of the expired life was found");
    ensure!(answer.head.epoch > old.epoch, "the epoch was {}, and is {}", old.epoch, answer.head.epoch);
    ensure!(answer.head.sequence == 1, "the new life begins at {:?}", answer.head);
    session.elsewhere().holds(&[first]).await?;
    Ok(())
}

pub(super) async fn two_first_turns_after_an_expiry_are_both_kept(instances: &Instances) -> Check {
    let session = instances.session();
    let began = Instant::now();
    session.append(&living(&turn("hello"), Some(SHORT))).await?;
    session.expires(began, SHORT).await?;
    ensure!(session.head().await? == Head::ABSENT, "an expired session has a head");
    let (one, two) = (turn("one"), turn("two"));
    session.append(&rebase(&one, Head::ABSENT)).await?;
    session.elsewhere().append(&rebase(&two, Head::ABSENT)).await?;
    session.holds(&[one, two]).await?;
    Ok(())
}
