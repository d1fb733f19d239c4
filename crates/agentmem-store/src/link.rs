//! Links: how a session reaches its engine, in the same process or in another.

use crate::agents::AgentShared;
use crate::call::{Call, Caller};
use crate::calls::agent::ConversationFacts;
use crate::calls::store::{AgentFacts, Drain};
use crate::engine::{ConversationShared, Engine};
use crate::remote::Remote;
use agentmem_core::{Error, ErrorKind, Result};
use std::sync::Arc;

/// How a session reaches its engine.
pub enum Link {
    /// In the same process.
    Embedded(Arc<Engine>),
    /// Over a socket.
    Remote(Remote),
}

impl Link {
    /// Asks on behalf of `session`; with `after_puts` when what that published is taken in.
    pub fn call<C: Call>(&self, session: u32, call: C, after_puts: bool) -> Result<C::Answer> {
        match self {
            Link::Embedded(engine) => {
                call.run(&mut Caller { engine, session, is_repeated: false, domains: None, descriptor: None })
            }
            Link::Remote(remote) => Ok(remote.call(&call, after_puts, None)?.0),
        }
    }

    /// Fails after close.
    #[inline]
    pub fn check_usable(&self) -> Result<()> {
        match self {
            Link::Embedded(engine) => engine.check_usable(),
            Link::Remote(remote) => remote.check_open(),
        }
    }

    /// Whether puts have to ask for room first.
    #[inline]
    pub fn is_full(&self) -> bool {
        match self {
            Link::Embedded(engine) => engine.is_full(),
            // Its ring fills up instead, and a put that waits for the ring is told.
            Link::Remote(_) => false,
        }
    }

    /// Takes in what was published.
    pub fn drain(&self, session: u32) -> Result<()> {
        match self {
            Link::Embedded(engine) => engine.drain(),
            Link::Remote(_) => self.call(session, Drain, false),
        }
    }

    /// Leaves large content beside the ring; returns the key under which a put names it.
    pub fn leave_large(&self, session: u32, content: &[u8]) -> Result<u64> {
        match self {
            Link::Embedded(engine) => engine.leave_large(session, content.len() as u64, |bytes| {
                bytes.copy_from_slice(content);
                Ok(())
            }),
            Link::Remote(remote) => remote.leave_large(content),
        }
    }

    /// The content under `key` will not be put after all.
    pub fn take_back(&self, session: u32, key: u64) {
        match self {
            Link::Embedded(engine) => engine.take_back(session, key),
            Link::Remote(remote) => remote.take_back(key),
        }
    }

    /// What handles of an agent share in this process.
    pub fn agent(&self, name: &str, facts: AgentFacts) -> Result<Arc<AgentShared>> {
        match self {
            Link::Embedded(engine) => Ok(engine.lock().agents.open_mut(facts.number)?.shared.clone()),
            Link::Remote(remote) => Ok(remote.agent(name, facts)),
        }
    }

    /// The agent is about to be left, or was closed: what handles of it and of its conversations share may be out of date from then on.
    pub fn forget_agent(&self, shared: &AgentShared) {
        match self {
            // It is the engine's, which knows.
            Link::Embedded(_) => {}
            Link::Remote(remote) => remote.forget_agent(shared),
        }
    }

    /// The conversation of `agent` called `name`, where that is known here without asking.
    pub fn known_conversation(&self, agent: u32, name: &str) -> Option<Arc<ConversationShared>> {
        match self {
            Link::Embedded(_) => None,
            Link::Remote(remote) => remote.known_conversation(agent, name),
        }
    }

    /// Names of the conversations of `agent`, in order, where they are known here without asking.
    pub fn known_conversations(&self, agent: u32) -> Option<Vec<String>> {
        match self {
            Link::Embedded(_) => None,
            Link::Remote(remote) => remote.known_conversations(agent),
        }
    }

    /// A conversation of `agent` was given back.
    pub fn forget_conversation(&self, agent: u32, shared: &ConversationShared) {
        if let Link::Remote(remote) = self {
            remote.forget_conversation(agent, shared);
        }
    }

    /// What handles of a conversation of `agent` share in this process.
    pub fn conversation(&self, agent: u32, facts: ConversationFacts) -> Result<Arc<ConversationShared>> {
        match self {
            Link::Embedded(engine) => {
                let released = || Error::new(ErrorKind::Released, format!("conversation {:?}", facts.name));
                let state = engine.lock();
                Ok(state.conversations.get(&facts.number).ok_or_else(released)?.shared.clone())
            }
            Link::Remote(remote) => Ok(remote.conversation(agent, facts)),
        }
    }
}
