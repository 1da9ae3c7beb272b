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
use super::path::Run;
use crate::ChatHistory;

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
    /// Where the turns among the pieces are.
    history: ChatHistory,
    left: u64,
}

#[derive(Debug)]
enum Piece {
    Bytes(Bytes),
    /// The messages of these turns from the first turn's `message` on, with commas between. There is
    /// one.
    Turns {
        turns: Range<usize>,
        message: usize,
        comma: bool,
    },
}

pub(super) static COMMA: Bytes = Bytes::from_static(b",");

impl Spliced {
    pub(super) fn of(bytes: Bytes) -> Self {
        let mut made = Self::with_capacity(1);
        made.push(bytes);
        made
    }

    pub(super) fn with_capacity(pieces: usize) -> Self {
        Self { pieces: VecDeque::with_capacity(pieces), ..Self::default() }
    }

    pub(super) fn push(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            self.left += bytes.len() as u64;
            self.pieces.push_back(Piece::Bytes(bytes));
        }
    }

    /// All messages of these turns, as they are stored. All runs are of one history.
    pub(super) fn push_turns(&mut self, history: &ChatHistory, run: Run) {
        if run.messages > 0 {
            self.left += (run.bytes + run.messages - 1) as u64;
            if self.history.is_empty() {
                self.history = history.clone();
            }
            let turns = first_message(history, run.turns);
            self.pieces.push_back(Piece::Turns { turns, message: 0, comma: false });
        }
    }

    pub(super) fn len(&self) -> u64 {
        self.left
    }

    fn front(&self) -> Option<&Bytes> {
        Some(match self.pieces.front()? {
            Piece::Bytes(bytes) => bytes,
            Piece::Turns { comma: true, .. } => &COMMA,
            Piece::Turns { turns, message, .. } => self.history.turns()[turns.start].messages()[*message].bytes(),
        })
    }

    /// Past what is in front.
    fn advance(&mut self) {
        let done = match self.pieces.front_mut() {
            Some(Piece::Turns { turns, message, comma }) => {
                *comma = !*comma;
                if *comma {
                    *message += 1;
                    if *message == self.history.turns()[turns.start].messages().len() {
                        *turns = first_message(&self.history, turns.start + 1..turns.end);
                        *message = 0;
                    }
                }
                turns.start == turns.end
            }
            Some(Piece::Bytes(_)) | None => true,
        };
        if done {
            self.pieces.pop_front();
        }
    }

    fn next_frame(&mut self) -> Option<Bytes> {
        let first = self.front()?;
        let frame = if first.len() < SMALL && first.len() as u64 != self.left {
            let mut frame = BytesMut::with_capacity(FRAME.min(self.left as usize));
            while let Some(piece) =
                self.front().filter(|piece| piece.len() < SMALL && frame.len() + piece.len() <= FRAME)
            {
                frame.extend_from_slice(piece);
                self.advance();
            }
            frame.freeze()
        } else {
            let frame = first.clone();
            self.advance();
            frame
        };
        self.left -= frame.len() as u64;
        Some(frame)
    }
}

/// Without turns that have no messages in front.
fn first_message(history: &ChatHistory, mut turns: Range<usize>) -> Range<usize> {
    while !turns.is_empty() && history.turns()[turns.start].messages().is_empty() {
        turns.start += 1;
    }
    turns
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
