//! Reading replies of upstreams that compress although nobody asked them to: not without the
//! feature `llm-decompress`.

use bytes::Bytes;

/// Makes text of what the upstream sends.
#[derive(Debug)]
pub(super) struct Decoder;

/// The bytes are not what their encoding says, or decode to more than the limit.
#[derive(Debug)]
pub(super) struct Undecodable;

impl Decoder {
    /// A decoder for this `Content-Encoding`; `None` where there is none.
    pub(super) fn of(encoding: &str, _limit: usize) -> Option<Self> {
        matches!(encoding.trim(), "" | "identity").then_some(Self)
    }

    pub(super) fn is_plain(&self) -> bool {
        true
    }

    pub(super) fn push(&mut self, chunk: &Bytes) -> Result<Bytes, Undecodable> {
        Ok(chunk.clone())
    }
}
