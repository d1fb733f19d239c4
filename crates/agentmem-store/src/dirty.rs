//! What changed since the last commit of the index.

use crate::cold::DiskPlace;
use crate::engine::State;
use crate::records::{agent_record, conversation_record, frame_record, node_record, smu_record, tags_row};
use crate::share::Messages;
use crate::smus::Packed;
use crate::tree::{Body, Node, Tail};
use std::collections::{HashMap, HashSet};

/// Which rows have to be written.
#[derive(Debug, Default)]
pub struct Dirty {
    /// Whether what the index has is to be forgotten first.
    is_whole: bool,
    names: HashSet<Box<str>>,
    agents: HashSet<u32>,
    smus: HashSet<u32>,
    conversations: HashSet<u32>,
    nodes: HashSet<u32>,
    frames: HashSet<u32>,
    tags: HashMap<u32, Vec<u32>>,
    leases: HashSet<u64>,
}

impl Dirty {
    /// Bytes that the sets take.
    pub fn table_bytes(&self) -> u64 {
        let words = self.agents.capacity()
            + self.smus.capacity()
            + self.conversations.capacity()
            + self.nodes.capacity()
            + self.frames.capacity();
        let tags: usize = self.tags.len() * 48;
        (words * 6 + self.leases.capacity() * 10 + tags + self.names.len() * 64) as u64
    }

    /// Whether nothing has to be written.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
            && self.agents.is_empty()
            && self.smus.is_empty()
            && self.conversations.is_empty()
            && self.nodes.is_empty()
            && self.frames.is_empty()
            && self.tags.is_empty()
            && self.leases.is_empty()
    }

    /// Everything in `state`: nobody knows what the index has of it.
    pub fn whole(state: &State, tags: HashMap<u32, Vec<u32>>) -> Self {
        Dirty {
            is_whole: true,
            names: state.smus.names().map(Box::from).collect(),
            agents: state.agents.iter().map(|agent| agent.shared.number).collect(),
            smus: state.smus.iter().map(|(slot, _)| slot).collect(),
            conversations: state.conversations.keys().copied().collect(),
            nodes: state.tree.iter().map(|(number, _)| number).collect(),
            frames: state.frames.iter().map(|(number, _)| number).collect(),
            tags,
            leases: state.agents.leases().collect(),
        }
    }

    fn merge(&mut self, other: Dirty) {
        self.is_whole |= other.is_whole;
        self.names.extend(other.names);
        self.agents.extend(other.agents);
        self.smus.extend(other.smus);
        self.conversations.extend(other.conversations);
        self.nodes.extend(other.nodes);
        self.frames.extend(other.frames);
        self.tags.extend(other.tags);
        self.leases.extend(other.leases);
    }
}

impl State {
    /// Notes that a name changed.
    pub fn mark_name(&mut self, name: &str) {
        if let Some(dirty) = &mut self.dirty {
            dirty.names.insert(name.into());
        }
    }

    /// Notes that an agent changed.
    pub fn mark_agent(&mut self, number: u32) {
        if let Some(dirty) = &mut self.dirty {
            dirty.agents.insert(number);
        }
        self.note(|fresh| fresh.agents.push(number));
    }

    /// Notes that an SMU changed.
    pub fn mark_slot(&mut self, slot: u32) {
        if let Some(dirty) = &mut self.dirty {
            dirty.smus.insert(slot);
        }
        self.note(|fresh| fresh.slots.push(slot));
    }

    /// Notes that `agent` took or gave back its lease on `slot`.
    pub fn mark_lease(&mut self, agent: u32, slot: u32) {
        if let Some(dirty) = &mut self.dirty {
            dirty.leases.insert(u64::from(slot) << 32 | u64::from(agent));
        }
        self.note(|fresh| fresh.leases.push(u64::from(slot) << 32 | u64::from(agent)));
    }

    /// Notes that a conversation changed.
    pub fn mark_conversation(&mut self, number: u32) {
        if let Some(dirty) = &mut self.dirty {
            dirty.conversations.insert(number);
        }
        self.note(|fresh| fresh.conversations.push(number));
    }

    /// Notes that a node changed.
    pub fn mark_node(&mut self, number: u32) {
        if let Some(dirty) = &mut self.dirty {
            dirty.nodes.insert(number);
        }
        self.note(|fresh| fresh.nodes.push(number));
    }

    /// Notes that a frame changed.
    pub fn mark_frame(&mut self, number: u32) {
        if let Some(dirty) = &mut self.dirty {
            dirty.frames.insert(number);
            match self.frames.get(number) {
                Some(entry) if entry.disk.is_none() => self.undurable.insert(number),
                _ => self.undurable.remove(&number),
            };
        }
        self.note(|fresh| fresh.frames.push(number));
    }

    /// Notes the index entries of a new frame.
    pub fn mark_tags(&mut self, frame: u32, tags: &[u32]) {
        if let Some(dirty) = &mut self.dirty {
            dirty.tags.insert(frame, tags.to_vec());
        }
        self.note(|fresh| fresh.tags.push((frame, tags.to_vec())));
    }

    /// Takes everything that changed as one consistent set of rows. Every frame named must be
    /// durable by now.
    pub fn take_changes(&mut self) -> Changes {
        let dirty = std::mem::take(self.dirty.as_mut().expect("only a persistent store is flushed"));
        let mut later = Dirty::default();
        let mut rows = ChangedRows { is_whole: dirty.is_whole, ..ChangedRows::default() };
        for &number in &dirty.agents {
            rows.agents.push((number, self.agents.get(number).map(agent_record)));
        }
        let is_storable = |slot: u32| match self.smus.get(slot) {
            Some(smu) => smu.is_sealed && smu.packed != Packed::No,
            None => true,
        };
        for &slot in &dirty.smus {
            // A slot may hold something new that cannot be stored yet; what it held before goes.
            let smu = self.smus.get(slot).filter(|_| is_storable(slot));
            rows.smus.push((slot, smu.map(smu_record)));
            if !is_storable(slot) {
                later.smus.insert(slot);
            }
        }
        for &key in &dirty.leases {
            let (slot, agent) = ((key >> 32) as u32, key as u32);
            let holds = self.agents.get(agent).is_some_and(|entry| entry.leases.contains_key(&slot));
            rows.leases.push((key, holds && is_storable(slot) && self.smus.get(slot).is_some()));
            if !is_storable(slot) {
                later.leases.insert(key);
            }
        }
        for name in &dirty.names {
            let slot = self.smus.named(name);
            rows.names.push((name.clone(), slot.filter(|&slot| is_storable(slot))));
            if slot.is_some_and(|slot| !is_storable(slot)) {
                later.names.insert(name.clone());
            }
        }
        for &number in &dirty.conversations {
            rows.conversations.push((number, self.conversations.get(&number).map(conversation_record)));
        }
        for &number in &dirty.nodes {
            let node = self.tree.get(number);
            rows.nodes.push((number, node.map(node_record)));
            if let Some(Node { body: Body::Tail(tail), .. }) = node {
                rows.tails.push(TailRows::of(number, tail));
            } else {
                rows.packed_nodes.push(number);
            }
        }
        for &number in &dirty.frames {
            rows.frames.push((number, self.frames.get(number).map(frame_record)));
        }
        for (&number, tags) in &dirty.tags {
            if self.frames.get(number).is_some() {
                rows.tags.push((number, tags_row(tags)));
            }
        }
        self.dirty.as_mut().expect("seen above").merge(later);
        Changes { dirty, rows, dead: std::mem::take(&mut self.dead_on_disk) }
    }

    /// A commit succeeded: the tails' messages are durable.
    pub fn committed(&mut self, rows: &ChangedRows) {
        self.counters.commit += 1;
        for rows in &rows.tails {
            if let Some(Node { body: Body::Tail(tail), .. }) = self.tree.with_tail(rows.node, rows.serial) {
                tail.durable = tail.durable.max(rows.to);
            }
        }
    }

    /// A commit failed: everything is to be written again.
    pub fn take_back(&mut self, changes: Changes) {
        self.dead_on_disk.extend(changes.dead);
        if let Some(dirty) = &mut self.dirty {
            dirty.merge(changes.dirty);
        }
    }
}

/// One consistent set of changed rows.
#[derive(Debug)]
pub struct Changes {
    pub dirty: Dirty,
    pub rows: ChangedRows,
    /// Frames to be buried once this is durable.
    pub dead: Vec<DiskPlace>,
}

pub type Row = (u32, Option<Vec<u8>>);

#[derive(Debug, Default)]
pub struct ChangedRows {
    /// Whether these are all rows that there are.
    pub is_whole: bool,
    pub names: Vec<(Box<str>, Option<u32>)>,
    pub agents: Vec<Row>,
    pub smus: Vec<Row>,
    pub conversations: Vec<Row>,
    pub nodes: Vec<Row>,
    pub frames: Vec<Row>,
    pub leases: Vec<(u64, bool)>,
    pub packed_nodes: Vec<u32>,
    pub tails: Vec<TailRows>,
    pub tags: Vec<(u32, Vec<u8>)>,
}

/// Messages of a raw tail that the index does not have yet.
#[derive(Debug)]
pub struct TailRows {
    pub node: u32,
    serial: u64,
    /// Which.
    pub from: u32,
    to: u32,
    /// Not copied, as those of all tails may be as large as the budget; and let go of once they are written, as the
    /// tail may be packed meanwhile.
    messages: Option<Messages>,
}

impl TailRows {
    fn of(node: u32, tail: &Tail) -> Self {
        let (serial, from, to) = (tail.serial, tail.durable, tail.items.len() as u32);
        TailRows { node, serial, from, to, messages: Some(Messages::of(tail)) }
    }

    /// The messages, for the one who writes them.
    pub fn take(&mut self) -> Messages {
        self.messages.take().expect("a commit writes them once")
    }
}
