//! The way to a daemon's engine, from a process that has a session with it.
//!
//! A connection carries one call at a time. The session lives by its first one, and a process whose threads do not
//! call at the same time needs no other. Those that do open more, which join the session by its secret.

use crate::agents::AgentShared;
use crate::arena::{Arena, Shape};
use crate::call::{self, AFTER_PUTS, Call, REPEATED};
use crate::calls::agent::ConversationFacts;
use crate::calls::store::{AgentFacts, CONVERSATIONS_TOLD_MAX, Goodbye, LeaveLarge, TakeBack};
use crate::domains::check_domain_name;
use crate::engine::ConversationShared;
use crate::link::Link;
use crate::options::OnFull;
use crate::segments::Segments;
use crate::session::Session;
use crate::slots::{SLOTS_MAX, Slots};
use crate::socket::{self, Message};
use crate::sync::{AtomicBool, AtomicU64, Ordering, Words};
use crate::sys::{EventFd, Mapping, SealedFile};
use agentmem_core::place::SEGMENTS_MAX;
use agentmem_core::{Error, ErrorKind, Result};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// Version of the protocol and of the arena's layout: both sides must have the same.
pub const VERSION: u32 = 5;
/// Handles of conversations of one agent that are nothing to tidy up.
const HANDLES_MIN: usize = 64;
/// Connections of one session that are kept when nobody uses them.
const IDLE_MAX: usize = 4;
/// The longest call.
pub const CALL_BYTES_MAX: usize = 1 << 20;
/// The longest answer: a message of 1 GiB, with what is around it.
const ANSWER_BYTES_MAX: usize = (1 << 30) + (1 << 20);
/// Numbers of the calls that a connection begins with.
pub const HELLO: u16 = 0xFF00;
/// See [`HELLO`].
pub const JOIN: u16 = 0xFF01;
/// See [`HELLO`]: the session's first connection anew, after the engine was killed.
pub const RESUME: u16 = 0xFF02;
/// How long an engine that was killed may take to be back.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a session that ends waits for it.
const PATIENCE_AT_CLOSE: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(20);
/// How often a call is repeated, if engines go on being killed.
const REPEATS_MAX: usize = 16;

/// What connections of one session have in common, and nobody else knows.
pub type Secret = [u8; 16];

/// The first thing that a process says, behind its [`VERSION`].
#[derive(Debug, Serialize, Deserialize)]
pub struct Hello {
    /// The trust domain; empty for the user's own.
    pub domain: String,
    /// What it takes to enter it.
    pub token: Vec<u8>,
}

/// What it is told. With it come descriptors: the arena, what wakes the engine, places, generations and
/// incarnations.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Welcome {
    /// The number of the session.
    pub session: u32,
    /// What further connections prove themselves by.
    pub secret: Secret,
    /// Cells of the ring.
    pub cells: u32,
    /// Its bytes.
    pub data_bytes: u64,
    /// Claims of the session.
    pub claims: u32,
    /// Budget of the engine.
    pub memory_max_bytes: u64,
    /// Where all hot content is that is not large.
    pub hot_segment: u32,
}

/// The first thing that is said on a further connection.
#[derive(Debug, Serialize, Deserialize)]
pub struct Join {
    /// The secret of the session.
    pub secret: Secret,
}

/// An agent of the session.
struct Own {
    shared: Arc<AgentShared>,
    /// Conversations that there are handles of, by number.
    handles: HashMap<u32, Weak<ConversationShared>>,
    /// With so many of them it is time to look which are over.
    handles_max: usize,
    /// Its conversations, all of them, while they are few and the session alone can change them.
    known: Option<Known>,
}

/// The conversations of an agent, so that nobody need ask for them.
#[derive(Default)]
struct Known {
    by_name: BTreeMap<Box<str>, Arc<ConversationShared>>,
    /// Numbers that were given back. An answer that names one may be under way still.
    released: HashSet<u32>,
}

impl Own {
    /// What handles of one of its conversations share.
    fn conversation(&mut self, facts: ConversationFacts) -> Arc<ConversationShared> {
        let shared = match self.handles.get(&facts.number).and_then(Weak::upgrade) {
            Some(shared) => shared,
            None => {
                if self.handles.len() >= self.handles_max {
                    self.handles.retain(|_, shared| shared.strong_count() > 0);
                    self.handles_max = 2 * self.handles.len() + HANDLES_MIN;
                }
                let shared = shared_of(facts);
                self.handles.insert(shared.number, Arc::downgrade(&shared));
                shared
            }
        };
        self.change_known(|known| known.add(&shared));
        shared
    }

    /// What becomes many is asked for from then on.
    fn change_known(&mut self, change: impl FnOnce(&mut Known)) {
        self.known = self.known.take().and_then(|mut known| {
            change(&mut known);
            (known.by_name.len() + known.released.len() <= 2 * CONVERSATIONS_TOLD_MAX).then_some(known)
        });
    }
}

impl Known {
    fn add(&mut self, shared: &Arc<ConversationShared>) {
        if !self.released.contains(&shared.number) {
            self.by_name.insert(shared.name.clone(), shared.clone());
        }
    }

    fn forget(&mut self, shared: &ConversationShared) {
        self.released.insert(shared.number);
        if self.by_name.get(&shared.name).is_some_and(|found| found.number == shared.number) {
            self.by_name.remove(&shared.name);
        }
    }
}

fn shared_of(facts: ConversationFacts) -> Arc<ConversationShared> {
    Arc::new(ConversationShared {
        number: facts.number,
        name: facts.name.into(),
        messages: AtomicU64::new(facts.messages),
        logical_bytes: AtomicU64::new(facts.logical_bytes),
        is_released: AtomicBool::new(false),
    })
}

/// A session's way to its engine.
pub struct Remote {
    path: PathBuf,
    join: Join,
    /// The one that the session lives by.
    first: Mutex<UnixStream>,
    idle: Mutex<Vec<UnixStream>>,
    agents: Mutex<HashMap<u32, Own>>,
    is_closed: AtomicBool,
}

fn dial(path: &Path) -> Result<UnixStream> {
    UnixStream::connect(path)
        .map_err(|error| Error::new(ErrorKind::Unreachable, format!("the daemon at {} ({error})", path.display())))
}

/// One call and its answer.
fn exchange(stream: &UnixStream, number: u16, body: &[u8], lent: &[BorrowedFd<'_>]) -> Result<Message> {
    socket::send(stream, number, body, lent).map_err(socket::gone)?;
    let answer = socket::receive(stream, ANSWER_BYTES_MAX).map_err(socket::gone)?;
    let answer = answer.ok_or_else(|| Error::new(ErrorKind::Unreachable, "the daemon (it hung up)"))?;
    if answer.number == 0 {
        return Ok(answer);
    }
    let kind = ErrorKind::ALL.into_iter().find(|&kind| kind as u16 == answer.number).unwrap_or(ErrorKind::Version);
    Err(Error::new(kind, String::from_utf8_lossy(&answer.body)))
}

/// A session with the daemon that listens at `path`, in the trust domain `domain` that `token` opens, or the
/// user's own; its puts do `on_full` when its arena is full.
///
/// # Errors
/// `Unreachable` where nobody listens, `Version` where another version does, and what it refuses.
pub fn connect(path: &Path, domain: Option<(&str, &[u8])>, on_full: OnFull) -> Result<Session> {
    let first = dial(path)?;
    if let Some((name, _)) = domain {
        // Without a name it would be the user's own, whatever the token.
        check_domain_name(name)?;
    }
    let (domain, token) = domain.unwrap_or_default();
    let hello = Hello { domain: domain.to_owned(), token: token.to_vec() };
    let answer = exchange(&first, HELLO, &call::encode(&(VERSION, hello))?, &[])?;
    let version = || Error::new(ErrorKind::Version, "the daemon's welcome");
    let welcome: Welcome = postcard::from_bytes(&answer.body).map_err(|_| version())?;
    let lent: [OwnedFd; 5] = answer.descriptors.try_into().map_err(|_| version())?;
    let [arena, bell, places, generations, incarnations] = lent;
    let Welcome { session, secret, cells, data_bytes, claims, memory_max_bytes, hot_segment } = welcome;
    let shape = Shape { cells: cells as usize, data_bytes: data_bytes as usize, claims: claims as usize };
    let arena = Arena::lent(arena, shape, &Arc::new(EventFd::from(bell)))?;
    let words = |descriptor, count: usize| -> Result<Words> {
        Ok(Words::within(&Arc::new(Mapping::lent(descriptor, count * 8)?), 0, count))
    };
    let slots = Slots::lent(words(places, SLOTS_MAX)?, words(generations, SLOTS_MAX)?);
    let segments = Segments::lent(words(incarnations, SEGMENTS_MAX as usize)?)?;
    let remote = Remote {
        path: path.into(),
        join: Join { secret },
        first: Mutex::new(first),
        idle: Mutex::default(),
        agents: Mutex::default(),
        is_closed: AtomicBool::new(false),
    };
    let session = Session::over(Link::Remote(remote), session, arena, slots, segments, on_full, memory_max_bytes)?;
    // Now, so that no view of it waits for the daemon later.
    session.map(hot_segment)?;
    Ok(session)
}

impl Remote {
    /// Fails after close.
    #[inline]
    pub fn check_open(&self) -> Result<()> {
        if self.is_closed.load(Ordering::Acquire) {
            return Err(Error::new(ErrorKind::Closed, "this store"));
        }
        Ok(())
    }

    /// Asks, with `after_puts` when what the session published is taken in; also returns a descriptor that came with
    /// the answer. If the engine is killed meanwhile, the next one is asked: then it may be that both carried it out.
    pub fn call<C: Call>(
        &self,
        call: &C,
        after_puts: bool,
        lent: Option<BorrowedFd<'_>>,
    ) -> Result<(C::Answer, Option<OwnedFd>)> {
        let number = if after_puts { C::NUMBER | AFTER_PUTS } else { C::NUMBER };
        let body = call::encode(call)?;
        if body.len() > CALL_BYTES_MAX {
            // The daemon would hang up, which ends the session.
            let what = format!("a name or list of {} bytes (a call has {CALL_BYTES_MAX} at most)", body.len());
            return Err(Error::new(ErrorKind::InvalidArgument, what));
        }
        let lent: Vec<BorrowedFd<'_>> = lent.into_iter().collect();
        let mut outcome = self.ask(number, &body, &lent);
        for _ in 0..REPEATS_MAX {
            match outcome {
                Err(error) if error.kind() == ErrorKind::Unreachable && self.check_open().is_ok() => {
                    self.revive(PATIENCE)?;
                    outcome = self.ask(number | REPEATED, &body, &lent);
                }
                _ => break,
            }
        }
        let mut answer = outcome?;
        Ok((call::decode_answer::<C>(&answer.body)?, answer.descriptors.pop()))
    }

    /// The session's first connection anew, if it broke.
    fn revive(&self, patience: Duration) -> Result<()> {
        let mut first = self.first.lock();
        if socket::is_open(&first) {
            return Ok(()); // another thread was quicker
        }
        self.idle.lock().clear();
        let begin = Instant::now();
        loop {
            // Who keeps the engine listens all the time: where nobody does, there is nobody to wait for.
            let stream = dial(&self.path)?;
            match exchange(&stream, RESUME, &call::encode(&self.join)?, &[]) {
                Ok(_) => {
                    *first = stream;
                    return Ok(());
                }
                Err(error) if error.kind() == ErrorKind::Unreachable && begin.elapsed() < patience => {
                    std::thread::sleep(PAUSE);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Asks once.
    fn ask(&self, number: u16, body: &[u8], lent: &[BorrowedFd<'_>]) -> Result<Message> {
        match self.first.try_lock() {
            Some(first) => exchange(&first, number, body, lent),
            None => self.ask_beside(number, body, lent),
        }
    }

    /// Asks while the first connection is busy with another call.
    fn ask_beside(&self, number: u16, body: &[u8], lent: &[BorrowedFd<'_>]) -> Result<Message> {
        let kept = self.idle.lock().pop();
        let stream = match kept {
            Some(stream) => stream,
            None => {
                let stream = dial(&self.path)?;
                exchange(&stream, JOIN, &call::encode(&self.join)?, &[])?;
                stream
            }
        };
        let outcome = exchange(&stream, number, body, lent);
        // One that failed may have half an answer under way.
        if !matches!(&outcome, Err(error) if error.kind() == ErrorKind::Unreachable) {
            let mut idle = self.idle.lock();
            if idle.len() < IDLE_MAX {
                idle.push(stream);
            }
        }
        outcome
    }

    /// See [`Link::leave_large`].
    pub fn leave_large(&self, content: &[u8]) -> Result<u64> {
        let file = SealedFile::holding(content)?;
        Ok(self.call(&LeaveLarge { len_bytes: content.len() as u64 }, false, Some(file.as_fd()))?.0)
    }

    /// See [`Link::take_back`].
    pub fn take_back(&self, key: u64) {
        // Where nobody answers, the end of the session takes it back.
        let _ = self.call(&TakeBack { key }, false, None);
    }

    /// See [`Link::agent`].
    pub fn agent(&self, name: &str, facts: AgentFacts) -> Arc<AgentShared> {
        let AgentFacts { number, used_bytes, quota_bytes, conversations } = facts;
        let shared = AgentShared::told(number, name, quota_bytes, used_bytes);
        let mut own = Own {
            shared: shared.clone(),
            handles: HashMap::new(),
            handles_max: HANDLES_MIN,
            known: conversations.is_some().then(Known::default),
        };
        for told in conversations.into_iter().flatten() {
            own.conversation(told);
        }
        // Taken up again because its process died, which handles of before may not know.
        if let Some(before) = self.agents.lock().insert(number, own) {
            before.shared.close();
        }
        shared
    }

    /// See [`Link::forget_agent`].
    pub fn forget_agent(&self, shared: &AgentShared) {
        shared.close();
        let mut agents = self.agents.lock();
        // Another thread may have taken it up again.
        if agents.get(&shared.number).is_some_and(|own| std::ptr::eq(&*own.shared, shared)) {
            agents.remove(&shared.number);
        }
    }

    /// See [`Link::conversation`].
    pub fn conversation(&self, agent: u32, facts: ConversationFacts) -> Arc<ConversationShared> {
        match self.agents.lock().get_mut(&agent) {
            Some(own) => own.conversation(facts),
            // It was left meanwhile, and the handle is of no use.
            None => shared_of(facts),
        }
    }

    /// See [`Link::known_conversation`].
    pub fn known_conversation(&self, agent: u32, name: &str) -> Option<Arc<ConversationShared>> {
        self.agents.lock().get(&agent)?.known.as_ref()?.by_name.get(name).cloned()
    }

    /// See [`Link::known_conversations`].
    pub fn known_conversations(&self, agent: u32) -> Option<Vec<String>> {
        let agents = self.agents.lock();
        let known = agents.get(&agent)?.known.as_ref()?;
        Some(known.by_name.keys().map(|name| name.to_string()).collect())
    }

    /// See [`Link::forget_conversation`].
    pub fn forget_conversation(&self, agent: u32, shared: &ConversationShared) {
        if let Some(own) = self.agents.lock().get_mut(&agent) {
            own.change_known(|known| known.forget(shared));
        }
    }

    /// Leaves without a goodbye.
    #[cfg(feature = "faults")]
    pub fn abandon(&self) {
        self.is_closed.store(true, Ordering::Release);
        self.idle.lock().clear();
        let _ = self.first.lock().shutdown(std::net::Shutdown::Both);
    }

    /// Ends the session. Everything that was put stays, and its agents can be taken up again.
    pub fn close(&self) -> Result<()> {
        if self.is_closed.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        self.idle.lock().clear();
        for own in self.agents.lock().values() {
            own.shared.close();
        }
        // The session itself lives until nothing looks at what it pinned any more.
        let goodbye = || exchange(&self.first.lock(), Goodbye::NUMBER, &call::encode(&Goodbye)?, &[]).map(drop);
        match goodbye() {
            Err(error) if error.kind() == ErrorKind::Unreachable => {
                self.revive(PATIENCE_AT_CLOSE)?;
                goodbye()
            }
            outcome => outcome,
        }
    }
}
