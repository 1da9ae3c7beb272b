//! Where a stream of frames stands.

use bytes::Bytes;
use http_body::Frame;

/// What a frame says of what follows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// More may come.
    More,
    /// All promised bytes were seen: a server asks for no more, but the producer may still be at
    /// work on the turn.
    LastByte,
    /// Nothing follows.
    End,
}

/// Servers stop asking at the first of these: no frame, trailers, a body that says it is at its
/// end, the last promised byte. Waiting for "no frame" alone would miss most ends.
pub(super) fn standing(frame: Option<&Frame<Bytes>>, inner_ended: bool, bytes_left: Option<u64>) -> Standing {
    match frame {
        None => Standing::End,
        Some(frame) if frame.is_trailers() || inner_ended => Standing::End,
        Some(_) if bytes_left == Some(0) => Standing::LastByte,
        Some(_) => Standing::More,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_end_is_seen() {
        let data = Frame::data(Bytes::from_static(b"x"));
        let trailers = Frame::trailers(http::HeaderMap::new());
        assert_eq!(standing(None, false, None), Standing::End);
        assert_eq!(standing(Some(&trailers), false, Some(5)), Standing::End);
        assert_eq!(standing(Some(&data), true, Some(5)), Standing::End);
        assert_eq!(standing(Some(&data), false, Some(0)), Standing::LastByte);
        assert_eq!(standing(Some(&data), false, Some(5)), Standing::More);
        assert_eq!(standing(Some(&data), false, None), Standing::More);
    }
}
