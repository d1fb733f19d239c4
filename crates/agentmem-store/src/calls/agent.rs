//! What is asked on behalf of one agent.

use crate::agents::AgentEntry;
use crate::call::{Call, Caller};
use crate::calls::smu::At;
use crate::calls::store::check_name;
use crate::engine::{Conversation, ConversationShared, State};
use crate::ring::Given;
use crate::sync::{AtomicBool, AtomicU64, Ordering};
use crate::tree::NONE;
use agentmem_core::smu::check_importance;
use agentmem_core::{AgentState, ContentId, Error, ErrorKind, Kind, Result};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Conversations in one store.
const CONVERSATIONS_MAX: usize = 16_000_000;

/// What a handle of an SMU is made from.
#[derive(Debug, Serialize, Deserialize)]
pub struct SmuFacts {
    /// Where it is.
    pub slot: u32,
    /// What pins it.
    pub claim: u32,
    /// Which use of the slot.
    pub generation: u64,
    /// Its length.
    pub logical_bytes: u64,
    /// What it is.
    pub kind: Kind,
    /// 0 to 100.
    pub importance: u8,
}

impl SmuFacts {
    /// What comes with a cell of the ring, in the same form.
    pub fn given(&self) -> Given {
        Given { slot: self.slot, claim: self.claim }
    }
}

impl Caller<'_> {
    fn hold(&self, state: &mut State, slot: u32) -> Result<SmuFacts> {
        let claim = state.claim_on(self.session, slot)?;
        let smu = state.smus.get(slot).expect("it has a claim");
        Ok(SmuFacts {
            slot,
            claim,
            generation: self.engine.slots.generation(slot),
            logical_bytes: smu.logical_bytes,
            kind: smu.kind,
            importance: smu.importance,
        })
    }

    /// Takes a lease on the content that `find` finds.
    fn attach(
        &self,
        agent: u32,
        find: impl Fn(&State) -> Option<u32>,
        subject: impl Fn() -> String,
    ) -> Result<SmuFacts> {
        let not_found = || Error::new(ErrorKind::NotFound, subject());
        let mut state = self.engine.settled();
        self.check_agent(&state, agent)?;
        let slot = loop {
            let slot = find(&state).ok_or_else(not_found)?;
            if state.smus.get(slot).is_some_and(|smu| smu.is_sealed) {
                break slot;
            }
            // Only sealed content is shared, so that a lease is on the one that stays. The lock is let
            // go for it, so what was looked for is looked up again.
            drop(state);
            let sealed = self.engine.seal_slot(slot);
            state = self.engine.lock();
            match sealed {
                Err(error) if error.kind() != ErrorKind::Released || find(&state) == Some(slot) => return Err(error),
                _ => {}
            }
        };
        let held = self.hold(&mut state, slot)?;
        state.smus.get_mut(slot).expect("just held").used_ms = self.engine.now_ms();
        state.charge(agent, held.logical_bytes)?;
        state.lease(agent, slot, 1);
        Ok(held)
    }
}

/// Leases content that is there already, by id.
#[derive(Debug, Serialize, Deserialize)]
pub struct AttachId {
    /// Who.
    pub agent: u32,
    /// The id.
    pub id: [u8; 32],
}

impl Call for AttachId {
    const NUMBER: u16 = 20;
    type Answer = SmuFacts;

    fn run(self, at: &mut Caller<'_>) -> Result<SmuFacts> {
        let id = ContentId(self.id);
        let attach = || at.attach(self.agent, |state| state.smus.find(&id), || format!("id {id}"));
        match attach() {
            // It may have been put and not been hashed yet.
            Err(error) if error.kind() == ErrorKind::NotFound => {
                at.engine.seal_all()?;
                attach()
            }
            other => other,
        }
    }
}

/// The same by name. A put that was published before is seen.
#[derive(Debug, Serialize, Deserialize)]
pub struct AttachName {
    /// Who.
    pub agent: u32,
    /// The name.
    pub name: String,
}

impl Call for AttachName {
    const NUMBER: u16 = 21;
    type Answer = SmuFacts;

    fn run(self, at: &mut Caller<'_>) -> Result<SmuFacts> {
        let name = &*self.name;
        loop {
            let waiting = at.engine.settled().smus.waiting_for(name);
            match waiting {
                // Released meanwhile is as good as sealed: it waits no more.
                Some(slot) => drop(at.engine.seal_slot(slot)),
                None => return at.attach(self.agent, |state| state.smus.named(name), || format!("name {name:?}")),
            }
        }
    }
}

/// The same for what another agent of the session holds.
#[derive(Debug, Serialize, Deserialize)]
pub struct AttachSmu {
    /// Who.
    pub agent: u32,
    /// What.
    pub smu: At,
}

impl Call for AttachSmu {
    const NUMBER: u16 = 22;
    type Answer = SmuFacts;

    fn run(self, at: &mut Caller<'_>) -> Result<SmuFacts> {
        let subject = self.smu.subject(&at.engine.lock());
        // Once its lease is given back, the slot may hold anything.
        let find = |state: &State| self.smu.holder(at, state).ok();
        at.attach(self.agent, find, || subject.clone())
    }
}

/// Everything that the agent holds beside conversations.
#[derive(Debug, Serialize, Deserialize)]
pub struct ListSmus {
    /// Who.
    pub agent: u32,
}

impl Call for ListSmus {
    const NUMBER: u16 = 23;
    type Answer = Vec<SmuFacts>;

    fn run(self, at: &mut Caller<'_>) -> Result<Vec<SmuFacts>> {
        at.engine.seal_all()?;
        let mut state = at.engine.lock();
        at.check_agent(&state, self.agent)?;
        let mut slots: Vec<u32> = state.agents.open_mut(self.agent)?.leases.keys().copied().collect();
        slots.sort_unstable();
        slots.into_iter().map(|slot| at.hold(&mut state, slot)).collect()
    }
}

/// Says what the agent is doing.
#[derive(Debug, Serialize, Deserialize)]
pub struct SetState {
    /// Who.
    pub agent: u32,
    /// What.
    pub state: AgentState,
}

impl Call for SetState {
    const NUMBER: u16 = 24;
    type Answer = ();

    fn run(self, at: &mut Caller<'_>) -> Result<()> {
        let mut state = at.engine.settled();
        at.check_agent(&state, self.agent)?;
        let active_ms = at.engine.now_ms();
        let entry = state.agents.open_mut(self.agent)?;
        entry.state = self.state;
        entry.active_ms = active_ms;
        state.mark_agent(self.agent);
        Ok(())
    }
}

/// Changes the importance.
#[derive(Debug, Serialize, Deserialize)]
pub struct SetImportance {
    /// Whose.
    pub agent: u32,
    /// 0 to 100.
    pub importance: u8,
}

impl Call for SetImportance {
    const NUMBER: u16 = 25;
    type Answer = ();

    fn run(self, at: &mut Caller<'_>) -> Result<()> {
        check_importance(self.importance.into())?;
        let mut state = at.engine.lock();
        at.check_agent(&state, self.agent)?;
        state.agents.open_mut(self.agent)?.importance = self.importance;
        state.mark_agent(self.agent);
        Ok(())
    }
}

/// Changes the quota; what is held already stays.
#[derive(Debug, Serialize, Deserialize)]
pub struct SetQuota {
    /// Whose.
    pub agent: u32,
    /// Logical bytes.
    pub quota_bytes: Option<u64>,
}

impl Call for SetQuota {
    const NUMBER: u16 = 26;
    type Answer = ();

    fn run(self, at: &mut Caller<'_>) -> Result<()> {
        let mut state = at.engine.lock();
        at.check_agent(&state, self.agent)?;
        state.agents.open_mut(self.agent)?.shared.set_quota_bytes(self.quota_bytes);
        state.mark_agent(self.agent);
        Ok(())
    }
}

/// What the engine knows of an agent.
#[derive(Debug, Serialize, Deserialize)]
pub struct ReadAgent {
    /// Which.
    pub agent: u32,
}

/// See [`ReadAgent`].
#[derive(Debug, Serialize, Deserialize)]
pub struct AgentNow {
    /// What it is doing.
    pub state: AgentState,
    /// Its process.
    pub pid: u32,
    /// 0 to 100.
    pub importance: u8,
    /// Logical bytes that it is charged for.
    pub used_bytes: u64,
    /// Most of them.
    pub quota_bytes: Option<u64>,
}

impl Call for ReadAgent {
    const NUMBER: u16 = 27;
    type Answer = AgentNow;

    fn run(self, at: &mut Caller<'_>) -> Result<AgentNow> {
        let mut state = at.engine.settled();
        at.check_agent(&state, self.agent)?;
        let entry = state.agents.open_mut(self.agent)?;
        Ok(AgentNow {
            state: entry.state,
            pid: entry.pid,
            importance: entry.importance,
            used_bytes: entry.shared.used_bytes(),
            quota_bytes: entry.shared.quota_bytes(),
        })
    }
}

/// Gives everything that it holds back and forgets it.
#[derive(Debug, Serialize, Deserialize)]
pub struct CloseAgent {
    /// Which.
    pub agent: u32,
}

impl Call for CloseAgent {
    const NUMBER: u16 = 28;
    type Answer = ();

    fn run(self, at: &mut Caller<'_>) -> Result<()> {
        let mut state = at.engine.settled();
        at.check_agent(&state, self.agent)?;
        at.engine.reap(&mut state, self.agent)
    }
}

/// Leaves the agent to be taken up again, as the end of the session would.
#[derive(Debug, Serialize, Deserialize)]
pub struct LeaveAgent {
    /// Which.
    pub agent: u32,
    /// Whether it stays if it holds nothing; else it is closed.
    pub keep_empty: bool,
}

impl Call for LeaveAgent {
    const NUMBER: u16 = 32;
    type Answer = ();

    fn run(self, at: &mut Caller<'_>) -> Result<()> {
        let mut state = at.engine.settled();
        if at.is_repeated && at.check_agent(&state, self.agent).is_err() {
            return Ok(());
        }
        at.check_agent(&state, self.agent)?;
        // Equal puts are one content only once they are sealed.
        let is_unsealed = |&slot: &u32| state.smus.get(slot).is_some_and(|smu| !smu.is_sealed);
        if state.agents.get(self.agent).is_some_and(|agent| agent.leases.keys().any(is_unsealed)) {
            drop(state);
            at.engine.seal_all()?;
            state = at.engine.lock();
        }
        let holds_nothing = |agent: &AgentEntry| agent.leases.is_empty() && agent.conversations.is_empty();
        if !self.keep_empty && state.agents.get(self.agent).is_some_and(holds_nothing) {
            return at.engine.reap(&mut state, self.agent);
        }
        if let Some(session) = state.sessions.get_mut(at.session) {
            session.remove_agent(self.agent);
        }
        at.engine.dismiss(&mut state, self.agent);
        Ok(())
    }
}

/// The conversation of that name, made when there is none; without a name a new one.
#[derive(Debug, Serialize, Deserialize)]
pub struct OpenConversation {
    /// Whose.
    pub agent: u32,
    /// Its name.
    pub name: Option<String>,
}

/// What a handle of a conversation needs to know.
#[derive(Debug, Serialize, Deserialize)]
pub struct ConversationFacts {
    /// Its number.
    pub number: u32,
    /// Its name.
    pub name: String,
    /// Messages in it.
    pub messages: u64,
    /// Their bytes.
    pub logical_bytes: u64,
}

impl ConversationFacts {
    /// What a handle of `shared` needs to know.
    pub fn of(shared: &ConversationShared) -> Self {
        ConversationFacts {
            number: shared.number,
            name: shared.name.to_string(),
            messages: shared.messages.load(Ordering::Acquire),
            logical_bytes: shared.logical_bytes.load(Ordering::Acquire),
        }
    }
}

impl Call for OpenConversation {
    const NUMBER: u16 = 29;
    type Answer = ConversationFacts;

    fn run(self, at: &mut Caller<'_>) -> Result<ConversationFacts> {
        let mut state = at.engine.settled();
        at.check_agent(&state, self.agent)?;
        if let Some(name) = &self.name {
            check_name(name)?;
            let number = state.agents.open_mut(self.agent)?.conversations.get(&**name).copied();
            if let Some(found) = number.and_then(|number| state.conversations.get(&number)) {
                return Ok(ConversationFacts::of(&found.shared));
            }
        }
        state.new_conversation(self.agent, self.name.as_deref(), NONE, 0, 0)
    }
}

impl State {
    /// A conversation of `agent` that begins with the `len` messages up to `head`.
    pub fn new_conversation(
        &mut self,
        agent: u32,
        name: Option<&str>,
        head: u32,
        len: u32,
        logical_bytes: u64,
    ) -> Result<ConversationFacts> {
        if self.conversations.len() >= CONVERSATIONS_MAX {
            return Err(Error::new(ErrorKind::LimitReached, format!("{CONVERSATIONS_MAX} conversations")));
        }
        let number = self.next_conversation;
        let entry = self.agents.open_mut(agent)?;
        let free = |n: u32| Some(format!("conversation-{n}")).filter(|name| !entry.conversations.contains_key(&**name));
        let name: Box<str> = match name {
            Some(name) => name.into(),
            None => (number..).find_map(free).expect("there are more numbers than conversations").into(),
        };
        if entry.conversations.contains_key(&name) {
            return Err(Error::new(ErrorKind::NameTaken, format!("conversation {name:?}")));
        }
        entry.conversations.insert(name.clone(), number);
        self.next_conversation += 1;
        let shared = Arc::new(ConversationShared {
            number,
            name,
            messages: AtomicU64::new(len.into()),
            logical_bytes: AtomicU64::new(logical_bytes),
            is_released: AtomicBool::new(false),
        });
        let facts = ConversationFacts::of(&shared);
        self.conversations.insert(number, Conversation { shared, agent, head, len, logical_bytes });
        self.mark_conversation(number);
        Ok(facts)
    }
}

/// Names of the agent's conversations, in order.
#[derive(Debug, Serialize, Deserialize)]
pub struct ListConversations {
    /// Whose.
    pub agent: u32,
}

impl Call for ListConversations {
    const NUMBER: u16 = 30;
    type Answer = Vec<String>;

    fn run(self, at: &mut Caller<'_>) -> Result<Vec<String>> {
        let mut state = at.engine.lock();
        at.check_agent(&state, self.agent)?;
        Ok(state.agents.open_mut(self.agent)?.conversations.keys().map(|name| name.to_string()).collect())
    }
}

/// Gives a conversation back.
#[derive(Debug, Serialize, Deserialize)]
pub struct ReleaseConversation {
    /// Whose.
    pub agent: u32,
    /// Which.
    pub conversation: u32,
}

impl Call for ReleaseConversation {
    const NUMBER: u16 = 31;
    type Answer = ();

    fn run(self, at: &mut Caller<'_>) -> Result<()> {
        let mut state = at.engine.settled();
        at.check_agent(&state, self.agent)?;
        let found = state.conversations.get(&self.conversation).filter(|found| found.agent == self.agent);
        let released = || Error::new(ErrorKind::Released, format!("conversation {}", self.conversation));
        let charged_bytes = found.ok_or_else(released)?.shared.logical_bytes.load(Ordering::Acquire);
        state.drop_conversation(self.conversation);
        state.agents.open_mut(self.agent)?.shared.uncharge(charged_bytes);
        Ok(())
    }
}
