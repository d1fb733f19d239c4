//! Slots and pins: how a reader and the engine agree on bytes without a lock.
//!
//! The engine alone writes slot words. A reader alone writes its claim word: pins in the low half,
//! uses in the high half.
//!
//! ```text
//! reader: claim += pin; full fence; read the slot      engine: write the slot; full fence; read the claim
//! ```
//! One of the two must see the other: either the reader sees the new place, or the engine sees the
//! pin and keeps the old bytes until the pin is gone. Loom checks exactly this, below.

use crate::sync::{Ordering, Words, fence};
use agentmem_core::Result;
use agentmem_core::place::Place;

/// Slots in one store: 16,777,216.
pub const SLOTS_MAX: usize = 1 << 24;
const ONE_PIN: u64 = 1;
const ONE_USE: u64 = 1 << 32;

/// The slot table and the claim table beside it.
#[derive(Debug)]
pub struct Slots {
    places: Words,
    claims: Words,
    generations: Words,
}

impl Slots {
    /// `count` fresh slots; tables take memory as slots are used.
    pub fn new(count: usize) -> Result<Self> {
        Ok(Slots {
            places: Words::new("agentmem-slots", count)?,
            claims: Words::new("agentmem-pins", count)?,
            generations: Words::new("agentmem-generations", count)?,
        })
    }

    /// Where `slot` is, as far as anyone can know who has not pinned it.
    #[inline]
    pub fn place(&self, slot: u32) -> Place {
        Place::from_word(self.places[slot as usize].load(Ordering::Acquire))
    }

    /// Pins `slot` and reads where it is. If the answer is `Hot`, the bytes stay there, readable,
    /// until [`Self::unpin`].
    #[inline]
    pub fn pin(&self, slot: u32) -> Place {
        self.claims[slot as usize].fetch_add(ONE_PIN | ONE_USE, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        self.place(slot)
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

    /// Gives one pin back.
    #[inline]
    pub fn unpin(&self, slot: u32) {
        self.claims[slot as usize].fetch_sub(ONE_PIN, Ordering::Release);
    }

    /// Engine only: moves `slot` to `place`, and says whether the bytes at the old place may go
    /// now. If not, they may once [`Self::is_pinned`] turns false.
    pub fn relocate(&self, slot: u32, place: Place) -> bool {
        self.places[slot as usize].store(place.to_word(), Ordering::Release);
        fence(Ordering::SeqCst);
        !self.is_pinned(slot)
    }

    /// Whether anyone holds a pin.
    pub fn is_pinned(&self, slot: u32) -> bool {
        self.claims[slot as usize].load(Ordering::Acquire) as u32 != 0
    }

    /// How often `slot` was pinned, modulo 2^32.
    pub fn uses(&self, slot: u32) -> u32 {
        (self.claims[slot as usize].load(Ordering::Relaxed) >> 32) as u32
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use loom::sync::Arc;
    use loom::sync::atomic::AtomicBool;
    use loom::thread;

    /// A handle whose content went, and whose slot holds something else by now, does not take that
    /// for its own.
    #[test]
    fn loom_a_stale_handle_sees_that_it_is_stale() {
        loom::model(|| {
            let slots = Arc::new(Slots::new(1).unwrap());
            let mine = Place::Hot { segment: 1, offset_bytes: 64 };
            slots.relocate(0, mine);
            let generation = slots.generation(0);
            let reader = {
                let slots = slots.clone();
                thread::spawn(move || {
                    let place = slots.pin(0);
                    if slots.generation(0) == generation {
                        assert!(place == mine || place == Place::Gone, "took another's for its own");
                    }
                    slots.unpin(0);
                })
            };
            slots.retire(0);
            if slots.relocate(0, Place::Gone) {
                slots.relocate(0, Place::Hot { segment: 2, offset_bytes: 0 });
            }
            reader.join().unwrap();
        });
    }

    /// Whatever the interleaving: bytes that a reader found by its pin are not freed under it.
    #[test]
    fn loom_nothing_moves_under_a_pin() {
        loom::model(|| {
            let slots = Arc::new(Slots::new(1).unwrap());
            let freed = Arc::new(AtomicBool::new(false));
            slots.relocate(0, Place::Hot { segment: 1, offset_bytes: 64 });
            let reader = {
                let (slots, freed) = (slots.clone(), freed.clone());
                thread::spawn(move || {
                    if let Place::Hot { .. } = slots.pin(0) {
                        assert!(!freed.load(Ordering::Acquire), "read bytes that were freed");
                        assert!(!freed.load(Ordering::Acquire), "bytes went while they were read");
                    }
                    slots.unpin(0);
                })
            };
            if slots.relocate(0, Place::Away) {
                freed.store(true, Ordering::Release);
            }
            reader.join().unwrap();
            assert!(!slots.is_pinned(0));
        });
    }
}
