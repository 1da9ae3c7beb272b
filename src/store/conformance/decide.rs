//! The conditions of an append, in their order.

use super::kit::{Check, FAR, Instances, Session, ensure, rebase, same, strict, together, turn};
use crate::policy::Concurrency;
use crate::store::{Append, ErrorKind};
use crate::turn::{Head, Turn};

pub(super) async fn rebase_keeps_a_turn_whose_history_is_old(instances: &Instances) -> Check {
    let session = instances.session();
    let (mut turns, head) = session.fill(3).await?;
    let late = turn("late");
    let answer = session.append(&rebase(&late, Head::new(head.epoch, 1))).await?;
    ensure!(answer.sequence == 4 && answer.head == Head::new(head.epoch, 4), "it stands at {answer:?}");
    turns.push(late);
    session.holds(&turns).await?;
    Ok(())
}

pub(super) async fn strict_refuses_a_turn_whose_history_is_old(instances: &Instances) -> Check {
    let session = instances.session();
    let (turns, head) = session.fill(3).await?;
    for sequence in 0..3 {
        session.refuses(&strict(&turn("late"), Head::new(head.epoch, sequence)), ErrorKind::Conflict).await?;
    }
    session.elsewhere().refuses(&strict(&turn("late"), Head::new(head.epoch, 2)), ErrorKind::Conflict).await?;
    let next = turn("in time");
    session.append(&strict(&next, head)).await?;
    session.holds(&[turns, vec![next]].concat()).await?;
    Ok(())
}

pub(super) async fn of_strict_turns_at_once_one_is_stored(instances: &Instances) -> Check {
    for _ in 0..8 {
        let session = instances.session();
        let (mut turns, head) = session.fill(1).await?;
        one_wins(&session, &mut turns, head).await?;
    }
    Ok(())
}

pub(super) async fn of_strict_first_turns_at_once_one_is_stored(instances: &Instances) -> Check {
    for _ in 0..8 {
        one_wins(&instances.session(), &mut Vec::new(), Head::ABSENT).await?;
    }
    Ok(())
}

async fn one_wins(session: &Session, turns: &mut Vec<Turn>, head: Head) -> Check {
    let rivals: Vec<Turn> = (0..8).map(|number| turn(&format!("rival {number}"))).collect();
    let appends = rivals.iter().enumerate().map(|(index, turn)| {
        let (session, append) = (session.by(index), strict(turn, head));
        async move { session.attempt(&append).await }
    });
    let mut winners = Vec::new();
    for (answer, turn) in together(appends).await?.into_iter().zip(rivals) {
        match answer {
            Ok(_) => winners.push(turn),
            Err(error) => ensure!(error.kind() == ErrorKind::Conflict, "a rival was refused with {error}"),
        }
    }
    ensure!(winners.len() == 1, "{} of 8 strict turns on one head were stored", winners.len());
    turns.append(&mut winners);
    session.holds(turns).await?;
    Ok(())
}

pub(super) async fn two_first_turns_at_once_are_both_kept(instances: &Instances) -> Check {
    for _ in 0..16 {
        let session = instances.session();
        let turns = [turn("one"), turn("two")];
        let appends = turns.clone().into_iter().enumerate().map(|(index, turn)| {
            let session = session.by(index);
            async move { session.append(&rebase(&turn, Head::ABSENT)).await }
        });
        let answers = together(appends).await?.into_iter().collect::<Check<Vec<_>>>()?;
        ensure!(answers[0].head.epoch == answers[1].head.epoch, "two first turns made two epochs: {answers:?}");
        let first_is_first = answers[0].sequence < answers[1].sequence;
        let [one, two] = turns;
        let loaded = session.holds(&if first_is_first { [one, two] } else { [two, one] }).await?;
        ensure!(loaded.head.sequence == 2, "two turns, and the head is {:?}", loaded.head);
    }
    Ok(())
}

pub(super) async fn a_late_first_turn_is_a_conflict_only_when_strict(instances: &Instances) -> Check {
    let session = instances.session();
    let (mut turns, head) = session.fill(2).await?;
    let late = turn("late");
    session.refuses(&strict(&late, Head::ABSENT), ErrorKind::Conflict).await?;
    let answer = session.append(&rebase(&late, Head::ABSENT)).await?;
    ensure!(answer.head == Head::new(head.epoch, 3), "it stands at {answer:?}");
    turns.push(late);
    session.holds(&turns).await?;
    Ok(())
}

pub(super) async fn lost_turns_are_noticed(instances: &Instances) -> Check {
    let session = instances.session();
    let (turns, head) = session.fill(2).await?;
    for sequence in [3, 4, 1_000_000, FAR] {
        let expected = Head::new(head.epoch, sequence);
        session.refuses(&rebase(&turn("next"), expected), ErrorKind::RolledBack).await?;
        session.refuses(&strict(&turn("next"), expected), ErrorKind::RolledBack).await?;
    }
    session.holds(&turns).await?;
    Ok(())
}

/// Another epoch is looked at before the number of turns: in each of these, both are wrong.
pub(super) async fn another_epoch_is_gone_whatever_its_sequence(instances: &Instances) -> Check {
    let session = instances.session();
    let (_, head) = session.fill(3).await?;
    for epoch in [head.epoch - 1, head.epoch + 1, FAR] {
        // Epoch 0 is nobody's: with sequence 0 it says "absent".
        for sequence in if epoch == 0 { 1..1 } else { 0..6 } {
            let expected = Head::new(epoch, sequence);
            session.refuses(&rebase(&turn("next"), expected), ErrorKind::Gone).await?;
            session.refuses(&strict(&turn("next"), expected), ErrorKind::Gone).await?;
        }
    }
    Ok(())
}

pub(super) async fn a_session_that_is_not_there_is_gone(instances: &Instances) -> Check {
    let session = instances.session();
    for expected in [Head::new(1, 0), Head::new(1_700_000_000_000_000, 3)] {
        session.refuses(&rebase(&turn("next"), expected), ErrorKind::Gone).await?;
        session.refuses(&strict(&turn("next"), expected), ErrorKind::Gone).await?;
    }
    ensure!(session.head().await? == Head::ABSENT, "a refused append began a session");
    Ok(())
}

pub(super) async fn without_an_expectation_a_turn_is_always_stored(instances: &Instances) -> Check {
    let session = instances.session();
    let (first, second) = (turn("first"), turn("second"));
    let strictly = |turn: &Turn| Append::unconditional(turn.clone()).concurrency(Concurrency::Strict);
    let began = session.append(&strictly(&first)).await?;
    let answer = session.append(&strictly(&second)).await?;
    ensure!(answer.head == Head::new(began.head.epoch, 2), "it stands at {answer:?}");
    same(&session.all().await?.turns, &[first.clone(), second.clone()])?;
    session.duplicate(&strictly(&first), &first, 1).await?;

    session.delete().await?;
    let after = turn("after the delete");
    let answer = session.append(&strictly(&after)).await?;
    ensure!(answer.sequence == 1 && answer.head.epoch > began.head.epoch, "after a delete it stands at {answer:?}");
    session.holds(&[after]).await?;
    Ok(())
}
