//! What is asked about one SMU.

use crate::call::{Call, Caller};
use crate::engine::State;
use crate::slots::SLOTS_MAX;
use crate::sys;
use agentmem_core::{Advice, Error, ErrorKind, Result, Tier};
use serde::{Deserialize, Serialize};

/// A handle, as it goes over the socket.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct At {
    /// Whose.
    pub agent: u32,
    /// The slot that it was made for.
    pub slot: u32,
    /// Which use of the slot.
    pub generation: u64,
}

impl At {
    /// What an error names.
    pub fn subject(&self, state: &State) -> String {
        let name = state.agents.get(self.agent).map_or("", |agent| &agent.shared.name);
        format!("an SMU of agent {name:?}")
    }

    fn released(&self, state: &State) -> Error {
        Error::new(ErrorKind::Released, self.subject(state))
    }

    /// The slot that holds its content.
    ///
    /// # Errors
    /// `Released` unless the agent holds it.
    pub fn holder(&self, at: &Caller<'_>, state: &State) -> Result<u32> {
        at.check_agent(state, self.agent)?;
        if self.slot as usize >= SLOTS_MAX || at.engine.slots.generation(self.slot) != self.generation {
            return Err(self.released(state));
        }
        let holder = state.smus.resolve(self.slot);
        let is_held = state.agents.get(self.agent).is_some_and(|agent| agent.leases.contains_key(&holder));
        if is_held { Ok(holder) } else { Err(self.released(state)) }
    }

    /// The same, once it is sealed.
    pub fn sealed(&self, at: &Caller<'_>) -> Result<u32> {
        let slot = self.holder(at, &at.engine.settled())?;
        at.engine.seal_slot(slot)
    }
}

/// Makes its content hot.
#[derive(Debug, Serialize, Deserialize)]
pub struct Promote {
    /// Which.
    pub smu: At,
}

impl Call for Promote {
    const NUMBER: u16 = 40;
    type Answer = ();

    fn run(self, at: &mut Caller<'_>) -> Result<()> {
        let began = std::time::Instant::now();
        let slot = self.smu.holder(at, &at.engine.settled())?;
        at.engine.promote(slot)?;
        at.engine.view_latencies.add(began.elapsed());
        Ok(())
    }
}

/// Where it is now.
#[derive(Debug, Serialize, Deserialize)]
pub struct FindTier {
    /// Which.
    pub smu: At,
}

impl Call for FindTier {
    const NUMBER: u16 = 41;
    type Answer = Tier;

    fn run(self, at: &mut Caller<'_>) -> Result<Tier> {
        let state = at.engine.settled();
        let holder = self.smu.holder(at, &state)?;
        let smu = state.smus.get(holder).ok_or_else(|| self.smu.released(&state))?;
        Ok(state.tier(smu))
    }
}

/// NUMA node that holds the raw bytes, while they are hot.
#[derive(Debug, Serialize, Deserialize)]
pub struct FindNode {
    /// Which.
    pub smu: At,
}

impl Call for FindNode {
    const NUMBER: u16 = 42;
    type Answer = Option<u32>;

    fn run(self, at: &mut Caller<'_>) -> Result<Option<u32>> {
        let state = at.engine.settled();
        let holder = self.smu.holder(at, &state)?;
        let smu = state.smus.get(holder).ok_or_else(|| self.smu.released(&state))?;
        Ok(smu.raw.as_ref().and_then(|raw| sys::numa_node(raw.bytes().as_ptr())))
    }
}

/// Answers once it is sealed.
#[derive(Debug, Serialize, Deserialize)]
pub struct Seal {
    /// Which.
    pub smu: At,
}

/// What is known of sealed content.
#[derive(Debug, Serialize, Deserialize)]
pub struct SealedFacts {
    /// Its id.
    pub id: [u8; 32],
    /// Bytes kept for it.
    pub stored_bytes: u64,
    /// Agents that hold it.
    pub shared_by: u32,
}

impl Call for Seal {
    const NUMBER: u16 = 43;
    type Answer = SealedFacts;

    fn run(self, at: &mut Caller<'_>) -> Result<SealedFacts> {
        let holder = self.smu.sealed(at)?;
        let state = at.engine.lock();
        let smu = state.smus.get(holder).ok_or_else(|| self.smu.released(&state))?;
        Ok(SealedFacts { id: smu.id.0, stored_bytes: state.stored_bytes(holder), shared_by: smu.agents })
    }
}

/// A name of it, the newest.
#[derive(Debug, Serialize, Deserialize)]
pub struct FindName {
    /// Which.
    pub smu: At,
}

impl Call for FindName {
    const NUMBER: u16 = 44;
    type Answer = Option<String>;

    fn run(self, at: &mut Caller<'_>) -> Result<Option<String>> {
        let state = at.engine.settled();
        let holder = self.smu.holder(at, &state)?;
        Ok(state.smus.name_of(holder).map(ToOwned::to_owned))
    }
}

/// Says what is known about its next use.
#[derive(Debug, Serialize, Deserialize)]
pub struct Advise {
    /// Which.
    pub smu: At,
    /// What.
    pub advice: Advice,
}

impl Call for Advise {
    const NUMBER: u16 = 45;
    type Answer = ();

    fn run(self, at: &mut Caller<'_>) -> Result<()> {
        let holder = self.smu.sealed(at)?;
        if self.advice == Advice::WillNeed {
            return at.engine.promote(holder);
        }
        let keeps = self.advice == Advice::Hot;
        let raw = at.engine.lock().smus.get(holder).filter(|smu| smu.is_hot()).and_then(|smu| smu.raw.clone());
        if let Some(held) = raw.as_ref().and_then(|raw| raw.held()) {
            held.mark_kept(keeps);
        }
        let mut state = at.engine.lock();
        state.note(|fresh| fresh.slots.push(holder));
        match state.smus.get_mut(holder) {
            Some(smu) => smu.keep_hot = keeps,
            None => return Err(self.smu.released(&state)),
        }
        if self.advice == Advice::Cold {
            state.unwanted.push_back(holder);
        }
        Ok(())
    }
}
