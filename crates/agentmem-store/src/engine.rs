//! The engine: everything shared has one writer, and this is it.
//!
//! State is behind one lock. Whoever holds it may drain the ring and change tables, for
//! microseconds; hashing, compressing, decoding and I/O happen without it, on bytes that are
//! immutable and kept by an `Arc`, and are committed under it only if what they were planned on is
//! still so. A put and a view of something hot never take it.
//!
//! Lock order: policy, ledger, state; then a heap's, a segment table's or a file set's own.

use crate::agents::Agents;
use crate::arena::{Arena, Shape};
use crate::cold::{Cold, DiskPlace};
use crate::counters::Counters;
use crate::dense::Dense;
use crate::dirty::Dirty;
use crate::frames::Frames;
use crate::gate::Gate;
use crate::grants::Grants;
use crate::heap::Heap;
use crate::held::Module;
use crate::index::MessageIndex;
use crate::ingest::Ingest;
use crate::kept::Kept;
use crate::latencies::Latencies;
use crate::ledger::Ledger;
use crate::lifetime::Waiting;
use crate::options::Options;
use crate::quota::Quota;
use crate::raw::Raw;
use crate::remote::Secret;
use crate::segments::Segments;
use crate::sessions::{Arenas, SessionEntry, Sessions, TRIM_TICKS};
use crate::slots::{SLOTS_MAX, Slots};
use crate::smus::Smus;
use crate::sync::{AtomicBool, AtomicU64, Ordering};
use crate::sys::{self, EventFd, Mapping};
use crate::tree::Tree;
use agentmem_core::codec::{Compressor, Decompressor};
use agentmem_core::place::Place;
use agentmem_core::policy::Policy;
use agentmem_core::{DomainKey, Error, ErrorKind, Result};
use parking_lot::{Mutex, MutexGuard, RwLock};
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::ops::{Deref, DerefMut};
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// Threads that may decode to read at a time, for each core: while some wait for the SSD, others decode.
const READERS_PER_CORE: usize = 2;
/// Address space of a heap, in budgets: best fit leaves holes, and holes cost addresses only.
const HEAP_ADDRESS_FACTOR: u64 = 8;
const HEAP_ADDRESS_BYTES_MAX: u64 = 1 << 40;
/// The engine looks around this often even when nobody wakes it.
pub const TICK_MS: i32 = 250;
/// Operations taken in between two chances for others to take the lock.
const BATCH: usize = 256;
/// How much longer it pauses between two looks for each session that there is.
const LOOK_PAUSE_US: u64 = 10;
/// How long the engine keeps polling after the last operation before it sleeps until rung.
const NAP_MS: u64 = 20;

/// What handles of a conversation need without asking the engine.
#[derive(Debug)]
pub struct ConversationShared {
    /// Its number, never used again.
    pub number: u32,
    /// Its name.
    pub name: Box<str>,
    /// Messages, those that the engine has not taken in yet included.
    pub messages: AtomicU64,
    /// Their bytes.
    pub logical_bytes: AtomicU64,
    /// Whether its lease was given back.
    pub is_released: AtomicBool,
}

/// One conversation.
#[derive(Debug)]
pub struct Conversation {
    /// What handles share.
    pub shared: Arc<ConversationShared>,
    /// Whose it is.
    pub agent: u32,
    /// Node of its last messages.
    pub head: u32,
    /// Messages taken in.
    pub len: u32,
    /// Their bytes.
    pub logical_bytes: u64,
}

/// Everything that only the holder of the lock sees.
#[derive(Debug)]
pub struct State {
    /// Sessions, and what they were given.
    pub sessions: Sessions,
    /// Registered agents.
    pub agents: Agents,
    /// What they may hold together.
    pub quota: Quota,
    /// Contents with slots.
    pub smus: Smus,
    /// Messages.
    pub tree: Tree,
    /// What other domains may copy.
    pub grants: Grants,
    /// Conversations by number.
    pub conversations: HashMap<u32, Conversation>,
    /// The next conversation's number.
    pub next_conversation: u32,
    /// Frames.
    pub frames: Frames,
    /// Packed messages by id.
    pub index: MessageIndex,
    /// Slots with raw bytes.
    pub hot: Dense,
    /// Nodes with raw messages.
    pub tails: Dense,
    /// Frames in RAM.
    pub warm: Dense,
    /// Slots to be hashed.
    pub unsealed: VecDeque<u32>,
    /// Nodes that are full and wait to be packed.
    pub full_tails: VecDeque<u32>,
    /// Advised away: demoted at the next look.
    pub unwanted: VecDeque<u32>,
    /// What waits for pins to go.
    pub limbo: Vec<Waiting>,
    /// Frames of which less than three quarters are alive.
    pub sparse: BTreeSet<u32>,
    /// Frames on disk that nobody needs, to be buried once no durable index names them.
    pub dead_on_disk: Vec<DiskPlace>,
    /// What the ledger has to write; `None` where nothing persists.
    pub dirty: Option<Dirty>,
    /// Disk space of records that no index named when the store was opened, given back then.
    pub orphan_bytes: u64,
    /// When the engine last flushed by itself.
    pub flushed_ms: u64,
    /// Bytes in raw tails.
    pub tail_bytes: u64,
    /// Bytes put and bytes that were there already, by kind.
    pub put_bytes: [u64; 4],
    /// See `put_bytes`.
    pub duplicate_bytes: [u64; 4],
    /// Frames decoded lately, newest last.
    pub decoded: VecDeque<(u32, Arc<Vec<u8>>)>,
    /// Counters.
    pub counters: Counters,
    /// Frames whose bytes were found damaged.
    pub damaged: BTreeSet<u32>,
    /// Frames that are in RAM only, where there is a ledger that must not name them yet.
    pub undurable: BTreeSet<u32>,
    /// What a later engine goes on from if this one is killed; `None` where nothing is kept.
    pub kept: Option<Box<Kept>>,
    /// How often anything had to wait for pins.
    pub waited: u64,
}

impl State {
    /// Nothing.
    pub fn empty(is_persistent: bool) -> Self {
        State {
            sessions: Sessions::default(),
            agents: Agents::default(),
            quota: Quota::default(),
            smus: Smus::default(),
            tree: Tree::default(),
            grants: Grants::default(),
            conversations: HashMap::new(),
            next_conversation: 0,
            frames: Frames::default(),
            index: MessageIndex::default(),
            hot: Dense::default(),
            tails: Dense::default(),
            warm: Dense::default(),
            unsealed: VecDeque::new(),
            full_tails: VecDeque::new(),
            unwanted: VecDeque::new(),
            limbo: Vec::new(),
            sparse: BTreeSet::new(),
            dead_on_disk: Vec::new(),
            dirty: is_persistent.then(Dirty::default),
            orphan_bytes: 0,
            flushed_ms: 0,
            tail_bytes: 0,
            put_bytes: [0; 4],
            duplicate_bytes: [0; 4],
            decoded: VecDeque::new(),
            counters: Counters::default(),
            damaged: BTreeSet::new(),
            undurable: BTreeSet::new(),
            kept: None,
            waited: 0,
        }
    }
}

/// The state, and the lock on it. When it is let go, what was changed is told to the journal.
pub struct StateGuard<'a> {
    engine: &'a Engine,
    /// There until it is let go.
    state: Option<MutexGuard<'a, State>>,
}

impl StateGuard<'_> {
    /// Lets whoever waits for the lock have it next.
    pub fn unlock_fair(mut self) {
        if let Some(mut state) = self.state.take() {
            self.engine.settle(&mut state);
            MutexGuard::unlock_fair(state);
        }
    }
}

impl Deref for StateGuard<'_> {
    type Target = State;

    fn deref(&self) -> &State {
        self.state.as_ref().expect("there until it is let go")
    }
}

impl DerefMut for StateGuard<'_> {
    fn deref_mut(&mut self) -> &mut State {
        self.state.as_mut().expect("there until it is let go")
    }
}

impl Drop for StateGuard<'_> {
    fn drop(&mut self) {
        let Some(mut state) = self.state.take() else { return };
        if !std::thread::panicking() {
            self.engine.settle(&mut state);
        } else if state.kept.is_some() {
            // What a panic left half-changed is told to nobody, now or by who has the lock next.
            self.engine.mark_failed();
        }
    }
}

/// The memory that an engine works in.
pub struct Memory {
    /// Mappings by number.
    pub segments: Arc<Segments>,
    /// Raw content.
    pub hot_heap: Arc<Heap>,
    /// Compressed frames.
    pub frame_heap: Arc<Heap>,
    /// Where each SMU is.
    pub slots: Arc<Slots>,
    /// What sessions ring while the engine sleeps.
    pub bell: Arc<EventFd>,
    /// The kernel module, where it holds content for the engine.
    pub module: Option<Arc<Module>>,
}

impl Memory {
    /// As much address space as `options` want, and no page of it.
    fn new(options: &Options, module: Option<Arc<Module>>) -> Result<Self> {
        let segments = Segments::new(options.lends)?;
        segments.limit_large(options.large_max);
        let address_bytes = heap_address_bytes(options);
        Ok(Memory {
            hot_heap: Heap::new("agentmem-hot", &segments, address_bytes)?,
            frame_heap: Heap::new("agentmem-frames", &segments, address_bytes)?,
            slots: Arc::new(Slots::new(SLOTS_MAX, options.lends)?),
            bell: Arc::new(EventFd::new()?),
            segments,
            module,
        })
    }
}

/// Address space of a heap.
pub fn heap_address_bytes(options: &Options) -> u64 {
    options.memory_max_bytes.saturating_mul(HEAP_ADDRESS_FACTOR).min(HEAP_ADDRESS_BYTES_MAX)
}

/// The engine.
pub struct Engine {
    /// How it was opened.
    pub options: Options,
    /// Budget for everything in RAM, see budget.rs.
    pub memory_max_bytes: AtomicU64,
    /// Ids of this trust domain.
    pub key: DomainKey,
    /// Mappings by number.
    pub segments: Arc<Segments>,
    /// Where each SMU is.
    pub slots: Arc<Slots>,
    /// Arenas by session, to look at without the lock.
    arenas: RwLock<Arenas>,
    /// What sessions ring while the engine sleeps; nothing once it has ended.
    bell: Mutex<Option<Arc<EventFd>>>,
    /// Raw content.
    pub hot_heap: Arc<Heap>,
    /// Compressed frames.
    pub frame_heap: Arc<Heap>,
    /// The kernel module, where it holds content for this engine.
    pub module: Option<Arc<Module>>,
    /// Files of the cold tier.
    pub cold: Option<Cold>,
    /// The durable index, until the store is closed: handles outlive that, and must not keep it from
    /// being opened again.
    pub ledger: Option<Mutex<Option<Ledger>>>,
    /// Name of the policy.
    pub policy_name: String,
    /// What goes first.
    pub policy: Mutex<Box<dyn Policy>>,
    /// Compressors that nobody uses just now.
    pub compressors: Mutex<Vec<Compressor>>,
    /// Decompressors likewise.
    pub decompressors: Mutex<Vec<Decompressor>>,
    /// Large contents on their way through the ring, by session and key.
    pub inbox: Mutex<HashMap<(u32, u64), Arc<Raw>>>,
    /// Keys for them.
    pub next_key: AtomicU64,
    /// How long views waited that asked for content to be made hot.
    pub view_latencies: Latencies,
    /// Held while large content comes in, before any other lock. Two at a time would count on the same room; and a
    /// prompt that a hundred sessions look at would be decoded a hundred times.
    pub large: Mutex<()>,
    /// Whoever decodes frames to read them is inside: each holds a frame and what it decodes to, megabytes that the
    /// budget does not see coming, and a daemon has a thread for each of a thousand callers.
    pub readers: Gate,
    /// Whoever compresses is inside: more at a time than there are cores is no quicker, and each has a compressor.
    pub encoders: Gate,
    /// Threads that are just making something smaller.
    demoting: AtomicU64,
    /// See reclaim.rs.
    pub allocator_trimmed_ms: AtomicU64,
    is_closed: AtomicBool,
    has_failed: AtomicBool,
    /// See budget.rs.
    pub is_full: AtomicBool,
    state: Mutex<State>,
    started_ms: u64,
}

/// Counts its thread among those that demote.
pub struct Demoting<'a>(&'a AtomicU64);

impl Drop for Demoting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Engine {
    /// An engine that knows what `ledger` knows.
    pub fn new(
        mut options: Options,
        key: DomainKey,
        cold: Option<Cold>,
        mut ledger: Option<Ledger>,
        module: Option<Arc<Module>>,
    ) -> Result<Self> {
        let memory = Memory::new(&options, module)?;
        let policy = std::mem::replace(&mut options.policy, Box::new(agentmem_core::policy::Lru));
        let mut state = State::empty(ledger.is_some());
        state.quota = Quota::of(&options.domain);
        state.set_quota(options.quota, std::iter::empty());
        if let Some(ledger) = &mut ledger {
            let places = ledger.load(&mut state, &memory.slots, &memory.hot_heap)?;
            cold.as_ref().expect("a ledger has files beside it").adopt(places)?;
        }
        Ok(Self::over(options, key, memory, state, cold, ledger, policy))
    }

    /// One whose `state` lies in `memory` and `cold`.
    pub fn over(
        options: Options,
        key: DomainKey,
        memory: Memory,
        state: State,
        cold: Option<Cold>,
        ledger: Option<Ledger>,
        policy: Box<dyn Policy>,
    ) -> Self {
        let Memory { segments, hot_heap, frame_heap, slots, bell, module } = memory;
        let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
        Engine {
            memory_max_bytes: AtomicU64::new(options.memory_max_bytes),
            key,
            slots,
            arenas: RwLock::new(Arc::new([])),
            bell: Mutex::new(Some(bell)),
            hot_heap,
            frame_heap,
            module,
            segments,
            cold,
            ledger: ledger.map(|ledger| Mutex::new(Some(ledger))),
            policy_name: policy.name().to_owned(),
            policy: Mutex::new(policy),
            inbox: Mutex::default(),
            compressors: Mutex::default(),
            decompressors: Mutex::default(),
            next_key: AtomicU64::new(1),
            view_latencies: Latencies::default(),
            large: Mutex::default(),
            readers: Gate::new(READERS_PER_CORE * cores),
            encoders: Gate::new(cores),
            demoting: AtomicU64::new(0),
            allocator_trimmed_ms: AtomicU64::new(0),
            is_closed: AtomicBool::new(false),
            has_failed: AtomicBool::new(false),
            is_full: AtomicBool::new(false),
            state: Mutex::new(state),
            started_ms: sys::monotonic_ms(),
            options,
        }
    }

    /// The state, to change tables for microseconds.
    pub fn lock(&self) -> StateGuard<'_> {
        StateGuard { engine: self, state: Some(self.state.lock()) }
    }

    /// What one thread demotes, no other can choose: whoever finds nothing more looks here before it
    /// gives up.
    pub fn demoting(&self) -> Demoting<'_> {
        self.demoting.fetch_add(1, Ordering::AcqRel);
        Demoting(&self.demoting)
    }

    /// Whether some thread demotes just now.
    pub fn is_demoting(&self) -> bool {
        self.demoting.load(Ordering::Acquire) > 0
    }

    /// Milliseconds on the engine's clock.
    pub fn now_ms(&self) -> u64 {
        sys::monotonic_ms() - self.started_ms
    }

    /// A new session of process `pid` with an arena of that shape.
    pub fn add_session(&self, shape: Shape, pid: u32, is_embedded: bool, secret: Secret) -> Result<(u32, Arc<Arena>)> {
        let bell = self.bell()?;
        let keeping = self.lock().kept.as_ref().filter(|_| !is_embedded).map(|kept| kept.keeping.clone());
        let (name, arena) = match &keeping {
            None => (None, Arena::new(shape, !is_embedded, &bell)?),
            Some(keeping) => {
                // Before the session is told of it, and under a name of its own: its number is not known yet.
                let name = format!("A{}", self.next_key.fetch_add(1, Ordering::Relaxed));
                let memory = Mapping::writable("agentmem-arena", shape.len_bytes())?;
                memory.fix_len()?;
                keeping.keep_mapping(&name, &memory)?;
                (Some(name), Arena::kept(memory, shape, &bell, 0)?)
            }
        };
        let arena = Arc::new(arena);
        let mut state = self.lock();
        let state = &mut *state;
        let mut entry = SessionEntry::new(arena.clone(), pid, is_embedded, secret, &mut state.smus)?;
        entry.kept_as = name;
        // Slots that were used before say so until they are put to.
        entry.unused().for_each(|slot| self.slots.relocate(slot, Place::Fresh));
        let number = state.sessions.insert(entry);
        state.begin_allowance(number);
        let cells = shape.cells as u32;
        state.note(|fresh| {
            fresh.sessions.push(number);
            fresh.rings.push(number);
            fresh.given.extend((0..cells).map(|cell| (number, cell)));
        });
        *self.arenas.write() = state.sessions.arenas();
        // An engine that sleeps does not listen to it yet.
        bell.ring();
        Ok((number, arena))
    }

    fn bell(&self) -> Result<Arc<EventFd>> {
        self.bell.lock().clone().ok_or_else(|| Error::new(ErrorKind::Closed, "this store"))
    }

    /// The same for another process, with the descriptors that it needs: the arena, what wakes the engine,
    /// places, generations and incarnations.
    pub fn lend_session(&self, shape: Shape, pid: u32, secret: Secret) -> Result<(u32, [OwnedFd; 5])> {
        let [places, generations] = self.slots.words();
        let (places, generations) = (places.lend()?, generations.lend()?);
        let (bell, incarnations) = (self.bell()?.descriptor()?, self.segments.incarnations().lend()?);
        let (number, arena) = self.add_session(shape, pid, false, secret)?;
        match arena.lend() {
            Ok(arena) => Ok((number, [arena, bell, places, generations, incarnations])),
            Err(error) => {
                self.end_session(number);
                Err(error)
            }
        }
    }

    /// The agents of a session wait to be taken up again.
    pub fn dismiss_agents(&self, session: u32) -> Result<()> {
        // Equal puts are one content only once they are sealed.
        let sealed = self.seal_all();
        let mut state = self.lock();
        for number in state.sessions.get_mut(session).map(SessionEntry::take_agents).unwrap_or_default() {
            self.dismiss(&mut state, number);
        }
        sealed
    }

    /// Agent `number`, for which no session speaks any more, waits to be taken up again. It holds what it holds once,
    /// as there are no handles any more that could give more references back; so it is in a reopened store.
    pub fn dismiss(&self, state: &mut State, number: u32) {
        let Some(agent) = state.agents.get_mut(number) else { return };
        (agent.pid, agent.pidfd) = (0, None);
        agent.shared.end_turn();
        let aliases: Vec<u32> = agent.aliases.iter().copied().collect();
        let surplus = agent.leases.iter().filter(|(_, count)| **count > 1);
        let surplus: Vec<(u32, u32)> = surplus.map(|(&slot, &count)| (slot, count - 1)).collect();
        state.mark_agent(number);
        aliases.into_iter().for_each(|alias| self.retire_alias(state, number, alias));
        surplus.into_iter().for_each(|(slot, count)| self.unlease(state, number, slot, count));
    }

    /// Who has agent `number` died: it is reaped, or waits to be taken up again if it is a lasting one.
    pub fn bereave(&self, state: &mut State, number: u32) {
        if state.agents.get(number).is_some_and(|agent| agent.is_lasting) {
            return self.dismiss(state, number);
        }
        // One that is closed already is as good as reaped.
        let _ = self.reap(state, number);
    }

    /// A session is over: its process hung up, or died. What it published is taken in, and agents that it did not
    /// say goodbye for are reaped, unless they last.
    pub fn end_session(&self, number: u32) {
        let arena = self.lock().sessions.get(number).map(|entry| entry.arena.clone());
        if let Some(arena) = arena {
            let _ = self.drain_session(number, &arena);
        }
        let mut state = self.lock();
        let Some(entry) = state.sessions.remove(number) else { return };
        *self.arenas.write() = state.sessions.arenas();
        state.end_allowance(&entry.allowance);
        entry.unused().for_each(|slot| state.smus.give_back(slot));
        entry.agents().for_each(|agent| self.bereave(&mut state, agent));
        let mut left = Vec::new();
        self.inbox.lock().retain(|&(session, key), _| {
            if session == number {
                left.push(key);
            }
            session != number
        });
        state.note(|fresh| {
            fresh.sessions.push(number);
            fresh.given.extend((0..entry.arena.ring.cell_count() as u32).map(|cell| (number, cell)));
            fresh.inbox.extend(left);
            fresh.departed.extend(entry.kept_as);
        });
    }

    /// Arenas that sessions have from before are looked at from now on.
    pub fn share_arenas(&self) {
        *self.arenas.write() = self.lock().sessions.arenas();
    }

    /// Every arena, with the number of its session.
    pub fn arenas(&self) -> Arenas {
        self.arenas.read().clone()
    }

    /// Nobody rings any more.
    pub fn hang_up(&self) {
        self.arenas().iter().for_each(|(_, arena)| arena.ring.hang_up());
        if let Some(bell) = self.bell.lock().take() {
            bell.ring();
        }
    }

    /// Sleeps until something is published, or for `timeout_ms`.
    fn sleep(&self, timeout_ms: i32) {
        let arenas = self.arenas();
        // Every one has to know, so none is left out.
        let asleep = arenas.iter().filter(|(_, arena)| arena.ring.says_it_sleeps()).count();
        if asleep == arenas.len() {
            let bell = self.bell.lock().clone();
            match bell {
                Some(bell) => bell.wait(timeout_ms),
                None => std::thread::yield_now(),
            }
        }
        arenas.iter().for_each(|(_, arena)| arena.ring.says_it_woke());
    }

    /// Fails after close.
    #[inline]
    pub fn check_usable(&self) -> Result<()> {
        if self.is_closed.load(Ordering::Acquire) {
            let failed = self.has_failed.load(Ordering::Acquire);
            let subject = if failed { "this store, whose engine has failed (a bug)" } else { "this store" };
            return Err(Error::new(ErrorKind::Closed, subject));
        }
        Ok(())
    }

    /// The engine's thread panicked: nothing is to be trusted any more.
    pub fn mark_failed(&self) {
        self.has_failed.store(true, Ordering::Release);
        self.mark_closed();
    }

    /// Whether it did.
    pub fn has_failed(&self) -> bool {
        self.has_failed.load(Ordering::Acquire)
    }

    /// Ends everything; returns whether it was open.
    pub fn mark_closed(&self) -> bool {
        !self.is_closed.swap(true, Ordering::AcqRel)
    }

    /// Whether it was closed.
    pub fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Acquire)
    }

    /// Takes in everything that was published, making room where needed.
    ///
    /// # Errors
    /// `OutOfMemory` where nothing more can be demoted. What was published is taken in all the
    /// same: the ring was part of the budget, and gives its pages back for it.
    pub fn drain(&self) -> Result<()> {
        let arenas = self.arenas();
        let waiting = arenas.iter().filter(|(_, arena)| !arena.ring.is_drained_to(arena.ring.head()));
        // What one cannot get rid of is no reason to leave the others.
        let drained: Vec<Result<()>> = waiting.map(|(session, arena)| self.drain_session(*session, arena)).collect();
        drained.into_iter().collect()
    }

    /// The same for what one session published: no more than its ring holds, as it may go on publishing.
    pub fn drain_session(&self, session: u32, arena: &Arena) -> Result<()> {
        let head = arena.ring.head();
        let mut is_refused = self.is_full() && self.make_room(0).is_err();
        let mut left = arena.ring.cell_count().div_ceil(BATCH) + 1;
        while left > 0 {
            let mut state = self.lock();
            let is_embedded = state.sessions.get(session).is_some_and(|entry| entry.is_embedded);
            match self.ingest(&mut state, session, BATCH, is_refused) {
                // Another thread is copying what it put before; ours is behind that. A session of another
                // process sees to that itself: this one does not wait for anybody.
                Ingest::Empty if is_embedded && !arena.ring.is_drained_to(head) => {
                    drop(state);
                    std::thread::yield_now();
                }
                Ingest::Empty if is_refused => {
                    arena.ring.trim();
                    drop(state);
                    // What was taken in may have been releases, which make room.
                    return self.make_room(0).map_err(|error| Error::new(error.kind(), "this store"));
                }
                Ingest::Empty => {
                    state.top_up(session);
                    return Ok(());
                }
                Ingest::More => {
                    left -= 1;
                    state.unlock_fair();
                }
                Ingest::NoRoom { bytes } => {
                    drop(state);
                    is_refused = self.make_room(bytes).is_err();
                    self.set_full(is_refused);
                }
                Ingest::NoSlot => return Err(Error::new(ErrorKind::LimitReached, format!("{SLOTS_MAX} slots"))),
            }
        }
        Ok(())
    }

    /// Takes in what one session published, whether there is room for it or not.
    pub fn take_in_of(&self, session: u32) -> Result<()> {
        let arena = self.lock().sessions.get(session).map(|entry| entry.arena.clone());
        match arena.map_or(Ok(()), |arena| self.drain_session(session, &arena)) {
            Err(error) if error.kind() == ErrorKind::OutOfMemory => Ok(()),
            outcome => outcome,
        }
    }

    /// The state, after as much as possible of what the caller published before was taken in.
    pub fn settled(&self) -> StateGuard<'_> {
        // What cannot be taken in stays in its ring; whoever asks sees the rest.
        let _ = self.drain();
        self.lock()
    }

    /// The engine's thread: runs until the store is closed.
    pub fn run(&self) {
        let mut busy_ms = self.now_ms();
        let mut tick_ms = 0;
        let mut quiet_ticks = 0;
        while !self.is_closed() {
            let put = self.arenas().iter().any(|(_, arena)| !arena.ring.is_empty());
            let mut worked = put;
            quiet_ticks = if put { 0 } else { quiet_ticks };
            let blocked = self.drain().is_err();
            worked |= self.seal_some();
            worked |= self.pack_full_tails();
            let now_ms = self.now_ms();
            if now_ms >= tick_ms + TICK_MS as u64 {
                tick_ms = now_ms;
                worked |= self.tick(now_ms);
                worked |= self.compact_journal();
                let mut state = self.lock();
                state.sessions.trim_quiet();
                state.top_up_all();
                drop(state);
                quiet_ticks += 1;
                if quiet_ticks == TRIM_TICKS {
                    self.trim_heaps(u64::MAX);
                }
            }
            self.keep_budget(self.now_ms() + TICK_MS as u64);
            if worked && !blocked {
                busy_ms = now_ms;
            } else if blocked || now_ms >= busy_ms + NAP_MS {
                self.sleep(TICK_MS);
            } else {
                // A look at everyone's ring costs something, so many are looked at less often.
                let pause_us = 1000 + self.arenas().len() as u64 * LOOK_PAUSE_US;
                std::thread::sleep(std::time::Duration::from_micros(pause_us));
            }
        }
    }
}
