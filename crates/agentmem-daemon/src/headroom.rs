//! How much of their budget the engines may use, by what the machine has left. Decisions only; oversight.rs does what
//! follows from them.
//!
//! Two things are heeded. *Scarcity* is a fact: what the machine, or a cgroup that the daemon is in, has left beyond a
//! reserve is all that the engines can grow by, and what it lacks they give back. A *stall* is a symptom: tasks waited
//! for memory although there seemed to be some. Then the engines give back a part at a time, down to a quarter of the
//! budget, for others may be to blame. What is taken is taken at once, and given again slowly.

use crate::fleet::FLOOR_SHARE;
use agentmem_store::options::MEMORY_MAX_BYTES_MIN;

/// One part in so many of all memory is left to others, and no more than the other.
const RESERVE_SHARE: u64 = 16;
const RESERVE_BYTES_MAX: u64 = 512 << 20;
/// One part in so many is given back at a stall, and a second one so much later.
const STALL_SHARE: u64 = 8;
const STALL_PAUSE_MS: u64 = 1000;
/// One part in so many is given back when the kernel found nothing more to take.
const LAST_RESORT_SHARE: u64 = 2;
/// For so long after something was taken, nothing is given.
const HOLD_MS: u64 = 10_000;
/// Then one part in so many of the budget, a second.
const GROWTH_SHARE: u64 = 64;

/// Memory of the machine, or of a cgroup with a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// All of it.
    pub total_bytes: u64,
    /// What can be had without taking anything from anybody.
    pub available_bytes: u64,
}

impl Room {
    fn reserve_bytes(self) -> u64 {
        (self.total_bytes / RESERVE_SHARE).min(RESERVE_BYTES_MAX)
    }

    /// What who takes `taken_bytes` of it may take.
    pub fn allows_bytes(self, taken_bytes: u64) -> u64 {
        taken_bytes.saturating_add(self.available_bytes).saturating_sub(self.reserve_bytes())
    }
}

/// What is seen at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sight {
    /// What the machine has, and each cgroup with a limit that the daemon is in.
    pub rooms: Vec<Room>,
    /// Whether tasks waited for memory a good part of the time.
    pub is_stalled: bool,
    /// Whether the kernel found nothing more to take in one of these cgroups, since the look before.
    pub ran_out: bool,
}

/// Why something was given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// There is not enough.
    Scarce,
    /// Tasks waited for memory.
    Stalled,
}

/// What the engines may use, from look to look.
#[derive(Debug)]
pub struct Headroom {
    budget_bytes: u64,
    allowed_bytes: u64,
    taken_away_ms: Option<u64>,
    stalled_ms: Option<u64>,
    grown_ms: u64,
}

impl Headroom {
    /// All of a budget, at first.
    pub fn new(budget_bytes: u64) -> Self {
        Headroom { budget_bytes, allowed_bytes: budget_bytes, taken_away_ms: None, stalled_ms: None, grown_ms: 0 }
    }

    /// What the engines may use.
    pub fn allowed_bytes(&self) -> u64 {
        self.allowed_bytes
    }

    /// What follows from a look at `now_ms`, when they cannot do without `taken_bytes`: why they have to give
    /// something back, if they do.
    pub fn look(&mut self, now_ms: u64, taken_bytes: u64, sight: &Sight) -> Option<Reason> {
        let possible = sight.rooms.iter().map(|room| room.allows_bytes(taken_bytes)).min().unwrap_or(u64::MAX);
        let possible = possible.min(self.budget_bytes).max(MEMORY_MAX_BYTES_MIN);
        let bearable = self.bearable_bytes(now_ms, taken_bytes, sight).max(MEMORY_MAX_BYTES_MIN);
        let target = possible.min(bearable);
        if target < self.allowed_bytes {
            (self.allowed_bytes, self.taken_away_ms) = (target, Some(now_ms));
            let reason = if bearable < possible { Reason::Stalled } else { Reason::Scarce };
            return (taken_bytes > target).then_some(reason);
        }
        let is_held = sight.is_stalled || self.taken_away_ms.is_some_and(|since| now_ms < since + HOLD_MS);
        let passed_ms = now_ms.saturating_sub(self.grown_ms).min(1000);
        self.grown_ms = now_ms;
        if !is_held {
            let step = self.budget_bytes / GROWTH_SHARE * passed_ms / 1000;
            self.allowed_bytes = (self.allowed_bytes + step).min(possible);
        }
        None
    }

    /// What a stall leaves.
    fn bearable_bytes(&mut self, now_ms: u64, taken_bytes: u64, sight: &Sight) -> u64 {
        if sight.ran_out {
            return taken_bytes - taken_bytes / LAST_RESORT_SHARE;
        }
        if !sight.is_stalled || self.stalled_ms.is_some_and(|before| now_ms < before + STALL_PAUSE_MS) {
            return u64::MAX;
        }
        self.stalled_ms = Some(now_ms);
        (taken_bytes - taken_bytes / STALL_SHARE).max(self.budget_bytes / FLOOR_SHARE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MIB: u64 = 1 << 20;
    const BUDGET: u64 = 1024 * MIB;

    fn room(total_mib: u64, available_mib: u64) -> Sight {
        let room = Room { total_bytes: total_mib * MIB, available_bytes: available_mib * MIB };
        Sight { rooms: vec![room], ..Sight::default() }
    }

    fn stalled() -> Sight {
        Sight { is_stalled: true, ..room(16_384, 8000) }
    }

    #[test]
    fn where_there_is_enough_the_budget_is_the_limit() {
        let mut headroom = Headroom::new(BUDGET);
        assert_eq!(headroom.look(0, 900 * MIB, &room(16_384, 8000)), None);
        assert_eq!(headroom.look(1000, 900 * MIB, &Sight::default()), None, "nothing is known");
        assert_eq!(headroom.allowed_bytes(), BUDGET);
    }

    #[test]
    fn what_the_machine_lacks_is_given_back_and_no_more() {
        let mut headroom = Headroom::new(BUDGET);
        // 512 MiB are others': 100 of these are missing.
        assert_eq!(headroom.look(0, 900 * MIB, &room(16_384, 412)), Some(Reason::Scarce));
        assert_eq!(headroom.allowed_bytes(), 800 * MIB);
        // They were given back, so it is no less now.
        assert_eq!(headroom.look(1000, 800 * MIB, &room(16_384, 512)), None);
        assert_eq!(headroom.allowed_bytes(), 800 * MIB);
    }

    #[test]
    fn room_limits_growth_before_anything_is_taken() {
        let mut headroom = Headroom::new(BUDGET);
        assert_eq!(headroom.look(0, 100 * MIB, &room(16_384, 712)), None);
        assert_eq!(headroom.allowed_bytes(), 300 * MIB);
    }

    #[test]
    fn the_nearest_limit_counts() {
        let mut headroom = Headroom::new(BUDGET);
        let cgroup = Room { total_bytes: 256 * MIB, available_bytes: 116 * MIB };
        let sight = Sight { rooms: [room(16_384, 8000).rooms[0], cgroup].to_vec(), ..Sight::default() };
        assert_eq!(headroom.look(0, 20 * MIB, &sight), None);
        assert_eq!(headroom.allowed_bytes(), 120 * MIB, "a sixteenth of the cgroup is left");
    }

    #[test]
    fn what_was_taken_is_given_again_slowly_and_late() {
        let mut headroom = Headroom::new(BUDGET);
        headroom.look(0, 900 * MIB, &room(16_384, 412));
        for second in 1..10 {
            headroom.look(second * 1000, 800 * MIB, &room(16_384, 8000));
            assert_eq!(headroom.allowed_bytes(), 800 * MIB, "after {second} s");
        }
        headroom.look(10_000, 800 * MIB, &room(16_384, 8000));
        assert_eq!(headroom.allowed_bytes(), 816 * MIB);
        // However long nobody looked.
        headroom.look(20_000, 800 * MIB, &room(16_384, 8000));
        assert_eq!(headroom.allowed_bytes(), 832 * MIB);
        for second in 21..60 {
            headroom.look(second * 1000, 800 * MIB, &room(16_384, 8000));
        }
        assert_eq!(headroom.allowed_bytes(), BUDGET);
    }

    #[test]
    fn stalls_take_an_eighth_a_second_and_leave_a_quarter() {
        let mut headroom = Headroom::new(BUDGET);
        assert_eq!(headroom.look(0, 800 * MIB, &stalled()), Some(Reason::Stalled));
        assert_eq!(headroom.allowed_bytes(), 700 * MIB);
        assert_eq!(headroom.look(500, 700 * MIB, &stalled()), None, "so soon");
        assert_eq!(headroom.allowed_bytes(), 700 * MIB);
        let mut taken = 700 * MIB;
        for second in 1..20 {
            headroom.look(second * 1000, taken, &stalled());
            taken = taken.min(headroom.allowed_bytes());
        }
        assert_eq!(taken, 256 * MIB);
        // As long as there are stalls, it does not grow.
        headroom.look(60_000, taken, &stalled());
        assert_eq!(headroom.allowed_bytes(), 256 * MIB);
    }

    #[test]
    fn before_the_kernel_kills_half_goes_at_once() {
        let mut headroom = Headroom::new(BUDGET);
        let sight = Sight { ran_out: true, ..room(16_384, 8000) };
        assert_eq!(headroom.look(0, 200 * MIB, &sight), Some(Reason::Stalled));
        assert_eq!(headroom.allowed_bytes(), 100 * MIB);
    }

    proptest! {
        /// Whatever is seen, and in which order: the limits hold.
        #[test]
        fn it_stays_within_its_limits(
            budget in 16 * MIB..10_000 * MIB,
            looks in prop::collection::vec((0..5000u64, 0..12_000u64, 0..20_000u64, 0..20_000u64, any::<bool>()), 1..50),
        ) {
            let mut headroom = Headroom::new(budget);
            let mut now_ms = 0;
            for (pause_ms, taken, total, available, is_stalled) in looks {
                now_ms += pause_ms;
                let before = headroom.allowed_bytes();
                let sight = Sight { is_stalled, ..room(total, available.min(total)) };
                let reason = headroom.look(now_ms, taken * MIB, &sight);
                let allowed = headroom.allowed_bytes();
                let possible = sight.rooms[0].allows_bytes(taken * MIB);
                prop_assert!((MEMORY_MAX_BYTES_MIN..=budget).contains(&allowed));
                prop_assert!(allowed <= possible.max(MEMORY_MAX_BYTES_MIN));
                prop_assert!(allowed <= before + budget / GROWTH_SHARE, "it grows slowly");
                prop_assert!(reason.is_none() || allowed < before, "who gives back is allowed less");
                let quarter = (budget / FLOOR_SHARE).max(MEMORY_MAX_BYTES_MIN);
                prop_assert!(allowed >= quarter.min(possible).min(before), "a stall leaves a quarter");
            }
        }
    }
}
