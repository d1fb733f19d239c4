//! Packing: a raw tail becomes part of a frame.
//!
//! Messages that another conversation's frame has already are only referred to. The others are
//! framed together with the frames just before them, as long as those are not much larger: so many
//! small packings (flushes, snapshots, pauses) end in few large frames, and each byte is framed a
//! logarithmic number of times. Whoever referred to a frame that was taken in refers to the new
//! one, in which its items lie further back.

use crate::engine::{Engine, State};
use crate::frames::{FrameEntry, Ref};
use crate::heap::Extent;
use crate::ingest::TAIL_BYTES_MAX;
use crate::share::{Messages, Opened, Stretch};
use crate::smus::Packed;
use crate::tree::Body;
use agentmem_core::frame::{ITEMS_MAX, Item};
use agentmem_core::{ContentId, Kind, Result};

/// A frame is taken in while it is at most this many times as large as what comes after it.
const TAKE_IN_FACTOR: u64 = 2;

/// How much is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effort {
    /// Look for shared messages, and take small frames in.
    Full,
    /// The same once more: frames appeared meanwhile that have some of the messages.
    Again,
    /// Just frame it: what a plan relied on went while it was carried out.
    Plain,
}

/// What is to happen to a tail.
struct Packing {
    number: u32,
    stretches: Vec<Stretch>,
    /// Frames to be taken in, in order, and where the items of each begin in the new one.
    taken_in: Vec<(u32, u32)>,
    /// Where the tail's own items begin in it.
    own_first: u32,
    stored: Option<Extent>,
    items: u32,
    logical_bytes: u64,
    /// Of all items, in order.
    tags: Vec<u32>,
    /// Frames from this number on were made after shared messages were looked for.
    unseen_frames: u32,
}

impl Engine {
    /// Packs the tails that are full; returns whether there were any.
    pub fn pack_full_tails(&self) -> bool {
        let mut worked = false;
        for _ in 0..8 {
            let Some(number) = self.lock().full_tails.pop_front() else { break };
            // A failure (no memory for the frame) leaves the tail as it is, for reclaim to retry.
            let _ = self.pack_tail(number, Effort::Full);
            worked = true;
        }
        worked
    }

    /// Packs the tail in node `number`, if it is one and no other job has it.
    pub fn pack_tail(&self, number: u32, effort: Effort) -> Result<()> {
        let _demoting = self.demoting();
        let messages = {
            let mut state = self.lock();
            let Some(node) = state.tree.get_mut(number) else { return Ok(()) };
            if node.is_busy || node.count == 0 {
                return Ok(());
            }
            let Body::Tail(tail) = &mut node.body else { return Ok(()) };
            tail.is_sealed = true;
            node.is_busy = true;
            Messages::of(tail)
        };
        let outcome = self.plan_packing(number, &messages, effort);
        let mut state = self.lock();
        // The node may have died, and its number may be another's by now.
        let Some(node) = state.tree.with_tail(number, messages.serial()) else { return outcome.map(|_| ()) };
        node.is_busy = false;
        let plan = outcome?;
        let is_news =
            |tag: &u32| state.index.frames(*tag).any(|f| f >= plan.unseen_frames && state.frames.get(f).is_some());
        let own = &plan.tags[plan.own_first as usize..];
        if effort == Effort::Full && own.iter().any(is_news) {
            drop(state);
            return self.pack_tail(number, Effort::Again);
        }
        let is_done = self.commit_packing(&mut state, plan);
        drop(state);
        if is_done || effort == Effort::Plain { Ok(()) } else { self.pack_tail(number, Effort::Plain) }
    }

    fn plan_packing(&self, number: u32, messages: &Messages, effort: Effort) -> Result<Packing> {
        let ids: Vec<ContentId> =
            (0..messages.len()).map(|index| ContentId::of(&self.key, messages.bytes(index))).collect();
        let unseen_frames = self.lock().frames.next_number();
        let (stretches, before) = match effort {
            Effort::Full | Effort::Again => {
                let stretches = self.find_shared(messages, &ids);
                let before = self.frames_to_take_in(number, messages, &stretches);
                (stretches, before)
            }
            Effort::Plain => (vec![Stretch::New { items: 0..messages.len() }], Vec::new()),
        };
        let own = |stretch: &Stretch| match stretch {
            Stretch::New { items } => items.clone(),
            Stretch::Shared { .. } => 0..0,
        };
        let mut items: Vec<Item<'_>> = Vec::with_capacity(messages.len());
        let mut taken_in = Vec::with_capacity(before.len());
        for (frame, (content, entries)) in &before {
            taken_in.push((*frame, items.len() as u32));
            items.extend(entries.iter().map(|e| Item { bytes: &content[e.start..e.end], meta: e.meta }));
        }
        let own_first = items.len();
        let own: Vec<usize> = stretches.iter().flat_map(own).collect();
        items.extend(own.iter().map(|&at| Item { bytes: messages.bytes(at), meta: messages.meta(at) }));
        let earlier = items[..own_first].iter().map(|item| ContentId::of(&self.key, item.bytes).tag());
        let tags = earlier.chain(own.iter().map(|&at| ids[at].tag())).collect();
        let stored = match items.is_empty() {
            true => None,
            false => Some(self.frame_heap.store(&self.encode(&items, self.options.warm_level)?)?),
        };
        Ok(Packing {
            number,
            stretches,
            taken_in,
            own_first: own_first as u32,
            stored,
            items: items.len() as u32,
            logical_bytes: items.iter().map(|item| item.bytes.len() as u64).sum(),
            tags,
            unseen_frames,
        })
    }

    /// The frames before the new messages at the end of a tail that are worth framing once more
    /// with them, oldest first.
    fn frames_to_take_in(&self, number: u32, messages: &Messages, stretches: &[Stretch]) -> Vec<(u32, Opened)> {
        // With shared messages in between, the new ones are not all at the end: then leave it.
        let Some((Stretch::New { items }, before)) = stretches.split_last() else { return Vec::new() };
        let shared = |stretch: &Stretch| match stretch {
            Stretch::Shared { frame, .. } => Some(*frame),
            Stretch::New { .. } => None,
        };
        let Some(shared) = before.iter().rev().map(shared).collect::<Option<Vec<u32>>>() else { return Vec::new() };
        let mut bytes: u64 = items.clone().map(|at| messages.bytes(at).len() as u64).sum();
        let mut count = items.len();
        let chosen: Vec<u32> = {
            let state = self.lock();
            let Some(node) = state.tree.get(number) else { return Vec::new() };
            let run = |(_, node): (u32, &crate::tree::Node)| match node.body {
                Body::Run { frame, .. } => Some(frame),
                Body::Tail(_) => None,
            };
            let ancestors = state.tree.chain(node.parent).map_while(run);
            let mut chosen: Vec<u32> = Vec::new();
            for frame in shared.into_iter().chain(ancestors) {
                if chosen.last() == Some(&frame) {
                    continue;
                }
                let Some(entry) = state.frames.get(frame) else { break };
                let fits = bytes + entry.logical_bytes <= TAIL_BYTES_MAX
                    && entry.logical_bytes <= bytes * TAKE_IN_FACTOR
                    && count + entry.items as usize <= ITEMS_MAX;
                // What is on SSD only is not read back for this.
                if !fits || entry.is_busy || entry.stored.is_none() || chosen.contains(&frame) {
                    break;
                }
                bytes += entry.logical_bytes;
                count += entry.items as usize;
                chosen.push(frame);
            }
            chosen
        };
        let opened = chosen.into_iter().map_while(|frame| Some((frame, self.open_frame(frame)?)));
        let mut opened: Vec<(u32, Opened)> = opened.collect();
        opened.reverse();
        opened
    }

    /// Carries a plan out, if what it relied on is still so.
    fn commit_packing(&self, state: &mut State, plan: Packing) -> bool {
        let node = state.tree.node(plan.number);
        let exists = |frame: u32| state.frames.get(frame).is_some();
        let shared_live = plan.stretches.iter().all(|stretch| match stretch {
            Stretch::Shared { frame, .. } => exists(*frame),
            Stretch::New { .. } => true,
        });
        let taken_in_same = plan.taken_in.iter().all(|&(f, _)| state.frames.get(f).is_some_and(|e| !e.is_busy));
        // A fork that sees a part of this node would see a part of one of several.
        let splits = plan.stretches.len() > 1;
        if !shared_live || !taken_in_same || (splits && !node.has_no_partial_reference()) {
            return false;
        }
        let Body::Tail(tail) = &node.body else { return true };
        let sizes: Vec<u64> = tail.items.iter().map(|item| u64::from(item.len)).collect();
        let (agent, tail_bytes) = (node.agent, node.logical_bytes);
        state.tails.remove(plan.number);
        state.tail_bytes -= tail_bytes;
        state.counters.demote_warm += 1;
        state.counters.demote_warm_bytes += tail_bytes;
        let made = plan.stored.map(|stored| {
            let number = state.frames.take_numbers(1);
            let entry = FrameEntry::new(stored, plan.items, plan.logical_bytes, agent, Kind::Message, self.now_ms());
            state.add_frame(number, entry);
            state.index_messages(number, &plan.tags);
            number
        });
        let mut next_own = plan.own_first;
        let last = plan.stretches.len() - 1;
        for (index, stretch) in plan.stretches.into_iter().enumerate() {
            let (range, frame, first) = match stretch {
                Stretch::Shared { items, frame, first } => {
                    state.counters.append_shared += items.len() as u64;
                    state.duplicate_bytes[Kind::Message as usize] += sizes[items.clone()].iter().sum::<u64>();
                    (items, frame, first)
                }
                Stretch::New { items } => {
                    let first = next_own;
                    next_own += items.len() as u32;
                    (items, made.expect("new messages make a frame"), first)
                }
            };
            let body = Body::Run { frame, first };
            let holder = if index == last {
                state.tree.node_mut(plan.number).body = body;
                plan.number
            } else {
                state.split_front(plan.number, range.len() as u32, sizes[range].iter().sum(), body)
            };
            state.frames.get_mut(frame).expect("checked or made above").refs.push(Ref::Node(holder));
            state.mark_node(holder);
        }
        if let Some(made) = made {
            for (frame, first) in plan.taken_in {
                state.take_in_frame(frame, made, first);
            }
            state.reassess(made);
        }
        state.absorb_sole_parents(plan.number);
        true
    }
}

impl State {
    /// All items of `frame` are in `into` from item `offset` on: whoever uses them uses those.
    fn take_in_frame(&mut self, frame: u32, into: u32, offset: u32) {
        let Some(entry) = self.frames.get_mut(frame) else { return };
        let refs = std::mem::take(&mut entry.refs);
        for &reference in &refs {
            match reference {
                Ref::Node(number) => {
                    if let Body::Run { frame, first } = &mut self.tree.node_mut(number).body {
                        (*frame, *first) = (into, *first + offset);
                    }
                    self.mark_node(number);
                }
                Ref::Smu(slot) => {
                    let smu = self.smus.get_mut(slot).expect("a reference names living content");
                    if let Packed::Item { item, .. } = smu.packed {
                        smu.packed = Packed::Item { frame: into, item: item + offset };
                    }
                    self.mark_slot(slot);
                }
            }
        }
        self.frames.get_mut(into).expect("just made").refs.extend(refs);
        self.counters.gc_merge += 1;
        self.reassess(frame);
    }

    /// Makes one node of `number` and the nodes before it that nobody else sees, as far as their
    /// messages lie one after the other in the same frame.
    fn absorb_sole_parents(&mut self, number: u32) {
        loop {
            let node = self.tree.node(number);
            let Body::Run { frame, first } = node.body else { return };
            let Some(parent) = self.tree.get(node.parent) else { return };
            let joins =
                matches!(parent.body, Body::Run { frame: f, first: p } if f == frame && p + parent.count == first);
            if !joins || !parent.has_one_full_reference() || parent.is_busy {
                return;
            }
            let parent = self.tree.node(number).parent;
            let absorbed = self.tree.absorb_parent(number, parent);
            self.tree.node_mut(number).body = Body::Run { frame, first: first - absorbed.count };
            self.unref_frame(frame, Ref::Node(parent));
            self.mark_node(parent);
            self.mark_node(number);
        }
    }
}
