//! Order, numbers, and many writers at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use super::kit::{Check, Instances, ensure, rebase, same, together, turn};
use crate::turn::{Head, Turn};

pub(super) async fn turns_are_numbered_without_gaps(instances: &Instances) -> Check {
    let session = instances.session();
    let mut turns = Vec::new();
    let mut head = Head::ABSENT;
    for number in 1..=20 {
        let next = turn(&format!("turn {number}"));
        let answer = session.by(number).append(&rebase(&next, head)).await?;
        ensure!(answer.sequence == number as u64, "turn {number} was given the number {}", answer.sequence);
        ensure!(answer.head.sequence == number as u64, "after turn {number} the head is {:?}", answer.head);
        ensure!(head == Head::ABSENT || answer.head.epoch == head.epoch, "the epoch changed without a delete");
        head = answer.head;
        turns.push(next);
    }
    for session in [session.clone(), session.elsewhere()] {
        let loaded = session.holds(&turns).await?;
        ensure!(loaded.head == head, "append answered {head:?}, load {:?}", loaded.head);
    }
    Ok(())
}

pub(super) async fn fifty_turns_at_once_are_all_kept(instances: &Instances) -> Check {
    let session = instances.session();
    let first = turn("first");
    let head = session.add(&first).await?.head;
    let turns: Vec<Turn> = (0..50).map(|number| turn(&format!("turn {number}"))).collect();
    let appends = turns.iter().enumerate().map(|(index, turn)| {
        let (session, append) = (session.by(index), rebase(turn, head));
        async move { session.append(&append).await }
    });
    let mut numbered = vec![(1, first)];
    for (answer, turn) in together(appends).await?.into_iter().zip(turns) {
        let answer = answer?;
        ensure!(answer.duplicate_of.is_none(), "a new turn was taken for a duplicate");
        ensure!(answer.head.epoch == head.epoch, "the epoch changed without a delete");
        numbered.push((answer.sequence, turn));
    }
    numbered.sort_by_key(|(sequence, _)| *sequence);
    for (index, (sequence, _)) in numbered.iter().enumerate() {
        ensure!(*sequence == index as u64 + 1, "number {sequence} at place {}: a gap, or a number twice", index + 1);
    }
    let turns: Vec<Turn> = numbered.into_iter().map(|(_, turn)| turn).collect();
    let loaded = session.holds(&turns).await?;
    ensure!(loaded.head.sequence == 51, "51 turns, and the head is {:?}", loaded.head);
    session.elsewhere().holds(&turns).await?;
    Ok(())
}

/// 16 writers and a reader at either instance: what a reader has seen never changes, and holds all
/// that was acknowledged before it asked.
pub(super) async fn readers_see_a_growing_prefix_of_whole_turns(instances: &Instances) -> Check {
    const WRITERS: usize = 16;
    const EACH: usize = 6;
    let session = instances.session();
    let acknowledged = Arc::new(AtomicUsize::new(0));
    let done = Arc::new(AtomicBool::new(false));
    let writers = (0..WRITERS).map(|writer| {
        let (session, acknowledged) = (session.by(writer), acknowledged.clone());
        async move {
            let mut written = Vec::new();
            for number in 0..EACH {
                let next = turn(&format!("writer {writer}, turn {number}"));
                session.add(&next).await?;
                acknowledged.fetch_add(1, Ordering::SeqCst);
                written.push(next);
            }
            Check::Ok(written)
        }
    });
    let readers = (0..2).map(|reader| {
        let (session, acknowledged, done) = (session.by(reader), acknowledged.clone(), done.clone());
        async move {
            let mut seen: Vec<Turn> = Vec::new();
            loop {
                let last = done.load(Ordering::SeqCst);
                let durable = acknowledged.load(Ordering::SeqCst);
                let loaded = session.all().await?;
                let turns = loaded.turns;
                ensure!(loaded.head.sequence == turns.len() as u64, "{} turns at {:?}", turns.len(), loaded.head);
                ensure!(turns.len() >= durable, "{durable} turns were acknowledged, {} loaded", turns.len());
                ensure!(turns.len() >= seen.len(), "{} turns after {} had been seen", turns.len(), seen.len());
                same(&turns[..seen.len()], &seen)?;
                let whole = turns[seen.len()..].iter().all(|turn| turn.messages().len() == 2);
                ensure!(whole, "a turn was seen with a part of its messages");
                seen = turns;
                if last {
                    return Ok(seen);
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    });
    let readers = tokio::spawn(together(readers.collect::<Vec<_>>()));
    let writers = together(writers).await;
    done.store(true, Ordering::SeqCst);
    let readers = readers.await.map_err(|stopped| stopped.to_string())??;
    let mut written: Vec<Turn> = writers?.into_iter().collect::<Check<Vec<_>>>()?.into_iter().flatten().collect();
    written.sort_by_key(Turn::id);
    let mut histories = readers.into_iter().collect::<Check<Vec<_>>>()?;
    ensure!(histories[0] == histories[1], "two readers saw the turns in different orders");
    for history in &histories {
        for writer in 0..WRITERS {
            let own = format!("writer {writer}, ");
            let numbers: Vec<&str> = history
                .iter()
                .filter_map(|turn| turn.messages()[0].json().split_once(&own))
                .map(|(_, rest)| rest)
                .collect();
            ensure!(numbers.is_sorted(), "a writer's turns stand in another order than it was answered");
        }
    }
    let mut history = histories.remove(0);
    history.sort_by_key(Turn::id);
    same(&history, &written)
}

/// A session under attack may answer slowly, or that it is too busy; others must not feel more of it.
pub(super) async fn a_thousand_turns_at_once_harm_no_other_session(instances: &Instances) -> Check {
    let (crowded, quiet) = (instances.session(), instances.session());
    let turns: Vec<Turn> = (0..instances.crowd_size()).map(|number| turn(&format!("turn {number}"))).collect();
    let crowd = turns.iter().enumerate().map(|(index, turn)| {
        let (session, append) = (crowded.by(index), rebase(turn, Head::ABSENT));
        async move { (append.turn.id(), session.attempt(&append).await) }
    });
    let crowd = tokio::spawn(together(crowd.collect::<Vec<_>>()));
    let (_, head) = quiet.fill(20).await.map_err(|seen| format!("a quiet session next to a crowded one: {seen}"))?;
    ensure!(quiet.elsewhere().head().await? == head, "a quiet session's head is not where its last turn left it");
    let answers = crowd.await.map_err(|stopped| stopped.to_string())??;
    let stored = crowded.all().await?.turns;
    for (id, answer) in answers {
        let count = stored.iter().filter(|turn| turn.id() == id).count();
        match answer {
            Ok(_) => ensure!(count == 1, "an acknowledged turn is stored {count} times"),
            Err(error) if error.kind().is_ambiguous() => ensure!(count <= 1, "a turn is stored {count} times"),
            Err(error) if error.kind().is_temporary() => ensure!(count == 0, "{error}, and the turn is stored"),
            Err(error) => return Err(format!("one of many first turns was refused: {error}")),
        }
    }
    Ok(())
}
