//! Rows of the index, as they are encoded.

use crate::agents::AgentEntry;
use crate::claims::Claim;
use crate::cold::DiskPlace;
use crate::engine::Conversation;
use crate::frames::FrameEntry;
use crate::lifetime::{Then, Waiting};
use crate::quota::DomainQuota;
use crate::sessions::SessionEntry;
use crate::smus::{Alias, Packed, SlotUse, Smu, Smus};
use crate::tree::{Body, Node, RawItem, Tail};
use agentmem_core::frame::Meta;
use serde::{Deserialize, Serialize};

/// An agent.
#[derive(Debug, Serialize, Deserialize)]
pub struct AgentRecord {
    pub name: String,
    pub importance: u8,
    pub state: u8,
    pub quota_bytes: Option<u64>,
    pub created_unix_ms: u64,
}

/// A content that has a packed form.
#[derive(Serialize, Deserialize)]
pub struct SmuRecord {
    pub id: [u8; 32],
    pub logical_bytes: u64,
    /// First frame; then the item in it, or how many frames.
    pub frame: u32,
    pub item: u32,
    pub is_parts: bool,
    pub kind: u8,
    pub importance: u8,
}

/// A conversation.
#[derive(Serialize, Deserialize)]
pub struct ConversationRecord {
    pub agent: u32,
    pub name: String,
    pub head: u32,
    pub len: u32,
    pub logical_bytes: u64,
}

/// A node of the tree; without a run its messages are rows of their own.
#[derive(Serialize, Deserialize)]
pub struct NodeRecord {
    pub parent: u32,
    pub start: u32,
    pub count: u32,
    pub logical_bytes: u64,
    pub agent: u32,
    pub run: Option<(u32, u32)>,
}

/// A frame that is on SSD.
#[derive(Serialize, Deserialize)]
pub struct FrameRecord {
    pub disk: DiskPlace,
    pub items: u32,
    pub logical_bytes: u64,
    pub agent: u32,
    pub kind: u8,
}

/// Where raw bytes are that outlive the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum KeptRaw {
    /// In the hot heap.
    Extent { start: u64, len: u64 },
    /// In a memfd of its own.
    Large { segment: u32, incarnation: u64, len: u64 },
}

/// What an engine that is kept knows beside tables.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineRecord {
    pub key: [u8; 32],
    /// Where the cold tier lies.
    pub folder: Option<std::path::PathBuf>,
    pub next_agent: u32,
    pub next_session: u32,
    pub next_conversation: u32,
    pub next_key: u64,
    pub quota: DomainQuota,
}

/// A session, in a journal.
#[derive(Debug, Serialize, Deserialize)]
pub struct SessionRecord {
    pub pid: u32,
    /// When its process started.
    pub started: Option<u64>,
    pub secret: [u8; 16],
    /// What its arena is kept as.
    pub arena: String,
    pub cells: u64,
    pub data_bytes: u64,
    pub claims: u64,
}

/// An agent, in a journal.
#[derive(Debug, Serialize, Deserialize)]
pub struct KeptAgent {
    pub agent: AgentRecord,
    pub pid: u32,
    pub session: Option<u32>,
    pub is_lasting: bool,
}

/// What a slot is used for, in a journal.
#[derive(Debug, Serialize, Deserialize)]
pub enum KeptSlot {
    Smu(Box<KeptSmu>),
    Alias { to: u32, agent: u32, claim: Claim, generation: u64 },
}

/// A content, in a journal.
#[derive(Debug, Serialize, Deserialize)]
pub struct KeptSmu {
    pub generation: u64,
    pub id: [u8; 32],
    pub is_sealed: bool,
    pub logical_bytes: u64,
    pub raw: Option<KeptRaw>,
    pub packed: Packed,
    pub agent: u32,
    pub kind: u8,
    pub importance: u8,
    pub keep_hot: bool,
    pub claims: Vec<Claim>,
    pub names: Vec<Box<str>>,
    /// Names that it gets once it is sealed, with their places among all that wait.
    pub waiting: Vec<(u64, Box<str>)>,
}

/// A frame, in a journal.
#[derive(Debug, Serialize, Deserialize)]
pub struct KeptFrame {
    /// Start and length in the heap.
    pub stored: Option<(u64, u64)>,
    pub disk: Option<DiskPlace>,
    pub items: u32,
    pub stored_bytes: u32,
    pub logical_bytes: u64,
    pub agent: u32,
    pub kind: u8,
}

impl KeptFrame {
    /// The row of `frame`.
    pub fn of(frame: &FrameEntry) -> Self {
        KeptFrame {
            stored: frame.stored.as_ref().map(|extent| (extent.start(), extent.len_bytes() as u64)),
            disk: frame.disk,
            items: frame.items,
            stored_bytes: frame.stored_bytes,
            logical_bytes: frame.logical_bytes,
            agent: frame.agent,
            kind: frame.kind as u8,
        }
    }
}

/// One step of a tail, in a journal: its row is a sequence of them.
#[derive(Debug, Serialize, Deserialize)]
pub enum KeptTail {
    Chunk(KeptRaw),
    Item { chunk: u32, from: u32, len: u32, meta: (bool, u32, u32) },
}

/// What waits for pins to go, in a journal.
#[derive(Debug, Serialize, Deserialize)]
pub struct KeptWaiting {
    pub claims: Vec<Claim>,
    pub raw: Option<KeptRaw>,
    pub then: Then,
}

impl KeptWaiting {
    /// The row of `waiting`.
    pub fn of(waiting: &Waiting) -> Self {
        KeptWaiting {
            claims: waiting.claims.iter().collect(),
            raw: waiting.raw.as_ref().map(|raw| raw.kept()),
            then: waiting.then,
        }
    }
}

/// The row of a session.
pub fn session_record(session: &SessionEntry) -> Vec<u8> {
    let shape = session.arena.shape();
    encode(&SessionRecord {
        pid: session.pid,
        started: session.started,
        secret: session.secret,
        arena: session.kept_as.clone().unwrap_or_default(),
        cells: shape.cells as u64,
        data_bytes: shape.data_bytes as u64,
        claims: shape.claims as u64,
    })
}

/// The row of an agent that `session` speaks for.
pub fn agent_kept(agent: &AgentEntry, session: Option<u32>) -> Vec<u8> {
    encode(&KeptAgent { agent: agent_of(agent), pid: agent.pid, session, is_lasting: agent.is_lasting })
}

/// The row of a slot that is used, and for the `generation`th time.
pub fn slot_kept(smus: &Smus, slot: u32, generation: u64) -> Option<KeptSlot> {
    let smu = match smus.using(slot) {
        SlotUse::Free => return None,
        SlotUse::Alias(alias) => {
            let Alias { to, agent, claim } = **alias;
            return Some(KeptSlot::Alias { to, agent, claim, generation });
        }
        SlotUse::Smu(smu) => smu,
    };
    Some(KeptSlot::Smu(Box::new(KeptSmu {
        generation,
        id: smu.id.0,
        is_sealed: smu.is_sealed,
        logical_bytes: smu.logical_bytes,
        raw: smu.raw.as_ref().map(|raw| raw.kept()),
        packed: smu.packed,
        agent: smu.agent,
        kind: smu.kind as u8,
        importance: smu.importance,
        keep_hot: smu.keep_hot,
        claims: smu.claims.iter().collect(),
        names: smus.names_of(slot),
        waiting: smus.waiting_names(slot),
    })))
}

/// What `tail` got since this was asked last.
pub fn tail_kept(tail: &mut Tail) -> Vec<u8> {
    let mut row = Vec::new();
    // Each chunk just before what lies in it: the same row, whether in one step or in many.
    let mut known = tail.kept_chunks;
    let mut chunks_to = |row: &mut Vec<u8>, count: usize| {
        while known < count {
            row.extend(encode(&KeptTail::Chunk(tail.chunks[known].kept())));
            known += 1;
        }
    };
    for &RawItem { chunk, from, len, meta } in &tail.items[tail.kept_items..] {
        chunks_to(&mut row, chunk as usize + 1);
        let meta = (meta.is_value, meta.lead_bytes, meta.trail_bytes);
        row.extend(encode(&KeptTail::Item { chunk, from, len, meta }));
    }
    chunks_to(&mut row, tail.chunks.len());
    (tail.kept_chunks, tail.kept_items) = (tail.chunks.len(), tail.items.len());
    row
}

/// The row of a frame's index entries.
pub fn tags_row(tags: &[u32]) -> Vec<u8> {
    tags.iter().flat_map(|tag| tag.to_le_bytes()).collect()
}

/// The index entries in such a row.
pub fn tags_of(row: &[u8]) -> Vec<u32> {
    row.chunks_exact(4).map(|tag| u32::from_le_bytes(tag.try_into().expect("four bytes"))).collect()
}

/// The bytes of a record.
pub fn encode<T: Serialize>(record: &T) -> Vec<u8> {
    postcard::to_stdvec(record).expect("records of plain fields always encode")
}

fn agent_of(agent: &AgentEntry) -> AgentRecord {
    AgentRecord {
        name: agent.shared.name.to_string(),
        importance: agent.importance,
        state: agent.state as u8,
        quota_bytes: agent.shared.quota_bytes(),
        created_unix_ms: agent.created_unix_ms,
    }
}

/// The row of an agent.
pub fn agent_record(agent: &AgentEntry) -> Vec<u8> {
    encode(&agent_of(agent))
}

/// The row of a content.
pub fn smu_record(smu: &Smu) -> Vec<u8> {
    let (frame, item, is_parts) = match smu.packed {
        Packed::Item { frame, item } => (frame, item, false),
        Packed::Parts { first, count } => (first, count, true),
        Packed::No => unreachable!("only packed content is stored"),
    };
    let (kind, importance) = (smu.kind as u8, smu.importance);
    encode(&SmuRecord { id: smu.id.0, logical_bytes: smu.logical_bytes, frame, item, is_parts, kind, importance })
}

/// The row of a conversation.
pub fn conversation_record(conversation: &Conversation) -> Vec<u8> {
    encode(&ConversationRecord {
        agent: conversation.agent,
        name: conversation.shared.name.to_string(),
        head: conversation.head,
        len: conversation.len,
        logical_bytes: conversation.logical_bytes,
    })
}

/// The row of a node.
pub fn node_record(node: &Node) -> Vec<u8> {
    let run = match node.body {
        Body::Run { frame, first } => Some((frame, first)),
        Body::Tail(_) => None,
    };
    let &Node { parent, start, count, logical_bytes, agent, .. } = node;
    encode(&NodeRecord { parent, start, count, logical_bytes, agent, run })
}

/// The row of a frame.
pub fn frame_record(frame: &FrameEntry) -> Vec<u8> {
    encode(&FrameRecord {
        disk: frame.disk.expect("durable before it is named"),
        items: frame.items,
        logical_bytes: frame.logical_bytes,
        agent: frame.agent,
        kind: frame.kind as u8,
    })
}

/// The row of a raw message.
pub fn tail_row(meta: Meta, bytes: &[u8]) -> Vec<u8> {
    let mut row = encode(&(meta.is_value, meta.lead_bytes, meta.trail_bytes));
    row.extend_from_slice(bytes);
    row
}
