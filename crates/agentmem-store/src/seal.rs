//! Sealing: content gets its id, and content that was there already becomes one.

use crate::engine::{Engine, State};
use crate::raw::Raw;
use crate::smus::{Alias, SlotUse};
use agentmem_core::place::Place;
use agentmem_core::{ContentId, ErrorKind, Result};
use std::sync::Arc;

/// Bytes hashed between two looks at the lock.
const BATCH_BYTES: usize = 4 << 20;
const BATCH_SMUS: usize = 128;

impl Engine {
    /// Hashes some of what was put and not sealed yet; returns whether there was any.
    pub fn seal_some(&self) -> bool {
        // Only what is sealed can be demoted.
        let _demoting = self.demoting();
        let mut batch: Vec<(u32, Arc<Raw>)> = Vec::new();
        {
            let mut state = self.lock();
            let mut bytes = 0;
            while bytes < BATCH_BYTES && batch.len() < BATCH_SMUS {
                let Some(slot) = state.unsealed.pop_front() else { break };
                // Released, shared or sealed by whoever asked for its id: nothing to do.
                if let Some(smu) = state.smus.get(slot)
                    && !smu.is_sealed
                    && let Some(raw) = &smu.raw
                {
                    bytes += raw.len();
                    batch.push((slot, raw.clone()));
                }
            }
        }
        if batch.is_empty() {
            return false;
        }
        let ids: Vec<ContentId> = batch.iter().map(|(_, raw)| ContentId::of(&self.key, raw.bytes())).collect();
        let slots: Vec<u32> = batch.iter().map(|(slot, _)| *slot).collect();
        let mut state = self.lock();
        for ((slot, raw), id) in batch.into_iter().zip(ids) {
            self.commit_seal(&mut state, slot, &raw, id);
        }
        drop(state);
        self.hold(&slots);
        true
    }

    /// Seals everything that was published before the call.
    pub fn seal_all(&self) -> Result<()> {
        self.drain()?;
        while self.seal_some() {}
        // Another thread may be hashing a batch that it took; its slots are not in the queue.
        loop {
            let state = self.lock();
            let waiting: Vec<u32> =
                state.hot.iter().filter(|&slot| state.smus.get(slot).is_some_and(|smu| !smu.is_sealed)).collect();
            drop(state);
            if waiting.is_empty() {
                return Ok(());
            }
            for slot in waiting {
                match self.seal_slot(slot) {
                    // It went meanwhile, which is as good.
                    Err(error) if error.kind() == ErrorKind::Released => {}
                    outcome => drop(outcome?),
                }
            }
        }
    }

    /// Seals the content whose handle is `slot`, and returns the slot that holds it.
    pub fn seal_slot(&self, slot: u32) -> Result<u32> {
        let raw = {
            let state = &mut *self.settled();
            let holder = state.smus.resolve(slot);
            Self::check_live(state, holder)?;
            let smu = state.smus.get_mut(holder).expect("checked");
            if smu.is_sealed {
                return Ok(holder);
            }
            smu.raw.clone().expect("content stays hot until it is sealed")
        };
        let id = ContentId::of(&self.key, raw.bytes());
        self.commit_seal(&mut self.lock(), slot, &raw, id);
        drop(raw);
        self.hold(&[slot]);
        let state = self.lock();
        let holder = state.smus.resolve(slot);
        Self::check_live(&state, holder)?;
        Ok(holder)
    }

    fn commit_seal(&self, state: &mut State, slot: u32, raw: &Arc<Raw>, id: ContentId) {
        let holder = state.smus.find(&id);
        let Some(smu) = state.smus.get_mut(slot) else { return };
        if smu.is_sealed || !smu.raw_is(raw) {
            return;
        }
        let names = state.smus.take_waiting(slot);
        let named = holder.unwrap_or(slot);
        let Some(holder) = holder else {
            let smu = state.smus.get_mut(slot).expect("just seen");
            smu.id = id;
            smu.is_sealed = true;
            state.smus.index(slot);
            state.mark_slot(slot);
            state.give_names(names, named);
            return;
        };
        let SlotUse::Smu(smu) = state.smus.clear(slot) else { unreachable!("just seen") };
        state.counters.put_shared += 1;
        state.duplicate_bytes[smu.kind as usize] += smu.logical_bytes;
        state.give_names(names, named);
        let (held, _) = state.agents.unlease(smu.agent, slot, smu.leases);
        state.mark_lease(smu.agent, slot);
        state.lease(smu.agent, holder, held);
        if let Some(entry) = state.agents.get_mut(smu.agent) {
            entry.aliases.insert(slot);
        }
        let claim = smu.claims.iter().next().expect("what was put has a claim");
        if let Some(kept) = state.smus.get_mut(holder) {
            // Before anyone is sent there.
            kept.claims.add(claim);
            kept.importance = kept.importance.max(smu.importance);
            kept.used_ms = kept.used_ms.max(smu.used_ms);
        }
        state.smus.set(slot, SlotUse::Alias(Box::new(Alias { to: holder, agent: smu.agent, claim })));
        self.drop_raw(state, slot, smu.claims, Place::Forward { slot: holder }, smu.raw);
        state.mark_slot(slot);
    }
}

impl State {
    fn give_names(&mut self, names: Vec<Box<str>>, slot: u32) {
        for name in names {
            let before = self.smus.named(&name);
            self.smus.name(&name, slot);
            self.mark_name(&name);
            self.note(|fresh| fresh.slots.extend(before.into_iter().chain([slot])));
        }
    }
}
