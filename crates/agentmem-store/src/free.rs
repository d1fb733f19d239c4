//! The free space of a heap, and which of its pages are resident all the same: decisions only.
//!
//! Pages cost more to get from the kernel than content takes to decode into them. So a bounded slack of
//! free pages stays resident, and is used again first.

use crate::ranges::{Range, Ranges};
use crate::sys::PAGE_BYTES;

/// The slack is at most this share of what the heap holds. A store at its budget demotes about as much in
/// one go, and what is promoted next finds those pages.
const SLACK_USED_SHARE: u64 = 8;
/// Resident ranges looked at before an extent is put into the smallest range, whatever that is.
const LOOKS: usize = 4;

/// The free bytes of an address space.
#[derive(Debug)]
pub struct Free {
    ranges: Ranges,
    /// Free pages that are resident. Invariant: in the interior of `ranges`, and all other pages there
    /// are holes.
    spare: Ranges,
    /// Pages of which at least a byte is not free.
    used_bytes: u64,
}

/// Where an extent goes.
#[derive(Debug, PartialEq, Eq)]
pub struct Taken {
    /// Its first byte.
    pub start: u64,
    /// Bytes of its pages that are not resident yet.
    pub missing_bytes: u64,
}

/// The pages that `range` touches.
fn pages(range: Range) -> Range {
    Range { start: range.start / PAGE_BYTES * PAGE_BYTES, end: range.end.next_multiple_of(PAGE_BYTES) }
}

impl Free {
    /// `capacity_bytes` without a resident page.
    pub fn new(capacity_bytes: u64) -> Self {
        let mut ranges = Ranges::default();
        ranges.insert(0, capacity_bytes / PAGE_BYTES * PAGE_BYTES);
        Free { ranges, spare: Ranges::default(), used_bytes: 0 }
    }

    /// Bytes of the pages that are in use.
    pub fn used_bytes(&self) -> u64 {
        self.used_bytes
    }

    /// Bytes of all pages that are resident.
    pub fn resident_bytes(&self) -> u64 {
        self.used_bytes + self.spare.bytes()
    }

    /// The most that may be resident without being used, just now.
    pub fn slack_bytes_max(&self) -> u64 {
        self.used_bytes / SLACK_USED_SHARE
    }

    /// How many ranges are kept track of.
    pub fn count(&self) -> usize {
        self.ranges.count() + self.spare.count()
    }

    /// Takes `room` bytes; `None` where no range has them.
    pub fn take(&mut self, room: u64) -> Option<Taken> {
        let found = self.choose(room)?;
        let start = found.start;
        self.ranges.take_front(found, room);
        let touched = pages(Range { start, end: start + room });
        let fresh = found.interior(PAGE_BYTES).and_then(|interior| interior.common(touched));
        let missing_bytes = fresh.map_or(0, |fresh| fresh.len() - self.spare.cut(fresh));
        self.used_bytes += fresh.map_or(0, Range::len);
        Some(Taken { start, missing_bytes })
    }

    /// Takes the `room` bytes at `start`, where an earlier process had them; whether they were free. To be
    /// followed by punching [`Self::holes`], as it is not known what is resident.
    pub fn claim(&mut self, start: u64, room: u64) -> bool {
        let Some(end) = start.checked_add(room) else { return false };
        let Some(found) = self.ranges.around(start).filter(|found| found.end >= end) else { return false };
        let range = Range { start, end };
        let fresh = found.interior(PAGE_BYTES).and_then(|interior| interior.common(pages(range)));
        self.ranges.cut(range);
        self.used_bytes += fresh.map_or(0, Range::len);
        true
    }

    /// The pages of which nothing is used.
    pub fn holes(&self) -> impl Iterator<Item = Range> {
        self.ranges.at_least(PAGE_BYTES).filter_map(|range| range.interior(PAGE_BYTES))
    }

    /// Gives `room` bytes at `start` back; returns what is to become holes.
    pub fn give(&mut self, start: u64, room: u64) -> Vec<Range> {
        let merged = self.ranges.insert(start, room);
        let touched = pages(Range { start, end: start + room });
        if let Some(freed) = merged.interior(PAGE_BYTES).and_then(|interior| interior.common(touched)) {
            self.used_bytes -= freed.len();
            self.spare.insert(freed.start, freed.len());
        }
        let slack = self.slack_bytes_max();
        // A little more than necessary, so that not every range given back is punched by itself.
        if self.spare.bytes() > slack { self.shrink(slack - slack / 8) } else { Vec::new() }
    }

    /// Lets at most `max` bytes of spare pages be; returns the others, which are to become holes. The
    /// longest ranges go first: they are the cheapest to punch, and the least like what was freed last.
    pub fn shrink(&mut self, max: u64) -> Vec<Range> {
        let mut punch = Vec::new();
        while self.spare.bytes() > max {
            let longest = self.spare.longest().expect("spare bytes lie in ranges");
            let excess = (self.spare.bytes() - max).next_multiple_of(PAGE_BYTES);
            let part = Range { start: longest.end - excess.min(longest.len()), end: longest.end };
            self.spare.cut(part);
            punch.push(part);
        }
        punch
    }

    /// The smallest range that has `room`, unless one up to twice as long has resident pages for it. Less
    /// than a page goes where it fits best, which mostly is on a page in use.
    fn choose(&self, room: u64) -> Option<Range> {
        let smallest = self.ranges.best_fit(room)?;
        if room < PAGE_BYTES {
            return Some(smallest);
        }
        // What was freed with that length has a page less in its interior, or two.
        let pages = (room / PAGE_BYTES - 1).max(1) * PAGE_BYTES;
        let fits = |range: &Range| range.len() >= room && range.len() <= smallest.len().saturating_mul(2);
        let resident = self.spare.at_least(pages).take(LOOKS).filter_map(|spare| self.ranges.around(spare.start));
        Some(resident.filter(fits).min_by_key(|range| range.len()).unwrap_or(smallest))
    }
}
