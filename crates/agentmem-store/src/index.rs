//! The message index: 32 bits of each packed message's id, and the frame that has it.
//!
//! It only proposes. Whoever asks compares bytes before believing it, so a collision costs a look
//! and a stale entry costs nothing. Eight bytes an entry at nine tenths full, grown by a quarter
//! at a time and in 64 independent parts, keep it under 12 bytes per message, the moments of
//! growing included.

/// Entries `(tag << 32) | frame` in order of position; 0 is empty (frame ids start at 1).
#[derive(Debug, Default)]
struct Part {
    entries: Vec<u64>,
    used: usize,
}

/// Tag to frames, as a multimap.
#[derive(Debug)]
pub struct MessageIndex {
    parts: Vec<Part>,
}

const PARTS: usize = 64;

impl Default for MessageIndex {
    fn default() -> Self {
        MessageIndex { parts: (0..PARTS).map(|_| Part::default()).collect() }
    }
}

impl MessageIndex {
    /// Bytes that the table takes.
    pub fn table_bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.entries.len() as u64 * 8).sum()
    }

    /// Notes that `frame` has a message with `tag`. `is_live` tells which frames still exist, so
    /// that growing leaves the others behind.
    pub fn insert(&mut self, tag: u32, frame: u32, is_live: impl Fn(u32) -> bool) {
        assert!(frame != 0, "frame ids start at 1");
        let part = &mut self.parts[tag as usize % PARTS];
        if (part.used + 1) * 10 > part.entries.len() * 9 {
            part.grow(is_live);
        }
        part.place(tag, frame);
    }

    /// Frames that may have a message with `tag`, newest last.
    pub fn frames(&self, tag: u32) -> impl Iterator<Item = u32> + '_ {
        let part = &self.parts[tag as usize % PARTS];
        let start = part.position(tag);
        (0..part.entries.len())
            .map(move |step| part.entries[(start + step) % part.entries.len()])
            .take_while(|&entry| entry != 0)
            .filter(move |&entry| (entry >> 32) as u32 == tag)
            .map(|entry| entry as u32)
    }
}

impl Part {
    fn position(&self, tag: u32) -> usize {
        // The low bits chose the part, so spread what is left.
        ((u64::from(tag.wrapping_mul(0x9E37_79B1)) * self.entries.len() as u64) >> 32) as usize
    }

    fn place(&mut self, tag: u32, frame: u32) {
        let entry = u64::from(tag) << 32 | u64::from(frame);
        let mut at = self.position(tag);
        while self.entries[at] != 0 {
            if self.entries[at] == entry {
                return;
            }
            at = (at + 1) % self.entries.len();
        }
        self.entries[at] = entry;
        self.used += 1;
    }

    fn grow(&mut self, is_live: impl Fn(u32) -> bool) {
        let old = std::mem::take(&mut self.entries);
        let live: Vec<u64> = old.into_iter().filter(|&entry| entry != 0 && is_live(entry as u32)).collect();
        self.entries = vec![0; (live.len() * 5 / 4 + 2).max(16)];
        self.used = 0;
        for entry in live {
            self.place((entry >> 32) as u32, entry as u32);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{HashMap, HashSet};

    proptest! {
        #[test]
        fn finds_what_was_put_and_forgets_the_dead(pairs in proptest::collection::vec((0..500u32, 1..50u32), 0..3000)) {
            let mut index = MessageIndex::default();
            let mut expected: HashMap<u32, HashSet<u32>> = HashMap::new();
            let live = |frame: u32| !frame.is_multiple_of(7);
            for (tag, frame) in pairs {
                index.insert(tag, frame, live);
                if live(frame) {
                    expected.entry(tag).or_default().insert(frame);
                }
            }
            for tag in 0..500 {
                let found: Vec<u32> = index.frames(tag).filter(|&frame| live(frame)).collect();
                let unique: HashSet<u32> = found.iter().copied().collect();
                prop_assert_eq!(found.len(), unique.len());
                prop_assert_eq!(unique, expected.remove(&tag).unwrap_or_default());
            }
        }
    }

    #[test]
    fn an_entry_takes_under_twelve_bytes() {
        let mut index = MessageIndex::default();
        let mut tag = 1u32;
        for count in 1..=1_000_000u64 {
            tag = tag.wrapping_mul(1664525).wrapping_add(1013904223);
            index.insert(tag, 1, |_| true);
            if count > 100_000 && count % 10_000 == 0 {
                assert!(index.table_bytes() < count * 12, "{} for {count}", index.table_bytes());
            }
        }
    }
}
