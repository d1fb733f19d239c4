//! The quota of a domain: what all its agents may hold together.
//!
//! Sessions put without asking. So each has an allowance, a word of its arena's control page, from which it takes
//! what it puts; the engine sets bytes aside for it there, and takes back what it has not used where another
//! needs it. The engine keeps its own account and believes nothing of the word: it takes in what it has set
//! aside, and no more. What agents are charged for and what is set aside never exceed the quota together.

use crate::agents::AGENTS_MAX;
use crate::engine::State;
use agentmem_core::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

/// Unasked, a session gets one part in so many of what is left.
const SHARE: u64 = 8;
/// What a session that heard of no quota may have under way, in capacities of its ring: what is in it, and what
/// its threads are about to put.
const UNASKED_RINGS: u64 = 2;
/// After so many ticks in a row at which its ring was found drained, nothing of that is under way any more.
const UNASKED_TICKS: u32 = 8;

/// What a domain may hold at most; none: as much as there is room for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DomainQuota {
    /// Logical bytes, all agents together.
    pub logical_bytes: Option<u64>,
    /// Agents.
    pub agents: Option<u64>,
}

impl DomainQuota {
    /// The smaller of both, of each figure.
    pub fn within(self, other: DomainQuota) -> Self {
        let least = |a: Option<u64>, b: Option<u64>| a.into_iter().chain(b).min();
        DomainQuota {
            logical_bytes: least(self.logical_bytes, other.logical_bytes),
            agents: least(self.agents, other.agents),
        }
    }
}

/// The quota, and how much of it is spoken for beside what agents are charged for.
#[derive(Debug, Default)]
pub struct Quota {
    /// Name of the domain.
    pub domain: String,
    /// What it is now.
    pub now: DomainQuota,
    /// Set aside for sessions, all together.
    aside_bytes: u64,
}

/// What a session may still put, as the engine knows it.
#[derive(Debug, Default)]
pub struct Allowance {
    /// Set aside for it, what it has put and is not taken in yet included.
    aside_bytes: u64,
    /// What it may have put before it heard of a quota.
    unasked_bytes: u64,
    /// Ticks at which its ring was found drained since then, in a row.
    drained_ticks: u32,
}

impl Allowance {
    /// Whether `bytes` of the session may be taken in.
    pub fn covers(&self, bytes: u64) -> bool {
        bytes <= self.aside_bytes.saturating_add(self.unasked_bytes)
    }

    /// At each tick. From when there is a quota the session can spend only what is set aside for it: what it put
    /// unasked is in its ring, or in the hands of a thread that is about to put it there.
    fn expire_unasked(&mut self, is_drained: bool) {
        self.drained_ticks = if is_drained { self.drained_ticks.saturating_add(1) } else { 0 };
        if self.drained_ticks >= UNASKED_TICKS {
            self.unasked_bytes = 0;
        }
    }
}

impl Quota {
    /// None yet, of that domain.
    pub fn of(domain: &str) -> Self {
        Quota { domain: domain.to_owned(), ..Quota::default() }
    }
}

/// What errors call the domain of that name.
pub fn domain_name(name: &str) -> String {
    if name.is_empty() { "of the user".into() } else { format!("{name:?}") }
}

impl State {
    /// Fails where there may be no more agents.
    pub fn check_agents(&self) -> Result<()> {
        let limit = self.quota.now.agents.unwrap_or(AGENTS_MAX as u64);
        if (self.agents.len() as u64) < limit {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::LimitReached,
            format!("{limit} agents in domain {}", domain_name(&self.quota.domain)),
        ))
    }

    /// Of the quota, if there is one, what nobody has and nothing is set aside for.
    fn free_bytes(&self) -> Option<u64> {
        let limit = self.quota.now.logical_bytes?;
        Some(limit.saturating_sub(self.agents.used_bytes() + self.quota.aside_bytes))
    }

    /// Fails unless `bytes` more fit into the quota, after sessions gave back what they do not use.
    fn find_free(&mut self, bytes: u64) -> Result<()> {
        if self.free_bytes().is_none_or(|free| bytes <= free) {
            return Ok(());
        }
        self.take_back_unused();
        if self.free_bytes().is_none_or(|free| bytes <= free) {
            return Ok(());
        }
        let (used, limit) = (self.agents.used_bytes(), self.quota.now.logical_bytes.unwrap_or(u64::MAX));
        let name = domain_name(&self.quota.domain);
        let what = format!("domain {name} holds {used} of {limit} bytes and is asked to hold {bytes} more");
        Err(Error::new(ErrorKind::DomainQuotaExceeded, what))
    }

    /// Takes back what was set aside and is not used.
    fn take_back_unused(&mut self) {
        for (_, entry) in self.sessions.lent_mut() {
            let left = entry.arena.ring.allow_nothing().min(entry.allowance.aside_bytes);
            entry.allowance.aside_bytes -= left;
            self.quota.aside_bytes -= left;
        }
    }

    /// Charges `agent` for `bytes` that it asks the engine for.
    pub fn charge(&mut self, agent: u32, bytes: u64) -> Result<()> {
        self.find_free(bytes)?;
        self.agents.open_mut(agent)?.shared.charge(bytes)
    }

    /// Sets `bytes` aside for `session`, which does not learn of it.
    pub fn set_aside(&mut self, session: u32, bytes: u64) -> Result<()> {
        if self.quota.now.logical_bytes.is_none() {
            return Ok(());
        }
        let gone = || Error::new(ErrorKind::Closed, "this session");
        self.find_free(bytes)?;
        self.sessions.get_mut(session).ok_or_else(gone)?.allowance.aside_bytes += bytes;
        self.quota.aside_bytes += bytes;
        Ok(())
    }

    /// `bytes` that were set aside for `session` were taken in, or never will be.
    pub fn use_aside(&mut self, session: u32, bytes: u64) {
        let Some(entry) = self.sessions.get_mut(session) else { return };
        let Allowance { aside_bytes, unasked_bytes, .. } = &mut entry.allowance;
        let taken = bytes.min(*aside_bytes);
        *aside_bytes -= taken;
        *unasked_bytes -= (bytes - taken).min(*unasked_bytes);
        self.quota.aside_bytes -= taken;
    }

    /// A session is over that had `allowance`.
    pub fn end_allowance(&mut self, allowance: &Allowance) {
        self.quota.aside_bytes -= allowance.aside_bytes;
    }

    /// Lets `session` put `bytes` more.
    pub fn allow(&mut self, session: u32, bytes: u64) -> Result<()> {
        self.set_aside(session, bytes)?;
        if let Some(entry) = self.sessions.get(session) {
            entry.arena.ring.allow(bytes);
        }
        self.top_up(session);
        Ok(())
    }

    /// Lets `session` put as much as its ring holds without asking, or a part of what is left.
    pub fn top_up(&mut self, session: u32) {
        let (Some(free), Some(limit)) = (self.free_bytes(), self.quota.now.logical_bytes) else { return };
        let left = limit.saturating_sub(self.agents.used_bytes());
        let Some(entry) = self.sessions.get_mut(session).filter(|entry| !entry.is_embedded) else { return };
        let (ring, allowance) = (&entry.arena.ring, &mut entry.allowance);
        ring.tell_left(left);
        let bytes = ring.capacity_bytes().saturating_sub(allowance.aside_bytes).min(free / SHARE);
        if allowance.aside_bytes < ring.capacity_bytes() / 2 {
            allowance.aside_bytes += bytes;
            self.quota.aside_bytes += bytes;
            ring.allow(bytes);
        }
    }

    /// The same for all, at each tick: one that waits for nothing never asks.
    pub fn top_up_all(&mut self) {
        if self.quota.now.logical_bytes.is_some() {
            for (_, entry) in self.sessions.lent_mut() {
                let ring = &entry.arena.ring;
                entry.allowance.expire_unasked(ring.is_drained_to(ring.head()));
            }
            let sessions: Vec<u32> = self.sessions.iter().map(|(number, _)| number).collect();
            sessions.into_iter().for_each(|session| self.top_up(session));
        }
    }

    /// The quota is this from now on; what is held already stays. `left` says what sessions left and did not put.
    pub fn set_quota(&mut self, quota: DomainQuota, left: impl Iterator<Item = (u32, u64)>) {
        let had_none = std::mem::replace(&mut self.quota.now, quota).logical_bytes.is_none();
        self.take_back_unused();
        if quota.logical_bytes.is_none() {
            for (_, entry) in self.sessions.lent_mut() {
                entry.allowance = Allowance::default();
                entry.arena.ring.allow_anything();
            }
            self.quota.aside_bytes = 0;
        } else if had_none {
            for (_, entry) in self.sessions.lent_mut() {
                entry.allowance.unasked_bytes = UNASKED_RINGS * entry.arena.ring.capacity_bytes();
                entry.allowance.drained_ticks = 0;
            }
            for (session, bytes) in left {
                let Some(entry) = self.sessions.get_mut(session) else { continue };
                entry.allowance.aside_bytes += bytes;
                self.quota.aside_bytes += bytes;
            }
        }
        if let Some(limit) = quota.logical_bytes {
            let left = limit.saturating_sub(self.agents.used_bytes());
            self.sessions.lent_mut().for_each(|(_, entry)| entry.arena.ring.tell_left(left));
        }
        // Whether it is known to the journal is compared when the lock goes.
        self.note(|fresh| fresh.engine = true);
    }

    /// `session` is new.
    pub fn begin_allowance(&mut self, session: u32) {
        match self.sessions.get(session) {
            Some(entry) if entry.is_embedded || self.quota.now.logical_bytes.is_none() => {
                entry.arena.ring.allow_anything();
            }
            _ => self.top_up(session),
        }
    }
}
