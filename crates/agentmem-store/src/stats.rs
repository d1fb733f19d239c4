//! Figures: what there is, where it is, and what it would have cost.

use crate::engine::{Engine, State};
use crate::smus::Packed;
use crate::sys;
use agentmem_core::{AgentState, Backend, Error, ErrorKind, Kind, Result, Tier};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// Figures of one kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KindStats {
    /// Contents or messages held.
    pub count: u64,
    /// What agents believe they hold.
    pub logical_bytes: u64,
    /// After sharing and codec.
    pub stored_bytes: u64,
    /// Put since the store was opened.
    pub put_bytes: u64,
    /// Of these, what was there already.
    pub duplicate_bytes: u64,
}

/// Figures of the whole store, in bytes unless the name says otherwise.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Stats {
    /// Registered agents.
    pub agents: u64,
    /// Distinct contents with slots.
    pub smus: u64,
    /// Conversations.
    pub conversations: u64,
    /// Messages in them, each conversation counting its own.
    pub messages: u64,
    /// Frames.
    pub frames: u64,
    /// What agents believe they hold.
    pub logical_bytes: u64,
    /// After sharing and codec.
    pub stored_bytes: u64,
    /// RAM that the engine takes, everything included.
    pub resident_bytes: u64,
    /// Of that, what the kernel module holds, raw and compressed, as far as it was looked at.
    pub module_bytes: u64,
    /// Raw and resident.
    pub hot_bytes: u64,
    /// Compressed and resident.
    pub warm_bytes: u64,
    /// Frames on SSD.
    pub cold_bytes: u64,
    /// Disk blocks of the cold tier's files.
    pub disk_bytes: u64,
    /// Disk space of records that no index named when the store was opened, given back then.
    pub orphan_bytes: u64,
    /// The engine's tables.
    pub table_bytes: u64,
    /// The ingest arena.
    pub arena_bytes: u64,
    /// Held by two agents or more, each content once.
    pub shared_bytes: u64,
    /// Raw bytes that pins keep where they are.
    pub pinned_bytes: u64,
    /// By kind, in the order of `Kind::ALL`.
    pub by_kind: [KindStats; 4],
    /// Bytes in each tier, fastest first, by kind as above. What is in two tiers counts in both.
    pub tier_bytes: [[u64; 4]; 3],
    /// Agents that are active, idle and paused, and those that nobody has taken up.
    pub agent_states: [u64; 4],
    /// Sessions.
    pub sessions: u64,
    /// Contents and tails that are hot, frames that are in RAM, frames that are on SSD only.
    pub tier_counts: [u64; 3],
    /// Counters.
    pub counters: Vec<(Cow<'static, str>, u64)>,
    /// Name of the policy.
    pub policy: String,
    /// What holds sealed SMUs of a page or more: "user" or "kernel".
    pub backend: String,
}

/// Figures of one agent.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AgentStats {
    /// Its name.
    pub name: String,
    /// Its process; 0 while nobody has taken it up.
    pub pid: u32,
    /// What it is doing.
    pub state: AgentState,
    /// 0 to 100.
    pub importance: u8,
    /// Most logical bytes it may hold.
    pub quota_bytes: Option<u64>,
    /// When it was registered, in Unix milliseconds.
    pub created_unix_ms: u64,
    /// When it last did anything, in Unix milliseconds.
    pub active_unix_ms: u64,
    /// Contents it holds.
    pub smus: u64,
    /// Its conversations.
    pub conversations: u64,
    /// Messages in them.
    pub messages: u64,
    /// What it is charged for.
    pub logical_bytes: u64,
    /// Of the contents it holds, raw and resident bytes.
    pub hot_bytes: u64,
    /// Stored bytes of the contents it holds, shared ones in full.
    pub stored_bytes: u64,
    /// Logical bytes of contents that another agent holds too.
    pub shared_bytes: u64,
}

impl KindStats {
    /// Every figure with its name, as all languages have it.
    pub fn figures(&self) -> [(&'static str, u64); 5] {
        [
            ("count", self.count),
            ("logical_bytes", self.logical_bytes),
            ("stored_bytes", self.stored_bytes),
            ("put_bytes", self.put_bytes),
            ("duplicate_bytes", self.duplicate_bytes),
        ]
    }
}

impl Stats {
    /// Every plain figure with its name, as all languages have it.
    pub fn figures(&self) -> [(&'static str, u64); 19] {
        [
            ("agents", self.agents),
            ("smus", self.smus),
            ("conversations", self.conversations),
            ("messages", self.messages),
            ("frames", self.frames),
            ("logical_bytes", self.logical_bytes),
            ("stored_bytes", self.stored_bytes),
            ("resident_bytes", self.resident_bytes),
            ("module_bytes", self.module_bytes),
            ("hot_bytes", self.hot_bytes),
            ("warm_bytes", self.warm_bytes),
            ("cold_bytes", self.cold_bytes),
            ("disk_bytes", self.disk_bytes),
            ("orphan_bytes", self.orphan_bytes),
            ("table_bytes", self.table_bytes),
            ("arena_bytes", self.arena_bytes),
            ("shared_bytes", self.shared_bytes),
            ("saved_bytes", self.logical_bytes.saturating_sub(self.stored_bytes)),
            ("pinned_bytes", self.pinned_bytes),
        ]
    }

    /// Count and bytes of what is in each tier that a store has, fastest first.
    pub fn by_tier(&self) -> [(Tier, u64, u64); 3] {
        let [hot, warm, cold] = self.tier_counts;
        [(Tier::Hot, hot, self.hot_bytes), (Tier::Warm, warm, self.warm_bytes), (Tier::Cold, cold, self.cold_bytes)]
    }
}

impl State {
    /// Stored bytes of the content in `slot`: its share of a frame, or its raw length.
    pub fn stored_bytes(&self, slot: u32) -> u64 {
        let Some(smu) = self.smus.get(slot) else { return 0 };
        match smu.packed {
            Packed::No => smu.raw.as_ref().map_or(smu.logical_bytes, |raw| raw.stored_bytes()),
            Packed::Item { frame, .. } => self.frames.get(frame).map_or(0, |entry| {
                let share = smu.logical_bytes as u128 * u128::from(entry.stored_bytes);
                (share / u128::from(entry.logical_bytes.max(1))) as u64
            }),
            Packed::Parts { first, count } => {
                let parts = (first..first + count).filter_map(|number| self.frames.get(number));
                parts.map(|entry| u64::from(entry.stored_bytes)).sum()
            }
        }
    }

    /// Stored bytes of the frames of a conversation, shared ones in full, and of its raw tail.
    pub fn conversation_stored_bytes(&self, number: u32) -> Result<u64> {
        let (frames, tail_bytes) = self.conversation_frames(number)?;
        let frames = frames.into_iter().filter_map(|frame| self.frames.get(frame));
        Ok(tail_bytes + frames.map(|entry| u64::from(entry.stored_bytes)).sum::<u64>())
    }

    /// The frames of a conversation, each once, and the bytes of its raw tail.
    pub fn conversation_frames(&self, number: u32) -> Result<(Vec<u32>, u64)> {
        let conversation = self.conversations.get(&number);
        let conversation =
            conversation.ok_or_else(|| Error::new(ErrorKind::Released, format!("conversation {number}")))?;
        let mut frames: Vec<u32> = Vec::new();
        let mut tail_bytes = 0;
        for (_, node) in self.tree.chain(conversation.head) {
            match node.body {
                crate::tree::Body::Run { frame, .. } => frames.push(frame),
                crate::tree::Body::Tail(_) => tail_bytes += node.logical_bytes,
            }
        }
        frames.sort_unstable();
        frames.dedup();
        Ok((frames, tail_bytes))
    }
}

impl Engine {
    /// Figures of the whole store.
    pub fn stats(&self) -> Stats {
        // So that what is shared is counted as shared; what cannot be sealed is counted as it is.
        let _ = self.seal_all();
        let state = self.lock();
        let mut by_kind = [KindStats::default(); 4];
        let mut shared_bytes = 0;
        let mut tier_bytes = [[0; 4]; 3];
        let mut pinned_bytes = 0;
        let mut squeezed = 0;
        for (_, smu) in state.smus.iter() {
            let kind = &mut by_kind[smu.kind as usize];
            kind.count += 1;
            kind.logical_bytes += smu.logical_bytes * u64::from(smu.leases);
            let raw_bytes = smu.raw.as_ref().map_or(smu.logical_bytes, |raw| raw.stored_bytes());
            if smu.packed == Packed::No {
                kind.stored_bytes += raw_bytes;
            }
            if smu.is_hot() {
                tier_bytes[0][smu.kind as usize] += smu.logical_bytes;
            } else if smu.is_squeezed() {
                tier_bytes[1][smu.kind as usize] += raw_bytes;
                squeezed += 1;
            }
            pinned_bytes += if state.sessions.is_pinned(&smu.claims) { smu.logical_bytes } else { 0 };
            shared_bytes += if smu.agents > 1 { smu.logical_bytes } else { 0 };
        }
        tier_bytes[0][Kind::Message as usize] += state.tail_bytes;
        let (mut warm_count, mut cold_only) = (0, 0);
        for (_, entry) in state.frames.iter() {
            let stored = u64::from(entry.stored_bytes);
            by_kind[entry.kind as usize].stored_bytes += stored;
            if let Some(extent) = &entry.stored {
                tier_bytes[1][entry.kind as usize] += extent.len_bytes() as u64;
                warm_count += 1;
            } else {
                cold_only += 1;
            }
            tier_bytes[2][entry.kind as usize] += entry.disk.map_or(0, |place| u64::from(place.len));
            shared_bytes += if entry.refs.len() > 1 && entry.kind == Kind::Message { entry.logical_bytes } else { 0 };
        }
        let messages = &mut by_kind[Kind::Message as usize];
        messages.count += state.conversations.values().map(|c| u64::from(c.len)).sum::<u64>();
        messages.logical_bytes += state.conversations.values().map(|c| c.logical_bytes).sum::<u64>();
        messages.stored_bytes += state.tail_bytes;
        for (kind, figures) in by_kind.iter_mut().enumerate() {
            figures.put_bytes = state.put_bytes[kind];
            figures.duplicate_bytes = state.duplicate_bytes[kind];
        }
        let [hot_bytes, warm_bytes, cold_bytes] = tier_bytes.map(|kinds| kinds.iter().sum());
        let mut agent_states = [0; 4];
        for agent in state.agents.iter() {
            agent_states[if agent.pid == 0 { 3 } else { agent.state as usize }] += 1;
        }
        let raw_of = |waiting: &crate::lifetime::Waiting| waiting.raw.as_ref().map_or(0, |raw| raw.len() as u64);
        Stats {
            agents: state.agents.len() as u64,
            smus: state.smus.len() as u64,
            conversations: state.conversations.len() as u64,
            messages: state.conversations.values().map(|c| u64::from(c.len)).sum(),
            frames: state.frames.len() as u64,
            logical_bytes: by_kind.iter().map(|kind| kind.logical_bytes).sum(),
            stored_bytes: by_kind.iter().map(|kind| kind.stored_bytes).sum(),
            resident_bytes: self.resident_bytes(&state),
            module_bytes: self.module_bytes(),
            hot_bytes,
            warm_bytes,
            cold_bytes,
            disk_bytes: self.cold.as_ref().map_or(0, crate::cold::Cold::disk_bytes),
            orphan_bytes: state.orphan_bytes,
            table_bytes: self.table_bytes(&state),
            arena_bytes: state.sessions.resident_bytes(),
            shared_bytes,
            pinned_bytes: pinned_bytes + state.limbo.iter().map(raw_of).sum::<u64>(),
            by_kind,
            tier_bytes,
            agent_states,
            sessions: state.sessions.len() as u64,
            tier_counts: [(state.hot.len() + state.tails.len()) as u64 - squeezed, warm_count + squeezed, cold_only],
            counters: state.counters.entries(),
            policy: self.policy_name.clone(),
            backend: if self.module.is_some() { Backend::Kernel } else { Backend::User }.as_str().to_owned(),
        }
    }

    /// Figures of agent `number`.
    pub fn agent_stats(&self, number: u32) -> Result<AgentStats> {
        // As for the whole store: equal puts count as one.
        let _ = self.seal_all();
        let mut state = self.lock();
        let now_ms = self.now_ms();
        let state = &mut *state;
        let agent = state.agents.open_mut(number)?;
        let mut stats = AgentStats {
            name: agent.shared.name.to_string(),
            pid: agent.pid,
            state: agent.state,
            importance: agent.importance,
            quota_bytes: agent.shared.quota_bytes(),
            created_unix_ms: agent.created_unix_ms,
            // Two clocks, each rounded down: it would seem to have done something before it was there.
            active_unix_ms: (sys::unix_ms() - now_ms.saturating_sub(agent.active_ms)).max(agent.created_unix_ms),
            smus: agent.leases.len() as u64,
            conversations: agent.conversations.len() as u64,
            messages: 0,
            logical_bytes: agent.shared.used_bytes(),
            hot_bytes: 0,
            stored_bytes: 0,
            shared_bytes: 0,
        };
        let slots: Vec<u32> = agent.leases.keys().copied().collect();
        let conversations: Vec<u32> = agent.conversations.values().copied().collect();
        for slot in slots {
            let Some(smu) = state.smus.get(slot) else { continue };
            stats.hot_bytes += if smu.is_hot() { smu.logical_bytes } else { 0 };
            stats.shared_bytes += if smu.agents > 1 { smu.logical_bytes } else { 0 };
            stats.stored_bytes += state.stored_bytes(slot);
        }
        for number in conversations {
            stats.stored_bytes += state.conversation_stored_bytes(number)?;
            stats.messages += state.conversations.get(&number).map_or(0, |c| u64::from(c.len));
        }
        Ok(stats)
    }
}
