//! Finding messages that other frames have already.
//!
//! The index proposes frames, and bytes decide. Only runs of some length count: a reference costs
//! a node, and a conversation whose messages are scattered over many frames is slow to read.

use crate::engine::Engine;
use crate::tree::{RawItem, Tail};
use agentmem_core::ContentId;
use agentmem_core::frame::{self, Meta};
use std::collections::HashMap;
use std::ops::Range;

/// A run of messages that another frame has is worth a reference from this many bytes on.
const SHARED_BYTES_MIN: usize = 2 << 10;
/// Frames looked into for one message.
const PROPOSALS_MAX: usize = 2;
/// Frames kept decoded for one tail: each is up to about a megabyte that no budget counts. A tail that shares
/// with more is one whose messages are scattered, and decodes some of them again.
const OPENED_MAX: usize = 8;

/// Consecutive messages of a tail, and where they will be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stretch {
    /// In a frame that exists: `items.start` is item `first` of it.
    Shared { items: Range<usize>, frame: u32, first: u32 },
    /// In the frame to be made.
    New { items: Range<usize> },
}

/// A frame's content and directory.
pub type Opened = (Vec<u8>, Vec<frame::Entry>);

/// A tail's messages, kept by `Arc` while nobody holds the lock.
#[derive(Debug)]
pub struct Messages {
    tail: Tail,
}

impl Messages {
    /// Keeps what is in `tail` now.
    pub fn of(tail: &Tail) -> Self {
        let (serial, chunks, items) = (tail.serial, tail.chunks.clone(), tail.items.clone());
        Messages { tail: Tail { serial, chunks, items, ..Tail::default() } }
    }

    /// Which tail they are from.
    pub fn serial(&self) -> u64 {
        self.tail.serial
    }

    /// Bytes of message `index`.
    pub fn bytes(&self, index: usize) -> &[u8] {
        self.tail.bytes(index)
    }

    /// How message `index` was given.
    pub fn meta(&self, index: usize) -> Meta {
        let item: &RawItem = &self.tail.items[index];
        item.meta
    }

    /// How many messages there are.
    pub fn len(&self) -> usize {
        self.tail.items.len()
    }
}

impl Engine {
    /// Divides a tail into what other frames have and what they have not.
    pub fn find_shared(&self, messages: &Messages, ids: &[ContentId]) -> Vec<Stretch> {
        let proposals: Vec<Vec<u32>> = {
            let state = self.lock();
            let live = |frame: &u32| state.frames.get(*frame).is_some();
            ids.iter().map(|id| state.index.frames(id.tag()).filter(live).take(PROPOSALS_MAX).collect()).collect()
        };
        let mut opened: HashMap<u32, Option<Opened>> = HashMap::new();
        let mut stretches = Vec::new();
        let (mut at, mut new_from) = (0, 0);
        while at < messages.len() {
            let mut best: Option<(Range<usize>, u32, u32)> = None;
            for &number in &proposals[at] {
                if opened.len() == OPENED_MAX && !opened.contains_key(&number) {
                    opened.clear();
                }
                let opened = opened.entry(number).or_insert_with(|| self.open_frame(number));
                let Some((content, entries)) = opened else { continue };
                let equal = |at: usize, entry: &frame::Entry| {
                    entry.meta == messages.meta(at) && content[entry.start..entry.end] == *messages.bytes(at)
                };
                let Some(first) = entries.iter().position(|entry| equal(at, entry)) else { continue };
                let run = entries[first..].iter().zip(at..messages.len()).take_while(|(e, at)| equal(*at, e)).count();
                if best.as_ref().is_none_or(|(range, ..)| range.len() < run) {
                    best = Some((at..at + run, number, first as u32));
                }
            }
            match best {
                Some((items, frame, first))
                    if items.clone().map(|at| messages.bytes(at).len()).sum::<usize>() >= SHARED_BYTES_MIN =>
                {
                    if new_from < at {
                        stretches.push(Stretch::New { items: new_from..at });
                    }
                    at = items.end;
                    new_from = at;
                    stretches.push(Stretch::Shared { items, frame, first });
                }
                _ => at += 1,
            }
        }
        if new_from < messages.len() {
            stretches.push(Stretch::New { items: new_from..messages.len() });
        }
        stretches
    }

    /// A frame's content and directory; `None` if it cannot be had, which only loses a chance.
    pub fn open_frame(&self, number: u32) -> Option<Opened> {
        let bytes = self.load_frame(number, &|| format!("frame {number}")).ok()??;
        let frame = bytes.frame().ok()?;
        Some((frame.decode().ok()?, frame.entries().to_vec()))
    }
}
