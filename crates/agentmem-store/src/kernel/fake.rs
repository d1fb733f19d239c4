//! What behaves like the module where there is none, so that tests of the engine can be run anywhere. It keeps
//! every page, and says which ones the module would have compressed.

use super::{Mark, Residence};
use crate::sys::{Mapping, PAGE_BYTES};
use agentmem_core::codec::Compressor;
use agentmem_core::frame::{self, Item, Meta};
use agentmem_core::{Error, ErrorKind, Result};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

/// See the module.
#[derive(Debug, Default)]
pub struct Fake {
    contents: Mutex<BTreeMap<u64, Content>>,
    /// Where the next content goes, in pages: as with the module, no place is used again.
    next: Mutex<u64>,
}

#[derive(Debug)]
struct Content {
    memory: Mapping,
    len: usize,
    leases: u32,
    residence: Residence,
}

impl Content {
    fn bytes(&self) -> &[u8] {
        // SAFETY: written before anybody knew of it, and mapped while `self` lives.
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr(), self.len) }
    }
}

fn not_leased(id: u64) -> Error {
    Error::new(ErrorKind::Io, format!("content {id} is not leased"))
}

impl Fake {
    pub fn alloc(&self, content: &[u8]) -> Result<u64> {
        let mut contents = self.contents.lock();
        if let Some((&id, found)) = contents.iter_mut().find(|(_, found)| found.bytes() == content) {
            found.leases += 1;
            return Ok(id);
        }
        let memory = Mapping::writable("agentmem-fake", content.len())?;
        memory.copy_in(0, content);
        memory.fix_len()?;
        let residence = Residence { resident_bytes: memory.len() as u64, agents: 1, ..Residence::default() };
        let mut next = self.next.lock();
        let id = *next + 1;
        *next += memory.len() as u64 / PAGE_BYTES;
        contents.insert(id, Content { memory, len: content.len(), leases: 1, residence });
        Ok(id)
    }

    pub fn map(&self, id: u64, len: usize) -> Result<Mapping> {
        let contents = self.contents.lock();
        let found = contents.get(&id).filter(|found| len <= found.len).ok_or_else(|| not_leased(id))?;
        Mapping::readable(&found.memory.descriptor()?, 0, len)
    }

    pub fn lend(&self, id: u64) -> Result<OwnedFd> {
        self.contents.lock().get(&id).ok_or_else(|| not_leased(id))?.memory.read_only()
    }

    pub fn free(&self, id: u64) {
        let mut contents = self.contents.lock();
        let found = contents.get_mut(&id).expect("only what is leased is given back");
        found.leases -= 1;
        if found.leases == 0 {
            contents.remove(&id);
        }
    }

    pub fn mark(&self, id: u64, mark: Mark) {
        let mut contents = self.contents.lock();
        let found = contents.get_mut(&id).expect("only what is leased is marked");
        let pages_bytes = found.memory.len() as u64;
        match mark {
            Mark::Normal => {}
            Mark::Hot | Mark::WillNeed => found.residence.resident_bytes = pages_bytes,
            Mark::Cold => {
                let mut compressor = Compressor::new(3).expect("a level");
                let item = Item { bytes: found.bytes(), meta: Meta::default() };
                let stored = frame::encode_with(&mut compressor, &[item]).expect("one item").len() as u64;
                let (raw_bytes, stored_bytes) =
                    if stored > pages_bytes / 8 * 7 { (pages_bytes, 0) } else { (0, stored) };
                found.residence = Residence { resident_bytes: raw_bytes, raw_bytes, stored_bytes, agents: 1 };
            }
        }
    }

    pub fn residence(&self, id: u64) -> Residence {
        self.contents.lock().get(&id).expect("only what is leased is looked at").residence
    }
}
