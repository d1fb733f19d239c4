//! What a killed engine leaves behind: every critical section is a transaction of the journal.
//!
//! Whoever changes the state marks what he changed. When he lets the lock go, the rows of all that are
//! published at once, and only then happens what cannot be taken back: sessions may write over what was
//! drained, and extents, numbers and descriptors that went are free.

use crate::engine::{Engine, State};
use crate::journal::{Journal, Table};
use crate::keeping::Keeping;
use crate::records::{
    EngineRecord, KeptFrame, KeptSlot, KeptWaiting, agent_kept, conversation_record, encode, node_record,
    session_record, slot_kept, tags_row, tail_kept,
};
use crate::sync::Ordering;
use crate::tree::Body;
use agentmem_core::Result;
use std::sync::Arc;

/// History that is not worth a compaction.
const SLACK_BYTES: usize = 4 << 20;
/// Address space of a journal, in budgets: rows are a small part of what they speak of.
pub const JOURNAL_BUDGET_SHARE: u64 = 2;
/// The least address space of a journal.
pub const JOURNAL_BYTES_MIN: u64 = 256 << 20;

/// What is marked, in the order of marking.
#[derive(Debug, Default)]
pub struct Fresh {
    pub engine: bool,
    pub sessions: Vec<u32>,
    /// Session and cell.
    pub given: Vec<(u32, u32)>,
    pub rings: Vec<u32>,
    pub inbox: Vec<u64>,
    pub agents: Vec<u32>,
    pub slots: Vec<u32>,
    pub leases: Vec<u64>,
    pub conversations: Vec<u32>,
    pub nodes: Vec<u32>,
    pub frames: Vec<u32>,
    pub tags: Vec<(u32, Vec<u32>)>,
    pub limbo: Vec<u64>,
    pub grants: Vec<u64>,
    /// Descriptors that are not needed once this is published.
    pub departed: Vec<String>,
}

impl Fresh {
    fn is_empty(&self) -> bool {
        !self.engine
            && self.sessions.is_empty()
            && self.given.is_empty()
            && self.rings.is_empty()
            && self.inbox.is_empty()
            && self.agents.is_empty()
            && self.slots.is_empty()
            && self.leases.is_empty()
            && self.conversations.is_empty()
            && self.nodes.is_empty()
            && self.frames.is_empty()
            && self.tags.is_empty()
            && self.limbo.is_empty()
            && self.grants.is_empty()
            && self.departed.is_empty()
    }

    /// Says each thing once.
    fn dedup(&mut self) {
        dedup(&mut self.given);
        dedup(&mut self.inbox);
        dedup(&mut self.leases);
        dedup(&mut self.limbo);
        dedup(&mut self.grants);
        let numbers = [
            &mut self.sessions,
            &mut self.rings,
            &mut self.agents,
            &mut self.slots,
            &mut self.conversations,
            &mut self.nodes,
            &mut self.frames,
        ];
        numbers.into_iter().for_each(dedup);
    }
}

/// The journal of an engine, and what it is to hear next.
#[derive(Debug)]
pub struct Kept {
    pub journal: Journal,
    pub keeping: Arc<Keeping>,
    pub fresh: Fresh,
    /// As written last.
    pub engine: EngineRecord,
}

fn dedup<T: Ord>(keys: &mut Vec<T>) {
    keys.sort_unstable();
    keys.dedup();
}

impl State {
    /// Notes what is to be told to the journal, where there is one.
    #[inline]
    pub fn note(&mut self, note: impl FnOnce(&mut Fresh)) {
        if let Some(kept) = &mut self.kept {
            note(&mut kept.fresh);
        }
    }

    /// Brings the row of what the engine knows beside tables up to date; whether it was not.
    fn renew(&self, engine: &Engine, record: &mut EngineRecord) -> bool {
        let numbers = (self.agents.next, self.sessions.next_number(), self.next_conversation);
        let next_key = engine.next_key.load(Ordering::Relaxed);
        let before = (record.next_agent, record.next_session, record.next_conversation);
        let is_old = before != numbers || record.next_key != next_key || record.quota != self.quota.now;
        (record.next_agent, record.next_session, record.next_conversation) = numbers;
        record.next_key = next_key;
        record.quota = self.quota.now;
        is_old
    }
}

impl Engine {
    /// The end of a critical section: what was changed is published, and what depends on that happens.
    pub fn settle(&self, state: &mut State) {
        if self.has_failed() {
            return;
        }
        let Some(mut kept) = state.kept.take() else { return };
        if !kept.fresh.is_empty() {
            let mut fresh = std::mem::take(&mut kept.fresh);
            fresh.dedup();
            let written = self.write_fresh(state, &mut kept, &fresh);
            match written {
                Ok(()) => kept.journal.publish(),
                // Nothing that is changed from now on would be found again, and nobody may be told that it was.
                Err(_) => {
                    kept.journal.take_back();
                    self.mark_failed();
                    state.kept = Some(kept);
                    return;
                }
            }
            for &session in &fresh.rings {
                if let Some(entry) = state.sessions.get(session) {
                    entry.arena.ring.settle();
                }
            }
            fresh.departed.iter().for_each(|name| kept.keeping.let_go(name));
        }
        self.hot_heap.settle();
        self.frame_heap.settle();
        self.segments.settle();
        state.kept = Some(kept);
    }

    fn write_fresh(&self, state: &mut State, kept: &mut Kept, fresh: &Fresh) -> Result<()> {
        let journal = &mut kept.journal;
        if state.renew(self, &mut kept.engine) || fresh.engine {
            journal.put(Table::Engine, 0, Some(&encode(&kept.engine)))?;
        }
        for &session in &fresh.sessions {
            let row = state.sessions.get(session).filter(|entry| !entry.is_embedded).map(session_record);
            journal.put(Table::Sessions, session.into(), row.as_deref())?;
            if row.is_none() {
                journal.put(Table::Rings, session.into(), None)?;
            }
        }
        for &(session, cell) in &fresh.given {
            let entry = state.sessions.get(session);
            if entry.is_some_and(|entry| entry.is_embedded) {
                continue;
            }
            let given = entry.map(|entry| entry.given(cell as usize));
            let row = given.map(|given| encode(&(given.slot, given.claim, self.slots.generation(given.slot))));
            journal.put(Table::Given, u64::from(session) << 32 | u64::from(cell), row.as_deref())?;
        }
        for &session in &fresh.rings {
            if let Some(entry) = state.sessions.get(session).filter(|entry| !entry.is_embedded) {
                journal.put(Table::Rings, session.into(), Some(&entry.arena.ring.tail_word().to_le_bytes()))?;
            }
        }
        for &key in &fresh.inbox {
            let inbox = self.inbox.lock();
            let row = inbox.iter().find(|((_, other), _)| *other == key);
            let row = row.map(|((session, _), raw)| encode(&(*session, raw.kept())));
            journal.put(Table::Inbox, key, row.as_deref())?;
        }
        for &number in &fresh.agents {
            let agent = state.agents.get(number);
            let row = agent.map(|agent| agent_kept(agent, state.sessions.of_agent(number)));
            journal.put(Table::Agents, number.into(), row.as_deref())?;
        }
        for &slot in &fresh.slots {
            let row = slot_kept(&state.smus, slot, self.slots.generation(slot));
            journal.put(Table::Slots, slot.into(), row.map(|row: KeptSlot| encode(&row)).as_deref())?;
        }
        for &key in &fresh.leases {
            let (slot, agent) = ((key >> 32) as u32, key as u32);
            let count =
                state.agents.get(agent).and_then(|entry| entry.leases.get(&slot)).map(|count| count.to_le_bytes());
            journal.put(Table::Leases, key, count.as_ref().map(|count| &count[..]))?;
        }
        for &number in &fresh.conversations {
            let row = state.conversations.get(&number).map(conversation_record);
            journal.put(Table::Conversations, number.into(), row.as_deref())?;
        }
        for &number in &fresh.nodes {
            let row = state.tree.get(number).map(node_record);
            journal.put(Table::Nodes, number.into(), row.as_deref())?;
            match state.tree.get_mut(number).map(|node| &mut node.body) {
                Some(Body::Tail(tail)) => {
                    let is_new = tail.kept_chunks == 0 && tail.kept_items == 0;
                    let news = tail_kept(tail);
                    match is_new {
                        true => journal.put(Table::Tails, number.into(), Some(&news))?,
                        false => journal.append(Table::Tails, number.into(), &news)?,
                    }
                }
                _ => journal.put(Table::Tails, number.into(), None)?,
            }
        }
        for &number in &fresh.frames {
            let row = state.frames.get(number).map(KeptFrame::of);
            if row.is_none() {
                journal.put(Table::Tags, number.into(), None)?;
            }
            journal.put(Table::Frames, number.into(), row.map(|row| encode(&row)).as_deref())?;
        }
        for (frame, tags) in &fresh.tags {
            if state.frames.get(*frame).is_some() {
                journal.put(Table::Tags, (*frame).into(), Some(&tags_row(tags)))?;
            }
        }
        for &number in &fresh.limbo {
            let row = state.limbo.iter().find(|waiting| waiting.number == number).map(KeptWaiting::of);
            journal.put(Table::Limbo, number, row.map(|row| encode(&row)).as_deref())?;
        }
        for &number in &fresh.grants {
            let row = state.grants.get(number).map(encode);
            journal.put(Table::Grants, number, row.as_deref())?;
        }
        Ok(())
    }

    /// Writes the journal anew without its history, once that is most of it; returns whether it was.
    pub fn compact_journal(&self) -> bool {
        let past = {
            let state = self.lock();
            let long = state.kept.as_ref().filter(|kept| kept.journal.is_long(SLACK_BYTES));
            let Some(past) = long.map(|kept| kept.journal.past()) else { return false };
            past
        };
        // Without the lock: what is published stays as it is.
        let Ok(mut fresh) = past.compacted() else { return false };
        let mut state = self.lock();
        let Some(kept) = &mut state.kept else { return false };
        let caught_up = fresh.catch_up(&kept.journal, &past);
        let stored = caught_up.and_then(|()| fresh.descriptor());
        let stored = stored.and_then(|descriptor| kept.keeping.keep_at_once(fresh.name(), descriptor));
        if stored != Ok(true) {
            // Whoever keeps it does not listen, say. This was work for nothing, so it is not tried at every tick.
            kept.journal.put_off();
            return false;
        }
        let older = std::mem::replace(&mut kept.journal, fresh);
        kept.keeping.let_go(older.name());
        true
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
