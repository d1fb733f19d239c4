//! What the budget is, and what counts of it.

use crate::cold::Cold;
use crate::dirty::Dirty;
use crate::engine::{Conversation, ConversationShared, Engine, State};
use crate::ledger;
use crate::sync::Ordering;

/// What the engine needs beside tables and content: contexts of the codec, stacks, buffers.
const FIXED_BYTES: u64 = 3 << 20;
/// One part in so many of the budget is left for what is not counted.
const UNCOUNTED_SHARE: u64 = 16;
/// One part in so many of the tables lies beside them as holes, which an allocator keeps.
const HOLES_SHARE: u64 = 5;

impl Engine {
    /// What may be planned for: the budget less what an allocator and jobs under way take beside
    /// what is counted.
    pub fn budget_bytes(&self) -> u64 {
        let max = self.memory_max_bytes();
        max - max / UNCOUNTED_SHARE
    }

    /// The budget.
    pub fn memory_max_bytes(&self) -> u64 {
        self.memory_max_bytes.load(Ordering::Relaxed)
    }

    /// Changes it, where several engines share one.
    pub fn set_memory_max_bytes(&self, bytes: u64) {
        self.memory_max_bytes.store(bytes, Ordering::Relaxed);
    }

    /// RAM that the engine takes, everything included.
    pub fn resident_bytes(&self, state: &State) -> u64 {
        self.planned_bytes(state) - state.sessions.planned_bytes() + state.sessions.resident_bytes()
    }

    /// RAM that it will take when it has given back what it keeps only to be quick: what demotion can
    /// lessen.
    pub fn needed_bytes(&self, state: &State) -> u64 {
        self.planned_bytes(state).saturating_sub(self.hot_heap.slack_bytes() + self.frame_heap.slack_bytes())
    }

    /// RAM that it will take once all of the ring is in use: what the budget is compared with, so
    /// that puts need not ask.
    pub fn planned_bytes(&self, state: &State) -> u64 {
        let journal_bytes = state.kept.as_ref().map_or(0, |kept| kept.journal.len_bytes());
        journal_bytes
            + self.hot_heap.resident_bytes()
            + self.frame_heap.resident_bytes()
            + self.segments.large_bytes()
            + self.module_bytes()
            + state.sessions.planned_bytes()
            + self.private_bytes(state)
    }

    /// What of it no other process could map: tables with the holes between them, and what codecs and the ledger need.
    pub fn private_bytes(&self, state: &State) -> u64 {
        let decoded: usize = state.decoded.iter().map(|(_, content)| content.len()).sum();
        let cache = if self.ledger.is_some() { ledger::CACHE_BYTES } else { 0 };
        let table_bytes = self.table_bytes(state);
        table_bytes + table_bytes / HOLES_SHARE + (decoded + cache) as u64 + FIXED_BYTES
    }

    /// RAM of the tables.
    pub fn table_bytes(&self, state: &State) -> u64 {
        state.agents.table_bytes()
            + state.sessions.table_bytes()
            + state.smus.table_bytes()
            + state.tree.table_bytes()
            + state.frames.table_bytes()
            + state.index.table_bytes()
            + state.hot.table_bytes()
            + state.tails.table_bytes()
            + state.warm.table_bytes()
            + (state.conversations.capacity() * (size_of::<Conversation>() + 8)) as u64
            + (state.conversations.len() * (size_of::<ConversationShared>() + 64)) as u64
            + self.hot_heap.table_bytes()
            + self.frame_heap.table_bytes()
            + self.cold.as_ref().map_or(0, Cold::table_bytes)
            + state.dirty.as_ref().map_or(0, Dirty::table_bytes)
    }

    /// Whether the budget is full of what cannot be demoted.
    #[inline]
    pub fn is_full(&self) -> bool {
        self.is_full.load(Ordering::Relaxed)
    }

    /// Says whether puts have to ask for room first.
    pub fn set_full(&self, is_full: bool) {
        self.is_full.store(is_full, Ordering::Relaxed);
    }
}
