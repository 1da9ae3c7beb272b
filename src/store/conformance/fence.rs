//! Deleted is deleted.

use super::kit::{Check, Instances, ensure, rebase, strict, together, turn};
use crate::policy::Window;
use crate::store::{Append, Deleted, ErrorKind, Read};
use crate::turn::Head;

pub(super) async fn a_deleted_session_has_no_turns(instances: &Instances) -> Check {
    let session = instances.session();
    let (turns, old) = session.fill(3).await?;
    let deleted = session.delete().await?;
    ensure!(deleted == Deleted::new(3), "3 turns were deleted, the answer says {deleted:?}");
    for session in [session.clone(), session.elsewhere()] {
        for known in [Head::ABSENT, Head::new(old.epoch, 1), old] {
            for turn in &turns {
                let read = Read::new(Window::ALL).known(known).find(turn.id());
                let loaded = session.load(read).await?;
                ensure!(loaded.turns.is_empty(), "a turn of the deleted session is loaded");
                ensure!(loaded.found.is_none(), "a turn of the deleted session is found");
                ensure!(!loaded.truncated, "the deleted session is said to have older turns");
                ensure!(loaded.since.is_none(), "the head of a deleted life is taken for known");
            }
        }
    }
    Ok(())
}

pub(super) async fn a_deleted_session_tells_its_next_head(instances: &Instances) -> Check {
    let session = instances.session();
    let (_, old) = session.fill(2).await?;
    session.delete().await?;
    let next = session.elsewhere().head().await?;
    ensure!(next.epoch > old.epoch && next.sequence == 0, "after a delete at {old:?} the head is {next:?}");
    ensure!(session.head().await? == next, "the next head changes from load to load");
    Ok(())
}

pub(super) async fn a_turn_loaded_before_a_delete_is_gone(instances: &Instances) -> Check {
    let session = instances.session();
    let (turns, old) = session.fill(2).await?;
    session.elsewhere().delete().await?;
    for expected in [old, Head::new(old.epoch, 1), Head::new(old.epoch, 0), Head::new(old.epoch, 9)] {
        session.refuses(&rebase(&turn("in flight"), expected), ErrorKind::Gone).await?;
        session.refuses(&strict(&turn("in flight"), expected), ErrorKind::Gone).await?;
    }
    // Its id is one the deleted life had: not a duplicate either.
    session.refuses(&rebase(&turns[1], old), ErrorKind::Gone).await?;
    Ok(())
}

pub(super) async fn a_first_turn_loaded_before_a_delete_is_gone(instances: &Instances) -> Check {
    let session = instances.session();
    let in_flight = rebase(&turn("in flight"), session.head().await?);
    session.elsewhere().fill(1).await?;
    session.elsewhere().delete().await?;
    session.refuses(&in_flight, ErrorKind::Gone).await?;
    let begun = turn("begun anew");
    session.append(&rebase(&begun, session.head().await?)).await?;
    session.refuses(&in_flight, ErrorKind::Gone).await?;
    session.holds(&[begun]).await?;
    Ok(())
}

pub(super) async fn a_deleted_session_can_be_begun_anew(instances: &Instances) -> Check {
    let session = instances.session();
    let (_, old) = session.fill(3).await?;
    session.delete().await?;
    let next = session.head().await?;
    let (first, second) = (turn("first"), turn("second"));
    let answer = session.append(&strict(&first, next)).await?;
    ensure!(answer.sequence == 1 && answer.head.sequence == 1, "the first turn of the new life is {answer:?}");
    ensure!(answer.head.epoch > old.epoch, "the epoch was {}, and is {}", old.epoch, answer.head.epoch);
    let answer = session.elsewhere().append(&strict(&second, answer.head)).await?;
    ensure!(answer.sequence == 2, "the second turn of the new life is {answer:?}");
    session.holds(&[first, second]).await?;
    session.refuses(&rebase(&turn("in flight"), old), ErrorKind::Gone).await
}

pub(super) async fn turns_loaded_after_a_delete_are_like_any_two_first_turns(instances: &Instances) -> Check {
    let session = instances.session();
    session.fill(1).await?;
    session.delete().await?;
    let next = session.head().await?;
    let (one, two) = (turn("one"), turn("two"));
    session.append(&rebase(&one, next)).await?;
    session.refuses(&strict(&two, next), ErrorKind::Conflict).await?;
    session.elsewhere().append(&rebase(&two, next)).await?;
    session.holds(&[one, two]).await?;
    Ok(())
}

pub(super) async fn every_life_has_a_larger_epoch(instances: &Instances) -> Check {
    let session = instances.session();
    let mut epochs = Vec::new();
    for life in 0..5 {
        let answer = session.by(life).append(&rebase(&turn("hello"), session.head().await?)).await?;
        epochs.push(answer.head.epoch);
        ensure!(answer.head.sequence == 1, "a life begins at {:?}", answer.head);
        ensure!(session.delete().await? == Deleted::new(1), "a life of one turn was deleted otherwise");
    }
    ensure!(epochs.is_sorted_by(|a, b| a < b), "the epochs of five lives: {epochs:?}");
    Ok(())
}

pub(super) async fn deleting_what_is_not_there_is_ok(instances: &Instances) -> Check {
    let session = instances.session();
    for _ in 0..2 {
        ensure!(session.delete().await? == Deleted::new(0), "turns of a session that nobody began were deleted");
    }
    session.fill(1).await?;
    session.delete().await?;
    ensure!(session.delete().await? == Deleted::new(0), "the turns of one session were deleted twice");
    let next = turn("next");
    session.append(&rebase(&next, session.head().await?)).await?;
    session.holds(&[next]).await?;
    Ok(())
}

/// Appends of the old life race with the delete: each is stored before it or refused after it.
pub(super) async fn no_turn_outlives_a_delete_that_it_races_with(instances: &Instances) -> Check {
    for round in 0..8 {
        let session = instances.session();
        let (_, old) = session.fill(2).await?;
        let calls = (0..8).map(|index| {
            let session = session.by(index + round);
            async move {
                if index == 4 {
                    session.delete().await?;
                    let loaded = session.elsewhere().all().await?;
                    ensure!(loaded.turns.is_empty(), "{} turns after the delete was acknowledged", loaded.turns.len());
                    return Ok(());
                }
                match session.attempt(&Append::new(turn("in flight"), old)).await {
                    Err(error) if error.kind() != ErrorKind::Gone => Err(format!("refused with {error}")),
                    _ => Ok(()),
                }
            }
        });
        together(calls).await?.into_iter().collect::<Check>()?;
        session.holds(&[]).await?;
        session.refuses(&rebase(&turn("late"), old), ErrorKind::Gone).await?;
    }
    Ok(())
}
