//! Calls: everything that a session asks the engine for, beside put and view.
//!
//! A call is a value that runs in the engine's process. Where the session is in the same process it is run as
//! it is; elsewhere it and its answer cross a socket (remote.rs, server.rs), encoded by postcard. What comes
//! from another process is checked in `run`, as nothing about it can be believed.

use crate::calls;
use crate::domains::Domains;
use crate::engine::{Engine, State};
use agentmem_core::{Error, ErrorKind, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// Beside the number of a call that may have been carried out before.
pub const REPEATED: u16 = 0x4000;
/// Beside the number of a call that must see what the session published before.
pub const AFTER_PUTS: u16 = 0x2000;

/// Who calls.
pub struct Caller<'a> {
    /// The engine that is asked.
    pub engine: &'a Arc<Engine>,
    /// The session that asks.
    pub session: u32,
    /// Whether it was asked before, and the engine was killed before it answered.
    pub is_repeated: bool,
    /// The domains of the daemon, where there is one.
    pub domains: Option<&'a Domains>,
    /// A descriptor that came with the call, or that goes with its answer.
    pub descriptor: Option<OwnedFd>,
}

impl Caller<'_> {
    /// Fails unless `agent` is one that this session may speak for.
    pub fn check_agent(&self, state: &State, agent: u32) -> Result<()> {
        let is_own = state.sessions.get(self.session).is_some_and(|entry| entry.speaks_for(agent));
        if is_own && state.agents.get(agent).is_some() {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Closed, format!("agent {agent}")))
    }
}

/// Something to be asked.
pub trait Call: Serialize + DeserializeOwned {
    /// What is asked, in one word over the socket.
    const NUMBER: u16;
    /// What comes back.
    type Answer: Serialize + DeserializeOwned;
    /// Asks.
    fn run(self, at: &mut Caller<'_>) -> Result<Self::Answer>;
}

/// The bytes of a call, an answer, or what connections begin with.
pub fn encode(value: &impl Serialize) -> Result<Vec<u8>> {
    postcard::to_allocvec(value).map_err(|error| Error::new(ErrorKind::Io, format!("encoding: {error}")))
}

/// The answer that `bytes` hold.
pub fn decode_answer<C: Call>(bytes: &[u8]) -> Result<C::Answer> {
    postcard::from_bytes(bytes).map_err(|_| Error::new(ErrorKind::Version, "an answer of the daemon"))
}

/// Runs the call that `bytes` hold; returns the bytes of its answer.
pub fn run_encoded<C: Call>(at: &mut Caller<'_>, bytes: &[u8]) -> Result<Vec<u8>> {
    let call: C = postcard::from_bytes(bytes)
        .map_err(|_| Error::new(ErrorKind::InvalidArgument, format!("call {} is malformed", C::NUMBER)))?;
    encode(&call.run(at)?)
}

/// Runs call `number`, with what is said beside it.
pub fn answer(at: &mut Caller<'_>, number: u16, bytes: &[u8]) -> Result<Vec<u8>> {
    at.engine.check_usable()?;
    at.is_repeated = number & REPEATED != 0;
    if number & AFTER_PUTS != 0 {
        at.engine.take_in_of(at.session)?;
    }
    calls::run(at, number & !(REPEATED | AFTER_PUTS), bytes)
}
