//! Reading replies of upstreams that compress although nobody asked them to: gzip and deflate.

use std::fmt;
use std::io::Write;

use bytes::Bytes;
use flate2::write::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};

/// Makes text of what the upstream sends.
pub(super) struct Decoder {
    coding: Option<Coding>,
    limit: usize,
}

enum Coding {
    Gzip(MultiGzDecoder<Vec<u8>>),
    /// Named `deflate`, which is zlib; some servers leave the zlib part out. Told by the first byte.
    Deflate(Option<Inflate>),
}

enum Inflate {
    Zlib(ZlibDecoder<Vec<u8>>),
    Raw(DeflateDecoder<Vec<u8>>),
}

/// The bytes are not what their encoding says, or decode to more than the limit.
#[derive(Debug)]
pub(super) struct Undecodable;

impl Decoder {
    /// A decoder for this `Content-Encoding`; `None` where there is none. `limit` bounds what one
    /// chunk decodes to.
    pub(super) fn of(encoding: &str, limit: usize) -> Option<Self> {
        let coding = match encoding.trim().to_ascii_lowercase().as_str() {
            "" | "identity" => None,
            "gzip" | "x-gzip" => Some(Coding::Gzip(MultiGzDecoder::new(Vec::new()))),
            "deflate" => Some(Coding::Deflate(None)),
            _ => return None,
        };
        Some(Self { coding, limit })
    }

    pub(super) fn is_plain(&self) -> bool {
        self.coding.is_none()
    }

    pub(super) fn push(&mut self, chunk: &Bytes) -> Result<Bytes, Undecodable> {
        let mut text = Vec::new();
        // In small portions, so that a few bytes that decode to very many are stopped early.
        for portion in chunk.chunks(1 << 10) {
            text.append(&mut self.decode(portion).map_err(|_| Undecodable)?);
            if text.len() > self.limit {
                return Err(Undecodable);
            }
        }
        Ok(text.into())
    }

    fn decode(&mut self, portion: &[u8]) -> std::io::Result<Vec<u8>> {
        match &mut self.coding {
            None => Ok(portion.to_vec()),
            Some(Coding::Gzip(gzip)) => {
                gzip.write_all(portion)?;
                gzip.flush()?;
                Ok(std::mem::take(gzip.get_mut()))
            }
            Some(Coding::Deflate(inflate)) => {
                let inflate = inflate.get_or_insert_with(|| match portion.first() {
                    Some(byte) if byte & 0x0f == 8 => Inflate::Zlib(ZlibDecoder::new(Vec::new())),
                    _ => Inflate::Raw(DeflateDecoder::new(Vec::new())),
                });
                match inflate {
                    Inflate::Zlib(zlib) => {
                        zlib.write_all(portion)?;
                        zlib.flush()?;
                        Ok(std::mem::take(zlib.get_mut()))
                    }
                    Inflate::Raw(raw) => {
                        raw.write_all(portion)?;
                        raw.flush()?;
                        Ok(std::mem::take(raw.get_mut()))
                    }
                }
            }
        }
    }
}

impl fmt::Debug for Decoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decoder").field("plain", &self.is_plain()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gzip_is_read_byte_by_byte_and_bounded() {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(b"data: x\n\n").unwrap();
        let packed = encoder.finish().unwrap();
        let mut decoder = Decoder::of("gzip", 1 << 20).unwrap();
        let text: Vec<u8> =
            packed.iter().flat_map(|byte| decoder.push(&Bytes::copy_from_slice(&[*byte])).unwrap()).collect();
        assert_eq!(text, b"data: x\n\n");

        let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(&vec![0; 1 << 22]).unwrap();
        let bomb = Bytes::from(encoder.finish().unwrap());
        assert!(Decoder::of("deflate", 1 << 20).unwrap().push(&bomb).is_err());
        assert!(Decoder::of("br", 1 << 20).is_none());
    }
}
