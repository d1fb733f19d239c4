//! The durable index: what exists, in redb beside the segment files.
//!
//! Every commit is one transaction over everything that changed, so the index is always that of
//! one moment. Frames that it names were synced before; frames that it names no longer are buried
//! after.

use crate::agents::{AgentEntry, AgentShared};
use crate::cold::DiskPlace;
use crate::engine::{Conversation, ConversationShared, State};
use crate::frames::{FrameEntry, Ref};
use crate::heap::Heap;
use crate::raw::Raw;
use crate::slots::Slots;
use crate::smus::{Packed, Smu};
use crate::sync::{AtomicBool, AtomicU64};
use crate::sys;
use crate::tree::{Body, NONE, Node, RawItem, Tail};
use agentmem_core::frame::Meta;
use agentmem_core::place::Place;
use agentmem_core::{AgentState, ContentId, DomainKey, Error, ErrorKind, Kind, Result};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

const VERSION: u32 = 1;
const CACHE_BYTES: usize = 4 << 20;

type Rows = TableDefinition<'static, u32, &'static [u8]>;
const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");
const NAMES: TableDefinition<&str, u32> = TableDefinition::new("names");
const AGENTS: Rows = TableDefinition::new("agents");
const SMUS: Rows = TableDefinition::new("smus");
const CONVERSATIONS: Rows = TableDefinition::new("conversations");
const NODES: Rows = TableDefinition::new("nodes");
const FRAMES: Rows = TableDefinition::new("frames");
const TAGS: Rows = TableDefinition::new("tags");
/// Key: slot in the high half, agent in the low.
const LEASES: TableDefinition<u64, ()> = TableDefinition::new("leases");
/// Key: node in the high half, message in the low.
const TAILS: TableDefinition<u64, &[u8]> = TableDefinition::new("tails");

#[derive(Serialize, Deserialize)]
struct AgentRecord {
    name: String,
    importance: u8,
    state: u8,
    quota_bytes: Option<u64>,
    created_unix_ms: u64,
}

#[derive(Serialize, Deserialize)]
struct SmuRecord {
    id: [u8; 32],
    logical_bytes: u64,
    /// First frame; then the item in it, or how many frames.
    frame: u32,
    item: u32,
    is_parts: bool,
    kind: u8,
    importance: u8,
}

#[derive(Serialize, Deserialize)]
struct ConversationRecord {
    agent: u32,
    name: String,
    head: u32,
    len: u32,
    logical_bytes: u64,
}

#[derive(Serialize, Deserialize)]
struct NodeRecord {
    parent: u32,
    start: u32,
    count: u32,
    logical_bytes: u64,
    agent: u32,
    run: Option<(u32, u32)>,
}

#[derive(Serialize, Deserialize)]
struct FrameRecord {
    disk: DiskPlace,
    items: u32,
    logical_bytes: u64,
    agent: u32,
    kind: u8,
}

/// Which rows have to be written.
#[derive(Debug, Default)]
pub struct Dirty {
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

    fn merge(&mut self, other: Dirty) {
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
    }

    /// Notes that an SMU changed.
    pub fn mark_slot(&mut self, slot: u32) {
        if let Some(dirty) = &mut self.dirty {
            dirty.smus.insert(slot);
        }
    }

    /// Notes that `agent` took or gave back its lease on `slot`.
    pub fn mark_lease(&mut self, agent: u32, slot: u32) {
        if let Some(dirty) = &mut self.dirty {
            dirty.leases.insert(u64::from(slot) << 32 | u64::from(agent));
        }
    }

    /// Notes that a conversation changed.
    pub fn mark_conversation(&mut self, number: u32) {
        if let Some(dirty) = &mut self.dirty {
            dirty.conversations.insert(number);
        }
    }

    /// Notes that a node changed.
    pub fn mark_node(&mut self, number: u32) {
        if let Some(dirty) = &mut self.dirty {
            dirty.nodes.insert(number);
        }
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
    }

    /// Notes the index entries of a new frame.
    pub fn mark_tags(&mut self, frame: u32, tags: &[u32]) {
        if let Some(dirty) = &mut self.dirty {
            dirty.tags.insert(frame, tags.to_vec());
        }
    }

    /// Takes everything that changed as one consistent set of rows. Every frame named must be
    /// durable by now.
    pub fn take_changes(&mut self) -> Changes {
        let dirty = std::mem::take(self.dirty.as_mut().expect("only a persistent store is flushed"));
        let mut later = Dirty::default();
        let mut rows = ChangedRows::default();
        let mut tails = Vec::new();
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
                for index in tail.durable..tail.items.len() as u32 {
                    let meta = tail.items[index as usize].meta;
                    let key = u64::from(number) << 32 | u64::from(index);
                    rows.tail_rows.push((key, tail_row(meta, tail.bytes(index as usize))));
                }
                tails.push((number, tail.items.len() as u32));
            } else {
                rows.packed_nodes.push(number);
            }
        }
        for &number in &dirty.frames {
            rows.frames.push((number, self.frames.get(number).map(frame_record)));
        }
        for (&number, tags) in &dirty.tags {
            if self.frames.get(number).is_some() {
                rows.tags.push((number, tags.iter().flat_map(|tag| tag.to_le_bytes()).collect()));
            }
        }
        self.dirty.as_mut().expect("seen above").merge(later);
        Changes { dirty, rows, tails, dead: std::mem::take(&mut self.dead_on_disk) }
    }

    /// A commit succeeded: the tails' messages are durable.
    pub fn committed(&mut self, tails: &[(u32, u32)]) {
        self.counters.commit += 1;
        for &(number, count) in tails {
            if let Some(Node { body: Body::Tail(tail), .. }) = self.tree.get_mut(number)
                && tail.items.len() as u32 >= count
            {
                tail.durable = tail.durable.max(count);
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
    dirty: Dirty,
    rows: ChangedRows,
    /// Tails written, and how many messages of each.
    pub tails: Vec<(u32, u32)>,
    /// Frames to be buried once this is durable.
    pub dead: Vec<DiskPlace>,
}

type Row = (u32, Option<Vec<u8>>);

#[derive(Debug, Default)]
struct ChangedRows {
    names: Vec<(Box<str>, Option<u32>)>,
    agents: Vec<Row>,
    smus: Vec<Row>,
    conversations: Vec<Row>,
    nodes: Vec<Row>,
    frames: Vec<Row>,
    leases: Vec<(u64, bool)>,
    packed_nodes: Vec<u32>,
    tail_rows: Vec<(u64, Vec<u8>)>,
    tags: Vec<(u32, Vec<u8>)>,
}

fn encode<T: Serialize>(record: &T) -> Vec<u8> {
    postcard::to_stdvec(record).expect("records of plain fields always encode")
}

fn agent_record(agent: &AgentEntry) -> Vec<u8> {
    encode(&AgentRecord {
        name: agent.shared.name.to_string(),
        importance: agent.importance,
        state: agent.state as u8,
        quota_bytes: agent.shared.quota_bytes(),
        created_unix_ms: agent.created_unix_ms,
    })
}

fn smu_record(smu: &Smu) -> Vec<u8> {
    let (frame, item, is_parts) = match smu.packed {
        Packed::Item { frame, item } => (frame, item, false),
        Packed::Parts { first, count } => (first, count, true),
        Packed::No => unreachable!("only packed content is stored"),
    };
    let (kind, importance) = (smu.kind as u8, smu.importance);
    encode(&SmuRecord { id: smu.id.0, logical_bytes: smu.logical_bytes, frame, item, is_parts, kind, importance })
}

fn conversation_record(conversation: &Conversation) -> Vec<u8> {
    encode(&ConversationRecord {
        agent: conversation.agent,
        name: conversation.shared.name.to_string(),
        head: conversation.head,
        len: conversation.len,
        logical_bytes: conversation.logical_bytes,
    })
}

fn node_record(node: &Node) -> Vec<u8> {
    let run = match node.body {
        Body::Run { frame, first } => Some((frame, first)),
        Body::Tail(_) => None,
    };
    let &Node { parent, start, count, logical_bytes, agent, .. } = node;
    encode(&NodeRecord { parent, start, count, logical_bytes, agent, run })
}

fn frame_record(frame: &FrameEntry) -> Vec<u8> {
    encode(&FrameRecord {
        disk: frame.disk.expect("durable before it is named"),
        items: frame.items,
        logical_bytes: frame.logical_bytes,
        agent: frame.agent,
        kind: frame.kind as u8,
    })
}

fn tail_row(meta: Meta, bytes: &[u8]) -> Vec<u8> {
    let mut row = encode(&(meta.is_value, meta.lead_bytes, meta.trail_bytes));
    row.extend_from_slice(bytes);
    row
}

fn failed(error: impl Into<redb::Error>) -> Error {
    let error = error.into();
    let kind = match error {
        redb::Error::Corrupted(_) => ErrorKind::Damaged,
        redb::Error::DatabaseAlreadyOpen => ErrorKind::StoreLocked,
        redb::Error::UpgradeRequired(_) => ErrorKind::Version,
        _ => ErrorKind::Io,
    };
    Error::new(kind, format!("the index: {error}"))
}

fn damaged(what: &str) -> Error {
    Error::new(ErrorKind::Damaged, format!("the index: {what}"))
}

/// The index file.
#[derive(Debug)]
pub struct Ledger {
    database: Database,
}

impl Ledger {
    /// Opens or makes the index at `path`, and gives the key of the trust domain.
    pub fn open(path: &Path) -> Result<(Self, DomainKey)> {
        let database = Database::builder().set_cache_size(CACHE_BYTES).create(path).map_err(failed)?;
        let ledger = Ledger { database };
        let key = ledger.prepare()?;
        Ok((ledger, key))
    }

    fn prepare(&self) -> Result<DomainKey> {
        let write = self.database.begin_write().map_err(failed)?;
        let key = {
            let mut meta = write.open_table(META).map_err(failed)?;
            let version = meta.get("version").map_err(failed)?.map(|value| value.value().to_vec());
            match version {
                None => drop(meta.insert("version", &VERSION.to_le_bytes()[..]).map_err(failed)?),
                Some(version) if version == VERSION.to_le_bytes() => {}
                Some(_) => return Err(Error::new(ErrorKind::Version, "the index")),
            }
            let key = meta.get("key").map_err(failed)?.map(|value| value.value().to_vec());
            match key {
                Some(key) => key.try_into().map_err(|_| damaged("key"))?,
                None => {
                    let key: [u8; 32] = sys::random()?;
                    meta.insert("key", &key[..]).map_err(failed)?;
                    key
                }
            }
        };
        for table in [AGENTS, SMUS, CONVERSATIONS, NODES, FRAMES, TAGS] {
            write.open_table(table).map_err(failed)?;
        }
        write.open_table(NAMES).map_err(failed)?;
        write.open_table(LEASES).map_err(failed)?;
        write.open_table(TAILS).map_err(failed)?;
        write.commit().map_err(failed)?;
        Ok(DomainKey(key))
    }

    /// Writes `changes` as one transaction that is durable when this returns.
    pub fn commit(&self, changes: &Changes) -> Result<()> {
        sys::before_commit()?;
        let rows = &changes.rows;
        let write = self.database.begin_write().map_err(failed)?;
        {
            for (table, rows) in [
                (AGENTS, &rows.agents),
                (SMUS, &rows.smus),
                (CONVERSATIONS, &rows.conversations),
                (NODES, &rows.nodes),
                (FRAMES, &rows.frames),
            ] {
                let mut table = write.open_table(table).map_err(failed)?;
                for (key, value) in rows {
                    match value {
                        Some(value) => drop(table.insert(key, &value[..]).map_err(failed)?),
                        None => drop(table.remove(key).map_err(failed)?),
                    }
                }
            }
            let mut tags = write.open_table(TAGS).map_err(failed)?;
            for (frame, value) in &rows.tags {
                tags.insert(frame, &value[..]).map_err(failed)?;
            }
            for (frame, value) in &rows.frames {
                if value.is_none() {
                    tags.remove(frame).map_err(failed)?;
                }
            }
            let mut names = write.open_table(NAMES).map_err(failed)?;
            for (name, slot) in &rows.names {
                match slot {
                    Some(slot) => drop(names.insert(&**name, slot).map_err(failed)?),
                    None => drop(names.remove(&**name).map_err(failed)?),
                }
            }
            let mut leases = write.open_table(LEASES).map_err(failed)?;
            for (key, holds) in &rows.leases {
                match holds {
                    true => drop(leases.insert(key, ()).map_err(failed)?),
                    false => drop(leases.remove(key).map_err(failed)?),
                }
            }
            let mut tails = write.open_table(TAILS).map_err(failed)?;
            for &node in &rows.packed_nodes {
                let of_node = u64::from(node) << 32..=u64::from(node) << 32 | u64::from(u32::MAX);
                tails.retain_in(of_node, |_, _| false).map_err(failed)?;
            }
            for (key, value) in &rows.tail_rows {
                tails.insert(key, &value[..]).map_err(failed)?;
            }
        }
        write.commit().map_err(failed)
    }

    /// Fills an empty `state` with what is stored; returns where the frames are.
    pub fn load(&self, state: &mut State, slots: &Slots, heap: &Arc<Heap>) -> Result<Vec<DiskPlace>> {
        let read = self.database.begin_read().map_err(failed)?;
        let mut places = Vec::new();
        each(&read, AGENTS, |number, record: AgentRecord| {
            state.agents.insert(AgentEntry {
                shared: AgentShared::new(number, &record.name, record.quota_bytes, 0),
                pid: 0,
                pidfd: None,
                importance: record.importance,
                state: AgentState::from_u8(record.state).ok_or_else(|| damaged("agent state"))?,
                created_unix_ms: record.created_unix_ms,
                active_ms: 0,
                leases: HashMap::new(),
                aliases: HashSet::new(),
                unclaimed: HashSet::new(),
                conversations: BTreeMap::new(),
            });
            Ok(())
        })?;
        each(&read, FRAMES, |number, record: FrameRecord| {
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
        state.smus.restored();
        for row in read.open_table(LEASES).map_err(failed)?.iter().map_err(failed)? {
            let key = row.map_err(failed)?.0.value();
            let (slot, agent) = ((key >> 32) as u32, key as u32);
            let logical_bytes = state.smus.get(slot).ok_or_else(|| damaged("lease"))?.logical_bytes;
            state.lease(agent, slot, 1);
            let entry = state.agents.get_mut(agent).ok_or_else(|| damaged("lease"))?;
            entry.unclaimed.insert(slot);
            entry.shared.charge_anyway(logical_bytes);
        }
        for row in read.open_table(NAMES).map_err(failed)?.iter().map_err(failed)? {
            let (name, slot) = row.map_err(failed)?;
            state.smus.name(name.value(), slot.value());
        }
        self.load_conversations(&read, state, heap)?;
        for row in read.open_table(TAGS).map_err(failed)?.iter().map_err(failed)? {
            let (frame, tags) = row.map_err(failed)?;
            let tags = tags.value().chunks_exact(4).map(|tag| u32::from_le_bytes(tag.try_into().expect("four bytes")));
            state.index_messages(frame.value(), &tags.collect::<Vec<_>>());
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
                    state.tail_bytes += logical_bytes;
                    state.tails.insert(number);
                    Body::Tail(Box::new(load_tail(&tails, number, count, heap)?))
                }
            };
            links.push((number, parent, start));
            state.tree.restore(number, Node::new(parent, start, count, logical_bytes, agent, body));
            Ok(())
        })?;
        state.tree.restored();
        for (_, parent, start) in links {
            if parent != NONE {
                let before = state.tree.get(parent).ok_or_else(|| damaged("parent of a node"))?;
                let seen = start.checked_sub(before.start).filter(|&seen| seen <= before.count);
                state.tree.refer(parent, seen.ok_or_else(|| damaged("start of a node"))?);
            }
        }
        each(read, CONVERSATIONS, |number, record: ConversationRecord| {
            if record.head != NONE {
                let head = state.tree.get(record.head).ok_or_else(|| damaged("head of a conversation"))?;
                let seen = record.len.checked_sub(head.start).filter(|&seen| seen <= head.count);
                state.tree.refer(record.head, seen.ok_or_else(|| damaged("length of a conversation"))?);
            }
            let agent = state.agents.get_mut(record.agent).ok_or_else(|| damaged("agent of a conversation"))?;
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
            state.conversations.insert(number, Conversation { shared, agent, head, len, logical_bytes });
            state.next_conversation = state.next_conversation.max(number + 1);
            Ok(())
        })
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
        take(key.value(), record)?;
    }
    Ok(())
}

fn load_smu(state: &mut State, slots: &Slots, slot: u32, record: SmuRecord) -> Result<()> {
    let (packed, frames) = match record.is_parts {
        true => (Packed::Parts { first: record.frame, count: record.item }, record.frame..record.frame + record.item),
        false => (Packed::Item { frame: record.frame, item: record.item }, record.frame..record.frame + 1),
    };
    if slot as usize >= crate::slots::SLOTS_MAX {
        return Err(damaged("slot of an SMU"));
    }
    for number in frames {
        let entry = state.frames.get_mut(number).ok_or_else(|| damaged("frame of an SMU"))?;
        entry.refs.push(Ref::Smu(slot));
    }
    state.smus.restore(
        slot,
        Smu {
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
            kind: Kind::from_u8(record.kind).ok_or_else(|| damaged("kind"))?,
            importance: record.importance,
            keep_hot: false,
            is_busy: false,
            names: Vec::new(),
        },
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
