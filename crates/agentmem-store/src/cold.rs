//! The cold tier's files: append-only segments of records.
//!
//! ```text
//! DIR/segments/00000001.seg     record, record, ...
//! record: magic "AMR1", frame id u32, frame length u32, checksum u32 of these 12 bytes, frame
//! ```
//! A frame checks itself, so a record only has to be found. A record whose frame is dead is
//! punched out of its file; a file whose records are all dead is removed. A store never appends to
//! a file that an earlier one wrote, so a torn end stays where it is and hurts nobody.

use crate::ranges::Ranges;
use crate::sync::{AtomicU64, Ordering};
use crate::sys;
use agentmem_core::{Error, ErrorKind, Result};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const MAGIC: [u8; 4] = *b"AMR1";
const RECORD_HEADER_BYTES: u64 = 16;
/// A new file is begun once the current one is this long.
const SEGMENT_BYTES_MAX: u64 = 256 << 20;
const BLOCK_BYTES: u64 = 4096;
/// A file is ragged once the edges of its holes take this share of what lives in it, and this much.
const RAGGED_SHARE: u64 = 8;
const RAGGED_BYTES_MIN: u64 = 64 << 10;

/// Where a frame is on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct DiskPlace {
    /// Number of the file.
    pub file: u32,
    /// Where the frame starts in it.
    pub offset: u64,
    /// Length of the frame.
    pub len: u32,
}

/// The files of one store.
#[derive(Debug)]
pub struct Cold {
    folder: PathBuf,
    inner: Mutex<Inner>,
    /// Dead ranges of all files.
    dead_ranges: AtomicU64,
}

#[derive(Debug, Default)]
struct Inner {
    files: HashMap<u32, Segment>,
    /// The file being appended to: always one that this process began.
    active: Option<u32>,
    /// The next file's number: above every one that exists or that an index ever named, so that a
    /// place in a file that was lost is not found in a new one.
    next: u32,
}

#[derive(Debug)]
struct Segment {
    file: Arc<File>,
    end: u64,
    live_bytes: u64,
    /// Invariant: the interior blocks of every range here are punched out.
    dead: Ranges,
    /// Bytes of those blocks, where the file system could.
    punched_bytes: u64,
}

impl Segment {
    fn new(file: File, end: u64) -> Self {
        Segment { file: Arc::new(file), end, live_bytes: 0, dead: Ranges::default(), punched_bytes: 0 }
    }

    fn punch(&mut self, from: u64, to: u64) {
        // Where the file system cannot, the file goes when all of it is dead.
        if sys::punch_file(&self.file, from, to - from).is_ok() {
            self.punched_bytes += to - from;
        }
    }

    /// Bytes on disk of nothing that lives.
    fn wasted_bytes(&self) -> u64 {
        self.end - self.live_bytes - self.punched_bytes
    }
}

/// The range of a file that a frame's record takes.
fn record(place: DiskPlace) -> (u64, u64) {
    (place.offset - RECORD_HEADER_BYTES, RECORD_HEADER_BYTES + u64::from(place.len))
}

fn record_header(id: u32, len: u32) -> [u8; RECORD_HEADER_BYTES as usize] {
    let mut header = [0; RECORD_HEADER_BYTES as usize];
    header[..4].copy_from_slice(&MAGIC);
    header[4..8].copy_from_slice(&id.to_le_bytes());
    header[8..12].copy_from_slice(&len.to_le_bytes());
    let check =
        header[..12].iter().fold(0x811c_9dc5u32, |hash, &byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    header[12..].copy_from_slice(&check.to_le_bytes());
    header
}

impl Cold {
    /// Opens the files in `folder`, made if it is not there.
    pub fn open(folder: &Path) -> Result<Self> {
        let failed = |error| sys::io_failed(folder, error);
        std::fs::create_dir_all(folder).map_err(failed)?;
        let mut files = HashMap::new();
        for entry in std::fs::read_dir(folder).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if path.extension().is_none_or(|extension| extension != "seg") {
                continue;
            }
            let Some(Ok(number)) = path.file_stem().and_then(|stem| stem.to_str()).map(str::parse) else { continue };
            let open = || {
                let file = OpenOptions::new().read(true).write(true).open(&path)?;
                let end = file.metadata()?.len();
                Ok(Segment::new(file, end))
            };
            files.insert(number, open().map_err(|error| sys::io_failed(&path, error))?);
        }
        let next = files.keys().max().map_or(1, |newest: &u32| newest.saturating_add(1));
        let inner = Mutex::new(Inner { files, active: None, next });
        Ok(Cold { folder: folder.to_owned(), inner, dead_ranges: AtomicU64::new(0) })
    }

    fn path(&self, number: u32) -> PathBuf {
        self.folder.join(format!("{number:08}.seg"))
    }

    /// Appends frames, makes them durable, and says where each is. If it fails, none counts.
    pub fn write(&self, frames: &[(u32, &[u8])]) -> Result<Vec<DiskPlace>> {
        let mut reserved: Vec<(Arc<File>, DiskPlace)> = Vec::with_capacity(frames.len());
        let outcome = self.reserve(frames, &mut reserved).and_then(|()| self.write_reserved(frames, &reserved));
        let places: Vec<DiskPlace> = reserved.into_iter().map(|(_, place)| place).collect();
        match outcome {
            Ok(()) => Ok(places),
            Err(error) => {
                // Nothing refers to them, whole or not.
                self.bury(&places);
                Err(error)
            }
        }
    }

    fn reserve(&self, frames: &[(u32, &[u8])], reserved: &mut Vec<(Arc<File>, DiskPlace)>) -> Result<()> {
        let mut inner = self.inner.lock();
        for &(_, frame) in frames {
            let number = self.writable(&mut inner)?;
            let segment = inner.files.get_mut(&number).expect("the active file is open");
            let len = u32::try_from(frame.len()).expect("frames are far below 4 GiB");
            let place = DiskPlace { file: number, offset: segment.end + RECORD_HEADER_BYTES, len };
            segment.end += record(place).1;
            // Counted as alive from now on, so that the file does not go while it is written to.
            segment.live_bytes += record(place).1;
            reserved.push((segment.file.clone(), place));
        }
        Ok(())
    }

    /// Writes and syncs without the lock: whoever asks how much memory is in use needs that.
    fn write_reserved(&self, frames: &[(u32, &[u8])], reserved: &[(Arc<File>, DiskPlace)]) -> Result<()> {
        for (&(id, frame), (file, place)) in frames.iter().zip(reserved) {
            let mut bytes = Vec::with_capacity(frame.len() + RECORD_HEADER_BYTES as usize);
            bytes.extend_from_slice(&record_header(id, place.len));
            bytes.extend_from_slice(frame);
            sys::write_at(file, &self.path(place.file), &bytes, record(*place).0)?;
        }
        for of_file in reserved.chunk_by(|(_, one), (_, other)| one.file == other.file) {
            let (file, place) = &of_file[0];
            sys::sync(file, &self.path(place.file))?;
        }
        Ok(())
    }

    fn writable(&self, inner: &mut Inner) -> Result<u32> {
        if let Some(active) = inner.active
            && inner.files.get(&active).is_some_and(|segment| segment.end < SEGMENT_BYTES_MAX)
        {
            return Ok(active);
        }
        let number = inner.next;
        // Used up even if it fails: the file may be there all the same.
        inner.next += 1;
        let file = sys::create_file(&self.path(number))?;
        inner.files.insert(number, Segment::new(file, 0));
        inner.active = Some(number);
        Ok(number)
    }

    /// Reads the bytes of `frame`. They are not checked, but that they are its bytes is: the frame
    /// does the rest.
    pub fn read(&self, frame: u32, place: DiskPlace) -> Result<Vec<u8>> {
        let path = self.path(place.file);
        let file = self.inner.lock().files.get(&place.file).map(|segment| segment.file.clone());
        let file = file.ok_or_else(|| Error::new(ErrorKind::Damaged, format!("{} is missing", path.display())))?;
        let (start, _) = record(place);
        let mut header = [0; RECORD_HEADER_BYTES as usize];
        sys::read_at(&file, &path, &mut header, start)?;
        if header != record_header(frame, place.len) {
            return Err(Error::new(ErrorKind::Damaged, format!("{} at {start}", path.display())));
        }
        let mut bytes = vec![0; place.len as usize];
        sys::read_at(&file, &path, &mut bytes, place.offset)?;
        Ok(bytes)
    }

    /// Gives the blocks of dead frames back. The caller makes sure that no durable index names
    /// them any more.
    pub fn bury(&self, places: &[DiskPlace]) {
        let mut inner = self.inner.lock();
        for &place in places {
            let Some(segment) = inner.files.get_mut(&place.file) else { continue };
            let (start, len) = record(place);
            segment.live_bytes -= len;
            let merged = segment.dead.insert(start, len);
            let from = start / BLOCK_BYTES * BLOCK_BYTES;
            let to = (start + len).next_multiple_of(BLOCK_BYTES);
            if let Some(interior) = merged.interior(BLOCK_BYTES) {
                let (from, to) = (from.max(interior.start), to.min(interior.end));
                if from < to {
                    segment.punch(from, to);
                }
            }
            if segment.live_bytes == 0 && inner.active != Some(place.file) {
                self.remove(&mut inner, place.file);
            }
        }
        self.count_dead_ranges(&inner);
    }

    /// The file of which holes waste the most, if it is ragged. What lives in it is to be moved: nothing more is
    /// appended to it.
    pub fn most_ragged(&self) -> Option<u32> {
        let mut inner = self.inner.lock();
        let is_ragged = |segment: &Segment| {
            let wasted_bytes = segment.wasted_bytes();
            wasted_bytes >= RAGGED_BYTES_MIN && wasted_bytes * RAGGED_SHARE >= segment.live_bytes
        };
        let ragged = inner.files.iter().filter(|(_, segment)| is_ragged(segment));
        let number = ragged.max_by_key(|(_, segment)| segment.wasted_bytes()).map(|(&number, _)| number)?;
        inner.active = inner.active.filter(|&active| active != number);
        if inner.files[&number].live_bytes == 0 {
            self.remove(&mut inner, number);
            return None;
        }
        Some(number)
    }

    fn count_dead_ranges(&self, inner: &Inner) {
        let count: usize = inner.files.values().map(|segment| segment.dead.count()).sum();
        self.dead_ranges.store(count as u64, Ordering::Relaxed);
    }

    /// Whether there is any file.
    pub fn has_files(&self) -> bool {
        !self.inner.lock().files.is_empty()
    }

    fn remove(&self, inner: &mut Inner, number: u32) {
        inner.files.remove(&number);
        let _ = std::fs::remove_file(self.path(number));
    }

    /// Takes over what an index says is alive; everything else in the files is dead. Returns how
    /// many bytes nobody knew of: records written after the last commit.
    pub fn adopt(&self, mut places: Vec<DiskPlace>) -> Result<u64> {
        places.sort_unstable_by_key(|place| (place.file, place.offset));
        let is_before = |pair: &[DiskPlace]| {
            pair[0].file < pair[1].file
                || pair[0].offset + u64::from(pair[0].len) + RECORD_HEADER_BYTES <= pair[1].offset
        };
        let is_place = |place: &DiskPlace| place.offset >= RECORD_HEADER_BYTES && place.offset <= u64::MAX / 2;
        if !places.iter().all(is_place) || !places.windows(2).all(is_before) {
            return Err(Error::new(ErrorKind::Damaged, "the index: places of frames"));
        }
        let mut inner = self.inner.lock();
        inner.next = inner.next.max(places.last().map_or(1, |place| place.file.saturating_add(1)));
        let mut orphan_bytes = 0;
        for (&number, segment) in &mut inner.files {
            let from = places.partition_point(|place| place.file < number);
            let to = places.partition_point(|place| place.file <= number);
            let mut end = 0;
            let live = places[from..to].iter().map(|&place| record(place)).chain([(segment.end, 0)]);
            for (start, len) in live {
                if start > end {
                    let range = segment.dead.insert(end, start - end);
                    if let Some(interior) = range.interior(BLOCK_BYTES) {
                        let before = sys::allocated_bytes(&segment.file);
                        segment.punch(interior.start, interior.end);
                        orphan_bytes += before.saturating_sub(sys::allocated_bytes(&segment.file));
                    }
                }
                segment.live_bytes += len;
                end = end.max(start + len);
            }
        }
        let empty: Vec<u32> =
            inner.files.iter().filter(|(_, s)| s.live_bytes == 0).map(|(&number, _)| number).collect();
        for number in empty {
            self.remove(&mut inner, number);
        }
        self.count_dead_ranges(&inner);
        Ok(orphan_bytes)
    }

    /// Bytes of the disk blocks that the files occupy.
    pub fn disk_bytes(&self) -> u64 {
        self.inner.lock().files.values().map(|segment| sys::allocated_bytes(&segment.file)).sum()
    }

    /// Bytes of the tables that describe dead ranges.
    pub fn table_bytes(&self) -> u64 {
        self.dead_ranges.load(Ordering::Relaxed) * 64
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn frames_come_back_and_dead_ones_free_their_blocks() {
        let folder = tempfile::tempdir().unwrap();
        let cold = Cold::open(folder.path()).unwrap();
        let frames: Vec<Vec<u8>> = (0..20u8).map(|mark| vec![mark; 50_000]).collect();
        let batch: Vec<(u32, &[u8])> = frames.iter().enumerate().map(|(id, f)| (id as u32, f.as_slice())).collect();
        let places = cold.write(&batch).unwrap();
        let before = cold.disk_bytes();
        let (dead, live): (Vec<_>, Vec<_>) = places.iter().enumerate().partition(|(index, _)| index % 2 == 0);
        cold.bury(&dead.iter().map(|(_, place)| **place).collect::<Vec<_>>());
        for (index, place) in &live {
            assert_eq!(cold.read(*index as u32, **place).unwrap(), frames[*index]);
        }
        assert!(cold.disk_bytes() * 10 < before * 6, "{} of {before}", cold.disk_bytes());

        // A later process adopts what an index knew: one frame, the rest is orphaned.
        let again = Cold::open(folder.path()).unwrap();
        again.adopt(vec![*live[0].1]).unwrap();
        let id = live[0].0 as u32;
        assert_eq!(again.read(id, *live[0].1).unwrap(), frames[live[0].0]);
        assert_eq!(again.read(id + 1, *live[0].1).unwrap_err().kind(), ErrorKind::Damaged, "another frame's place");
        assert!(again.disk_bytes() < 70_000);
        let fresh = again.write(&[(99, b"new")]).unwrap();
        assert_ne!(fresh[0].file, live[0].1.file, "old files are never appended to");
        again.bury(&[*live[0].1]);
        assert_eq!(again.read(id, *live[0].1).unwrap_err().kind(), ErrorKind::Damaged);

        // A lost file's number is not used again: its places must not be found in a new file.
        let lost = DiskPlace { file: 40, ..*live[0].1 };
        let third = Cold::open(folder.path()).unwrap();
        third.adopt(vec![lost]).unwrap();
        assert!(third.write(&[(id, &frames[0])]).unwrap()[0].file > 40);
        assert_eq!(third.read(id, lost).unwrap_err().kind(), ErrorKind::Damaged);
        let overlapping = vec![*live[0].1, DiskPlace { offset: live[0].1.offset + 1, ..*live[0].1 }];
        assert_eq!(third.adopt(overlapping).unwrap_err().kind(), ErrorKind::Damaged);
    }
}
