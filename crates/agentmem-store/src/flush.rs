//! Durability: everything put before a flush survives the death of everybody.

use crate::engine::{Engine, State};
use crate::pack::Effort;
use crate::smus::Packed;
use crate::sys;
use agentmem_core::{Error, ErrorKind, Result};
use std::time::Duration;

/// Tails from this size on are packed at a flush; smaller ones are written as they are, so that
/// flushing after every message does not make a frame of every message.
const TAIL_BYTES_MIN: u64 = 64 << 10;
/// A persistent store flushes by itself this long after it did so last.
const FLUSH_AFTER_MS: u64 = 30_000;
/// SMUs or frames handled between two looks at the lock.
const BATCH: usize = 1024;
/// How often a flush looks again for what another thread is just packing, and how long it waits.
const ATTEMPTS: usize = 3000;
/// How often frames are written while more are made, before that has to wait.
const PATIENT_ATTEMPTS: usize = 4;
const PAUSE: Duration = Duration::from_millis(2);

impl Engine {
    /// Returns when all that was put before is durable.
    pub fn flush(&self) -> Result<()> {
        if self.cold.is_none() {
            return Err(Error::new(ErrorKind::Unsupported, "flush of a store without a cold tier"));
        }
        self.seal_all()?;
        let Some(ledger) = &self.ledger else { return Ok(()) };
        self.pack_for_flush()?;
        // Commits are in the order in which changes were taken, hence one at a time.
        let mut ledger = ledger.lock();
        let ledger = ledger.as_mut().ok_or_else(|| Error::new(ErrorKind::Closed, "this store"))?;
        let mut changes = self.durable_changes()?;
        match ledger.commit(&mut changes) {
            Ok(()) => {
                self.lock().committed(&changes.rows);
                self.cold.as_ref().expect("checked above").bury(&changes.dead);
                Ok(())
            }
            Err(error) => {
                self.lock().take_back(changes);
                Err(error)
            }
        }
    }

    /// Commits by itself what nobody flushed for a while, so that little is lost with the process
    /// and dead frames give their blocks back.
    pub fn flush_if_due(&self, now_ms: u64) {
        let is_due = {
            let mut state = self.lock();
            let is_due =
                now_ms >= state.flushed_ms + FLUSH_AFTER_MS && state.dirty.as_ref().is_some_and(|d| !d.is_empty());
            if is_due {
                state.flushed_ms = now_ms;
            }
            is_due
        };
        if !is_due {
            return;
        }
        if self.flush().is_err() {
            self.lock().counters.cold_error += 1;
        }
        // No budget counts what a commit took for a moment.
        sys::trim_allocator();
    }

    fn pack_for_flush(&self) -> Result<()> {
        let big: Vec<u32> = {
            let state = self.lock();
            let is_big = |&number: &u32| state.tree.node(number).logical_bytes >= TAIL_BYTES_MIN;
            state.tails.iter().filter(is_big).collect()
        };
        for number in big {
            self.pack_tail(number, Effort::Full)?;
        }
        // What is put from now on is none of this flush's business, or it would never end.
        let is_unpacked = |state: &State, slot: u32| {
            state.smus.get(slot).is_some_and(|smu| smu.is_sealed && smu.packed == Packed::No)
        };
        let mut unpacked: Vec<u32> = {
            let state = self.lock();
            state.hot.iter().filter(|&slot| is_unpacked(&state, slot)).collect()
        };
        for _ in 0..ATTEMPTS {
            if unpacked.is_empty() {
                return Ok(());
            }
            for batch in unpacked.chunks(BATCH) {
                self.demote_smus(batch, true)?;
            }
            let state = self.lock();
            unpacked.retain(|&slot| is_unpacked(&state, slot));
            if state.all_busy(&unpacked) {
                drop(state);
                std::thread::sleep(PAUSE);
            }
        }
        Err(Error::new(ErrorKind::Io, "flush: content is being packed for too long"))
    }

    /// Makes frames durable until all of them are at one moment, and takes the changes then.
    fn durable_changes(&self) -> Result<crate::dirty::Changes> {
        for attempt in 0..ATTEMPTS {
            let undurable: Vec<u32> = {
                let mut state = self.lock();
                if attempt >= PATIENT_ATTEMPTS {
                    // They are made as fast as they are written. Now none is made.
                    self.write_undurable(&mut state)?;
                }
                if state.undurable.is_empty() {
                    return Ok(state.take_changes());
                }
                state.undurable.iter().copied().collect()
            };
            for batch in undurable.chunks(BATCH) {
                self.demote_frames(batch, true, false)?;
            }
            if self.lock().undurable.iter().any(|number| undurable.contains(number)) {
                std::thread::sleep(PAUSE);
            }
        }
        Err(Error::new(ErrorKind::Io, "flush: frames are made faster than they can be written"))
    }

    /// Ends the engine: whatever no pin needs is given back.
    pub fn clear(&self) {
        if let Some(ledger) = &self.ledger {
            drop(ledger.lock().take());
        }
        let mut state = self.lock();
        if let Some(kept) = state.kept.take() {
            kept.keeping.let_go_of_everything();
        }
        let hot: Vec<u32> = state.hot.iter().collect();
        for slot in hot {
            let Some(smu) = state.smus.get_mut(slot) else { continue };
            let (raw, claims) = (smu.raw.take(), smu.claims.clone());
            self.drop_raw(&mut state, slot, claims, agentmem_core::place::Place::Gone, raw);
        }
        let agents: Vec<_> = state.agents.iter().map(|agent| agent.shared.clone()).collect();
        agents.iter().for_each(|agent| agent.close());
        state.smus = Default::default();
        state.agents = Default::default();
        state.conversations = Default::default();
        // Whoever was just passing still walks over these, and must find no more than the tree has.
        state.tails = Default::default();
        state.warm = Default::default();
        state.tree = Default::default();
        state.frames = Default::default();
        state.index = Default::default();
        state.decoded.clear();
        self.inbox.lock().clear();
        self.hot_heap.close();
        self.frame_heap.close();
    }
}

impl State {
    fn all_busy(&self, slots: &[u32]) -> bool {
        slots.iter().all(|&slot| self.smus.get(slot).is_some_and(|smu| smu.is_busy))
    }
}
