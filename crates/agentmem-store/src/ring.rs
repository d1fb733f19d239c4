//! The ingest arena: a ring of cells and a ring of bytes, written by an agent's process and
//! drained by the engine.
//!
//! A put claims one cell and its bytes with one compare-and-swap, copies, and publishes with one
//! release store; there is no lock and no system call unless the engine sleeps. A cell comes with
//! a slot and a claim that the engine assigned before it gave the cell back, so a put knows them at once.
//!
//! ```text
//! head, tail: cells claimed (24 bits), a flag, and units of 64 bytes claimed (39 bits), both modular
//! cell:       stamp, start, operation, target, len, around, slot and claim, key
//! ```
//! The engine takes nothing on trust: what it reads from a cell is checked against the ring.

use crate::ranges::Range;
use crate::sync::{AtomicU64, Ordering, Words, fence, yield_now};
use crate::sys::{EventFd, Mapping, PAGE_BYTES};
use agentmem_core::frame::Meta;
use agentmem_core::place::UNIT_BYTES;
use agentmem_core::{Error, ErrorKind, Kind, Result};
use parking_lot::Mutex;
use std::sync::Arc;

/// Cells in one ring: puts that may wait for the engine at the same time.
pub const CELLS: usize = 1 << 14;
/// Words of one cell.
pub const CELL_WORDS: usize = 8;
const CELL_SHIFT: u32 = 40;
const UNIT_MASK: u64 = (1 << 39) - 1;
/// In the head: the engine is giving free pages back, and nobody claims any.
const TRIMMING: u64 = 1 << 39;
/// How often a put looks again whether it still is, before it takes the ring for full.
const TRIMMING_LOOKS: u32 = 1000;
const CELL_MASK: u64 = (1 << 24) - 1;
// Control words, a cache line apart.
const HEAD: usize = 0;
const TAIL: usize = 8;
const SLEEPING: usize = 16;
const NOTICES: usize = 24;
const ALLOWANCE: usize = 32;
/// Beside the allowance: it is looked at when that does not do.
const LEFT: usize = 33;
/// Words that both ends steer by.
pub const CONTROL_WORDS: usize = 40;
/// An allowance of as much as there is.
const ANYTHING: u64 = u64::MAX;

/// What an agent tells the engine through the ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// New content; the first `name_bytes` of the bytes are its name.
    Put {
        /// What it is.
        kind: Kind,
        /// 0 to 100.
        importance: u8,
        /// Length of the name in front of the content; 0 for none.
        name_bytes: u16,
        /// Not 0: the content is in a memfd of its own, left by the session under this key.
        key: u64,
    },
    /// One message for a conversation.
    Append {
        /// Which conversation.
        conversation: u32,
        /// How the message was given.
        meta: Meta,
        /// As for `Put`.
        key: u64,
    },
    /// One lease of the agent on `slot` is given back.
    Release {
        /// Which slot.
        slot: u32,
        /// Its generation, as the handle knows it.
        generation: u64,
    },
}

/// An operation as the engine finds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cell {
    /// Agent that it comes from.
    pub agent: u32,
    /// What to do.
    pub operation: Operation,
    /// Which cell of the ring it is.
    pub cell: usize,
    start: u64,
    len: u64,
}

/// What comes with a cell: where content put with it will be, and what pins it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Given {
    /// A slot.
    pub slot: u32,
    /// A word of the session's claim table.
    pub claim: u32,
}

impl Given {
    fn from_word(word: u64) -> Self {
        Given { slot: word as u32, claim: (word >> 32) as u32 }
    }

    fn to_word(self) -> u64 {
        u64::from(self.claim) << 32 | u64::from(self.slot)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Position {
    cell: u64,
    unit: u64,
}

impl Position {
    fn from_word(word: u64) -> Self {
        Position { cell: word >> CELL_SHIFT, unit: word & UNIT_MASK }
    }

    fn to_word(self) -> u64 {
        (self.cell & CELL_MASK) << CELL_SHIFT | self.unit & UNIT_MASK
    }

    fn since(self, earlier: Position) -> Position {
        Position {
            cell: self.cell.wrapping_sub(earlier.cell) & CELL_MASK,
            unit: self.unit.wrapping_sub(earlier.unit) & UNIT_MASK,
        }
    }
}

/// One ring, as either end sees it.
#[derive(Debug)]
pub struct Ring {
    control: Words,
    cells: Words,
    cell_count: usize,
    memory: Arc<Mapping>,
    /// Where the bytes begin in `memory`.
    data_at: usize,
    data_units: u64,
    bell: Mutex<Option<Arc<EventFd>>>,
    /// The engine's own tail. The shared word is for the session to read, and the session's to spoil.
    tail: AtomicU64,
    /// Whether the session is told of the tail only by [`Ring::settle`]: what it may write over must be kept
    /// elsewhere by then.
    settles: bool,
    /// The tail as of the last [`Ring::settle`].
    settled: AtomicU64,
    /// Where the bytes never touched since the last trim begin, and what was in use then.
    trimmed: Mutex<(u64, u64)>,
}

/// There was no room: the engine has to drain first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

impl Ring {
    /// The ring that lies in `control`, `cells` and the `data_bytes` of `memory` at `data_at`.
    pub fn over(
        control: Words,
        cells: Words,
        memory: Arc<Mapping>,
        data_at: usize,
        data_bytes: usize,
        bell: Arc<EventFd>,
    ) -> Self {
        let cell_count = cells.len() / CELL_WORDS;
        assert!(cell_count.is_power_of_two() && data_bytes.is_power_of_two() && data_bytes >= 4096);
        assert!(data_at.is_multiple_of(PAGE_BYTES as usize) && data_at + data_bytes <= memory.len());
        Ring {
            control,
            cells,
            cell_count,
            memory,
            data_at,
            data_units: data_bytes as u64 / UNIT_BYTES,
            bell: Mutex::new(Some(bell)),
            tail: AtomicU64::new(0),
            settles: false,
            settled: AtomicU64::new(0),
            trimmed: Mutex::new((0, 0)),
        }
    }

    /// Engine: the session is told how far it was drained only by [`Self::settle`], and until now it was
    /// drained up to `tail`.
    pub fn kept(self, tail: u64) -> Self {
        let trimmed = Mutex::new((Position::from_word(tail).unit, self.data_units));
        let head_word = self.control[HEAD].load(Ordering::Acquire);
        if head_word & TRIMMING != 0 {
            self.end_trimming(head_word);
        }
        self.control[TAIL].store(tail, Ordering::Release);
        Ring { settles: true, tail: AtomicU64::new(tail), settled: AtomicU64::new(tail), trimmed, ..self }
    }

    /// Engine: how far it was drained, to go on from there.
    pub fn tail_word(&self) -> u64 {
        self.tail.load(Ordering::Acquire)
    }

    /// Engine: what was drained can be written over.
    pub fn settle(&self) {
        let tail = self.tail_word();
        self.settled.store(tail, Ordering::Release);
        self.control[TAIL].store(tail, Ordering::Release);
    }

    /// Engine: what was published and not drained yet, with the cells that it lies in.
    pub fn waiting(&self) -> impl Iterator<Item = (Cell, &[u8])> {
        let first = self.tail().cell;
        let published = move |offset: &u64| {
            let cell = first.wrapping_add(*offset) & CELL_MASK;
            self.word(cell, 0).load(Ordering::Acquire) == cell + 1
        };
        let cells = (0..self.cell_count as u64).take_while(published);
        cells.filter_map(move |offset| self.read(first.wrapping_add(offset) & CELL_MASK))
    }

    /// Cells in it.
    pub fn cell_count(&self) -> usize {
        self.cell_count
    }

    /// Engine: what the next operation in `cell` comes with.
    pub fn give(&self, cell: usize, given: Given) {
        self.word(cell as u64, 6).store(given.to_word(), Ordering::Relaxed);
    }

    /// Engine: what the session knows of its agents is not so any more.
    pub fn notify(&self) {
        self.control[NOTICES].fetch_add(1, Ordering::Release);
    }

    /// Agent: how often the engine said so.
    #[inline]
    pub fn notices(&self) -> u64 {
        self.control[NOTICES].load(Ordering::Acquire)
    }

    /// Agent: takes `bytes` from what the session may put (see quota.rs); whether it may put so much.
    #[inline]
    pub fn spend(&self, bytes: u64) -> bool {
        let allowance = &self.control[ALLOWANCE];
        let mut left = allowance.load(Ordering::Relaxed);
        while left != ANYTHING {
            let Some(rest) = left.checked_sub(bytes) else { return false };
            match allowance.compare_exchange_weak(left, rest, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(now) => left = now,
            }
        }
        true
    }

    /// Either end: the session may put `bytes` more.
    pub fn allow(&self, bytes: u64) {
        let add = |left: u64| if left == ANYTHING { None } else { Some(left.saturating_add(bytes)) };
        let _ = self.control[ALLOWANCE].fetch_update(Ordering::AcqRel, Ordering::Relaxed, add);
    }

    /// Engine: the session may put as much as it likes.
    pub fn allow_anything(&self) {
        self.control[ALLOWANCE].store(ANYTHING, Ordering::Release);
    }

    /// Engine: so much of the domain's quota is held by nobody.
    pub fn tell_left(&self, bytes: u64) {
        self.control[LEFT].store(bytes, Ordering::Relaxed);
    }

    /// Agent: how much that was when the engine looked last.
    pub fn left(&self) -> u64 {
        self.control[LEFT].load(Ordering::Relaxed)
    }

    /// Engine: the session may put nothing more; returns what it says it could have.
    pub fn allow_nothing(&self) -> u64 {
        self.control[ALLOWANCE].swap(0, Ordering::AcqRel)
    }

    /// Most bytes that one operation may carry: a quarter of the ring.
    pub fn data_bytes_max(&self) -> usize {
        (self.data_units * UNIT_BYTES / 4) as usize
    }

    /// RAM that the ring takes when all of it was used.
    pub fn capacity_bytes(&self) -> u64 {
        self.data_units * UNIT_BYTES + (self.cells.len() * 8) as u64
    }

    /// RAM that it takes now: what was touched since it was last trimmed.
    pub fn resident_bytes(&self) -> u64 {
        let head = Position::from_word(self.control[HEAD].load(Ordering::Acquire));
        let (from, in_use) = *self.trimmed.lock();
        let touched = (head.unit.wrapping_sub(from) & UNIT_MASK).saturating_add(in_use).min(self.data_units);
        touched * UNIT_BYTES + (self.cells.len() * 8) as u64
    }

    /// Engine: gives the pages of all free bytes back. Meanwhile nobody claims any, so that no put writes to
    /// what is being given back; and an engine that is killed meanwhile leaves no claim behind.
    pub fn trim(&self) {
        let tail = Position::from_word(self.settled.load(Ordering::Acquire));
        let head_word = self.control[HEAD].load(Ordering::Acquire);
        let head = Position::from_word(head_word);
        let used = head.since(tail);
        if used.cell >= self.cell_count as u64 || used.unit >= self.data_units {
            return;
        }
        let units = self.data_units - used.unit;
        let held =
            self.control[HEAD].compare_exchange(head_word, head_word | TRIMMING, Ordering::AcqRel, Ordering::Relaxed);
        if head_word & TRIMMING != 0 || held.is_err() {
            return; // somebody puts: it is no time to trim
        }
        let (first, size) = (head.unit % self.data_units, self.data_units * UNIT_BYTES);
        let (start, end) = (first * UNIT_BYTES, (first + units) * UNIT_BYTES);
        for (from, to) in [(start, end.min(size)), (0, end.saturating_sub(size))] {
            if let Some(pages) = (Range { start: from, end: to.max(from) }).interior(PAGE_BYTES) {
                self.memory.punch(self.data_at as u64 + pages.start, pages.len());
            }
        }
        *self.trimmed.lock() = (head.unit, used.unit);
        self.end_trimming(head_word | TRIMMING);
    }

    /// Puts go on. What a session made of its head meanwhile is its own affair.
    fn end_trimming(&self, head_word: u64) {
        let free = head_word & !TRIMMING;
        let _ = self.control[HEAD].compare_exchange(head_word, free, Ordering::AcqRel, Ordering::Relaxed);
    }

    /// Nobody sleeps at the other end any more.
    pub fn hang_up(&self) {
        self.bell.lock().take();
    }

    fn ring_bell(&self) {
        if let Some(bell) = &*self.bell.lock() {
            bell.ring();
        }
    }

    fn word(&self, cell: u64, word: usize) -> &crate::sync::AtomicU64 {
        &self.cells[(cell as usize & (self.cell_count - 1)) * CELL_WORDS + word]
    }

    /// Agent: publishes one operation that carries `parts`; returns what its cell comes with.
    #[inline]
    pub fn push(&self, agent: u32, operation: Operation, parts: [&[u8]; 2]) -> std::result::Result<Given, Full> {
        let len = parts[0].len() + parts[1].len();
        debug_assert!(len <= self.data_bytes_max());
        let (at, start) = self.claim(len as u64)?;
        // SAFETY: `claim` gave this thread `len` bytes from `start` on, inside the mapping.
        unsafe {
            let to = self.data().add((start % self.data_units * UNIT_BYTES) as usize);
            std::ptr::copy_nonoverlapping(parts[0].as_ptr(), to, parts[0].len());
            std::ptr::copy_nonoverlapping(parts[1].as_ptr(), to.add(parts[0].len()), parts[1].len());
        }
        let given = Given::from_word(self.word(at.cell, 6).load(Ordering::Relaxed));
        self.publish(at.cell, start, agent.into(), encode(operation), len as u64);
        fence(Ordering::SeqCst);
        self.wake_if_sleeping();
        Ok(given)
    }

    fn data(&self) -> *mut u8 {
        // SAFETY: inside the mapping, as checked when the ring was made.
        unsafe { self.memory.as_ptr().add(self.data_at) }
    }

    #[inline]
    fn publish(&self, cell: u64, start: u64, agent: u64, encoded: (u64, u64, u64, u64), len: u64) {
        let (code, target, around, key) = encoded;
        self.word(cell, 1).store(start, Ordering::Relaxed);
        self.word(cell, 2).store(code | agent << 32, Ordering::Relaxed);
        self.word(cell, 3).store(target, Ordering::Relaxed);
        self.word(cell, 4).store(len, Ordering::Relaxed);
        self.word(cell, 5).store(around, Ordering::Relaxed);
        self.word(cell, 7).store(key, Ordering::Relaxed);
        self.word(cell, 0).store((cell & CELL_MASK) + 1, Ordering::Release);
    }

    #[inline]
    fn claim(&self, len: u64) -> std::result::Result<(Position, u64), Full> {
        let units = len.div_ceil(UNIT_BYTES);
        let mut looks = 0;
        loop {
            // Tail before head: what is used is then never underestimated.
            let tail = Position::from_word(self.control[TAIL].load(Ordering::Acquire));
            let head_word = self.control[HEAD].load(Ordering::Acquire);
            if head_word & TRIMMING != 0 {
                looks += 1;
                if looks > TRIMMING_LOOKS {
                    return Err(Full);
                }
                yield_now();
                continue;
            }
            let head = Position::from_word(head_word);
            let to_end = self.data_units - head.unit % self.data_units;
            let pad = if units > to_end { to_end } else { 0 };
            let used = head.since(tail);
            if used.cell >= self.cell_count as u64 || used.unit + pad + units > self.data_units {
                if self.control[HEAD].load(Ordering::Acquire) == head_word {
                    return Err(Full);
                }
                continue;
            }
            let next = Position { cell: head.cell + 1, unit: head.unit + pad + units };
            if self.control[HEAD]
                .compare_exchange_weak(head_word, next.to_word(), Ordering::AcqRel, Ordering::Relaxed)
                .is_ok()
            {
                return Ok((head, (head.unit + pad) & UNIT_MASK));
            }
        }
    }

    /// Wakes the engine if it sleeps.
    #[inline]
    pub fn wake_if_sleeping(&self) {
        let sleeping = &self.control[SLEEPING];
        if sleeping.load(Ordering::Relaxed) == 1 && sleeping.swap(0, Ordering::AcqRel) == 1 {
            self.ring_bell();
        }
    }

    /// Engine: it is about to sleep; whether nothing was published. Either this finds what was, or whoever
    /// published it finds the flag and rings.
    pub fn says_it_sleeps(&self) -> bool {
        self.control[SLEEPING].store(1, Ordering::Release);
        fence(Ordering::SeqCst);
        self.is_empty()
    }

    /// Engine: it is awake.
    pub fn says_it_woke(&self) {
        self.control[SLEEPING].store(0, Ordering::Release);
    }

    /// Where the next operation will be: whoever drains up to here has seen all that was published
    /// before.
    pub fn head(&self) -> u64 {
        Position::from_word(self.control[HEAD].load(Ordering::Acquire)).cell
    }

    /// Whether every operation before `head` was drained. One that was begun and is not published
    /// yet is in the way of those behind it.
    pub fn is_drained_to(&self, head: u64) -> bool {
        let tail = Position::from_word(self.control[TAIL].load(Ordering::Acquire));
        let ahead = head.wrapping_sub(tail.cell) & CELL_MASK;
        ahead == 0 || ahead > self.cell_count as u64
    }

    /// Agent: whether every operation before `head` was published, so that the engine can drain all of them.
    pub fn is_published_to(&self, head: u64) -> bool {
        let tail = Position::from_word(self.control[TAIL].load(Ordering::Acquire)).cell;
        let is_published = |offset: u64| {
            let cell = tail.wrapping_add(offset) & CELL_MASK;
            self.word(cell, 0).load(Ordering::Acquire) == cell + 1
        };
        let ahead = head.wrapping_sub(tail) & CELL_MASK;
        ahead > self.cell_count as u64 || (0..ahead).all(is_published)
    }

    fn tail(&self) -> Position {
        Position::from_word(self.tail.load(Ordering::Acquire))
    }

    fn move_tail(&self, to: Position) {
        self.tail.store(to.to_word(), Ordering::Release);
        if !self.settles {
            self.settle();
        }
    }

    /// Engine: whether nothing is published that was not drained.
    pub fn is_empty(&self) -> bool {
        let tail = self.tail();
        self.word(tail.cell, 0).load(Ordering::Acquire) != tail.cell + 1
    }

    /// Engine, one thread at a time: the oldest published operation, with its bytes.
    pub fn peek(&self) -> Option<Result<(Cell, &[u8])>> {
        let tail = self.tail();
        if self.word(tail.cell, 0).load(Ordering::Acquire) != tail.cell + 1 {
            return None;
        }
        Some(self.read(tail.cell).ok_or_else(|| Error::new(ErrorKind::Damaged, "a cell of the ingest arena")))
    }

    fn read(&self, at: u64) -> Option<(Cell, &[u8])> {
        let words: [u64; CELL_WORDS] = std::array::from_fn(|word| self.word(at, word).load(Ordering::Relaxed));
        let (start, len) = (words[1], words[4]);
        let first = start % self.data_units;
        if start > UNIT_MASK
            || len > self.data_units * UNIT_BYTES
            || first * UNIT_BYTES + len > self.data_units * UNIT_BYTES
        {
            return None;
        }
        let operation = decode(words[2] as u32, words[3], words[5], words[7], len)?;
        let index = at as usize & (self.cell_count - 1);
        let cell = Cell { agent: (words[2] >> 32) as u32, operation, cell: index, start, len };
        // SAFETY: checked to lie inside the data mapping; the claim of this cell keeps others from
        // writing there until the tail moves past it.
        let bytes = unsafe { std::slice::from_raw_parts(self.data().add((first * UNIT_BYTES) as usize), len as usize) };
        Some((cell, bytes))
    }

    /// Engine: passes over the oldest published cell, which made no sense. Its bytes are reused
    /// when the next good cell is given back.
    pub fn skip(&self) {
        let tail = self.tail();
        let next = Position { cell: tail.cell + 1, unit: tail.unit };
        self.move_tail(next);
    }

    /// Engine: gives the cell that [`Self::peek`] returned back. Comes after [`Self::give`], where it was for a
    /// put.
    pub fn advance(&self, cell: &Cell) {
        let tail = self.tail();
        let next = Position { cell: tail.cell + 1, unit: cell.start + cell.len.div_ceil(UNIT_BYTES) };
        self.move_tail(next);
    }
}

/// Code and packed small fields, target, lengths around, key.
fn encode(operation: Operation) -> (u64, u64, u64, u64) {
    match operation {
        Operation::Put { kind, importance, name_bytes, key } => {
            (1 | (kind as u64) << 8 | u64::from(importance) << 16, name_bytes.into(), 0, key)
        }
        Operation::Append { conversation, meta, key } => (
            2 | u64::from(meta.is_value) << 8,
            conversation.into(),
            u64::from(meta.lead_bytes) << 32 | u64::from(meta.trail_bytes),
            key,
        ),
        Operation::Release { slot, generation } => (3, slot.into(), 0, generation),
    }
}

/// What fuzzing feeds: whether the engine would make sense of a cell.
#[cfg(feature = "faults")]
pub fn makes_sense(code: u32, target: u64, around: u64, key: u64, len: u64) -> bool {
    decode(code, target, around, key, len).is_some()
}

fn decode(code: u32, target: u64, around: u64, key: u64, len: u64) -> Option<Operation> {
    let (small, importance) = ((code >> 8) as u8, (code >> 16) as u8);
    match code as u8 {
        1 => {
            let name_bytes = u16::try_from(target).ok()?;
            let valid = u64::from(name_bytes) <= len && importance <= agentmem_core::smu::IMPORTANCE_MAX;
            let kind = Kind::from_u8(small)?;
            valid.then_some(Operation::Put { kind, importance, name_bytes, key })
        }
        2 => {
            let meta = Meta { is_value: small == 1, lead_bytes: (around >> 32) as u32, trail_bytes: around as u32 };
            let fits = key != 0 || u64::from(meta.lead_bytes) + u64::from(meta.trail_bytes) <= len;
            fits.then_some(Operation::Append { conversation: u32::try_from(target).ok()?, meta, key })
        }
        3 => Some(Operation::Release { slot: u32::try_from(target).ok()?, generation: key }),
        _ => None,
    }
}

#[cfg(test)]
fn ring(cell_count: usize, data_bytes: usize) -> Ring {
    let words = |count| Words::new("agentmem-test", count).expect("a few words");
    let (control, cells) = (words(CONTROL_WORDS), words(cell_count * CELL_WORDS));
    let memory = Arc::new(Mapping::memfd("agentmem-test", data_bytes).expect("a small mapping"));
    let bell = Arc::new(EventFd::new().expect("a descriptor"));
    Ring::over(control, cells, memory, 0, data_bytes, bell)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    const PUT: Operation = Operation::Put { kind: Kind::ToolResult, importance: 50, name_bytes: 0, key: 0 };

    proptest! {
        /// Everything comes out once, in order, whatever the lengths; a full ring refuses.
        #[test]
        fn a_ring_is_a_queue(steps in proptest::collection::vec(proptest::option::of(0..1024usize), 1..400)) {
            let ring = ring(8, 4096);
            let mut queue: VecDeque<Vec<u8>> = VecDeque::new();
            for (turn, step) in steps.into_iter().enumerate() {
                match step {
                    Some(len) => {
                        let bytes = vec![turn as u8; len];
                        match ring.push(7, PUT, [&bytes[..len / 2], &bytes[len / 2..]]) {
                            Ok(_) => queue.push_back(bytes),
                            Err(Full) => prop_assert!(!queue.is_empty()),
                        }
                    }
                    None => match ring.peek() {
                        Some(found) => {
                            let (cell, bytes) = found.unwrap();
                            prop_assert_eq!(Some(bytes.to_vec()), queue.pop_front());
                            prop_assert_eq!(cell.agent, 7);
                            ring.advance(&cell);
                        }
                        None => prop_assert!(queue.is_empty()),
                    },
                }
            }
        }

        #[test]
        fn any_cell_decodes_or_is_refused(code: u32, target: u64, around: u64, key: u64, len: u64) {
            let _ = decode(code, target, around, key, len);
        }
    }

    #[test]
    fn operations_round_trip() {
        for operation in [
            PUT,
            Operation::Put { kind: Kind::SystemPrompt, importance: 100, name_bytes: 3, key: u64::MAX },
            Operation::Append {
                conversation: u32::MAX,
                meta: Meta { is_value: true, lead_bytes: 5, trail_bytes: 9 },
                key: 0,
            },
            Operation::Release { slot: 77, generation: 1 << 40 },
        ] {
            let (code, target, around, key) = encode(operation);
            assert_eq!(decode(code as u32, target, around, key, 100), Some(operation));
        }
    }

    #[test]
    fn what_is_claimed_and_not_published_yet_is_in_the_way() {
        let ring = ring(8, 4096);
        for lap in 0..5 {
            assert!(ring.is_published_to(ring.head()));
            ring.push(1, PUT, [&[7; 10], &[]]).unwrap();
            assert!(ring.is_published_to(ring.head()) && !ring.is_drained_to(ring.head()), "lap {lap}");
            let (at, start) = ring.claim(10).unwrap();
            ring.push(1, PUT, [&[9; 10], &[]]).unwrap();
            let head = ring.head();
            assert!(ring.is_published_to(at.cell) && !ring.is_published_to(head), "lap {lap}");
            ring.publish(at.cell, start, 1, encode(PUT), 10);
            assert!(ring.is_published_to(head), "lap {lap}");
            while let Some(found) = ring.peek() {
                ring.advance(&found.unwrap().0);
            }
            assert!(ring.is_published_to(head) && ring.is_drained_to(head), "lap {lap}");
        }
    }

    #[test]
    fn trimming_gives_memory_back_and_keeps_what_waits() {
        let ring = ring(8, 1 << 16);
        ring.push(1, PUT, [&[7; 10_000], &[]]).unwrap();
        let (first, _) = ring.peek().unwrap().unwrap();
        ring.push(1, PUT, [&[8; 10_000], &[]]).unwrap();
        ring.advance(&first);
        let before = ring.resident_bytes();
        ring.trim();
        assert!(ring.resident_bytes() <= before - 9_000);
        ring.push(1, PUT, [&[9; 10], &[]]).unwrap();
        for expected in [&[8; 10_000][..], &[9; 10]] {
            let (cell, bytes) = ring.peek().unwrap().unwrap();
            assert_eq!(bytes, expected);
            ring.advance(&cell);
        }
        for turn in 0..20u8 {
            ring.push(1, PUT, [&[turn; 16_000], &[]]).unwrap();
            let (cell, bytes) = ring.peek().unwrap().unwrap();
            assert_eq!(bytes, [turn; 16_000]);
            ring.advance(&cell);
        }
    }

    #[test]
    fn an_engine_that_was_killed_while_it_trimmed_is_in_nobodys_way() {
        let ring = ring(8, 1 << 16);
        ring.push(1, PUT, [&[7; 100], &[]]).unwrap();
        ring.control[HEAD].fetch_or(TRIMMING, Ordering::AcqRel);
        assert_eq!(ring.push(1, PUT, [&[8; 100], &[]]), Err(Full));
        let ring = ring.kept(0);
        ring.push(1, PUT, [&[8; 100], &[]]).unwrap();
        assert_eq!(ring.waiting().map(|(_, bytes)| bytes.to_vec()).collect::<Vec<_>>(), [[7; 100], [8; 100]]);
    }

    #[test]
    fn threads_do_not_lose_or_mix() {
        let ring = ring(64, 1 << 16);
        std::thread::scope(|scope| {
            for agent in 0..4u32 {
                let ring = &ring;
                scope.spawn(move || {
                    for turn in 0..5000u32 {
                        let bytes = [(agent * 31 + turn) as u8; 100];
                        while ring.push(agent, PUT, [&bytes[..turn as usize % 100], &[]]).is_err() {
                            std::thread::yield_now();
                        }
                    }
                });
            }
            let mut seen = [0u32; 4];
            while seen.iter().sum::<u32>() < 20_000 {
                if let Some(found) = ring.peek() {
                    let (cell, bytes) = found.unwrap();
                    let turn = &mut seen[cell.agent as usize];
                    assert_eq!(bytes, &vec![(cell.agent * 31 + *turn) as u8; *turn as usize % 100][..]);
                    *turn += 1;
                    ring.advance(&cell);
                }
                if seen.iter().sum::<u32>().is_multiple_of(64) {
                    ring.trim();
                }
            }
        });
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use loom::sync::Arc;
    use loom::thread;

    /// An engine that went to sleep while something was published is rung for.
    #[test]
    fn loom_nobody_sleeps_on_what_was_published() {
        loom::model(|| {
            let ring = Arc::new(ring(2, 4096));
            let producer = {
                let ring = ring.clone();
                thread::spawn(move || ring.push(0, Operation::Release { slot: 1, generation: 0 }, [&[], &[]]).unwrap())
            };
            let sleeps = ring.says_it_sleeps();
            producer.join().unwrap();
            let is_rung_for = ring.control[SLEEPING].load(Ordering::Relaxed) == 0;
            assert!(!sleeps || is_rung_for, "asleep, and nobody rings");
        });
    }

    /// Two producers and the engine: both operations arrive whole, each with its own cell.
    #[test]
    fn loom_two_producers_publish_whole_cells() {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(3);
        model.check(|| {
            let ring = Arc::new(ring(2, 4096));
            (0..2).for_each(|cell| ring.give(cell, Given { slot: cell as u32, claim: 7 }));
            let producers: Vec<_> = (0..2u32)
                .map(|agent| {
                    let ring = ring.clone();
                    thread::spawn(move || {
                        ring.push(agent, Operation::Release { slot: agent + 10, generation: 0 }, [&[], &[]]).unwrap()
                    })
                })
                .collect();
            let mut found = Vec::new();
            let drain = |found: &mut Vec<u32>| {
                while let Some(cell) = ring.peek() {
                    let (cell, _) = cell.unwrap();
                    assert_eq!(cell.operation, Operation::Release { slot: cell.agent + 10, generation: 0 });
                    found.push(cell.agent);
                    ring.advance(&cell);
                }
            };
            drain(&mut found);
            let mut slots: Vec<u32> = producers.into_iter().map(|producer| producer.join().unwrap().slot).collect();
            drain(&mut found);
            found.sort_unstable();
            slots.sort_unstable();
            assert_eq!(found, [0, 1]);
            assert_eq!(slots, [0, 1]);
        });
    }
}
