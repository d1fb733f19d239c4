//! A set that can be walked round and round: what reclaim and the ager choose from.

use std::collections::BTreeSet;

/// Members in order, each once. A tree takes under 8 bytes a member, a hash table three times that.
#[derive(Debug, Default)]
pub struct Dense {
    members: BTreeSet<u32>,
    cursor: u32,
}

impl Dense {
    /// Adds `member`, if it is not there.
    pub fn insert(&mut self, member: u32) {
        self.members.insert(member);
    }

    /// Takes `member` out, if it is there.
    pub fn remove(&mut self, member: u32) {
        self.members.remove(&member);
    }

    /// The next `count` members of an endless walk over all of them, each at most once.
    pub fn walk(&mut self, count: usize) -> Vec<u32> {
        let ahead = self.members.range(self.cursor..);
        let walked: Vec<u32> = ahead.chain(self.members.range(..self.cursor)).take(count).copied().collect();
        self.cursor = walked.last().map_or(0, |&last| last.wrapping_add(1));
        walked
    }

    /// How many members there are.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Every member.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.members.iter().copied()
    }

    /// Bytes that the set takes: nodes of eleven members are two thirds full or better.
    pub fn table_bytes(&self) -> u64 {
        self.members.len() as u64 * 8
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
