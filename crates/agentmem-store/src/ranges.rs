//! Free ranges of an address space, coalesced, with best fit.

use std::collections::{BTreeMap, BTreeSet};

/// A set of disjoint, never adjacent ranges.
#[derive(Debug, Default)]
pub struct Ranges {
    by_start: BTreeMap<u64, u64>,
    by_len: BTreeSet<(u64, u64)>,
    bytes: u64,
}

/// A range as `start..end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// First byte.
    pub start: u64,
    /// One past the last byte.
    pub end: u64,
}

impl Range {
    /// The part made of whole blocks of `block` bytes; empty as `None`.
    pub fn interior(self, block: u64) -> Option<Range> {
        let (start, end) = (self.start.next_multiple_of(block), self.end / block * block);
        (start < end).then_some(Range { start, end })
    }

    /// What is in both; empty as `None`.
    pub fn common(self, other: Range) -> Option<Range> {
        let (start, end) = (self.start.max(other.start), self.end.min(other.end));
        (start < end).then_some(Range { start, end })
    }

    /// Bytes in it.
    pub fn len(self) -> u64 {
        self.end - self.start
    }
}

impl Ranges {
    /// Adds `start..start + len`, which must be outside of the set, and returns the coalesced range.
    pub fn insert(&mut self, start: u64, len: u64) -> Range {
        let mut merged = Range { start, end: start + len };
        let before = self.last_from(start);
        let after = self.by_start.range(start..).next().map(|(&s, &l)| Range { start: s, end: s + l });
        assert!(before.is_none_or(|r| r.end <= start) && after.is_none_or(|r| r.start >= merged.end), "freed twice");
        let before = before.filter(|r| r.end == start);
        let after = after.filter(|r| r.start == merged.end);
        for swallowed in [before, after].into_iter().flatten() {
            self.remove(swallowed);
            merged.start = merged.start.min(swallowed.start);
            merged.end = merged.end.max(swallowed.end);
        }
        self.add(merged);
        merged
    }

    /// The smallest range of at least `len` bytes.
    pub fn best_fit(&self, len: u64) -> Option<Range> {
        self.at_least(len).next()
    }

    /// Ranges of at least `len` bytes, the smallest first.
    pub fn at_least(&self, len: u64) -> impl Iterator<Item = Range> {
        self.by_len.range((len, 0)..).map(|&(len, start)| Range { start, end: start + len })
    }

    /// The longest range.
    pub fn longest(&self) -> Option<Range> {
        self.by_len.last().map(|&(len, start)| Range { start, end: start + len })
    }

    /// The range that `at` lies in.
    pub fn around(&self, at: u64) -> Option<Range> {
        self.last_from(at).filter(|range| at < range.end)
    }

    /// Takes the first `len` bytes of `range`, which is one of the set.
    pub fn take_front(&mut self, range: Range, len: u64) {
        self.remove(range);
        if range.len() > len {
            self.add(Range { start: range.start + len, end: range.end });
        }
    }

    /// Takes everything that lies in `part`; returns how many bytes did.
    pub fn cut(&mut self, part: Range) -> u64 {
        let before = self.bytes;
        let first = self.around(part.start).map_or(part.start, |range| range.start);
        let cut: Vec<Range> =
            self.by_start.range(first..part.end).map(|(&s, &l)| Range { start: s, end: s + l }).collect();
        for range in cut {
            self.remove(range);
            if range.start < part.start {
                self.add(Range { start: range.start, end: part.start });
            }
            if range.end > part.end {
                self.add(Range { start: part.end, end: range.end });
            }
        }
        before - self.bytes
    }

    /// How many ranges there are.
    pub fn count(&self) -> usize {
        self.by_start.len()
    }

    /// Bytes in all of them.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The last range that starts at `at` or before.
    fn last_from(&self, at: u64) -> Option<Range> {
        self.by_start.range(..=at).next_back().map(|(&s, &l)| Range { start: s, end: s + l })
    }

    fn add(&mut self, range: Range) {
        self.by_start.insert(range.start, range.len());
        self.by_len.insert((range.len(), range.start));
        self.bytes += range.len();
    }

    fn remove(&mut self, range: Range) {
        self.by_start.remove(&range.start);
        self.by_len.remove(&(range.len(), range.start));
        self.bytes -= range.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Against a plain map of bytes.
        #[test]
        fn taken_ranges_are_free_and_disjoint(steps in proptest::collection::vec((any::<bool>(), 1..40u64), 1..200)) {
            let mut ranges = Ranges::default();
            let mut free = vec![true; 1000];
            ranges.insert(0, 1000);
            let mut held: Vec<(u64, u64)> = Vec::new();
            for (give_back, len) in steps {
                if give_back && !held.is_empty() {
                    let (start, len) = held.swap_remove(len as usize % held.len());
                    free[start as usize..(start + len) as usize].fill(true);
                    let merged = ranges.insert(start, len);
                    prop_assert!(free[merged.start as usize..merged.end as usize].iter().all(|&f| f));
                    prop_assert!(merged.start == 0 || !free[merged.start as usize - 1]);
                    prop_assert!(merged.end == 1000 || !free[merged.end as usize]);
                } else if let Some(found) = ranges.best_fit(len) {
                    prop_assert!(found.len() >= len);
                    ranges.take_front(found, len);
                    for byte in &mut free[found.start as usize..(found.start + len) as usize] {
                        prop_assert!(std::mem::replace(byte, false));
                    }
                    held.push((found.start, len));
                } else {
                    prop_assert!(!free.windows(len as usize).any(|w| w.iter().all(|&f| f)));
                }
                prop_assert_eq!(ranges.bytes(), free.iter().filter(|&&f| f).count() as u64);
            }
        }

        /// Against a plain map of bytes.
        #[test]
        fn cutting_takes_what_is_there(cuts in proptest::collection::vec((0..200u64, 1..60u64), 1..40)) {
            let mut ranges = Ranges::default();
            let mut free = vec![true; 260];
            ranges.insert(0, 260);
            for (start, len) in cuts {
                let part = &mut free[start as usize..(start + len) as usize];
                prop_assert_eq!(ranges.cut(Range { start, end: start + len }), part.iter().filter(|&&f| f).count() as u64);
                part.fill(false);
                prop_assert_eq!(ranges.bytes(), free.iter().filter(|&&f| f).count() as u64);
                for (at, &is_free) in (0u64..).zip(&free) {
                    prop_assert_eq!(ranges.around(at).is_some(), is_free);
                }
                let longest = free.split(|&f| !f).map(<[bool]>::len).max().unwrap_or(0) as u64;
                prop_assert_eq!(ranges.longest().map_or(0, Range::len), longest);
            }
        }
    }

    #[test]
    fn interiors_are_whole_blocks() {
        assert_eq!(Range { start: 1, end: 8192 }.interior(4096), Some(Range { start: 4096, end: 8192 }));
        assert_eq!(Range { start: 1, end: 8191 }.interior(4096), None);
    }
}
