//! Rows of the index, as they are encoded.

use crate::agents::AgentEntry;
use crate::cold::DiskPlace;
use crate::engine::Conversation;
use crate::frames::FrameEntry;
use crate::smus::{Packed, Smu};
use crate::tree::{Body, Node};
use agentmem_core::frame::Meta;
use serde::{Deserialize, Serialize};

/// An agent.
#[derive(Serialize, Deserialize)]
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

fn encode<T: Serialize>(record: &T) -> Vec<u8> {
    postcard::to_stdvec(record).expect("records of plain fields always encode")
}

/// The row of an agent.
pub fn agent_record(agent: &AgentEntry) -> Vec<u8> {
    encode(&AgentRecord {
        name: agent.shared.name.to_string(),
        importance: agent.importance,
        state: agent.state as u8,
        quota_bytes: agent.shared.quota_bytes(),
        created_unix_ms: agent.created_unix_ms,
    })
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
