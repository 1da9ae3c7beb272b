//! The turns that lead to where a request goes on.

use std::ops::Range;

use super::note::{self, Note};
use crate::{ChatHistory, Message, Turn, TurnStatus};

/// Turns that follow each other in the history, and what they take up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Run {
    /// As places in the history.
    pub(super) turns: Range<usize>,
    pub(super) messages: usize,
    pub(super) bytes: usize,
    /// Whether they go to the model as they are stored, unless a call is open before them.
    pub(super) plain: bool,
}

/// A path through the history: runs of turns, oldest first.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Path(Vec<Run>);

impl Run {
    fn of(place: usize, turn: &Turn, plain: bool) -> Self {
        Self { turns: place..place + 1, messages: turn.messages().len(), bytes: turn.bytes(), plain }
    }

    fn add(&mut self, turn: &Turn) {
        self.messages += turn.messages().len();
        self.bytes += turn.bytes();
    }

    /// Takes the first turn off.
    pub(super) fn split_first(&mut self, history: &ChatHistory) -> Option<usize> {
        let first = self.turns.next()?;
        let turn = &history.turns()[first];
        self.messages -= turn.messages().len();
        self.bytes -= turn.bytes();
        Some(first)
    }

    /// Takes as many turns off as have no more than `upto` messages.
    pub(super) fn split_fitting(&mut self, history: &ChatHistory, upto: usize) -> Self {
        let rest = self.turns.end..self.turns.end;
        if self.messages <= upto {
            return std::mem::replace(self, Self { turns: rest, messages: 0, bytes: 0, plain: self.plain });
        }
        let start = self.turns.start;
        let mut fitting = Self { turns: start..start, messages: 0, bytes: 0, plain: self.plain };
        while let Some(turn) = self.turns.clone().next().map(|turn| &history.turns()[turn])
            && fitting.messages + turn.messages().len() <= upto
        {
            fitting.turns.end += 1;
            fitting.add(turn);
            self.split_first(history);
        }
        fitting
    }
}

impl Path {
    /// The turns that lead to the one at `tip`. Each is looked at once.
    pub(super) fn to(history: &ChatHistory, tip: Option<usize>) -> Self {
        let turns = history.turns();
        let look = |place: usize| {
            let marks = Note::marks(&turns[place]);
            (marks.plain && turns[place].status() == TurnStatus::Complete, marks.branch)
        };
        // Most paths are one run.
        let mut path = Self(Vec::with_capacity(1));
        let mut next = tip;
        while let Some(place) = next {
            let (plain, mut branch) = look(place);
            let Run { turns: Range { start: mut first, end }, mut messages, mut bytes, .. } =
                Run::of(place, &turns[place], plain);
            while plain
                && !branch
                && let Some(before) = first.checked_sub(1)
                && let (true, branches) = look(before)
            {
                (first, branch) = (before, branches);
                messages += turns[before].messages().len();
                bytes += turns[before].bytes();
            }
            path.0.push(Run { turns: first..end, messages, bytes, plain });
            next = match branch.then(|| Note::of(&turns[first])?.parent).flatten() {
                // A parent comes before its turn; anything else would go in circles.
                Some(parent) => note::place(history, parent).filter(|parent| *parent < first),
                None => first.checked_sub(1),
            };
        }
        path.0.reverse();
        path
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The turns as places in the history.
    pub(super) fn turns(&self) -> impl Iterator<Item = usize> {
        self.0.iter().flat_map(|run| run.turns.clone())
    }

    pub(super) fn last(&self) -> Option<usize> {
        Some(self.0.last()?.turns.end - 1)
    }

    /// The messages of all turns.
    pub(super) fn messages<'a>(&self, history: &'a ChatHistory) -> impl Iterator<Item = &'a Message> {
        self.turns().flat_map(|turn| history.turns()[turn].messages())
    }

    /// How many messages all turns have.
    pub(super) fn len(&self) -> usize {
        self.0.iter().map(|run| run.messages).sum()
    }

    /// The path without those of its turns.
    pub(super) fn without(self, history: &ChatHistory, left_out: &Range<usize>) -> Self {
        let mut path = Self::default();
        let turns = self.0.iter().flat_map(|run| run.turns.clone().map(|place| (place, run.plain)));
        for (_, (place, plain)) in turns.enumerate().filter(|(index, _)| !left_out.contains(index)) {
            let turn = &history.turns()[place];
            match path.0.last_mut() {
                Some(run) if run.plain && plain && run.turns.end == place => {
                    run.turns.end += 1;
                    run.add(turn);
                }
                _ => path.0.push(Run::of(place, turn, plain)),
            }
        }
        path
    }
}

impl IntoIterator for Path {
    type Item = Run;
    type IntoIter = std::vec::IntoIter<Run>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}
