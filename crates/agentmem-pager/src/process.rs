//! One managed process: what of its memory is held, and the steps of paging it out and in.

use crate::frames::{BLOCK_BYTES, BLOCK_PAGES, Block, Frames, Reader};
use crate::peek;
use crate::regions::{self, Fate, Mapping};
use crate::sys::{self, PAGE_BYTES, PageRun};
use crate::target::{NotStopped, Stopped};
use crate::userfault::Userfault;
use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Blocks that a thread takes at a time.
const TAKE: usize = 16;
/// madvise calls for one process; beyond it, what is left stays resident.
const DROPS_MAX: usize = 8192;
/// All threads stop within this, or go on. Each stops at once, but has to get a core for that: on a busy machine, that
/// takes a few turns of the scheduler.
pub const STOP_DEADLINE: Duration = Duration::from_millis(25);
/// Above the lowest address that may be mapped, and below where programs lie.
const NOWHERE: u64 = 1 << 20;
/// In an entry of /proc/PID/pagemap: mapped by nobody else.
const EXCLUSIVE: u64 = 1 << 56;
/// About as much is moved to swap in one call: little enough for a slow device to be done with in time.
const SWAP_BYTES: u64 = 4 << 20;

const UNREGISTERED: &str = "cannot be registered with userfaultfd";
const PAGES_STAY: &str = "shared with another process, in swap, or used by the kernel";

/// A process under management.
#[derive(Debug)]
pub struct Process {
    pid: i32,
    pidfd: OwnedFd,
    userfault: Option<Userfault>,
    /// Held pages, by the address of their block. Those that were not written since are worth as much as the
    /// pages themselves.
    blocks: BTreeMap<u64, Block>,
    /// What is missing in the process now: regions, and which pages of which block.
    guarded: Vec<Range<u64>>,
    missing: Vec<(u64, Pages)>,
}

/// Pages of one block, as bits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Pages {
    /// Present, and nobody else's: what can be dropped.
    own: u16,
    /// Of these, the shared page of zeros.
    zero: u16,
    /// Must stay as they are: in swap, mapped by others too, or touched by the kernel.
    stay: u16,
    /// Written since the record began, whether they can be dropped or stay.
    written: u16,
}

/// What a capture did.
#[derive(Debug, Default, Clone)]
pub struct Captured {
    /// Bytes of pages that can be dropped.
    pub own_bytes: u64,
    /// Bytes that had to be compressed.
    pub fresh_bytes: u64,
    /// Bytes of private pages that stay, by the reason.
    pub stay_bytes: BTreeMap<&'static str, u64>,
}

/// What of a process can be dropped now. A block may lie in several regions.
#[derive(Debug, Default)]
pub struct Plan {
    regions: Vec<Range<u64>>,
    pages: BTreeMap<u64, Pages>,
}

impl Process {
    /// Takes a process under management; nothing happens to it yet.
    pub fn new(pid: i32) -> io::Result<Self> {
        let pidfd = sys::pidfd_open(pid)?;
        Ok(Process { pid, pidfd, userfault: None, blocks: BTreeMap::new(), guarded: Vec::new(), missing: Vec::new() })
    }

    /// Its number.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Becomes readable when it ends.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Becomes readable when somebody touches a missing page of it.
    pub fn userfault(&self) -> Option<&Userfault> {
        self.userfault.as_ref()
    }

    /// Whether pages of it are missing.
    pub fn is_out(&self) -> bool {
        !self.guarded.is_empty()
    }

    /// Its held blocks.
    pub fn blocks(&self) -> impl Iterator<Item = &Block> {
        self.blocks.values()
    }

    /// Its held blocks, to be moved.
    pub fn blocks_mut(&mut self) -> impl Iterator<Item = &mut Block> {
        self.blocks.values_mut()
    }

    /// Forgets what is held of pages that are there.
    pub fn drop_kept(&mut self) {
        if !self.is_out() {
            self.blocks.clear();
        }
    }

    /// Whether it has a userfaultfd for the program that it runs now.
    pub fn is_prepared(&self) -> bool {
        self.userfault.as_ref().is_some_and(|userfault| {
            !is_gone(userfault)
                // A program may close descriptors that it does not know.
                && peek::is_same_file(userfault.fd(), self.pid, userfault.in_target()) != Some(false)
        })
    }

    /// Makes its userfaultfd; what was held of a program before is forgotten.
    pub fn prepare(&mut self, stopped: &mut Stopped) -> io::Result<()> {
        self.blocks.clear();
        self.userfault = None;
        self.userfault = Some(Userfault::create(stopped, self.pidfd.as_fd())?);
        stopped.finish_calls()
    }

    /// Captures what was written since the last time: lists pages and begins the record of writes anew, reads and
    /// compresses. Returns what could be dropped now. The process may run meanwhile; then the result is a head
    /// start and no more.
    pub fn capture(
        &mut self,
        frames: &Frames,
        keep: Option<u64>,
        threads: usize,
        abort: &AtomicBool,
    ) -> io::Result<(Plan, Captured)> {
        let (mut plan, mut captured) = (Plan::default(), Captured::default());
        let mappings = mappings(self.pid)?;
        for mapping in &mappings {
            if let Fate::Stay(why) = mapping.fate() {
                captured.stay(why, mapping.anonymous_bytes);
            }
        }
        for stretch in regions::stretches(&mappings) {
            if self.list(stretch, keep, &mut plan).is_ok() {
                continue;
            }
            // One that cannot be registered must not keep the others.
            for mapping in stretch.iter().filter(|mapping| mapping.fate() == Fate::Page) {
                if self.list(std::slice::from_ref(mapping), keep, &mut plan).is_err() {
                    captured.stay(UNREGISTERED, mapping.anonymous_bytes);
                }
            }
        }
        let stale = self.forget_written(&plan, &mut captured);
        self.hold_all(frames, &stale, threads, abort)?;
        plan.settle(&self.blocks, &mut captured);
        Ok((plan, captured))
    }

    /// Adds the pages of a stretch to `plan`, and begins their record of writes anew.
    fn list(&mut self, stretch: &[Mapping], keep: Option<u64>, plan: &mut Plan) -> io::Result<()> {
        let userfault = self.userfault.as_ref().ok_or_else(|| io::Error::other("no userfaultfd"))?;
        let range = whole(stretch);
        // Each time: it fails for memory that another process runs in too, whose record this must not begin anew.
        let tracked = if userfault.tracks_writes() { userfault.track(range.clone()) } else { Ok(()) };
        let listed = tracked.and_then(|()| list_pages(userfault, &range, keep, &mut plan.pages));
        if listed.is_err() {
            // The record of a part may have begun anew.
            forget(&mut self.blocks, &range);
        }
        // What had no record until now may bring marks along from where it was moved from, even to where nothing was.
        let is_believed = |mapping: &&Mapping| userfault.tracks_writes() && mapping.is_tracked();
        let mut believed_to = range.start;
        for mapping in stretch.iter().filter(is_believed) {
            plan.doubt(believed_to..mapping.range.start);
            believed_to = mapping.range.end;
        }
        plan.doubt(believed_to..range.end);
        listed.map(|()| plan.regions.push(range))
    }

    /// Drops blocks that no longer say what the pages are; returns those to be taken anew.
    fn forget_written(&mut self, plan: &Plan, captured: &mut Captured) -> Vec<(u64, Pages)> {
        let mut stale = Vec::new();
        let mut kept = BTreeMap::new();
        for (&address, pages) in &plan.pages {
            match self.blocks.remove(&address) {
                Some(block) if pages.is_told_by(&block) => drop(kept.insert(address, block)),
                _ if pages.own == 0 => {}
                _ => {
                    captured.fresh_bytes += bytes_of(pages.own & !pages.zero);
                    stale.push((address, *pages));
                }
            }
        }
        self.blocks = kept;
        stale
    }

    /// Reads and compresses blocks on `threads` threads. A block that cannot be read is not held.
    fn hold_all(
        &mut self,
        frames: &Frames,
        stale: &[(u64, Pages)],
        threads: usize,
        abort: &AtomicBool,
    ) -> io::Result<()> {
        let (next, held, failure) = (AtomicUsize::new(0), Mutex::new(Vec::new()), Mutex::new(None));
        let work = || -> agentmem_core::Result<()> {
            let mut compressor = frames.compressor()?;
            let mut buffer = vec![0; BLOCK_BYTES as usize];
            loop {
                let from = next.fetch_add(TAKE, Ordering::Relaxed);
                if from >= stale.len() || abort.load(Ordering::Relaxed) {
                    return Ok(());
                }
                for &(address, pages) in &stale[from..(from + TAKE).min(stale.len())] {
                    if let Some((stored, zeros)) = read_block(self.pid, address, pages, &mut buffer) {
                        let content = &buffer[..(stored.count_ones() as u64 * PAGE_BYTES) as usize];
                        let block = frames.hold(&mut compressor, content, stored, zeros)?;
                        held.lock().expect("no panic under it").push((address, block));
                    }
                }
            }
        };
        let work = || {
            if let Err(error) = work() {
                *failure.lock().expect("no panic under it") = Some(error);
            }
        };
        on_threads(threads.min(stale.len() / TAKE + 1), &work);
        self.blocks.extend(held.into_inner().expect("no panic under it"));
        match failure.into_inner().expect("no panic under it") {
            Some(error) => Err(io::Error::other(error.to_string())),
            None if abort.load(Ordering::Relaxed) => Err(io::ErrorKind::Interrupted.into()),
            None => Ok(()),
        }
    }

    /// Guards and drops what `plan` says, captured while stopped. Regions that cannot be guarded stay. Returns the
    /// bytes that are gone.
    ///
    /// # Errors
    /// What went wrong; what was dropped until then is listed as missing, and [`Process::restore`] brings it back.
    pub fn drop_pages(&mut self, stopped: &mut Stopped, plan: &Plan, abort: &AtomicBool) -> io::Result<u64> {
        let Some(userfault) = self.userfault.as_ref().filter(|_| !plan.regions.is_empty()) else { return Ok(0) };
        let (mut dropped_bytes, mut calls) = (0, 0);
        for region in &plan.regions {
            if abort.load(Ordering::Relaxed) {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let runs = plan.runs(region);
            calls += runs.len();
            if runs.is_empty() || calls > DROPS_MAX {
                continue;
            }
            // Listed before anything happens to it: whatever fails from here on, it is brought back. Of a stretch, a part
            // may be guarded when it fails.
            self.guarded.push(region.clone());
            if userfault.guard(region.clone()).is_err() {
                continue;
            }
            self.missing.extend(plan.of(region).filter(|(_, pages)| pages.own != 0));
            for run in runs {
                let advice = [run.start, run.end - run.start, libc::MADV_DONTNEED as u64, 0, 0, 0];
                match stopped.call(libc::SYS_madvise, advice) {
                    // Between two mappings nothing is mapped: Linux says so when it has dropped the rest.
                    Err(error) if error.raw_os_error() == Some(libc::ENOMEM) => {}
                    dropped => drop(dropped?),
                }
            }
            dropped_bytes += plan.of(region).map(|(_, pages)| bytes_of(pages.own)).sum::<u64>();
        }
        stopped.finish_calls()?;
        Ok(dropped_bytes)
    }

    /// Brings every missing page back, checked, on `threads` threads. The process must not run; one that `has_run`
    /// meanwhile, because somebody else thawed it, may have unmapped some of them.
    ///
    /// # Errors
    /// If a page cannot be brought back: then the process must never run again. It can be tried again.
    pub fn restore(&mut self, frames: &Frames, threads: usize, has_run: bool) -> io::Result<u64> {
        let Some(userfault) = self.userfault.as_ref().filter(|_| !self.guarded.is_empty()) else { return Ok(0) };
        // Blocks of one batch are read together.
        self.missing.sort_by_key(|(address, _)| (self.blocks.get(address).and_then(Block::batch), *address));
        let (next, failure) = (AtomicUsize::new(0), Mutex::new(None));
        let work = || -> io::Result<()> {
            let mut filler = Filler::new(userfault, frames, has_run)?;
            loop {
                let from = next.fetch_add(TAKE, Ordering::Relaxed);
                let Some(part) = self.missing.get(from..(from + TAKE).min(self.missing.len())) else { return Ok(()) };
                for &(address, pages) in part {
                    filler.fill(self.blocks.get(&address), address, pages)?;
                }
            }
        };
        let work = || {
            if let Err(error) = work() {
                *failure.lock().expect("no panic under it") = Some(error);
            }
        };
        on_threads(threads.min(self.missing.len() / TAKE + 1), &work);
        let filled = failure.into_inner().expect("no panic under it").map_or(Ok(()), Err);
        let unguarded = filled.and_then(|()| {
            let ranges = self.guarded.iter();
            ranges.map(|range| userfault.unguard(range.clone(), has_run)).find(Result::is_err).unwrap_or(Ok(()))
        });
        if let Err(error) = unguarded
            && !is_gone(userfault)
        {
            return Err(error);
        }
        // Or the process is gone, and its memory with it.
        let bytes = self.missing.iter().map(|(_, pages)| bytes_of(pages.own)).sum();
        self.guarded.clear();
        self.missing.clear();
        Ok(bytes)
    }

    /// Where it cannot be paged out, but there is swap: has the kernel move it there, which brings it back by itself.
    /// The process asks for that itself: asking for others takes a right that users do not have. What the kernel does
    /// not move stays resident.
    pub fn page_to_swap(&self, stopped: &mut Stopped, abort: &AtomicBool) -> io::Result<()> {
        for mapping in mappings(self.pid)?.into_iter().filter(|mapping| mapping.fate() == Fate::Page) {
            let Range { start, end } = mapping.range;
            // In parts, so that it can be aborted. Of a reservation hardly anything is there.
            let parts = mapping.anonymous_bytes.div_ceil(SWAP_BYTES);
            let part = (end - start).div_ceil(parts).next_multiple_of(PAGE_BYTES);
            for at in (start..end).step_by(part as usize) {
                if abort.load(Ordering::Relaxed) {
                    return Err(io::ErrorKind::Interrupted.into());
                }
                let advice = [at, part.min(end - at), libc::MADV_PAGEOUT as u64, 0, 0, 0];
                match stopped.call(libc::SYS_madvise, advice) {
                    // It may not be made to call anything.
                    Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Ok(()),
                    _ => {}
                }
            }
        }
        stopped.finish_calls()
    }

    /// Ends management: nothing of it is registered any more, unless pages are missing. Then whoever touches one waits.
    pub fn release(&mut self) {
        if self.is_out() {
            return;
        }
        if let Some(userfault) = self.userfault.take() {
            for mapping in mappings(self.pid).unwrap_or_default().iter().filter(|mapping| mapping.is_tracked()) {
                let _ = sys::uffd_unregister(userfault.fd(), mapping.range.clone());
            }
            // One that it keeps would be taken for its own by whoever manages it next.
            let _ = self.close_in_target(&userfault);
        }
        self.blocks.clear();
    }

    fn close_in_target(&self, userfault: &Userfault) -> Result<(), NotStopped> {
        let mut stopped = Stopped::begin(self.pid)?;
        stopped.settle(Instant::now() + STOP_DEADLINE)?;
        // A program may have closed it, and the number may be another file's.
        if peek::is_same_file(userfault.fd(), self.pid, userfault.in_target()) == Some(true) {
            let closed = stopped.call(libc::SYS_close, [userfault.in_target() as u64, 0, 0, 0, 0, 0]);
            let _ = closed.and_then(|_| stopped.finish_calls());
        }
        Ok(())
    }
}

impl Captured {
    fn stay(&mut self, why: &'static str, bytes: u64) {
        if bytes > 0 {
            *self.stay_bytes.entry(why).or_default() += bytes;
        }
    }
}

impl Pages {
    fn masked(self, mask: u16) -> Self {
        Pages { own: self.own & mask, written: self.written & mask, zero: self.zero & mask, stay: self.stay & mask }
    }

    /// Whether a held block still says what these pages are: all that can be dropped, and nothing that is of before.
    fn is_told_by(self, block: &Block) -> bool {
        let held = block.stored | block.zeros;
        self.own & !self.zero & !held == 0 && self.written & held == 0
    }
}

impl Plan {
    /// Leaves alone what could not be held after all, and counts.
    fn settle(&mut self, blocks: &BTreeMap<u64, Block>, captured: &mut Captured) {
        for (address, pages) in &mut self.pages {
            if !blocks.contains_key(address) {
                pages.stay |= pages.own;
                pages.own = 0;
            }
            captured.own_bytes += bytes_of(pages.own);
            captured.stay(PAGES_STAY, bytes_of(pages.stay));
        }
    }

    /// The pages that lie in `region`.
    fn of(&self, region: &Range<u64>) -> impl Iterator<Item = (u64, Pages)> {
        let region = region.clone();
        let blocks = self.pages.range(blocks_of(&region));
        blocks.map(move |(&address, pages)| (address, pages.masked(mask_of(address, &region))))
    }

    /// Takes the pages that lie in `region` for written.
    fn doubt(&mut self, region: Range<u64>) {
        if !region.is_empty() {
            for (&address, pages) in self.pages.range_mut(blocks_of(&region)) {
                pages.written |= (pages.own | pages.stay) & mask_of(address, &region);
            }
        }
    }

    /// Address ranges inside `region` without a page that must stay: as few as there can be.
    fn runs(&self, region: &Range<u64>) -> Vec<Range<u64>> {
        let mut runs = Vec::new();
        let mut open: Option<Range<u64>> = None;
        for (address, pages) in self.of(region) {
            for bit in (0..BLOCK_PAGES).filter(|bit| (pages.own | pages.stay) >> bit & 1 == 1) {
                let page = address + bit * PAGE_BYTES;
                if pages.stay >> bit & 1 == 1 {
                    runs.extend(open.take());
                } else {
                    let start = open.take().map_or(page, |run| run.start);
                    open = Some(start..page + PAGE_BYTES);
                }
            }
        }
        runs.extend(open);
        runs
    }
}

fn bytes_of(pages: u16) -> u64 {
    u64::from(pages.count_ones()) * PAGE_BYTES
}

/// Whether the program that it was made in is gone, and its memory with it.
fn is_gone(userfault: &Userfault) -> bool {
    // At an address where nothing is mapped: other calls say something else then.
    let (_, error) = sys::uffd_zero(userfault.fd(), NOWHERE..NOWHERE + PAGE_BYTES);
    error.is_some_and(|error| error.raw_os_error() == Some(libc::ESRCH))
}

/// What a process has mapped.
pub fn mappings(pid: i32) -> io::Result<Vec<Mapping>> {
    let mappings = regions::parse(&std::fs::read_to_string(format!("/proc/{pid}/smaps"))?);
    if mappings.len() > regions::MAPPINGS_MAX {
        return Err(io::Error::other(format!("more than {} mappings", regions::MAPPINGS_MAX)));
    }
    Ok(mappings)
}

/// From the first to the last address of neighbouring mappings.
fn whole(stretch: &[Mapping]) -> Range<u64> {
    stretch[0].range.start..stretch[stretch.len() - 1].range.end
}

/// Addresses of the blocks that touch `region`.
fn blocks_of(region: &Range<u64>) -> Range<u64> {
    region.start & !(BLOCK_BYTES - 1)..region.end
}

/// The pages of the block at `address` that lie in `region`.
fn mask_of(address: u64, region: &Range<u64>) -> u16 {
    let inside = (0..BLOCK_PAGES).filter(|bit| region.contains(&(address + bit * PAGE_BYTES)));
    inside.fold(0, |mask, bit| mask | 1 << bit)
}

/// Forgets what is held of pages in `range`.
fn forget(blocks: &mut BTreeMap<u64, Block>, range: &Range<u64>) {
    let within: Vec<u64> = blocks.range(blocks_of(range)).map(|(&address, _)| address).collect();
    for address in within {
        blocks.remove(&address);
    }
}

/// Adds the pages of `range` by block, and begins their record of writes anew.
fn list_pages(
    userfault: &Userfault,
    range: &Range<u64>,
    keep: Option<u64>,
    blocks: &mut BTreeMap<u64, Pages>,
) -> io::Result<()> {
    let mut runs = Vec::new();
    userfault.scan(range.clone(), userfault.tracks_writes(), |run| runs.push(run))?;
    let mut entries = Vec::new();
    for run in runs {
        let is_zero = run.categories & sys::PAGE_IS_PFNZERO != 0;
        let is_swapped = run.categories & sys::PAGE_IS_SWAPPED != 0;
        if !is_zero && !is_swapped {
            read_pagemap(userfault, &run, &mut entries)?;
        }
        let mut at = run.start;
        while at < run.end {
            let address = at & !(BLOCK_BYTES - 1);
            let (pages, end) = (blocks.entry(address).or_default(), run.end.min(address + BLOCK_BYTES));
            for page in (at..end).step_by(PAGE_BYTES as usize) {
                let bit = 1 << (page / PAGE_BYTES % BLOCK_PAGES);
                let is_shared = || entries[((page - run.start) / PAGE_BYTES) as usize] & EXCLUSIVE == 0;
                // Of what stays too: its record begins anew, and one day it may be this process's own again.
                if !is_zero && run.categories & sys::PAGE_IS_WRITTEN != 0 {
                    pages.written |= bit;
                }
                if is_swapped || keep == Some(page) || !is_zero && is_shared() {
                    pages.stay |= bit;
                } else {
                    pages.own |= bit;
                    pages.zero |= if is_zero { bit } else { 0 };
                }
            }
            at = end;
        }
    }
    Ok(())
}

fn read_pagemap(userfault: &Userfault, run: &PageRun, entries: &mut Vec<u64>) -> io::Result<()> {
    let mut bytes = vec![0; ((run.end - run.start) / PAGE_BYTES * 8) as usize];
    userfault.pagemap().read_exact_at(&mut bytes, run.start / PAGE_BYTES * 8)?;
    entries.clear();
    entries.extend(bytes.chunks_exact(8).map(|entry| u64::from_le_bytes(entry.try_into().expect("eight bytes"))));
    Ok(())
}

/// Reads the pages of a block that are worth holding to the front of `buffer`; returns which are stored and which
/// are zeros, or `None` if they cannot be read.
fn read_block(pid: i32, address: u64, pages: Pages, buffer: &mut [u8]) -> Option<(u16, u16)> {
    let wanted = pages.own & !pages.zero;
    let ranges = bit_runs(wanted).map(|run| address + run.start * PAGE_BYTES..address + run.end * PAGE_BYTES);
    let ranges: Vec<Range<u64>> = ranges.collect();
    let len = (u64::from(wanted.count_ones()) * PAGE_BYTES) as usize;
    sys::read_memory(pid, &mut buffer[..len], &ranges).ok()?;
    let (mut stored, mut zeros, mut to) = (0, pages.zero, 0);
    for (index, bit) in (0..BLOCK_PAGES).filter(|bit| wanted >> bit & 1 == 1).enumerate() {
        let from = index * PAGE_BYTES as usize;
        let page = from..from + PAGE_BYTES as usize;
        if is_zero(&buffer[page.clone()]) {
            zeros |= 1 << bit;
        } else {
            stored |= 1 << bit;
            buffer.copy_within(page, to);
            to += PAGE_BYTES as usize;
        }
    }
    Some((stored, zeros))
}

fn is_zero(page: &[u8]) -> bool {
    page.chunks_exact(64).all(|line| line.iter().fold(0, |any, byte| any | byte) == 0)
}

/// Puts pages back.
struct Filler<'a> {
    userfault: &'a Userfault,
    frames: &'a Frames,
    /// Whether the process ran since: what it unmapped is gone.
    has_run: bool,
    reader: Reader,
    buffer: Vec<u8>,
}

impl<'a> Filler<'a> {
    fn new(userfault: &'a Userfault, frames: &'a Frames, has_run: bool) -> io::Result<Self> {
        let reader = Reader::new().map_err(|error| io::Error::other(error.to_string()))?;
        Ok(Filler { userfault, frames, has_run, reader, buffer: vec![0; BLOCK_BYTES as usize] })
    }

    /// Those of the block at `address`.
    fn fill(&mut self, block: Option<&Block>, address: u64, pages: Pages) -> io::Result<()> {
        let block = block.ok_or_else(|| io::Error::other("a block that is missing is not held"))?;
        let content = &mut self.buffer[..block.stored_bytes() as usize];
        let (data, zeros) = (pages.own & block.stored & !pages.zero, pages.own & (block.zeros | pages.zero));
        assert_eq!(data | zeros, pages.own, "every missing page is held");
        if data != 0 {
            let given = self.frames.give(block, &mut self.reader, content);
            given.map_err(|error| io::Error::other(error.to_string()))?;
        }
        for run in bit_runs(data) {
            // Stored pages before the run: those that are not needed now are skipped.
            let before = (block.stored & ((1u32 << run.start) - 1) as u16).count_ones() as usize * PAGE_BYTES as usize;
            let len = ((run.end - run.start) * PAGE_BYTES) as usize;
            let (at, bytes) = (address + run.start * PAGE_BYTES, &content[before..before + len]);
            self.userfault.fill(at, bytes, self.has_run)?;
        }
        for run in bit_runs(zeros) {
            let range = address + run.start * PAGE_BYTES..address + run.end * PAGE_BYTES;
            self.userfault.fill_zeros(range, self.has_run)?;
        }
        Ok(())
    }
}

/// Runs of ones, as bit numbers.
fn bit_runs(bits: u16) -> impl Iterator<Item = Range<u64>> {
    let mut rest = u32::from(bits);
    std::iter::from_fn(move || {
        let start = rest.trailing_zeros();
        if start >= 16 {
            return None;
        }
        let len = (!(rest >> start)).trailing_zeros();
        rest &= !(((1u32 << len) - 1) << start);
        Some(u64::from(start)..u64::from(start + len))
    })
}

/// Runs `work` on so many threads at once, this one included, or on as many as there may be.
fn on_threads(threads: usize, work: &(impl Fn() + Sync)) {
    std::thread::scope(|scope| {
        for _ in 1..threads {
            // Where the system has no thread for it, the others do its part.
            let _ = std::thread::Builder::new().spawn_scoped(scope, work);
        }
        work();
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn runs_of_bits_cover_them(bits in any::<u16>()) {
            let mut covered = 0u16;
            for run in bit_runs(bits) {
                for bit in run {
                    prop_assert!(covered >> bit & 1 == 0);
                    covered |= 1 << bit;
                }
            }
            prop_assert_eq!(covered, bits);
        }

        /// No dropped range holds a page that must stay, and every own page lies in one.
        #[test]
        fn dropped_ranges_spare_what_stays(blocks in proptest::collection::btree_map(0..50u64, (any::<u16>(), any::<u16>()), 0..20)) {
            let pages: BTreeMap<u64, Pages> = blocks
                .into_iter()
                .map(|(block, (own, stay))| (block * BLOCK_BYTES, Pages { own: own & !stay, stay, ..Pages::default() }))
                .collect();
            // Two regions that meet inside a block.
            let middle = 25 * BLOCK_BYTES + 5 * PAGE_BYTES;
            let regions = vec![0..middle, middle..50 * BLOCK_BYTES];
            let plan = Plan { regions, pages };
            let runs: Vec<Range<u64>> = plan.regions.iter().flat_map(|region| plan.runs(region)).collect();
            prop_assert!(runs.iter().all(|run| run.end <= middle || run.start >= middle));
            let is_in_run = |page: u64| runs.iter().any(|run| run.contains(&page));
            for (&address, pages) in &plan.pages {
                for bit in 0..BLOCK_PAGES {
                    let page = address + bit * PAGE_BYTES;
                    prop_assert!(pages.own >> bit & 1 == 0 || is_in_run(page));
                    prop_assert!(pages.stay >> bit & 1 == 0 || !is_in_run(page));
                }
            }
        }
    }
}
