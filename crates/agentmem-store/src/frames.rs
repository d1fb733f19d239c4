//! The frame table: where each frame is, and who refers to it.

use crate::cold::DiskPlace;
use crate::heap::Extent;
use agentmem_core::Kind;
use std::collections::HashMap;
use std::sync::Arc;

/// Who uses items of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ref {
    /// A node of the conversation tree.
    Node(u32),
    /// The SMU in a slot.
    Smu(u32),
}

/// One frame.
#[derive(Debug)]
pub struct FrameEntry {
    /// Its bytes in RAM, while warm.
    pub stored: Option<Arc<Extent>>,
    /// Its bytes on SSD.
    pub disk: Option<DiskPlace>,
    /// Items in it.
    pub items: u32,
    /// Length of the frame.
    pub stored_bytes: u32,
    /// Bytes of its items.
    pub logical_bytes: u64,
    /// Who uses it.
    pub refs: Vec<Ref>,
    /// The agent it was packed for.
    pub agent: u32,
    /// What most of it is.
    pub kind: Kind,
    /// When it was last read or written, in milliseconds.
    pub used_ms: u64,
    /// How often it was read.
    pub uses: u32,
    /// When it was made, in milliseconds: young frames are looked at more often.
    pub made_ms: u64,
    /// A job works on it.
    pub is_busy: bool,
}

impl FrameEntry {
    /// A frame that was just made, in RAM, that nobody uses yet.
    pub fn new(stored: Extent, items: u32, logical_bytes: u64, agent: u32, kind: Kind, now_ms: u64) -> Self {
        FrameEntry {
            stored_bytes: stored.len_bytes() as u32,
            stored: Some(Arc::new(stored)),
            disk: None,
            items,
            logical_bytes,
            refs: Vec::new(),
            agent,
            kind,
            used_ms: now_ms,
            uses: 0,
            made_ms: now_ms,
            is_busy: false,
        }
    }
}

/// All frames. Numbers are never used again, so a stale one finds nothing.
#[derive(Debug)]
pub struct Frames {
    entries: HashMap<u32, Box<FrameEntry>>,
    next: u32,
}

impl Default for Frames {
    fn default() -> Self {
        Frames { entries: HashMap::new(), next: 1 }
    }
}

impl Frames {
    /// `count` consecutive numbers that were never used.
    pub fn take_numbers(&mut self, count: u32) -> u32 {
        let first = self.next;
        self.next = first.checked_add(count).expect("four billion frames");
        first
    }

    /// The number that the next frame will have.
    pub fn next_number(&self) -> u32 {
        self.next
    }

    /// Adds a frame under a number from [`Self::take_numbers`].
    pub fn insert(&mut self, number: u32, entry: FrameEntry) {
        self.next = self.next.max(number + 1);
        self.entries.insert(number, Box::new(entry));
    }

    /// Takes a frame out.
    pub fn remove(&mut self, number: u32) -> Option<Box<FrameEntry>> {
        self.entries.remove(&number)
    }

    /// Frame `number`, if it lives.
    pub fn get(&self, number: u32) -> Option<&FrameEntry> {
        self.entries.get(&number).map(|entry| &**entry)
    }

    /// Frame `number`, if it lives.
    pub fn get_mut(&mut self, number: u32) -> Option<&mut FrameEntry> {
        self.entries.get_mut(&number).map(|entry| &mut **entry)
    }

    /// Every frame.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &FrameEntry)> {
        self.entries.iter().map(|(&number, entry)| (number, &**entry))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Bytes that the table takes.
    pub fn table_bytes(&self) -> u64 {
        // The box, its reference, the extent behind it and their allocator headers.
        let per_frame = size_of::<FrameEntry>() + 8 + 16 + 64 + 16;
        (self.entries.len() * per_frame + self.entries.capacity() * 14) as u64
    }
}
