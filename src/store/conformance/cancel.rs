//! Futures that are dropped: at each of their first polls, and after random times.

use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use super::kit::{Check, Instances, Session, ensure, rebase, same, strict, told, turn, turn_of};
use crate::key::Scope;
use crate::message::Message;
use crate::policy::Window;
use crate::store::{Page, Read, Store};
use crate::turn::{Head, Turn};

/// When a future is dropped.
#[derive(Debug, Clone, Copy)]
enum Cut {
    /// After so many polls.
    Polls(usize),
    /// After so long.
    After(Duration),
}

impl Cut {
    /// A schedule of cuts, from before the first poll to far beyond the usual end.
    fn all() -> impl Iterator<Item = Self> {
        let polls = (0..24).map(Self::Polls);
        let times = (0..24).map(|_| {
            let [low, high, ..] = crate::hex::random_16();
            Self::After(Duration::from_micros(u64::from(u16::from_be_bytes([high % 16, low]))))
        });
        polls.chain(times)
    }

    /// The future's output, unless it was dropped before.
    async fn drive<F: Future>(self, future: F) -> Option<F::Output> {
        match self {
            Self::After(time) => tokio::time::timeout(time, future).await.ok(),
            Self::Polls(mut left) => {
                let mut future = pin!(future);
                std::future::poll_fn(move |context| {
                    let Some(rest) = left.checked_sub(1) else { return Poll::Ready(None) };
                    left = rest;
                    match future.as_mut().poll(context) {
                        Poll::Ready(output) => Poll::Ready(Some(output)),
                        Poll::Pending if left == 0 => Poll::Ready(None),
                        Poll::Pending => Poll::Pending,
                    }
                })
                .await
            }
        }
    }
}

pub(super) async fn a_dropped_append_is_stored_whole_or_not_at_all(instances: &Instances) -> Check {
    let session = instances.session();
    let mut turns: Vec<Turn> = Vec::new();
    for cut in Cut::all() {
        let next = turn_of((0..8).map(|number| Message::user(format!("{cut:?}, message {number}"))).collect());
        let append = rebase(&next, Head::ABSENT);
        turns.push(next);
        let answer = cut.drive(session.attempt(&append)).await;
        known_turns(&session.elsewhere(), &turns).await.map_err(|seen| format!("dropped at {cut:?}: {seen}"))?;
        if let Some(answer) = answer {
            told("append", answer)?;
        }
        // The identical attempt settles it, whatever became of the dropped one.
        session.append(&append).await.map_err(|seen| format!("after a drop at {cut:?}: {seen}"))?;
    }
    known_turns(&session, &turns).await?;
    let mut stored = session.all().await?.turns;
    stored.sort_by_key(Turn::id);
    turns.sort_by_key(Turn::id);
    same(&stored, &turns)
}

/// What is stored are some of these turns, each whole and once.
async fn known_turns(session: &Session, turns: &[Turn]) -> Check {
    let loaded = session.all().await?;
    ensure!(loaded.head.sequence == loaded.turns.len() as u64, "{} turns at {:?}", loaded.turns.len(), loaded.head);
    for stored in &loaded.turns {
        let count = loaded.turns.iter().filter(|turn| turn.id() == stored.id()).count();
        ensure!(count == 1, "a turn is stored {count} times");
        ensure!(turns.contains(stored), "a turn of {} messages is stored in part", stored.messages().len());
    }
    Ok(())
}

pub(super) async fn dropped_calls_leave_the_store_fit(instances: &Instances) -> Check {
    for cut in Cut::all() {
        let session = instances.session();
        let (turns, head) = session.fill(2).await?;
        let store = instances.store();
        let read = Read::new(Window::ALL).find(turns[0].id());
        let (scope, page) = (Scope::of(&session.key), Page::first(5));
        cut.drive(session.load(read)).await;
        cut.drive(store.list(&scope, &page)).await;
        cut.drive(store.ping()).await;
        let after = |seen| format!("after calls that were dropped at {cut:?}: {seen}");
        session.holds(&turns).await.map_err(after)?;
        session.append(&strict(&turn("next"), head)).await.map_err(after)?;
    }
    Ok(())
}

pub(super) async fn a_dropped_delete_deletes_all_or_nothing(instances: &Instances) -> Check {
    for cut in Cut::all() {
        let session = instances.session();
        let (turns, head) = session.fill(3).await?;
        let told = cut.drive(session.delete()).await.transpose()?;
        let seen = session.elsewhere().all().await?;
        ensure!(told.is_none() || seen.turns.is_empty(), "a delete was acknowledged, and turns are loaded");
        ensure!(seen.turns.is_empty() || seen.turns == turns, "a delete dropped at {cut:?} left a part of the turns");
        session.delete().await?;
        let next = session.head().await?;
        ensure!(next.epoch > head.epoch, "after a dropped and a whole delete the head is {next:?}");
        let first = turn("first");
        session.append(&rebase(&first, next)).await.map_err(|seen| format!("after a drop at {cut:?}: {seen}"))?;
        session.holds(&[first]).await?;
    }
    Ok(())
}

/// Many appends to one session, most of them dropped: locks and connections must not pile up.
pub(super) async fn many_dropped_appends_block_nobody(instances: &Instances) -> Check {
    let session = instances.session();
    let cuts: Vec<Cut> = (0..4).flat_map(|_| Cut::all()).collect();
    let calls = cuts.into_iter().enumerate().map(|(index, cut)| {
        let session = session.by(index);
        async move {
            let append = rebase(&turn("dropped"), Head::ABSENT);
            cut.drive(session.attempt(&append)).await;
        }
    });
    super::kit::together(calls).await?;
    let last = turn("last");
    session.append(&rebase(&last, Head::ABSENT)).await?;
    let loaded = session.elsewhere().all().await?;
    ensure!(loaded.turns.contains(&last), "the turn after many dropped ones is missing");
    let whole = loaded.turns.iter().all(|turn| turn.messages().len() == 2);
    ensure!(whole, "a dropped turn is stored in part");
    Ok(())
}
