//! Frames of pages: blocks of 64 KiB, compressed, in RAM or on SSD, each with a checksum of what it
//! decodes to.

use agentmem_core::codec::{Codec, Compressor, Decompressor};
use agentmem_core::{Error, ErrorKind, Result};
use agentmem_store::{Cold, DiskPlace, Extent, Heap, Segments};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use xxhash_rust::xxh3::xxh3_64;

/// Address range of a block.
pub const BLOCK_BYTES: u64 = 64 << 10;
/// Pages of a block: one bit each in a `u16`.
pub const BLOCK_PAGES: u64 = 16;
/// Addresses for frames; memory is used only as they fill.
const HEAP_BYTES_MAX: u64 = 1 << 36;
/// What moves to SSD together, and comes back together.
const BATCH_BYTES: usize = 1 << 20;
/// Six percent smaller than the level for pages that somebody waits for, for four times the work, and decoded in two
/// thirds of the time.
const SQUEEZE_LEVEL: i32 = 8;
/// One block of so many is squeezed first, and tells whether the others are worth that.
const SAMPLE_EVERY: usize = 16;
/// Those are not that would get smaller by less.
const SQUEEZED_PERCENT_MIN: u64 = 3;
/// Above this share the payload stays raw.
const WORTH_PERCENT: usize = 95;

/// The pages of one block, held outside of their process.
#[derive(Debug)]
pub struct Block {
    /// Pages in the payload, in the order of their addresses.
    pub stored: u16,
    /// Pages of zeros.
    pub zeros: u16,
    /// Checksum of the decoded payload.
    checksum: u64,
    place: Held,
}

#[derive(Debug)]
enum Held {
    /// Only zeros.
    Nothing,
    Ram {
        payload: Extent,
        codec: Codec,
        /// Whether it was compressed with time, or would hardly get smaller by that.
        squeezed: bool,
    },
    Ssd {
        batch: Arc<Batch>,
        start: u32,
        len: u32,
        codec: Codec,
    },
}

/// Blocks that lie on SSD together. Their place is free once the last of them goes.
#[derive(Debug)]
struct Batch {
    cold: Arc<Cold>,
    frame: u32,
    place: DiskPlace,
}

impl Drop for Batch {
    fn drop(&mut self) {
        self.cold.bury(&[self.place]);
    }
}

impl Block {
    /// Bytes of its pages that are not zeros.
    pub fn stored_bytes(&self) -> u64 {
        u64::from(self.stored.count_ones()) * crate::sys::PAGE_BYTES
    }

    /// Bytes that it takes in RAM.
    pub fn ram_bytes(&self) -> u64 {
        if let Held::Ram { payload, .. } = &self.place { payload.len_bytes() as u64 } else { 0 }
    }

    /// Bytes of it in RAM that were compressed in a hurry.
    pub fn loose_bytes(&self) -> u64 {
        if let Held::Ram { squeezed: false, .. } = &self.place { self.ram_bytes() } else { 0 }
    }

    /// Bytes that it takes on SSD.
    pub fn ssd_bytes(&self) -> u64 {
        if let Held::Ssd { len, .. } = &self.place { u64::from(*len) } else { 0 }
    }

    /// The batch that it lies in, as a number: blocks of one batch are best read together.
    pub fn batch(&self) -> Option<u32> {
        if let Held::Ssd { batch, .. } = &self.place { Some(batch.frame) } else { None }
    }
}

/// Where the frames of one tree are.
#[derive(Debug)]
pub struct Frames {
    heap: Arc<Heap>,
    folder: PathBuf,
    cold: Option<Arc<Cold>>,
    next_frame: AtomicU32,
    level: i32,
}

impl Frames {
    /// No frames yet; those on SSD will lie in `folder`, made when the first one goes there.
    pub fn new(folder: &Path, level: i32) -> Result<Self> {
        let heap = Heap::new("agentmem-pages", &Segments::new(false)?, HEAP_BYTES_MAX)?;
        Ok(Frames { heap, folder: folder.to_owned(), cold: None, next_frame: AtomicU32::new(1), level })
    }

    /// A compressor for [`Frames::hold`]; worth keeping while many blocks are held.
    pub fn compressor(&self) -> Result<Compressor> {
        Compressor::new(self.level)
    }

    /// Resident bytes of all frames.
    pub fn resident_bytes(&self) -> u64 {
        self.heap.resident_bytes()
    }

    /// Gives pages back that frames were in.
    pub fn trim(&self) {
        self.heap.trim(u64::MAX);
    }

    /// Bytes of disk blocks in use.
    pub fn disk_bytes(&self) -> u64 {
        self.cold.as_ref().map_or(0, |cold| cold.disk_bytes())
    }

    /// Takes `content`: the pages `stored`, one after the other; `zeros` are pages of zeros beside them.
    pub fn hold(&self, compressor: &mut Compressor, content: &[u8], stored: u16, zeros: u16) -> Result<Block> {
        assert_eq!(content.len() as u64, u64::from(stored.count_ones()) * crate::sys::PAGE_BYTES);
        if content.is_empty() {
            return Ok(Block { stored, zeros, checksum: 0, place: Held::Nothing });
        }
        let checksum = xxh3_64(content);
        let compressed = compressor.compress(&[content])?;
        let (codec, payload) = if compressed.len() * 100 < content.len() * WORTH_PERCENT {
            (Codec::Zstd, compressed.as_slice())
        } else {
            (Codec::Raw, content)
        };
        let payload = self.heap.store(payload)?;
        Ok(Block { stored, zeros, checksum, place: Held::Ram { payload, codec, squeezed: false } })
    }

    /// Decodes a block into `content`, which has the length of its stored pages.
    ///
    /// # Errors
    /// `Damaged` if it is not what was taken.
    pub fn give(&self, block: &Block, reader: &mut Reader, content: &mut [u8]) -> Result<()> {
        let Reader { decompressor, last } = reader;
        let (payload, codec) = match &block.place {
            Held::Nothing => return Ok(()),
            Held::Ram { payload, codec, .. } => (payload.bytes(), *codec),
            Held::Ssd { batch, start, len, codec } => {
                (last.bytes(batch)?.get(*start as usize..(*start + *len) as usize).unwrap_or_default(), *codec)
            }
        };
        let whole = match codec {
            Codec::Zstd => decompressor.decompress(payload, content),
            Codec::Raw if payload.len() == content.len() => {
                content.copy_from_slice(payload);
                Some(())
            }
            Codec::Raw => None,
        };
        match whole {
            Some(()) if xxh3_64(content) == block.checksum => Ok(()),
            _ => Err(Error::new(ErrorKind::Damaged, "a block of pages")),
        }
    }

    /// Compresses blocks in RAM again, with more time than there was when their pages were taken, until `abort` turns
    /// true; no more of them than a sample if that hardly gets smaller. What was done when it fails stays done.
    pub fn squeeze<'a>(&self, blocks: impl Iterator<Item = &'a mut Block>, abort: &AtomicBool) -> Result<()> {
        let mut loose: Vec<&mut Block> = blocks.filter(|block| block.loose_bytes() > 0).collect();
        let mut press = Press::new()?;
        let (mut before_bytes, mut after_bytes) = (0, 0);
        for block in loose.iter_mut().step_by(SAMPLE_EVERY) {
            if abort.load(Ordering::Relaxed) {
                return Ok(());
            }
            before_bytes += block.ram_bytes();
            self.squeeze_block(block, &mut press)?;
            after_bytes += block.ram_bytes();
        }
        let pays = (before_bytes - after_bytes) * 100 >= before_bytes * SQUEEZED_PERCENT_MIN;
        for block in loose.into_iter().filter(|block| block.loose_bytes() > 0) {
            match &mut block.place {
                _ if abort.load(Ordering::Relaxed) => break,
                Held::Ram { squeezed, .. } if !pays => *squeezed = true,
                _ => self.squeeze_block(block, &mut press)?,
            }
        }
        Ok(())
    }

    fn squeeze_block(&self, block: &mut Block, press: &mut Press) -> Result<()> {
        let content = &mut press.content[..block.stored_bytes() as usize];
        self.give(block, &mut press.reader, content)?;
        let compressed = press.compressor.compress(&[content])?;
        if let Held::Ram { payload, codec, squeezed } = &mut block.place {
            if compressed.len() < payload.len_bytes() {
                *payload = self.heap.store(&compressed)?;
                *codec = Codec::Zstd;
            }
            *squeezed = true;
        }
        Ok(())
    }

    /// Moves blocks from RAM to SSD, as many as there are in `blocks`. What was moved when it fails
    /// stays moved; every block stays readable.
    pub fn demote<'a>(&mut self, blocks: impl Iterator<Item = &'a mut Block>) -> Result<()> {
        let mut waiting: Vec<&mut Block> = Vec::new();
        let mut bytes = 0;
        for block in blocks.filter(|block| matches!(block.place, Held::Ram { .. })) {
            bytes += block.ram_bytes() as usize;
            waiting.push(block);
            if bytes >= BATCH_BYTES {
                self.demote_batch(&mut waiting)?;
                bytes = 0;
            }
        }
        self.demote_batch(&mut waiting)
    }

    fn demote_batch(&mut self, blocks: &mut Vec<&mut Block>) -> Result<()> {
        if blocks.is_empty() {
            return Ok(());
        }
        let mut bytes = Vec::with_capacity(BATCH_BYTES + BLOCK_BYTES as usize);
        for block in blocks.iter() {
            if let Held::Ram { payload, .. } = &block.place {
                bytes.extend_from_slice(payload.bytes());
            }
        }
        let cold = self.cold()?;
        let frame = self.next_frame.fetch_add(1, Ordering::Relaxed);
        let place = cold.write(&[(frame, &bytes)])?[0];
        self.unlink();
        let batch = Arc::new(Batch { cold, frame, place });
        let mut start = 0;
        for block in blocks.drain(..) {
            if let Held::Ram { payload, codec, .. } = &block.place {
                let (len, codec) = (payload.len_bytes() as u32, *codec);
                block.place = Held::Ssd { batch: batch.clone(), start, len, codec };
                start += len;
            }
        }
        Ok(())
    }

    fn cold(&mut self) -> Result<Arc<Cold>> {
        if self.cold.is_none() {
            self.cold = Some(Arc::new(Cold::open(&self.folder)?));
        }
        Ok(self.cold.clone().expect("just opened"))
    }

    /// Frames are of use to nobody after us: files without a name go when we go, however we go.
    fn unlink(&self) {
        for entry in std::fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            let _ = std::fs::remove_file(entry.path());
        }
        let _ = std::fs::remove_dir(&self.folder);
        let _ = std::fs::create_dir_all(&self.folder);
    }
}

impl Drop for Frames {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.folder);
    }
}

/// What squeezing blocks takes.
struct Press {
    compressor: Compressor,
    reader: Reader,
    content: Vec<u8>,
}

impl Press {
    fn new() -> Result<Self> {
        let compressor = Compressor::new(SQUEEZE_LEVEL)?;
        Ok(Press { compressor, reader: Reader::new()?, content: vec![0; BLOCK_BYTES as usize] })
    }
}

/// What giving blocks takes, worth keeping while many are given, in order best.
pub struct Reader {
    decompressor: Decompressor,
    last: LastBatch,
}

impl Reader {
    /// A new one.
    pub fn new() -> Result<Self> {
        Ok(Reader { decompressor: Decompressor::new()?, last: LastBatch::default() })
    }
}

/// The batch that was read last.
#[derive(Debug, Default)]
struct LastBatch(Option<(u32, Vec<u8>)>);

impl LastBatch {
    fn bytes(&mut self, batch: &Batch) -> Result<&[u8]> {
        if self.0.as_ref().is_none_or(|(frame, _)| *frame != batch.frame) {
            self.0 = Some((batch.frame, batch.cold.read(batch.frame, batch.place)?));
        }
        Ok(&self.0.as_ref().expect("just read").1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn content(pages: usize, seed: u64) -> Vec<u8> {
        let mut state = seed | 1;
        let mut next = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) as u8
        };
        (0..pages * 4096).map(|at| if at % 64 < seed as usize % 64 { next() } else { b'a' }).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(30))]
        #[test]
        fn blocks_come_back_from_ram_and_from_ssd(masks in proptest::collection::vec((any::<u16>(), any::<u64>()), 1..40)) {
            let folder = tempfile::tempdir().unwrap();
            let mut frames = Frames::new(&folder.path().join("pages"), 3).unwrap();
            let mut compressor = frames.compressor().unwrap();
            let contents: Vec<Vec<u8>> = masks.iter().map(|(mask, seed)| content(mask.count_ones() as usize, *seed)).collect();
            let mut blocks: Vec<Block> = masks
                .iter()
                .zip(&contents)
                .map(|((mask, _), content)| frames.hold(&mut compressor, content, *mask, !mask).unwrap())
                .collect();
            for (squeeze, on_ssd) in [(false, false), (true, false), (false, true)] {
                if squeeze {
                    let before: u64 = blocks.iter().map(Block::ram_bytes).sum();
                    frames.squeeze(blocks.iter_mut(), &AtomicBool::new(false)).unwrap();
                    prop_assert!(blocks.iter().map(Block::ram_bytes).sum::<u64>() <= before);
                    prop_assert!(blocks.iter().all(|block| block.loose_bytes() == 0));
                }
                if on_ssd {
                    frames.demote(blocks.iter_mut()).unwrap();
                    prop_assert_eq!(blocks.iter().map(Block::ram_bytes).sum::<u64>(), 0);
                }
                let mut reader = Reader::new().unwrap();
                for (block, content) in blocks.iter().zip(&contents) {
                    let mut got = vec![0; content.len()];
                    frames.give(block, &mut reader, &mut got).unwrap();
                    prop_assert_eq!(&got, content);
                }
            }
            prop_assert!(std::fs::read_dir(folder.path().join("pages")).map_or(0, Iterator::count) == 0, "no file has a name");
            drop(blocks);
            prop_assert!(frames.disk_bytes() <= 4096, "a block that a live one may have shared");
        }
    }

    /// Records, in which there is more to find for who takes the time.
    fn records() -> Vec<u8> {
        let mut state = 1u64;
        let mut next = |below: u64| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) % below
        };
        let names: Vec<String> = (0..200).map(|_| format!("{:x}", next(1 << 16))).collect();
        let mut record = |_| {
            let (id, name, value, kind) = (next(1_000_000), next(200) as usize, next(1000), next(8) as usize);
            format!(r#"{{"id":{id},"name":"{}","value":{value},"kind":"{}"}}"#, names[name], names[kind])
        };
        let text: String = (0..2_000).map(&mut record).collect();
        text.into_bytes()[..BLOCK_BYTES as usize].to_vec()
    }

    #[test]
    fn what_hardly_gets_smaller_is_not_squeezed() {
        let folder = tempfile::tempdir().unwrap();
        let frames = Frames::new(folder.path(), 3).unwrap();
        let (never, abort) = (AtomicBool::new(false), AtomicBool::new(true));
        let (records, noise) = (records(), content(16, 63));
        // The first block is the sample.
        for (first, pays) in [(&records, true), (&noise, false)] {
            let contents: Vec<&Vec<u8>> = std::iter::once(first).chain(std::iter::repeat_n(&records, 15)).collect();
            let mut compressor = frames.compressor().unwrap();
            let hold = |content: &&Vec<u8>| frames.hold(&mut compressor, content, u16::MAX, 0).unwrap();
            let mut blocks: Vec<Block> = contents.iter().map(hold).collect();
            let before: Vec<u64> = blocks.iter().map(Block::ram_bytes).collect();
            frames.squeeze(blocks.iter_mut(), &abort).unwrap();
            assert!(blocks.iter().all(|block| block.loose_bytes() > 0), "nothing is done once it is aborted");
            frames.squeeze(blocks.iter_mut(), &never).unwrap();
            let smaller = blocks.iter().zip(&before).filter(|(block, before)| block.ram_bytes() < **before).count();
            assert_eq!(smaller, if pays { 16 } else { 0 });
            assert!(blocks.iter().all(|block| block.loose_bytes() == 0), "it is not tried again");
            for (block, content) in blocks.iter().zip(contents) {
                let mut got = vec![0; BLOCK_BYTES as usize];
                frames.give(block, &mut Reader::new().unwrap(), &mut got).unwrap();
                assert_eq!(&got, content);
            }
        }
    }

    #[test]
    fn a_wrong_byte_is_never_given() {
        let folder = tempfile::tempdir().unwrap();
        let frames = Frames::new(folder.path(), 3).unwrap();
        let mut block = frames.hold(&mut frames.compressor().unwrap(), &content(16, 9), u16::MAX, 0).unwrap();
        block.checksum ^= 1;
        let mut got = vec![0; BLOCK_BYTES as usize];
        let error = frames.give(&block, &mut Reader::new().unwrap(), &mut got).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Damaged);
    }
}
