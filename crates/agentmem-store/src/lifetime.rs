//! Leases, and what goes when the last of them goes.

use crate::claims::{Claim, Claims};
use crate::engine::{Engine, State};
use crate::frames::Ref;
use crate::raw::Raw;
use crate::ring::Given;
use crate::slots::SLOTS_MAX;
use crate::smus::{Packed, SlotUse};
use crate::tree::{Body, NONE, Node};
use agentmem_core::place::Place;
use agentmem_core::{Error, ErrorKind, Result};
use std::sync::Arc;

/// What waits for pins to go.
#[derive(Debug)]
pub struct Waiting {
    /// Which of all that ever waited; nothing before it had to.
    pub number: u64,
    /// Who may hold them.
    pub claims: Claims,
    /// Bytes that they may still see.
    pub raw: Option<Arc<Raw>>,
    /// What happens then.
    pub then: Then,
}

/// What happens when pins are gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Then {
    /// The bytes go, and that is all.
    Nothing,
    /// The slot and the claims may be given out again.
    GiveBack { slot: u32 },
    /// The same, and the claim is one of those of the content in `of` no more, if that still is there.
    GiveBackAlias { slot: u32, of: u32, generation: u64 },
}

impl State {
    /// Whether [`Self::take_handle`] would succeed.
    pub fn has_free_handle(&mut self, session: u32) -> bool {
        self.smus.has_free_slot() && self.sessions.get_mut(session).is_some_and(|entry| entry.has_free_claim())
    }

    /// A slot and a claim for what `session` puts next.
    pub fn take_handle(&mut self, session: u32) -> Result<Given> {
        let slot = self.smus.take_slot()?;
        let gone = || Error::new(ErrorKind::Closed, "this session");
        let claim = self.sessions.get_mut(session).ok_or_else(gone).and_then(|entry| entry.take_claim());
        match claim {
            Ok(claim) => Ok(Given { slot, claim }),
            Err(error) => {
                self.smus.give_back(slot);
                Err(error)
            }
        }
    }

    /// What `session` pins the content in `slot` with.
    pub fn claim_on(&mut self, session: u32, slot: u32) -> Result<u32> {
        let smu = self.smus.get_mut(slot).ok_or_else(|| Error::new(ErrorKind::Released, format!("slot {slot}")))?;
        if let Some(claim) = smu.claims.of_session(session) {
            return Ok(claim.index);
        }
        let entry = self.sessions.get_mut(session).ok_or_else(|| Error::new(ErrorKind::Closed, "this session"))?;
        let claim = Claim { session, index: entry.take_claim()? };
        smu.claims.add(claim);
        self.note(|fresh| fresh.slots.push(slot));
        Ok(claim.index)
    }

    /// Nobody pins it any more.
    fn let_go(&mut self, waiting: Waiting, generation_of: impl Fn(u32) -> u64) {
        if waiting.number != 0 {
            self.note(|fresh| fresh.limbo.push(waiting.number));
        }
        let claims = waiting.claims.iter();
        match waiting.then {
            Then::Nothing => {}
            Then::GiveBack { slot } => {
                claims.for_each(|claim| self.sessions.free_claim(claim));
                self.smus.give_back(slot);
            }
            Then::GiveBackAlias { slot, of, generation } => {
                // Content that went took its claims along.
                if generation_of(of) == generation
                    && let Some(smu) = self.smus.get_mut(of)
                {
                    for claim in claims {
                        smu.claims.remove(claim);
                        self.sessions.free_claim(claim);
                    }
                    self.note(|fresh| fresh.slots.push(of));
                }
                self.smus.give_back(slot);
            }
        }
    }

    /// Gives `agent` `count` references on the content in `slot`.
    pub fn lease(&mut self, agent: u32, slot: u32, count: u32) {
        let is_first = self.agents.lease(agent, slot, count);
        if let Some(smu) = self.smus.get_mut(slot) {
            smu.leases += count;
            smu.agents += u32::from(is_first);
            smu.agent = agent;
        }
        self.mark_slot(slot);
        self.mark_lease(agent, slot);
    }

    /// Items of `frame` that somebody refers to.
    fn alive_items(&self, frame: u32) -> u32 {
        let Some(entry) = self.frames.get(frame) else { return 0 };
        let mut ranges: Vec<(u32, u32)> = entry.refs.iter().filter_map(|&r| self.items_of(frame, r)).collect();
        ranges.sort_unstable();
        let mut end = 0;
        ranges.into_iter().fold(0, |alive, (from, to)| {
            let from = from.max(end);
            end = end.max(to);
            alive + to.saturating_sub(from)
        })
    }

    /// The items `from..to` of `frame` that `reference` uses.
    pub fn items_of(&self, frame: u32, reference: Ref) -> Option<(u32, u32)> {
        match reference {
            Ref::Node(number) => {
                let node = self.tree.get(number)?;
                match node.body {
                    Body::Run { frame: of, first } if of == frame => Some((first, first + node.visible())),
                    _ => None,
                }
            }
            Ref::Smu(slot) => match self.smus.get(slot)?.packed {
                Packed::Item { frame: of, item } if of == frame => Some((item, item + 1)),
                Packed::Parts { first, count } if (first..first + count).contains(&frame) => Some((0, 1)),
                _ => None,
            },
        }
    }

    /// Looks again at how much of `frame` is alive: drops it, or notes that it is worth rewriting.
    pub fn reassess(&mut self, frame: u32) {
        let Some(entry) = self.frames.get(frame) else { return };
        let items = entry.items;
        let alive = self.alive_items(frame);
        if alive == 0 {
            let entry = self.frames.remove(frame).expect("just seen");
            self.dead_on_disk.extend(entry.disk);
            self.warm.remove(frame);
            self.sparse.remove(&frame);
            self.damaged.remove(&frame);
            self.decoded.retain(|(number, _)| *number != frame);
            self.mark_frame(frame);
        } else if alive * 4 < items * 3 {
            self.sparse.insert(frame);
        }
    }

    /// Takes `reference` off `frame`.
    pub fn unref_frame(&mut self, frame: u32, reference: Ref) {
        if let Some(entry) = self.frames.get_mut(frame) {
            if let Some(at) = entry.refs.iter().position(|&other| other == reference) {
                entry.refs.swap_remove(at);
            }
            self.reassess(frame);
        }
    }

    /// Takes the packed form of the SMU that was in `slot` away.
    pub fn unref_packed_of(&mut self, slot: u32, packed: Packed) {
        packed.frames().for_each(|frame| self.unref_frame(frame, Ref::Smu(slot)));
    }

    /// A node died: what it held goes.
    fn bury_node(&mut self, number: u32, node: Node) {
        match node.body {
            Body::Run { frame, .. } => self.unref_frame(frame, Ref::Node(number)),
            Body::Tail(_) => {
                self.tails.remove(number);
                self.tail_bytes -= node.logical_bytes;
            }
        }
        self.mark_node(number);
    }

    /// Takes one reference to a node back.
    pub fn unrefer_node(&mut self, number: u32, visible: u32) {
        let (dead, shrunk) = self.tree.unrefer(number, visible);
        for (number, node) in dead {
            self.bury_node(number, node);
        }
        if let Some(number) = shrunk
            && let Body::Run { frame, .. } = self.tree.node(number).body
        {
            self.reassess(frame);
        }
    }

    /// Ends a conversation; returns the bytes its agent was charged for it.
    pub fn drop_conversation(&mut self, number: u32) -> u64 {
        let Some(conversation) = self.conversations.remove(&number) else { return 0 };
        if let Some(agent) = self.agents.get_mut(conversation.agent) {
            agent.conversations.remove(&conversation.shared.name);
        }
        if conversation.head != NONE {
            let start = self.tree.node(conversation.head).start;
            self.unrefer_node(conversation.head, conversation.len - start);
        }
        self.mark_conversation(number);
        conversation.logical_bytes
    }
}

impl Engine {
    /// One reference of `agent`, whose handle names `slot` in `generation`, is given back.
    pub fn release_slot(&self, state: &mut State, agent: u32, slot: u32, generation: u64) {
        if slot as usize >= SLOTS_MAX || self.slots.generation(slot) != generation {
            return; // it went by another handle
        }
        match state.smus.using(slot) {
            SlotUse::Alias(alias) if alias.agent == agent => {
                let to = alias.to;
                self.retire_alias(state, agent, slot);
                self.unlease(state, agent, to, 1);
            }
            SlotUse::Smu(_) => {
                // References that are left belong to aliases first: one too many would forward to
                // what is somebody else's by then. Aliases go before what they are aliases of.
                let Some(entry) = state.agents.get(agent) else { return };
                let left = entry.leases.get(&slot).copied().unwrap_or(0).saturating_sub(1) as usize;
                let here =
                    |other: &&u32| matches!(state.smus.using(**other), SlotUse::Alias(alias) if alias.to == slot);
                let aliases: Vec<u32> = entry.aliases.iter().filter(here).copied().collect();
                for &alias in aliases.iter().skip(left) {
                    self.retire_alias(state, agent, alias);
                }
                self.unlease(state, agent, slot, 1);
            }
            // Somebody else's, or nothing: a lie that hurts nobody.
            _ => {}
        }
    }

    /// `alias`, a slot of `agent`, is used no more.
    pub fn retire_alias(&self, state: &mut State, agent: u32, alias: u32) {
        if let Some(entry) = state.agents.get_mut(agent) {
            entry.aliases.remove(&alias);
        }
        state.note(|fresh| fresh.slots.push(alias));
        let SlotUse::Alias(was) = state.smus.clear(alias) else { return };
        let then = Then::GiveBackAlias { slot: alias, of: was.to, generation: self.slots.generation(was.to) };
        self.slots.retire(alias);
        self.slots.relocate(alias, Place::Gone);
        self.wait_for_pins(state, Waiting { number: 0, claims: Claims::of(was.claim), raw: None, then });
    }

    /// Takes `count` references back, and the content with the last of them.
    pub fn unlease(&self, state: &mut State, agent: u32, slot: u32, count: u32) {
        let (taken, was_last) = state.agents.unlease(agent, slot, count);
        if let (Some(entry), Some(smu)) = (state.agents.get(agent), state.smus.get(slot)) {
            entry.shared.uncharge(smu.logical_bytes * u64::from(taken));
        }
        state.mark_slot(slot);
        state.mark_lease(agent, slot);
        let Some(smu) = state.smus.get_mut(slot) else { return };
        smu.leases -= taken;
        smu.agents -= u32::from(was_last);
        if smu.leases > 0 {
            return;
        }
        for name in state.smus.names_of(slot) {
            state.mark_name(&name);
        }
        let SlotUse::Smu(smu) = state.smus.clear(slot) else { unreachable!("just seen") };
        state.hot.remove(slot);
        // The packed form names the slot, so it goes before the slot can be given out again.
        state.unref_packed_of(slot, smu.packed);
        self.retire_slot(state, slot, smu.claims, smu.raw);
    }

    /// `slot` is used no more; it, `claims` and `raw` go once nobody pins them.
    pub fn retire_slot(&self, state: &mut State, slot: u32, claims: Claims, raw: Option<Arc<Raw>>) {
        self.slots.retire(slot);
        self.slots.relocate(slot, Place::Gone);
        self.wait_for_pins(state, Waiting { number: 0, claims, raw, then: Then::GiveBack { slot } });
    }

    /// The raw bytes of `slot`, which `claims` may pin, are not needed by the engine any more: it is at
    /// `place` now.
    pub fn drop_raw(&self, state: &mut State, slot: u32, claims: Claims, place: Place, raw: Option<Arc<Raw>>) {
        state.hot.remove(slot);
        state.note(|fresh| fresh.slots.push(slot));
        self.slots.relocate(slot, place);
        if raw.is_some() {
            self.wait_for_pins(state, Waiting { number: 0, claims, raw, then: Then::Nothing });
        }
    }

    fn wait_for_pins(&self, state: &mut State, mut waiting: Waiting) {
        if state.sessions.is_pinned(&waiting.claims) {
            if waiting.number == 0 {
                state.waited += 1;
                waiting.number = state.waited;
                let number = waiting.number;
                state.note(|fresh| fresh.limbo.push(number));
            }
            state.limbo.push(waiting);
        } else {
            state.let_go(waiting, |slot| self.slots.generation(slot));
        }
    }

    /// Lets go of what pins kept; returns whether anything went.
    pub fn empty_limbo(&self, state: &mut State) -> bool {
        let waiting = std::mem::take(&mut state.limbo);
        let before = waiting.len();
        waiting.into_iter().for_each(|waiting| self.wait_for_pins(state, waiting));
        state.limbo.len() < before
    }

    /// Takes back everything that an agent holds, and forgets it.
    pub fn reap(&self, state: &mut State, number: u32) -> Result<()> {
        let agent = state.agents.open_mut(number)?;
        agent.shared.close();
        let conversations: Vec<u32> = agent.conversations.values().copied().collect();
        let aliases: Vec<u32> = agent.aliases.drain().collect();
        let leases: Vec<(u32, u32)> = agent.leases.iter().map(|(&slot, &count)| (slot, count)).collect();
        for conversation in conversations {
            if let Some(found) = state.conversations.get(&conversation) {
                found.shared.is_released.store(true, crate::sync::Ordering::Release);
            }
            state.drop_conversation(conversation);
        }
        for alias in aliases {
            self.retire_alias(state, number, alias);
        }
        for (slot, count) in leases {
            self.unlease(state, number, slot, count);
        }
        state.agents.remove(number);
        state.forget_grants_of(number);
        state.mark_agent(number);
        Ok(())
    }

    /// Fails unless `slot` holds content.
    pub fn check_live(state: &State, slot: u32) -> Result<()> {
        match state.smus.get(slot) {
            Some(_) => Ok(()),
            None => Err(Error::new(ErrorKind::Released, format!("the SMU in slot {slot}"))),
        }
    }
}
