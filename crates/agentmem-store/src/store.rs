//! The public face: a store, its agents, and their handles.

use crate::agents::AgentShared;
use crate::arena::Shape;
use crate::call::Call;
use crate::calls::agent::{
    AgentNow, AttachId, AttachName, AttachSmu, CloseAgent, LeaveAgent, ListSmus, ReadAgent, SetImportance, SetQuota,
    SetState, SmuFacts,
};
use crate::calls::agents::{AgentFigures, LimitAgent, ListAgentFigures};
use crate::calls::domain::{Allow, DomainNow, LimitDomain, ReadDomain};
use crate::calls::grants::{GrantFacts, ListGrants, MakeGrant, Redeem, RevokeGrant};
use crate::calls::inspect::{Described, Inspect, ReadAnyMessages, ReadContent};
use crate::calls::store::{Flush, ListAgents, OpenAgent, ReadAgentStats, ReadStats, Reclaim, Verify, check_name};
use crate::cold::Cold;
use crate::engine::Engine;
use crate::folder::Folder;
use crate::held::Module;
use crate::latencies::LatencyCounts;
use crate::ledger::Ledger;
use crate::link::Link;
use crate::options::{OnFull, Options};
use crate::quota::DomainQuota;
use crate::read::StoredMessage;
use crate::recover::Past;
use crate::remote;
use crate::ring::{CELLS, Full, Given, Operation};
use crate::session::Session;
use crate::sessions::SessionProcess;
use crate::slots::SLOTS_MAX;
use crate::stats::{AgentStats, Stats};
use crate::sync::Ordering;
use crate::sys;
use crate::verify::Verification;
use agentmem_core::smu::{SMU_LOGICAL_BYTES_MAX, check_importance};
use agentmem_core::{AgentState, ContentId, DomainKey, Error, ErrorKind, Kind, Result};
use parking_lot::Mutex;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

/// The ring of the engine's own process, where it lends its memory.
const CELLS_BESIDE_OTHERS: usize = 1 << 8;
const DATA_BYTES_BESIDE_OTHERS: usize = 256 << 10;
/// What the lock of a temporary folder is kept as.
const LOCK: &str = "lock";

/// A store with its engine on a thread of this process.
pub struct Store {
    session: Arc<Session>,
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
        let mut options = options.checked()?;
        let module = Module::of(&options)?;
        let keeping = options.keeping.take();
        let past = keeping.as_deref().map(Past::find).transpose()?.flatten();
        if let Some(keeping) = keeping.as_ref().filter(|_| past.is_none()) {
            // An engine was killed before it had anything.
            keeping.let_go_of_the_rest();
        }
        let abandoned = past
            .as_ref()
            .and_then(|past| past.engine.folder.clone())
            .zip(keeping.as_ref().and_then(|keeping| keeping.take(LOCK)));
        let folder = match (&options.path, options.cold, abandoned) {
            (Some(path), ..) => Some(Folder::at(path)?),
            (None, true, Some((path, lock))) => Some(Folder::adopted(&path, lock)),
            (None, true, None) => Some(Folder::temporary()?),
            (None, false, _) => None,
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
        // Where others have sessions, hardly anything is put from this process, and its ring counts in full.
        let (cells, data_bytes) = match options.lends {
            true => (CELLS_BESIDE_OTHERS, DATA_BYTES_BESIDE_OTHERS.min(options.arena_bytes as usize)),
            false => (CELLS, options.arena_bytes as usize),
        };
        let shape = Shape { cells, data_bytes, claims: SLOTS_MAX };
        let engine = Arc::new(match keeping {
            None => Engine::new(options, key, cold, ledger, module)?,
            Some(keeping) => {
                let key = past.as_ref().map_or(key, |past| DomainKey(past.engine.key));
                let temporary = folder.as_ref().filter(|folder| folder.is_temporary());
                if let Some(folder) = temporary {
                    keeping.keep(LOCK, folder.lock()?)?;
                }
                let path = temporary.map(|folder| folder.path.clone());
                Engine::kept(options, key, path, cold, ledger, keeping, past)?
            }
        });
        let session = Arc::new(Session::embedded(&engine, shape)?);
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
        Ok(Store { session, held: Mutex::new(Some(Held { thread, folder })), path })
    }

    /// A session with the daemon that listens at `path`, with the same face: in the trust domain that is named
    /// and opened by its token, or in the user's own.
    pub fn connect(path: &Path, domain: Option<(&str, &[u8])>, on_full: OnFull) -> Result<Self> {
        let session = Arc::new(remote::connect(path, domain, on_full)?);
        Ok(Store { session, held: Mutex::new(None), path: None })
    }

    /// Folder of the cold tier, where the engine is in this process.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// The budget.
    pub fn memory_max_bytes(&self) -> u64 {
        self.engine().map_or(self.session.memory_max_bytes, |engine| engine.memory_max_bytes())
    }

    /// Whether it can be used no more: it was closed, or is the parent's of this process.
    pub fn is_closed(&self) -> bool {
        self.session.check_usable().is_err()
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
        self.open_agent(OpenAgent { name: name.to_owned(), importance, quota_bytes, pid, is_lasting: false })
    }

    /// The same, but when the process dies the agent is not reaped: it waits to be taken up again, with all that it
    /// holds.
    pub fn lasting_agent(
        &self,
        name: &str,
        importance: Option<u8>,
        quota_bytes: Option<u64>,
        pid: Option<u32>,
    ) -> Result<Agent> {
        self.open_agent(OpenAgent { name: name.to_owned(), importance, quota_bytes, pid, is_lasting: true })
    }

    fn open_agent(&self, call: OpenAgent) -> Result<Agent> {
        let name = call.name.clone();
        let facts = self.session.call(call)?;
        let shared = self.session.link.agent(&name, facts)?;
        let turn = shared.turn();
        Ok(Agent { session: self.session.clone(), shared, turn })
    }

    /// Names of all agents, in order.
    pub fn agents(&self) -> Result<Vec<String>> {
        self.session.call(ListAgents)
    }

    /// Returns when all that was put before is durable.
    pub fn flush(&self) -> Result<()> {
        self.session.call(Flush)
    }

    /// Figures of the whole store.
    pub fn stats(&self) -> Result<Stats> {
        self.session.call(ReadStats)
    }

    /// Figures of the agent called `name`, whoever has it.
    pub fn agent_stats(&self, name: &str) -> Result<AgentStats> {
        self.session.call(ReadAgentStats { name: name.to_owned() })
    }

    /// Figures of the agents whose names come after `after`, in order, whoever has them: some, if there are any.
    pub fn agents_after(&self, after: &str) -> Result<Vec<AgentFigures>> {
        self.session.call(ListAgentFigures { after: after.to_owned() })
    }

    /// Changes the quota of the agent called `name`, whoever has it; what it holds already stays.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn limit_agent(&self, name: &str, quota_bytes: Option<u64>) -> Result<()> {
        self.session.call(LimitAgent { name: name.to_owned(), quota_bytes })
    }

    /// What the session's domain holds and may hold.
    pub fn domain(&self) -> Result<DomainNow> {
        self.session.call(ReadDomain)
    }

    /// Changes what the session's domain may hold, all its agents together: as much as the daemon's configuration
    /// gives it where none is said. What it holds already stays.
    ///
    /// # Errors
    /// `PermissionDenied` beyond what the configuration gives, `Unsupported` where the engine is in this process.
    pub fn limit_domain(&self, quota: DomainQuota) -> Result<()> {
        self.session.call(LimitDomain { quota })
    }

    /// What other domains may copy from the session's, oldest first.
    ///
    /// # Errors
    /// `Unsupported` where the engine is in this process.
    pub fn grants(&self) -> Result<Vec<GrantFacts>> {
        self.session.call(ListGrants)
    }

    /// Takes a grant of the session's domain back, by its text or its id. What was redeemed before stays.
    ///
    /// # Errors
    /// `NotFound`; `Unsupported` where the engine is in this process.
    pub fn revoke(&self, grant: &str) -> Result<()> {
        self.session.call(RevokeGrant { grant: grant.to_owned() })
    }

    /// Describes what `key` means, whoever holds it: an id, its first four digits or more if no other begins with
    /// them, a name, or a conversation as `AGENT/CONVERSATION`.
    ///
    /// # Errors
    /// `NotFound`; `InvalidArgument` where several ids begin so.
    pub fn inspect(&self, key: &str) -> Result<Described> {
        self.session.call(Inspect { key: key.to_owned() })
    }

    /// Content from `offset_bytes` on, some at least and nothing behind its end, without promoting it.
    ///
    /// # Errors
    /// `NotFound`; `Damaged` where its bytes fail their checksum.
    pub fn read_content(&self, id: &ContentId, offset_bytes: u64) -> Result<Vec<u8>> {
        self.session.call(ReadContent { id: id.0, offset_bytes })
    }

    /// Messages of a conversation by its number, whoever has it, from `index` on: one at least, and as many as lie
    /// together before `end`.
    pub fn read_messages(&self, conversation: u32, index: u32, end: u32) -> Result<Vec<StoredMessage>> {
        self.session.call(ReadAnyMessages { conversation, index, end })
    }

    /// How long views waited that asked the engine; nothing for a daemon's.
    pub fn view_latencies(&self) -> LatencyCounts {
        self.engine().map_or_else(|_| LatencyCounts::default(), |engine| engine.view_latencies.read())
    }

    /// Demotes until at most `target_bytes` are resident, or nothing more can be; without a target,
    /// everything that is hot. Returns what was given back.
    pub fn reclaim(&self, target_bytes: Option<u64>) -> Result<u64> {
        self.session.call(Reclaim { target_bytes })
    }

    /// Reads and checks everything.
    pub fn verify(&self) -> Result<Verification> {
        self.session.call(Verify)
    }

    /// Flushes where there is a path, and ends the engine; of a daemon's, ends the session, whose agents can
    /// then be taken up again. Views stay readable until they go.
    ///
    /// # Errors
    /// What flushing raised; the store is closed all the same.
    pub fn close(&self) -> Result<()> {
        if !self.session.is_same_process() {
            // The parent's thread, lock and folder are none of a child's business.
            std::mem::forget(self.held.lock().take());
            return Ok(());
        }
        let engine = match &self.session.link {
            Link::Remote(remote) => return remote.close(),
            Link::Embedded(engine) => engine,
        };
        let Some(held) = self.held.lock().take() else { return Ok(()) };
        // Closed first, so that nothing is accepted that the flush would miss.
        engine.mark_closed();
        engine.hang_up();
        let _ = held.thread.join();
        let flushes = engine.ledger.is_some() && !engine.has_failed();
        let outcome = if flushes { engine.flush() } else { Ok(()) };
        engine.clear();
        outcome.and(held.folder.map_or(Ok(()), Folder::close))
    }

    /// Leaves a daemon as a process does that is killed. For tests.
    #[cfg(feature = "faults")]
    pub fn abandon(&self) {
        if let Link::Remote(remote) = &self.session.link {
            remote.abandon();
        }
    }

    /// Whether its engine has failed, which only a bug does.
    pub fn has_failed(&self) -> bool {
        self.engine().is_ok_and(|engine| engine.has_failed())
    }

    /// The engine, where it is in this process.
    pub(crate) fn engine(&self) -> Result<&Arc<Engine>> {
        match &self.session.link {
            Link::Embedded(engine) => Ok(engine),
            Link::Remote(_) => Err(Error::new(ErrorKind::Unsupported, "the engine of another process")),
        }
    }

    /// What it cannot do without: its budget should not be less. 0 for a daemon's.
    pub(crate) fn needed_bytes(&self) -> u64 {
        self.engine().map_or(0, |engine| engine.needed_bytes(&engine.lock()))
    }

    /// What its engine counts of the private memory of its process. 0 for a daemon's.
    pub(crate) fn private_bytes(&self) -> u64 {
        self.engine().map_or(0, |engine| engine.private_bytes(&engine.lock()))
    }

    /// By how much that is more than its budget. 0 for a daemon's.
    pub(crate) fn excess_bytes(&self) -> u64 {
        self.needed_bytes().saturating_sub(self.memory_max_bytes())
    }

    /// Demotes what is beyond the budget now, for `patience_ms` at most, and gives back what is only kept to be quick.
    /// Nothing where the engine is a daemon's.
    pub(crate) fn relieve(&self, patience_ms: u64) {
        if let Ok(engine) = self.engine() {
            engine.keep_budget(engine.now_ms() + patience_ms);
            engine.trim();
        }
    }

    /// Other processes that have sessions with agents here. None where the engine is a daemon's.
    pub fn processes(&self) -> Vec<SessionProcess> {
        self.engine().map(|engine| engine.lock().processes()).unwrap_or_default()
    }

    /// Changes the budget.
    pub(crate) fn set_memory_max_bytes(&self, bytes: u64) {
        if let Ok(engine) = self.engine() {
            engine.set_memory_max_bytes(bytes);
        }
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
    session: Arc<Session>,
    shared: Arc<AgentShared>,
    /// Which of the agent's turns the handle is for.
    turn: u64,
}

impl Agent {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    #[inline]
    pub(crate) fn check(&self) -> Result<()> {
        self.session.check_usable()?;
        self.shared.check_turn(self.turn)
    }

    /// What a call does when the arena is full, unless it says otherwise.
    pub fn on_full(&self) -> OnFull {
        self.session.on_full
    }

    /// Publishes one operation.
    #[inline]
    fn push(&self, operation: Operation, parts: [&[u8]; 2], on_full: OnFull) -> Result<Given> {
        match self.session.arena.ring.push(self.shared.number, operation, parts) {
            Ok(given) => Ok(given),
            Err(Full) => self.push_slowly(operation, parts, on_full),
        }
    }

    #[cold]
    fn push_slowly(&self, operation: Operation, parts: [&[u8]; 2], on_full: OnFull) -> Result<Given> {
        loop {
            if on_full == OnFull::Fail {
                self.session.arena.ring.wake_if_sleeping();
                return Err(Error::new(ErrorKind::ArenaFull, format!("agent {:?}", self.shared.name)));
            }
            // Waiting is done by helping: whoever holds the lock may drain.
            self.session.drain()?;
            if let Ok(given) = self.session.arena.ring.push(self.shared.number, operation, parts) {
                return Ok(given);
            }
        }
    }

    /// Whether a put of `len` bytes may take long enough that a caller should let others run.
    pub fn is_long(&self, len: usize) -> bool {
        self.session.is_large(len)
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
        let given = self.publish(content, name.as_bytes(), put, on_full)?;
        Ok(self.handle(given, logical_bytes, kind, importance))
    }

    /// Charges for `logical_bytes`. What was released just before may not be taken back yet: that
    /// is waited for, or said; the engine of another process is asked.
    #[inline]
    fn charge(&self, logical_bytes: u64, on_full: OnFull) -> Result<()> {
        // The engine never notifies a session of its own process: that shares its figures.
        let notices = self.session.arena.ring.notices();
        if !self.shared.has_heeded(notices) {
            self.learn_charges()?;
            self.shared.heed(notices);
        }
        self.shared.charge(logical_bytes).or_else(|error| match self.session.link {
            Link::Remote(_) => {
                // Behind all that was published here before, releases too.
                self.learn_charges()?;
                self.shared.charge(logical_bytes)
            }
            Link::Embedded(_) if self.session.is_drained() => Err(error),
            Link::Embedded(_) if on_full == OnFull::Fail => {
                self.session.arena.ring.wake_if_sleeping();
                Err(Error::new(ErrorKind::ArenaFull, format!("agent {:?}", self.shared.name)))
            }
            Link::Embedded(_) => {
                let _ = self.session.drain();
                self.shared.charge(logical_bytes)
            }
        })
    }

    /// Takes `bytes` from what the domain's quota lets the session put.
    #[inline]
    fn spend(&self, bytes: u64, on_full: OnFull) -> Result<()> {
        if self.session.arena.ring.spend(bytes) { Ok(()) } else { self.spend_slowly(bytes, on_full) }
    }

    #[cold]
    fn spend_slowly(&self, bytes: u64, on_full: OnFull) -> Result<()> {
        let ring = &self.session.arena.ring;
        loop {
            if on_full == OnFull::Fail {
                // The engine sets more aside when it drains, and now and then, if there is anything left.
                ring.wake_if_sleeping();
                let left = ring.left();
                if bytes > left {
                    let what = format!("the domain has {left} bytes left and is asked to hold {bytes} more");
                    return Err(Error::new(ErrorKind::DomainQuotaExceeded, what));
                }
                return Err(Error::new(ErrorKind::ArenaFull, format!("agent {:?}", self.shared.name)));
            }
            self.session.call(Allow { bytes })?;
            // Another thread may have been quicker.
            if ring.spend(bytes) {
                return Ok(());
            }
        }
    }

    /// Another process's engine takes charges back without telling: asks what is left of them.
    fn learn_charges(&self) -> Result<()> {
        if let Link::Remote(_) = &self.session.link {
            let now = self.session.call(ReadAgent { agent: self.shared.number }).inspect_err(|error| {
                if error.kind() == ErrorKind::Closed {
                    self.session.link.forget_agent(&self.shared);
                }
            })?;
            self.shared.set_used_bytes(now.used_bytes);
            self.shared.set_quota_bytes(now.quota_bytes);
        }
        Ok(())
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
    ) -> Result<Given> {
        let logical_bytes = content.len() as u64;
        if self.session.link.is_full() {
            match on_full {
                OnFull::Wait => self.session.drain()?,
                OnFull::Fail => return Err(Error::new(ErrorKind::OutOfMemory, "this store")),
            }
        }
        self.charge(logical_bytes, on_full)?;
        let published = if self.session.is_large(content.len()) {
            self.session.link.leave_large(self.session.number, content).and_then(|key| {
                let pushed = self.push(operation(key), [name, &[]], on_full);
                pushed.inspect_err(|_| self.session.link.take_back(self.session.number, key))
            })
        } else {
            self.spend(logical_bytes, on_full).and_then(|()| {
                let pushed = self.push(operation(0), [name, content], on_full);
                pushed.inspect_err(|_| self.session.arena.ring.allow(logical_bytes))
            })
        };
        published.inspect_err(|_| self.shared.uncharge(logical_bytes))
    }

    fn handle(&self, given: Given, logical_bytes: u64, kind: Kind, importance: u8) -> Smu {
        let generation = self.session.slots.generation(given.slot);
        self.handle_of(given, generation, logical_bytes, kind, importance)
    }

    fn handle_of(&self, given: Given, generation: u64, logical_bytes: u64, kind: Kind, importance: u8) -> Smu {
        let Given { slot, claim } = given;
        Smu {
            session: self.session.clone(),
            agent: self.shared.clone(),
            origin: slot,
            generation,
            claim,
            holder: crate::sync::AtomicU32::new(slot),
            is_released: crate::sync::AtomicBool::new(false),
            turn: self.turn,
            logical_bytes,
            kind,
            importance,
        }
    }

    fn held(&self, held: &SmuFacts) -> Smu {
        self.handle_of(held.given(), held.generation, held.logical_bytes, held.kind, held.importance)
    }

    /// Asks the engine for a lease.
    fn attached<C: Call<Answer = SmuFacts>>(&self, call: C) -> Result<Smu> {
        let held = self.ask(call)?;
        if let Link::Remote(_) = &self.session.link {
            self.shared.charge_anyway(held.logical_bytes);
        }
        Ok(self.held(&held))
    }

    pub(crate) fn ask<C: Call>(&self, call: C) -> Result<C::Answer> {
        self.check()?;
        self.session.call(call)
    }

    /// Leases content that is there already, by id.
    pub fn attach_id(&self, id: &ContentId) -> Result<Smu> {
        self.attached(AttachId { agent: self.shared.number, id: id.0 })
    }

    /// Leases content that is there already, by name. A put that was published before the call is
    /// seen.
    pub fn attach_name(&self, name: &str) -> Result<Smu> {
        self.attached(AttachName { agent: self.shared.number, name: name.to_owned() })
    }

    /// Lets agents of the domain called `to` (empty for the user's own) copy what `smu` is a handle of, `uses` times
    /// within `lasts_ms`, by the text that is returned. It holds nothing: what this agent releases cannot be
    /// redeemed any more.
    ///
    /// # Errors
    /// `LimitReached` where the domain has 1,024 grants, `Unsupported` where the engine is in this process.
    pub fn grant(&self, smu: &Smu, to: &str, lasts_ms: u64, uses: u32) -> Result<String> {
        smu.check()?;
        if smu.agent.number != self.shared.number || !Arc::ptr_eq(&self.session, &smu.session) {
            return Err(Error::new(ErrorKind::InvalidArgument, "a handle of another agent"));
        }
        self.ask(MakeGrant { smu: smu.at(), to: to.to_owned(), lasts_ms, uses })
    }

    /// Copies what another domain granted to this one.
    ///
    /// # Errors
    /// `NotFound` where the grant is none that can be redeemed here, whatever the reason; and what a put raises.
    pub fn redeem(&self, grant: &str) -> Result<Smu> {
        let redemption = u64::from_ne_bytes(sys::random()?);
        self.attached(Redeem { agent: self.shared.number, grant: grant.to_owned(), redemption })
    }

    /// Takes a lease of its own on what `smu` is a handle of.
    pub fn attach(&self, smu: &Smu) -> Result<Smu> {
        smu.check()?;
        if !Arc::ptr_eq(&self.session, &smu.session) {
            return Err(Error::new(ErrorKind::InvalidArgument, "an SMU of another store"));
        }
        self.attached(AttachSmu { agent: self.shared.number, smu: smu.at() })
    }

    /// Gives the lease of `smu` back.
    pub fn release(&self, smu: &Smu, on_full: OnFull) -> Result<()> {
        self.check()?;
        if smu.agent.number != self.shared.number || !Arc::ptr_eq(&self.session, &smu.session) {
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
        let held = self.ask(ListSmus { agent: self.shared.number })?;
        Ok(held.iter().map(|held| self.held(held)).collect())
    }

    /// Says what it is doing.
    pub fn set_state(&self, state: AgentState) -> Result<()> {
        self.ask(SetState { agent: self.shared.number, state })
    }

    fn now(&self) -> Result<AgentNow> {
        self.ask(ReadAgent { agent: self.shared.number })
    }

    /// What it is doing.
    pub fn state(&self) -> Result<AgentState> {
        Ok(self.now()?.state)
    }

    /// Process it belongs to.
    pub fn pid(&self) -> Result<u32> {
        Ok(self.now()?.pid)
    }

    /// 0 to 100.
    pub fn importance(&self) -> Result<u8> {
        Ok(self.now()?.importance)
    }

    /// Changes its importance.
    pub fn set_importance(&self, importance: u8) -> Result<()> {
        self.ask(SetImportance { agent: self.shared.number, importance })
    }

    /// Most logical bytes it may hold.
    pub fn quota_bytes(&self) -> Option<u64> {
        self.shared.quota_bytes()
    }

    /// Changes the quota; what is held already stays.
    pub fn set_quota_bytes(&self, quota_bytes: Option<u64>) -> Result<()> {
        self.ask(SetQuota { agent: self.shared.number, quota_bytes })?;
        self.shared.set_quota_bytes(quota_bytes);
        Ok(())
    }

    /// Figures of this agent.
    pub fn stats(&self) -> Result<AgentStats> {
        self.ask(ReadAgentStats { name: self.shared.name.to_string() })
    }

    /// Gives everything it holds back and forgets it.
    pub fn close(&self) -> Result<()> {
        let is_gone = matches!(self.session.check_usable(), Err(error) if error.kind() == ErrorKind::Closed);
        if is_gone || self.shared.check_turn(self.turn).is_err() {
            return Ok(());
        }
        let closed = self.session.call(CloseAgent { agent: self.shared.number });
        self.session.link.forget_agent(&self.shared);
        self.shared.close();
        closed
    }

    /// Leaves it to be taken up again by its name, with all that it holds, here or in another session: what closing
    /// the store does with all of its agents. Its handles fail from now on.
    pub fn leave(&self) -> Result<()> {
        self.leave_and(true)
    }

    /// The same; if it holds nothing, it is closed instead.
    pub fn leave_or_close(&self) -> Result<()> {
        self.leave_and(false)
    }

    fn leave_and(&self, keep_empty: bool) -> Result<()> {
        self.check()?;
        // Before the engine knows: a thread that takes it up at once must not find what is out of date.
        self.session.link.forget_agent(&self.shared);
        self.session.call(LeaveAgent { agent: self.shared.number, keep_empty })
    }

    /// The session, for handles made in other files.
    pub(crate) fn session(&self) -> &Arc<Session> {
        &self.session
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
