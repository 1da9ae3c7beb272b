//! What is kept of a session.

use super::kit::{Check, Instances, ensure, rebase, same, strict, turn, turn_of, turn_of_bytes};
use crate::message::Message;
use crate::policy::{Retention, Window};
use crate::store::{Append, ErrorKind, Read};
use crate::turn::{Head, Turn};

fn keeping(turn: &Turn, retention: Retention) -> Append {
    Append::unconditional(turn.clone()).retention(retention)
}

pub(super) async fn by_turns_the_newest_are_kept(instances: &Instances) -> Check {
    let session = instances.session();
    let turns: Vec<Turn> = (1..=7).map(|number| turn(&format!("turn {number}"))).collect();
    for (index, turn) in turns.iter().enumerate() {
        let number = index + 1;
        let answer = session.by(index).append(&keeping(turn, Retention::turns(3))).await?;
        ensure!(answer.sequence == number as u64, "turn {number} was given the number {}", answer.sequence);
        let loaded = session.holds(&turns[number.saturating_sub(3)..number]).await?;
        ensure!(loaded.head.sequence == number as u64, "trimmed turns are not counted: {:?}", loaded.head);
        ensure!(!loaded.truncated, "trimmed turns are not in the store, and truncated says so");
    }
    Ok(())
}

pub(super) async fn by_bytes_whole_oldest_turns_go(instances: &Instances) -> Check {
    let session = instances.session();
    let turns: Vec<Turn> = [300, 200, 100, 100, 250].map(turn_of_bytes).into();
    let kept = [0..1, 0..2, 1..3, 1..4, 3..5];
    for (index, (turn, kept)) in turns.iter().zip(kept).enumerate() {
        let most = if index == 1 { 500 } else { 400 };
        session.append(&keeping(turn, Retention::bytes(most))).await?;
        let seen = session.holds(&turns[kept]).await;
        seen.map_err(|seen| format!("after turn {} of at most {most} bytes: {seen}", index + 1))?;
    }
    Ok(())
}

pub(super) async fn the_newest_turn_is_never_trimmed(instances: &Instances) -> Check {
    for retention in [Retention::turns(0), Retention::turns(1), Retention::bytes(0), Retention::bytes(10)] {
        let session = instances.session();
        for number in 1..=3 {
            let next = turn(&format!("turn {number}"));
            session.append(&keeping(&next, retention)).await?;
            let loaded = session.holds(&[next]).await.map_err(|seen| format!("{retention:?}: {seen}"))?;
            ensure!(loaded.head.sequence == number, "after turn {number} the head is {:?}", loaded.head);
        }
    }
    Ok(())
}

pub(super) async fn the_default_keeps_everything(instances: &Instances) -> Check {
    let session = instances.session();
    let (turns, _) = session.fill(120).await?;
    session.elsewhere().holds(&turns).await?;
    Ok(())
}

pub(super) async fn a_shorter_retention_trims_what_was_kept_before(instances: &Instances) -> Check {
    let session = instances.session();
    let (mut turns, _) = session.fill(6).await?;
    let next = turn("next");
    session.append(&keeping(&next, Retention::turns(2))).await?;
    turns.push(next);
    session.holds(&turns[5..]).await?;

    // What was trimmed does not come back under a longer one.
    let last = turn("last");
    let answer = session.append(&keeping(&last, Retention::turns(100))).await?;
    ensure!(answer.sequence == 8, "the eighth turn was given the number {}", answer.sequence);
    turns.push(last);
    session.elsewhere().holds(&turns[5..]).await?;
    Ok(())
}

pub(super) async fn a_trimmed_session_goes_on_as_before(instances: &Instances) -> Check {
    let session = instances.session();
    let (turns, _) = session.fill(4).await?;
    let fifth = turn("fifth");
    let head = session.append(&keeping(&fifth, Retention::turns(2))).await?.head;
    session.refuses(&strict(&turn("late"), Head::new(head.epoch, 4)), ErrorKind::Conflict).await?;
    session.refuses(&rebase(&turn("lost"), Head::new(head.epoch, 6)), ErrorKind::RolledBack).await?;
    session.duplicate(&keeping(&turns[3], Retention::turns(2)), &turns[3], 4).await?;
    session.duplicate(&keeping(&fifth, Retention::turns(2)), &fifth, 5).await?;
    let sixth = turn("sixth");
    let answer = session.append(&strict(&sixth, head)).await?;
    ensure!(answer.head == Head::new(head.epoch, 6), "the sixth turn stands at {answer:?}");
    session.holds(&[turns[3].clone(), fifth, sixth]).await?;
    Ok(())
}

pub(super) async fn the_id_of_a_trimmed_turn_is_free(instances: &Instances) -> Check {
    let session = instances.session();
    let (turns, _) = session.fill(2).await?;
    let third = turn("third");
    let head = session.append(&keeping(&third, Retention::turns(1))).await?.head;
    let found = session.load(Read::new(Window::ALL).find(turns[0].id())).await?.found;
    ensure!(found.is_none(), "a trimmed turn is found");
    let answer = session.append(&strict(&turns[0], head)).await?;
    ensure!(answer.duplicate_of.is_none() && answer.sequence == 4, "the trimmed turn's id gives {answer:?}");
    same(&session.all().await?.turns, &[third, turns[0].clone()])
}

pub(super) async fn by_bytes_messages_are_counted_and_nothing_else(instances: &Instances) -> Check {
    let session = instances.session();
    let turns: Vec<Turn> =
        (0..3).map(|_| turn_of(vec![Message::user("grüß dich"), Message::assistant("\u{0}😀")])).collect();
    let exactly = turns.iter().map(Turn::bytes).sum::<usize>() as u64;
    for turn in &turns {
        session.append(&keeping(turn, Retention::bytes(exactly))).await?;
    }
    session.holds(&turns).await?;
    let one_more = turn_of_bytes(turns[0].bytes() + 1);
    session.append(&keeping(&one_more, Retention::bytes(exactly))).await?;
    session.holds(&[turns[2].clone(), one_more]).await?;
    Ok(())
}
