//! What to demote first.
//!
//! A policy sees one batch of candidates, sampled from everything that could be demoted, and puts
//! them into the order in which they should go. It decides; it never moves a byte.

mod lru;
mod semantic;

pub use lru::Lru;
pub use semantic::Semantic;

use crate::error::{Error, ErrorKind, Result};
use crate::smu::{AgentState, Kind, Tier};
use std::sync::Arc;

/// One thing that could be demoted: an SMU, the unpacked tail of a conversation, or a frame.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    /// Name of the agent it belongs to; of the most recent one where several do.
    pub agent: Arc<str>,
    /// What that agent is doing.
    pub agent_state: AgentState,
    /// Importance of that agent, 0 to 100.
    pub agent_importance: u8,
    /// Milliseconds since that agent did anything.
    pub agent_idle_ms: u64,
    /// What the content is.
    pub kind: Kind,
    /// Importance of the content, 0 to 100.
    pub importance: u8,
    /// Where it is now.
    pub tier: Tier,
    /// RAM that demoting it gives back.
    pub resident_bytes: u64,
    /// Milliseconds since it was last used.
    pub idle_ms: u64,
    /// How often it was used since it was put or promoted.
    pub uses: u32,
    /// Estimated microseconds to bring it back.
    pub restore_us: u32,
    /// Agents that hold it.
    pub shared_by: u32,
}

/// Orders candidates for demotion.
///
/// An implementation MUST return each index at most once, MUST NOT depend on the order of
/// `batch`, and MAY leave out what it wants kept: what is left out goes only if the rest did not
/// free enough.
pub trait Policy: Send + Sync {
    /// Name in statistics and options.
    fn name(&self) -> &str;

    /// Indices into `batch`, the first to be demoted first; `None` if it failed, and then the
    /// engine falls back to [`Lru`] for this batch.
    fn order(&mut self, batch: &[Candidate]) -> Option<Vec<usize>>;
}

/// The built-in policy called `name`.
pub fn by_name(name: &str) -> Result<Box<dyn Policy>> {
    match name {
        "semantic" => Ok(Box::new(Semantic)),
        "lru" => Ok(Box::new(Lru)),
        _ => Err(Error::new(ErrorKind::InvalidArgument, format!("policy {name:?} is none of semantic, lru"))),
    }
}

/// Indices of `batch` in ascending order of `score`.
fn ascending(batch: &[Candidate], mut score: impl FnMut(&Candidate) -> f64) -> Vec<usize> {
    let scores: Vec<f64> = batch.iter().map(&mut score).collect();
    let mut order: Vec<usize> = (0..batch.len()).collect();
    order.sort_by(|&a, &b| scores[a].total_cmp(&scores[b]));
    order
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn candidate() -> Candidate {
        Candidate {
            agent: "a".into(),
            agent_state: AgentState::Active,
            agent_importance: 50,
            agent_idle_ms: 1000,
            kind: Kind::ToolResult,
            importance: 50,
            tier: Tier::Hot,
            resident_bytes: 4096,
            idle_ms: 1000,
            uses: 1,
            restore_us: 50,
            shared_by: 1,
        }
    }

    #[test]
    fn names_are_known() {
        for name in ["semantic", "lru"] {
            assert_eq!(by_name(name).unwrap().name(), name);
        }
        assert!(by_name("random").is_err());
    }
}
