//! Garbage collection: frames of which less than three quarters are alive are rewritten with what is.

use crate::engine::{Engine, TICK_MS};
use crate::frames::{FrameEntry, Ref};
use crate::smus::Packed;
use crate::tree::Body;
use agentmem_core::frame::{Frame, Item};
use agentmem_core::{ContentId, Error, ErrorKind, Kind, Result};

/// Frames looked at by the collector at a tick, and how long a frame counts as young.
const REWRITES: usize = 16;
const YOUNG_MS: u64 = 60_000;
/// Old frames are looked at in one of so many ticks only.
const OLD_TICKS: u64 = 16;

impl Engine {
    /// Rewrites frames of which less than three quarters are alive: young ones at every tick, old ones seldom.
    pub fn collect(&self, now_ms: u64) -> bool {
        let chosen: Vec<u32> = {
            let state = self.lock();
            let looks_at_old = (now_ms / TICK_MS as u64).is_multiple_of(OLD_TICKS);
            let is_due = |number: &&u32| {
                let young = |made_ms: u64| now_ms.saturating_sub(made_ms) < YOUNG_MS;
                state.frames.get(**number).is_none_or(|entry| looks_at_old || young(entry.made_ms))
            };
            state.sparse.iter().filter(is_due).take(REWRITES).copied().collect()
        };
        for &number in &chosen {
            // A frame that cannot be read is left alone; reading it reports the damage.
            let _ = self.rewrite_frame(number);
        }
        !chosen.is_empty()
    }

    /// Rewrites a frame of which less than three quarters are alive with what is.
    pub fn rewrite_frame(&self, number: u32) -> Result<()> {
        let (ranges, agent, kind, made_ms) = {
            let mut state = self.lock();
            state.sparse.remove(&number);
            let Some(entry) = state.frames.get(number) else { return Ok(()) };
            let ranges: Vec<(u32, u32)> = entry.refs.iter().filter_map(|&r| state.items_of(number, r)).collect();
            (ranges, entry.agent, entry.kind, entry.made_ms)
        };
        let Some(bytes) = self.load_frame(number, &|| format!("frame {number}"))? else { return Ok(()) };
        let frame = Frame::parse(bytes.bytes())?;
        let content = frame.decode()?;
        let mut kept: Vec<u32> = ranges.iter().flat_map(|&(from, to)| from..to).collect();
        kept.sort_unstable();
        kept.dedup();
        let mut items: Vec<Item<'_>> = Vec::with_capacity(kept.len());
        for &at in &kept {
            let entry = frame.entries().get(at as usize);
            let entry = entry.ok_or_else(|| Error::new(ErrorKind::Damaged, format!("frame {number}")))?;
            items.push(Item { bytes: &content[entry.start..entry.end], meta: entry.meta });
        }
        if items.is_empty() {
            return Ok(());
        }
        let logical_bytes = items.iter().map(|item| item.bytes.len() as u64).sum();
        let stored = self.frame_heap.store(&self.encode(&items, self.options.warm_level)?)?;
        let tags: Vec<u32> = match kind {
            Kind::Message => items.iter().map(|item| ContentId::of(&self.key, item.bytes).tag()).collect(),
            _ => Vec::new(),
        };
        let mut state = self.lock();
        let Some(entry) = state.frames.get(number) else { return Ok(()) };
        let refs = entry.refs.clone();
        let position = |item: u32| kept.binary_search(&item).ok().map(|at| at as u32);
        let moved = |&r: &Ref| {
            state.items_of(number, r).is_some_and(|(from, to)| {
                from < to && position(from).is_some_and(|at| position(to - 1) == Some(at + (to - 1 - from)))
            })
        };
        if !refs.iter().all(moved) {
            return Ok(()); // somebody referred to more of it meanwhile: another time
        }
        let fresh = state.frames.take_numbers(1);
        state.add_frame(fresh, FrameEntry::new(stored, items.len() as u32, logical_bytes, agent, kind, made_ms));
        for &reference in &refs {
            let (from, _) = state.items_of(number, reference).expect("checked above");
            let first = position(from).expect("checked above");
            match reference {
                Ref::Node(node) => {
                    state.truncate_node(node, &frame, from as usize);
                    state.tree.node_mut(node).body = Body::Run { frame: fresh, first };
                    state.mark_node(node);
                }
                Ref::Smu(slot) => {
                    state.smus.get_mut(slot).expect("checked above").packed =
                        Packed::Item { frame: fresh, item: first };
                    state.mark_slot(slot);
                }
            }
        }
        state.frames.get_mut(fresh).expect("just added").refs = refs;
        state.index_messages(fresh, &tags);
        state.counters.gc_rewrite += 1;
        if let Some(entry) = state.frames.get_mut(number) {
            entry.refs.clear();
        }
        state.reassess(number);
        Ok(())
    }
}
