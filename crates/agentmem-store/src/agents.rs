//! Registered agents.

use crate::sync::{AtomicU64, Ordering};
use crate::sys::PidFd;
use agentmem_core::{AgentState, Error, ErrorKind, Result};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

/// Agents in one store.
pub const AGENTS_MAX: usize = 1_000_000;
/// The turn of an agent that is closed.
const CLOSED: u64 = u64::MAX;

/// What handles of an agent need without asking the engine.
#[derive(Debug)]
pub struct AgentShared {
    /// Its number, never used again.
    pub number: u32,
    /// Its name.
    pub name: Arc<str>,
    /// Logical bytes that it is charged for.
    used_bytes: AtomicU64,
    /// Those of all agents together, where the engine is.
    all_used_bytes: Option<Arc<AtomicU64>>,
    /// Most of its own; `u64::MAX` for no limit.
    quota_bytes: AtomicU64,
    /// Notices of the engine that were heeded.
    heeded: AtomicU64,
    /// How often it was left to be taken up again, or [`CLOSED`].
    turn: AtomicU64,
}

impl AgentShared {
    /// The engine's, charged for nothing yet; what it will be is counted in `all_used_bytes` too.
    pub fn new(number: u32, name: &str, quota_bytes: Option<u64>, all_used_bytes: &Arc<AtomicU64>) -> Arc<Self> {
        Self::charged(number, name, quota_bytes, 0, Some(all_used_bytes.clone()))
    }

    /// Another process's, which is told what it is charged for.
    pub fn told(number: u32, name: &str, quota_bytes: Option<u64>, used_bytes: u64) -> Arc<Self> {
        Self::charged(number, name, quota_bytes, used_bytes, None)
    }

    fn charged(
        number: u32,
        name: &str,
        quota_bytes: Option<u64>,
        used_bytes: u64,
        all_used_bytes: Option<Arc<AtomicU64>>,
    ) -> Arc<Self> {
        Arc::new(AgentShared {
            number,
            name: name.into(),
            used_bytes: AtomicU64::new(used_bytes),
            all_used_bytes,
            quota_bytes: AtomicU64::new(quota_bytes.unwrap_or(u64::MAX)),
            heeded: AtomicU64::new(0),
            turn: AtomicU64::new(0),
        })
    }

    /// Fails once the agent is closed, or was left after `turn` began.
    #[inline]
    pub fn check_turn(&self, turn: u64) -> Result<()> {
        if self.turn() == turn { Ok(()) } else { Err(self.closed()) }
    }

    #[cold]
    fn closed(&self) -> Error {
        Error::new(ErrorKind::Closed, format!("agent {:?}", self.name))
    }

    /// What a handle that is made now compares with.
    #[inline]
    pub fn turn(&self) -> u64 {
        self.turn.load(Ordering::Acquire)
    }

    /// Handles fail from now on; those of whoever takes it up next do not.
    pub fn end_turn(&self) {
        self.turn.fetch_add(1, Ordering::AcqRel);
    }

    /// Handles fail from now on.
    pub fn close(&self) {
        self.turn.store(CLOSED, Ordering::Release);
    }

    /// Charges `bytes`, or refuses where that would exceed the quota.
    #[inline]
    pub fn charge(&self, bytes: u64) -> Result<()> {
        let used_before = self.charge_anyway(bytes);
        if used_before.saturating_add(bytes) > self.quota_bytes.load(Ordering::Relaxed) {
            self.uncharge(bytes);
            return Err(Error::new(
                ErrorKind::QuotaExceeded,
                format!("agent {:?} holds {used_before} bytes and asks for {bytes}", self.name),
            ));
        }
        Ok(())
    }

    /// Whether all of so many notices were heeded.
    #[inline]
    pub fn has_heeded(&self, notices: u64) -> bool {
        self.heeded.load(Ordering::Relaxed) == notices
    }

    /// So many are, now.
    pub fn heed(&self, notices: u64) {
        self.heeded.store(notices, Ordering::Relaxed);
    }

    /// Charges without asking; returns what it was charged for before.
    #[inline]
    pub fn charge_anyway(&self, bytes: u64) -> u64 {
        if let Some(all) = &self.all_used_bytes {
            all.fetch_add(bytes, Ordering::AcqRel);
        }
        self.used_bytes.fetch_add(bytes, Ordering::AcqRel)
    }

    /// Takes a charge back.
    #[inline]
    pub fn uncharge(&self, bytes: u64) {
        if let Some(all) = &self.all_used_bytes {
            all.fetch_sub(bytes, Ordering::AcqRel);
        }
        self.used_bytes.fetch_sub(bytes, Ordering::AcqRel);
    }

    /// Logical bytes charged.
    pub fn used_bytes(&self) -> u64 {
        self.used_bytes.load(Ordering::Acquire)
    }

    /// Corrects what it is charged for to what the engine says.
    pub fn set_used_bytes(&self, bytes: u64) {
        self.used_bytes.store(bytes, Ordering::Release);
    }

    /// The quota.
    pub fn quota_bytes(&self) -> Option<u64> {
        Some(self.quota_bytes.load(Ordering::Relaxed)).filter(|&quota| quota != u64::MAX)
    }

    /// Changes the quota; what is charged already stays.
    pub fn set_quota_bytes(&self, quota: Option<u64>) {
        self.quota_bytes.store(quota.unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

/// What the engine knows of an agent.
#[derive(Debug)]
pub struct AgentEntry {
    /// What handles share.
    pub shared: Arc<AgentShared>,
    /// Process it belongs to; 0 while nobody has taken it up since the store was opened.
    pub pid: u32,
    /// To notice that process's death, where it is not this one.
    pub pidfd: Option<PidFd>,
    /// Whether it waits to be taken up again, instead of being reaped, when who has it dies.
    pub is_lasting: bool,
    /// 0 to 100.
    pub importance: u8,
    /// What it is doing.
    pub state: AgentState,
    /// When it was registered first, in Unix milliseconds.
    pub created_unix_ms: u64,
    /// When it last did anything, in monotonic milliseconds.
    pub active_ms: u64,
    /// Lease references per slot.
    pub leases: HashMap<u32, u32>,
    /// Slots of its handles whose content another slot holds.
    pub aliases: HashSet<u32>,
    /// Its conversations by name.
    pub conversations: BTreeMap<Box<str>, u32>,
}

impl AgentEntry {
    /// What its content ages by: an agent that nobody has is idle, whatever it was left as.
    pub fn state_to_age(&self) -> AgentState {
        if self.pid == 0 && self.state == AgentState::Active { AgentState::Idle } else { self.state }
    }
}

/// All agents, by number and by name.
#[derive(Debug, Default)]
pub struct Agents {
    by_number: HashMap<u32, AgentEntry>,
    by_name: HashMap<Arc<str>, u32>,
    /// The next number to give out.
    pub next: u32,
    /// Entries in the lease tables of all agents.
    lease_entries: u64,
    /// Logical bytes that all of them are charged for.
    used_bytes: Arc<AtomicU64>,
}

impl Agents {
    /// Adds `entry` under its name, which must be free.
    pub fn insert(&mut self, entry: AgentEntry) {
        let number = entry.shared.number;
        self.next = self.next.max(number + 1);
        self.by_name.insert(entry.shared.name.clone(), number);
        self.by_number.insert(number, entry);
    }

    /// Takes an agent out.
    pub fn remove(&mut self, number: u32) -> Option<AgentEntry> {
        let entry = self.by_number.remove(&number)?;
        self.by_name.remove(&entry.shared.name);
        // What it was charged for and did not give back one by one.
        entry.shared.uncharge(entry.shared.used_bytes());
        Some(entry)
    }

    /// Agent `number`.
    pub fn get(&self, number: u32) -> Option<&AgentEntry> {
        self.by_number.get(&number)
    }

    /// Agent `number`.
    pub fn get_mut(&mut self, number: u32) -> Option<&mut AgentEntry> {
        self.by_number.get_mut(&number)
    }

    /// Agent `number`, or an error that says it is closed.
    pub fn open_mut(&mut self, number: u32) -> Result<&mut AgentEntry> {
        self.by_number.get_mut(&number).ok_or_else(|| Error::new(ErrorKind::Closed, format!("agent {number}")))
    }

    /// Number of the agent called `name`.
    pub fn number(&self, name: &str) -> Option<u32> {
        self.by_name.get(name).copied()
    }

    /// Every agent.
    pub fn iter(&self) -> impl Iterator<Item = &AgentEntry> {
        self.by_number.values()
    }

    /// What the charges of new agents are counted in.
    pub fn all_used_bytes(&self) -> &Arc<AtomicU64> {
        &self.used_bytes
    }

    /// Logical bytes that all agents are charged for.
    pub fn used_bytes(&self) -> u64 {
        self.used_bytes.load(Ordering::Acquire)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_number.len()
    }

    /// Adds `count` references of `agent` on `slot`. Returns whether they are its first.
    pub fn lease(&mut self, agent: u32, slot: u32, count: u32) -> bool {
        let Some(entry) = self.by_number.get_mut(&agent) else { return false };
        let held = entry.leases.entry(slot).or_insert(0);
        let is_first = *held == 0;
        *held += count;
        self.lease_entries += u64::from(is_first);
        is_first
    }

    /// Takes `count` references of `agent` on `slot` back, or all that it has if there are fewer.
    /// Returns how many, and whether they were its last.
    pub fn unlease(&mut self, agent: u32, slot: u32, count: u32) -> (u32, bool) {
        let Some(entry) = self.by_number.get_mut(&agent) else { return (0, false) };
        let Some(held) = entry.leases.get_mut(&slot) else { return (0, false) };
        let taken = count.min(*held);
        *held -= taken;
        let is_last = *held == 0;
        if is_last {
            entry.leases.remove(&slot);
            self.lease_entries -= 1;
        }
        (taken, is_last)
    }

    /// Every lease: slot in the high half, agent in the low.
    pub fn leases(&self) -> impl Iterator<Item = u64> {
        let keys = |(&agent, entry): (&u32, &AgentEntry)| {
            let slots: Vec<u32> = entry.leases.keys().copied().collect();
            slots.into_iter().map(move |slot| u64::from(slot) << 32 | u64::from(agent))
        };
        self.by_number.iter().flat_map(keys)
    }

    /// Bytes that the tables take.
    pub fn table_bytes(&self) -> u64 {
        let per_agent = (size_of::<AgentEntry>() + size_of::<AgentShared>() + 160) as u64;
        self.by_number.len() as u64 * per_agent + self.lease_entries * 16
    }
}
