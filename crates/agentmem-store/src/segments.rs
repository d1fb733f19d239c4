//! Segments: the mappings that a slot word can point into.

use crate::keeping::Keeping;
use crate::kernel::Device;
use crate::sync::{AtomicU64, Ordering, Words};
use crate::sys::Mapping;
use agentmem_core::place::SEGMENTS_MAX;
use agentmem_core::{Error, ErrorKind, Result};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// Mappings of other processes that one process keeps at most.
const ADOPTED_MAX: usize = 16_384;
/// With fewer, it looks for none that are not needed any more: what the kernel module holds lives as long as they do.
const ADOPTED_MIN: usize = 16;

/// Table of segment number to first byte. The engine reuses numbers, but never while a slot word, a pin
/// or a live handle can still name them; another process, which maps what it looks at, sees by the
/// incarnation that a number was used again.
#[derive(Debug)]
pub struct Segments {
    /// First byte of each, in this process.
    bases: Words,
    /// The incarnation that is at `bases`.
    known: Words,
    /// The incarnation that the engine means. Only it writes this.
    incarnations: Words,
    numbers: Mutex<Numbers>,
    adopted: Mutex<Adopted>,
    /// Whether descriptors are kept, to be lent.
    lends: bool,
    /// Where large contents are kept, so that they outlive this process.
    keeping: Option<Arc<Keeping>>,
    /// Large contents that were dropped, until [`Segments::settle`]. Only of those that are kept.
    dropped: Mutex<Vec<Dropped>>,
    large: AtomicU64,
    large_max: AtomicU64,
    large_bytes: AtomicU64,
}

#[derive(Debug)]
struct Dropped {
    mapping: Mapping,
    segment: u32,
    incarnation: u64,
}

#[derive(Debug, Default)]
struct Numbers {
    next: u32,
    free: Vec<u32>,
    /// What can be lent, with its length.
    lendable: HashMap<u32, (Lendable, u64)>,
}

#[derive(Debug)]
enum Lendable {
    /// By a descriptor that is there for that.
    Memory(OwnedFd),
    /// By one that the kernel module makes when it is asked, so that what it holds takes no descriptors.
    Content { device: Arc<Device>, id: u64 },
}

/// What this process mapped of another's.
#[derive(Debug, Default)]
struct Adopted {
    mappings: HashMap<u32, Mapping>,
    /// With so many, those go that the engine means no more.
    sweep_at: usize,
}

impl Segments {
    /// An empty table, of an engine that `lends` its memory to other processes or does not.
    pub fn new(lends: bool) -> Result<Arc<Self>> {
        let words = Words::kept("agentmem-incarnations", SEGMENTS_MAX as usize, lends)?;
        Self::over(words, lends, None)
    }

    /// The table of an engine that lends its memory and has it kept.
    pub fn kept(incarnations: Words, keeping: Arc<Keeping>) -> Result<Arc<Self>> {
        assert!(incarnations.len() == SEGMENTS_MAX as usize);
        Self::over(incarnations, true, Some(keeping))
    }

    /// The table of a process that looks at another's, whose incarnations were lent.
    pub fn lent(incarnations: Words) -> Result<Arc<Self>> {
        assert!(incarnations.len() == SEGMENTS_MAX as usize);
        Self::over(incarnations, false, None)
    }

    fn over(incarnations: Words, lends: bool, keeping: Option<Arc<Keeping>>) -> Result<Arc<Self>> {
        Ok(Arc::new(Segments {
            bases: Words::new("agentmem-segments", SEGMENTS_MAX as usize)?,
            known: Words::new("agentmem-known", SEGMENTS_MAX as usize)?,
            incarnations,
            numbers: Mutex::default(),
            adopted: Mutex::default(),
            lends,
            keeping,
            dropped: Mutex::default(),
            large: AtomicU64::new(0),
            large_max: AtomicU64::new(u64::MAX),
            large_bytes: AtomicU64::new(0),
        }))
    }

    /// Whether descriptors are kept, to be lent.
    pub fn lends(&self) -> bool {
        self.lends
    }

    /// The words that other processes read.
    pub fn incarnations(&self) -> &Words {
        &self.incarnations
    }

    /// First byte of `segment`, if this process has mapped it as it is now.
    #[inline]
    pub fn base(&self, segment: u32) -> Option<*const u8> {
        let segment = segment as usize;
        let known = self.known[segment].load(Ordering::Acquire);
        let is_current = known == self.incarnations[segment].load(Ordering::Acquire);
        is_current.then(|| self.bases[segment].load(Ordering::Relaxed) as *const u8)
    }

    fn know(&self, segment: u32, incarnation: u64, mapping: &Mapping) {
        self.bases[segment as usize].store(mapping.as_ptr() as u64, Ordering::Relaxed);
        self.known[segment as usize].store(incarnation, Ordering::Release);
    }

    /// Gives `mapping` a number.
    pub fn register(&self, mapping: &Mapping) -> Result<u32> {
        let lendable = if self.lends { Some(Lendable::Memory(mapping.read_only()?)) } else { None };
        self.give_number(mapping, lendable)
    }

    /// Gives a number to `mapping` of content `id`, which `device` holds as long as it has that.
    pub fn register_content(&self, mapping: &Mapping, device: &Arc<Device>, id: u64) -> Result<u32> {
        let content = || Lendable::Content { device: device.clone(), id };
        self.give_number(mapping, self.lends.then(content))
    }

    fn give_number(&self, mapping: &Mapping, lendable: Option<Lendable>) -> Result<u32> {
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
        if let Some(lendable) = lendable {
            numbers.lendable.insert(number, (lendable, mapping.len() as u64));
        }
        let word = &self.incarnations[number as usize];
        let incarnation = word.load(Ordering::Relaxed) + 1;
        self.know(number, incarnation, mapping);
        word.store(incarnation, Ordering::Release);
        Ok(number)
    }

    /// Gives `mapping` that number, which nothing else ever has.
    pub fn register_as(&self, segment: u32, mapping: &Mapping) -> Result<()> {
        let incarnation = self.incarnations[segment as usize].load(Ordering::Relaxed).max(1);
        self.restore(segment, incarnation, mapping)?;
        let mut numbers = self.numbers.lock();
        numbers.next = numbers.next.max(segment + 1);
        Ok(())
    }

    /// Gives `mapping` the number and the incarnation that it had in an earlier process.
    fn restore(&self, segment: u32, incarnation: u64, mapping: &Mapping) -> Result<()> {
        let lendable = (Lendable::Memory(mapping.read_only()?), mapping.len() as u64);
        self.numbers.lock().lendable.insert(segment, lendable);
        self.know(segment, incarnation, mapping);
        self.incarnations[segment as usize].store(incarnation, Ordering::Release);
        Ok(())
    }

    /// After all were restored: every other number is free.
    pub fn restored(&self) {
        let mut numbers = self.numbers.lock();
        numbers.next = numbers.lendable.keys().max().map_or(0, |most| most + 1);
        numbers.free = (0..numbers.next).filter(|number| !numbers.lendable.contains_key(number)).collect();
        // Whoever mapped what had such a number and was lost must not take the next one for it.
        for &number in &numbers.free {
            self.incarnations[number as usize].fetch_add(1, Ordering::AcqRel);
        }
    }

    /// Large contents that were dropped before are gone from now on.
    pub fn settle(&self) {
        for dropped in std::mem::take(&mut *self.dropped.lock()) {
            self.bury(&dropped.mapping, dropped.segment);
            if let Some(keeping) = &self.keeping {
                keeping.let_go(&large_name(dropped.segment, dropped.incarnation));
            }
        }
    }

    fn bury(&self, mapping: &Mapping, segment: u32) {
        if self.lends {
            // Others may have it mapped, and nobody pins it: the memory goes all the same.
            mapping.punch(0, mapping.len() as u64);
        }
        self.large.fetch_sub(1, Ordering::Relaxed);
        self.large_bytes.fetch_sub(mapping.len() as u64, Ordering::Relaxed);
        self.release(segment);
    }

    /// Takes the number back.
    pub fn release(&self, segment: u32) {
        let word = &self.incarnations[segment as usize];
        word.store(word.load(Ordering::Relaxed) + 1, Ordering::Release);
        let mut numbers = self.numbers.lock();
        numbers.lendable.remove(&segment);
        numbers.free.push(segment);
    }

    /// What another process needs to map `segment`: its incarnation, its length, a descriptor for reading.
    pub fn lend(&self, segment: u32) -> Result<(u64, u64, OwnedFd)> {
        let numbers = self.numbers.lock();
        let not_found = || Error::new(ErrorKind::NotFound, format!("segment {segment}"));
        let (lendable, len) = numbers.lendable.get(&segment).ok_or_else(not_found)?;
        let lent = match lendable {
            Lendable::Memory(descriptor) => {
                descriptor.try_clone().map_err(|error| Error::new(ErrorKind::LimitReached, error.to_string()))?
            }
            Lendable::Content { device, id } => device.lend(*id)?,
        };
        Ok((self.incarnations[segment as usize].load(Ordering::Relaxed), *len, lent))
    }

    /// Notes where this process mapped what another lent.
    pub fn adopt(&self, segment: u32, incarnation: u64, mapping: Mapping) -> Result<()> {
        let Adopted { mappings, sweep_at } = &mut *self.adopted.lock();
        // What the engine means no more cannot be pinned, so nobody looks at it.
        let is_current = |&number: &u32| {
            let known = self.known[number as usize].load(Ordering::Acquire);
            known == self.incarnations[number as usize].load(Ordering::Acquire)
        };
        if mappings.len() >= (*sweep_at).clamp(ADOPTED_MIN, ADOPTED_MAX) {
            mappings.retain(|number, _| is_current(number));
            *sweep_at = 2 * mappings.len();
        }
        if mappings.len() >= ADOPTED_MAX {
            return Err(Error::new(ErrorKind::LimitReached, format!("{ADOPTED_MAX} mappings of large contents")));
        }
        if mappings.contains_key(&segment) && is_current(&segment) {
            return Ok(()); // another thread was quicker, and may be looking at it
        }
        self.know(segment, incarnation, &mapping);
        mappings.insert(segment, mapping);
        Ok(())
    }

    /// From now on there may be so many [`Large`] contents at a time: each takes a descriptor.
    pub fn limit_large(&self, large_max: u64) {
        self.large_max.store(large_max, Ordering::Relaxed);
    }

    /// Whether there may be one more.
    pub fn may_add_large(&self) -> bool {
        self.large.load(Ordering::Relaxed) < self.large_max.load(Ordering::Relaxed)
    }

    fn add_large(&self, mapping: &Mapping) {
        self.large.fetch_add(1, Ordering::Relaxed);
        self.large_bytes.fetch_add(mapping.len() as u64, Ordering::Relaxed);
    }

    /// Resident bytes of all [`Large`] contents.
    pub fn large_bytes(&self) -> u64 {
        self.large_bytes.load(Ordering::Relaxed)
    }
}

/// Content with a memfd of its own.
#[derive(Debug)]
pub struct Large {
    segments: Arc<Segments>,
    segment: u32,
    incarnation: u64,
    /// There until it is dropped.
    mapping: Option<Mapping>,
    len: usize,
}

/// What the memory of a large content is kept as.
fn large_name(segment: u32, incarnation: u64) -> String {
    format!("L{segment}.{incarnation}")
}

impl Large {
    /// A memfd of `len` bytes that `fill` wrote, and that is not written to again.
    pub fn with(segments: &Arc<Segments>, len: usize, fill: impl FnOnce(&mut [u8]) -> Result<()>) -> Result<Self> {
        if !segments.may_add_large() {
            let large_max = segments.large_max.load(Ordering::Relaxed);
            let what = format!("{large_max} contents of 1 MiB or more in RAM at a time");
            return Err(Error::new(ErrorKind::LimitReached, what));
        }
        let mapping = Mapping::filled("agentmem-large", len, segments.lends, fill)?;
        let segment = segments.register(&mapping)?;
        segments.add_large(&mapping);
        let incarnation = segments.incarnations[segment as usize].load(Ordering::Relaxed);
        let large = Large { segments: segments.clone(), segment, incarnation, mapping: Some(mapping), len };
        if let Some(keeping) = &segments.keeping {
            keeping.keep_mapping(&large_name(segment, incarnation), large.mapping())?;
        }
        Ok(large)
    }

    /// The one that an earlier process had under these numbers.
    pub fn restored(segments: &Arc<Segments>, segment: u32, incarnation: u64, len: usize) -> Result<Self> {
        let lost = || Error::new(ErrorKind::Damaged, format!("kept memory of large content {segment}.{incarnation}"));
        let keeping = segments.keeping.as_ref().ok_or_else(lost)?;
        let mapping = Mapping::adopted(keeping.take(&large_name(segment, incarnation)).ok_or_else(lost)?)?;
        if segment >= SEGMENTS_MAX || len > mapping.len() {
            return Err(lost());
        }
        segments.restore(segment, incarnation, &mapping)?;
        segments.add_large(&mapping);
        Ok(Large { segments: segments.clone(), segment, incarnation, mapping: Some(mapping), len })
    }

    fn mapping(&self) -> &Mapping {
        self.mapping.as_ref().expect("there until it is dropped")
    }

    /// Which use of its number it is.
    pub fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// Number of its segment.
    pub fn segment(&self) -> u32 {
        self.segment
    }

    /// The content.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: not written to again, and mapped while `self` lives.
        unsafe { std::slice::from_raw_parts(self.mapping().as_ptr(), self.len) }
    }
}

impl Drop for Large {
    fn drop(&mut self) {
        let Some(mapping) = self.mapping.take() else { return };
        let (segment, incarnation) = (self.segment, self.incarnation);
        match self.segments.keeping {
            Some(_) => self.segments.dropped.lock().push(Dropped { mapping, segment, incarnation }),
            None => self.segments.bury(&mapping, segment),
        }
    }
}
