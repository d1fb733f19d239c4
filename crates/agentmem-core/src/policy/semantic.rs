//! Agent first, then content.
//!
//! An agent that is paused or idle will not read its memory soon, whatever was touched last in it;
//! so the order is by agent, and inside an agent by GreedyDual-Size-Frequency: importance times
//! cost to bring back times frequency over bytes, plus an ageing term that lets what was once
//! valuable go in the end (L. Cherkasova, "Improving WWW Proxies Performance with
//! Greedy-Dual-Size-Frequency Caching Policy", 1998).

use super::{Candidate, Policy, ascending};
use crate::smu::AgentState;

/// How much longer an agent in this state is taken to stay away than an active one.
fn away_factor(state: AgentState) -> f64 {
    match state {
        AgentState::Active => 1.0,
        AgentState::Idle => 30.0,
        AgentState::Paused => 300.0,
    }
}

/// The policy that a store uses unless told otherwise.
#[derive(Debug, Default)]
pub struct Semantic;

impl Semantic {
    /// How much an agent needs its memory, in powers of two: agents within one step are equals,
    /// and their content is compared directly.
    fn agent_need(candidate: &Candidate) -> f64 {
        let away_s = (candidate.agent_idle_ms as f64 / 1000.0 + 1.0) * away_factor(candidate.agent_state);
        let importance = f64::from(candidate.agent_importance) + 1.0;
        // Content that several agents hold is needed when any of them wakes.
        (importance * f64::from(candidate.shared_by.max(1)) / away_s).log2().floor()
    }

    /// What keeping the content is worth. Dividing by time since last use is the ageing term.
    fn content_worth(candidate: &Candidate) -> f64 {
        let value = (f64::from(candidate.importance) + 1.0)
            * f64::from(candidate.restore_us.max(1))
            * f64::from(candidate.uses + 1);
        value / (candidate.resident_bytes.max(1) as f64) / (candidate.idle_ms as f64 / 1000.0 + 1.0)
    }
}

impl Policy for Semantic {
    fn name(&self) -> &str {
        "semantic"
    }

    fn order(&mut self, batch: &[Candidate]) -> Option<Vec<usize>> {
        Some(ascending(batch, |candidate| {
            // Worth is squeezed into 0..1, below one step of need.
            let worth = Self::content_worth(candidate);
            Self::agent_need(candidate) + worth / (1.0 + worth)
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::candidate;
    use super::*;

    fn first(batch: &[Candidate]) -> usize {
        Semantic.order(batch).unwrap()[0]
    }

    #[test]
    fn a_paused_agent_goes_before_an_active_one_whatever_was_touched() {
        let batch = [
            Candidate { idle_ms: 60_000, ..candidate() },
            Candidate { agent: "b".into(), agent_state: AgentState::Paused, idle_ms: 10, ..candidate() },
        ];
        assert_eq!(first(&batch), 1);
    }

    #[test]
    fn an_important_agent_stays() {
        let batch = [
            Candidate { agent_importance: 100, ..candidate() },
            Candidate { agent: "b".into(), agent_importance: 5, ..candidate() },
        ];
        assert_eq!(first(&batch), 1);
    }

    #[test]
    fn inside_an_agent_what_is_big_old_and_unused_goes() {
        let batch = [
            Candidate { uses: 50, ..candidate() },
            Candidate { resident_bytes: 1 << 20, uses: 0, ..candidate() },
            Candidate { importance: 100, ..candidate() },
        ];
        assert_eq!(first(&batch), 1);
    }

    #[test]
    fn what_many_agents_hold_stays() {
        let batch = [Candidate { shared_by: 100, ..candidate() }, candidate()];
        assert_eq!(first(&batch), 1);
    }
}
