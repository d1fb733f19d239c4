//! Sessions, as the engine keeps them: their arenas, and what it gave them.

use crate::arena::Arena;
use crate::claims::{Claim, Claims};
use crate::engine::{Engine, State};
use crate::quota::Allowance;
use crate::remote::Secret;
use crate::ring::Given;
use crate::smus::Smus;
use crate::sys::{self, PidFd};
use agentmem_core::{Error, ErrorKind, Result};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// How long a process that cannot be seen from here may take to come back after the engine was killed.
const DESERTED_MS: u64 = 60_000;
/// A ring that nobody used for so many ticks gives its pages back, and the heaps their slack when nobody used any.
pub const TRIM_TICKS: u32 = 8;

/// Arenas with the numbers of their sessions.
pub type Arenas = Arc<[(u32, Arc<Arena>)]>;

/// What is known of the process of a session that no connection stands for, since this engine began.
#[derive(Debug)]
pub enum Deserted {
    /// It ended before.
    Ended,
    /// It can be asked whether it lives.
    Process(PidFd),
    /// It cannot be seen from here.
    Unseen,
}

/// What the engine knows of one session.
#[derive(Debug)]
pub struct SessionEntry {
    /// What they share.
    pub arena: Arc<Arena>,
    /// Its process.
    pub pid: u32,
    /// Whether that is the engine's own, which speaks for every agent, keeps what it is charged for by itself,
    /// and whose ring counts in full, used or not: its puts must not have to ask for room.
    pub is_embedded: bool,
    /// When its process started, as far as that can be seen.
    pub started: Option<u64>,
    /// What further connections of it prove themselves by. Nobody knows that of an embedded one.
    pub secret: Secret,
    /// What its arena is kept as.
    pub kept_as: Option<String>,
    /// Whether it waits for its process to come back, after the engine was killed.
    pub deserted: Option<Deserted>,
    /// What it may still put.
    pub allowance: Allowance,
    /// Agents that it speaks for.
    agents: HashSet<u32>,
    /// What each cell of the ring comes with. The cell says it too, but that is the session's to write.
    given: Vec<Given>,
    free_claims: Vec<u32>,
    next_claim: u32,
    /// How far its ring was at the last tick, and for how many ticks it has been there.
    quiet: (u64, u32),
    /// What the sum of all has of it.
    counted_bytes: u64,
}

impl SessionEntry {
    fn empty(arena: Arc<Arena>, pid: u32, started: Option<u64>, is_embedded: bool, secret: Secret) -> Self {
        let quiet = (arena.ring.head(), TRIM_TICKS);
        SessionEntry {
            arena,
            pid,
            started,
            is_embedded,
            secret,
            kept_as: None,
            deserted: None,
            allowance: Allowance::default(),
            agents: HashSet::new(),
            given: Vec::new(),
            free_claims: Vec::new(),
            next_claim: 0,
            quiet,
            counted_bytes: 0,
        }
    }

    /// One whose cells come with slots of `smus`.
    pub fn new(arena: Arc<Arena>, pid: u32, is_embedded: bool, secret: Secret, smus: &mut Smus) -> Result<Self> {
        let mut entry = Self::empty(arena, pid, sys::start_of_process(pid), is_embedded, secret);
        for cell in 0..entry.arena.ring.cell_count() {
            let given = Given { slot: smus.take_slot()?, claim: entry.take_claim()? };
            entry.arena.ring.give(cell, given);
            entry.given.push(given);
        }
        Ok(entry)
    }

    /// The one that an earlier engine had, with what its cells come with.
    pub fn restored(arena: Arc<Arena>, pid: u32, started: Option<u64>, secret: Secret, given: Vec<Given>) -> Self {
        SessionEntry { given, ..Self::empty(arena, pid, started, false, secret) }
    }

    /// After all claims are known that stand for something: the others are free.
    pub fn restore_claims(&mut self, used: &HashSet<u32>) {
        self.next_claim = used.iter().max().map_or(0, |most| most + 1);
        self.free_claims = (0..self.next_claim).filter(|claim| !used.contains(claim)).collect();
    }

    /// Whether the session may say what `agent` does.
    pub fn speaks_for(&self, agent: u32) -> bool {
        self.is_embedded || self.agents.contains(&agent)
    }

    /// It speaks for `agent` from now on.
    pub fn add_agent(&mut self, agent: u32) {
        if !self.is_embedded {
            self.agents.insert(agent);
        }
    }

    /// The agents that it speaks for, where they are not all.
    pub fn agents(&self) -> impl Iterator<Item = u32> + '_ {
        self.agents.iter().copied()
    }

    /// It does not speak for `agent` any more.
    pub fn remove_agent(&mut self, agent: u32) {
        self.agents.remove(&agent);
    }

    /// It speaks for none any more.
    pub fn take_agents(&mut self) -> HashSet<u32> {
        std::mem::take(&mut self.agents)
    }

    /// The slots that its cells came with and were not used for.
    pub fn unused(&self) -> impl Iterator<Item = u32> + '_ {
        self.given.iter().map(|given| given.slot)
    }

    /// What `cell` comes with.
    pub fn given(&self, cell: usize) -> Given {
        self.given[cell]
    }

    /// What `cell` comes with from now on.
    pub fn give(&mut self, cell: usize, given: Given) {
        self.given[cell] = given;
        self.arena.ring.give(cell, given);
    }

    /// Whether [`Self::take_claim`] would succeed.
    pub fn has_free_claim(&self) -> bool {
        !self.free_claims.is_empty() || (self.next_claim as usize) < self.arena.claims.len()
    }

    /// A claim word that stands for nothing.
    pub fn take_claim(&mut self) -> Result<u32> {
        if let Some(index) = self.free_claims.pop() {
            return Ok(index);
        }
        if self.next_claim as usize == self.arena.claims.len() {
            let what = format!("{} handles of one session", self.next_claim);
            return Err(Error::new(ErrorKind::LimitReached, what));
        }
        self.next_claim += 1;
        Ok(self.next_claim - 1)
    }

    fn is_at_rest(&self) -> bool {
        self.quiet.1 >= TRIM_TICKS
    }

    fn trim_quiet(&mut self) {
        let ring = &self.arena.ring;
        let (head, quiet_ticks) = self.quiet;
        self.quiet = if head == ring.head() { (head, quiet_ticks.saturating_add(1)) } else { (ring.head(), 0) };
        if self.quiet.1 == TRIM_TICKS {
            self.rest();
        }
    }

    /// Gives the pages of what is free back.
    fn rest(&mut self) {
        self.arena.ring.trim();
        // That the engine trimmed it is no use.
        self.quiet = (self.arena.ring.head(), TRIM_TICKS);
    }

    /// One that is in use counts in full: all of it may be full before anybody looks again.
    fn planned_bytes(&self) -> u64 {
        let ring = &self.arena.ring;
        if self.is_embedded || !self.is_at_rest() { ring.capacity_bytes() } else { ring.resident_bytes() }
    }

    fn table_bytes(&self) -> u64 {
        (self.given.capacity() * size_of::<Given>() + self.free_claims.capacity() * 4 + self.agents.capacity() * 8)
            as u64
            + 256
    }
}

/// A process that has a session with agents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionProcess {
    /// Its number, as the kernel told it.
    pub pid: u32,
    /// When it started, in ticks since boot: with its number, that is which process it is.
    pub started: u64,
    /// Of its most important agent: 0 to 100.
    pub importance: u8,
}

/// All sessions by number. Numbers are never used again.
#[derive(Debug, Default)]
pub struct Sessions {
    by_number: HashMap<u32, SessionEntry>,
    next: u32,
    /// As of the last [`Self::look`].
    planned_bytes: u64,
    table_bytes: u64,
}

impl Sessions {
    /// Adds one; returns its number.
    pub fn insert(&mut self, entry: SessionEntry) -> u32 {
        let number = self.next;
        self.next += 1;
        self.by_number.insert(number, entry);
        self.look();
        number
    }

    /// Takes one out.
    pub fn remove(&mut self, number: u32) -> Option<SessionEntry> {
        let entry = self.by_number.remove(&number);
        self.look();
        entry
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_number.len()
    }

    /// Has the session that speaks for `agent` ask what the engine knows of its agents.
    pub fn notify(&self, agent: u32) {
        self.by_number
            .values()
            .filter(|entry| entry.agents.contains(&agent))
            .for_each(|entry| entry.arena.ring.notify());
    }

    /// At each tick: rings that nobody used for [`TRIM_TICKS`] give their pages back, whatever others do.
    pub fn trim_quiet(&mut self) {
        self.by_number.values_mut().for_each(SessionEntry::trim_quiet);
    }

    /// All rings give the pages of what is free back now, and none counts in full any more.
    pub fn trim(&mut self) {
        self.by_number.values_mut().for_each(SessionEntry::rest);
        self.look();
    }

    /// The ring of session `number` is in use. It counts in full where that takes no more than `room_bytes` more, and
    /// else by what it takes already, as nothing is to be refused for want of what is not used.
    pub fn wake(&mut self, number: u32, room_bytes: u64) {
        let Some(entry) = self.by_number.get_mut(&number).filter(|entry| entry.is_at_rest()) else { return };
        if entry.arena.ring.capacity_bytes() <= entry.counted_bytes + room_bytes {
            entry.quiet.1 = 0;
        }
        let planned_bytes = entry.planned_bytes();
        self.planned_bytes = self.planned_bytes - entry.counted_bytes + planned_bytes;
        entry.counted_bytes = planned_bytes;
    }

    /// Looks at how much memory the arenas take.
    pub fn look(&mut self) {
        self.by_number.values_mut().for_each(|entry| entry.counted_bytes = entry.planned_bytes());
        self.planned_bytes = self.by_number.values().map(|entry| entry.counted_bytes).sum();
        self.table_bytes = self.by_number.values().map(SessionEntry::table_bytes).sum();
    }

    /// Takes over `entry`, which an earlier engine had under `number`.
    pub fn restore(&mut self, number: u32, entry: SessionEntry) {
        self.by_number.insert(number, entry);
        self.restore_next(number + 1);
    }

    /// No number below `next` is given out.
    pub fn restore_next(&mut self, next: u32) {
        self.next = self.next.max(next);
    }

    /// The next number to be given out.
    pub fn next_number(&self) -> u32 {
        self.next
    }

    /// Every session.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &SessionEntry)> {
        self.by_number.iter().map(|(&number, entry)| (number, entry))
    }

    /// Every session of another process.
    pub fn lent_mut(&mut self) -> impl Iterator<Item = (u32, &mut SessionEntry)> {
        let lent = self.by_number.iter_mut().filter(|(_, entry)| !entry.is_embedded);
        lent.map(|(&number, entry)| (number, entry))
    }

    /// The session that speaks for `agent`, where that is not the engine's own process.
    pub fn of_agent(&self, agent: u32) -> Option<u32> {
        self.iter().find(|(_, entry)| entry.agents.contains(&agent)).map(|(number, _)| number)
    }

    /// Arenas by session.
    pub fn arenas(&self) -> Arenas {
        self.by_number.iter().map(|(&number, entry)| (number, entry.arena.clone())).collect()
    }

    /// Session `number`.
    pub fn get(&self, number: u32) -> Option<&SessionEntry> {
        self.by_number.get(&number)
    }

    /// Session `number`.
    pub fn get_mut(&mut self, number: u32) -> Option<&mut SessionEntry> {
        self.by_number.get_mut(&number)
    }

    /// Whether any of `claims` is pinned. Those of sessions that have ended are not.
    pub fn is_pinned(&self, claims: &Claims) -> bool {
        claims.iter().any(|claim| {
            let session = self.by_number.get(&claim.session);
            session.is_some_and(|session| session.arena.claims.is_pinned(claim.index))
        })
    }

    /// How often `claims` were used, modulo 2^32; only a change means anything.
    pub fn uses(&self, claims: &Claims) -> u32 {
        let uses = |claim: Claim| self.by_number.get(&claim.session).map(|s| s.arena.claims.uses(claim.index));
        claims.iter().filter_map(uses).fold(0, u32::wrapping_add)
    }

    /// `claim` stands for nothing any more.
    pub fn free_claim(&mut self, claim: Claim) {
        if let Some(session) = self.by_number.get_mut(&claim.session) {
            session.free_claims.push(claim.index);
        }
    }

    /// RAM of the arenas: what to plan with, as of the last look, and who woke since.
    pub fn planned_bytes(&self) -> u64 {
        self.planned_bytes
    }

    /// RAM that the arenas take now.
    pub fn resident_bytes(&self) -> u64 {
        self.by_number.values().map(|entry| entry.arena.ring.resident_bytes()).sum()
    }

    /// Bytes that the tables take, as of the last look.
    pub fn table_bytes(&self) -> u64 {
        self.table_bytes
    }
}

impl State {
    /// Other processes that have sessions with agents.
    pub fn processes(&self) -> Vec<SessionProcess> {
        let process = |(_, entry): (u32, &SessionEntry)| {
            let importance = entry.agents().filter_map(|agent| Some(self.agents.get(agent)?.importance)).max()?;
            Some(SessionProcess { pid: entry.pid, started: entry.started?, importance })
        };
        self.sessions.iter().filter_map(process).collect()
    }
}

impl Engine {
    /// Ends sessions of processes that ended while no engine was there, or that do not come back.
    pub fn end_deserted(&self, now_ms: u64) {
        let is_over = |entry: &SessionEntry| {
            entry.deserted.as_ref().is_some_and(|deserted| match deserted {
                Deserted::Ended => true,
                Deserted::Process(pidfd) => pidfd.is_dead(),
                Deserted::Unseen => now_ms >= DESERTED_MS,
            })
        };
        let over: Vec<u32> =
            self.lock().sessions.iter().filter(|(_, entry)| is_over(entry)).map(|(number, _)| number).collect();
        over.into_iter().for_each(|number| self.end_session(number));
    }

    /// Sessions of other processes, with what further connections prove themselves by.
    pub fn secrets(&self) -> Vec<(u32, Secret)> {
        let state = self.lock();
        let lent = state.sessions.iter().filter(|(_, entry)| !entry.is_embedded);
        lent.map(|(number, entry)| (number, entry.secret)).collect()
    }

    /// The process of session `number` is back after the engine was killed; whether it was waited for.
    pub fn resume_session(&self, number: u32) -> bool {
        self.lock().sessions.get_mut(number).is_some_and(|entry| entry.deserted.take().is_some())
    }
}
