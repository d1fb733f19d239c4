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
use agentmem_core::Result;
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
    /// A new one, whose session rings `bell` when the engine sleeps.
    pub fn new(shape: Shape, bell: &Arc<EventFd>) -> Result<Self> {
        assert!(shape.claims.is_power_of_two());
        let memory = Arc::new(Mapping::memfd("agentmem-arena", shape.len_bytes())?);
        Self::over(memory, shape, bell)
    }

    fn over(memory: Arc<Mapping>, shape: Shape, bell: &Arc<EventFd>) -> Result<Self> {
        let control = Words::within(&memory, shape.words_at(0), CONTROL_WORDS);
        let cells = Words::within(&memory, shape.words_at(1), shape.cells * CELL_WORDS);
        let claims = Words::within(&memory, shape.words_at(2), shape.claims);
        let ring = Ring::over(control, cells, memory, shape.words_at(3), shape.data_bytes, bell.clone());
        Ok(Arena { ring, claims: ClaimTable::over(claims) })
    }
}
