//! Packing: a raw tail becomes a frame.
//!
//! A full or unused tail becomes one frame, without the messages that another conversation's frame
//! has already, and together with the frame before it while that is small.

use crate::engine::{Engine, State};
use crate::frames::{FrameEntry, Ref};
use crate::heap::Extent;
use crate::ingest::TAIL_BYTES_MAX;
use crate::read::FrameBytes;
use crate::tree::{Body, NONE, RawItem, Tail};
use agentmem_core::frame::{self, Frame, ITEMS_MAX, Item, Meta};
use agentmem_core::{ContentId, Kind, Result};
use std::collections::HashMap;
use std::ops::Range;

/// A run of messages that another frame has is worth a reference from this many bytes on.
const SHARED_BYTES_MIN: usize = 2 << 10;
/// Frames looked into for one message.
const PROPOSALS_MAX: usize = 2;

/// Consecutive messages of a tail, and where they will be.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Stretch {
    /// In a frame that exists: `items.start` is item `first` of it.
    Shared { items: Range<usize>, frame: u32, first: u32 },
    /// In the frame to be made.
    New { items: Range<usize> },
}

/// A frame's content and directory.
type Opened = (Vec<u8>, Vec<frame::Entry>);

/// A tail's messages, kept by `Arc` while nobody holds the lock.
struct Messages {
    tail: Tail,
}

impl Messages {
    fn of(tail: &Tail) -> Self {
        let (chunks, items) = (tail.chunks.clone(), tail.items.clone());
        Messages { tail: Tail { chunks, items, ..Tail::default() } }
    }

    fn bytes(&self, index: usize) -> &[u8] {
        self.tail.bytes(index)
    }

    fn meta(&self, index: usize) -> Meta {
        let item: &RawItem = &self.tail.items[index];
        item.meta
    }

    fn len(&self) -> usize {
        self.tail.items.len()
    }
}

impl Engine {
    /// Packs the tails that are full; returns whether there were any.
    pub fn pack_full_tails(&self) -> bool {
        let mut worked = false;
        for _ in 0..8 {
            let Some(number) = self.lock().full_tails.pop_front() else { break };
            // A failure (no memory for the frame) leaves the tail as it is, for reclaim to retry.
            let _ = self.pack_tail(number, true);
            worked = true;
        }
        worked
    }

    /// Packs the tail in node `number`, if it is one and no other job has it.
    pub fn pack_tail(&self, number: u32, share: bool) -> Result<bool> {
        let messages = {
            let mut state = self.lock();
            let Some(node) = state.tree.get_mut(number) else { return Ok(false) };
            if node.is_busy || node.count == 0 {
                return Ok(false);
            }
            let Body::Tail(tail) = &mut node.body else { return Ok(false) };
            tail.is_sealed = true;
            node.is_busy = true;
            Messages::of(tail)
        };
        let outcome = self.pack_messages(number, &messages, share);
        if let Some(node) = self.lock().tree.get_mut(number) {
            node.is_busy = false;
        }
        match outcome {
            // Something the plan relied on went: once more, without looking for shared messages.
            Ok(false) if share => self.pack_tail(number, false),
            other => other,
        }
    }

    fn pack_messages(&self, number: u32, messages: &Messages, share: bool) -> Result<bool> {
        let ids: Vec<ContentId> =
            (0..messages.len()).map(|index| ContentId::of(&self.key, messages.bytes(index))).collect();
        let stretches =
            if share { self.find_shared(messages, &ids)? } else { vec![Stretch::New { items: 0..messages.len() }] };
        let is_all_new = matches!(stretches[..], [Stretch::New { .. }]);
        let before = if is_all_new { self.mergeable_parent(number)? } else { None };
        let decoded = match &before {
            Some((_, bytes)) => {
                Some((Frame::parse(bytes.bytes())?.decode()?, Frame::parse(bytes.bytes())?.entries().to_vec()))
            }
            None => None,
        };
        let mut items: Vec<Item<'_>> = Vec::with_capacity(messages.len());
        if let Some((content, entries)) = &decoded {
            items
                .extend(entries.iter().map(|entry| Item { bytes: &content[entry.start..entry.end], meta: entry.meta }));
        }
        let merged_items = items.len();
        for stretch in &stretches {
            if let Stretch::New { items: range } = stretch {
                items.extend(range.clone().map(|at| Item { bytes: messages.bytes(at), meta: messages.meta(at) }));
            }
        }
        let stored = match items.is_empty() {
            true => None,
            false => Some(self.frame_heap.store(&frame::encode(&items, self.options.warm_level)?)?),
        };
        let tags: Vec<u32> = match &decoded {
            Some((content, entries)) => {
                entries.iter().map(|e| ContentId::of(&self.key, &content[e.start..e.end]).tag()).collect()
            }
            None => Vec::new(),
        };
        let logical_bytes = items.iter().map(|item| item.bytes.len() as u64).sum();
        let count = items.len() as u32;
        let plan =
            Packing { number, stretches, merged: before.map(|(parent, _)| parent), merged_items: merged_items as u32 };
        let mut state = self.lock();
        let tags: Vec<u32> = tags.into_iter().chain(plan.new_items().map(|at| ids[at].tag())).collect();
        Ok(self.commit_tail(&mut state, plan, stored, count, logical_bytes, &tags))
    }

    /// Divides a tail into what other frames have and what they have not.
    fn find_shared(&self, messages: &Messages, ids: &[ContentId]) -> Result<Vec<Stretch>> {
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
        Ok(stretches)
    }

    /// A frame's content and directory; `None` if it cannot be had, which only loses a chance.
    fn open_frame(&self, number: u32) -> Option<Opened> {
        let bytes = self.load_frame(number, &|| format!("frame {number}")).ok()??;
        let frame = Frame::parse(bytes.bytes()).ok()?;
        Some((frame.decode().ok()?, frame.entries().to_vec()))
    }

    /// The parent of `number` with its frame, if the two are worth joining: nobody else refers to
    /// the parent, and it is not so much larger that joining would copy it again and again.
    fn mergeable_parent(&self, number: u32) -> Result<Option<(u32, FrameBytes)>> {
        let (parent, frame) = {
            let state = self.lock();
            let Some(node) = state.tree.get(number) else { return Ok(None) };
            let Some(parent) = state.tree.get(node.parent).filter(|_| node.parent != NONE) else { return Ok(None) };
            let Some(frame) = state.frame_of_sole(node.parent) else { return Ok(None) };
            let fits = parent.logical_bytes + node.logical_bytes <= TAIL_BYTES_MAX
                && parent.logical_bytes <= node.logical_bytes * 2
                && (parent.count + node.count) as usize <= ITEMS_MAX;
            if !fits || node.start - parent.start != parent.count {
                return Ok(None);
            }
            (node.parent, frame)
        };
        Ok(self.load_frame(frame, &|| format!("frame {frame}"))?.map(|bytes| (parent, bytes)))
    }

    fn commit_tail(
        &self,
        state: &mut State,
        plan: Packing,
        stored: Option<Extent>,
        items: u32,
        logical_bytes: u64,
        tags: &[u32],
    ) -> bool {
        let Some(node) = state.tree.get(plan.number) else { return true };
        let splits = plan.stretches.len() > 1;
        let shared_live = plan.stretches.iter().all(|stretch| match stretch {
            Stretch::Shared { frame, .. } => state.frames.get(*frame).is_some(),
            Stretch::New { .. } => true,
        });
        let merged_same = plan.merged.is_none_or(|parent| {
            node.parent == parent
                && state.frame_of_sole(parent).is_some()
                && state.tree.node(parent).count == plan.merged_items
        });
        // A fork that sees a part of this node would see a part of one of several.
        if !shared_live || !merged_same || (splits && !node.has_no_partial_reference()) {
            return false;
        }
        let (agent, tail_bytes) = (node.agent, node.logical_bytes);
        let now_ms = self.now_ms();
        let frame = stored.map(|stored| {
            let number = state.frames.take_numbers(1);
            state.add_frame(number, FrameEntry::new(stored, items, logical_bytes, agent, Kind::Message, now_ms));
            state.index_messages(number, tags);
            number
        });
        state.tails.remove(plan.number);
        state.tail_bytes -= tail_bytes;
        state.counters.demote_warm += 1;
        state.counters.demote_warm_bytes += tail_bytes;
        let sizes: Vec<u64> = match &state.tree.node(plan.number).body {
            Body::Tail(tail) => tail.items.iter().map(|item| u64::from(item.len)).collect(),
            Body::Run { .. } => unreachable!("busy nodes stay tails"),
        };
        if let Some(parent) = plan.merged {
            state.merge_parent(plan.number, parent);
        }
        let mut next_new = 0;
        let last = plan.stretches.len() - 1;
        for (index, stretch) in plan.stretches.into_iter().enumerate() {
            let (range, body) = match stretch {
                Stretch::Shared { items, frame, first } => {
                    state.counters.append_shared += items.len() as u64;
                    state.duplicate_bytes[Kind::Message as usize] += sizes[items.clone()].iter().sum::<u64>();
                    (items, Body::Run { frame, first })
                }
                Stretch::New { items } => {
                    let body = Body::Run { frame: frame.expect("new messages make a frame"), first: next_new };
                    next_new += items.len() as u32;
                    (items, body)
                }
            };
            let frame = match body {
                Body::Run { frame, .. } => frame,
                Body::Tail(_) => unreachable!("stretches are runs"),
            };
            let holder = if index == last {
                state.tree.node_mut(plan.number).body = body;
                plan.number
            } else {
                state.split_front(plan.number, range.len() as u32, sizes[range].iter().sum(), body)
            };
            state.frames.get_mut(frame).expect("checked or made above").refs.push(Ref::Node(holder));
            state.mark_node(holder);
        }
        true
    }
}

/// What is to happen to a tail.
struct Packing {
    number: u32,
    stretches: Vec<Stretch>,
    merged: Option<u32>,
    merged_items: u32,
}

impl Packing {
    fn new_items(&self) -> impl Iterator<Item = usize> + '_ {
        self.stretches.iter().flat_map(|stretch| match stretch {
            Stretch::New { items } => items.clone(),
            Stretch::Shared { .. } => 0..0,
        })
    }
}
