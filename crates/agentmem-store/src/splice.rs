//! Changing the tree and the frame table while conversations refer to them.

use crate::engine::State;
use crate::frames::FrameEntry;
use crate::tree::{Body, Node};
use agentmem_core::frame::Frame;

impl State {
    /// The first `count` messages of `number`, of `logical_bytes`, become a node of their own with
    /// `body`; returns it.
    pub fn split_front(&mut self, number: u32, count: u32, logical_bytes: u64, body: Body) -> u32 {
        let front = self.tree.split_front(number, count, logical_bytes, body);
        self.mark_node(number);
        front
    }

    /// Drops what nobody sees of a node whose messages start at item `from` of `frame`.
    pub fn truncate_node(&mut self, number: u32, frame: &Frame<'_>, from: usize) {
        let node: &mut Node = self.tree.node_mut(number);
        let count = node.truncate() as usize;
        let entries = &frame.entries()[from..from + count];
        node.logical_bytes = entries.iter().map(|entry| (entry.end - entry.start) as u64).sum();
    }

    /// Adds a frame that is in RAM under a number from `take_numbers`.
    pub fn add_frame(&mut self, number: u32, entry: FrameEntry) {
        self.frames.insert(number, entry);
        self.warm.insert(number);
        self.mark_frame(number);
    }

    /// Enters messages of `frame` into the index.
    pub fn index_messages(&mut self, frame: u32, tags: &[u32]) {
        let frames = &self.frames;
        for &tag in tags {
            self.index.insert(tag, frame, |frame| frames.get(frame).is_some());
        }
        self.mark_tags(frame, tags);
    }
}
