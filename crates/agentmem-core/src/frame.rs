//! Frames: items compressed together, that describe and checksum themselves.
//!
//! ```text
//!  0   4  magic "AMF1"
//!  4   1  codec
//!  5   3  zero
//!  8   4  items
//! 12   4  directory_bytes
//! 16   8  payload_bytes          as stored
//! 24   8  logical_bytes          decoded
//! 32   8  checksum               XXH3 (64 bits) of 0..32, directory, payload
//! 40      directory              length of each item, then runs of (count, meta)
//!         payload                the items' bytes in order, through the codec
//! ```
//! Everything is little-endian. A frame is immutable; a reader that finds a wrong checksum
//! reports damage and never returns its bytes.

use crate::codec::{self, Codec, Compressor, Decompressor};
use crate::error::{Error, ErrorKind, Result};
use crate::varint;
use xxhash_rust::xxh3::Xxh3;

const MAGIC: [u8; 4] = *b"AMF1";
/// Bytes before the directory.
pub const HEADER_BYTES: usize = 40;
/// Items that one frame may hold.
pub const ITEMS_MAX: usize = 1 << 20;
/// Stored must be below this share of logical, else the payload stays raw.
const WORTH_PERCENT: usize = 95;

/// How an item was given, beyond its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct Meta {
    /// The item is a value encoded as JSON, and is given back as a value.
    pub is_value: bool,
    /// Bytes before the message's own text, kept so that a transcript renders as it was.
    pub lead_bytes: u32,
    /// Bytes after it.
    pub trail_bytes: u32,
}

/// One item to be framed.
#[derive(Debug, Clone, Copy)]
pub struct Item<'a> {
    /// Its bytes.
    pub bytes: &'a [u8],
    /// How it was given.
    pub meta: Meta,
}

/// Frames `items` with zstd at `level`, or raw where that does not pay.
pub fn encode(items: &[Item<'_>], level: i32) -> Result<Vec<u8>> {
    encode_with(&mut Compressor::new(level)?, items)
}

/// Frames `items` with a compressor that was used before.
pub fn encode_with(compressor: &mut Compressor, items: &[Item<'_>]) -> Result<Vec<u8>> {
    assert!(!items.is_empty() && items.len() <= ITEMS_MAX, "a frame holds 1..={ITEMS_MAX} items");
    let directory = encode_directory(items);
    let parts: Vec<&[u8]> = items.iter().map(|item| item.bytes).collect();
    let logical_bytes: usize = parts.iter().map(|part| part.len()).sum();
    let compressed = compressor.compress(&parts)?;
    let (codec, payload) = if compressed.len() * 100 < logical_bytes * WORTH_PERCENT {
        (Codec::Zstd, compressed)
    } else {
        (Codec::Raw, parts.concat())
    };
    let mut frame = Vec::with_capacity(HEADER_BYTES + directory.len() + payload.len());
    frame.extend_from_slice(&MAGIC);
    frame.extend_from_slice(&[codec as u8, 0, 0, 0]);
    frame.extend_from_slice(&(items.len() as u32).to_le_bytes());
    frame.extend_from_slice(&(directory.len() as u32).to_le_bytes());
    frame.extend_from_slice(&(payload.len() as u64).to_le_bytes());
    frame.extend_from_slice(&(logical_bytes as u64).to_le_bytes());
    frame.extend_from_slice(&[0; 8]);
    frame.extend_from_slice(&directory);
    frame.extend_from_slice(&payload);
    let checksum = checksum(&frame);
    frame[32..40].copy_from_slice(&checksum);
    Ok(frame)
}

/// It finds accidents. Against forgery there is the keyed id of the content.
fn checksum(frame: &[u8]) -> [u8; 8] {
    let mut hasher = Xxh3::new();
    hasher.update(&frame[..32]);
    hasher.update(&frame[HEADER_BYTES..]);
    hasher.digest().to_le_bytes()
}

fn encode_directory(items: &[Item<'_>]) -> Vec<u8> {
    let mut out = Vec::with_capacity(items.len() * 2 + 8);
    for item in items {
        varint::put(&mut out, item.bytes.len() as u64);
    }
    // Metas come in long runs, so a uniform frame spends four bytes on all of them.
    for run in items.chunk_by(|a, b| a.meta == b.meta) {
        let meta = run[0].meta;
        varint::put(&mut out, run.len() as u64);
        out.push(u8::from(meta.is_value));
        varint::put(&mut out, u64::from(meta.lead_bytes));
        varint::put(&mut out, u64::from(meta.trail_bytes));
    }
    out
}

/// Whether `bytes` are what was framed.
///
/// # Errors
/// `Damaged`.
pub fn check(bytes: &[u8]) -> Result<()> {
    check_header(bytes)?;
    if bytes[32..40] == checksum(bytes) { Ok(()) } else { Err(damaged("checksum")) }
}

fn check_header(bytes: &[u8]) -> Result<()> {
    let is_sound = bytes.len() >= HEADER_BYTES && bytes[..4] == MAGIC && bytes[5..8] == [0; 3];
    if is_sound { Ok(()) } else { Err(damaged("header")) }
}

/// Where one item lies in the decoded payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// First byte.
    pub start: usize,
    /// One past the last byte.
    pub end: usize,
    /// How the item was given.
    pub meta: Meta,
}

/// A frame whose checksum, header and directory were found right.
#[derive(Debug)]
pub struct Frame<'a> {
    codec: Codec,
    payload: &'a [u8],
    entries: Vec<Entry>,
}

fn damaged(what: &str) -> Error {
    Error::new(ErrorKind::Damaged, format!("frame ({what})"))
}

fn le_u32(bytes: &[u8], at: usize) -> usize {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes")) as usize
}

fn le_u64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

impl<'a> Frame<'a> {
    /// Checks `bytes` and reads the directory.
    pub fn parse(bytes: &'a [u8]) -> Result<Self> {
        check(bytes)?;
        Self::parse_checked(bytes)
    }

    /// Reads the directory of `bytes` that [`check`] found right, and that nobody could change since.
    pub fn parse_checked(bytes: &'a [u8]) -> Result<Self> {
        check_header(bytes)?;
        let codec = Codec::from_u8(bytes[4]).ok_or_else(|| damaged("codec"))?;
        let (count, directory_bytes) = (le_u32(bytes, 8), le_u32(bytes, 12));
        let (payload_bytes, logical_bytes) = (le_u64(bytes, 16), le_u64(bytes, 24));
        let body = &bytes[HEADER_BYTES..];
        if count == 0
            || count > ITEMS_MAX
            || body.len() as u64 != (directory_bytes as u64).saturating_add(payload_bytes)
        {
            return Err(damaged("lengths"));
        }
        let (directory, payload) = body.split_at(directory_bytes);
        let entries = decode_directory(directory, count, logical_bytes).ok_or_else(|| damaged("directory"))?;
        if codec == Codec::Raw && payload_bytes != logical_bytes {
            return Err(damaged("lengths"));
        }
        Ok(Frame { codec, payload, entries })
    }

    /// How its payload is stored.
    pub fn codec(&self) -> Codec {
        self.codec
    }

    /// Where the items lie.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Decoded size of all items.
    pub fn logical_bytes(&self) -> usize {
        self.entries.last().map_or(0, |entry| entry.end)
    }

    /// Decodes from the start up to `out.len()` bytes, which is the end of the last item wanted.
    pub fn decode_prefix(&self, out: &mut [u8]) -> Result<()> {
        self.decode_prefix_with(&mut Decompressor::new()?, out)
    }

    /// The same with a decompressor that was used before.
    pub fn decode_prefix_with(&self, decompressor: &mut Decompressor, out: &mut [u8]) -> Result<()> {
        match self.codec {
            Codec::Raw => {
                let prefix = self.payload.get(..out.len()).ok_or_else(|| damaged("payload"))?;
                out.copy_from_slice(prefix);
                Ok(())
            }
            Codec::Zstd if out.len() == self.logical_bytes() => {
                decompressor.decompress(self.payload, out).ok_or_else(|| damaged("payload"))
            }
            Codec::Zstd => codec::decompress_prefix(self.payload, out).ok_or_else(|| damaged("payload")),
        }
    }

    /// Decodes item `index` alone.
    pub fn decode_item(&self, index: usize) -> Result<Vec<u8>> {
        let entry = *self.entries.get(index).ok_or_else(|| damaged("item"))?;
        let mut out = vec![0; entry.end];
        self.decode_prefix(&mut out)?;
        out.drain(..entry.start);
        Ok(out)
    }

    /// Decodes everything.
    pub fn decode(&self) -> Result<Vec<u8>> {
        let mut out = vec![0; self.logical_bytes()];
        self.decode_prefix(&mut out)?;
        Ok(out)
    }
}

fn decode_directory(mut input: &[u8], count: usize, logical_bytes: u64) -> Option<Vec<Entry>> {
    // Each item takes at least one byte of directory, so a lying count cannot reserve memory.
    let mut entries = Vec::with_capacity(count.min(input.len()));
    let mut end = 0u64;
    for _ in 0..count {
        let start = end;
        end = end.checked_add(varint::take(&mut input)?)?;
        if end > logical_bytes {
            return None;
        }
        entries.push(Entry { start: start as usize, end: end as usize, meta: Meta::default() });
    }
    if end != logical_bytes {
        return None;
    }
    let mut described = 0usize;
    while described < count {
        let run = usize::try_from(varint::take(&mut input)?).ok()?;
        let (&is_value, rest) = input.split_first()?;
        input = rest;
        let lead_bytes = u32::try_from(varint::take(&mut input)?).ok()?;
        let trail_bytes = u32::try_from(varint::take(&mut input)?).ok()?;
        let meta = Meta { is_value: is_value == 1, lead_bytes, trail_bytes };
        let around = u64::from(lead_bytes) + u64::from(trail_bytes);
        if run == 0 || is_value > 1 {
            return None;
        }
        for entry in entries.get_mut(described..described.checked_add(run)?)? {
            if around > (entry.end - entry.start) as u64 {
                return None;
            }
            entry.meta = meta;
        }
        described += run;
    }
    input.is_empty().then_some(entries)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample() -> impl Strategy<Value = Vec<(Vec<u8>, Meta)>> {
        let item = (proptest::collection::vec(any::<u8>(), 0..2000), any::<bool>(), 0..3u32, 0..3u32).prop_map(
            |(bytes, is_value, lead, trail)| {
                let fits = bytes.len() >= 6;
                let meta = Meta {
                    is_value,
                    lead_bytes: if fits { lead } else { 0 },
                    trail_bytes: if fits { trail } else { 0 },
                };
                (bytes, meta)
            },
        );
        proptest::collection::vec(item, 1..40)
    }

    fn framed(items: &[(Vec<u8>, Meta)]) -> Vec<u8> {
        let items: Vec<Item<'_>> = items.iter().map(|(bytes, meta)| Item { bytes, meta: *meta }).collect();
        encode(&items, 3).unwrap()
    }

    proptest! {
        #[test]
        fn every_item_comes_back(items in sample()) {
            let bytes = framed(&items);
            let frame = Frame::parse(&bytes).unwrap();
            let whole = frame.decode().unwrap();
            prop_assert_eq!(frame.entries().len(), items.len());
            for (index, ((expected, meta), entry)) in items.iter().zip(frame.entries()).enumerate() {
                prop_assert_eq!(&whole[entry.start..entry.end], &expected[..]);
                prop_assert_eq!(&frame.decode_item(index).unwrap(), expected);
                prop_assert_eq!(entry.meta, *meta);
            }
        }

        #[test]
        fn a_flipped_bit_is_damage(items in sample(), at: prop::sample::Index, bit in 0..8u8) {
            let mut bytes = framed(&items);
            let at = at.index(bytes.len());
            let entries_of = |parsed: Result<Frame<'_>>| parsed.unwrap().entries().to_vec();
            prop_assert_eq!(entries_of(Frame::parse_checked(&bytes)), entries_of(Frame::parse(&bytes)));
            bytes[at] ^= 1 << bit;
            prop_assert_eq!(check(&bytes).unwrap_err().kind(), ErrorKind::Damaged);
            prop_assert_eq!(Frame::parse(&bytes).unwrap_err().kind(), ErrorKind::Damaged);
        }

        #[test]
        fn a_cut_is_damage(items in sample(), at: prop::sample::Index) {
            let bytes = framed(&items);
            prop_assert!(Frame::parse(&bytes[..at.index(bytes.len())]).is_err());
        }

        #[test]
        fn a_forged_directory_never_panics(mut bytes: Vec<u8>, count: u32, directory_bytes in 0..64u32) {
            // The checksum is made right, so that the checks behind it are what is tested.
            let mut frame = MAGIC.to_vec();
            frame.extend_from_slice(&[1, 0, 0, 0]);
            frame.extend_from_slice(&count.to_le_bytes());
            frame.extend_from_slice(&directory_bytes.to_le_bytes());
            let payload = (bytes.len() as u64).saturating_sub(directory_bytes.into());
            frame.extend_from_slice(&payload.to_le_bytes());
            frame.extend_from_slice(&1000u64.to_le_bytes());
            frame.extend_from_slice(&[0; 8]);
            frame.append(&mut bytes);
            let sum = checksum(&frame);
            frame[32..40].copy_from_slice(&sum);
            if let Ok(frame) = Frame::parse(&frame) {
                let _ = frame.decode();
            }
        }
    }

    #[test]
    fn noise_stays_raw() {
        let mut state = 1u64;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) as u8
        })
        .take(10_000)
        .collect();
        let bytes = framed(&[(noise.clone(), Meta::default())]);
        assert!(bytes.len() < noise.len() + 60);
        assert_eq!(Frame::parse(&bytes).unwrap().decode().unwrap(), noise);
    }
}
