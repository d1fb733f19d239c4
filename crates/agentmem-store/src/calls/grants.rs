//! What crosses from one trust domain into another, and only what was granted.

use crate::call::{Call, Caller};
use crate::calls::agent::SmuFacts;
use crate::calls::smu::At;
use crate::claims::Claim;
use crate::domains::{Domains, check_domain_name};
use crate::grants::{GRANT_MS_MAX, Grant, GrantKey, grant_id, parse_grant};
use crate::raw::Raw;
use crate::ring::Given;
use crate::sys;
use agentmem_core::{Error, ErrorKind, Kind, Result};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::sync::Arc;

impl<'a> Caller<'a> {
    fn domains(&self) -> Result<&'a Domains> {
        self.domains
            .ok_or_else(|| Error::new(ErrorKind::Unsupported, "sharing with domains of a store without a daemon"))
    }
}

/// Lets the domain called `to` copy what the handle is of. The answer is the text that redeems the grant.
#[derive(Debug, Serialize, Deserialize)]
pub struct MakeGrant {
    /// What.
    pub smu: At,
    /// For whom; empty for the user's own domain. Whether there is such a domain is not said.
    pub to: String,
    /// For how long.
    pub lasts_ms: u64,
    /// How often.
    pub uses: u32,
}

impl Call for MakeGrant {
    const NUMBER: u16 = 100;
    type Answer = String;

    fn run(self, at: &mut Caller<'_>) -> Result<String> {
        let log = at.domains()?.log()?;
        let invalid = |what: String| Err(Error::new(ErrorKind::InvalidArgument, what));
        if !self.to.is_empty() {
            check_domain_name(&self.to)?;
        }
        if self.to == at.engine.options.domain {
            return invalid("a grant for its own domain: attach what you share there".into());
        }
        if self.uses == 0 || !(1..=GRANT_MS_MAX).contains(&self.lasts_ms) {
            return invalid(format!("a grant for {} uses within {} ms (a year at most)", self.uses, self.lasts_ms));
        }
        let slot = self.smu.sealed(at)?;
        let created_unix_ms = sys::unix_ms();
        let grant = {
            let state = at.engine.lock();
            let smu = state.smus.get(slot).ok_or_else(|| Error::new(ErrorKind::Released, self.smu.subject(&state)))?;
            let (kind, importance, logical_bytes) = (smu.kind, smu.importance, smu.logical_bytes);
            Grant {
                hash: [0; 32],
                agent: self.smu.agent,
                content: smu.id.0,
                kind,
                importance,
                logical_bytes,
                to: self.to,
                created_unix_ms,
                expires_unix_ms: created_unix_ms + self.lasts_ms,
                uses: self.uses,
                done: VecDeque::new(),
            }
        };
        at.engine.grant(grant, log)
    }
}

/// Copies what a grant of another domain is of into this one.
#[derive(Debug, Serialize, Deserialize)]
pub struct Redeem {
    /// Who gets it.
    pub agent: u32,
    /// The text of the grant.
    pub grant: String,
    /// A random number: where the answer is lost, and the call repeated, that it was done before is known by this.
    pub redemption: u64,
}

impl Call for Redeem {
    const NUMBER: u16 = 101;
    type Answer = SmuFacts;

    fn run(self, at: &mut Caller<'_>) -> Result<SmuFacts> {
        let domains = at.domains()?;
        let log = domains.log()?;
        let malformed = || Error::new(ErrorKind::InvalidArgument, "the text of a grant");
        let key = GrantKey::parse(&self.grant).ok_or_else(malformed)?;
        let redeeming = domains.redeeming(&key, &at.engine.options.domain, self.redemption, at.is_repeated)?;
        let mut event = redeeming.event.clone();
        event.to_agent = {
            let state = at.engine.lock();
            at.check_agent(&state, self.agent)?;
            state.agents.get(self.agent).map(|agent| agent.shared.name.to_string())
        };
        let received = at.receive(self.agent, &redeeming.grant, |bytes| {
            redeeming.copy(bytes)?;
            // That took its time: what was revoked meanwhile is not given.
            redeeming.check()?;
            // Before anybody sees it.
            log(&event)
        })?;
        redeeming.done();
        Ok(received)
    }
}

impl Caller<'_> {
    /// Gives `agent` content like that of `grant`, which `fill` writes.
    fn receive(&self, agent: u32, grant: &Grant, fill: impl FnOnce(&mut [u8]) -> Result<()>) -> Result<SmuFacts> {
        let &Grant { logical_bytes, kind, importance, .. } = grant;
        let (engine, session) = (self.engine, self.session);
        engine.settled().charge(agent, logical_bytes)?;
        let made = engine
            .wait_for_large(logical_bytes)
            .and_then(|_one| Raw::with(&engine.hot_heap, &engine.segments, logical_bytes as usize, fill));
        let mut state = engine.lock();
        // That took its time: the agent may be gone, and what it was charged for with it.
        let held = made.and_then(|raw| {
            self.check_agent(&state, agent)?;
            Ok((raw, state.take_handle(session)?))
        });
        let (raw, Given { slot, claim }) = held.inspect_err(|_| {
            if let Some(entry) = state.agents.get(agent) {
                entry.shared.uncharge(logical_bytes);
            }
        })?;
        let claimed = Claim { session, index: claim };
        engine.add_smu(&mut state, agent, slot, claimed, (kind, importance), Arc::new(raw), engine.now_ms());
        let generation = engine.slots.generation(slot);
        Ok(SmuFacts { slot, claim, generation, logical_bytes, kind, importance })
    }
}

/// Grants of this domain that can still be redeemed, oldest first.
#[derive(Debug, Serialize, Deserialize)]
pub struct ListGrants;

/// One grant.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GrantFacts {
    /// What names it, and does not redeem it.
    pub id: String,
    /// The agent that granted it.
    pub agent: String,
    /// What it is of.
    pub content: [u8; 32],
    /// What that is.
    pub kind: Kind,
    /// Its length.
    pub logical_bytes: u64,
    /// The domain that may redeem it; empty for the user's own.
    pub to: String,
    /// When it was made, in Unix milliseconds.
    pub created_unix_ms: u64,
    /// When it ends.
    pub expires_unix_ms: u64,
    /// How often it can still be redeemed.
    pub uses: u32,
}

impl Call for ListGrants {
    const NUMBER: u16 = 102;
    type Answer = Vec<GrantFacts>;

    fn run(self, at: &mut Caller<'_>) -> Result<Vec<GrantFacts>> {
        at.domains()?;
        let mut state = at.engine.lock();
        state.live_grants();
        let facts = |(number, grant): (u64, &Grant)| GrantFacts {
            id: grant_id(number),
            agent: state.agents.get(grant.agent).map_or("", |agent| &agent.shared.name).to_owned(),
            content: grant.content,
            kind: grant.kind,
            logical_bytes: grant.logical_bytes,
            to: grant.to.clone(),
            created_unix_ms: grant.created_unix_ms,
            expires_unix_ms: grant.expires_unix_ms,
            uses: grant.uses,
        };
        let mut all: Vec<GrantFacts> = state.grants.iter().map(facts).collect();
        all.sort_by_key(|grant| grant.created_unix_ms);
        Ok(all)
    }
}

/// Takes a grant of this domain back. What was redeemed before stays where it is.
#[derive(Debug, Serialize, Deserialize)]
pub struct RevokeGrant {
    /// Its text, or its id.
    pub grant: String,
}

impl Call for RevokeGrant {
    const NUMBER: u16 = 103;
    type Answer = ();

    fn run(self, at: &mut Caller<'_>) -> Result<()> {
        at.engine.revoke(parse_grant(&self.grant)?, at.domains()?.log()?)
    }
}
