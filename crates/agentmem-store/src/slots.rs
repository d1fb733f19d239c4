//! Slots: how a reader and the engine agree on bytes without a lock.
//!
//! The engine alone writes slot words. A reader alone writes its claim words (claims.rs).
//!
//! ```text
//! reader: claim += pin; full fence; read the slot      engine: write the slot; full fence; read the claims
//! ```
//! One of the two must see the other: either the reader sees the new place, or the engine sees the
//! pin and keeps the old bytes until the pin is gone. Loom checks exactly this, below.

use crate::sync::{Ordering, Words, fence};
use agentmem_core::Result;
use agentmem_core::place::Place;

/// Slots in one store: 16,777,216.
pub const SLOTS_MAX: usize = 1 << 24;

/// The slot table.
#[derive(Debug)]
pub struct Slots {
    places: Words,
    generations: Words,
}

impl Slots {
    /// `count` fresh slots, of an engine that `lends` its memory or does not; the table takes memory as slots
    /// are used.
    pub fn new(count: usize, lends: bool) -> Result<Self> {
        let places = Words::kept("agentmem-slots", count, lends)?;
        Ok(Slots { places, generations: Words::kept("agentmem-generations", count, lends)? })
    }

    /// The table of another process's engine.
    pub fn lent(places: Words, generations: Words) -> Self {
        Slots { places, generations }
    }

    /// The words that other processes read: places and generations.
    pub fn words(&self) -> [&Words; 2] {
        [&self.places, &self.generations]
    }

    /// Where `slot` is. If the answer is `Hot` and a claim on it was pinned before, the bytes stay there.
    #[inline]
    pub fn place(&self, slot: u32) -> Place {
        Place::from_word(self.places[slot as usize].load(Ordering::Acquire))
    }

    /// How often `slot` was used for something else before. A handle remembers it, and compares
    /// after pinning: if it differs, what is there now is not the handle's.
    #[inline]
    pub fn generation(&self, slot: u32) -> u64 {
        self.generations[slot as usize].load(Ordering::Acquire)
    }

    /// Engine only: what `slot` was used for is gone. Comes before the slot is moved anywhere.
    pub fn retire(&self, slot: u32) {
        let generation = self.generations[slot as usize].load(Ordering::Relaxed);
        self.generations[slot as usize].store(generation + 1, Ordering::Release);
    }

    /// Engine only: `slot` is in the same use as it was when an earlier engine said so.
    pub fn restore_generation(&self, slot: u32, generation: u64) {
        self.generations[slot as usize].store(generation, Ordering::Release);
    }

    /// Engine only: moves `slot` to `place`. Pins that are looked for after this are all that may see the
    /// old place.
    pub fn relocate(&self, slot: u32, place: Place) {
        self.places[slot as usize].store(place.to_word(), Ordering::Release);
        fence(Ordering::SeqCst);
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use crate::claims::ClaimTable;
    use loom::sync::Arc;
    use loom::sync::atomic::AtomicBool;
    use loom::thread;

    fn tables() -> Arc<(Slots, ClaimTable)> {
        Arc::new((Slots::new(1, false).unwrap(), ClaimTable::over(Words::new("claims", 1).unwrap())))
    }

    /// A handle whose content went, and whose slot holds something else by now, does not take that
    /// for its own.
    #[test]
    fn loom_a_stale_handle_sees_that_it_is_stale() {
        loom::model(|| {
            let tables = tables();
            let (slots, claims) = (&tables.0, &tables.1);
            let mine = Place::Hot { segment: 1, offset_bytes: 64 };
            slots.relocate(0, mine);
            let generation = slots.generation(0);
            let reader = {
                let tables = tables.clone();
                thread::spawn(move || {
                    let (slots, claims) = (&tables.0, &tables.1);
                    claims.pin(0);
                    let place = slots.place(0);
                    if slots.generation(0) == generation {
                        assert!(place == mine || place == Place::Gone, "took another's for its own");
                    }
                    claims.unpin(0);
                })
            };
            slots.retire(0);
            slots.relocate(0, Place::Gone);
            if !claims.is_pinned(0) {
                slots.relocate(0, Place::Hot { segment: 2, offset_bytes: 0 });
            }
            reader.join().unwrap();
        });
    }

    /// Whatever the interleaving: bytes that a reader found by its pin are not freed under it.
    #[test]
    fn loom_nothing_moves_under_a_pin() {
        loom::model(|| {
            let tables = tables();
            let (slots, claims) = (&tables.0, &tables.1);
            let freed = Arc::new(AtomicBool::new(false));
            slots.relocate(0, Place::Hot { segment: 1, offset_bytes: 64 });
            let reader = {
                let (tables, freed) = (tables.clone(), freed.clone());
                thread::spawn(move || {
                    let (slots, claims) = (&tables.0, &tables.1);
                    claims.pin(0);
                    if let Place::Hot { .. } = slots.place(0) {
                        assert!(!freed.load(Ordering::Acquire), "read bytes that were freed");
                        assert!(!freed.load(Ordering::Acquire), "bytes went while they were read");
                    }
                    claims.unpin(0);
                })
            };
            slots.relocate(0, Place::Away);
            if !claims.is_pinned(0) {
                freed.store(true, Ordering::Release);
            }
            reader.join().unwrap();
            assert!(!claims.is_pinned(0));
        });
    }
}
