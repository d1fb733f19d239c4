//! Arenas: the memory that one session shares with the engine, and alone writes to.
//!
//! ```text
//! control words of the ring | its cells | claim words | the ring's bytes
//! ```
//! It is one memfd of fixed length, so that whoever has its descriptor has all of it.

use crate::claims::ClaimTable;
use crate::ring::{CELL_WORDS, CONTROL_WORDS, Ring};
use crate::sync::Words;
use crate::sys::{EventFd, Mapping, PAGE_BYTES};
use agentmem_core::{Error, ErrorKind, Result};
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// How large the parts of an arena are. All are powers of two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Operations that may wait for the engine.
    pub cells: usize,
    /// Bytes of theirs.
    pub data_bytes: usize,
    /// Handles that the session may hold.
    pub claims: usize,
}

/// One arena, as either side sees it.
#[derive(Debug)]
pub struct Arena {
    memory: Arc<Mapping>,
    shape: Shape,
    /// Operations on their way to the engine.
    pub ring: Ring,
    /// What the session is looking at.
    pub claims: ClaimTable,
}

impl Shape {
    fn words_at(self, part: usize) -> usize {
        let pages = |words: usize| (words * 8).next_multiple_of(PAGE_BYTES as usize);
        let parts = [pages(CONTROL_WORDS), pages(self.cells * CELL_WORDS), pages(self.claims)];
        parts[..part].iter().sum()
    }

    /// Bytes of address space; memory is taken where it is touched.
    pub fn len_bytes(self) -> usize {
        self.words_at(3) + self.data_bytes
    }
}

impl Arena {
    /// A new one, whose session rings `bell` when the engine sleeps; to be lent to another process or not.
    pub fn new(shape: Shape, lends: bool, bell: &Arc<EventFd>) -> Result<Self> {
        let memory = match lends {
            true => Mapping::writable("agentmem-arena", shape.len_bytes())?,
            false => Mapping::memfd("agentmem-arena", shape.len_bytes())?,
        };
        if lends {
            // A session that made it shorter would hurt the engine.
            memory.fix_len()?;
        }
        Ok(Self::over(Arc::new(memory), shape, bell))
    }

    /// One that an engine lent to this process.
    pub fn lent(descriptor: OwnedFd, shape: Shape, bell: &Arc<EventFd>) -> Result<Self> {
        let is_sound = shape.cells.is_power_of_two()
            && shape.claims.is_power_of_two()
            && shape.data_bytes.is_power_of_two()
            && shape.data_bytes >= PAGE_BYTES as usize;
        if !is_sound {
            return Err(Error::new(ErrorKind::Version, "the shape of the daemon's arena"));
        }
        Ok(Self::over(Arc::new(Mapping::lent(descriptor, shape.len_bytes())?), shape, bell))
    }

    /// A descriptor of it, for the session.
    pub fn lend(&self) -> Result<OwnedFd> {
        self.memory.descriptor()
    }

    /// One that is kept: a new one, or one that an earlier process lent and drained up to `tail`.
    pub fn kept(memory: Mapping, shape: Shape, bell: &Arc<EventFd>, tail: u64) -> Result<Self> {
        if memory.len() < shape.len_bytes() {
            return Err(Error::new(ErrorKind::Damaged, "the kept memory of a session"));
        }
        let Arena { memory, shape, ring, claims } = Self::over(Arc::new(memory), shape, bell);
        Ok(Arena { memory, shape, ring: ring.kept(tail), claims })
    }

    fn over(memory: Arc<Mapping>, shape: Shape, bell: &Arc<EventFd>) -> Self {
        let control = Words::within(&memory, shape.words_at(0), CONTROL_WORDS);
        let cells = Words::within(&memory, shape.words_at(1), shape.cells * CELL_WORDS);
        let claims = Words::within(&memory, shape.words_at(2), shape.claims);
        let ring = Ring::over(control, cells, memory.clone(), shape.words_at(3), shape.data_bytes, bell.clone());
        Arena { memory, shape, ring, claims: ClaimTable::over(claims) }
    }

    /// How large its parts are.
    pub fn shape(&self) -> Shape {
        self.shape
    }
}
