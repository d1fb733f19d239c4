//! How long to wait before an engine that died is started again.

use std::collections::VecDeque;
use std::time::Duration;

/// When to hurry, and when no longer.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// How far back deaths count.
    pub window: Duration,
    /// The most restarts within the window; from then on they come slowly.
    pub burst: usize,
    /// The longest wait after the death of an engine that had been ready.
    pub ready_pause_max: Duration,
    /// The longest wait after one that had not.
    pub pause_max: Duration,
    /// The wait once the burst is used up.
    pub slow_pause: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Policy {
            window: Duration::from_secs(600),
            burst: 200,
            ready_pause_max: Duration::from_millis(100),
            pause_max: Duration::from_secs(5),
            slow_pause: Duration::from_secs(30),
        }
    }
}

/// What the second wait is; each further one is twice as long.
const PAUSE_MIN: Duration = Duration::from_millis(10);

/// The deaths that count.
#[derive(Debug)]
pub struct Restarts {
    policy: Policy,
    deaths: VecDeque<Duration>,
}

/// How long to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pause {
    /// So long.
    pub length: Duration,
    /// Whether the burst is used up.
    pub slow: bool,
}

impl Restarts {
    /// No deaths so far.
    pub fn new(policy: Policy) -> Self {
        Restarts { policy, deaths: VecDeque::new() }
    }

    /// Counts a death at `now`, a time since some fixed moment.
    pub fn died(&mut self, now: Duration, was_ready: bool) -> Pause {
        let begin = now.saturating_sub(self.policy.window);
        self.deaths.retain(|&death| death >= begin);
        if self.deaths.len() >= self.policy.burst {
            // This restart counts as the oldest one did: there are never more to remember.
            self.deaths.pop_front();
            self.deaths.push_back(now);
            return Pause { length: self.policy.slow_pause, slow: true };
        }
        let before = self.deaths.len() as u32;
        self.deaths.push_back(now);
        let most = if was_ready { self.policy.ready_pause_max } else { self.policy.pause_max };
        let doubled = |times: u32| PAUSE_MIN.saturating_mul(1 << times.min(20));
        Pause { length: before.checked_sub(1).map_or(Duration::ZERO, doubled).min(most), slow: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_first_restart_is_at_once_and_later_ones_wait_twice_as_long_each() {
        let mut restarts = Restarts::new(Policy::default());
        let pauses: Vec<_> = (0..6).map(|_| restarts.died(SECOND, true).length.as_millis()).collect();
        assert_eq!(pauses, [0, 10, 20, 40, 80, 100]);
        assert_eq!(restarts.died(SECOND, false).length.as_millis(), 320);
    }

    #[test]
    fn a_burst_is_followed_by_slowness_until_the_window_has_passed() {
        let policy = Policy { burst: 3, ..Policy::default() };
        let mut restarts = Restarts::new(policy.clone());
        assert_eq!([1, 2, 3].map(|at| restarts.died(SECOND * at, true).slow), [false; 3]);
        for at in [4, 30, 60] {
            assert_eq!(restarts.died(SECOND * at, true), Pause { length: policy.slow_pause, slow: true });
        }
        assert!(!restarts.died(SECOND * 631, true).slow);
    }
}
