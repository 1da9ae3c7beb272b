//! The request's body on its way on: as it came, or with the history spliced in.

use std::collections::VecDeque;
use std::fmt;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::BoxError;
use crate::history::ChatHistory;

/// Pieces smaller than this are copied together into one frame: a frame has its own cost downstream.
const SMALL: usize = 1 << 10;
/// How large a frame of small pieces grows.
const FRAME: usize = 8 << 10;

pin_project! {
    /// The body of a request that [`LlmMemory`](super::LlmMemory) hands on.
    ///
    /// The history is not copied into it: it holds the history, and gives its messages one after the
    /// other when the body is read. Its length is known.
    pub struct RequestBody<B> {
        #[pin]
        kind: Kind<B>,
    }
}

pin_project! {
    #[project = KindProj]
    enum Kind<B> {
        Given { #[pin] body: B },
        Made { made: Spliced },
    }
}

/// Bytes in order, some of them still in the history.
#[derive(Debug, Default)]
pub(super) struct Spliced {
    pieces: VecDeque<Piece>,
    left: u64,
}

#[derive(Debug)]
enum Piece {
    Bytes(Bytes),
    /// Whole turns, message by message, with commas between.
    Turns {
        history: ChatHistory,
        turns: Range<usize>,
        message: usize,
        comma: bool,
    },
}

impl Spliced {
    pub(super) fn of(bytes: Bytes) -> Self {
        let mut made = Self::default();
        made.push(bytes);
        made
    }

    pub(super) fn push(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            self.left += bytes.len() as u64;
            self.pieces.push_back(Piece::Bytes(bytes));
        }
    }

    /// All messages of these turns, as they are stored.
    pub(super) fn push_turns(&mut self, history: &ChatHistory, turns: Range<usize>) {
        let (mut bytes, mut messages) = (0, 0);
        for turn in &history.turns()[turns.clone()] {
            bytes += turn.bytes();
            messages += turn.messages().len();
        }
        if messages > 0 {
            self.left += (bytes + messages - 1) as u64;
            self.pieces.push_back(Piece::Turns { history: history.clone(), turns, message: 0, comma: false });
        }
    }

    pub(super) fn len(&self) -> u64 {
        self.left
    }

    fn next_piece(&mut self) -> Option<Bytes> {
        loop {
            match self.pieces.front_mut()? {
                Piece::Bytes(bytes) => {
                    let bytes = std::mem::take(bytes);
                    self.pieces.pop_front();
                    return Some(bytes);
                }
                Piece::Turns { history, turns, message, comma } => {
                    let next = turns.clone().next().map(|turn| history.turns()[turn].messages());
                    match next {
                        None => drop(self.pieces.pop_front()),
                        Some(messages) => match messages.get(*message) {
                            Some(_) if std::mem::take(comma) => return Some(Bytes::from_static(b",")),
                            Some(found) => {
                                *message += 1;
                                *comma = true;
                                return Some(found.bytes().clone());
                            }
                            None => {
                                turns.start += 1;
                                *message = 0;
                            }
                        },
                    }
                }
            }
        }
    }

    fn next_frame(&mut self) -> Option<Bytes> {
        let first = self.next_piece()?;
        let frame = if first.len() < SMALL && first.len() as u64 != self.left {
            let mut frame = BytesMut::with_capacity(FRAME.min(self.left as usize));
            frame.extend_from_slice(&first);
            while let Some(piece) = self.next_piece() {
                if piece.len() >= SMALL || frame.len() + piece.len() > FRAME {
                    self.pieces.push_front(Piece::Bytes(piece));
                    break;
                }
                frame.extend_from_slice(&piece);
            }
            frame.freeze()
        } else {
            first
        };
        self.left -= frame.len() as u64;
        Some(frame)
    }
}

impl<B> RequestBody<B> {
    pub(super) fn given(body: B) -> Self {
        Self { kind: Kind::Given { body } }
    }

    pub(super) fn made(made: Spliced) -> Self {
        Self { kind: Kind::Made { made } }
    }
}

impl<B> Body for RequestBody<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.project().kind.project() {
            KindProj::Given { body } => body.poll_frame(cx).map_err(Into::into),
            KindProj::Made { made } => Poll::Ready(made.next_frame().map(|bytes| Ok(Frame::data(bytes)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Given { body } => body.is_end_stream(),
            Kind::Made { made } => made.left == 0,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Given { body } => body.size_hint(),
            Kind::Made { made } => SizeHint::with_exact(made.left),
        }
    }
}

impl<B> fmt::Debug for RequestBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestBody").finish_non_exhaustive()
    }
}
