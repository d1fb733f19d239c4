//! Free ranges of an address space, coalesced, with best fit.

use std::collections::{BTreeMap, BTreeSet};

/// A set of disjoint, never adjacent ranges.
#[derive(Debug, Default)]
pub struct Ranges {
    by_start: BTreeMap<u64, u64>,
    by_len: BTreeSet<(u64, u64)>,
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

    /// Bytes in it.
    pub fn len(self) -> u64 {
        self.end - self.start
    }
}

impl Ranges {
    /// Adds `start..start + len`, which must be outside of the set, and returns the coalesced
    /// range together with the ranges that it swallowed.
    pub fn insert(&mut self, start: u64, len: u64) -> (Range, [Option<Range>; 2]) {
        let mut merged = Range { start, end: start + len };
        let before = self.by_start.range(..=start).next_back().map(|(&s, &l)| Range { start: s, end: s + l });
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
        (merged, [before, after])
    }

    /// Takes `len` bytes from the smallest range that has them; returns the range before and where
    /// the bytes start, which is its front.
    pub fn take(&mut self, len: u64) -> Option<Range> {
        let &(found_len, start) = self.by_len.range((len, 0)..).next()?;
        let found = Range { start, end: start + found_len };
        self.remove(found);
        if found_len > len {
            self.add(Range { start: start + len, end: found.end });
        }
        Some(found)
    }

    /// How many ranges there are.
    pub fn count(&self) -> usize {
        self.by_start.len()
    }

    fn add(&mut self, range: Range) {
        self.by_start.insert(range.start, range.len());
        self.by_len.insert((range.len(), range.start));
    }

    fn remove(&mut self, range: Range) {
        self.by_start.remove(&range.start);
        self.by_len.remove(&(range.len(), range.start));
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
                    let (merged, _) = ranges.insert(start, len);
                    prop_assert!(free[merged.start as usize..merged.end as usize].iter().all(|&f| f));
                    prop_assert!(merged.start == 0 || !free[merged.start as usize - 1]);
                    prop_assert!(merged.end == 1000 || !free[merged.end as usize]);
                } else if let Some(found) = ranges.take(len) {
                    prop_assert!(found.len() >= len);
                    for byte in &mut free[found.start as usize..(found.start + len) as usize] {
                        prop_assert!(std::mem::replace(byte, false));
                    }
                    held.push((found.start, len));
                } else {
                    prop_assert!(!free.windows(len as usize).any(|w| w.iter().all(|&f| f)));
                }
            }
        }
    }

    #[test]
    fn interiors_are_whole_blocks() {
        assert_eq!(Range { start: 1, end: 8192 }.interior(4096), Some(Range { start: 4096, end: 8192 }));
        assert_eq!(Range { start: 1, end: 8191 }.interior(4096), None);
    }
}
