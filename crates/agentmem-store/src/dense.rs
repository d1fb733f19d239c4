//! A set that can be sampled and walked: what reclaim chooses from.

use std::collections::HashMap;

/// Members in no order, each once.
#[derive(Debug, Default)]
pub struct Dense {
    members: Vec<u32>,
    positions: HashMap<u32, u32>,
    cursor: usize,
}

impl Dense {
    /// Adds `member`, if it is not there.
    pub fn insert(&mut self, member: u32) {
        let at = self.members.len() as u32;
        if let std::collections::hash_map::Entry::Vacant(entry) = self.positions.entry(member) {
            entry.insert(at);
            self.members.push(member);
        }
    }

    /// Takes `member` out, if it is there.
    pub fn remove(&mut self, member: u32) {
        if let Some(at) = self.positions.remove(&member) {
            self.members.swap_remove(at as usize);
            if let Some(&moved) = self.members.get(at as usize) {
                self.positions.insert(moved, at);
            }
        }
    }

    /// The next `count` members of an endless walk over all of them.
    pub fn walk(&mut self, count: usize) -> Vec<u32> {
        let count = count.min(self.members.len());
        let start = if self.cursor < self.members.len() { self.cursor } else { 0 };
        self.cursor = start + count;
        self.members.iter().cycle().skip(start).take(count).copied().collect()
    }

    /// How many members there are.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Every member.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.members.iter().copied()
    }

    /// Bytes that the set takes.
    pub fn table_bytes(&self) -> u64 {
        (self.members.capacity() * 4 + self.positions.capacity() * 10) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn walks_visit_everyone() {
        let mut dense = Dense::default();
        (0..10).for_each(|member| dense.insert(member));
        dense.insert(3);
        dense.remove(4);
        dense.remove(4);
        let mut seen: Vec<u32> = (0..3).flat_map(|_| dense.walk(3)).collect();
        seen.sort_unstable();
        assert_eq!(seen, [0, 1, 2, 3, 5, 6, 7, 8, 9]);
        assert_eq!(dense.walk(100).len(), 9);
    }
}
