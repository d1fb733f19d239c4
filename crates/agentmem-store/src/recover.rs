//! Going on where an engine that was killed stopped: its journal says what there is, and its memory still is.

use crate::arena::{Arena, Shape};
use crate::claims::{Claim, Claims};
use crate::cold::{Cold, DiskPlace};
use crate::dirty::Dirty;
use crate::engine::{Engine, Memory, State, heap_address_bytes};
use crate::frames::{FrameEntry, Ref};
use crate::grants::Grant;
use crate::heap::Heap;
use crate::ingest::TAIL_BYTES_MAX;
use crate::journal::{JOURNALS, Journal, Rows, Table};
use crate::keeping::Keeping;
use crate::kept::{Fresh, JOURNAL_BUDGET_SHARE, JOURNAL_BYTES_MIN, Kept};
use crate::ledger::Ledger;
use crate::lifetime::{Then, Waiting};
use crate::load::agent_entry;
use crate::options::Options;
use crate::quota::Quota;
use crate::raw::Raw;
use crate::records::{
    ConversationRecord, EngineRecord, KeptAgent, KeptFrame, KeptRaw, KeptSlot, KeptSmu, KeptTail, KeptWaiting,
    NodeRecord, SessionRecord, tags_of,
};
use crate::ring::{Given, Operation};
use crate::segments::{Large, Segments};
use crate::sessions::{Deserted, SessionEntry};
use crate::slots::{SLOTS_MAX, Slots};
use crate::smus::{Alias, Packed, SlotUse, Smu};
use crate::sync::{Ordering, Words};
use crate::sys::{EventFd, Mapping, PidFd};
use crate::tree::{Body, Node, RawItem, Tail};
use agentmem_core::frame::{ITEMS_MAX, Meta};
use agentmem_core::place::{Place, SEGMENTS_MAX};
use agentmem_core::{ContentId, DomainKey, Error, ErrorKind, Kind, Result};
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

/// The numbers that heaps always have.
const HOT_SEGMENT: u32 = 0;
const FRAME_SEGMENT: u32 = 1;

fn damaged(what: &str) -> Error {
    Error::new(ErrorKind::Damaged, format!("what a killed engine left: {what}"))
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    postcard::from_bytes(bytes).map_err(|_| damaged("a row"))
}

/// What an engine that was killed left.
pub struct Past {
    journal: Journal,
    rows: Rows,
    /// What it knew beside tables.
    pub engine: EngineRecord,
}

impl Past {
    /// The journal that counts, if an engine got so far as to have one.
    pub fn find(keeping: &Keeping) -> Result<Option<Past>> {
        let found = JOURNALS.iter().filter_map(|name| keeping.take(name));
        let journals = found.map(Journal::found).collect::<Result<Vec<_>>>()?;
        let Some(journal) = journals.into_iter().max_by_key(Journal::sequence) else { return Ok(None) };
        let rows = journal.past().rows()?;
        let engine = rows.of(Table::Engine).get(&0).ok_or_else(|| damaged("no row of the engine"))?;
        let engine = decode(engine)?;
        Ok(Some(Past { journal, rows, engine }))
    }
}

impl Memory {
    /// Memory that is kept: that of the engine before, or new.
    fn kept(options: &Options, keeping: &Arc<Keeping>) -> Result<Self> {
        let mapping = |name: &str, len: usize| match keeping.take(name) {
            Some(found) => Mapping::adopted(found),
            None => {
                let mapping = Mapping::writable(&format!("agentmem-{name}"), len)?;
                mapping.fix_len()?;
                keeping.keep_mapping(name, &mapping)?;
                Ok(mapping)
            }
        };
        let words = |name: &str, count: usize| -> Result<Words> {
            let mapping = mapping(name, count * 8)?;
            if mapping.len() < count * 8 {
                return Err(damaged(name));
            }
            Ok(Words::within(&Arc::new(mapping), 0, count))
        };
        let address_bytes = heap_address_bytes(options) as usize;
        let segments = Segments::kept(words("incarnations", SEGMENTS_MAX as usize)?, keeping.clone())?;
        segments.limit_large(options.large_max);
        let hot_heap = Heap::kept(mapping("hot", address_bytes)?, &segments, HOT_SEGMENT)?;
        let frame_heap = Heap::kept(mapping("frames", address_bytes)?, &segments, FRAME_SEGMENT)?;
        let slots = Arc::new(Slots::lent(words("places", SLOTS_MAX)?, words("generations", SLOTS_MAX)?));
        let bell = match keeping.take("bell") {
            Some(found) => EventFd::from(found),
            None => {
                let bell = EventFd::new()?;
                keeping.keep("bell", bell.descriptor()?)?;
                bell
            }
        };
        Ok(Memory { module: None, segments, hot_heap, frame_heap, slots, bell: Arc::new(bell) })
    }
}

impl Engine {
    /// An engine whose memory is kept, and that goes on from `past`, or from what `ledger` knows.
    pub fn kept(
        mut options: Options,
        key: DomainKey,
        folder: Option<PathBuf>,
        cold: Option<Cold>,
        mut ledger: Option<Ledger>,
        keeping: Arc<Keeping>,
        past: Option<Past>,
    ) -> Result<Self> {
        let policy = std::mem::replace(&mut options.policy, Box::new(agentmem_core::policy::Lru));
        let memory = Memory::kept(&options, &keeping)?;
        let mut state = State::empty(ledger.is_some());
        state.quota = Quota::of(&options.domain);
        let mut inbox = HashMap::new();
        let is_new = past.is_none();
        let kept = match past {
            Some(Past { journal, rows, engine }) => {
                let restoring = Restoring::new(&memory, &keeping, &rows);
                inbox = restoring.all(&mut state, &engine)?;
                restore_disk(&mut state, &rows, cold.as_ref(), ledger.as_mut())?;
                let left = inbox.iter().map(|(&(session, _), raw)| (session, raw.len() as u64));
                state.set_quota(engine.quota.within(options.quota), left);
                Box::new(Kept { journal, keeping: keeping.clone(), fresh: Fresh::default(), engine })
            }
            None => {
                let capacity = (options.memory_max_bytes / JOURNAL_BUDGET_SHARE).max(JOURNAL_BYTES_MIN);
                state.set_quota(options.quota, std::iter::empty());
                let engine = EngineRecord { key: key.0, folder, ..EngineRecord::default() };
                let journal = Journal::new(capacity as usize, 1)?;
                // There from now on, so that it hears of what is loaded.
                let fresh = Fresh { engine: true, ..Fresh::default() };
                state.kept = Some(Box::new(Kept { journal, keeping: keeping.clone(), fresh, engine }));
                if let Some(ledger) = &mut ledger {
                    let places = ledger.load(&mut state, &memory.slots, &memory.hot_heap)?;
                    cold.as_ref().expect("a ledger has files beside it").adopt(places)?;
                }
                state.note_everything();
                state.kept.take().expect("just put there")
            }
        };
        let next_key = kept.engine.next_key.max(1);
        let unkept = if is_new { Some((kept.journal.name(), kept.journal.descriptor()?)) } else { None };
        state.kept = Some(kept);
        let engine = Engine::over(options, key, memory, state, cold, ledger, policy);
        engine.next_key.store(next_key, Ordering::Relaxed);
        *engine.inbox.lock() = inbox;
        engine.share_arenas();
        match unkept {
            // One that was full could not hear of anything else.
            None => drop(engine.compact_journal()),
            Some((name, journal)) => {
                // It counts once it has been told what was loaded.
                drop(engine.lock());
                keeping.keep(name, journal)?;
            }
        }
        keeping.let_go_of_the_rest();
        Ok(engine)
    }
}

impl State {
    /// Tells the journal of all that there is.
    pub fn note_everything(&mut self) {
        let agents: Vec<u32> = self.agents.iter().map(|agent| agent.shared.number).collect();
        let slots: Vec<u32> = self.smus.iter().map(|(slot, _)| slot).collect();
        let leases: Vec<u64> = self.agents.leases().collect();
        let conversations: Vec<u32> = self.conversations.keys().copied().collect();
        let nodes: Vec<u32> = self.tree.iter().map(|(number, _)| number).collect();
        let frames: Vec<u32> = self.frames.iter().map(|(number, _)| number).collect();
        self.note(|fresh| {
            fresh.agents.extend(agents);
            fresh.slots.extend(slots);
            fresh.leases.extend(leases);
            fresh.conversations.extend(conversations);
            fresh.nodes.extend(nodes);
            fresh.frames.extend(frames);
        });
    }
}

/// Says what of the files is alive, and that nobody knows what the index has of it.
fn restore_disk(state: &mut State, rows: &Rows, cold: Option<&Cold>, ledger: Option<&mut Ledger>) -> Result<()> {
    let alive: BTreeSet<DiskPlace> = state.frames.iter().filter_map(|(_, entry)| entry.disk).collect();
    let mut places = alive.clone();
    if let Some(ledger) = ledger {
        // What the index still names must stay until it does not, whether it is used any more or not.
        let indexed: BTreeSet<DiskPlace> = ledger.places()?.into_iter().collect();
        state.dead_on_disk.extend(indexed.difference(&alive));
        places.extend(indexed);
        let tags = rows.of(Table::Tags).iter().filter(|(frame, _)| state.frames.get(**frame as u32).is_some());
        let tags = tags.map(|(&frame, row)| (frame as u32, tags_of(row))).collect();
        state.undurable = state.frames.iter().filter(|(_, e)| e.disk.is_none()).map(|(number, _)| number).collect();
        state.dirty = Some(Dirty::whole(state, tags));
    }
    match cold {
        Some(cold) => cold.adopt(places.into_iter().collect()).map(drop),
        None if places.is_empty() => Ok(()),
        None => Err(damaged("content on SSD, and no SSD")),
    }
}

/// What restoring goes through.
struct Restoring<'a> {
    memory: &'a Memory,
    keeping: &'a Keeping,
    rows: &'a Rows,
    /// By where they are: some are shared.
    raws: HashMap<KeptRaw, Arc<Raw>>,
    /// Claims that stand for something, by session.
    claims: HashMap<u32, HashSet<u32>>,
    /// Slots that are not free although nothing uses them.
    waiting: HashSet<u32>,
    /// Places that are looked at and that the journal does not know, with the claims and the length.
    stray: Vec<(Place, Claims, u64)>,
}

impl<'a> Restoring<'a> {
    fn new(memory: &'a Memory, keeping: &'a Keeping, rows: &'a Rows) -> Self {
        let (raws, claims, waiting, stray) = (HashMap::new(), HashMap::new(), HashSet::new(), Vec::new());
        Restoring { memory, keeping, rows, raws, claims, waiting, stray }
    }

    fn each<T: DeserializeOwned>(&self, table: Table) -> Result<Vec<(u64, T)>> {
        self.rows.of(table).iter().map(|(&key, bytes)| Ok((key, decode(bytes)?))).collect()
    }

    /// Fills an empty `state`; returns what was left and not put.
    fn all(mut self, state: &mut State, engine: &EngineRecord) -> Result<HashMap<(u32, u64), Arc<Raw>>> {
        self.sessions(state)?;
        self.agents(state)?;
        self.frames(state)?;
        self.slots(state)?;
        self.leases(state)?;
        self.conversations(state)?;
        for (&frame, row) in self.rows.of(Table::Tags) {
            if state.frames.get(frame as u32).is_some() {
                state.index_messages(frame as u32, &tags_of(row));
            }
        }
        for (number, grant) in self.each::<Grant>(Table::Grants)? {
            state.grants.restore(number, grant);
        }
        let mut inbox = HashMap::new();
        for (key, (session, raw)) in self.each::<(u32, KeptRaw)>(Table::Inbox)? {
            inbox.insert((session, key), self.raw(raw)?);
        }
        for (number, KeptWaiting { claims, raw, then }) in self.each(Table::Limbo)? {
            let raw = raw.map(|raw| self.raw(raw)).transpose()?;
            if let Then::GiveBack { slot } | Then::GiveBackAlias { slot, .. } = then {
                self.waiting.insert(slot);
                state.smus.reserve(slot);
            }
            let claims = self.use_claims(&claims);
            state.limbo.push(Waiting { number, claims, raw, then });
            state.waited = state.waited.max(number);
        }
        // Everything that is known has its place by now: what else is looked at lies between.
        self.unknown_to_the_journal(state);
        for (session, used) in &self.claims {
            if let Some(entry) = state.sessions.get_mut(*session) {
                entry.restore_claims(used);
            }
        }
        state.sessions.look();
        state.smus.restored(&self.waiting);
        state.agents.next = state.agents.next.max(engine.next_agent);
        state.sessions.restore_next(engine.next_session);
        state.next_conversation = state.next_conversation.max(engine.next_conversation);
        let frames: Vec<u32> = state.frames.iter().map(|(number, _)| number).collect();
        frames.into_iter().for_each(|frame| state.reassess(frame));
        self.memory.segments.restored();
        self.memory.hot_heap.punch_holes();
        self.memory.frame_heap.punch_holes();
        Ok(inbox)
    }

    fn raw(&mut self, kept: KeptRaw) -> Result<Arc<Raw>> {
        if let Some(known) = self.raws.get(&kept) {
            return Ok(known.clone());
        }
        let Memory { hot_heap, segments, .. } = self.memory;
        let raw = match kept {
            KeptRaw::Extent { start, len } => {
                let extent = usize::try_from(len).ok().and_then(|len| hot_heap.adopt(start, len));
                Raw::Extent(extent.ok_or_else(|| damaged("content in memory"))?)
            }
            KeptRaw::Large { segment, incarnation, len } => {
                Large::restored(segments, segment, incarnation, len as usize)?.into()
            }
        };
        let raw = Arc::new(raw);
        self.raws.insert(kept, raw.clone());
        Ok(raw)
    }

    fn use_claims(&mut self, claims: &[Claim]) -> Claims {
        let mut used = Claims::default();
        for &claim in claims {
            self.claims.entry(claim.session).or_default().insert(claim.index);
            used.add(claim);
        }
        used
    }

    fn sessions(&mut self, state: &mut State) -> Result<()> {
        let mut given: HashMap<u32, BTreeMap<u32, Given>> = HashMap::new();
        for (key, (slot, claim, generation)) in self.each::<(u32, u32, u64)>(Table::Given)? {
            let session = (key >> 32) as u32;
            if slot as usize >= SLOTS_MAX {
                return Err(damaged("slot of a cell"));
            }
            given.entry(session).or_default().insert(key as u32, Given { slot, claim });
            self.claims.entry(session).or_default().insert(claim);
            self.waiting.insert(slot);
            state.smus.reserve(slot);
            self.memory.slots.restore_generation(slot, generation);
        }
        for (number, record) in self.each::<SessionRecord>(Table::Sessions)? {
            let SessionRecord { pid, started, secret, arena, cells, data_bytes, claims } = record;
            let number = number as u32;
            let shape = Shape { cells: cells as usize, data_bytes: data_bytes as usize, claims: claims as usize };
            let found = self.keeping.take(&arena).ok_or_else(|| damaged("the arena of a session"))?;
            let tail = self.rows.of(Table::Rings).get(&number.into()).and_then(|row| row[..].try_into().ok());
            let tail = u64::from_le_bytes(tail.ok_or_else(|| damaged("the ring of a session"))?);
            let memory = Arena::kept(Mapping::adopted(found)?, shape, &self.memory.bell, tail)?;
            let given: Vec<Given> = given.remove(&number).unwrap_or_default().into_values().collect();
            if given.len() != shape.cells {
                return Err(damaged("cells of a session"));
            }
            let mut entry = SessionEntry::restored(Arc::new(memory), pid, started, secret, given);
            entry.kept_as = Some(arena);
            entry.deserted = Some(match started {
                Some(started) => PidFd::of_process(pid, started).map_or(Deserted::Ended, Deserted::Process),
                None => Deserted::Unseen,
            });
            state.sessions.restore(number, entry);
        }
        Ok(())
    }

    fn agents(&mut self, state: &mut State) -> Result<()> {
        for (number, KeptAgent { agent, pid, session, is_lasting }) in self.each(Table::Agents)? {
            let mut entry = agent_entry(number as u32, agent, state.agents.all_used_bytes())?;
            (entry.pid, entry.is_lasting) = (pid, is_lasting);
            let session = session.and_then(|session| state.sessions.get_mut(session));
            if session.as_ref().is_some_and(|session| session.pid != pid) {
                entry.pidfd = PidFd::open(pid);
            }
            if let Some(session) = session {
                session.add_agent(number as u32);
            }
            state.agents.insert(entry);
        }
        Ok(())
    }

    fn frames(&mut self, state: &mut State) -> Result<()> {
        for (number, kept) in self.each::<KeptFrame>(Table::Frames)? {
            let KeptFrame { stored, disk, items, stored_bytes, logical_bytes, agent, kind } = kept;
            let adopt = |(start, len)| self.memory.frame_heap.adopt(start, len as usize).map(Arc::new);
            let stored = stored.map(|place| adopt(place).ok_or_else(|| damaged("a frame in memory"))).transpose()?;
            if number == 0 || (stored.is_none() && disk.is_none()) {
                return Err(damaged("a frame"));
            }
            if stored.is_some() {
                state.warm.insert(number as u32);
            }
            let kind = Kind::from_u8(kind).ok_or_else(|| damaged("kind"))?;
            let (refs, is_busy) = (Vec::new(), false);
            let (used_ms, uses, made_ms) = (0, 0, 0);
            state.frames.insert(
                number as u32,
                FrameEntry {
                    stored,
                    disk,
                    items,
                    stored_bytes,
                    logical_bytes,
                    refs,
                    agent,
                    kind,
                    used_ms,
                    uses,
                    made_ms,
                    is_busy,
                },
            );
        }
        Ok(())
    }

    fn slots(&mut self, state: &mut State) -> Result<()> {
        for (slot, kept) in self.each::<KeptSlot>(Table::Slots)? {
            let slot = u32::try_from(slot).ok().filter(|&slot| (slot as usize) < SLOTS_MAX);
            let slot = slot.ok_or_else(|| damaged("a slot"))?;
            match kept {
                KeptSlot::Smu(kept) => self.smu(state, slot, *kept)?,
                KeptSlot::Alias { to, agent, claim, generation } => {
                    self.claims.entry(claim.session).or_default().insert(claim.index);
                    self.memory.slots.restore_generation(slot, generation);
                    self.memory.slots.relocate(slot, Place::Forward { slot: to });
                    state.smus.restore(slot, SlotUse::Alias(Box::new(Alias { to, agent, claim })));
                    if let Some(entry) = state.agents.get_mut(agent) {
                        entry.aliases.insert(slot);
                    }
                }
            }
        }
        Ok(())
    }

    fn smu(&mut self, state: &mut State, slot: u32, kept: KeptSmu) -> Result<()> {
        let raw = kept.raw.map(|raw| self.raw(raw)).transpose()?;
        if raw.is_none() && (kept.packed == Packed::No || !kept.is_sealed) {
            return Err(damaged("content that is nowhere"));
        }
        for number in kept.packed.frames() {
            let entry = state.frames.get_mut(number).ok_or_else(|| damaged("frame of an SMU"))?;
            entry.refs.push(Ref::Smu(slot));
        }
        let claims = self.use_claims(&kept.claims);
        let place = raw.as_ref().map_or(Place::Away, |raw| raw.place());
        if raw.is_some() {
            state.hot.insert(slot);
        }
        if !kept.is_sealed {
            state.unsealed.push_back(slot);
        }
        state.smus.restore(
            slot,
            SlotUse::Smu(Box::new(Smu {
                id: ContentId(kept.id),
                is_sealed: kept.is_sealed,
                logical_bytes: kept.logical_bytes,
                raw,
                packed: kept.packed,
                leases: 0,
                agents: 0,
                agent: kept.agent,
                used_ms: 0,
                uses_seen: 0,
                claims: claims.clone(),
                kind: Kind::from_u8(kept.kind).ok_or_else(|| damaged("kind"))?,
                importance: kept.importance,
                keep_hot: kept.keep_hot,
                stays_raw: false,
                is_busy: false,
            })),
        );
        kept.names.iter().for_each(|name| state.smus.name(name, slot));
        for (number, name) in kept.waiting {
            state.smus.restore_waiting(number, name, slot);
        }
        self.memory.slots.restore_generation(slot, kept.generation);
        self.place(state, slot, place, claims, kept.logical_bytes);
        Ok(())
    }

    /// Says where `slot` is. The killed engine may have said something else after what its journal knows, and
    /// somebody may be looking there.
    fn place(&mut self, state: &State, slot: u32, place: Place, claims: Claims, len: u64) {
        let before = self.memory.slots.place(slot);
        self.memory.slots.relocate(slot, place);
        if before != place && matches!(before, Place::Hot { .. }) && state.sessions.is_pinned(&claims) {
            self.stray.push((before, claims, len));
        }
    }

    /// What was put or promoted after the last that the journal knows, and is pinned, stays as it is.
    fn unknown_to_the_journal(&mut self, state: &mut State) {
        let mut puts = Vec::new();
        for (number, entry) in state.sessions.iter() {
            for (cell, bytes) in entry.arena.ring.waiting() {
                let Operation::Put { name_bytes, .. } = cell.operation else { continue };
                let given = entry.given(cell.cell);
                let claims = Claims::of(Claim { session: number, index: given.claim });
                puts.push((given.slot, claims, (bytes.len() - usize::from(name_bytes)) as u64));
            }
        }
        for (slot, claims, len) in puts {
            self.place(state, slot, Place::Fresh, claims, len);
        }
        for (place, claims, len) in std::mem::take(&mut self.stray) {
            let Place::Hot { segment, offset_bytes } = place else { continue };
            let raw = if segment == self.memory.hot_heap.segment() {
                self.memory.hot_heap.adopt(offset_bytes, len as usize).map(Raw::Extent)
            } else if segment < SEGMENTS_MAX {
                let incarnation = self.memory.segments.incarnations()[segment as usize].load(Ordering::Acquire);
                let large = Large::restored(&self.memory.segments, segment, incarnation, len as usize);
                large.ok().map(Raw::from)
            } else {
                None
            };
            state.waited += 1;
            let number = state.waited;
            let raw = raw.map(Arc::new);
            state.limbo.push(Waiting { number, claims, raw, then: Then::Nothing });
        }
    }

    fn leases(&mut self, state: &mut State) -> Result<()> {
        for (&key, row) in self.rows.of(Table::Leases) {
            let (slot, agent) = ((key >> 32) as u32, key as u32);
            let count = u32::from_le_bytes(row[..].try_into().map_err(|_| damaged("a lease"))?);
            let smu = state.smus.get(slot).ok_or_else(|| damaged("lease on nothing"))?;
            let (logical_bytes, last) = (smu.logical_bytes, smu.agent);
            state.lease(agent, slot, count);
            let entry = state.agents.get_mut(agent).ok_or_else(|| damaged("lease of nobody"))?;
            entry.shared.charge_anyway(logical_bytes * u64::from(count));
            state.smus.get_mut(slot).expect("just seen").agent = last;
        }
        Ok(())
    }

    fn conversations(&mut self, state: &mut State) -> Result<()> {
        let mut links = Vec::new();
        for (number, record) in self.each::<NodeRecord>(Table::Nodes)? {
            let NodeRecord { parent, start, count, logical_bytes, agent, run } = record;
            let number = number as u32;
            start.checked_add(count).ok_or_else(|| damaged("messages of a node"))?;
            let body = match run {
                Some((frame, first)) => {
                    let entry = state.frames.get_mut(frame).ok_or_else(|| damaged("frame of a node"))?;
                    entry.refs.push(Ref::Node(number));
                    Body::Run { frame, first }
                }
                None => {
                    let mut tail = self.tail(number)?;
                    if tail.items.len() != count as usize {
                        return Err(damaged("messages of a node"));
                    }
                    if logical_bytes >= TAIL_BYTES_MAX || count as usize == ITEMS_MAX {
                        tail.is_sealed = true;
                        state.full_tails.push_back(number);
                    }
                    state.tail_bytes += logical_bytes;
                    state.tails.insert(number);
                    Body::Tail(Box::new(tail))
                }
            };
            links.push((parent, start));
            state.tree.restore(number, Node::new(parent, start, count, logical_bytes, agent, body));
        }
        state.link_nodes(&links)?;
        for (number, record) in self.each::<ConversationRecord>(Table::Conversations)? {
            state.restore_conversation(number as u32, record)?;
        }
        Ok(())
    }

    fn tail(&mut self, node: u32) -> Result<Tail> {
        let mut tail = Tail::default();
        let mut rest = self.rows.of(Table::Tails).get(&node.into()).map(|row| &row[..]).unwrap_or_default();
        while !rest.is_empty() {
            let (step, after) = postcard::take_from_bytes::<KeptTail>(rest).map_err(|_| damaged("a message"))?;
            rest = after;
            match step {
                KeptTail::Chunk(raw) => {
                    tail.chunks.push(self.raw(raw)?);
                    tail.filled = 0;
                }
                KeptTail::Item { chunk, from, len, meta: (is_value, lead_bytes, trail_bytes) } => {
                    let end = u64::from(from) + u64::from(len);
                    let raw = tail.chunks.get(chunk as usize).filter(|raw| end <= raw.len() as u64);
                    raw.ok_or_else(|| damaged("a message"))?;
                    let meta = Meta { is_value, lead_bytes, trail_bytes };
                    tail.items.push(RawItem { chunk, from, len, meta });
                    tail.filled = end as usize;
                }
            }
        }
        (tail.kept_chunks, tail.kept_items) = (tail.chunks.len(), tail.items.len());
        Ok(tail)
    }
}
