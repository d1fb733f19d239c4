//! Raw bytes of one content, wherever they are resident.

use crate::heap::{Extent, Heap};
use crate::held::Held;
use crate::records::KeptRaw;
use crate::segments::{Large, Segments};
use agentmem_core::Result;
use agentmem_core::place::Place;
use std::sync::Arc;

/// From this length on, content gets a memfd of its own.
pub const LARGE_BYTES: usize = 1 << 20;

/// Resident, readable, immutable bytes. Whoever clones the `Arc` keeps them.
#[derive(Debug)]
pub enum Raw {
    /// In the hot heap.
    Extent(Extent),
    /// Elsewhere. One box for what is rare takes no more in what is not.
    Apart(Box<Apart>),
}

/// Bytes that are not in the hot heap.
#[derive(Debug)]
pub enum Apart {
    /// In a memfd of its own.
    Large(Large),
    /// In the kernel module.
    Held(Held),
}

impl Raw {
    /// Space for `len` bytes that `fill` writes: in the heap where no more may have a memfd of their own, since what
    /// is in the store already is not refused for that.
    pub fn with(
        heap: &Arc<Heap>,
        segments: &Arc<Segments>,
        len: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<()>,
    ) -> Result<Self> {
        if len >= LARGE_BYTES && segments.may_add_large() {
            return Ok(Large::with(segments, len, fill)?.into());
        }
        Ok(Raw::Extent(heap.store_with(len, fill)?))
    }

    /// What the kernel module has of it, if it is there.
    pub fn held(&self) -> Option<&Held> {
        match self {
            Raw::Apart(apart) => match &**apart {
                Apart::Held(held) => Some(held),
                Apart::Large(_) => None,
            },
            Raw::Extent(_) => None,
        }
    }

    /// The content.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Raw::Extent(extent) => extent.bytes(),
            Raw::Apart(apart) => match &**apart {
                Apart::Large(large) => large.bytes(),
                Apart::Held(held) => held.bytes(),
            },
        }
    }

    /// Its length.
    pub fn len(&self) -> usize {
        self.bytes().len()
    }

    /// What is stored for it while nothing else is: less than its length where the module compressed it.
    pub fn stored_bytes(&self) -> u64 {
        match self.held() {
            Some(held) if held.is_squeezed() => held.ram_bytes(),
            _ => self.len() as u64,
        }
    }

    /// Where a later process finds it.
    pub fn kept(&self) -> KeptRaw {
        match self {
            Raw::Extent(extent) => KeptRaw::Extent { start: extent.start(), len: extent.len_bytes() as u64 },
            Raw::Apart(apart) => match &**apart {
                Apart::Large(large) => {
                    let len = large.bytes().len() as u64;
                    KeptRaw::Large { segment: large.segment(), incarnation: large.incarnation(), len }
                }
                Apart::Held(_) => unreachable!("a store whose memory is kept has no module"),
            },
        }
    }

    /// Where a slot word says it is.
    pub fn place(&self) -> Place {
        match self {
            Raw::Extent(extent) => extent.place(),
            Raw::Apart(apart) => match &**apart {
                Apart::Large(large) => Place::Hot { segment: large.segment(), offset_bytes: 0 },
                Apart::Held(held) => held.place(),
            },
        }
    }
}

impl From<Large> for Raw {
    fn from(large: Large) -> Self {
        Raw::Apart(Box::new(Apart::Large(large)))
    }
}

impl From<Held> for Raw {
    fn from(held: Held) -> Self {
        Raw::Apart(Box::new(Apart::Held(held)))
    }
}
