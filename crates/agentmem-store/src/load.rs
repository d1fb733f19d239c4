//! Reading the index back into tables.

use crate::agents::{AgentEntry, AgentShared};
use crate::claims::Claims;
use crate::cold::DiskPlace;
use crate::dirty::Dirty;
use crate::engine::{Conversation, ConversationShared, State};
use crate::frames::{FrameEntry, Ref};
use crate::heap::Heap;
use crate::ledger::{
    AGENTS, CONVERSATIONS, FRAMES, LEASES, Ledger, NAMES, NODES, Rows, SMUS, TAGS, TAILS, damaged, failed,
};
use crate::raw::Raw;
use crate::records::{AgentRecord, ConversationRecord, FrameRecord, NodeRecord, SmuRecord, tags_of};
use crate::slots::Slots;
use crate::smus::{Packed, SlotUse, Smu};
use crate::sync::{AtomicBool, AtomicU64};
use crate::tree::{Body, NONE, Node, RawItem, Tail};
use agentmem_core::frame::Meta;
use agentmem_core::place::Place;
use agentmem_core::{AgentState, ContentId, Kind, Result};
use redb::{ReadableDatabase, ReadableTable};
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

/// Numbers of nodes are below this: the table has a row for each number, used or not.
const NODES_MAX: usize = 1 << 26;

impl Ledger {
    /// Fills an empty `state` with what is stored; returns where the frames are.
    pub fn load(&mut self, state: &mut State, slots: &Slots, heap: &Arc<Heap>) -> Result<Vec<DiskPlace>> {
        let read = self.database()?.begin_read().map_err(failed)?;
        let mut places = Vec::new();
        each(&read, AGENTS, |number, record: AgentRecord| {
            let entry = agent_entry(number, record, state.agents.all_used_bytes())?;
            state.agents.insert(entry);
            Ok(())
        })?;
        each(&read, FRAMES, |number, record: FrameRecord| {
            if number == 0 {
                return Err(damaged("number of a frame"));
            }
            places.push(record.disk);
            state.frames.insert(
                number,
                FrameEntry {
                    stored: None,
                    disk: Some(record.disk),
                    items: record.items,
                    stored_bytes: record.disk.len,
                    logical_bytes: record.logical_bytes,
                    refs: Vec::new(),
                    agent: record.agent,
                    kind: Kind::from_u8(record.kind).ok_or_else(|| damaged("kind"))?,
                    used_ms: 0,
                    uses: 0,
                    made_ms: 0,
                    is_busy: false,
                },
            );
            Ok(())
        })?;
        each(&read, SMUS, |slot, record: SmuRecord| load_smu(state, slots, slot, record))?;
        state.smus.restored(&HashSet::new());
        for row in read.open_table(LEASES).map_err(failed)?.iter().map_err(failed)? {
            let key = row.map_err(failed)?.0.value();
            let (slot, agent) = ((key >> 32) as u32, key as u32);
            let logical_bytes = state.smus.get(slot).ok_or_else(|| damaged("lease"))?.logical_bytes;
            state.lease(agent, slot, 1);
            let entry = state.agents.get_mut(agent).ok_or_else(|| damaged("lease"))?;
            entry.shared.charge_anyway(logical_bytes);
        }
        for row in read.open_table(NAMES).map_err(failed)?.iter().map_err(failed)? {
            let (name, slot) = row.map_err(failed)?;
            state.smus.get(slot.value()).ok_or_else(|| damaged("name of an SMU"))?;
            state.smus.name(name.value(), slot.value());
        }
        self.load_conversations(&read, state, heap)?;
        for row in read.open_table(TAGS).map_err(failed)?.iter().map_err(failed)? {
            let (frame, tags) = row.map_err(failed)?;
            if state.frames.get(frame.value()).is_some() {
                state.index_messages(frame.value(), &tags_of(tags.value()));
            }
        }
        // Nothing that was just read has to be written.
        state.dirty = Some(Dirty::default());
        Ok(places)
    }

    fn load_conversations(&self, read: &redb::ReadTransaction, state: &mut State, heap: &Arc<Heap>) -> Result<()> {
        let tails = read.open_table(TAILS).map_err(failed)?;
        let mut links = Vec::new();
        each(read, NODES, |number, record: NodeRecord| {
            let NodeRecord { parent, start, count, logical_bytes, agent, run } = record;
            start.checked_add(count).ok_or_else(|| damaged("messages of a node"))?;
            let body = match run {
                Some((frame, first)) => {
                    let entry = state.frames.get_mut(frame).ok_or_else(|| damaged("frame of a node"))?;
                    if u64::from(first) + u64::from(count) > u64::from(entry.items) {
                        return Err(damaged("items of a node"));
                    }
                    entry.refs.push(Ref::Node(number));
                    Body::Run { frame, first }
                }
                None => {
                    let tail = load_tail(&tails, number, count, heap)?;
                    if tail.filled as u64 != logical_bytes {
                        return Err(damaged("length of messages"));
                    }
                    state.tail_bytes += logical_bytes;
                    state.tails.insert(number);
                    Body::Tail(Box::new(tail))
                }
            };
            if number as usize >= NODES_MAX {
                return Err(damaged("number of a node"));
            }
            links.push((parent, start));
            state.tree.restore(number, Node::new(parent, start, count, logical_bytes, agent, body));
            Ok(())
        })?;
        state.link_nodes(&links)?;
        each(read, CONVERSATIONS, |number, record| state.restore_conversation(number, record))
    }

    /// Where the index says that frames are.
    pub fn places(&mut self) -> Result<Vec<DiskPlace>> {
        let read = self.database()?.begin_read().map_err(failed)?;
        let mut places = Vec::new();
        each(&read, FRAMES, |_, record: FrameRecord| {
            places.push(record.disk);
            Ok(())
        })?;
        Ok(places)
    }
}

/// An agent that nobody has, and that holds nothing yet.
pub fn agent_entry(number: u32, record: AgentRecord, all_used_bytes: &Arc<AtomicU64>) -> Result<AgentEntry> {
    Ok(AgentEntry {
        shared: AgentShared::new(number, &record.name, record.quota_bytes, all_used_bytes),
        pid: 0,
        pidfd: None,
        is_lasting: false,
        importance: record.importance,
        state: AgentState::from_u8(record.state).ok_or_else(|| damaged("agent state"))?,
        created_unix_ms: record.created_unix_ms,
        active_ms: 0,
        leases: HashMap::new(),
        aliases: HashSet::new(),
        conversations: BTreeMap::new(),
    })
}

impl State {
    /// Refers to the parents of all nodes, which are there: parent and start of each.
    pub fn link_nodes(&mut self, links: &[(u32, u32)]) -> Result<()> {
        self.tree.restored();
        for &(parent, start) in links {
            if parent == NONE && start != 0 {
                return Err(damaged("start of a node"));
            }
            if parent != NONE {
                let before = self.tree.get(parent).ok_or_else(|| damaged("parent of a node"))?;
                // A parent of which nothing is seen could be the node itself, and a chain without end.
                let seen = start.checked_sub(before.start).filter(|&seen| seen > 0 && seen <= before.count);
                self.tree.refer(parent, seen.ok_or_else(|| damaged("start of a node"))?);
            }
        }
        Ok(())
    }

    /// Takes a conversation over, whose agent and nodes are there.
    pub fn restore_conversation(&mut self, number: u32, record: ConversationRecord) -> Result<()> {
        if record.head == NONE && record.len != 0 {
            return Err(damaged("head of a conversation"));
        }
        if record.head != NONE {
            let head = self.tree.get(record.head).ok_or_else(|| damaged("head of a conversation"))?;
            let seen = record.len.checked_sub(head.start).filter(|&seen| seen <= head.count);
            self.tree.refer(record.head, seen.ok_or_else(|| damaged("length of a conversation"))?);
        }
        let agent = self.agents.get_mut(record.agent).ok_or_else(|| damaged("agent of a conversation"))?;
        agent.shared.charge_anyway(record.logical_bytes);
        agent.conversations.insert(record.name.as_str().into(), number);
        let shared = Arc::new(ConversationShared {
            number,
            name: record.name.into(),
            messages: AtomicU64::new(record.len.into()),
            logical_bytes: AtomicU64::new(record.logical_bytes),
            is_released: AtomicBool::new(false),
        });
        let (agent, head, len, logical_bytes) = (record.agent, record.head, record.len, record.logical_bytes);
        self.conversations.insert(number, Conversation { shared, agent, head, len, logical_bytes });
        self.next_conversation = self.next_conversation.max(number + 1);
        Ok(())
    }
}

fn each<T: DeserializeOwned>(
    read: &redb::ReadTransaction,
    table: Rows,
    mut take: impl FnMut(u32, T) -> Result<()>,
) -> Result<()> {
    for row in read.open_table(table).map_err(failed)?.iter().map_err(failed)? {
        let (key, value) = row.map_err(failed)?;
        let record = postcard::from_bytes(value.value()).map_err(|_| damaged("a record"))?;
        // The next number to give out has to be one above.
        let number = Some(key.value()).filter(|&number| number != u32::MAX).ok_or_else(|| damaged("a number"))?;
        take(number, record)?;
    }
    Ok(())
}

fn load_smu(state: &mut State, slots: &Slots, slot: u32, record: SmuRecord) -> Result<()> {
    let (packed, count) = match record.is_parts {
        true => (Packed::Parts { first: record.frame, count: record.item }, record.item),
        false => (Packed::Item { frame: record.frame, item: record.item }, 1),
    };
    let frames = record.frame..record.frame.checked_add(count).ok_or_else(|| damaged("frames of an SMU"))?;
    if slot as usize >= crate::slots::SLOTS_MAX {
        return Err(damaged("slot of an SMU"));
    }
    for number in frames {
        let entry = state.frames.get_mut(number).ok_or_else(|| damaged("frame of an SMU"))?;
        entry.refs.push(Ref::Smu(slot));
    }
    state.smus.restore(
        slot,
        SlotUse::Smu(Box::new(Smu {
            id: ContentId(record.id),
            is_sealed: true,
            logical_bytes: record.logical_bytes,
            raw: None,
            packed,
            leases: 0,
            agents: 0,
            agent: 0,
            used_ms: 0,
            uses_seen: 0,
            claims: Claims::default(),
            kind: Kind::from_u8(record.kind).ok_or_else(|| damaged("kind"))?,
            importance: record.importance,
            keep_hot: false,
            stays_raw: false,
            is_busy: false,
        })),
    );
    slots.relocate(slot, Place::Away);
    Ok(())
}

fn load_tail(rows: &impl ReadableTable<u64, &'static [u8]>, node: u32, count: u32, heap: &Arc<Heap>) -> Result<Tail> {
    let first = u64::from(node) << 32;
    let mut tail = Tail { durable: count, ..Tail::default() };
    let mut content = Vec::new();
    for row in rows.range(first..first + u64::from(count)).map_err(failed)? {
        let (_, value) = row.map_err(failed)?;
        let parsed = postcard::take_from_bytes::<(bool, u32, u32)>(value.value());
        let ((is_value, lead_bytes, trail_bytes), bytes) = parsed.map_err(|_| damaged("a message"))?;
        let meta = Meta { is_value, lead_bytes, trail_bytes };
        if u64::from(lead_bytes) + u64::from(trail_bytes) > bytes.len() as u64 {
            return Err(damaged("a message"));
        }
        tail.items.push(RawItem { chunk: 0, from: content.len() as u32, len: bytes.len() as u32, meta });
        content.extend_from_slice(bytes);
    }
    if tail.items.len() != count as usize {
        return Err(damaged("messages of a conversation are missing"));
    }
    tail.filled = content.len();
    tail.chunks.push(Arc::new(Raw::Extent(heap.store(&content)?)));
    Ok(tail)
}
