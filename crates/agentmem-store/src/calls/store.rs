//! What is asked of a store as a whole.

use crate::agents::{AgentEntry, AgentShared};
use crate::call::{Call, Caller};
use crate::calls::agent::ConversationFacts;
use crate::segments::Large;
use crate::stats::{AgentStats, Stats};
use crate::sync::Ordering;
use crate::sys::{self, PidFd, SealedFile};
use crate::verify::Verification;
use agentmem_core::smu::{SMU_LOGICAL_BYTES_MAX, check_importance};
use agentmem_core::{AgentState, Error, ErrorKind, Result};
use parking_lot::MutexGuard;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

const NAME_BYTES_MAX: usize = 255;
/// Of an agent, where nothing else is said.
pub const IMPORTANCE_DEFAULT: u8 = 50;
/// Conversations of an agent of which whoever takes it up is told.
pub const CONVERSATIONS_TOLD_MAX: usize = 64;
/// How long large content waits for what others are about to put, and between two looks.
const OTHERS_MS: u64 = 10_000;
const PAUSE: Duration = Duration::from_millis(5);
/// Large contents of one session on their way through the ring.
const LEFT_MAX: usize = 256;

/// Refuses names that are empty or too long.
pub fn check_name(name: &str) -> Result<()> {
    match name.len() {
        1..=NAME_BYTES_MAX => Ok(()),
        len => Err(Error::new(ErrorKind::InvalidArgument, format!("a name of {len} bytes (1 to {NAME_BYTES_MAX})"))),
    }
}

/// Registers an agent, or takes up the one of that name that nobody has.
#[derive(Debug, Serialize, Deserialize)]
pub struct OpenAgent {
    /// Its name.
    pub name: String,
    /// 0 to 100; what is not given is 50 for a new agent, and stays as it was for a known one.
    pub importance: Option<u8>,
    /// Likewise; a new agent has none.
    pub quota_bytes: Option<u64>,
    /// The process that it belongs to; that of the session by default.
    pub pid: Option<u32>,
    /// Whether it waits to be taken up again, instead of being reaped, when that process dies.
    pub is_lasting: bool,
}

/// What a handle of an agent needs to know.
#[derive(Debug, Serialize, Deserialize)]
pub struct AgentFacts {
    /// Its number.
    pub number: u32,
    /// Logical bytes that it is charged for.
    pub used_bytes: u64,
    /// Most of them.
    pub quota_bytes: Option<u64>,
    /// All its conversations, where they are few and nobody but the session can change them.
    pub conversations: Option<Vec<ConversationFacts>>,
}

impl Call for OpenAgent {
    const NUMBER: u16 = 1;
    type Answer = AgentFacts;

    fn run(self, at: &mut Caller<'_>) -> Result<AgentFacts> {
        let OpenAgent { name, importance, quota_bytes, pid, is_lasting } = self;
        check_name(&name)?;
        let importance = importance.map(|value| check_importance(value.into())).transpose()?;
        let mut state = at.engine.lock();
        let gone = || Error::new(ErrorKind::Closed, "this session");
        let session = state.sessions.get(at.session).ok_or_else(gone)?;
        let (session_pid, is_embedded) = (session.pid, session.is_embedded);
        let pid = pid.unwrap_or(session_pid);
        // The session's own death is noticed without.
        let pidfd = match pid == session_pid {
            true => None,
            false => Some(PidFd::open(pid).ok_or_else(|| Error::new(ErrorKind::NotFound, format!("process {pid}")))?),
        };
        let active_ms = at.engine.now_ms();
        let number = match state.agents.number(&name) {
            Some(number) => {
                let is_ours = at.is_repeated && at.check_agent(&state, number).is_ok();
                let entry = state.agents.open_mut(number)?;
                if entry.pid != 0 && !is_ours {
                    return Err(Error::new(ErrorKind::NameTaken, format!("agent {name:?}")));
                }
                entry.pid = pid;
                entry.pidfd = pidfd;
                entry.is_lasting = is_lasting;
                entry.importance = importance.unwrap_or(entry.importance);
                entry.active_ms = active_ms;
                if quota_bytes.is_some() {
                    entry.shared.set_quota_bytes(quota_bytes);
                }
                number
            }
            None => {
                state.check_agents()?;
                let number = state.agents.next;
                let shared = AgentShared::new(number, &name, quota_bytes, state.agents.all_used_bytes());
                state.agents.insert(AgentEntry {
                    shared,
                    pid,
                    pidfd,
                    is_lasting,
                    importance: importance.unwrap_or(IMPORTANCE_DEFAULT),
                    state: AgentState::Active,
                    created_unix_ms: sys::unix_ms(),
                    active_ms,
                    leases: HashMap::new(),
                    aliases: HashSet::new(),
                    conversations: BTreeMap::new(),
                });
                number
            }
        };
        state.sessions.get_mut(at.session).ok_or_else(gone)?.add_agent(number);
        state.mark_agent(number);
        let entry = state.agents.open_mut(number)?;
        let (used_bytes, quota_bytes) = (entry.shared.used_bytes(), entry.shared.quota_bytes());
        // The process's death takes them away; a session of the engine's own process asks the engine at no cost.
        let tells = pid == session_pid && !is_embedded && entry.conversations.len() <= CONVERSATIONS_TOLD_MAX;
        let numbers: Option<Vec<u32>> = tells.then(|| entry.conversations.values().copied().collect());
        let facts = |number: &u32| Some(ConversationFacts::of(&state.conversations.get(number)?.shared));
        let conversations = numbers.map(|numbers| numbers.iter().filter_map(facts).collect());
        Ok(AgentFacts { number, used_bytes, quota_bytes, conversations })
    }
}

/// Names of all agents, in order.
#[derive(Debug, Serialize, Deserialize)]
pub struct ListAgents;

impl Call for ListAgents {
    const NUMBER: u16 = 2;
    type Answer = Vec<String>;

    fn run(self, at: &mut Caller<'_>) -> Result<Vec<String>> {
        let state = at.engine.lock();
        let mut names: Vec<String> = state.agents.iter().map(|agent| agent.shared.name.to_string()).collect();
        names.sort_unstable();
        Ok(names)
    }
}

/// Answers when all that was put before is durable.
#[derive(Debug, Serialize, Deserialize)]
pub struct Flush;

impl Call for Flush {
    const NUMBER: u16 = 3;
    type Answer = ();

    fn run(self, at: &mut Caller<'_>) -> Result<()> {
        at.engine.flush()
    }
}

/// Figures of the whole store.
#[derive(Debug, Serialize, Deserialize)]
pub struct ReadStats;

impl Call for ReadStats {
    const NUMBER: u16 = 4;
    type Answer = Stats;

    fn run(self, at: &mut Caller<'_>) -> Result<Stats> {
        Ok(at.engine.stats())
    }
}

/// Figures of the agent of that name, whoever has it.
#[derive(Debug, Serialize, Deserialize)]
pub struct ReadAgentStats {
    /// Its name.
    pub name: String,
}

impl Call for ReadAgentStats {
    const NUMBER: u16 = 5;
    type Answer = AgentStats;

    fn run(self, at: &mut Caller<'_>) -> Result<AgentStats> {
        let number = at.engine.lock().agents.number(&self.name);
        let not_found = || Error::new(ErrorKind::NotFound, format!("agent {:?}", self.name));
        at.engine.agent_stats(number.ok_or_else(not_found)?)
    }
}

/// Demotes until at most that much is resident, or nothing more can be; without a target, everything that is
/// hot. The answer is what was given back.
#[derive(Debug, Serialize, Deserialize)]
pub struct Reclaim {
    /// Bytes.
    pub target_bytes: Option<u64>,
}

impl Call for Reclaim {
    const NUMBER: u16 = 6;
    type Answer = u64;

    fn run(self, at: &mut Caller<'_>) -> Result<u64> {
        let engine = at.engine;
        let _ = engine.drain();
        let resident_bytes = || engine.resident_bytes(&engine.lock());
        let before = resident_bytes();
        match self.target_bytes {
            Some(target_bytes) => _ = engine.reclaim_to(target_bytes, u64::MAX),
            None => engine.reclaim_hot(),
        }
        engine.trim();
        Ok(before.saturating_sub(resident_bytes()))
    }
}

/// Reads and checks everything.
#[derive(Debug, Serialize, Deserialize)]
pub struct Verify;

impl Call for Verify {
    const NUMBER: u16 = 7;
    type Answer = Verification;

    fn run(self, at: &mut Caller<'_>) -> Result<Verification> {
        Ok(at.engine.verify())
    }
}

/// Takes in what the session published.
#[derive(Debug, Serialize, Deserialize)]
pub struct Drain;

impl Call for Drain {
    const NUMBER: u16 = 8;
    type Answer = ();

    fn run(self, at: &mut Caller<'_>) -> Result<()> {
        at.engine.drain()
    }
}

/// Asks for the memory that slot words call `segment`: its descriptor comes with the answer.
#[derive(Debug, Serialize, Deserialize)]
pub struct MapSegment {
    /// Its number.
    pub segment: u32,
}

/// Which memory it is.
#[derive(Debug, Serialize, Deserialize)]
pub struct SegmentFacts {
    /// How often the number was given out before.
    pub incarnation: u64,
    /// Its length.
    pub len_bytes: u64,
}

impl Call for MapSegment {
    const NUMBER: u16 = 9;
    type Answer = SegmentFacts;

    fn run(self, at: &mut Caller<'_>) -> Result<SegmentFacts> {
        let (incarnation, len_bytes, descriptor) = at.engine.segments.lend(self.segment)?;
        at.descriptor = Some(descriptor);
        Ok(SegmentFacts { incarnation, len_bytes })
    }
}

/// Leaves content that is too large for the ring in a sealed memfd, whose descriptor comes with the call. The
/// answer is the key that a put names it by.
#[derive(Debug, Serialize, Deserialize)]
pub struct LeaveLarge {
    /// Its length.
    pub len_bytes: u64,
}

impl Call for LeaveLarge {
    const NUMBER: u16 = 10;
    type Answer = u64;

    fn run(self, at: &mut Caller<'_>) -> Result<u64> {
        if self.len_bytes > SMU_LOGICAL_BYTES_MAX {
            return Err(Error::new(ErrorKind::InvalidArgument, format!("content of {} bytes", self.len_bytes)));
        }
        let none = || Error::new(ErrorKind::InvalidArgument, "content without a descriptor");
        // Whoever left it may still write to it, unless it is sealed; and the engine hashes what it keeps.
        let file = SealedFile::check(at.descriptor.take().ok_or_else(none)?, self.len_bytes)?;
        at.engine.leave_large(at.session, self.len_bytes, |bytes| file.read(bytes))
    }
}

/// Large content that was left will not be put after all.
#[derive(Debug, Serialize, Deserialize)]
pub struct TakeBack {
    /// What leaving it returned.
    pub key: u64,
}

impl Call for TakeBack {
    const NUMBER: u16 = 12;
    type Answer = ();

    fn run(self, at: &mut Caller<'_>) -> Result<()> {
        at.engine.take_back(at.session, self.key);
        Ok(())
    }
}

/// The session's agents wait to be taken up again. What it pinned stays until it hangs up.
#[derive(Debug, Serialize, Deserialize)]
pub struct Goodbye;

impl Call for Goodbye {
    const NUMBER: u16 = 11;
    type Answer = ();

    fn run(self, at: &mut Caller<'_>) -> Result<()> {
        at.engine.dismiss_agents(at.session)
    }
}

impl crate::engine::Engine {
    /// Waits until `bytes` more may come in, and nobody else's do.
    pub fn wait_for_large(&self, bytes: u64) -> Result<MutexGuard<'_, ()>> {
        let until_ms = self.now_ms() + OTHERS_MS;
        loop {
            let one = self.large.lock();
            // What others left and the engine has not hashed yet cannot be demoted, or is there already.
            self.drain()?;
            match self.make_room(bytes) {
                Err(_) if self.is_taking_in() && self.now_ms() < until_ms => {
                    drop(one);
                    self.seal_all()?;
                    std::thread::sleep(PAUSE);
                }
                made => return made.map(|()| one),
            }
        }
    }

    /// Whether there is content that was left and not put yet, or put and not hashed.
    fn is_taking_in(&self) -> bool {
        !self.inbox.lock().is_empty() || !self.lock().unsealed.is_empty()
    }

    /// Makes large content that `fill` writes ready to be put by `session` under the key that is returned.
    pub fn leave_large(&self, session: u32, len_bytes: u64, fill: impl FnOnce(&mut [u8]) -> Result<()>) -> Result<u64> {
        if self.inbox.lock().keys().filter(|(owner, _)| *owner == session).count() >= LEFT_MAX {
            return Err(Error::new(ErrorKind::LimitReached, format!("{LEFT_MAX} large contents left and not put")));
        }
        let is_lent = self.lock().sessions.get(session).is_some_and(|entry| !entry.is_embedded);
        if is_lent {
            self.lock().set_aside(session, len_bytes)?;
        }
        let made =
            self.wait_for_large(len_bytes).and_then(|_one| Large::with(&self.segments, len_bytes as usize, fill));
        let large = made.inspect_err(|_| self.lock().use_aside(session, len_bytes))?;
        let key = self.next_key.fetch_add(1, Ordering::Relaxed);
        let mut state = self.lock();
        // It may have ended meanwhile, as it has several connections; then nobody would take this out again.
        if state.sessions.get(session).is_none() {
            return Err(Error::new(ErrorKind::Closed, "this session"));
        }
        self.inbox.lock().insert((session, key), Arc::new(large.into()));
        state.note(|fresh| fresh.inbox.push(key));
        Ok(key)
    }

    /// What `session` left under `key` will not be put after all, and nothing is set aside for it.
    pub fn take_back(&self, session: u32, key: u64) {
        let mut state = self.lock();
        let Some(left) = self.inbox.lock().remove(&(session, key)) else { return };
        state.note(|fresh| fresh.inbox.push(key));
        if state.sessions.get(session).is_some_and(|entry| !entry.is_embedded) {
            state.use_aside(session, left.len() as u64);
        }
    }
}
