//! Every call, by noun. Numbers are part of the protocol: one that was used means the same for ever.

pub mod agent;
pub mod agents;
pub mod conversation;
pub mod domain;
pub mod grants;
pub mod inspect;
pub mod smu;
pub mod store;

use crate::call::{Caller, run_encoded};
use agentmem_core::{Error, ErrorKind, Result};

macro_rules! calls {
    ($($call:ty),+ $(,)?) => {
        /// Runs call `number`, whose fields are `bytes`; returns the bytes of its answer.
        pub fn run(at: &mut Caller<'_>, number: u16, bytes: &[u8]) -> Result<Vec<u8>> {
            use crate::call::Call;
            match number {
                $(number if number == <$call>::NUMBER => run_encoded::<$call>(at, bytes),)+
                _ => Err(Error::new(ErrorKind::Version, format!("call {number}"))),
            }
        }

        /// All of them.
        #[cfg(test)]
        pub const NUMBERS: &[u16] = &[$(<$call as crate::call::Call>::NUMBER),+];
    };
}

calls! {
    store::OpenAgent, store::ListAgents, store::Flush, store::ReadStats, store::ReadAgentStats, store::Reclaim,
    store::Verify, store::Drain, store::MapSegment, store::LeaveLarge, store::TakeBack, store::Goodbye,
    agent::AttachId, agent::AttachName, agent::AttachSmu, agent::ListSmus, agent::SetState, agent::SetImportance,
    agent::SetQuota, agent::ReadAgent, agent::CloseAgent, agent::LeaveAgent, agent::OpenConversation,
    agent::ListConversations, agent::ReleaseConversation,
    smu::Promote, smu::FindTier, smu::FindNode, smu::Seal, smu::FindName, smu::Advise,
    conversation::MeasureConversation, conversation::ReadMessages, conversation::Fork,
    conversation::AdviseConversation,
    inspect::Inspect, inspect::ReadContent, inspect::ReadAnyMessages, agents::ListAgentFigures, agents::LimitAgent,
    domain::Allow, domain::ReadDomain, domain::LimitDomain,
    grants::MakeGrant, grants::Redeem, grants::ListGrants, grants::RevokeGrant,
}

#[cfg(all(test, not(loom)))]
mod tests {
    #[test]
    fn no_number_means_two_things() {
        let mut numbers = super::NUMBERS.to_vec();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), super::NUMBERS.len());
    }
}
