//! Reading replies of upstreams that compress although nobody asked them to.

use std::fmt;
use std::io::{self, Write};

use brotli_decompressor::{BrotliDecoderParameter, DecompressorWriter};
use bytes::Bytes;
use flate2::write::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};

/// The most that a zstd stream may look back, as a power of two: what RFC 8878 asks decoders to
/// support, and servers to keep to. Brotli's own bound is 16 MiB.
const ZSTD_WINDOW_LOG: u32 = 23;
/// How much brotli hands over at once.
const BROTLI_BUFFER: usize = 4 << 10;

/// Makes text of what the upstream sends.
pub(super) struct Decoder {
    coding: Coding,
    limit: usize,
}

enum Coding {
    Identity,
    /// Named `deflate`, which is zlib; some servers leave the zlib part out. Told by the first byte.
    Deflate,
    Known(Box<dyn Decode>),
}

/// What takes compressed bytes, in any cuts, and keeps what they say.
trait Decode: Write + Send {
    fn text(&mut self) -> &mut Text;
}

/// What was decoded and not yet taken; refuses to grow over its limit, so that a few bytes that
/// decode to very many are stopped early.
#[derive(Debug)]
struct Text {
    bytes: Vec<u8>,
    limit: usize,
}

/// The bytes are not what their encoding says, or decode to more than the limit.
#[derive(Debug)]
pub(super) struct Undecodable;

impl Decoder {
    /// A decoder for this `Content-Encoding`; `None` for one that is not known. `limit` bounds what
    /// one chunk decodes to.
    pub(super) fn of(encoding: &str, limit: usize) -> Option<Self> {
        let text = Text { bytes: Vec::new(), limit };
        let coding = match encoding.trim().to_ascii_lowercase().as_str() {
            "" | "identity" => Coding::Identity,
            "gzip" | "x-gzip" => Coding::Known(Box::new(MultiGzDecoder::new(text))),
            "deflate" => Coding::Deflate,
            "br" => {
                let mut brotli = DecompressorWriter::new(text, BROTLI_BUFFER);
                // Not part of the encoding `br`, and up to a gigabyte.
                brotli.set_parameter(BrotliDecoderParameter::BROTLI_DECODER_PARAM_LARGE_WINDOW, 0);
                Coding::Known(Box::new(brotli))
            }
            "zstd" => {
                let mut zstd = zstd::stream::write::Decoder::new(text).ok()?;
                zstd.window_log_max(ZSTD_WINDOW_LOG).ok()?;
                Coding::Known(Box::new(zstd))
            }
            _ => return None,
        };
        Some(Self { coding, limit })
    }

    pub(super) fn is_plain(&self) -> bool {
        matches!(self.coding, Coding::Identity)
    }

    pub(super) fn push(&mut self, chunk: &Bytes) -> Result<Bytes, Undecodable> {
        let Some(first) = chunk.first() else { return Ok(Bytes::new()) };
        if matches!(self.coding, Coding::Deflate) {
            let text = Text { bytes: Vec::new(), limit: self.limit };
            self.coding = Coding::Known(match first & 0x0f {
                8 => Box::new(ZlibDecoder::new(text)),
                _ => Box::new(DeflateDecoder::new(text)),
            });
        }
        let Coding::Known(decode) = &mut self.coding else { return Ok(chunk.clone()) };
        decode.write_all(chunk).and_then(|()| decode.flush()).map_err(|_| Undecodable)?;
        Ok(std::mem::take(&mut decode.text().bytes).into())
    }
}

impl Write for Text {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() > self.limit - self.bytes.len() {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Decode for MultiGzDecoder<Text> {
    fn text(&mut self) -> &mut Text {
        self.get_mut()
    }
}

impl Decode for ZlibDecoder<Text> {
    fn text(&mut self) -> &mut Text {
        self.get_mut()
    }
}

impl Decode for DeflateDecoder<Text> {
    fn text(&mut self) -> &mut Text {
        self.get_mut()
    }
}

impl Decode for DecompressorWriter<Text> {
    fn text(&mut self) -> &mut Text {
        self.get_mut()
    }
}

impl Decode for zstd::stream::write::Decoder<'_, Text> {
    fn text(&mut self) -> &mut Text {
        self.get_mut()
    }
}

impl fmt::Debug for Decoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decoder").field("plain", &self.is_plain()).finish_non_exhaustive()
    }
}
