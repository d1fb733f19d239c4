//! The public face: a store, its agents, and their handles.

use crate::agents::{AGENTS_MAX, AgentEntry, AgentShared};
use crate::cold::Cold;
use crate::engine::{Engine, State};
use crate::folder::Folder;
use crate::ledger::Ledger;
use crate::options::{OnFull, Options};
use crate::raw::Raw;
use crate::ring::{Full, Operation};
use crate::segments::Large;
use crate::stats::{AgentStats, Stats};
use crate::sync::Ordering;
use crate::sys::{self, PidFd};
use crate::verify::Verification;
use agentmem_core::smu::{SMU_LOGICAL_BYTES_MAX, check_importance};
use agentmem_core::{AgentState, ContentId, DomainKey, Error, ErrorKind, Kind, Result};
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

const NAME_BYTES_MAX: usize = 255;
const IMPORTANCE_DEFAULT: u8 = 50;

/// Refuses names that are empty or too long.
pub(crate) fn check_name(name: &str) -> Result<()> {
    match name.len() {
        1..=NAME_BYTES_MAX => Ok(()),
        len => Err(Error::new(ErrorKind::InvalidArgument, format!("a name of {len} bytes (1 to {NAME_BYTES_MAX})"))),
    }
}

/// A store with its engine on a thread of this process.
pub struct Store {
    engine: Arc<Engine>,
    /// What goes when the store is closed.
    held: Mutex<Option<Held>>,
    path: Option<PathBuf>,
}

struct Held {
    thread: JoinHandle<()>,
    folder: Option<Folder>,
}

impl Store {
    /// Opens a store; see [`Options`].
    pub fn open(options: Options) -> Result<Self> {
        let options = options.checked()?;
        let folder = match (&options.path, options.cold) {
            (Some(path), _) => Some(Folder::at(path)?),
            (None, true) => Some(Folder::temporary()?),
            (None, false) => None,
        };
        let path = folder.as_ref().map(|folder| folder.path.clone());
        let cold = path.as_ref().map(|path| Cold::open(&path.join("segments"))).transpose()?;
        let (ledger, key) = match &options.path {
            Some(path) => {
                let index = path.join("index.redb");
                let is_empty = std::fs::metadata(&index).map_or(true, |metadata| metadata.len() == 0);
                if is_empty && cold.as_ref().is_some_and(Cold::has_files) {
                    // A new index would know of nothing, and what it does not know of is removed.
                    return Err(Error::new(ErrorKind::Damaged, format!("{} is missing", index.display())));
                }
                let (ledger, key) = Ledger::open(&index)?;
                (Some(ledger), key)
            }
            None => (None, DomainKey(sys::random()?)),
        };
        let engine = Arc::new(Engine::new(options, key, cold, ledger)?);
        let runner = engine.clone();
        let thread = std::thread::Builder::new()
            .name("agentmem".into())
            .spawn(move || {
                // State that a panic left half-changed must not be worked with.
                if std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| runner.run())).is_err() {
                    runner.mark_failed();
                }
            })
            .map_err(|error| Error::new(ErrorKind::Io, format!("starting the engine: {error}")))?;
        Ok(Store { engine, held: Mutex::new(Some(Held { thread, folder })), path })
    }

    /// Folder of the cold tier.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// The budget.
    pub fn memory_max_bytes(&self) -> u64 {
        self.engine.options.memory_max_bytes
    }

    /// Registers an agent, or takes up the one of that name that a reopened store knows. `pid` is
    /// the process it belongs to, this one by default.
    ///
    /// What is not given is 50 and no quota for a new agent, and stays as it was for a known one.
    pub fn agent(
        &self,
        name: &str,
        importance: Option<u8>,
        quota_bytes: Option<u64>,
        pid: Option<u32>,
    ) -> Result<Agent> {
        self.engine.check_usable()?;
        check_name(name)?;
        let importance = importance.map(|value| check_importance(value.into())).transpose()?;
        let own_pid = std::process::id();
        let pid = pid.unwrap_or(own_pid);
        let pidfd = match pid == own_pid {
            true => None,
            false => Some(PidFd::open(pid).ok_or_else(|| Error::new(ErrorKind::NotFound, format!("process {pid}")))?),
        };
        let mut state = self.engine.lock();
        let active_ms = self.engine.now_ms();
        let number = match state.agents.number(name) {
            Some(number) => {
                let entry = state.agents.open_mut(number)?;
                if entry.pid != 0 {
                    return Err(Error::new(ErrorKind::NameTaken, format!("agent {name:?}")));
                }
                entry.pid = pid;
                entry.pidfd = pidfd;
                entry.importance = importance.unwrap_or(entry.importance);
                entry.active_ms = active_ms;
                if quota_bytes.is_some() {
                    entry.shared.set_quota_bytes(quota_bytes);
                }
                number
            }
            None => {
                if state.agents.len() >= AGENTS_MAX {
                    return Err(Error::new(ErrorKind::LimitReached, format!("{AGENTS_MAX} agents")));
                }
                let number = state.agents.next;
                state.agents.insert(AgentEntry {
                    shared: AgentShared::new(number, name, quota_bytes, 0),
                    pid,
                    pidfd,
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
        state.mark_agent(number);
        let shared = state.agents.open_mut(number)?.shared.clone();
        Ok(Agent { engine: self.engine.clone(), shared })
    }

    /// Names of all agents, in order.
    pub fn agents(&self) -> Result<Vec<String>> {
        self.engine.check_usable()?;
        let mut names: Vec<String> = self.engine.lock().agents.iter().map(|a| a.shared.name.to_string()).collect();
        names.sort_unstable();
        Ok(names)
    }

    /// Returns when all that was put before is durable.
    pub fn flush(&self) -> Result<()> {
        self.engine.check_usable()?;
        self.engine.flush()
    }

    /// Figures of the whole store.
    pub fn stats(&self) -> Result<Stats> {
        self.engine.check_usable()?;
        Ok(self.engine.stats())
    }

    /// Figures of the agent called `name`, whoever has it.
    pub fn agent_stats(&self, name: &str) -> Result<AgentStats> {
        self.engine.check_usable()?;
        let number = self.engine.lock().agents.number(name);
        self.engine.agent_stats(number.ok_or_else(|| Error::new(ErrorKind::NotFound, format!("agent {name:?}")))?)
    }

    /// Demotes until at most `target_bytes` are resident, or nothing more can be; without a target,
    /// everything that is hot. Returns what was given back.
    pub fn reclaim(&self, target_bytes: Option<u64>) -> Result<u64> {
        self.engine.check_usable()?;
        let _ = self.engine.drain();
        let resident_bytes = || self.engine.resident_bytes(&self.engine.lock());
        let before = resident_bytes();
        match target_bytes {
            Some(target_bytes) => _ = self.engine.reclaim_to(target_bytes),
            None => self.engine.reclaim_hot(),
        }
        self.engine.trim();
        Ok(before.saturating_sub(resident_bytes()))
    }

    /// Reads and checks everything.
    pub fn verify(&self) -> Result<Verification> {
        self.engine.check_usable()?;
        Ok(self.engine.verify())
    }

    /// Flushes where there is a path, and ends the engine. Views stay readable until they go.
    ///
    /// # Errors
    /// What flushing raised; the store is closed all the same.
    pub fn close(&self) -> Result<()> {
        if !self.engine.guard.is_same_process() {
            // The parent's thread, lock and folder are none of a child's business.
            std::mem::forget(self.held.lock().take());
            return Ok(());
        }
        let Some(held) = self.held.lock().take() else { return Ok(()) };
        // Closed first, so that nothing is accepted that the flush would miss.
        self.engine.mark_closed();
        self.engine.ring.hang_up();
        let _ = held.thread.join();
        let flushes = self.engine.ledger.is_some() && !self.engine.has_failed();
        let outcome = if flushes { self.engine.flush() } else { Ok(()) };
        self.engine.clear();
        outcome.and(held.folder.map_or(Ok(()), Folder::close))
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        let _ = self.close();
    }
}

/// A registered agent.
#[derive(Clone)]
pub struct Agent {
    engine: Arc<Engine>,
    shared: Arc<AgentShared>,
}

impl Agent {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    #[inline]
    pub(crate) fn check(&self) -> Result<()> {
        self.engine.check_usable()?;
        self.shared.check_open()
    }

    /// What a call does when the arena is full, unless it says otherwise.
    pub fn on_full(&self) -> OnFull {
        self.engine.options.on_full
    }

    /// Publishes one operation.
    #[inline]
    fn push(&self, operation: Operation, parts: [&[u8]; 2], on_full: OnFull) -> Result<u32> {
        match self.engine.ring.push(self.shared.number, operation, parts) {
            Ok(slot) => Ok(slot),
            Err(Full) => self.push_slowly(operation, parts, on_full),
        }
    }

    #[cold]
    fn push_slowly(&self, operation: Operation, parts: [&[u8]; 2], on_full: OnFull) -> Result<u32> {
        loop {
            if on_full == OnFull::Fail {
                self.engine.ring.wake_if_sleeping();
                return Err(Error::new(ErrorKind::ArenaFull, format!("agent {:?}", self.shared.name)));
            }
            // Waiting is done by helping: whoever holds the lock may drain.
            self.engine.drain()?;
            if let Ok(slot) = self.engine.ring.push(self.shared.number, operation, parts) {
                return Ok(slot);
            }
        }
    }

    /// Leaves large content in a memfd of its own; returns the key under which it is found.
    fn leave_large(&self, content: &[u8]) -> Result<u64> {
        // What others left and the engine has not taken in yet cannot be demoted: take it in first.
        self.engine.drain()?;
        self.engine.make_room(content.len() as u64)?;
        let large = Large::with(&self.engine.segments, content.len(), |bytes| {
            bytes.copy_from_slice(content);
            Ok(())
        })?;
        let key = self.engine.next_key.fetch_add(1, Ordering::Relaxed);
        self.engine.inbox.lock().insert(key, Arc::new(Raw::Large(Box::new(large))));
        Ok(key)
    }

    /// Whether a put of `len` bytes may take long enough that a caller should let others run.
    pub fn is_long(&self, len: usize) -> bool {
        self.engine.is_large(len)
    }

    /// Stores `content` and returns its handle at once. With [`OnFull::Fail`] it never waits.
    #[inline]
    pub fn put(&self, content: &[u8], kind: Kind, name: Option<&str>, importance: u8, on_full: OnFull) -> Result<Smu> {
        self.check()?;
        check_importance(importance.into())?;
        if let Some(name) = name {
            check_name(name)?;
            // Where one call takes ids and names, such a name would never be found.
            if ContentId::parse(name).is_ok() {
                return Err(Error::new(ErrorKind::InvalidArgument, format!("{name:?} reads as an id, not as a name")));
            }
        }
        let logical_bytes = content.len() as u64;
        if logical_bytes > SMU_LOGICAL_BYTES_MAX {
            let what = format!("an SMU of {logical_bytes} bytes (4 GiB at most)");
            return Err(Error::new(ErrorKind::InvalidArgument, what));
        }
        let name = name.unwrap_or("");
        let put = |key| Operation::Put { kind, importance, name_bytes: name.len() as u16, key };
        let slot = self.publish(content, name.as_bytes(), put, on_full)?;
        Ok(self.handle(slot, logical_bytes, kind, importance))
    }

    /// Charges for `logical_bytes`. What was released just before may not be taken back yet: that
    /// is waited for, or said.
    #[inline]
    fn charge(&self, logical_bytes: u64, on_full: OnFull) -> Result<()> {
        self.shared.charge(logical_bytes).or_else(|error| {
            if self.engine.ring.is_drained_to(self.engine.ring.head()) {
                return Err(error);
            }
            match on_full {
                OnFull::Fail => Err(Error::new(ErrorKind::ArenaFull, format!("agent {:?}", self.shared.name))),
                OnFull::Wait => {
                    let _ = self.engine.drain();
                    self.shared.charge(logical_bytes)
                }
            }
        })
    }

    /// Charges for `content` and publishes it with `name` in front, or leaves it beside the ring
    /// where it is large.
    #[inline]
    fn publish(
        &self,
        content: &[u8],
        name: &[u8],
        operation: impl Fn(u64) -> Operation,
        on_full: OnFull,
    ) -> Result<u32> {
        let logical_bytes = content.len() as u64;
        if self.engine.is_full() {
            match on_full {
                OnFull::Wait => self.engine.drain()?,
                OnFull::Fail => return Err(Error::new(ErrorKind::OutOfMemory, "this store")),
            }
        }
        self.charge(logical_bytes, on_full)?;
        let published = if self.engine.is_large(content.len()) {
            self.leave_large(content).and_then(|key| {
                self.push(operation(key), [name, &[]], on_full).inspect_err(|_| {
                    self.engine.inbox.lock().remove(&key);
                })
            })
        } else {
            self.push(operation(0), [name, content], on_full)
        };
        published.inspect_err(|_| self.shared.uncharge(logical_bytes))
    }

    fn handle(&self, slot: u32, logical_bytes: u64, kind: Kind, importance: u8) -> Smu {
        Smu {
            engine: self.engine.clone(),
            agent: self.shared.clone(),
            origin: slot,
            generation: self.engine.slots.generation(slot),
            holder: crate::sync::AtomicU32::new(slot),
            is_released: crate::sync::AtomicBool::new(false),
            logical_bytes,
            kind,
            importance,
        }
    }

    /// Takes a lease on the content that `find` finds.
    fn attach_found(&self, find: impl Fn(&State) -> Option<u32>, subject: impl Fn() -> String) -> Result<Smu> {
        self.check()?;
        let not_found = || Error::new(ErrorKind::NotFound, subject());
        let mut state = self.engine.settled();
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
        let smu = state.smus.get_mut(slot).ok_or_else(not_found)?;
        let (logical_bytes, kind, importance) = (smu.logical_bytes, smu.kind, smu.importance);
        smu.used_ms = self.engine.now_ms();
        self.shared.charge(logical_bytes)?;
        state.lease(self.shared.number, slot, 1);
        Ok(self.handle(slot, logical_bytes, kind, importance))
    }

    /// Leases content that is there already, by id.
    pub fn attach_id(&self, id: &ContentId) -> Result<Smu> {
        let held = self.attach_found(|state| state.smus.find(id), || format!("id {id}"));
        match held {
            // It may have been put and not been hashed yet.
            Err(error) if error.kind() == ErrorKind::NotFound => {
                self.engine.seal_all()?;
                self.attach_found(|state| state.smus.find(id), || format!("id {id}"))
            }
            other => other,
        }
    }

    /// Leases content that is there already, by name. A put that was published before the call is
    /// seen.
    pub fn attach_name(&self, name: &str) -> Result<Smu> {
        self.check()?;
        loop {
            let state = self.engine.settled();
            let waiting = state.smus.waiting_for(name);
            drop(state);
            match waiting {
                // Released meanwhile is as good as sealed: it waits no more.
                Some(slot) => drop(self.engine.seal_slot(slot)),
                None => return self.attach_found(|state| state.smus.named(name), || format!("name {name:?}")),
            }
        }
    }

    /// Takes a lease of its own on what `smu` is a handle of.
    pub fn attach(&self, smu: &Smu) -> Result<Smu> {
        smu.check()?;
        if !Arc::ptr_eq(&self.engine, &smu.engine) {
            return Err(Error::new(ErrorKind::InvalidArgument, "an SMU of another store"));
        }
        // Once its lease is given back, the slot may hold anything.
        let find = |state: &State| smu.check_held().is_ok().then(|| state.smus.resolve(smu.origin));
        self.attach_found(find, || format!("an SMU of agent {:?}", smu.agent.name))
    }

    /// Gives the lease of `smu` back.
    pub fn release(&self, smu: &Smu, on_full: OnFull) -> Result<()> {
        self.check()?;
        if smu.agent.number != self.shared.number || !Arc::ptr_eq(&self.engine, &smu.engine) {
            return Err(Error::new(ErrorKind::InvalidArgument, "a handle of another agent"));
        }
        if smu.is_released.swap(true, Ordering::AcqRel) {
            return Err(smu.released());
        }
        // The engine takes the charge back with the reference.
        let release = Operation::Release { slot: smu.origin, generation: smu.generation };
        let pushed = self.push(release, [&[], &[]], on_full);
        pushed.map(drop).inspect_err(|_| smu.is_released.store(false, Ordering::Release))
    }

    /// Handles of everything it holds besides conversations. They are not leases of their own:
    /// releasing one gives back one reference that the agent has already.
    pub fn smus(&self) -> Result<Vec<Smu>> {
        self.check()?;
        self.engine.seal_all()?;
        let mut state = self.engine.lock();
        let mut slots: Vec<u32> = state.agents.open_mut(self.shared.number)?.leases.keys().copied().collect();
        slots.sort_unstable();
        let held = slots.into_iter().filter_map(|slot| {
            let smu = state.smus.get(slot)?;
            Some(self.handle(slot, smu.logical_bytes, smu.kind, smu.importance))
        });
        Ok(held.collect())
    }

    /// Says what it is doing.
    pub fn set_state(&self, new: AgentState) -> Result<()> {
        self.check()?;
        let mut state = self.engine.settled();
        let active_ms = self.engine.now_ms();
        let entry = state.agents.open_mut(self.shared.number)?;
        entry.state = new;
        entry.active_ms = active_ms;
        state.mark_agent(self.shared.number);
        Ok(())
    }

    /// What it is doing.
    pub fn state(&self) -> Result<AgentState> {
        self.check()?;
        Ok(self.engine.lock().agents.open_mut(self.shared.number)?.state)
    }

    /// Process it belongs to.
    pub fn pid(&self) -> Result<u32> {
        self.check()?;
        Ok(self.engine.lock().agents.open_mut(self.shared.number)?.pid)
    }

    /// 0 to 100.
    pub fn importance(&self) -> Result<u8> {
        self.check()?;
        Ok(self.engine.lock().agents.open_mut(self.shared.number)?.importance)
    }

    /// Changes its importance.
    pub fn set_importance(&self, importance: u8) -> Result<()> {
        self.check()?;
        check_importance(importance.into())?;
        let mut state = self.engine.lock();
        state.agents.open_mut(self.shared.number)?.importance = importance;
        state.mark_agent(self.shared.number);
        Ok(())
    }

    /// Most logical bytes it may hold.
    pub fn quota_bytes(&self) -> Option<u64> {
        self.shared.quota_bytes()
    }

    /// Changes the quota; what is held already stays.
    pub fn set_quota_bytes(&self, quota_bytes: Option<u64>) -> Result<()> {
        self.check()?;
        self.shared.set_quota_bytes(quota_bytes);
        self.engine.lock().mark_agent(self.shared.number);
        Ok(())
    }

    /// Figures of this agent.
    pub fn stats(&self) -> Result<AgentStats> {
        self.check()?;
        self.engine.agent_stats(self.shared.number)
    }

    /// Gives everything it holds back and forgets it.
    pub fn close(&self) -> Result<()> {
        if self.engine.is_closed() || self.shared.check_open().is_err() {
            return Ok(());
        }
        self.engine.check_usable()?;
        let mut state = self.engine.settled();
        self.engine.reap(&mut state, self.shared.number)
    }

    /// The engine, for handles made in other files.
    pub(crate) fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// What handles share.
    pub(crate) fn shared(&self) -> &Arc<AgentShared> {
        &self.shared
    }

    /// Publishes one message.
    #[inline]
    pub(crate) fn push_message(
        &self,
        bytes: &[u8],
        operation: impl Fn(u64) -> Operation,
        on_full: OnFull,
    ) -> Result<()> {
        if bytes.len() as u64 > MESSAGE_BYTES_MAX {
            let what = format!("a message of {} bytes ({MESSAGE_BYTES_MAX} at most)", bytes.len());
            return Err(Error::new(ErrorKind::InvalidArgument, what));
        }
        self.publish(bytes, &[], operation, on_full).map(drop)
    }
}

/// The largest message: 1 GiB.
pub const MESSAGE_BYTES_MAX: u64 = 1 << 30;

pub use crate::handle::{Smu, View};
