//! Segments: the mappings that a slot word can point into.

use crate::sync::{AtomicU64, Ordering, Words};
use crate::sys::Mapping;
use agentmem_core::place::SEGMENTS_MAX;
use agentmem_core::{Error, ErrorKind, Result};
use parking_lot::Mutex;
use std::sync::Arc;

/// Table of segment number to first byte. Numbers are reused, but never while a slot word, a pin
/// or a live handle can still name them.
#[derive(Debug)]
pub struct Segments {
    bases: Words,
    numbers: Mutex<Numbers>,
    large_bytes: AtomicU64,
}

#[derive(Debug, Default)]
struct Numbers {
    next: u32,
    free: Vec<u32>,
}

impl Segments {
    /// An empty table.
    pub fn new() -> Result<Arc<Self>> {
        Ok(Arc::new(Segments {
            bases: Words::new("agentmem-segments", SEGMENTS_MAX as usize)?,
            numbers: Mutex::default(),
            large_bytes: AtomicU64::new(0),
        }))
    }

    /// First byte of `segment`.
    #[inline]
    pub fn base(&self, segment: u32) -> *const u8 {
        self.bases[segment as usize].load(Ordering::Acquire) as *const u8
    }

    /// Gives `mapping` a number.
    pub fn register(&self, mapping: &Mapping) -> Result<u32> {
        let mut numbers = self.numbers.lock();
        let number = match numbers.free.pop() {
            Some(number) => number,
            None if numbers.next < SEGMENTS_MAX => {
                numbers.next += 1;
                numbers.next - 1
            }
            None => {
                return Err(Error::new(ErrorKind::LimitReached, format!("{SEGMENTS_MAX} segments")));
            }
        };
        self.bases[number as usize].store(mapping.as_ptr() as u64, Ordering::Release);
        Ok(number)
    }

    /// Takes the number back.
    pub fn release(&self, segment: u32) {
        self.bases[segment as usize].store(0, Ordering::Release);
        self.numbers.lock().free.push(segment);
    }

    /// Resident bytes of all [`Large`] contents.
    pub fn large_bytes(&self) -> u64 {
        self.large_bytes.load(Ordering::Relaxed)
    }
}

/// Content with a sealed memfd of its own.
#[derive(Debug)]
pub struct Large {
    segments: Arc<Segments>,
    segment: u32,
    mapping: Mapping,
    len: usize,
}

impl Large {
    /// A sealed memfd of `len` bytes that `fill` wrote.
    pub fn with(segments: &Arc<Segments>, len: usize, fill: impl FnOnce(&mut [u8]) -> Result<()>) -> Result<Self> {
        let mapping = Mapping::sealed("agentmem-large", len, fill)?;
        let segment = segments.register(&mapping)?;
        segments.large_bytes.fetch_add(mapping.len() as u64, Ordering::Relaxed);
        Ok(Large { segments: segments.clone(), segment, mapping, len })
    }

    /// Number of its segment.
    pub fn segment(&self) -> u32 {
        self.segment
    }

    /// The content.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: sealed against writes, mapped while `self` lives.
        unsafe { std::slice::from_raw_parts(self.mapping.as_ptr(), self.len) }
    }
}

impl Drop for Large {
    fn drop(&mut self) {
        self.segments.large_bytes.fetch_sub(self.mapping.len() as u64, Ordering::Relaxed);
        self.segments.release(self.segment);
    }
}
