//! What people ask about agents, and do to them, whichever session has them.

use crate::call::{Call, Caller};
use crate::smus::Packed;
use crate::stats::AgentStats;
use agentmem_core::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use std::ops::Bound;

/// Agents in one answer.
const AGENTS_AT_ONCE: usize = 1000;

/// Figures of the agents whose names come after `after`, in order: some, if there are any.
#[derive(Debug, Serialize, Deserialize)]
pub struct ListAgentFigures {
    /// Name of the last that is known; empty for the first.
    pub after: String,
}

/// One agent, and where what it holds is. Shared content counts in full for each that holds it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AgentFigures {
    /// The figures that it has of itself too.
    pub stats: AgentStats,
    /// Bytes of its content and messages that are compressed in RAM.
    pub warm_bytes: u64,
    /// Bytes that are on SSD, in RAM as well or not.
    pub cold_bytes: u64,
    /// Bytes of messages that are raw.
    pub tail_bytes: u64,
}

impl Call for ListAgentFigures {
    const NUMBER: u16 = 83;
    type Answer = Vec<AgentFigures>;

    fn run(self, at: &mut Caller<'_>) -> Result<Vec<AgentFigures>> {
        let numbers = at.engine.settled().agents.after(&self.after, AGENTS_AT_ONCE);
        let mut all = Vec::with_capacity(numbers.len());
        for number in numbers {
            match at.engine.agent_figures(number) {
                Ok(figures) => all.push(figures),
                // It ended meanwhile.
                Err(error) if error.kind() == ErrorKind::Closed => {}
                Err(error) => return Err(error),
            }
        }
        Ok(all)
    }
}

/// Changes the quota of the agent of that name; what it holds already stays. Its session hears of it before its
/// next put.
#[derive(Debug, Serialize, Deserialize)]
pub struct LimitAgent {
    /// Its name.
    pub name: String,
    /// Most logical bytes it may hold; none: as many as it likes.
    pub quota_bytes: Option<u64>,
}

impl Call for LimitAgent {
    const NUMBER: u16 = 84;
    type Answer = ();

    fn run(self, at: &mut Caller<'_>) -> Result<()> {
        let mut state = at.engine.settled();
        let number = state.agents.number(&self.name);
        let number = number.ok_or_else(|| Error::new(ErrorKind::NotFound, format!("agent {:?}", self.name)))?;
        state.agents.open_mut(number)?.shared.set_quota_bytes(self.quota_bytes);
        state.mark_agent(number);
        state.sessions.notify(number);
        Ok(())
    }
}

impl crate::engine::Engine {
    fn agent_figures(&self, number: u32) -> Result<AgentFigures> {
        let stats = self.agent_stats(number)?;
        let state = self.lock();
        let Some(agent) = state.agents.get(number) else {
            return Err(Error::new(ErrorKind::Closed, format!("agent {number}")));
        };
        let [mut warm_bytes, mut cold_bytes, mut tail_bytes] = [0; 3];
        let mut add = |frame: u32, stored_bytes: u64| {
            let Some(entry) = state.frames.get(frame) else { return };
            warm_bytes += if entry.stored.is_some() { stored_bytes } else { 0 };
            cold_bytes += if entry.disk.is_some() { stored_bytes } else { 0 };
        };
        let whole = |frame: u32| state.frames.get(frame).map_or(0, |entry| u64::from(entry.stored_bytes));
        for &slot in agent.leases.keys() {
            match state.smus.get(slot).map(|smu| smu.packed) {
                Some(Packed::Item { frame, .. }) => add(frame, state.stored_bytes(slot)),
                Some(Packed::Parts { first, count }) => {
                    (first..first + count).for_each(|frame| add(frame, whole(frame)))
                }
                Some(Packed::No) | None => {}
            }
        }
        for &conversation in agent.conversations.values() {
            let (frames, tail) = state.conversation_frames(conversation)?;
            frames.into_iter().for_each(|frame| add(frame, whole(frame)));
            tail_bytes += tail;
        }
        Ok(AgentFigures { stats, warm_bytes, cold_bytes, tail_bytes })
    }
}

impl crate::agents::Agents {
    /// The first `count_max` agents whose names come after `name`, in the order of their names.
    fn after(&self, name: &str, count_max: usize) -> Vec<u32> {
        let names: std::collections::BTreeMap<&str, u32> =
            self.iter().map(|agent| (&*agent.shared.name, agent.shared.number)).collect();
        let after = names.range::<str, _>((Bound::Excluded(name), Bound::Unbounded));
        after.take(count_max).map(|(_, &number)| number).collect()
    }
}
