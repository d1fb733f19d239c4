//! What an agent tells of itself, and the history that this takes.

use crate::agent::Reason;
use crate::paging::{Held, LeftAlone, PageOutMs, PageOutReport, WakeReport};
use serde::Serialize;

/// How many wakes the percentiles go by.
const WAKES_KEPT: usize = 256;

/// The answer to `status`. ARCHITECTURE.md says what each field means.
#[allow(missing_docs)]
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    pub name: String,
    pub pid: i32,
    pub root_pid: i32,
    pub command: Vec<String>,
    pub started_ms: u64,
    pub importance: u8,
    pub idle_after_ms: u64,
    pub memory_max_bytes: Option<u64>,
    pub state: &'static str,
    pub paused: bool,
    pub idle_ms: u64,
    pub busy_with: Option<String>,
    pub supervisor_bytes: u64,
    #[serde(flatten)]
    pub measured: Measured,
    #[serde(flatten)]
    pub history: Summary,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub left_alone: Option<Vec<LeftAlone>>,
}

/// The tree as it is now.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Measured {
    /// How many processes it has.
    pub processes: usize,
    /// Their PSS.
    pub resident_bytes: u64,
    /// Their private anonymous memory.
    pub private_bytes: u64,
}

/// What a history comes to.
#[allow(missing_docs)]
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    pub resident_before_bytes: Option<u64>,
    pub held_bytes: u64,
    pub compressed_bytes: u64,
    pub ssd_bytes: u64,
    pub woken: u64,
    pub wake_ms_p50: Option<u64>,
    pub wake_ms_p99: Option<u64>,
    pub last_wake: Option<&'static str>,
    pub page_outs: u64,
    pub page_out_ms: Option<PageOutMs>,
}

/// What the pager did so far.
#[derive(Debug, Default)]
pub struct History {
    resident_before_bytes: Option<u64>,
    held: Held,
    woken: u64,
    wake_ms: std::collections::VecDeque<u64>,
    last_wake: Option<Reason>,
    page_outs: u64,
    page_out_ms: Option<PageOutMs>,
    left_alone: Vec<LeftAlone>,
    refusal: Option<String>,
}

impl History {
    /// A page-out happened.
    pub fn away(&mut self, report: &mut PageOutReport) {
        self.resident_before_bytes = Some(report.resident_before_bytes);
        self.held = report.held;
        self.page_outs += 1;
        self.refusal = None;
        self.page_out_ms = Some(report.ms);
        self.left_alone = std::mem::take(&mut report.left_alone);
    }

    /// A page-out did not happen: why.
    pub fn refused(&mut self, why: String) {
        self.refusal = Some(why);
    }

    /// Why the last page-out did not happen, if it did not.
    pub fn refusal(&self) -> Option<String> {
        self.refusal.clone()
    }

    /// Frames were moved.
    pub fn moved(&mut self, held: Held) {
        self.held = held;
    }

    /// What frames hold.
    pub fn held(&self) -> Held {
        self.held
    }

    /// A wake happened, so long after it was needed.
    pub fn woken(&mut self, report: &WakeReport, reason: Reason, ms: u64) {
        self.held = report.held;
        self.woken += 1;
        self.last_wake = Some(reason);
        self.wake_ms.truncate(WAKES_KEPT - 1);
        self.wake_ms.push_front(ms);
    }

    /// What the last page-out left alone.
    pub fn left_alone(&self) -> Vec<LeftAlone> {
        self.left_alone.clone()
    }

    /// The figures of it.
    pub fn summary(&self) -> Summary {
        let mut wakes: Vec<u64> = self.wake_ms.iter().copied().collect();
        wakes.sort_unstable();
        let percentile = |of_hundred: usize| wakes.get((wakes.len() * of_hundred).div_ceil(100).max(1) - 1).copied();
        Summary {
            resident_before_bytes: self.resident_before_bytes,
            held_bytes: self.held.held_bytes,
            compressed_bytes: self.held.compressed_bytes,
            ssd_bytes: self.held.ssd_bytes,
            woken: self.woken,
            wake_ms_p50: percentile(50),
            wake_ms_p99: percentile(99),
            last_wake: self.last_wake.map(Reason::name),
            page_outs: self.page_outs,
            page_out_ms: self.page_out_ms,
        }
    }
}

/// The supervisor's own PSS: all but frames, which are the one thing that it has mapped without a file.
pub fn supervisor_bytes() -> u64 {
    let own = crate::memory::of(std::process::id() as i32);
    own.resident_bytes.saturating_sub(own.shared_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_the_latest_wakes() {
        let mut history = History::default();
        assert_eq!(history.summary().wake_ms_p50, None);
        for ms in [9_999; 10].into_iter().chain(1..=WAKES_KEPT as u64) {
            history.woken(&WakeReport::default(), Reason::Input, ms);
        }
        let summary = history.summary();
        assert_eq!((summary.wake_ms_p50, summary.wake_ms_p99), (Some(128), Some(254)));
        assert_eq!((summary.woken, summary.last_wake), (266, Some("input")));
    }

    #[test]
    fn the_own_memory_is_known() {
        assert!(supervisor_bytes() > 0);
    }
}
