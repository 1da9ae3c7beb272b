//! One turn id, one turn.

use super::kit::{Check, FAR, Instances, Session, ensure, rebase, same, strict, together, turn, turn_of};
use crate::message::Message;
use crate::store::{Append, ErrorKind};
use crate::turn::{Head, Turn, TurnStatus};

pub(super) async fn a_second_attempt_is_answered_as_a_duplicate(instances: &Instances) -> Check {
    let session = instances.session();
    let (turns, _) = session.fill(1).await?;
    session.duplicate(&Append::unconditional(turns[0].clone()), &turns[0], 1).await?;
    session.duplicate(&rebase(&turns[0], Head::ABSENT), &turns[0], 1).await
}

pub(super) async fn a_second_attempt_at_another_instance_is_a_duplicate(instances: &Instances) -> Check {
    let session = instances.session();
    let (turns, head) = session.fill(2).await?;
    session.elsewhere().duplicate(&rebase(&turns[1], head), &turns[1], 2).await
}

pub(super) async fn a_second_attempt_after_later_turns_is_a_duplicate(instances: &Instances) -> Check {
    let session = instances.session();
    let (turns, head) = session.fill(12).await?;
    for (index, turn) in turns.iter().enumerate() {
        session.duplicate(&rebase(turn, Head::new(head.epoch, index as u64)), turn, index as u64 + 1).await?;
    }
    Ok(())
}

pub(super) async fn the_turn_that_was_stored_first_is_the_one_that_stays(instances: &Instances) -> Check {
    let session = instances.session();
    let (turns, head) = session.fill(2).await?;
    let other = Turn::new(turns[0].id(), TurnStatus::Interrupted, vec![Message::user("another text")]);
    session.duplicate(&rebase(&other, head), &turns[0], 1).await?;
    session.holds(&turns).await?;
    Ok(())
}

/// Steps 2 to 4 would refuse each of these attempts, were step 1 not before them.
pub(super) async fn a_duplicate_is_found_before_any_other_condition(instances: &Instances) -> Check {
    let session = instances.session();
    let (turns, head) = session.fill(3).await?;
    let Head { epoch, sequence } = head;
    let heads = [
        Head::ABSENT,
        Head::new(epoch, 0),
        Head::new(epoch, 1),
        head,
        Head::new(epoch, sequence + 1),
        Head::new(epoch, FAR),
        Head::new(epoch - 1, 1),
        Head::new(epoch + 1, 0),
        Head::new(FAR, 9),
    ];
    for expected in heads {
        for (index, turn) in turns.iter().enumerate() {
            for append in [rebase(turn, expected), strict(turn, expected)] {
                let answer = session.duplicate(&append, turn, index as u64 + 1).await;
                answer.map_err(|seen| format!("expecting {expected:?} of a session at {head:?}: {seen}"))?;
            }
        }
    }
    Ok(())
}

pub(super) async fn a_duplicate_beyond_every_usual_window_is_found(instances: &Instances) -> Check {
    let session = instances.session();
    let (turns, head) = session.fill(150).await?;
    session.duplicate(&strict(&turns[0], head), &turns[0], 1).await?;
    session.elsewhere().duplicate(&rebase(&turns[75], head), &turns[75], 76).await
}

pub(super) async fn one_id_in_two_sessions_is_two_turns(instances: &Instances) -> Check {
    let (one, other) = (instances.session(), instances.session());
    let shared = turn("the same id");
    for session in [&one, &other] {
        let answer = session.append(&rebase(&shared, Head::ABSENT)).await?;
        ensure!(answer.duplicate_of.is_none(), "the id of another session's turn was taken for a duplicate");
    }
    one.holds(std::slice::from_ref(&shared)).await?;
    other.holds(&[shared]).await?;
    Ok(())
}

pub(super) async fn an_id_of_a_deleted_session_is_free(instances: &Instances) -> Check {
    let session = instances.session();
    let (turns, _) = session.fill(2).await?;
    session.delete().await?;
    let answer = session.append(&rebase(&turns[0], session.head().await?)).await?;
    ensure!(answer.duplicate_of.is_none(), "a turn of the deleted life was found");
    session.holds(&turns[..1]).await?;
    Ok(())
}

pub(super) async fn a_refused_id_may_be_used_again(instances: &Instances) -> Check {
    let session = instances.session();
    let (mut turns, head) = session.fill(2).await?;
    let next = turn("next");
    session.refuses(&strict(&next, Head::new(head.epoch, 1)), ErrorKind::Conflict).await?;
    let answer = session.append(&strict(&next, head)).await?;
    ensure!(answer.duplicate_of.is_none(), "a refused attempt left its id behind");
    turns.push(next);
    session.holds(&turns).await?;
    Ok(())
}

/// Each of 24 turns arrives one to three times, all at once, at both instances.
pub(super) async fn turns_delivered_many_times_at_once_are_stored_once(instances: &Instances) -> Check {
    let session = instances.session();
    let turns: Vec<Turn> = (0..24).map(|number| turn(&format!("turn {number}"))).collect();
    let attempts = turns.iter().enumerate().flat_map(|(number, turn)| {
        let by = session.clone();
        (0..=number % 3).map(move |time| (by.by(number + time), turn.clone()))
    });
    let append = |(session, turn): (Session, Turn)| async move { (turn.id(), session.add(&turn).await) };
    let answers = together(attempts.map(append).collect::<Vec<_>>()).await?;
    let mut stored = Vec::new();
    for (id, answer) in answers {
        if answer?.duplicate_of.is_none() {
            stored.push(id);
        }
    }
    let loaded = session.all().await?;
    ensure!(loaded.turns.len() == turns.len(), "{} turns, {} were sent", loaded.turns.len(), turns.len());
    ensure!(stored.len() == turns.len(), "{} attempts were told that they stored a turn", stored.len());
    let mut sorted = loaded.turns.clone();
    sorted.sort_by_key(Turn::id);
    let mut expected = turns;
    expected.sort_by_key(Turn::id);
    same(&sorted, &expected)
}

/// The same attempt again and again, as a client does that never hears an answer.
pub(super) async fn one_first_turn_delivered_many_times_at_once_is_stored_once(instances: &Instances) -> Check {
    for _ in 0..8 {
        let session = instances.session();
        let first = turn_of(vec![Message::user("is anybody there?")]);
        let attempts = (0..8).map(|time| {
            let (session, append) = (session.by(time), strict(&first, Head::ABSENT));
            async move { session.append(&append).await }
        });
        let mut stored = 0;
        for answer in together(attempts).await? {
            let answer = answer?;
            ensure!(answer.sequence == 1, "the only turn stands at {}", answer.sequence);
            stored += usize::from(answer.duplicate_of.is_none());
        }
        ensure!(stored == 1, "{stored} of 8 attempts were told that they stored the turn");
        session.holds(&[first]).await?;
    }
    Ok(())
}
