//! From the ring into tables: what an agent published becomes content and messages.

use crate::calls::store::check_name;
use crate::claims::{Claim, Claims};
use crate::engine::{Engine, State};
use crate::raw::Raw;
use crate::ring::{Cell, Operation};
use crate::smus::{Packed, SlotUse, Smu};
use crate::sync::Ordering;
use crate::tree::{Body, NONE, Node, RawItem, Tail};
use agentmem_core::frame::{ITEMS_MAX, Meta};
use agentmem_core::place::Place;
use agentmem_core::{ContentId, Kind, Result};
use std::sync::Arc;

/// A tail of this many bytes is full and gets packed: the most that reading one message decodes.
pub const TAIL_BYTES_MAX: u64 = 1 << 20;
const CHUNK_BYTES_MIN: usize = 4 << 10;
const CHUNK_BYTES_MAX: usize = 256 << 10;

/// How far [`Engine::ingest`] came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ingest {
    /// Everything is taken in.
    Empty,
    /// The limit was reached.
    More,
    /// The next operation needs this much more room.
    NoRoom {
        /// Bytes wanted.
        bytes: u64,
    },
    /// The slot table is full.
    NoSlot,
}

impl Engine {
    /// Takes in up to `limit` operations that `session` published, oldest first; with `beyond_budget` also
    /// those for which there is no room.
    pub fn ingest(&self, state: &mut State, session: u32, limit: usize, beyond_budget: bool) -> Ingest {
        let now_ms = self.now_ms();
        let Some(arena) = state.sessions.get_mut(session).map(|entry| entry.arena.clone()) else {
            return Ingest::Empty;
        };
        let ring = &arena.ring;
        let mut room = 0;
        for turn in 0..limit {
            let Some(found) = ring.peek() else { return Ingest::Empty };
            if turn == 0 {
                state.note(|fresh| fresh.rings.push(session));
                let room_bytes = self.budget_bytes().saturating_sub(self.planned_bytes(state));
                state.sessions.wake(session, room_bytes);
                room = self.budget_bytes() as i64 - self.planned_bytes(state) as i64;
            }
            let Ok((cell, bytes)) = found else {
                // The ring lies in the agent's memory: it lost its own put, nothing else.
                state.counters.reject_cell += 1;
                ring.skip();
                continue;
            };
            let logical_bytes = self.logical_bytes(session, &cell, bytes);
            if let Err(counter) = self.admit(state, session, &cell, logical_bytes) {
                // It hurts whoever published it: what a put came with is given out again with the cell.
                *counter += 1;
                self.refuse(state, session, &cell, logical_bytes);
                ring.advance(&cell);
                continue;
            }
            let takes_slot = matches!(cell.operation, Operation::Put { .. });
            if takes_slot && !state.has_free_handle(session) {
                return Ingest::NoSlot;
            }
            let needs = bytes.len() as i64 + 512;
            if needs > room && !beyond_budget && !matches!(cell.operation, Operation::Release { .. }) {
                return Ingest::NoRoom { bytes: needs as u64 };
            }
            let Ok(is_held) = self.take_in(state, session, &cell, bytes, now_ms) else {
                return Ingest::NoRoom { bytes: needs as u64 };
            };
            room -= needs;
            self.settle_charge(state, session, &cell, logical_bytes, is_held);
            if takes_slot {
                let given = state.take_handle(session).expect("checked above");
                self.slots.relocate(given.slot, Place::Fresh);
                state.sessions.get_mut(session).expect("found above").give(cell.cell, given);
                state.note(|fresh| fresh.given.push((session, cell.cell as u32)));
            }
            ring.advance(&cell);
        }
        Ingest::More
    }

    /// What the agent is charged for `cell`.
    fn logical_bytes(&self, session: u32, cell: &Cell, bytes: &[u8]) -> u64 {
        let left_bytes = |key| self.inbox.lock().get(&(session, key)).map_or(0, |raw| raw.len());
        let logical_bytes = match cell.operation {
            Operation::Put { key: 0, name_bytes, .. } => bytes.len() - usize::from(name_bytes),
            Operation::Append { key: 0, .. } => bytes.len(),
            Operation::Put { key, .. } | Operation::Append { key, .. } => left_bytes(key),
            Operation::Release { .. } => 0,
        };
        logical_bytes as u64
    }

    /// Whether `cell` is one that its session may publish, or else the counter of what is wrong.
    fn admit<'a>(
        &self,
        state: &'a mut State,
        session: u32,
        cell: &Cell,
        logical_bytes: u64,
    ) -> std::result::Result<(), &'a mut u64> {
        let Some(entry) = state.sessions.get(session) else { return Err(&mut state.counters.reject_cell) };
        if entry.is_embedded {
            return Ok(()); // it is code of ours that published it
        }
        let is_own = match cell.operation {
            Operation::Append { conversation, .. } => {
                state.conversations.get(&conversation).is_none_or(|found| found.agent == cell.agent)
            }
            _ => true,
        };
        if !is_own || !entry.speaks_for(cell.agent) {
            return Err(&mut state.counters.reject_cell);
        }
        if let Operation::Append { meta, .. } = cell.operation
            && u64::from(meta.lead_bytes) + u64::from(meta.trail_bytes) > logical_bytes
        {
            // Of a message that was left the ring does not know the length.
            return Err(&mut state.counters.reject_cell);
        }
        // A session compares with the quota before it puts. What it had put when the quota was lowered is kept.
        let grace_bytes = entry.arena.ring.capacity_bytes();
        let is_beyond = state.agents.get(cell.agent).is_some_and(|agent| {
            let quota_bytes = agent.shared.quota_bytes().unwrap_or(u64::MAX);
            agent.shared.used_bytes() + logical_bytes > quota_bytes.saturating_add(grace_bytes)
        });
        let is_beyond = is_beyond || state.quota.now.logical_bytes.is_some() && !entry.allowance.covers(logical_bytes);
        if is_beyond { Err(&mut state.counters.reject_quota) } else { Ok(()) }
    }

    /// What `cell` says does not happen: nothing that its session spent on it is kept back.
    fn refuse(&self, state: &mut State, session: u32, cell: &Cell, logical_bytes: u64) {
        if let Operation::Put { key, .. } | Operation::Append { key, .. } = cell.operation
            && key != 0
        {
            drop(self.collect_left(state, session, key));
        }
        state.use_aside(session, logical_bytes);
        if let Some(entry) = state.sessions.get(session) {
            // It has charged its agent, and asks anew when it hears of this.
            entry.arena.ring.notify();
        }
    }

    /// `cell` was taken in. Its agent holds `logical_bytes` more, or nothing where there was nowhere to put it.
    fn settle_charge(&self, state: &mut State, session: u32, cell: &Cell, logical_bytes: u64, is_held: bool) {
        let Some(entry) = state.sessions.get(session) else { return };
        // In the engine's own process it was charged when it was put.
        match (entry.is_embedded, is_held, state.agents.get(cell.agent)) {
            (true, false, Some(agent)) => agent.shared.uncharge(logical_bytes),
            (false, true, Some(agent)) => _ = agent.shared.charge_anyway(logical_bytes),
            (false, false, _) => entry.arena.ring.notify(),
            _ => {}
        }
        state.use_aside(session, logical_bytes);
    }

    /// Does what `cell` says; whether its agent holds what it carries from now on.
    fn take_in(&self, state: &mut State, session: u32, cell: &Cell, bytes: &[u8], now_ms: u64) -> Result<bool> {
        if let Some(agent) = state.agents.get_mut(cell.agent) {
            agent.active_ms = now_ms;
        }
        match cell.operation {
            Operation::Put { kind, importance, name_bytes, key } => {
                let (name, content) = bytes.split_at(name_bytes as usize);
                let raw = match key {
                    0 => Arc::new(Raw::Extent(self.hot_heap.store(content)?)),
                    // A key that was never left is a lie: the content is then empty.
                    key => match self.collect_left(state, session, key) {
                        Some(raw) => raw,
                        None => Arc::new(Raw::Extent(self.hot_heap.store(&[])?)),
                    },
                };
                let given = state.sessions.get_mut(session).expect("it is drained").given(cell.cell);
                let claim = Claim { session, index: given.claim };
                self.add_smu(state, cell.agent, given.slot, claim, (kind, importance), raw, now_ms);
                // A copy: what lies in the ring can change under our eyes.
                if let Ok(name) = String::from_utf8(name.to_vec())
                    && check_name(&name).is_ok()
                {
                    state.smus.name_later(&name, given.slot);
                    state.note(|fresh| fresh.slots.push(given.slot));
                }
            }
            Operation::Append { conversation, meta, key } => {
                let large = if key == 0 { None } else { self.collect_left(state, session, key) };
                let len = large.as_ref().map_or(bytes.len(), |raw| raw.len()) as u64;
                let is_held = self.append(state, conversation, bytes, large, meta, now_ms)?;
                // Handles in this process count by themselves.
                if state.sessions.get(session).is_some_and(|entry| !entry.is_embedded)
                    && let Some(found) = state.conversations.get(&conversation)
                {
                    found.shared.messages.fetch_add(1, Ordering::AcqRel);
                    found.shared.logical_bytes.fetch_add(len, Ordering::AcqRel);
                }
                return Ok(is_held);
            }
            Operation::Release { slot, generation } => self.release_slot(state, cell.agent, slot, generation),
        }
        Ok(true)
    }

    fn collect_left(&self, state: &mut State, session: u32, key: u64) -> Option<Arc<Raw>> {
        state.note(|fresh| fresh.inbox.push(key));
        self.inbox.lock().remove(&(session, key))
    }

    /// Makes the content in `raw` one that `agent` holds by `slot`, where `claim` pins it.
    #[expect(clippy::too_many_arguments, reason = "what a new SMU is made of")]
    pub fn add_smu(
        &self,
        state: &mut State,
        agent: u32,
        slot: u32,
        claim: Claim,
        (kind, importance): (Kind, u8),
        raw: Arc<Raw>,
        now_ms: u64,
    ) {
        if state.agents.get(agent).is_none() {
            // The agent was closed while the put was under way.
            self.retire_slot(state, slot, Claims::of(claim), None);
            return;
        }
        let place = raw.place();
        state.counters.put += 1;
        state.put_bytes[kind as usize] += raw.len() as u64;
        state.smus.set(
            slot,
            SlotUse::Smu(Box::new(Smu {
                id: ContentId([0; 32]),
                is_sealed: false,
                logical_bytes: raw.len() as u64,
                raw: Some(raw),
                packed: Packed::No,
                leases: 0,
                agents: 0,
                agent,
                used_ms: now_ms,
                uses_seen: 0,
                claims: Claims::of(claim),
                kind,
                importance,
                keep_hot: false,
                stays_raw: false,
                is_busy: false,
            })),
        );
        state.lease(agent, slot, 1);
        state.hot.insert(slot);
        state.unsealed.push_back(slot);
        self.slots.relocate(slot, place);
    }

    /// Adds one message to `conversation`; to none if it was released meanwhile, and then returns so.
    fn append(
        &self,
        state: &mut State,
        conversation: u32,
        bytes: &[u8],
        large: Option<Arc<Raw>>,
        meta: Meta,
        now_ms: u64,
    ) -> Result<bool> {
        let Some(found) = state.conversations.get(&conversation) else { return Ok(false) };
        let (agent, len, mut head) = (found.agent, found.len, found.head);
        let message_bytes = large.as_ref().map_or(bytes.len(), |raw| raw.len()) as u64;
        let grows = head != NONE && {
            let node = state.tree.node(head);
            node.can_grow(len - node.start)
        };
        if !grows {
            let node = Node::new(head, len, 0, 0, agent, Body::Tail(Box::default()));
            head = state.tree.insert(node);
            state.tree.refer(head, 0);
        }
        let node = state.tree.node_mut(head);
        let Body::Tail(tail) = &mut node.body else { unreachable!("only tails grow") };
        // What fails here leaves a node without the message, which is as good as before.
        let added = self.add_to_tail(tail, node.logical_bytes, bytes, large, meta);
        if added.is_ok() {
            node.count += 1;
            node.logical_bytes += message_bytes;
            node.used_ms = now_ms;
            if node.logical_bytes >= TAIL_BYTES_MAX || node.count as usize == ITEMS_MAX {
                tail.is_sealed = true;
                state.full_tails.push_back(head);
            }
            state.tails.insert(head);
            state.tail_bytes += message_bytes;
            state.counters.append += 1;
            state.put_bytes[Kind::Message as usize] += message_bytes;
        }
        let found = state.conversations.get_mut(&conversation).expect("found above");
        found.head = head;
        if added.is_ok() {
            found.len += 1;
            found.logical_bytes += message_bytes;
        }
        state.mark_conversation(conversation);
        state.mark_node(head);
        added.map(|()| true)
    }

    fn add_to_tail(
        &self,
        tail: &mut Tail,
        tail_bytes: u64,
        bytes: &[u8],
        large: Option<Arc<Raw>>,
        meta: Meta,
    ) -> Result<()> {
        let len = large.as_ref().map_or(bytes.len(), |raw| raw.len());
        if let Some(raw) = large {
            tail.chunks.push(raw);
            tail.filled = len;
        } else {
            let fits = match tail.chunks.last().map(|chunk| &**chunk) {
                Some(Raw::Extent(extent)) => tail.filled + len <= extent.len_bytes(),
                _ => false,
            };
            if !fits {
                // Chunks grow with the tail, so that a short one wastes little.
                let room = (tail_bytes as usize / 2).clamp(CHUNK_BYTES_MIN, CHUNK_BYTES_MAX).max(len);
                tail.chunks.push(Arc::new(Raw::Extent(self.hot_heap.alloc(room)?)));
                tail.filled = 0;
            }
            if let Some(Raw::Extent(extent)) = tail.chunks.last().map(|chunk| &**chunk) {
                extent.write(tail.filled, bytes);
            }
            tail.filled += len;
        }
        tail.items.push(RawItem {
            chunk: tail.chunks.len() as u32 - 1,
            from: (tail.filled - len) as u32,
            len: len as u32,
            meta,
        });
        Ok(())
    }
}
