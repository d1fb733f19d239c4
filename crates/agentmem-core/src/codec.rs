//! Codecs. Each frame names the one it was written with.

use crate::error::{Error, ErrorKind, Result};
use zstd::stream::raw::{Decoder, Encoder, InBuffer, Operation, OutBuffer};

/// How the payload of a frame is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Codec {
    /// As it is: the content does not shrink.
    Raw = 0,
    /// One zstd stream.
    Zstd = 1,
}

impl Codec {
    /// The codec stored as `number`.
    pub fn from_u8(number: u8) -> Option<Self> {
        match number {
            0 => Some(Codec::Raw),
            1 => Some(Codec::Zstd),
            _ => None,
        }
    }

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Codec::Raw => "raw",
            Codec::Zstd => "zstd",
        }
    }
}

/// Bytes after which a compressed stream is flushed at the next item boundary, so that reading an
/// early item decodes little more than what lies before it. Flushing at every message costs 2 to
/// 6 % of the ratio on agent transcripts; at this distance it costs under 1.5 %.
pub const FLUSH_BYTES: usize = 16 << 10;

fn failed(error: std::io::Error) -> Error {
    Error::new(ErrorKind::Io, format!("zstd: {error}"))
}

/// A compressor with its tables, worth keeping: allocating and touching them anew costs a fifth of
/// the time that a 64 KiB frame takes.
pub struct Compressor {
    encoder: Encoder<'static>,
    level: i32,
}

impl Compressor {
    /// One that compresses at `level`.
    pub fn new(level: i32) -> Result<Self> {
        Ok(Compressor { encoder: Encoder::new(level).map_err(failed)?, level })
    }

    /// The level that it compresses at.
    pub fn level(&self) -> i32 {
        self.level
    }

    /// Compresses `parts` as one zstd stream, flushed at the first part boundary after every
    /// [`FLUSH_BYTES`].
    pub fn compress(&mut self, parts: &[&[u8]]) -> Result<Vec<u8>> {
        let total: usize = parts.iter().map(|part| part.len()).sum();
        let encoder = &mut self.encoder;
        encoder.reinit().map_err(failed)?;
        // The size picks the match tables: a 2 KiB frame must not pay for those of a 1 MiB one.
        encoder.set_pledged_src_size(Some(total as u64)).map_err(failed)?;
        let mut out = Output(Vec::with_capacity(zstd::zstd_safe::compress_bound(total.min(1 << 20)) / 4 + 64));
        let mut unflushed_bytes = 0;
        for part in parts {
            let mut input = InBuffer::around(part);
            while input.pos() < part.len() {
                out.with_room(|buffer| encoder.run(&mut input, buffer))?;
            }
            unflushed_bytes += part.len();
            if unflushed_bytes >= FLUSH_BYTES {
                while out.with_room(|buffer| encoder.flush(buffer))? > 0 {}
                unflushed_bytes = 0;
            }
        }
        while out.with_room(|buffer| encoder.finish(buffer, true))? > 0 {}
        Ok(out.0)
    }
}

struct Output(Vec<u8>);

impl Output {
    /// Runs `step` on the free end of the buffer, which is at least 4 KiB long.
    fn with_room<T>(&mut self, step: impl FnOnce(&mut OutBuffer<'_, [u8]>) -> std::io::Result<T>) -> Result<T> {
        let start = self.0.len();
        let room = (self.0.capacity() - start).max(start / 2).max(4 << 10);
        self.0.resize(start + room, 0);
        let mut buffer = OutBuffer::around(&mut self.0[start..]);
        let outcome = step(&mut buffer);
        let written = buffer.pos();
        self.0.truncate(start + written);
        outcome.map_err(failed)
    }
}

/// A decompressor with its tables, worth keeping: allocating and touching them anew costs a fifth
/// of the time that a 64 KiB frame takes.
pub struct Decompressor(zstd::bulk::Decompressor<'static>);

impl Decompressor {
    /// A new one.
    pub fn new() -> Result<Self> {
        zstd::bulk::Decompressor::new().map(Decompressor).map_err(failed)
    }

    /// Decodes all of a zstd stream, which is `whole.len()` bytes long, into `whole`; `None` if it
    /// is damaged or of another length. Quicker than a prefix of that length: nothing is buffered.
    pub fn decompress(&mut self, stored: &[u8], whole: &mut [u8]) -> Option<()> {
        let len = self.0.decompress_to_buffer(stored, whole).ok()?;
        (len == whole.len()).then_some(())
    }
}

/// Decodes the first `prefix.len()` bytes of a zstd stream into `prefix`; `None` if the stream is
/// damaged or shorter than that.
pub fn decompress_prefix(stored: &[u8], prefix: &mut [u8]) -> Option<()> {
    let mut decoder = Decoder::new().ok()?;
    let mut input = InBuffer::around(stored);
    let wanted = prefix.len();
    let mut output = OutBuffer::around(prefix);
    while output.pos() < wanted {
        let (read, written) = (input.pos(), output.pos());
        let hint = decoder.run(&mut input, &mut output).ok()?;
        let stuck = input.pos() == read && output.pos() == written;
        if output.pos() < wanted && (hint == 0 || stuck) {
            return None;
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn prefixes_decode() {
        let parts: Vec<Vec<u8>> = (0..300).map(|i| format!("message {i} ").repeat(40).into_bytes()).collect();
        let views: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
        let whole = parts.concat();
        let stored = Compressor::new(3).unwrap().compress(&views).unwrap();
        assert!(stored.len() * 4 < whole.len());
        for wanted in [0, 1, 5000, whole.len() - 1, whole.len()] {
            let mut prefix = vec![0; wanted];
            decompress_prefix(&stored, &mut prefix).unwrap();
            assert_eq!(prefix, whole[..wanted]);
        }
        assert_eq!(decompress_prefix(&stored, &mut vec![0; whole.len() + 1]), None);
        assert_eq!(decompress_prefix(&stored[..stored.len() / 2], &mut vec![0; whole.len()]), None);
    }

    proptest! {
        #[test]
        fn any_parts_round_trip(parts: Vec<Vec<u8>>, level in 1..6i32) {
            let views: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
            let mut compressor = Compressor::new(level).unwrap();
            let mut decompressor = Decompressor::new().unwrap();
            for _ in 0..2 {
                let stored = compressor.compress(&views).unwrap();
                let mut whole = vec![0; parts.concat().len()];
                prop_assert_eq!(decompress_prefix(&stored, &mut whole), Some(()));
                prop_assert_eq!(&whole, &parts.concat());
                whole.fill(0);
                prop_assert_eq!(decompressor.decompress(&stored, &mut whole), Some(()));
                prop_assert_eq!(whole, parts.concat());
            }
        }

        #[test]
        fn damage_never_panics(bytes: Vec<u8>, wanted in 0..5000usize) {
            let _ = decompress_prefix(&bytes, &mut vec![0; wanted]);
            let mut decompressor = Decompressor::new().unwrap();
            let _ = decompressor.decompress(&bytes, &mut vec![0; wanted]);
            // Whatever it has seen, it decodes what is whole.
            let stored = Compressor::new(3).unwrap().compress(&[&bytes]).unwrap();
            let mut whole = vec![0; bytes.len()];
            prop_assert_eq!(decompressor.decompress(&stored, &mut whole), Some(()));
            prop_assert_eq!(whole, bytes);
        }
    }
}
