//! Windows, known heads, and turns that are looked for.

use tokio_util::task::AbortOnDropHandle;

use super::kit::{Check, Instances, Session, ensure, same, turn, turn_of, turn_of_bytes};
use crate::message::Message;
use crate::policy::{Retention, Window};
use crate::store::{Append, Loaded, Read};
use crate::turn::{Head, Turn, TurnId};

/// Each window must give the newest turns that [`Window::fit`] says.
async fn fits(session: &Session, turns: &[Turn], head: Head, window: Window) -> Check {
    let fitting = window.fit(turns.iter().rev().map(|turn| (turn.messages().len(), turn.bytes())));
    let loaded = session.load(Read::new(window)).await?;
    let told = |seen| format!("{window:?} of {} turns: {seen}", turns.len());
    same(&loaded.turns, &turns[turns.len() - fitting..]).map_err(told)?;
    ensure!(loaded.head == head, "{window:?} is read at {:?} instead of {head:?}", loaded.head);
    ensure!(loaded.since.is_none(), "{window:?} says since without a known head");
    ensure!(loaded.found.is_none(), "{window:?} finds a turn that nobody looked for");
    Ok(())
}

pub(super) async fn a_window_of_turns_is_filled(instances: &Instances) -> Check {
    let session = instances.session();
    let (turns, head) = session.fill(9).await?;
    for most in [0, 1, 2, 8, 9, 10, usize::MAX - 1] {
        fits(&session, &turns, head, Window::newest(most)).await?;
        fits(&session.elsewhere(), &turns, head, Window::new(most, usize::MAX, usize::MAX)).await?;
    }
    Ok(())
}

pub(super) async fn a_window_of_messages_takes_whole_turns(instances: &Instances) -> Check {
    let session = instances.session();
    let mut turns = Vec::new();
    let mut head = Head::ABSENT;
    for messages in [1, 4, 2, 0, 3] {
        let next = turn_of((0..messages).map(|number| Message::user(format!("message {number}"))).collect());
        head = session.add(&next).await?.head;
        turns.push(next);
    }
    for most in 0..=11 {
        fits(&session, &turns, head, Window::new(usize::MAX, most, usize::MAX)).await?;
    }
    Ok(())
}

pub(super) async fn a_window_of_bytes_takes_whole_turns(instances: &Instances) -> Check {
    let session = instances.session();
    let mut turns = Vec::new();
    let mut head = Head::ABSENT;
    for bytes in [100, 400, 200, 300] {
        let next = turn_of_bytes(bytes);
        head = session.add(&next).await?.head;
        turns.push(next);
    }
    for most in [0, 1, 299, 300, 301, 499, 500, 501, 899, 900, 901, 999, 1_000, 1_001] {
        fits(&session, &turns, head, Window::new(usize::MAX, usize::MAX, most)).await?;
        fits(&session, &turns, head, Window::new(2, usize::MAX, most)).await?;
        fits(&session, &turns, head, Window::new(usize::MAX, 3, most)).await?;
    }
    Ok(())
}

pub(super) async fn the_newest_turn_always_fits(instances: &Instances) -> Check {
    let session = instances.session();
    let (mut turns, _) = session.fill(2).await?;
    let large = turn_of((0..20).map(|number| Message::user(format!("message {number}"))).collect());
    let head = session.add(&large).await?.head;
    turns.push(large);
    for window in
        [Window::new(1, 0, 0), Window::new(9, 1, usize::MAX), Window::new(9, usize::MAX, 1), Window::new(9, 19, 9)]
    {
        fits(&session, &turns, head, window).await?;
    }
    Ok(())
}

pub(super) async fn a_window_of_nothing_gives_the_head(instances: &Instances) -> Check {
    let session = instances.session();
    let (turns, head) = session.fill(2).await?;
    fits(&session, &turns, head, Window::NONE).await?;
    fits(&session, &turns, head, Window::new(0, 9, 9_999)).await
}

pub(super) async fn truncated_says_that_older_turns_are_stored(instances: &Instances) -> Check {
    let session = instances.session();
    let (turns, _) = session.fill(4).await?;
    let narrow = [Window::NONE, Window::newest(3), Window::new(9, 7, 9_999), Window::new(9, 9, turns[3].bytes())];
    for window in narrow {
        ensure!(session.load(Read::new(window)).await?.truncated, "{window:?} of 4 turns does not say truncated");
    }
    for window in [Window::ALL, Window::newest(4), Window::new(4, 8, 9_999)] {
        ensure!(!session.load(Read::new(window)).await?.truncated, "{window:?} of 4 turns says truncated");
    }
    let trims = Append::unconditional(turn("fifth")).retention(Retention::turns(2));
    session.append(&trims).await?;
    ensure!(!session.load(Read::new(Window::newest(2))).await?.truncated, "turns that were trimmed count as stored");
    ensure!(session.load(Read::new(Window::newest(1))).await?.truncated, "1 of 2 turns does not say truncated");
    Ok(())
}

/// Stores four turns, and gives loads of windows that hold all of them or not, knowing each head.
async fn reads_of_four(session: &Session) -> Check<Vec<Read>> {
    let (turns, head) = session.fill(4).await?;
    let narrow = [Window::NONE, Window::newest(3), Window::new(9, 7, 9_999), Window::new(9, 9, turns[3].bytes())];
    let windows = [Window::ALL, Window::newest(4), Window::new(4, 8, 9_999)].into_iter().chain(narrow);
    let knowing = |window| (0..=4).map(move |sequence| Read::new(window).known(Head::new(head.epoch, sequence)));
    Ok(windows.flat_map(knowing).collect())
}

pub(super) async fn beside_what_is_newer_truncated_speaks_of_the_window(instances: &Instances) -> Check {
    let session = instances.session();
    for read in reads_of_four(&session).await? {
        let (whole, loaded) = (session.load(Read::new(read.window)).await?, session.load(read).await?);
        ensure!(
            loaded.kept.is_some() || loaded.truncated == whole.truncated,
            "{read:?} says neither how many turns are kept nor that truncated is {}, as its window is",
            whole.truncated
        );
    }
    Ok(())
}

pub(super) async fn kept_says_how_many_turns_are_stored(instances: &Instances) -> Check {
    let session = instances.session();
    let is = async |read, stored| -> Check {
        let kept = session.load(read).await?.kept;
        ensure!(kept.is_none_or(|kept| kept == stored), "{read:?} says that {kept:?} of {stored} turns are kept");
        Ok(())
    };
    for read in reads_of_four(&session).await? {
        is(read, 4).await?;
        is(Read::new(read.window), 4).await?;
    }
    session.append(&Append::unconditional(turn("fifth")).retention(Retention::turns(2))).await?;
    for window in [Window::ALL, Window::newest(2), Window::newest(1), Window::NONE] {
        let read = Read::new(window);
        is(read, 2).await?;
        let head = session.head().await?;
        for sequence in 0..=head.sequence {
            is(read.known(Head::new(head.epoch, sequence)), 2).await?;
        }
    }
    session.delete().await?;
    is(Read::new(Window::ALL), 0).await
}

/// Only what is newer than `known`, and it says so.
async fn newer(session: &Session, window: Window, known: Head, head: Head, turns: &[Turn]) -> Check {
    let loaded = session.load(Read::new(window).known(known)).await?;
    let told = |seen| format!("knowing {known:?} of {head:?}: {seen}");
    same(&loaded.turns, turns).map_err(told)?;
    ensure!(loaded.since == Some(known), "since is {:?}, and {known:?} was known", loaded.since);
    ensure!(loaded.head == head, "read at {:?} instead of {head:?}", loaded.head);
    Ok(())
}

/// The whole window as if nothing were known.
async fn whole(session: &Session, window: Window, known: Head) -> Check {
    let full = session.load(Read::new(window)).await?;
    let loaded = session.load(Read::new(window).known(known)).await?;
    ensure!(loaded.since.is_none(), "since is {:?}, which does not hold", loaded.since);
    ensure!(loaded == full, "knowing {known:?} gives {} turns, {} fit", loaded.turns.len(), full.turns.len());
    Ok(())
}

pub(super) async fn with_a_known_head_only_what_is_newer_is_loaded(instances: &Instances) -> Check {
    let session = instances.session();
    let (turns, head) = session.fill(6).await?;
    for sequence in 0..=6 {
        let known = Head::new(head.epoch, sequence as u64);
        newer(&session.by(sequence), Window::ALL, known, head, &turns[sequence..]).await?;
        newer(&session, Window::newest(6), known, head, &turns[sequence..]).await?;
    }
    Ok(())
}

pub(super) async fn a_window_that_the_newer_turns_exceed_is_loaded_whole(instances: &Instances) -> Check {
    let session = instances.session();
    let (turns, head) = session.fill(6).await?;
    let known = |sequence| Head::new(head.epoch, sequence);
    for window in [Window::newest(2), Window::new(9, 5, 9_999), Window::new(9, 99, turns[4].bytes() + turns[5].bytes())]
    {
        newer(&session, window, known(6), head, &[]).await?;
        newer(&session, window, known(5), head, &turns[5..]).await?;
        newer(&session, window, known(4), head, &turns[4..]).await?;
        for sequence in 0..4 {
            whole(&session, window, known(sequence)).await?;
        }
    }
    whole(&session, Window::NONE, known(5)).await?;
    newer(&session, Window::NONE, known(6), head, &[]).await
}

pub(super) async fn a_known_head_of_another_life_is_unknown(instances: &Instances) -> Check {
    let session = instances.session();
    let (_, old) = session.fill(3).await?;
    for known in [Head::ABSENT, Head::new(old.epoch - 1, 1), Head::new(old.epoch + 1, 1)] {
        whole(&session, Window::ALL, known).await?;
    }
    session.delete().await?;
    whole(&session, Window::ALL, old).await?;
    session.append(&Append::new(turn("first"), session.head().await?)).await?;
    session.fill(3).await?;
    for known in [old, Head::new(old.epoch, 1), Head::ABSENT] {
        whole(&session.elsewhere(), Window::ALL, known).await?;
    }
    Ok(())
}

pub(super) async fn a_known_head_beyond_the_session_is_unknown(instances: &Instances) -> Check {
    let session = instances.session();
    let (_, head) = session.fill(3).await?;
    for ahead in [1, 2, 1_000] {
        whole(&session, Window::ALL, Head::new(head.epoch, 3 + ahead)).await?;
        whole(&session, Window::newest(2), Head::new(head.epoch, 3 + ahead)).await?;
    }
    Ok(())
}

pub(super) async fn a_known_head_before_trimmed_turns_is_unknown(instances: &Instances) -> Check {
    let session = instances.session();
    let (mut turns, _) = session.fill(6).await?;
    turns.push(turn("seventh"));
    let trims = Append::unconditional(turns[6].clone()).retention(Retention::turns(3));
    let head = session.append(&trims).await?.head;
    let known = |sequence| Head::new(head.epoch, sequence);
    for sequence in 0..4 {
        whole(&session, Window::ALL, known(sequence)).await?;
    }
    for sequence in 4..=7 {
        newer(&session, Window::ALL, known(sequence as u64), head, &turns[sequence..]).await?;
    }
    Ok(())
}

pub(super) async fn a_turn_is_found_wherever_it_stands(instances: &Instances) -> Check {
    let session = instances.session();
    let (turns, head) = session.fill(120).await?;
    for window in [Window::ALL, Window::newest(2), Window::NONE] {
        for turn in [&turns[0], &turns[60], &turns[118], &turns[119]] {
            let read = Read::new(window);
            let (plain, found) = (session.load(read).await?, session.load(read.find(turn.id())).await?);
            ensure!(found.found.as_ref() == Some(turn), "{window:?} does not find the turn that it looks for");
            ensure!(Loaded { found: None, ..found } == plain, "looking for a turn changes what else is loaded");
            let known = session.elsewhere().load(read.known(head).find(turn.id())).await?;
            ensure!(known.found.as_ref() == Some(turn), "a known head hides the turn that is looked for");
            ensure!(
                known.turns.is_empty() && known.since == Some(head),
                "looking for a turn makes a known head unknown"
            );
        }
    }
    Ok(())
}

pub(super) async fn a_turn_of_another_session_is_not_found(instances: &Instances) -> Check {
    let (session, other) = (instances.session(), instances.session());
    let (_, head) = session.fill(2).await?;
    let (others, _) = other.fill(2).await?;
    for id in [others[0].id(), TurnId::random(), TurnId::from_bytes([0; 16])] {
        for read in [Read::new(Window::ALL), Read::new(Window::NONE), Read::new(Window::ALL).known(head)] {
            ensure!(session.load(read.find(id)).await?.found.is_none(), "a turn is found that is not in the session");
        }
    }
    Ok(())
}

/// The number that a turn of [`lives`] has in its life, and the life.
fn place(turn: &Turn) -> Check<(u64, u64)> {
    let text = turn.messages().first().and_then(|message| message.decode::<Numbered>().ok());
    text.map(|text| text.content).ok_or_else(|| "a turn without its message is loaded".to_owned())
}

#[derive(serde::Deserialize)]
struct Numbered {
    content: (u64, u64),
}

/// Writes turns that say where they stand, in several lives, of each of which only the newest are kept.
async fn lives(session: Session, lives: u64, turns: u64, keep: u64) -> Check {
    for life in 1..=lives {
        for number in 1..=turns {
            let text = format!(r#"{{"role":"user","content":[{life},{number}]}}"#);
            let message = Message::from_json(text).map_err(|error| error.to_string())?;
            let append = Append::unconditional(turn_of(vec![message])).retention(Retention::turns(keep));
            session.by(number as usize).append(&append).await?;
        }
        if life < lives {
            session.delete().await?;
        }
    }
    Ok(())
}

/// While turns are appended, trimmed and deleted: head, turns and `truncated` belong together.
pub(super) async fn a_load_is_of_one_moment(instances: &Instances) -> Check {
    const KEEP: u64 = 4;
    let session = instances.session();
    let writer = AbortOnDropHandle::new(tokio::spawn(lives(session.clone(), 6, 15, KEEP)));
    let (mut last, mut done) = (Head::ABSENT, false);
    while !done {
        done = writer.is_finished();
        let loaded = session.elsewhere().load(Read::new(Window::newest(3)).known(last)).await?;
        let head = loaded.head;
        let places = loaded.turns.iter().map(place).collect::<Check<Vec<_>>>()?;
        let newest = head.sequence.min(3) as usize;
        if loaded.since.is_none() {
            ensure!(places.len() == newest, "{} turns fit, {} are loaded at {head:?}", newest, places.len());
        }
        let numbers: Vec<u64> = places.iter().map(|(_, number)| *number).collect();
        let expected: Vec<u64> = (1..=head.sequence).skip(head.sequence as usize - places.len()).collect();
        ensure!(numbers == expected, "turns {numbers:?} are loaded at {head:?}");
        ensure!(places.iter().all(|(life, _)| *life == places[0].0), "turns of two lives are loaded together");
        ensure!(head >= last, "loaded at {head:?} after {last:?}");
        last = head;
        tokio::task::yield_now().await;
    }
    writer.await.map_err(|stopped| stopped.to_string())??;
    ensure!(last.sequence == 15, "the last load is at {last:?}");
    Ok(())
}

/// A reader that keeps what it has loaded and asks for what is newer has, in the end, the history.
pub(super) async fn what_is_newer_completes_what_is_known(instances: &Instances) -> Check {
    let session = instances.session();
    let writer = AbortOnDropHandle::new(tokio::spawn(lives(session.clone(), 4, 25, u64::MAX)));
    let (mut history, mut known, mut done) = (Vec::new(), Head::ABSENT, false);
    while !done {
        done = writer.is_finished();
        let loaded = session.elsewhere().load(Read::new(Window::ALL).known(known)).await?;
        match loaded.since {
            Some(since) => ensure!(since == known, "since is {since:?}, and {known:?} was known"),
            None => history.clear(),
        }
        history.extend(loaded.turns);
        known = loaded.head;
        let count = history.len() as u64;
        ensure!(count == known.sequence, "joined to {count} turns at {known:?}");
        tokio::task::yield_now().await;
    }
    writer.await.map_err(|stopped| stopped.to_string())??;
    session.holds(&history).await?;
    Ok(())
}
