//! Semantic memory units that have a slot of their own.

use crate::claims::{Claim, Claims};
use crate::held::Held;
use crate::raw::Raw;
use crate::slots::SLOTS_MAX;
use agentmem_core::{ContentId, Error, ErrorKind, Kind, Result};
use hashbrown::HashTable;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

/// Where the compressed form is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Packed {
    /// Not compressed yet.
    No,
    /// Item `item` of `frame`.
    Item {
        /// The frame.
        frame: u32,
        /// Which item.
        item: u32,
    },
    /// Too large for one frame: `count` frames with consecutive numbers.
    Parts {
        /// The first.
        first: u32,
        /// How many.
        count: u32,
    },
}

impl Packed {
    /// The frames that it lies in.
    pub fn frames(self) -> std::ops::Range<u32> {
        match self {
            Packed::No => 0..0,
            Packed::Item { frame, .. } => frame..frame + 1,
            Packed::Parts { first, count } => first..first + count,
        }
    }
}

/// One content.
#[derive(Debug)]
pub struct Smu {
    /// Its id, once it is sealed.
    pub id: ContentId,
    /// Whether the engine has hashed it.
    pub is_sealed: bool,
    /// Its length.
    pub logical_bytes: u64,
    /// The raw bytes, while hot.
    pub raw: Option<Arc<Raw>>,
    /// The compressed bytes.
    pub packed: Packed,
    /// Lease references of all agents.
    pub leases: u32,
    /// Agents that hold one or more.
    pub agents: u32,
    /// The agent that put or attached it last.
    pub agent: u32,
    /// When it was last used, as far as the engine has seen.
    pub used_ms: u64,
    /// Reading of its claims' use counters at that time, modulo 2^16.
    pub uses_seen: u16,
    /// What may pin it.
    pub claims: Claims,
    /// What it is.
    pub kind: Kind,
    /// 0 to 100.
    pub importance: u8,
    /// Advised to stay hot.
    pub keep_hot: bool,
    /// It was found not to shrink.
    pub stays_raw: bool,
    /// A job works on it.
    pub is_busy: bool,
}

impl Smu {
    /// Whether it is in RAM as it was put.
    pub fn is_hot(&self) -> bool {
        self.raw.is_some() && !self.is_squeezed()
    }

    /// What the kernel module has of it, if it is there.
    pub fn held(&self) -> Option<&Held> {
        self.raw.as_ref().and_then(|raw| raw.held())
    }

    /// Whether the kernel module has it compressed.
    pub fn is_squeezed(&self) -> bool {
        self.held().is_some_and(Held::is_squeezed)
    }

    /// Whether other stores hold it in the kernel module too.
    pub fn is_shared(&self) -> bool {
        self.held().is_some_and(Held::is_shared)
    }

    /// Whether its raw bytes are those in `raw`.
    pub fn raw_is(&self, raw: &Arc<Raw>) -> bool {
        self.raw.as_ref().is_some_and(|now| Arc::ptr_eq(now, raw))
    }
}

/// What a slot is used for.
#[derive(Debug)]
pub enum SlotUse {
    /// Nothing: it may be given out, or is waiting in a cell of the ring.
    Free,
    /// A content.
    Smu(Box<Smu>),
    /// A put of content that another slot holds; `agent`'s reference was moved there.
    Alias(Box<Alias>),
}

/// What a slot is whose content another one holds.
#[derive(Debug)]
pub struct Alias {
    /// The slot that holds it.
    pub to: u32,
    /// Whose handle this slot is.
    pub agent: u32,
    /// What that handle pins with; it is among the claims of `to`.
    pub claim: Claim,
}

/// All slots, the content index and the names.
#[derive(Debug, Default)]
pub struct Smus {
    slots: Vec<SlotUse>,
    free: Vec<u32>,
    by_id: HashTable<u32>,
    names: HashMap<Box<str>, u32>,
    /// The names of each slot that has any, oldest first: few have.
    names_of: HashMap<u32, Vec<Box<str>>>,
    /// Names of content that is not sealed yet, oldest first: a name is given with the id, so that
    /// it outlives a second put of the same content.
    later: BTreeMap<u64, (Box<str>, u32)>,
    live: usize,
    aliases: usize,
}

/// What the allocator takes for `len` bytes: a word of its own, all of it in steps of sixteen.
const fn block_bytes(len: usize) -> usize {
    (len + 8).next_multiple_of(16)
}

impl Smus {
    /// Uses `slot`, as a stored table had it.
    pub fn restore(&mut self, slot: u32, using: SlotUse) {
        self.reserve(slot);
        let is_sealed = matches!(&using, SlotUse::Smu(smu) if smu.is_sealed);
        self.set(slot, using);
        if is_sealed {
            self.index(slot);
        }
    }

    /// There is a slot of that number.
    pub fn reserve(&mut self, slot: u32) {
        if self.slots.len() <= slot as usize {
            self.slots.resize_with(slot as usize + 1, || SlotUse::Free);
        }
    }

    /// After all were restored: slots are free that nothing uses, and that are not `waiting`.
    pub fn restored(&mut self, waiting: &HashSet<u32>) {
        let is_free = |slot: &u32| matches!(self.slots[*slot as usize], SlotUse::Free) && !waiting.contains(slot);
        self.free = (0..self.slots.len() as u32).filter(is_free).collect();
    }

    /// A slot that nobody uses.
    pub fn take_slot(&mut self) -> Result<u32> {
        if let Some(slot) = self.free.pop() {
            return Ok(slot);
        }
        if self.slots.len() >= SLOTS_MAX {
            return Err(Error::new(ErrorKind::LimitReached, format!("{SLOTS_MAX} slots")));
        }
        self.slots.push(SlotUse::Free);
        Ok(self.slots.len() as u32 - 1)
    }

    /// Whether [`Self::take_slot`] would succeed.
    pub fn has_free_slot(&self) -> bool {
        !self.free.is_empty() || self.slots.len() < SLOTS_MAX
    }

    /// The slot is used from now on.
    pub fn set(&mut self, slot: u32, using: SlotUse) {
        match using {
            SlotUse::Smu(_) => self.live += 1,
            SlotUse::Alias(_) => self.aliases += 1,
            SlotUse::Free => {}
        }
        self.slots[slot as usize] = using;
    }

    /// The slot is not used any more; returns what it was used for.
    pub fn clear(&mut self, slot: u32) -> SlotUse {
        let was = std::mem::replace(&mut self.slots[slot as usize], SlotUse::Free);
        match &was {
            SlotUse::Smu(smu) => {
                self.live -= 1;
                for name in self.names_of.remove(&slot).unwrap_or_default() {
                    self.names.remove(&name);
                }
                if !smu.is_sealed {
                    self.later.retain(|_, (_, other)| *other != slot);
                } else if let Ok(found) = self.by_id.find_entry(smu.id.hash64(), |&other| other == slot) {
                    found.remove();
                }
            }
            SlotUse::Alias(_) => self.aliases -= 1,
            SlotUse::Free => {}
        }
        was
    }

    /// The slot may be given out again.
    pub fn give_back(&mut self, slot: u32) {
        self.free.push(slot);
    }

    /// The content in `slot`.
    pub fn get(&self, slot: u32) -> Option<&Smu> {
        match self.slots.get(slot as usize)? {
            SlotUse::Smu(smu) => Some(smu),
            _ => None,
        }
    }

    /// The content in `slot`.
    pub fn get_mut(&mut self, slot: u32) -> Option<&mut Smu> {
        match self.slots.get_mut(slot as usize)? {
            SlotUse::Smu(smu) => Some(smu),
            _ => None,
        }
    }

    /// What `slot` is used for.
    pub fn using(&self, slot: u32) -> &SlotUse {
        self.slots.get(slot as usize).unwrap_or(&SlotUse::Free)
    }

    /// The slot that holds the content of `slot`.
    pub fn resolve(&self, slot: u32) -> u32 {
        match self.using(slot) {
            SlotUse::Alias(alias) => alias.to,
            _ => slot,
        }
    }

    /// The slot that holds content `id`.
    pub fn find(&self, id: &ContentId) -> Option<u32> {
        self.by_id.find(id.hash64(), |&slot| self.get(slot).is_some_and(|smu| smu.id == *id)).copied()
    }

    /// Enters the sealed content of `slot` into the content index.
    pub fn index(&mut self, slot: u32) {
        let slots = &self.slots;
        let hash = |&slot: &u32| match &slots[slot as usize] {
            SlotUse::Smu(smu) => smu.id.hash64(),
            _ => unreachable!("the index names contents"),
        };
        self.by_id.insert_unique(hash(&slot), slot, hash);
    }

    /// The slot that `name` names.
    pub fn named(&self, name: &str) -> Option<u32> {
        self.names.get(name).copied()
    }

    /// The content in `slot` gets `name` once it is sealed.
    pub fn name_later(&mut self, name: &str, slot: u32) {
        if self.get(slot).is_some() {
            let number = self.later.last_key_value().map_or(0, |(last, _)| last + 1);
            self.later.insert(number, (name.into(), slot));
        }
    }

    /// The first slot that waits to be sealed and to be called `name` then.
    pub fn waiting_for(&self, name: &str) -> Option<u32> {
        self.later.values().find(|(waiting, _)| **waiting == *name).map(|&(_, slot)| slot)
    }

    /// The newest name of `slot`, or the one that it waits for.
    pub fn name_of(&self, slot: u32) -> Option<&str> {
        let given = self.names_of.get(&slot).and_then(|names| names.last());
        let waiting = || self.later.values().rev().find(|(_, other)| *other == slot).map(|(name, _)| name);
        given.or_else(waiting).map(|name| &**name)
    }

    /// The names that `slot` waits for, with their places in the queue of all.
    pub fn waiting_names(&self, slot: u32) -> Vec<(u64, Box<str>)> {
        let own = self.later.iter().filter(|(_, (_, other))| *other == slot);
        own.map(|(&number, (name, _))| (number, name.clone())).collect()
    }

    /// Puts a name back where it waited.
    pub fn restore_waiting(&mut self, number: u64, name: Box<str>, slot: u32) {
        self.later.insert(number, (name, slot));
    }

    /// The names that `slot` was waiting for.
    pub fn take_waiting(&mut self, slot: u32) -> Vec<Box<str>> {
        let mut names = Vec::new();
        self.later.retain(|_, (name, other)| {
            if *other == slot {
                names.push(std::mem::take(name));
            }
            *other != slot
        });
        names
    }

    /// Makes `name` name `slot` and nothing else.
    pub fn name(&mut self, name: &str, slot: u32) {
        if let Some(before) = self.names.insert(name.into(), slot)
            && let Some(names) = self.names_of.get_mut(&before)
        {
            names.retain(|other| **other != *name);
        }
        self.names_of.entry(slot).or_default().push(name.into());
    }

    /// The names of `slot`, oldest first.
    pub fn names_of(&self, slot: u32) -> Vec<Box<str>> {
        self.names_of.get(&slot).cloned().unwrap_or_default()
    }

    /// Every slot whose content another holds.
    #[cfg(test)]
    pub fn aliases(&self) -> Vec<u32> {
        let is_alias = |slot: &u32| matches!(self.slots[*slot as usize], SlotUse::Alias(_));
        (0..self.slots.len() as u32).filter(is_alias).collect()
    }

    /// Every name that was given.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.keys().map(|name| &**name)
    }

    /// Every content with its slot.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &Smu)> {
        (0..self.slots.len() as u32).filter_map(|slot| Some((slot, self.get(slot)?)))
    }

    /// One past the highest slot that was ever used.
    pub fn slot_count(&self) -> u32 {
        self.slots.len() as u32
    }

    /// How many contents there are.
    pub fn len(&self) -> usize {
        self.live
    }

    /// Bytes that the tables take, the slot and claim words included.
    pub fn table_bytes(&self) -> u64 {
        let slots = self.slots.len() * (size_of::<SlotUse>() + 24) + self.free.capacity() * 4;
        // Raw bytes are behind an `Arc`, which counts its owners in two words.
        // Claims beyond the first of each content are few: of what is shared between sessions.
        let contents = self.live * (block_bytes(size_of::<Smu>()) + block_bytes(16 + size_of::<Raw>()));
        let aliases = self.aliases * block_bytes(size_of::<Alias>());
        let index = self.by_id.capacity() * 5;
        let names: usize = self.names.len() * 192 + self.later.len() * 64;
        (slots + contents + aliases + index + names) as u64
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_content_takes_two_small_blocks() {
        assert_eq!(size_of::<SlotUse>(), 16);
        assert_eq!(block_bytes(size_of::<Smu>()), 112);
        assert_eq!(block_bytes(16 + size_of::<Raw>()), 48);
    }

    #[test]
    fn tables_count_what_is_there() {
        let mut smus = Smus::default();
        let slot = smus.take_slot().unwrap();
        let empty_bytes = smus.table_bytes();
        let alias = Alias { to: 7, agent: 1, claim: Claim { session: 1, index: 1 } };
        smus.set(slot, SlotUse::Alias(Box::new(alias)));
        assert_eq!(smus.table_bytes() - empty_bytes, 32);
        smus.clear(slot);
        assert_eq!(smus.table_bytes(), empty_bytes);
    }
}
