//! What is asked of a trust domain as a whole.

use crate::call::{Call, Caller};
use crate::options::Options;
use crate::quota::{DomainQuota, domain_name};
use agentmem_core::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

/// Lets the session put `bytes` more, if the domain's quota has them.
#[derive(Debug, Serialize, Deserialize)]
pub struct Allow {
    /// Logical bytes.
    pub bytes: u64,
}

impl Call for Allow {
    const NUMBER: u16 = 90;
    type Answer = ();

    fn run(self, at: &mut Caller<'_>) -> Result<()> {
        at.engine.settled().allow(at.session, self.bytes)
    }
}

/// What the domain holds and may hold.
#[derive(Debug, Serialize, Deserialize)]
pub struct ReadDomain;

/// See [`ReadDomain`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DomainNow {
    /// Its name; empty for the user's own.
    pub name: String,
    /// Logical bytes that its agents are charged for.
    pub used_bytes: u64,
    /// Its agents.
    pub agents: u64,
    /// The most of both.
    pub quota: DomainQuota,
}

impl Call for ReadDomain {
    const NUMBER: u16 = 91;
    type Answer = DomainNow;

    fn run(self, at: &mut Caller<'_>) -> Result<DomainNow> {
        let state = at.engine.settled();
        Ok(DomainNow {
            name: state.quota.domain.clone(),
            used_bytes: state.agents.used_bytes(),
            agents: state.agents.len() as u64,
            quota: state.quota.now,
        })
    }
}

/// Changes the domain's quota, within what the configuration gives it: that much where none is said. What is held
/// already stays.
#[derive(Debug, Serialize, Deserialize)]
pub struct LimitDomain {
    /// From now on.
    pub quota: DomainQuota,
}

impl Call for LimitDomain {
    const NUMBER: u16 = 92;
    type Answer = ();

    fn run(self, at: &mut Caller<'_>) -> Result<()> {
        let Options { lends, quota: most, .. } = &at.engine.options;
        if !lends {
            return Err(Error::new(ErrorKind::Unsupported, "the quota of a store without a daemon"));
        }
        let quota = self.quota.within(*most);
        let is_beyond = |said: Option<u64>, given: Option<u64>| said.is_some() && said != given;
        if is_beyond(self.quota.logical_bytes, quota.logical_bytes) || is_beyond(self.quota.agents, quota.agents) {
            let name = domain_name(&at.engine.options.domain);
            let what = format!("a quota beyond what the daemon's configuration gives domain {name}");
            return Err(Error::new(ErrorKind::PermissionDenied, what));
        }
        let mut state = at.engine.settled();
        let left: Vec<_> = at.engine.inbox.lock().iter().map(|(&(of, _), raw)| (of, raw.len() as u64)).collect();
        state.set_quota(quota, left.into_iter());
        Ok(())
    }
}
