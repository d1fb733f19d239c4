//! A heap in a sparse memfd: extents of any length, pages given back as soon as enough of them are free.
//!
//! Compressed frames have every length, and half of them may go at any time. Best fit over
//! coalesced free ranges, together with holes punched into the free pages beyond a bounded slack, keeps
//! resident memory within the slack and a page or so per free range of what is allocated, with nothing
//! ever moved. Where extents go and which pages stay is decided in `free.rs`; here it is done.

use crate::free::Free;
use crate::ranges::Range;
use crate::segments::Segments;
use crate::sync::{AtomicU64, Ordering};
use crate::sys::Mapping;
use agentmem_core::place::{Place, UNIT_BYTES};
use agentmem_core::{Error, ErrorKind, Result};
use parking_lot::{Mutex, MutexGuard};
use std::sync::Arc;

/// Pages are asked for together from this length on; fewer appear when they are written.
const POPULATE_BYTES_MIN: u64 = 16 << 10;
/// Content up to this length is decoded beside the heap where its pages are missing: into one buffer
/// for each heap, that the engine's fixed bytes account for.
const SCRATCH_BYTES_MAX: usize = 256 << 10;

/// Where extents come from.
#[derive(Debug)]
pub struct Heap {
    mapping: Mapping,
    segments: Arc<Segments>,
    segment: u32,
    /// Address space; pages cost memory only when used.
    capacity_bytes: u64,
    /// Where content is decoded whose pages are missing.
    scratch: Mutex<Option<Vec<u8>>>,
    free: Mutex<Free>,
    /// Extents that were dropped, until [`Self::settle`]; nothing where they are free at once.
    dropped: Option<Mutex<Vec<(u64, usize)>>>,
    /// See [`Self::used_bytes`] and [`Self::resident_bytes`].
    used_bytes: AtomicU64,
    resident_bytes: AtomicU64,
}

impl Heap {
    /// An empty heap with `capacity_bytes` of address space.
    pub fn new(name: &str, segments: &Arc<Segments>, capacity_bytes: u64) -> Result<Arc<Self>> {
        let mapping = Mapping::writable(name, capacity_bytes as usize)?;
        mapping.fix_len()?;
        let segment = segments.register(&mapping)?;
        Ok(Self::over(mapping, segments, segment, false))
    }

    /// The heap in `mapping`, which outlives this process, and has the number `segment` in every one. An extent
    /// that goes is free only when that it went is kept too, and the heap is told so by [`Self::settle`].
    pub fn kept(mapping: Mapping, segments: &Arc<Segments>, segment: u32) -> Result<Arc<Self>> {
        segments.register_as(segment, &mapping)?;
        Ok(Self::over(mapping, segments, segment, true))
    }

    fn over(mapping: Mapping, segments: &Arc<Segments>, segment: u32, is_kept: bool) -> Arc<Self> {
        let capacity_bytes = mapping.len() as u64;
        Arc::new(Heap {
            mapping,
            segments: segments.clone(),
            segment,
            capacity_bytes,
            dropped: is_kept.then(Mutex::default),
            scratch: Mutex::default(),
            free: Mutex::new(Free::new(capacity_bytes)),
            used_bytes: AtomicU64::new(0),
            resident_bytes: AtomicU64::new(0),
        })
    }

    /// Number of its segment.
    pub fn segment(&self) -> u32 {
        self.segment
    }

    /// Bytes of extents, and of what the pages at their edges hold beside them.
    pub fn used_bytes(&self) -> u64 {
        self.used_bytes.load(Ordering::Relaxed)
    }

    /// Bytes resident for this heap: those in use, and the slack.
    pub fn resident_bytes(&self) -> u64 {
        self.resident_bytes.load(Ordering::Relaxed)
    }

    /// Bytes that are resident without being used.
    pub fn slack_bytes(&self) -> u64 {
        // Two counters, of which another thread may just be changing the one.
        self.resident_bytes().saturating_sub(self.used_bytes())
    }

    /// Bytes of the tables that describe free ranges.
    pub fn table_bytes(&self) -> u64 {
        self.free.lock().count() as u64 * 64
    }

    /// An extent of `len` bytes; what it holds at first is undefined, and nobody else's.
    pub fn alloc(self: &Arc<Self>, len: usize) -> Result<Extent> {
        let (extent, missing_bytes) = self.take(len)?;
        if missing_bytes >= POPULATE_BYTES_MIN {
            self.mapping.populate(extent.start, len as u64);
        }
        Ok(extent)
    }

    /// An extent, and how much of it is not resident.
    fn take(self: &Arc<Self>, len: usize) -> Result<(Extent, u64)> {
        let room = (len.max(1) as u64).next_multiple_of(UNIT_BYTES);
        let mut free = self.free.lock();
        let Some(taken) = free.take(room) else {
            let what = format!("{} bytes of one heap", self.capacity_bytes);
            return Err(Error::new(ErrorKind::LimitReached, what));
        };
        self.note(free);
        Ok((Extent { heap: self.clone(), start: taken.start, len }, taken.missing_bytes))
    }

    /// Gives `bytes` of the slack back, or all of it.
    pub fn trim(&self, bytes: u64) {
        let mut free = self.free.lock();
        let slack_bytes = free.resident_bytes() - free.used_bytes();
        self.punch(&free.shrink(slack_bytes.saturating_sub(bytes)));
        self.note(free);
    }

    /// Nothing much will be stored any more: what that takes beside memory is given back.
    pub fn close(&self) {
        self.settle();
        self.mapping.close();
        *self.scratch.lock() = None;
    }

    /// An extent that holds `content`.
    pub fn store(self: &Arc<Self>, content: &[u8]) -> Result<Extent> {
        let (extent, missing_bytes) = self.take(content.len())?;
        if missing_bytes >= POPULATE_BYTES_MIN {
            self.mapping.write(extent.start, content);
        } else {
            extent.write(0, content);
        }
        Ok(extent)
    }

    /// An extent of `len` bytes that `fill` writes.
    pub fn store_with(self: &Arc<Self>, len: usize, fill: impl FnOnce(&mut [u8]) -> Result<()>) -> Result<Extent> {
        let (extent, missing_bytes) = self.take(len)?;
        if missing_bytes >= POPULATE_BYTES_MIN && len > SCRATCH_BYTES_MAX {
            self.mapping.populate(extent.start, len as u64);
        } else if missing_bytes >= POPULATE_BYTES_MIN {
            let mut scratch = self.scratch.lock().take().unwrap_or_default();
            scratch.resize(len.max(scratch.len()), 0);
            let filled = fill(&mut scratch[..len]);
            if filled.is_ok() {
                self.mapping.write(extent.start, &scratch[..len]);
            }
            *self.scratch.lock() = Some(scratch);
            return filled.map(|()| extent);
        }
        // SAFETY: the extent is new, `len` bytes long, and nobody else knows of it; its memory is
        // mapped and holds bytes, whichever they are.
        fill(unsafe { std::slice::from_raw_parts_mut(extent.address(), len) })?;
        Ok(extent)
    }

    /// The extent of `len` bytes that an earlier process had at `start`; `None` if that cannot be. To be
    /// followed by [`Self::punch_holes`] when all are there.
    pub fn adopt(self: &Arc<Self>, start: u64, len: usize) -> Option<Extent> {
        let room = (len.max(1) as u64).next_multiple_of(UNIT_BYTES);
        let mut free = self.free.lock();
        let is_there = start.is_multiple_of(UNIT_BYTES) && free.claim(start, room);
        self.note(free);
        is_there.then(|| Extent { heap: self.clone(), start, len })
    }

    /// Gives every page back that no extent uses.
    pub fn punch_holes(&self) {
        let free = self.free.lock();
        free.holes().for_each(|hole| self.mapping.punch(hole.start, hole.len()));
    }

    /// Extents that were dropped before are free from now on.
    pub fn settle(&self) {
        if let Some(dropped) = &self.dropped {
            let dropped = std::mem::take(&mut *dropped.lock());
            dropped.into_iter().for_each(|(start, len)| self.free_now(start, len));
        }
    }

    fn free(&self, start: u64, len: usize) {
        match &self.dropped {
            Some(dropped) => dropped.lock().push((start, len)),
            None => self.free_now(start, len),
        }
    }

    fn free_now(&self, start: u64, len: usize) {
        let room = (len.max(1) as u64).next_multiple_of(UNIT_BYTES);
        let mut free = self.free.lock();
        self.punch(&free.give(start, room));
        self.note(free);
    }

    fn punch(&self, ranges: &[Range]) {
        ranges.iter().for_each(|range| self.mapping.punch(range.start, range.len()));
    }

    fn note(&self, free: MutexGuard<'_, Free>) {
        self.used_bytes.store(free.used_bytes(), Ordering::Relaxed);
        self.resident_bytes.store(free.resident_bytes(), Ordering::Relaxed);
    }
}

impl Drop for Heap {
    fn drop(&mut self) {
        self.segments.release(self.segment);
    }
}

/// A range of a heap, given back when dropped.
#[derive(Debug)]
pub struct Extent {
    heap: Arc<Heap>,
    start: u64,
    len: usize,
}

impl Extent {
    /// Its length.
    pub fn len_bytes(&self) -> usize {
        self.len
    }

    /// Its first byte in the heap.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// Where a slot word says it is.
    pub fn place(&self) -> Place {
        Place::Hot { segment: self.heap.segment, offset_bytes: self.start }
    }

    /// Writes `content` at `offset`. The caller makes sure that nobody reads those bytes yet.
    pub fn write(&self, offset: usize, content: &[u8]) {
        assert!(offset + content.len() <= self.len, "write beyond an extent");
        // SAFETY: the range is inside this extent, which no other extent overlaps; readers look
        // only at bytes that were written before they were told of them.
        unsafe {
            std::ptr::copy_nonoverlapping(content.as_ptr(), self.address().add(offset), content.len());
        }
    }

    /// Bytes `from..to`, which were written before.
    pub fn slice(&self, from: usize, to: usize) -> &[u8] {
        assert!(from <= to && to <= self.len, "read beyond an extent");
        // SAFETY: inside this extent, mapped while `self` lives, and never written again.
        unsafe { std::slice::from_raw_parts(self.address().add(from), to - from) }
    }

    /// All of it, once it has been written.
    pub fn bytes(&self) -> &[u8] {
        self.slice(0, self.len)
    }

    fn address(&self) -> *mut u8 {
        // SAFETY: `start` is inside the mapping.
        unsafe { self.heap.mapping.as_ptr().add(self.start as usize) }
    }
}

impl Drop for Extent {
    fn drop(&mut self) {
        self.heap.free(self.start, self.len);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::sys::PAGE_BYTES;
    use proptest::prelude::*;

    const CAPACITY_BYTES: u64 = 128 << 20;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        /// The kernel is asked which pages are resident.
        #[test]
        fn extents_keep_their_bytes_and_residency_is_exact(
            steps in proptest::collection::vec((0..10u8, 1..40_000usize), 1..150),
            scale in prop::sample::select(vec![1, 12]),
        ) {
            let heap = Heap::new("agentmem-test", &Segments::new(false).unwrap(), CAPACITY_BYTES).unwrap();
            let mut held: Vec<(Extent, u8)> = Vec::new();
            for (turn, (action, len)) in steps.into_iter().enumerate() {
                let len = len * scale;
                match action {
                    0..4 if !held.is_empty() => drop(held.swap_remove(len % held.len())),
                    4 => heap.trim(len as u64 * 4),
                    _ => held.push((heap.store(&vec![turn as u8; len]).unwrap(), turn as u8)),
                }
                let allocated: u64 = held.iter().map(|(e, _)| (e.len_bytes() as u64).next_multiple_of(UNIT_BYTES)).sum();
                let (used, resident) = (heap.used_bytes(), heap.resident_bytes());
                let edges = heap.free.lock().count() as u64 * 2 * PAGE_BYTES;
                prop_assert!(used >= allocated && used <= allocated + edges);
                prop_assert!(resident - used <= heap.free.lock().slack_bytes_max());
                prop_assert_eq!(resident, heap.mapping.resident_bytes());
            }
            for (extent, mark) in &held {
                prop_assert!(extent.bytes().iter().all(|byte| byte == mark));
            }
            heap.trim(u64::MAX);
            prop_assert_eq!(heap.resident_bytes(), heap.used_bytes());
            held.clear();
            prop_assert_eq!((heap.resident_bytes(), heap.mapping.resident_bytes()), (0, 0));
        }
    }

    #[test]
    fn what_is_freed_is_used_again_before_anything_new_is_asked_for() {
        let heap = Heap::new("agentmem-test", &Segments::new(false).unwrap(), CAPACITY_BYTES).unwrap();
        let content = vec![7; 64 << 10];
        let mut held: Vec<Extent> = (0..1600).map(|_| heap.store(&content).unwrap()).collect();
        let resident = heap.mapping.resident_bytes();
        for turn in 0..1600 {
            held.swap_remove(turn * 7919 % 1600);
            held.push(heap.store(&content).unwrap());
            assert_eq!(heap.mapping.resident_bytes(), resident);
        }
    }
}
