//! Demotion: by budget, by age, by advice, by pressure.
//!
//! Under the budget nothing is asked; above its high mark batches are sampled, ordered by the
//! policy and demoted until the low mark. The gap between the marks is the hysteresis.

use crate::agents::AgentEntry;
use crate::calls::store::IMPORTANCE_DEFAULT;
use crate::cold::DiskPlace;
use crate::engine::{Engine, State};
use crate::pack::Effort;
use crate::smus::{Packed, Smu};
use crate::sync::Ordering;
use crate::sys;
use crate::tree::Body;
use agentmem_core::frame::{Frame, Item};
use agentmem_core::policy::{Candidate, Lru, Policy};
use agentmem_core::{AgentState, Error, ErrorKind, Kind, Result, Tier};
use std::sync::Arc;
use std::time::Duration;

/// Demotion starts above this share of the budget and stops below the other.
const HIGH_PERCENT: u64 = 94;
const LOW_PERCENT: u64 = 88;
/// Candidates that a policy sees at a time.
const SAMPLE: usize = 2048;
/// Bytes demoted on one ordering.
const BATCH_BYTES: u64 = 32 << 20;
/// Candidates looked at for their age at a tick.
const AGE_SAMPLE: usize = 512;
/// Frames written to SSD between two syncs.
const COLD_BATCH: usize = 256;
/// Percent of the last ten seconds in which tasks waited for memory: above it, ages shrink.
const PRESSURE_PERCENT: f32 = 10.0;
/// By how much.
const PRESSURE_FACTOR: u64 = 16;
/// An idle agent's content is as old as an active one's at a tenth of the age, a paused one's at once.
const IDLE_FACTOR: u64 = 10;
/// How long reclaim waits for what other threads demote, and between two looks.
const OTHERS_MS: u64 = 10_000;
const PAUSE: Duration = Duration::from_millis(1);
/// Between two trims of the allocator, which takes milliseconds.
const ALLOCATOR_TRIM_MS: u64 = 1_000;

/// What a candidate stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    Smu(u32),
    Tail(u32),
    Frame(u32),
}

impl State {
    fn candidate(&self, engine: &Engine, unit: Unit, now_ms: u64) -> Option<Candidate> {
        let (agent, kind, importance, tier, resident_bytes, logical_bytes, used_ms, uses, shared_by) = match unit {
            Unit::Smu(slot) => {
                let smu = self.smus.get(slot)?;
                let is_held = smu.is_busy || self.sessions.is_pinned(&smu.claims);
                // What does not shrink gains nothing in RAM: without SSD it stays as it is.
                let is_stuck =
                    (smu.stays_raw || smu.is_squeezed() && smu.packed == Packed::No) && engine.cold.is_none();
                if smu.raw.is_none() || !smu.is_sealed || is_held || is_stuck {
                    return None;
                }
                // What can be dropped frees everything; what must be compressed first, most of it.
                let share = if smu.packed == Packed::No { 3 } else { 4 };
                let (tier, freed) = match &smu.raw {
                    Some(raw) if smu.is_squeezed() => (Tier::Warm, raw.stored_bytes()),
                    _ => (Tier::Hot, smu.logical_bytes * share / 4),
                };
                let uses = self.sessions.uses(&smu.claims);
                let importance = if smu.keep_hot { 100 } else { smu.importance };
                (smu.agent, smu.kind, importance, tier, freed, smu.logical_bytes, smu.used_ms, uses, smu.agents)
            }
            Unit::Tail(number) => {
                let node = self.tree.get(number)?;
                if node.is_busy || node.count == 0 || !matches!(node.body, Body::Tail(_)) {
                    return None;
                }
                let freed = node.logical_bytes * 3 / 4;
                (node.agent, Kind::Message, 50, Tier::Hot, freed, node.logical_bytes, node.used_ms, 1, 1)
            }
            Unit::Frame(number) => {
                let entry = self.frames.get(number)?;
                if entry.is_busy || entry.stored.is_none() {
                    return None;
                }
                let stored = u64::from(entry.stored_bytes);
                let sharers = entry.refs.len() as u32;
                (
                    entry.agent,
                    entry.kind,
                    50,
                    Tier::Warm,
                    stored,
                    entry.logical_bytes,
                    entry.used_ms,
                    entry.uses,
                    sharers,
                )
            }
        };
        let owner = self.agents.get(agent);
        let idle_ms = now_ms.saturating_sub(used_ms);
        // Of several holders only the last to come is known here, and that one may be gone or asleep while others
        // work: what they share is as idle as its own use says.
        let sole = owner.filter(|_| shared_by <= 1 || !matches!(unit, Unit::Smu(_)));
        // Decoding at about 1 GB/s; a read from SSD costs its latency on top.
        let decode_us = (logical_bytes / 1000) as u32;
        let restore_us = if tier == Tier::Hot { 10 + decode_us } else { 200 + decode_us };
        Some(Candidate {
            agent: owner.map_or_else(|| "".into(), |owner| owner.shared.name.clone()),
            agent_state: sole.map_or(AgentState::Active, AgentEntry::state_to_age),
            agent_importance: owner.map_or(IMPORTANCE_DEFAULT, |owner| owner.importance),
            agent_idle_ms: sole.map_or(idle_ms, |owner| now_ms.saturating_sub(owner.active_ms)),
            kind,
            importance,
            tier,
            resident_bytes,
            idle_ms,
            uses,
            restore_us,
            shared_by,
        })
    }

    /// Carries what readers did to use counters over into times.
    fn refresh_use(&mut self, slot: u32, now_ms: u64) {
        let Some(smu) = self.smus.get_mut(slot) else { return };
        let uses = self.sessions.uses(&smu.claims) as u16;
        if smu.uses_seen != uses {
            smu.uses_seen = uses;
            smu.used_ms = now_ms;
        }
    }

    /// Frame `number` was written to `place`, or could not be.
    fn written(&mut self, number: u32, place: Option<DiskPlace>, keep_warm: bool) {
        // What the module holds it can compress: nobody needs it in RAM once more.
        let is_held = self.is_held(number);
        let Some(entry) = self.frames.get_mut(number) else {
            self.dead_on_disk.extend(place);
            return;
        };
        entry.is_busy = false;
        let Some(place) = place else { return };
        entry.disk = Some(place);
        entry.stored_bytes = place.len;
        if !keep_warm || is_held {
            entry.stored = None;
            self.warm.remove(number);
            self.counters.demote_cold += 1;
        }
        self.undurable.remove(&number);
        self.mark_frame(number);
    }

    /// Whether anyone looks at the raw bytes of `slot`.
    pub fn is_pinned(&self, slot: u32) -> bool {
        self.smus.get(slot).is_some_and(|smu| self.sessions.is_pinned(&smu.claims))
    }
}

impl Engine {
    /// Makes room for `bytes` more, or says that nothing can be demoted.
    pub fn make_room(&self, bytes: u64) -> Result<()> {
        let max = self.budget_bytes();
        let excess = || (self.planned_bytes(&self.lock()) + bytes).saturating_sub(max);
        let (mut is_possible, mut has_rings) = (true, true);
        while excess() > 0 {
            if !is_possible && has_rings {
                // Not refused for want of what only makes the next put quick.
                self.lock().sessions.trim();
                has_rings = false;
            } else if !is_possible {
                self.lock().counters.reject_memory += 1;
                let planned_bytes = self.planned_bytes(&self.lock());
                let what = format!("{bytes} bytes more than the budget holds ({planned_bytes} of {max} are in use)");
                return Err(Error::new(ErrorKind::OutOfMemory, what));
            }
            // Room that was made and is gone again was taken by others: that is no reason to refuse.
            if self.needed_bytes(&self.lock()) + bytes > max {
                // No further than the heaps' slack goes: what waits for room uses those pages next.
                is_possible = self.reclaim_to((max * HIGH_PERCENT / 100).saturating_sub(bytes), u64::MAX);
            }
            self.trim_heaps(excess());
        }
        self.set_full(false);
        Ok(())
    }

    /// Demotes to the low mark if the high one is passed, but does not go on beyond `until_ms`: others may put
    /// as fast as this goes, for as long as they like.
    pub fn keep_budget(&self, until_ms: u64) {
        let needed_bytes = self.needed_bytes(&self.lock());
        if needed_bytes > self.budget_bytes() * HIGH_PERCENT / 100 && !self.is_full() {
            self.reclaim_to(self.budget_bytes() * LOW_PERCENT / 100, until_ms);
            self.trim_allocator();
        }
    }

    /// Gives back what the allocator keeps of frames and what they decode to, which no budget counts.
    fn trim_allocator(&self) {
        let now_ms = self.now_ms();
        if now_ms >= self.allocator_trimmed_ms.load(Ordering::Relaxed) + ALLOCATOR_TRIM_MS {
            sys::trim_allocator();
            self.allocator_trimmed_ms.store(now_ms, Ordering::Relaxed);
        }
    }

    /// Demotes until at most `target_bytes` are needed, nothing more can be demoted, or it is `until_ms`;
    /// returns whether the target was reached.
    pub fn reclaim_to(&self, target_bytes: u64, until_ms: u64) -> bool {
        let patience = {
            let mut state = self.lock();
            if self.needed_bytes(&state) > target_bytes {
                // Content that is kept a second time goes before any that is kept once.
                state.decoded.clear();
            }
            // Enough samples to come around everything once.
            let longest = state.hot.len().max(state.tails.len()).max(state.warm.len());
            2 + longest / (SAMPLE / 2)
        };
        let mut fruitless = 0;
        let mut progress_ms = self.now_ms();
        loop {
            let (before, demoted_before) = self.reclaimed();
            if before <= target_bytes || fruitless == patience || self.now_ms() >= until_ms {
                return before <= target_bytes;
            }
            // What others work on cannot be chosen here: that is no reason to give up.
            let others = self.is_demoting() && self.now_ms() < progress_ms + OTHERS_MS;
            while self.seal_some() {}
            self.demote_batch(before - target_bytes);
            self.empty_limbo(&mut self.lock());
            let (after, demoted_after) = self.reclaimed();
            // Others may put meanwhile as much as goes.
            if after < before || demoted_after > demoted_before {
                fruitless = 0;
                progress_ms = self.now_ms();
            } else if others {
                std::thread::sleep(PAUSE);
            } else {
                fruitless += 1;
            }
        }
    }

    /// Needed bytes, and how often something was demoted.
    fn reclaimed(&self) -> (u64, u64) {
        let state = self.lock();
        let counters = &state.counters;
        (self.needed_bytes(&state), counters.demote_warm + counters.demote_cold + counters.evict)
    }

    /// Compresses everything that is hot and can be.
    pub fn reclaim_hot(&self) {
        let started_ms = self.now_ms();
        loop {
            while self.seal_some() {}
            let units: Vec<Unit> = {
                let state = self.lock();
                let hot = state.hot.iter().filter(|&slot| state.smus.get(slot).is_some_and(|smu| smu.is_hot()));
                hot.map(Unit::Smu).chain(state.tails.iter().map(Unit::Tail)).collect()
            };
            for batch in units.chunks(SAMPLE) {
                self.demote(batch);
            }
            // What another thread is just hashing or compressing is waited for.
            let mut state = self.lock();
            let is_busy = |number: u32| state.tree.get(number).is_some_and(|node| node.is_busy);
            let waits = state.tails.iter().any(is_busy)
                || state.hot.iter().any(|slot| state.smus.get(slot).is_some_and(|smu| smu.is_busy || !smu.is_sealed));
            if !waits || self.now_ms() >= started_ms + OTHERS_MS {
                self.empty_limbo(&mut state);
                return;
            }
            drop(state);
            std::thread::sleep(PAUSE);
        }
    }

    /// Gives back what is only kept to be quick.
    pub fn trim(&self) {
        let mut state = self.lock();
        state.decoded.clear();
        state.sessions.trim();
        self.trim_heaps(u64::MAX);
    }

    /// Gives `bytes` of each heap's slack back, or all of it.
    pub fn trim_heaps(&self, bytes: u64) {
        self.frame_heap.trim(bytes);
        self.hot_heap.trim(bytes);
    }

    fn demote_batch(&self, wanted_bytes: u64) {
        let now_ms = self.now_ms();
        let (units, candidates): (Vec<Unit>, Vec<Candidate>) = {
            let mut state = self.lock();
            let hot = state.hot.walk(SAMPLE / 2);
            hot.iter().for_each(|&slot| state.refresh_use(slot, now_ms));
            let tails = state.tails.walk(SAMPLE / 2);
            let warm = if self.cold.is_some() { state.warm.walk(SAMPLE / 2) } else { Vec::new() };
            let units = hot.into_iter().map(Unit::Smu);
            let units = units.chain(tails.into_iter().map(Unit::Tail)).chain(warm.into_iter().map(Unit::Frame));
            units.filter_map(|unit| Some((unit, state.candidate(self, unit, now_ms)?))).unzip()
        };
        if candidates.is_empty() {
            return;
        }
        let order = self.order(&candidates);
        let mut chosen = Vec::new();
        let mut bytes = 0;
        for index in order {
            if bytes >= wanted_bytes.min(BATCH_BYTES) {
                break;
            }
            bytes += candidates[index].resident_bytes;
            chosen.push(units[index]);
        }
        self.demote(&chosen);
    }

    /// The policy's order, what it left out last; LRU's if it fails.
    fn order(&self, candidates: &[Candidate]) -> Vec<usize> {
        let mut seen = vec![false; candidates.len()];
        let is_valid = |order: &Vec<usize>| {
            order.iter().all(|&index| index < candidates.len() && !std::mem::replace(&mut seen[index], true))
        };
        let order = self.policy.lock().order(candidates).filter(is_valid);
        let by_age = Lru.order(candidates).expect("LRU never fails");
        let counters = &mut self.lock().counters;
        counters.policy_batch += 1;
        let Some(mut order) = order else {
            counters.policy_error += 1;
            return by_age;
        };
        order.extend(by_age.into_iter().filter(|&index| !seen[index]));
        order
    }

    fn demote(&self, units: &[Unit]) {
        let (mut smus, mut tails, mut frames) = (Vec::new(), Vec::new(), Vec::new());
        for &unit in units {
            match unit {
                Unit::Smu(slot) => smus.push(slot),
                Unit::Tail(number) => tails.push(number),
                Unit::Frame(number) => frames.push(number),
            }
        }
        {
            // The longest first: of snapshots of one conversation, it has what the others are.
            let state = self.lock();
            let bytes = |number: u32| state.tree.get(number).map_or(0, |node| node.logical_bytes);
            tails.sort_by_cached_key(|&number| std::cmp::Reverse(bytes(number)));
        }
        for number in tails {
            // A failure leaves the tail as it is.
            let _ = self.pack_tail(number, Effort::Full);
        }
        let _ = self.demote_smus(&smus, false);
        for batch in frames.chunks(COLD_BATCH) {
            let _ = self.demote_frames(batch, false, false);
        }
    }

    /// Makes frames durable, and drops them from RAM unless `keep_warm`. `strong` compresses them
    /// once more at the cold level first.
    pub fn demote_frames(&self, numbers: &[u32], keep_warm: bool, strong: bool) -> Result<()> {
        let cold =
            self.cold.as_ref().ok_or_else(|| Error::new(ErrorKind::Unsupported, "a store without a cold tier"))?;
        let _demoting = self.demoting();
        let mut planned: Vec<(u32, Arc<crate::heap::Extent>)> = Vec::new();
        {
            let mut state = self.lock();
            for &number in numbers {
                let Some(entry) = state.frames.get_mut(number) else { continue };
                let Some(stored) = entry.stored.clone() else { continue };
                if entry.disk.is_some() {
                    if !keep_warm {
                        entry.stored = None;
                        state.warm.remove(number);
                        state.note(|fresh| fresh.frames.push(number));
                        state.counters.demote_cold += 1;
                    }
                } else if !entry.is_busy {
                    entry.is_busy = true;
                    planned.push((number, stored));
                }
            }
        }
        if planned.is_empty() {
            return Ok(());
        }
        let stronger: Vec<Option<Vec<u8>>> =
            planned.iter().map(|(_, stored)| if strong { self.recompress(stored.bytes()) } else { None }).collect();
        let batch: Vec<(u32, &[u8])> = planned
            .iter()
            .zip(&stronger)
            .map(|((number, stored), stronger)| (*number, stronger.as_deref().unwrap_or(stored.bytes())))
            .collect();
        let outcome = cold.write(&batch);
        let mut state = self.lock();
        for (at, (number, _)) in planned.iter().enumerate() {
            let place = outcome.as_ref().ok().map(|places| places[at]);
            state.written(*number, place, keep_warm && stronger[at].is_none());
        }
        if outcome.is_err() {
            state.counters.cold_error += 1;
        }
        outcome.map(|_| ())
    }

    /// Makes frames durable with the lock held, but for those that others are just writing.
    pub fn write_undurable(&self, state: &mut State) -> Result<()> {
        let cold = self.cold.as_ref().expect("there is nothing to be durable without");
        let free = |&number: &u32| {
            let entry = state.frames.get(number).filter(|entry| !entry.is_busy)?;
            Some((number, entry.stored.clone()?))
        };
        let planned: Vec<(u32, Arc<crate::heap::Extent>)> = state.undurable.iter().filter_map(free).collect();
        let batch: Vec<(u32, &[u8])> = planned.iter().map(|(number, stored)| (*number, stored.bytes())).collect();
        let places = cold.write(&batch)?;
        for ((number, _), place) in planned.iter().zip(places) {
            state.written(*number, Some(place), true);
        }
        Ok(())
    }

    /// The frame at the cold level, where that is smaller.
    fn recompress(&self, stored: &[u8]) -> Option<Vec<u8>> {
        let parsed = Frame::parse(stored).ok()?;
        let content = parsed.decode().ok()?;
        let items: Vec<Item<'_>> = parsed
            .entries()
            .iter()
            .map(|entry| Item { bytes: &content[entry.start..entry.end], meta: entry.meta })
            .collect();
        let strong = self.encode(&items, self.options.cold_level).ok()?;
        (strong.len() < stored.len()).then_some(strong)
    }

    /// What is done four times a second; returns whether there was anything to do.
    pub fn tick(&self, now_ms: u64) -> bool {
        let mut worked = {
            let mut state = self.lock();
            state.sessions.look();
            self.empty_limbo(&mut state)
        };
        worked |= self.demote_aged(now_ms);
        worked |= self.collect(now_ms);
        self.reap_dead();
        self.end_deserted(now_ms);
        match self.ledger {
            Some(_) => self.flush_if_due(now_ms),
            None => self.bury_dead(),
        }
        worked
    }

    /// Gives the disk space of dead frames back.
    pub fn bury_dead(&self) {
        if let Some(cold) = &self.cold {
            let dead = std::mem::take(&mut self.lock().dead_on_disk);
            cold.bury(&dead);
        }
    }

    fn demote_aged(&self, now_ms: u64) -> bool {
        let under_pressure =
            self.options.pressure && sys::memory_pressure().is_some_and(|percent| percent > PRESSURE_PERCENT);
        let factor = if under_pressure { PRESSURE_FACTOR } else { 1 };
        let (warm_after_ms, cold_after_ms) = (self.options.warm_after_ms / factor, self.options.cold_after_ms / factor);
        let mut to_warm = Vec::new();
        let mut to_cold = Vec::new();
        let hot;
        {
            let mut state = self.lock();
            for slot in std::mem::take(&mut state.unwanted) {
                let is_own = state.smus.get(slot).is_some_and(|smu| smu.is_hot() && !smu.is_shared());
                if is_own && state.candidate(self, Unit::Smu(slot), now_ms).is_some() {
                    to_warm.push(Unit::Smu(slot));
                }
            }
            hot = state.hot.walk(AGE_SAMPLE);
            hot.iter().for_each(|&slot| state.refresh_use(slot, now_ms));
            let tails = state.tails.walk(AGE_SAMPLE);
            let warm = if self.cold.is_some() { state.warm.walk(AGE_SAMPLE) } else { Vec::new() };
            for unit in hot.iter().copied().map(Unit::Smu).chain(tails.into_iter().map(Unit::Tail)) {
                let Some(candidate) = state.candidate(self, unit, now_ms) else { continue };
                let age_ms = match candidate.tier {
                    Tier::Hot => age_limit_ms(&candidate, warm_after_ms),
                    _ => cold_after_ms,
                };
                // What other stores hold too ages by their uses as well: the module sees to it.
                let is_kept = |smu: &Smu| smu.keep_hot || smu.is_hot() && smu.is_shared();
                let is_kept = matches!(unit, Unit::Smu(slot) if state.smus.get(slot).is_some_and(is_kept));
                if candidate.idle_ms >= age_ms && !is_kept {
                    to_warm.push(unit);
                }
            }
            for number in warm {
                if let Some(candidate) = state.candidate(self, Unit::Frame(number), now_ms)
                    && candidate.idle_ms >= cold_after_ms
                {
                    to_cold.push(number);
                }
            }
        }
        self.look_at_held(&hot);
        let worked = !to_warm.is_empty() || !to_cold.is_empty();
        self.demote(&to_warm);
        for batch in to_cold.chunks(COLD_BATCH) {
            let _ = self.demote_frames(batch, false, !under_pressure);
        }
        worked
    }

    fn reap_dead(&self) {
        let mut state = self.lock();
        let is_dead = |agent: &&crate::agents::AgentEntry| agent.pidfd.as_ref().is_some_and(|pidfd| pidfd.is_dead());
        let dead: Vec<u32> = state.agents.iter().filter(is_dead).map(|agent| agent.shared.number).collect();
        for number in dead {
            state.counters.reap += 1;
            if let Some(session) = state.sessions.of_agent(number) {
                // Its next put asks, and is refused: what is put for an agent that is not its own is dropped.
                state.sessions.notify(number);
                state.sessions.get_mut(session).expect("just seen").remove_agent(number);
            }
            self.bereave(&mut state, number);
        }
    }
}

/// How long a candidate may be unused before it is compressed.
fn age_limit_ms(candidate: &Candidate, warm_after_ms: u64) -> u64 {
    match candidate.agent_state {
        AgentState::Active => warm_after_ms,
        AgentState::Idle => warm_after_ms / IDLE_FACTOR,
        AgentState::Paused => 0,
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use crate::options::{OnFull, Options};
    use crate::store::Store;
    use agentmem_core::Kind;

    /// While others put as fast as it goes, the engine still comes to what it does at its ticks.
    #[test]
    fn reclaim_goes_on_no_longer_than_it_may() {
        let store = Store::open(Options { pressure: false, ..Options::default() }).unwrap();
        let agent = store.agent("agent", None, None, None).unwrap();
        let numbers: Vec<u8> = (0..16 << 20).map(|at: u32| (at / 512) as u8).collect();
        for (turn, content) in numbers.chunks(64 << 10).enumerate() {
            let content = [content, &turn.to_le_bytes()].concat();
            agent.put(&content, Kind::ToolResult, None, 50, OnFull::Wait).unwrap();
        }
        let engine = store.engine().unwrap();
        let hot = || engine.settled().hot.len();
        assert_eq!(hot(), 256);
        assert!(!engine.reclaim_to(0, engine.now_ms()));
        assert_eq!(hot(), 256);
        assert!(!engine.reclaim_to(0, u64::MAX));
        assert_eq!(hot(), 0);
    }
}
