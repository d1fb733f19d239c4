//! A heap in a sparse memfd: extents of any length, pages given back as soon as they are free.
//!
//! Compressed frames have every length, and half of them may go at any time. Best fit over
//! coalesced free ranges, together with a hole punched into every free page, keeps resident memory
//! within a page or so per free range of what is allocated, with nothing ever moved.

use crate::ranges::{Range, Ranges};
use crate::segments::Segments;
use crate::sync::{AtomicU64, Ordering};
use crate::sys::{Mapping, PAGE_BYTES};
use agentmem_core::place::{Place, UNIT_BYTES};
use agentmem_core::{Error, ErrorKind, Result};
use parking_lot::Mutex;
use std::sync::Arc;

/// Extents from this length on get their pages at once.
const POPULATE_BYTES_MIN: usize = 16 << 10;

/// Where extents come from.
#[derive(Debug)]
pub struct Heap {
    mapping: Mapping,
    segments: Arc<Segments>,
    segment: u32,
    /// Address space; pages cost memory only when used.
    capacity_bytes: u64,
    free: Mutex<Free>,
    /// Resident bytes: extents, and what the pages at their edges hold beside them.
    resident_bytes: AtomicU64,
}

#[derive(Debug, Default)]
struct Free {
    /// Invariant: the interior pages of every range here are punched out.
    ranges: Ranges,
    /// Everything from here on was never used.
    end: u64,
}

/// Bytes of a free range that its punched interior does not give back.
fn edge_bytes(range: Range) -> u64 {
    range.len() - range.interior(PAGE_BYTES).map_or(0, Range::len)
}

impl Heap {
    /// An empty heap with `capacity_bytes` of address space.
    pub fn new(name: &str, segments: &Arc<Segments>, capacity_bytes: u64) -> Result<Arc<Self>> {
        let mapping = Mapping::memfd(name, capacity_bytes as usize)?;
        let segment = segments.register(&mapping)?;
        Ok(Arc::new(Heap {
            mapping,
            segments: segments.clone(),
            segment,
            capacity_bytes,
            free: Mutex::default(),
            resident_bytes: AtomicU64::new(0),
        }))
    }

    /// Bytes resident for this heap.
    pub fn resident_bytes(&self) -> u64 {
        self.resident_bytes.load(Ordering::Relaxed)
    }

    /// Bytes of the tables that describe free ranges.
    pub fn table_bytes(&self) -> u64 {
        self.free.lock().ranges.count() as u64 * 64
    }

    /// An extent of `len` bytes; what it holds at first is undefined, and nobody else's.
    pub fn alloc(self: &Arc<Self>, len: usize) -> Result<Extent> {
        let room = (len.max(1) as u64).next_multiple_of(UNIT_BYTES);
        let mut free = self.free.lock();
        let mut grown = room as i64;
        let start = match free.ranges.take(room) {
            Some(found) => {
                grown -= edge_bytes(found) as i64;
                if found.len() > room {
                    grown += edge_bytes(Range { start: found.start + room, end: found.end }) as i64;
                }
                found.start
            }
            None if free.end + room <= self.capacity_bytes => {
                free.end += room;
                free.end - room
            }
            None => {
                let what = format!("{} bytes of one heap", self.capacity_bytes);
                return Err(Error::new(ErrorKind::LimitReached, what));
            }
        };
        self.resident_bytes.fetch_add(grown as u64, Ordering::Relaxed);
        drop(free);
        if len >= POPULATE_BYTES_MIN {
            self.mapping.populate(start, len as u64);
        }
        Ok(Extent { heap: self.clone(), start, len })
    }

    /// An extent that holds `content`.
    pub fn store(self: &Arc<Self>, content: &[u8]) -> Result<Extent> {
        let extent = self.alloc(content.len())?;
        extent.write(0, content);
        Ok(extent)
    }

    /// An extent of `len` bytes that `fill` writes.
    pub fn store_with(self: &Arc<Self>, len: usize, fill: impl FnOnce(&mut [u8]) -> Result<()>) -> Result<Extent> {
        let extent = self.alloc(len)?;
        // SAFETY: the extent is new, `len` bytes long, and nobody else knows of it; its memory is
        // mapped and holds bytes, whichever they are.
        fill(unsafe { std::slice::from_raw_parts_mut(extent.address(), len) })?;
        Ok(extent)
    }

    fn free(&self, start: u64, len: usize) {
        let room = (len.max(1) as u64).next_multiple_of(UNIT_BYTES);
        let mut free = self.free.lock();
        let (merged, swallowed) = free.ranges.insert(start, room);
        let mut shrunk = room as i64 - edge_bytes(merged) as i64;
        for range in swallowed.into_iter().flatten() {
            shrunk += edge_bytes(range) as i64;
        }
        // Only pages that became free just now: the rest of the merged range is punched already.
        let touched =
            Range { start: start / PAGE_BYTES * PAGE_BYTES, end: (start + room).next_multiple_of(PAGE_BYTES) };
        if let Some(interior) = merged.interior(PAGE_BYTES) {
            let (from, to) = (touched.start.max(interior.start), touched.end.min(interior.end));
            if from < to {
                self.mapping.punch(from, to - from);
            }
        }
        self.resident_bytes.fetch_sub(shrunk as u64, Ordering::Relaxed);
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
    pub fn len(&self) -> usize {
        self.len
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
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn extents_keep_their_bytes_and_residency_is_exact(
            steps in proptest::collection::vec((any::<bool>(), 1..40_000usize), 1..120)
        ) {
            let heap = Heap::new("agentmem-test", &Segments::new().unwrap(), 1 << 30).unwrap();
            let mut held: Vec<(Extent, u8)> = Vec::new();
            for (turn, (drop_one, len)) in steps.into_iter().enumerate() {
                if drop_one && !held.is_empty() {
                    held.swap_remove(len % held.len());
                } else {
                    let mark = turn as u8;
                    held.push((heap.store(&vec![mark; len]).unwrap(), mark));
                }
                for (extent, mark) in &held {
                    prop_assert!(extent.bytes().iter().all(|byte| byte == mark));
                }
                let allocated: u64 = held.iter().map(|(e, _)| (e.len() as u64).next_multiple_of(UNIT_BYTES)).sum();
                let resident = heap.resident_bytes();
                let edges = heap.free.lock().ranges.count() as u64 * 2 * PAGE_BYTES;
                prop_assert!(resident >= allocated && resident <= allocated + edges);
            }
            held.clear();
            prop_assert!(heap.resident_bytes() < PAGE_BYTES);
        }
    }
}
