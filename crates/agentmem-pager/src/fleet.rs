//! Decisions across supervisors: who pages out when, and whose frames move to SSD. Each supervisor decides for itself from what all of them report, and all
//! come to the same order. Pure, except for [`Memory::read`].

use crate::event::State;
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;
use std::io;

/// Under pressure, one that was quiet for less than this is not touched.
pub const QUIET_MS_MIN: u64 = 2000;

/// One with less private memory than this is not paged out for the sake of others.
pub const PRIVATE_BYTES_MIN: u64 = 4 << 20;

/// Most agents that go at once, under the greatest pressure.
const AT_ONCE_MAX: f64 = 4.0;

/// Pressure from which on frames move to SSD before their time: until then, paging out gains more.
const SQUEEZE_FOR_SSD: f64 = 0.5;

/// MemAvailable, as a share of all memory, at which pressure starts, and at which it is greatest.
const AVAILABLE_SHARE: (f64, f64) = (0.20, 0.05);

/// Share of time, in percent, in which some task stalled for memory, likewise.
const STALLED_PERCENT: (f64, f64) = (5.0, 40.0);

/// Frames of the whole fleet in RAM, as a share of all memory, that count as pressure on frames.
const FRAMES_SHARE_MAX: f64 = 0.25;

/// One agent, as its supervisor reports it: figures that cost little, and so are no PSS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Name, unique in the fleet.
    pub name: String,
    /// What it is doing.
    pub state: State,
    /// For how long it has been quiet, or paged out; 0 if it is not quiet.
    pub idle_ms: u64,
    /// After how long it is to be paged out without any pressure.
    pub idle_after_ms: u64,
    /// 0 to 100; more counts as 100.
    pub importance: u8,
    /// Private anonymous memory of its tree.
    pub private_bytes: u64,
    /// RAM that its frames take.
    pub compressed_bytes: u64,
    /// Private anonymous memory of its supervisor.
    pub supervisor_bytes: u64,
}

impl Peer {
    /// RAM that goes with it: what of files it has mapped stays, whoever else is there.
    pub fn ram_bytes(&self) -> u64 {
        self.private_bytes.saturating_add(self.compressed_bytes).saturating_add(self.supervisor_bytes)
    }

    /// Quiet and worth paging out for others.
    pub fn can_give_memory(&self) -> bool {
        self.state == State::Idle && self.idle_ms >= QUIET_MS_MIN && self.private_bytes >= PRIVATE_BYTES_MIN
    }

    fn can_give_frames(&self) -> bool {
        self.state == State::PagedOut && self.compressed_bytes > 0
    }

    /// Relative idleness times unimportance: who has the most goes first. Even at importance 100
    /// idleness counts, a tenth as much as at 0.
    fn urgency(&self) -> f64 {
        let unimportance = 1.0 - 0.9 * f64::from(self.importance.min(100)) / 100.0;
        self.idle_ms as f64 / self.idle_after_ms.max(1) as f64 * unimportance
    }

    /// Who goes first: the more urgent, else the one with more to give, else by name.
    fn order(&self, other: &Self, gives: impl Fn(&Self) -> u64) -> Ordering {
        let urgency = other.urgency().total_cmp(&self.urgency());
        urgency.then(gives(other).cmp(&gives(self))).then_with(|| self.name.cmp(&other.name))
    }
}

/// Memory of the machine.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Memory {
    /// MemTotal.
    pub total_bytes: u64,
    /// MemAvailable: what can be had without swapping.
    pub available_bytes: u64,
    /// Percent of the last ten seconds in which some task stalled for memory; `None` where the
    /// kernel does not say.
    pub stalled_percent: Option<f64>,
    /// How far the daemon says that the fleet is beyond its budget: from 0, not at all, to 1.
    pub beyond_budget: f64,
}

impl Memory {
    /// From /proc/meminfo and, where there is one, /proc/pressure/memory.
    ///
    /// # Errors
    /// What reading gives; `InvalidData` if /proc/meminfo has no total or no available memory.
    pub fn read() -> io::Result<Self> {
        let meminfo = std::fs::read_to_string("/proc/meminfo")?;
        let (total_bytes, available_bytes) = parse_meminfo(&meminfo)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "/proc/meminfo without MemAvailable"))?;
        let pressure = std::fs::read_to_string("/proc/pressure/memory").ok();
        let stalled_percent = pressure.as_deref().and_then(parse_pressure);
        Ok(Self { total_bytes, available_bytes, stalled_percent, beyond_budget: 0.0 })
    }

    /// Pressure: from 0, none, to 1, the greatest.
    pub fn squeeze(&self) -> f64 {
        let share = self.available_bytes as f64 / self.total_bytes.max(1) as f64;
        let scarce = (AVAILABLE_SHARE.0 - share) / (AVAILABLE_SHARE.0 - AVAILABLE_SHARE.1);
        let stalled = self.stalled_percent.filter(|percent| percent.is_finite()).unwrap_or(0.0);
        let stalls = (stalled - STALLED_PERCENT.0) / (STALLED_PERCENT.1 - STALLED_PERCENT.0);
        scarce.max(stalls).max(self.beyond_budget).clamp(0.0, 1.0)
    }
}

/// Total and available bytes.
fn parse_meminfo(text: &str) -> Option<(u64, u64)> {
    let bytes = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.split_ascii_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
    };
    Some((bytes("MemTotal")?, bytes("MemAvailable")?))
}

/// The percentage of `some`, over ten seconds.
fn parse_pressure(text: &str) -> Option<f64> {
    let some = text.lines().find_map(|line| line.strip_prefix("some "))?;
    some.split_ascii_whitespace().find_map(|word| word.strip_prefix("avg10=")?.parse().ok())
}

/// How many go at once.
fn at_once(squeeze: f64) -> usize {
    (1.0 + squeeze * (AT_ONCE_MAX - 1.0)) as usize
}

/// Whether fewer than `at_once` of the candidates go before `me`, who may be among them.
fn is_next<'a>(me: &Peer, at_once: usize, candidates: impl Iterator<Item = &'a Peer>, gives: fn(&Peer) -> u64) -> bool {
    candidates.filter(|peer| peer.name != me.name && peer.order(me, gives).is_lt()).take(at_once).count() < at_once
}

/// Whether `me` may page out now: after its time, or under pressure when it is one of the few to
/// go next. Never one that is not quiet.
pub fn may_page_out(me: &Peer, peers: &[Peer], memory: &Memory) -> bool {
    if me.state != State::Idle || me.idle_ms == 0 {
        return false;
    }
    let squeeze = memory.squeeze();
    let candidates = peers.iter().filter(|peer| peer.can_give_memory());
    me.idle_ms >= me.idle_after_ms
        || (squeeze > 0.0
            && me.can_give_memory()
            && is_next(me, at_once(squeeze), candidates, |peer| peer.private_bytes))
}

/// Whether the frames of `me` may move from RAM to SSD now: some time after it was paged out
/// (`ssd_after_ms`, half of it at importance 0, and half as much again at 100), or under pressure,
/// of memory or of frames, when it is one of the few to go next.
pub fn may_move_to_ssd(me: &Peer, peers: &[Peer], memory: &Memory, ssd_after_ms: u64) -> bool {
    if !me.can_give_frames() {
        return false;
    }
    let after_ms = ssd_after_ms as f64 * (0.5 + f64::from(me.importance.min(100)) / 100.0);
    let others = peers.iter().filter(|peer| peer.name != me.name).map(|peer| peer.compressed_bytes);
    let frames_bytes = others.fold(me.compressed_bytes, u64::saturating_add);
    let crowded = frames_bytes as f64 > memory.total_bytes as f64 * FRAMES_SHARE_MAX;
    let squeeze = memory.squeeze();
    let candidates = peers.iter().filter(|peer| peer.can_give_frames());
    me.idle_ms as f64 >= after_ms
        || ((crowded || squeeze >= SQUEEZE_FOR_SSD)
            && is_next(me, at_once(squeeze), candidates, |peer| peer.compressed_bytes))
}

#[cfg(test)]
mod tests;
