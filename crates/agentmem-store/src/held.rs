//! Content that the kernel module holds for a store: raw bytes like any others, that can be compressed where
//! they are.
//!
//! Sealed SMUs of a page or more are *held* where a store has the module: it has the only copy, which is mapped
//! here, by processes that have sessions and are lent it, and by whoever else holds the same content. Demotion to
//! warm *squeezes*: the module compresses the pages, and the slot says that the content is away, so that its next view
//! asks the engine, which has the module bring it back. All the while the bytes can be read through the mapping: what
//! flushes or verifies looks at them as ever. Cold content is in frames, and the module has nothing of it. Whatever the
//! module refuses stays with the engine.

use crate::engine::{Engine, State};
use crate::frames::Ref;
use crate::kernel::{Device, Mark, Residence};
use crate::options::Options;
use crate::raw::{LARGE_BYTES, Raw};
use crate::segments::Segments;
use crate::sync::{AtomicBool, AtomicU64, Ordering};
use crate::sys::{ForkGuard, Mapping, PAGE_BYTES};
use agentmem_core::place::Place;
use agentmem_core::{Error, ErrorKind, Kind, Result};
use std::collections::HashSet;
use std::sync::Arc;

/// Contents that a store has held at most: each takes a mapping, of which a process has 65,530 by default.
const HELD_MAX: u64 = 16_384;
/// After the module refused something it is asked for no more so long.
const REST_MS: u64 = 10_000;

/// The module, as one store uses it.
#[derive(Debug)]
pub struct Module {
    device: Arc<Device>,
    /// A forked child shares the open device: what it gave back would be its parent's.
    guard: ForkGuard,
    held: AtomicU64,
    /// What all that is held takes in RAM, as of the last looks.
    ram_bytes: AtomicU64,
    /// When it may be asked again.
    rested_ms: AtomicU64,
}

/// One content that the module holds.
#[derive(Debug)]
pub struct Held {
    module: Arc<Module>,
    segments: Arc<Segments>,
    id: u64,
    /// There until it is dropped.
    mapping: Option<Mapping>,
    segment: u32,
    len: usize,
    /// RAM that it takes, as of the last look.
    ram_bytes: AtomicU64,
    /// Whether other stores hold it too, as of the last look.
    is_shared: AtomicBool,
    /// Its slot says that it is away. Only changed under the engine's lock.
    is_squeezed: AtomicBool,
}

impl Module {
    /// The module, if `options` want it and it is there; an error if they want nothing else.
    pub fn of(options: &Options) -> Result<Option<Arc<Self>>> {
        let Some(device) = Device::of(options)? else { return Ok(None) };
        let guard = ForkGuard::new()?;
        let zero = || AtomicU64::new(0);
        Ok(Some(Arc::new(Module {
            device: Arc::new(device),
            guard,
            held: zero(),
            ram_bytes: zero(),
            rested_ms: zero(),
        })))
    }

    /// RAM that the module takes for this store, as far as it was looked at.
    pub fn ram_bytes(&self) -> u64 {
        self.ram_bytes.load(Ordering::Relaxed)
    }

    /// Whether content of that length is to be held.
    fn takes(&self, len: u64, now_ms: u64) -> bool {
        (PAGE_BYTES..=self.device.content_bytes_max()).contains(&len)
            && self.held.load(Ordering::Relaxed) < HELD_MAX
            && now_ms >= self.rested_ms.load(Ordering::Relaxed)
    }

    /// Has the module hold `content`.
    fn hold(self: &Arc<Self>, segments: &Arc<Segments>, content: &[u8], kind: Kind, importance: u8) -> Result<Held> {
        let is_one_too_many = self.held.fetch_add(1, Ordering::Relaxed) >= HELD_MAX;
        let held = match is_one_too_many {
            true => Err(Error::new(ErrorKind::LimitReached, format!("{HELD_MAX} contents in the kernel module"))),
            false => self.hold_one(segments, content, kind, importance),
        };
        held.inspect_err(|_| _ = self.held.fetch_sub(1, Ordering::Relaxed))
    }

    fn hold_one(
        self: &Arc<Self>,
        segments: &Arc<Segments>,
        content: &[u8],
        kind: Kind,
        importance: u8,
    ) -> Result<Held> {
        let (id, is_shared) = self.device.alloc(content, kind, importance)?;
        let mapped = self.device.map(id, content.len());
        let mapped = mapped.and_then(|mapping| Ok((segments.register_content(&mapping, &self.device, id)?, mapping)));
        let (segment, mapping) = mapped.inspect_err(|_| self.device.free(id))?;
        let ram_bytes = mapping.len() as u64;
        self.ram_bytes.fetch_add(ram_bytes, Ordering::Relaxed);
        Ok(Held {
            module: self.clone(),
            segments: segments.clone(),
            id,
            mapping: Some(mapping),
            segment,
            len: content.len(),
            ram_bytes: AtomicU64::new(ram_bytes),
            is_shared: AtomicBool::new(is_shared),
            is_squeezed: AtomicBool::new(false),
        })
    }
}

impl Held {
    fn mapping(&self) -> &Mapping {
        self.mapping.as_ref().expect("there until it is dropped")
    }

    /// The content.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the module changes no content, and it is mapped while `self` lives.
        unsafe { std::slice::from_raw_parts(self.mapping().as_ptr(), self.len) }
    }

    /// Where a slot word says it is, unless it is squeezed.
    pub fn place(&self) -> Place {
        Place::Hot { segment: self.segment, offset_bytes: 0 }
    }

    /// Whether it is warm: compressed, and its slot says that it is away.
    pub fn is_squeezed(&self) -> bool {
        self.is_squeezed.load(Ordering::Relaxed)
    }

    /// Whether other stores hold it too, as of the last look: then the module alone knows when nobody uses it.
    pub fn is_shared(&self) -> bool {
        self.is_shared.load(Ordering::Relaxed)
    }

    /// RAM that it takes, as of the last look.
    pub fn ram_bytes(&self) -> u64 {
        self.ram_bytes.load(Ordering::Relaxed)
    }

    /// Looks where the module has it.
    fn look(&self) -> Result<Residence> {
        let found = self.module.device.residence(self.id)?;
        self.is_shared.store(found.agents > 1, Ordering::Relaxed);
        let before = self.ram_bytes.swap(found.ram_bytes(), Ordering::Relaxed);
        self.module.ram_bytes.fetch_add(found.ram_bytes().wrapping_sub(before), Ordering::Relaxed);
        Ok(found)
    }

    /// Has the module compress it; whether anything came of that. What others hold too they may be using.
    fn squeeze(&self) -> Result<bool> {
        if self.look()?.agents > 1 {
            return Ok(false);
        }
        self.module.device.mark(self.id, Mark::Cold)?;
        Ok(self.look()?.is_compressed())
    }

    /// Has the module bring it back, to be kept if it `keeps`.
    fn bring_back(&self, keeps: bool) -> Result<()> {
        self.module.device.mark(self.id, if keeps { Mark::Hot } else { Mark::Normal })?;
        self.module.device.mark(self.id, Mark::WillNeed)?;
        self.mapping().fault_in();
        self.look().map(drop)
    }

    /// Tells the module whether it is to be kept as it is, and looks who else holds it. If the module fails, all
    /// stays as it was.
    pub fn mark_kept(&self, keeps: bool) {
        let marked = self.module.device.mark(self.id, if keeps { Mark::Hot } else { Mark::Normal });
        let _ = marked.and_then(|()| self.look());
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        drop(self.mapping.take());
        if !self.module.guard.is_same_process() {
            return;
        }
        // What is not leased any more cannot be lent.
        self.segments.release(self.segment);
        self.module.device.free(self.id);
        self.module.held.fetch_sub(1, Ordering::Relaxed);
        self.module.ram_bytes.fetch_sub(self.ram_bytes(), Ordering::Relaxed);
    }
}

impl State {
    /// What is in `slot`, if that is to be handed over to the module, and nobody looks at it just now.
    fn plan_hold(&mut self, slot: u32) -> Option<(Arc<Raw>, Kind, u8)> {
        let is_pinned = self.is_pinned(slot);
        let smu = self.smus.get_mut(slot).filter(|smu| smu.is_sealed && !smu.is_busy && !is_pinned)?;
        let raw = smu.raw.clone().filter(|raw| raw.held().is_none())?;
        smu.is_busy = true;
        Some((raw, smu.kind, smu.importance))
    }

    /// Whether all of `frame` is content that the module holds too.
    pub fn is_held(&self, frame: u32) -> bool {
        let is_held = |reference: &Ref| match reference {
            Ref::Smu(slot) => self.smus.get(*slot).is_some_and(|smu| smu.held().is_some()),
            Ref::Node(_) => false,
        };
        self.frames.get(frame).is_some_and(|entry| !entry.refs.is_empty() && entry.refs.iter().all(is_held))
    }

    /// What is in `slot`, if the module is to compress it.
    fn plan_squeeze(&mut self, slot: u32) -> Option<Arc<Raw>> {
        let is_pinned = self.is_pinned(slot);
        let is_packed_in_ram = self.smus.get(slot).is_some_and(|smu| self.is_packed_in_ram(smu));
        let smu = self.smus.get_mut(slot).filter(|smu| smu.is_hot() && !smu.is_busy && !smu.stays_raw)?;
        let raw = smu.raw.clone().filter(|raw| raw.held().is_some())?;
        let is_planned = !is_pinned && !is_packed_in_ram;
        smu.is_busy |= is_planned;
        is_planned.then_some(raw)
    }
}

impl Engine {
    /// RAM that the kernel module takes for this engine.
    pub fn module_bytes(&self) -> u64 {
        self.module.as_ref().map_or(0, |module| module.ram_bytes())
    }

    /// The module, if content of that length goes there now. While that happens it is there twice: for which there
    /// must be room.
    fn module_for(&self, state: &State, len: u64) -> Option<&Arc<Module>> {
        let module = self.module.as_ref().filter(|module| module.takes(len, self.now_ms()))?;
        (self.planned_bytes(state) + len <= self.budget_bytes()).then_some(module)
    }

    /// Content as the module holds it, or an error after which it is not asked again for a while.
    fn held(&self, module: &Arc<Module>, content: &[u8], kind: Kind, importance: u8) -> Result<Arc<Raw>> {
        let held = module.hold(&self.segments, content, kind, importance);
        let refused = |_: &Error| module.rested_ms.store(self.now_ms() + REST_MS, Ordering::Relaxed);
        held.map(|held| Arc::new(held.into())).inspect_err(refused)
    }

    /// Hands sealed content in `slots` over to the module, where there is one. What it does not take stays where it
    /// is.
    pub fn hold(&self, slots: &[u32]) {
        if self.module.is_none() {
            return;
        }
        let _demoting = self.demoting();
        for &slot in slots {
            let len = self.lock().smus.get(slot).map_or(0, |smu| smu.logical_bytes);
            // Whoever brings something large in makes room first, and may have come here by that: this can wait.
            let one = (len >= LARGE_BYTES as u64).then(|| self.large.try_lock());
            if one.as_ref().is_some_and(Option::is_none) {
                continue;
            }
            let mut state = self.lock();
            let Some(module) = self.module_for(&state, len) else { continue };
            let Some((raw, kind, importance)) = state.plan_hold(slot) else { continue };
            drop(state);
            let held = self.held(module, raw.bytes(), kind, importance);
            let state = &mut *self.lock();
            let is_pinned = state.is_pinned(slot);
            let Some(smu) = state.smus.get_mut(slot).filter(|smu| smu.raw_is(&raw)) else { continue };
            smu.is_busy = false;
            let Ok(held) = held else { continue };
            // What somebody began to look at would be there twice as long as he does: another time.
            if !is_pinned {
                let (place, claims) = (held.place(), smu.claims.clone());
                let before = smu.raw.replace(held);
                self.drop_raw(state, slot, claims, place, before);
                state.hot.insert(slot);
            }
        }
    }

    /// Raw content of `len` bytes that `fill` writes, in the module if that takes it.
    pub fn raw_with(
        &self,
        len: usize,
        kind: Kind,
        importance: u8,
        fill: impl FnOnce(&mut [u8]) -> Result<()>,
    ) -> Result<Arc<Raw>> {
        let module = self.module.as_ref().and_then(|_| self.module_for(&self.lock(), len as u64));
        let Some(module) = module else {
            return Raw::with(&self.hot_heap, &self.segments, len, fill).map(Arc::new);
        };
        let mut content = vec![0; len];
        fill(&mut content)?;
        let copy = |out: &mut [u8]| {
            out.copy_from_slice(&content);
            Ok(())
        };
        let held = self.held(module, &content, kind, importance);
        held.or_else(|_| Raw::with(&self.hot_heap, &self.segments, len, copy).map(Arc::new))
    }

    /// Has the module compress what it holds of `slots`, unless there is a compressed form in RAM. Returns those that
    /// are seen to, for better or worse, and the bytes that this gave. What does not shrink, and what others hold
    /// too, is not among them.
    pub fn squeeze(&self, slots: &[u32]) -> (HashSet<u32>, u64) {
        let (mut seen_to, mut given_bytes) = (HashSet::new(), 0);
        if self.module.is_none() {
            return (seen_to, given_bytes);
        }
        let planned: Vec<(u32, Arc<Raw>)> = {
            let state = &mut *self.lock();
            slots.iter().filter_map(|&slot| Some((slot, state.plan_squeeze(slot)?))).collect()
        };
        for (slot, raw) in &planned {
            let held = raw.held().expect("it was planned");
            let before = held.ram_bytes();
            let outcome = held.squeeze();
            let state = &mut *self.lock();
            let is_pinned = state.is_pinned(*slot);
            let Some(smu) = state.smus.get_mut(*slot).filter(|smu| smu.raw_is(raw)) else { continue };
            smu.is_busy = false;
            if outcome == Ok(false) {
                smu.stays_raw = !held.is_shared();
            } else {
                seen_to.insert(*slot);
            }
            // Else it stays hot: somebody looks at it, or the module failed.
            if outcome == Ok(true) && !is_pinned {
                self.send_away(state, *slot, held);
                given_bytes += before.saturating_sub(held.ram_bytes());
            }
        }
        (seen_to, given_bytes)
    }

    /// What the module compressed is warm from now on.
    fn send_away(&self, state: &mut State, slot: u32, held: &Held) {
        held.is_squeezed.store(true, Ordering::Relaxed);
        self.slots.relocate(slot, Place::Away);
        state.counters.demote_warm += 1;
        state.counters.demote_warm_bytes += held.len as u64;
    }

    /// Makes what the module compressed hot again. The caller has pinned the slot.
    pub fn bring_back(&self, slot: u32, raw: &Arc<Raw>) -> Result<()> {
        let held = raw.held().expect("only what is held is squeezed");
        let (keeps, stored_bytes) = {
            let state = self.lock();
            (state.smus.get(slot).is_some_and(|smu| smu.keep_hot), state.stored_bytes(slot))
        };
        held.bring_back(keeps)?;
        let state = &mut *self.lock();
        if let Some(smu) = state.smus.get_mut(slot).filter(|smu| smu.raw_is(raw) && held.is_squeezed()) {
            smu.used_ms = self.now_ms();
            held.is_squeezed.store(false, Ordering::Relaxed);
            self.slots.relocate(slot, held.place());
            state.counters.promote_warm += 1;
            state.counters.refault_warm += 1;
            state.counters.refault_warm_bytes += stored_bytes;
        }
        Ok(())
    }

    /// Looks where the module has what is in `slots`, as it compresses by itself what is idle, and when memory is short.
    /// What it does not have yet is handed over.
    pub fn look_at_held(&self, slots: &[u32]) {
        if self.module.is_none() {
            return;
        }
        let raws: Vec<(u32, Arc<Raw>)> = {
            let state = self.lock();
            let raw = |&slot: &u32| Some((slot, state.smus.get(slot)?.raw.clone()?));
            slots.iter().filter_map(raw).collect()
        };
        for (slot, raw) in &raws {
            let Some(held) = raw.held() else { continue };
            let Ok(found) = held.look() else { continue };
            // Whoever read it without a use of it, as a flush does, brought it back.
            let is_compressed = found.is_compressed() || held.is_squeezed() && held.squeeze().unwrap_or(true);
            if held.is_squeezed() == is_compressed {
                continue;
            }
            let state = &mut *self.lock();
            let is_pinned = state.is_pinned(*slot);
            let has_changed = state.smus.get(*slot).is_none_or(|smu| !smu.raw_is(raw) || smu.is_busy);
            // Whoever squeezed it or brought it back meanwhile has counted that.
            if has_changed || held.is_squeezed() == is_compressed {
                continue;
            }
            if !is_compressed {
                // Others hold it too, and use it.
                held.is_squeezed.store(false, Ordering::Relaxed);
                self.slots.relocate(*slot, held.place());
            } else if !is_pinned {
                self.send_away(state, *slot, held);
            }
        }
        let own = raws.iter().filter(|(_, raw)| raw.held().is_none()).map(|&(slot, _)| slot);
        self.hold(&own.collect::<Vec<u32>>());
    }
}
