//! One budget for the whole fleet: the daemon's engine and the trees of processes that supervisors manage. Decisions
//! only; trees.rs does what follows from them.
//!
//! What trees need while they work cannot be taken from them. So the engine gets what they leave, and idle trees are
//! paged out first: what they would give is not taken from the engine for a while, and they are told that the fleet is
//! beyond its budget.

use agentmem_pager::fleet::Peer;
use agentmem_store::options::MEMORY_MAX_BYTES_MIN;

/// One part in so many of the budget is the engine's, whatever trees take.
pub const FLOOR_SHARE: u64 = 4;
/// For so long after the fleet came to be beyond its budget, the engine keeps what idle trees would give.
pub const PATIENCE_MS: u64 = 10_000;
/// So far beyond the budget, as a part of it, that the urgency is greatest.
const BEYOND_SHARE_MAX: f64 = 0.25;
/// What is left in RAM of an idle tree's private memory, at most: a third.
const KEPT_SHARE: u64 = 3;

/// What was decided.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dealt {
    /// The engine's budget.
    pub engine_bytes: u64,
    /// How far the fleet is beyond its budget: from 0, not at all, to 1. Trees are told.
    pub beyond_budget: f64,
}

/// Deals `budget_bytes` out to an engine that needs `needed_bytes`, beside `trees`, in a fleet that has been beyond
/// its budget for `beyond_ms`.
pub fn deal(budget_bytes: u64, needed_bytes: u64, trees: &[Peer], beyond_ms: u64) -> Dealt {
    let taken_bytes = trees.iter().map(Peer::ram_bytes).fold(0, u64::saturating_add);
    let given = |tree: &Peer| tree.private_bytes - tree.private_bytes / KEPT_SHARE;
    let idle = trees.iter().filter(|tree| tree.can_give_memory());
    let spared_bytes = if beyond_ms < PATIENCE_MS { idle.map(given).fold(0, u64::saturating_add) } else { 0 };
    let left_bytes = budget_bytes.saturating_sub(taken_bytes.saturating_sub(spared_bytes));
    let beyond_bytes = taken_bytes.saturating_add(needed_bytes).saturating_sub(budget_bytes);
    let beyond_budget = beyond_bytes as f64 / (budget_bytes.max(1) as f64 * BEYOND_SHARE_MAX);
    Dealt {
        engine_bytes: left_bytes.max(budget_bytes / FLOOR_SHARE).max(MEMORY_MAX_BYTES_MIN),
        beyond_budget: beyond_budget.min(1.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use agentmem_pager::event::State;
    use proptest::prelude::*;

    const MIB: u64 = 1 << 20;

    fn tree(state: State, private_mib: u64, compressed_mib: u64) -> Peer {
        Peer {
            name: "a".into(),
            state,
            idle_ms: if state == State::Running { 0 } else { 60_000 },
            idle_after_ms: 30_000,
            importance: 50,
            private_bytes: private_mib * MIB,
            compressed_bytes: compressed_mib * MIB,
            supervisor_bytes: 2 * MIB,
        }
    }

    #[test]
    fn alone_the_engine_has_all() {
        assert_eq!(deal(1000 * MIB, 900 * MIB, &[], 0), Dealt { engine_bytes: 1000 * MIB, beyond_budget: 0.0 });
    }

    #[test]
    fn the_engine_gets_what_trees_do_not_use() {
        let trees = [tree(State::Running, 198, 0), tree(State::PagedOut, 0, 98)];
        let dealt = deal(1000 * MIB, 600 * MIB, &trees, 0);
        assert_eq!(dealt, Dealt { engine_bytes: 700 * MIB, beyond_budget: 0.0 });
    }

    #[test]
    fn idle_trees_go_before_the_engine_has_to_give_way() {
        let trees = [tree(State::Running, 396, 0), tree(State::Idle, 300, 0)];
        let early = deal(1000 * MIB, 350 * MIB, &trees, PATIENCE_MS - 1);
        assert_eq!(early, Dealt { engine_bytes: 500 * MIB, beyond_budget: 0.2 });
        let late = deal(1000 * MIB, 350 * MIB, &trees, PATIENCE_MS);
        assert_eq!(late, Dealt { engine_bytes: 300 * MIB, beyond_budget: 0.2 }, "nobody went");
    }

    #[test]
    fn trees_that_work_leave_the_engine_its_floor() {
        let dealt = deal(1000 * MIB, 100 * MIB, &[tree(State::Running, 1998, 0)], 0);
        assert_eq!(dealt, Dealt { engine_bytes: 250 * MIB, beyond_budget: 1.0 });
        assert_eq!(deal(20 * MIB, 0, &[tree(State::Running, 998, 0)], 0).engine_bytes, MEMORY_MAX_BYTES_MIN);
    }

    #[test]
    fn a_little_beyond_is_a_little_urgent() {
        let dealt = deal(1000 * MIB, 525 * MIB, &[tree(State::Running, 498, 0)], 0);
        assert_eq!(dealt, Dealt { engine_bytes: 500 * MIB, beyond_budget: 0.1 });
    }

    fn any_tree() -> impl Strategy<Value = Peer> {
        let state = prop_oneof![Just(State::Running), Just(State::Idle), Just(State::PagedOut), Just(State::Frozen)];
        (state, 0..2000u64, 0..500u64).prop_map(|(state, private, compressed)| tree(state, private, compressed))
    }

    proptest! {
        #[test]
        fn the_budget_is_kept_where_it_can_be(
            budget in 16 * MIB..10_000 * MIB,
            needed in 0..10_000 * MIB,
            trees in prop::collection::vec(any_tree(), 0..20),
        ) {
            let dealt = deal(budget, needed, &trees, PATIENCE_MS);
            let taken: u64 = trees.iter().map(Peer::ram_bytes).sum();
            let floor = (budget / FLOOR_SHARE).max(MEMORY_MAX_BYTES_MIN);
            prop_assert!(dealt.engine_bytes + taken <= budget || dealt.engine_bytes == floor);
            prop_assert!((0.0..=1.0).contains(&dealt.beyond_budget));
            prop_assert_eq!(dealt.beyond_budget > 0.0, taken + needed > budget);
            prop_assert!(deal(budget, needed, &trees, 0).engine_bytes >= dealt.engine_bytes, "patience spares the engine");
        }
    }
}
