//! Handles on content, and views of it.

use crate::agents::AgentShared;
use crate::session::Session;
use crate::smus::Packed;
use crate::sync::{AtomicBool, AtomicU32, Ordering};
use crate::sys;
use agentmem_core::place::Place;
use agentmem_core::{Advice, ContentId, Error, ErrorKind, Kind, Result, Tier};
use std::sync::Arc;

/// A handle on one content.
pub struct Smu {
    pub(crate) session: Arc<Session>,
    pub(crate) agent: Arc<AgentShared>,
    /// The slot that came with the put; it is what a release names.
    pub(crate) origin: u32,
    /// The generation of that slot.
    pub(crate) generation: u64,
    /// What it pins with.
    pub(crate) claim: u32,
    /// The slot that holds the content, as far as this handle knows.
    pub(crate) holder: AtomicU32,
    pub(crate) is_released: AtomicBool,
    pub(crate) logical_bytes: u64,
    pub(crate) kind: Kind,
    pub(crate) importance: u8,
}

impl Smu {
    /// What it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Length of the content.
    pub fn logical_bytes(&self) -> u64 {
        self.logical_bytes
    }

    /// 0 to 100.
    pub fn importance(&self) -> u8 {
        self.importance
    }

    /// Whether the slot still is what this handle was made for.
    #[inline]
    fn is_current(&self) -> bool {
        self.session.slots.generation(self.origin) == self.generation
    }

    pub(crate) fn released(&self) -> Error {
        Error::new(ErrorKind::Released, format!("an SMU of agent {:?}", self.agent.name))
    }

    #[inline]
    pub(crate) fn check(&self) -> Result<()> {
        self.session.check_usable()?;
        self.check_held()
    }

    #[inline]
    pub(crate) fn check_held(&self) -> Result<()> {
        self.agent.check_open()?;
        if self.is_released.load(Ordering::Acquire) || !self.is_current() {
            return Err(self.released());
        }
        Ok(())
    }

    /// Pins the content and shows it. What is not hot is promoted first.
    #[inline]
    pub fn view(&self) -> Result<View> {
        match self.view_now()? {
            Some(view) => Ok(view),
            None => self.view_slowly(),
        }
    }

    /// A view, if it can be had without asking the engine.
    #[inline]
    pub fn view_now(&self) -> Result<Option<View>> {
        self.session.check_usable()?;
        match self.pin(self.holder.load(Ordering::Relaxed))? {
            Place::Hot { segment, offset_bytes } => Ok(Some(self.shown(segment, offset_bytes))),
            _ => {
                self.unpin();
                Ok(None)
            }
        }
    }

    /// Pins first and asks then whether the lease is still held: another thread may be giving it
    /// back, and after that the slot may hold what this handle has no right to. It marks the handle
    /// before the engine looks at pins, so either the mark is seen here or the pin is seen there.
    #[inline]
    fn pin(&self, slot: u32) -> Result<Place> {
        self.session.arena.claims.pin(self.claim);
        let place = self.session.slots.place(slot);
        self.check_held().inspect_err(|_| self.unpin())?;
        Ok(place)
    }

    #[inline]
    fn unpin(&self) {
        self.session.arena.claims.unpin(self.claim);
    }

    fn shown(&self, segment: u32, offset_bytes: u64) -> View {
        let start = self.session.segments.base(segment).wrapping_add(offset_bytes as usize);
        View { session: self.session.clone(), claim: self.claim, start, len: self.logical_bytes as usize }
    }

    #[cold]
    fn view_slowly(&self) -> Result<View> {
        let mut was_fresh = false;
        loop {
            let slot = self.holder.load(Ordering::Relaxed);
            let outcome = match self.pin(slot)? {
                Place::Hot { segment, offset_bytes } => return Ok(self.shown(segment, offset_bytes)),
                Place::Forward { slot: holder } => {
                    self.holder.store(holder, Ordering::Relaxed);
                    Ok(())
                }
                Place::Fresh if was_fresh => Err(Error::new(ErrorKind::OutOfMemory, "content still in the arena")),
                Place::Fresh => {
                    was_fresh = true;
                    self.session.drain()
                }
                // The pin is held meanwhile, so what is promoted stays.
                Place::Away => match self.session.engine.promote(slot) {
                    Ok(()) => {
                        if let Place::Hot { segment, offset_bytes } = self.session.slots.place(slot) {
                            return Ok(self.shown(segment, offset_bytes));
                        }
                        Ok(())
                    }
                    error => error,
                },
                Place::Gone => Err(self.released()),
            };
            self.unpin();
            outcome?;
        }
    }

    /// Where it is now.
    pub fn tier(&self) -> Result<Tier> {
        self.check()?;
        let state = self.session.engine.settled();
        let smu = state.smus.get(state.smus.resolve(self.origin)).ok_or_else(|| self.released())?;
        let is_warm = |number| state.frames.get(number).is_some_and(|entry| entry.stored.is_some());
        Ok(match (&smu.raw, smu.packed) {
            (Some(_), _) | (None, Packed::No) => Tier::Hot,
            (None, Packed::Item { frame, .. }) if is_warm(frame) => Tier::Warm,
            (None, Packed::Parts { first, count }) if (first..first + count).all(is_warm) => Tier::Warm,
            _ => Tier::Cold,
        })
    }

    /// NUMA node that holds the raw bytes, while they are hot.
    pub fn numa_node(&self) -> Result<Option<u32>> {
        self.check()?;
        let state = self.session.engine.settled();
        let smu = state.smus.get(state.smus.resolve(self.origin)).ok_or_else(|| self.released())?;
        Ok(smu.raw.as_ref().and_then(|raw| sys::numa_node(raw.bytes().as_ptr())))
    }

    /// Its id; waits until it is sealed.
    pub fn id(&self) -> Result<ContentId> {
        self.check()?;
        let holder = self.session.engine.seal_slot(self.origin)?;
        Ok(self.session.engine.lock().smus.get(holder).ok_or_else(|| self.released())?.id)
    }

    /// Bytes kept for it; waits until it is sealed.
    pub fn stored_bytes(&self) -> Result<u64> {
        self.check()?;
        let holder = self.session.engine.seal_slot(self.origin)?;
        Ok(self.session.engine.lock().stored_bytes(holder))
    }

    /// Agents that hold it; waits until it is sealed.
    pub fn shared_by(&self) -> Result<u32> {
        self.check()?;
        let holder = self.session.engine.seal_slot(self.origin)?;
        Ok(self.session.engine.lock().smus.get(holder).ok_or_else(|| self.released())?.agents)
    }

    /// A name of it, the newest.
    pub fn name(&self) -> Result<Option<String>> {
        self.check()?;
        let state = self.session.engine.settled();
        Ok(state.smus.name_of(state.smus.resolve(self.origin)).map(ToOwned::to_owned))
    }

    /// Says what is known about its next use.
    pub fn advise(&self, advice: Advice) -> Result<()> {
        self.check()?;
        match advice {
            Advice::WillNeed => self.view().map(drop),
            Advice::Hot | Advice::Cold => {
                let holder = self.session.engine.seal_slot(self.origin)?;
                let mut state = self.session.engine.lock();
                let smu = state.smus.get_mut(holder).ok_or_else(|| self.released())?;
                smu.keep_hot = advice == Advice::Hot;
                if advice == Advice::Cold {
                    state.unwanted.push_back(holder);
                }
                Ok(())
            }
        }
    }
}

/// Pinned content. The pin goes when the view goes.
pub struct View {
    session: Arc<Session>,
    claim: u32,
    start: *const u8,
    len: usize,
}

// SAFETY: the bytes are immutable and pinned; unpinning is one atomic operation.
unsafe impl Send for View {}
// SAFETY: as above.
unsafe impl Sync for View {}

impl View {
    /// The content.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        if self.len == 0 {
            return &[];
        }
        // SAFETY: the slot was found hot under a pin that `self` holds, so the engine keeps these
        // bytes where they are; content is never written after it was published.
        unsafe { std::slice::from_raw_parts(self.start, self.len) }
    }
}

impl std::ops::Deref for View {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes()
    }
}

impl Drop for View {
    #[inline]
    fn drop(&mut self) {
        // A forked child inherits views but no pins: the claim words are the parent's.
        if self.session.is_same_process() {
            self.session.arena.claims.unpin(self.claim);
        }
    }
}
