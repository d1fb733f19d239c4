//! Sessions, as a process that puts and views has them.

use crate::arena::{Arena, Shape};
use crate::engine::Engine;
use crate::raw::LARGE_BYTES;
use crate::segments::Segments;
use crate::slots::Slots;
use crate::sys::ForkGuard;
use agentmem_core::{Error, ErrorKind, Result};
use std::sync::Arc;

/// What handles need to put and to view without asking the engine.
pub struct Session {
    /// Who is asked for everything else.
    pub engine: Arc<Engine>,
    /// Its number.
    pub number: u32,
    /// What it writes to.
    pub arena: Arc<Arena>,
    /// Where each SMU is.
    pub slots: Arc<Slots>,
    /// Mappings by number.
    pub segments: Arc<Segments>,
    guard: ForkGuard,
}

impl Session {
    /// A session with an engine in the same process.
    pub fn embedded(engine: &Arc<Engine>, shape: Shape) -> Result<Self> {
        let (number, arena) = engine.add_session(shape, true)?;
        let (slots, segments) = (engine.slots.clone(), engine.segments.clone());
        Ok(Session { engine: engine.clone(), number, arena, slots, segments, guard: ForkGuard::new()? })
    }

    /// Fails in a forked child, and after close.
    #[inline]
    pub fn check_usable(&self) -> Result<()> {
        if !self.is_same_process() {
            return Err(Error::new(ErrorKind::ForkedChild, "this store"));
        }
        self.engine.check_usable()
    }

    /// Whether the process is still the one that it was made in.
    #[inline]
    pub fn is_same_process(&self) -> bool {
        self.guard.is_same_process()
    }

    /// Whether content of `len` bytes goes into a memfd of its own instead of through the ring.
    #[inline]
    pub fn is_large(&self, len: usize) -> bool {
        len >= LARGE_BYTES || len + 256 > self.arena.ring.data_bytes_max()
    }

    /// Takes in what was published here.
    pub fn drain(&self) -> Result<()> {
        self.engine.drain()
    }

    /// Whether all that was published is taken in.
    pub fn is_drained(&self) -> bool {
        let ring = &self.arena.ring;
        ring.is_drained_to(ring.head())
    }
}
