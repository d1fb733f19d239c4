//! The journal: rows that say what there is, in memory that outlives the process that writes them.
//!
//! ```text
//! page 0:  magic, sequence, published bytes
//! records: key u64 | length u32, table u8, what u8, 0 u16 | bytes, to a multiple of 8
//! ```
//! A process that is killed loses nothing that it wrote to memory, but it may be killed between any two
//! writes. So records count from when one store says that they are published: all of a transaction, or none.

use crate::sync::{Ordering, Words};
use crate::sys::{Mapping, PAGE_BYTES};
use agentmem_core::{Error, ErrorKind, Result};
use std::collections::{BTreeMap, HashMap};
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// What journals are kept as: two in turn, of which one is there at a time but for a moment.
pub const JOURNALS: [&str; 2] = ["journal.0", "journal.1"];
const MAGIC: u64 = u64::from_le_bytes(*b"AMJRNL04");
/// The end of it is the version.
const MAGIC_MASK: u64 = (1 << 48) - 1;
const SEQUENCE: usize = 1;
const PUBLISHED: usize = 2;
const WORDS: usize = 3;
const HEADER_BYTES: usize = 16;

/// What a row is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Table {
    /// The engine: one row, key 0.
    Engine,
    /// Sessions by number.
    Sessions,
    /// What their cells come with: session in the high half of the key, cell in the low.
    Given,
    /// How far their rings were drained.
    Rings,
    /// Large contents that were left and not put, by key.
    Inbox,
    /// Agents by number.
    Agents,
    /// What slots are used for.
    Slots,
    /// References: slot in the high half of the key, agent in the low.
    Leases,
    /// Conversations by number.
    Conversations,
    /// Nodes by number.
    Nodes,
    /// Raw messages, by node.
    Tails,
    /// Frames by number.
    Frames,
    /// Index entries of their messages, by frame.
    Tags,
    /// What waits for pins to go.
    Limbo,
    /// What other domains may copy, by number.
    Grants,
}

const TABLES: usize = Table::Grants as usize + 1;
const PUT: u8 = 0;
const APPEND: u8 = 1;
const REMOVE: u8 = 2;

/// All rows of a journal.
#[derive(Debug, Default, PartialEq)]
pub struct Rows([BTreeMap<u64, Vec<u8>>; TABLES]);

impl Rows {
    /// The rows of one table by key.
    pub fn of(&self, table: Table) -> &BTreeMap<u64, Vec<u8>> {
        &self.0[table as usize]
    }

    fn apply(&mut self, record: &Record<'_>) -> Option<()> {
        let rows = self.0.get_mut(record.table as usize)?;
        match record.what {
            PUT => drop(rows.insert(record.key, record.bytes.to_vec())),
            APPEND => rows.entry(record.key).or_default().extend_from_slice(record.bytes),
            REMOVE => drop(rows.remove(&record.key)),
            _ => return None,
        }
        Some(())
    }
}

struct Record<'a> {
    key: u64,
    table: u8,
    what: u8,
    bytes: &'a [u8],
}

impl Record<'_> {
    fn row(&self) -> (u8, u64) {
        (self.table, self.key)
    }

    fn len_bytes(&self) -> usize {
        HEADER_BYTES + self.bytes.len().next_multiple_of(8)
    }
}

/// One journal.
#[derive(Debug)]
pub struct Journal {
    memory: Arc<Mapping>,
    words: Words,
    /// Where the next record goes; what is beyond the published part can still be taken back.
    end: usize,
    /// What it held when it was made: the rows alone, without their history.
    base_bytes: usize,
}

fn damaged() -> Error {
    Error::new(ErrorKind::Damaged, "the journal of an engine that was killed")
}

impl Journal {
    /// An empty one of at most `capacity` bytes; memory is taken as it grows. The highest `sequence` counts.
    pub fn new(capacity: usize, sequence: u64) -> Result<Self> {
        let memory = Mapping::writable("agentmem-journal", capacity)?;
        memory.fix_len()?;
        let mut journal = Self::over(memory);
        journal.end = PAGE_BYTES as usize;
        journal.words[SEQUENCE].store(sequence, Ordering::Relaxed);
        journal.publish();
        journal.words[0].store(MAGIC, Ordering::Release);
        Ok(journal)
    }

    /// The one in that memory.
    ///
    /// # Errors
    /// `Damaged` where there is none, `Version` where another version wrote it.
    pub fn found(descriptor: OwnedFd) -> Result<Self> {
        let mut journal = Self::over(Mapping::adopted(descriptor)?);
        let end = journal.words[PUBLISHED].load(Ordering::Acquire);
        let magic = journal.words[0].load(Ordering::Acquire);
        if magic != MAGIC && magic & MAGIC_MASK == MAGIC & MAGIC_MASK {
            return Err(Error::new(ErrorKind::Version, "the journal of an engine that was killed"));
        }
        if magic != MAGIC || end < PAGE_BYTES || end > journal.memory.len() as u64 {
            return Err(damaged());
        }
        journal.end = end as usize;
        Ok(journal)
    }

    fn over(memory: Mapping) -> Self {
        let memory = Arc::new(memory);
        let words = Words::within(&memory, 0, WORDS);
        Journal { memory, words, end: 0, base_bytes: 0 }
    }

    /// A descriptor of it, to be kept.
    pub fn descriptor(&self) -> Result<OwnedFd> {
        self.memory.descriptor()
    }

    /// Which of several it is.
    pub fn sequence(&self) -> u64 {
        self.words[SEQUENCE].load(Ordering::Relaxed)
    }

    /// What it is kept as.
    pub fn name(&self) -> &'static str {
        JOURNALS[(self.sequence() % 2) as usize]
    }

    /// Bytes of RAM that it takes.
    pub fn len_bytes(&self) -> u64 {
        self.end as u64
    }

    /// Whether a third of it or more is history.
    pub fn is_long(&self, slack_bytes: usize) -> bool {
        self.end > self.base_bytes / 2 * 3 + slack_bytes
    }

    /// It is not long again before it has grown by half.
    pub fn put_off(&mut self) {
        self.base_bytes = self.end;
    }

    /// Says what the row `key` of `table` is from now on; nothing, that it is gone.
    pub fn put(&mut self, table: Table, key: u64, bytes: Option<&[u8]>) -> Result<()> {
        let what = if bytes.is_some() { PUT } else { REMOVE };
        self.write(&Record { key, table: table as u8, what, bytes: bytes.unwrap_or_default() })
    }

    /// Adds to a row, or makes it.
    pub fn append(&mut self, table: Table, key: u64, bytes: &[u8]) -> Result<()> {
        self.write(&Record { key, table: table as u8, what: APPEND, bytes })
    }

    fn write(&mut self, record: &Record<'_>) -> Result<()> {
        let next = self.end + record.len_bytes();
        if next > self.memory.len() {
            let what = format!("the journal's {} bytes", self.memory.len());
            return Err(Error::new(ErrorKind::LimitReached, what));
        }
        let mut header = [0; HEADER_BYTES];
        header[..8].copy_from_slice(&record.key.to_le_bytes());
        header[8..12].copy_from_slice(&(record.bytes.len() as u32).to_le_bytes());
        (header[12], header[13]) = (record.table, record.what);
        self.memory.copy_in(self.end, &header);
        self.memory.copy_in(self.end + HEADER_BYTES, record.bytes);
        self.end = next;
        Ok(())
    }

    /// From now on, everything written before counts.
    pub fn publish(&mut self) {
        self.words[PUBLISHED].store(self.end as u64, Ordering::Release);
    }

    /// Takes back what was written and not published.
    pub fn take_back(&mut self) {
        self.end = self.words[PUBLISHED].load(Ordering::Relaxed) as usize;
    }

    /// What it has published until now, to be looked at while it goes on.
    pub fn past(&self) -> Past {
        let end = (self.words[PUBLISHED].load(Ordering::Acquire) as usize).min(self.memory.len());
        Past { memory: self.memory.clone(), end, sequence: self.sequence() }
    }

    /// Adds what `older` published since `past`, and publishes everything.
    pub fn catch_up(&mut self, older: &Journal, past: &Past) -> Result<()> {
        let now = older.past();
        let news = &now.bytes()[past.end..];
        if self.end + news.len() > self.memory.len() {
            return Err(Error::new(ErrorKind::LimitReached, format!("the journal's {} bytes", self.memory.len())));
        }
        self.memory.copy_in(self.end, news);
        self.end += news.len();
        self.publish();
        Ok(())
    }
}

/// The published part of a journal.
#[derive(Debug)]
pub struct Past {
    memory: Arc<Mapping>,
    end: usize,
    sequence: u64,
}

impl Past {
    fn bytes(&self) -> &[u8] {
        // SAFETY: inside the mapping, which `self` keeps; what is published is not written again.
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr(), self.end) }
    }

    /// Its records in order.
    fn records(&self) -> impl Iterator<Item = Result<Record<'_>>> {
        let mut at = PAGE_BYTES as usize;
        std::iter::from_fn(move || {
            if at >= self.end {
                return None;
            }
            let record = read(self.bytes(), at).ok_or_else(damaged);
            // After a damaged one it is not known where the next begins.
            at = record.as_ref().map_or(self.end, |record| at + record.len_bytes());
            Some(record)
        })
    }

    /// Every row.
    pub fn rows(&self) -> Result<Rows> {
        let mut rows = Rows::default();
        for record in self.records() {
            rows.apply(&record?).ok_or_else(damaged)?;
        }
        Ok(rows)
    }

    /// A journal with the same rows and without their history. It counts once it has caught up.
    ///
    /// There may be millions of rows: nothing is copied but into the new one.
    pub fn compacted(&self) -> Result<Journal> {
        // With what each row begins as it is now: its last put.
        let mut begins: HashMap<(u8, u64), usize> = HashMap::new();
        for (number, record) in self.records().enumerate() {
            let record = record?;
            match record.what {
                PUT => drop(begins.insert(record.row(), number)),
                APPEND => drop(begins.entry(record.row()).or_insert(number)),
                _ => drop(begins.remove(&record.row())),
            }
        }
        let mut fresh = Journal::new(self.memory.len(), self.sequence + 1)?;
        for (number, record) in self.records().enumerate() {
            let record = record?;
            if begins.get(&record.row()).is_some_and(|&first| first <= number) {
                fresh.write(&record)?;
            }
        }
        fresh.base_bytes = fresh.end;
        Ok(fresh)
    }
}

fn read(bytes: &[u8], at: usize) -> Option<Record<'_>> {
    let header = bytes.get(at..at + HEADER_BYTES)?;
    let key = u64::from_le_bytes(header[..8].try_into().ok()?);
    let len = u32::from_le_bytes(header[8..12].try_into().ok()?) as usize;
    let from = at + HEADER_BYTES;
    let bytes = bytes.get(from..from.checked_add(len)?)?;
    Some(Record { key, table: header[12], what: header[13], bytes })
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CAPACITY: usize = 1 << 20;

    fn step() -> impl Strategy<Value = (u8, u64, u8, Vec<u8>)> {
        (0..TABLES as u8, 0..5u64, 0..4u8, prop::collection::vec(any::<u8>(), 0..40))
    }

    proptest! {
        /// What is found again is what was published, after any number of compactions.
        #[test]
        fn what_was_published_is_found(
            steps in prop::collection::vec(step(), 0..120),
            publishes in prop::collection::vec(any::<bool>(), 120),
            compacts in prop::collection::vec(prop::bool::weighted(0.1), 120),
        ) {
            let mut journal = Journal::new(CAPACITY, 1).unwrap();
            let (mut now, mut published) = (Rows::default(), Rows::default());
            for (turn, (table, key, what, bytes)) in steps.iter().enumerate() {
                let what = what % 3;
                let record = Record { key: *key, table: *table, what, bytes: if what == REMOVE { &[] } else { bytes } };
                journal.write(&record).unwrap();
                now.apply(&record).unwrap();
                if publishes[turn] {
                    journal.publish();
                    published = Rows(now.0.clone());
                }
                if publishes[turn] && compacts[turn] {
                    let past = journal.past();
                    let mut fresh = past.compacted().unwrap();
                    journal.put(Table::Engine, 9, Some(b"between")).unwrap();
                    journal.publish();
                    fresh.catch_up(&journal, &past).unwrap();
                    now.0[0].insert(9, b"between".to_vec());
                    published = Rows(now.0.clone());
                    prop_assert!(fresh.sequence() > journal.sequence());
                    journal = fresh;
                }
            }
            let found = Journal::found(journal.descriptor().unwrap()).unwrap();
            prop_assert_eq!(found.past().rows().unwrap(), published);
        }

        /// Whatever is in the memory: rows or an error, and nothing else.
        #[test]
        fn nonsense_is_refused(words in prop::collection::vec(any::<u64>(), 0..64), published in 0..CAPACITY as u64 * 2) {
            let journal = Journal::new(CAPACITY, 1).unwrap();
            for (at, word) in words.iter().enumerate() {
                journal.memory.copy_in(PAGE_BYTES as usize + at * 8, &word.to_le_bytes());
            }
            journal.words[PUBLISHED].store(published, Ordering::Relaxed);
            if let Ok(found) = Journal::found(journal.descriptor().unwrap()) {
                let _ = found.past().rows();
            }
        }
    }

    #[test]
    fn a_full_journal_says_so_and_keeps_what_it_has() {
        let mut journal = Journal::new(3 * PAGE_BYTES as usize, 1).unwrap();
        journal.put(Table::Agents, 1, Some(&[1; 3000])).unwrap();
        journal.publish();
        journal.put(Table::Agents, 2, Some(&[2; 3000])).unwrap();
        assert_eq!(journal.put(Table::Agents, 3, Some(&[3; 3000])).unwrap_err().kind(), ErrorKind::LimitReached);
        journal.take_back();
        journal.put(Table::Agents, 4, None).unwrap();
        journal.publish();
        let rows = journal.past().rows().unwrap();
        assert_eq!(rows.of(Table::Agents).keys().copied().collect::<Vec<_>>(), [1]);
    }
}
