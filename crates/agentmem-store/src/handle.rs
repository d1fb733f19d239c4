//! Handles on content, and views of it.

use crate::agents::AgentShared;
use crate::call::Call;
use crate::calls::smu::{Advise, At, FindName, FindNode, FindTier, Promote, Seal};
use crate::session::Session;
use crate::sync::{AtomicBool, AtomicU32, Ordering};
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
    /// Which of the agent's turns it is for.
    pub(crate) turn: u64,
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
        let released = Error::new(ErrorKind::Released, format!("an SMU of agent {:?}", self.agent.name));
        self.session.unless_closed(released)
    }

    #[inline]
    pub(crate) fn check(&self) -> Result<()> {
        self.session.check_usable()?;
        self.check_held()
    }

    #[inline]
    pub(crate) fn check_held(&self) -> Result<()> {
        self.agent.check_turn(self.turn)?;
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
        let shown = match self.pin(self.holder.load(Ordering::Relaxed))? {
            Place::Hot { segment, offset_bytes } => self.shown(segment, offset_bytes),
            _ => None,
        };
        if shown.is_none() {
            self.unpin();
        }
        Ok(shown)
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

    /// A view of what was pinned; `None` if this process has not mapped the segment yet.
    #[inline]
    fn shown(&self, segment: u32, offset_bytes: u64) -> Option<View> {
        let start = self.session.segments.base(segment)?.wrapping_add(offset_bytes as usize);
        Some(View { session: self.session.clone(), claim: self.claim, start, len: self.logical_bytes as usize })
    }

    #[cold]
    fn view_slowly(&self) -> Result<View> {
        let mut was_fresh = false;
        loop {
            let slot = self.holder.load(Ordering::Relaxed);
            // The pin is held meanwhile, so what is promoted stays.
            let outcome = match self.pin(slot)? {
                Place::Hot { segment, offset_bytes } => match self.shown(segment, offset_bytes) {
                    Some(view) => return Ok(view),
                    None => self.session.map(segment),
                },
                Place::Forward { slot: holder } => {
                    self.holder.store(holder, Ordering::Relaxed);
                    Ok(())
                }
                Place::Fresh if was_fresh => Err(Error::new(ErrorKind::OutOfMemory, "content still in the arena")),
                Place::Fresh => {
                    was_fresh = true;
                    self.session.drain()
                }
                Place::Away => {
                    let promoted = self.session.call(Promote { smu: self.at() });
                    if promoted.is_ok()
                        && let Place::Hot { segment, offset_bytes } = self.session.slots.place(slot)
                        && let Some(view) = self.shown(segment, offset_bytes)
                    {
                        return Ok(view);
                    }
                    promoted
                }
                Place::Gone => Err(self.released()),
            };
            self.unpin();
            outcome?;
        }
    }

    /// What names it to the engine.
    pub(crate) fn at(&self) -> At {
        At { agent: self.agent.number, slot: self.origin, generation: self.generation }
    }

    fn ask<C: Call>(&self, call: C) -> Result<C::Answer> {
        self.check()?;
        self.session.call(call)
    }

    /// Where it is now.
    pub fn tier(&self) -> Result<Tier> {
        self.ask(FindTier { smu: self.at() })
    }

    /// NUMA node that holds the raw bytes, while they are hot.
    pub fn numa_node(&self) -> Result<Option<u32>> {
        self.ask(FindNode { smu: self.at() })
    }

    /// Its id; waits until it is sealed.
    pub fn id(&self) -> Result<ContentId> {
        Ok(ContentId(self.ask(Seal { smu: self.at() })?.id))
    }

    /// Bytes kept for it; waits until it is sealed.
    pub fn stored_bytes(&self) -> Result<u64> {
        Ok(self.ask(Seal { smu: self.at() })?.stored_bytes)
    }

    /// Agents that hold it; waits until it is sealed.
    pub fn shared_by(&self) -> Result<u32> {
        Ok(self.ask(Seal { smu: self.at() })?.shared_by)
    }

    /// A name of it, the newest.
    pub fn name(&self) -> Result<Option<String>> {
        self.ask(FindName { smu: self.at() })
    }

    /// Says what is known about its next use.
    pub fn advise(&self, advice: Advice) -> Result<()> {
        self.ask(Advise { smu: self.at(), advice })
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

#[cfg(test)]
mod tests {
    use crate::options::{OnFull, Options};
    use crate::raw::LARGE_BYTES;
    use crate::store::Store;
    use agentmem_core::{ErrorKind, Kind};

    /// What a view was about to promote goes with the store. The caller released nothing, and is not told so.
    #[test]
    fn a_view_that_the_store_closes_under_says_closed() {
        let store = Store::open(Options { pressure: false, ..Options::default() }).unwrap();
        let agent = store.agent("agent", None, None, None).unwrap();
        let numbers: Vec<u8> = (0..2 * LARGE_BYTES).map(|at| (at / 512) as u8).collect();
        let smu = agent.put(&numbers, Kind::ToolResult, None, 50, OnFull::Wait).unwrap();
        smu.id().unwrap();
        store.reclaim(Some(0)).unwrap();
        let engine = store.engine().unwrap().clone();
        let one_at_a_time = engine.large.lock();
        std::thread::scope(|scope| {
            let viewing = scope.spawn(|| smu.view().map(|view| view.bytes().len()));
            while !smu.session.arena.claims.is_pinned(smu.claim) {
                std::thread::yield_now();
            }
            // Long enough for it to come to the lock; if it does not, it meets a closed store, and says the same.
            std::thread::sleep(std::time::Duration::from_millis(50));
            store.close().unwrap();
            drop(one_at_a_time);
            assert_eq!(viewing.join().unwrap().unwrap_err().kind(), ErrorKind::Closed);
        });
    }
}
