//! Compression of SMUs: raw content gets a packed form.
//!
//! SMUs of one agent that are small share a frame; one that is large takes several.

use crate::engine::Engine;
use crate::frames::{FrameEntry, Ref};
use crate::heap::Extent;
use crate::raw::Raw;
use crate::smus::Packed;
use agentmem_core::codec::{Compressor, Decompressor};
use agentmem_core::frame::{self, Frame, ITEMS_MAX, Item, Meta};
use agentmem_core::place::Place;
use agentmem_core::{Kind, Result};
use std::sync::Arc;

/// SMUs up to this length share frames.
const SMALL_BYTES: usize = 16 << 10;
/// Bytes of small SMUs in one frame: what promoting one of them decodes.
const GROUP_BYTES: usize = 64 << 10;
/// Content longer than this takes several frames.
const PART_BYTES: usize = 4 << 20;

/// Compressors kept: each has a megabyte or two of tables. And decompressors: each has a sixth of one.
const COMPRESSORS_MAX: usize = 2;
const DECOMPRESSORS_MAX: usize = 4;

/// Slot, agent, kind and bytes of an SMU to be compressed.
type Planned = (u32, u32, Kind, Arc<Raw>);

impl Engine {
    /// Frames `items` at `level`, with a compressor that is kept for the next time.
    pub fn encode(&self, items: &[Item<'_>], level: i32) -> Result<Vec<u8>> {
        let _encoding = self.encoders.enter();
        let kept = self.compressors.lock().pop().filter(|kept| kept.level() == level);
        let mut compressor = kept.map_or_else(|| Compressor::new(level), Ok)?;
        let frame = frame::encode_with(&mut compressor, items);
        let mut compressors = self.compressors.lock();
        if compressors.len() < COMPRESSORS_MAX {
            compressors.push(compressor);
        }
        frame
    }

    /// Decodes the front of `frame` into `out`, with a decompressor that is kept for the next time.
    pub fn decode(&self, frame: &Frame<'_>, out: &mut [u8]) -> Result<()> {
        let kept = self.decompressors.lock().pop();
        let mut decompressor = kept.map_or_else(Decompressor::new, Ok)?;
        let decoded = frame.decode_prefix_with(&mut decompressor, out);
        let mut decompressors = self.decompressors.lock();
        if decompressors.len() < DECOMPRESSORS_MAX {
            decompressors.push(decompressor);
        }
        decoded
    }

    /// Gives SMUs a compressed form, and drops the raw one unless `keep_raw`. Those that are
    /// pinned, unsealed or busy stay as they are. Returns the raw bytes dropped.
    pub fn demote_smus(&self, slots: &[u32], keep_raw: bool) -> Result<u64> {
        let _demoting = self.demoting();
        let (squeezed, mut dropped_bytes) = if keep_raw { Default::default() } else { self.squeeze(slots) };
        let mut planned: Vec<Planned> = Vec::new();
        {
            let mut state = self.lock();
            for &slot in slots.iter().filter(|slot| !squeezed.contains(slot)) {
                let is_pinned = state.is_pinned(slot);
                let Some(smu) = state.smus.get_mut(slot) else { continue };
                let Some(raw) = smu.raw.clone() else { continue };
                if smu.is_busy || !smu.is_sealed || (!keep_raw && is_pinned) {
                    continue;
                }
                if smu.packed == Packed::No {
                    smu.is_busy = true;
                    planned.push((slot, smu.agent, smu.kind, raw));
                } else if !keep_raw {
                    let (raw, claims) = (smu.raw.take(), smu.claims.clone());
                    dropped_bytes += smu.logical_bytes;
                    state.counters.evict += 1;
                    self.drop_raw(&mut state, slot, claims, Place::Away, raw);
                }
            }
        }
        planned.sort_by_key(|&(_, agent, kind, ref raw)| (raw.len() > SMALL_BYTES, agent, kind));
        let mut rest = &planned[..];
        let mut outcome = Ok(());
        while !rest.is_empty() && outcome.is_ok() {
            let (group, others) = rest.split_at(group_len(rest));
            outcome = self.demote_group(group, keep_raw).map(|bytes| dropped_bytes += bytes);
            rest = others;
        }
        let mut state = self.lock();
        for (slot, ..) in &planned {
            if let Some(smu) = state.smus.get_mut(*slot) {
                smu.is_busy = false;
            }
        }
        outcome.map(|()| dropped_bytes)
    }

    fn demote_group(&self, group: &[Planned], keep_raw: bool) -> Result<u64> {
        let (_, agent, kind, first_raw) = &group[0];
        let level = self.options.warm_level;
        // One frame of several contents, or several frames of one.
        let mut stored: Vec<(Extent, u32, u64)> = Vec::new();
        if group.len() == 1 && first_raw.len() > PART_BYTES {
            for part in first_raw.bytes().chunks(PART_BYTES) {
                let frame = self.encode(&[Item { bytes: part, meta: Meta::default() }], level)?;
                stored.push((self.frame_heap.store(&frame)?, 1, part.len() as u64));
            }
        } else {
            let items: Vec<Item<'_>> =
                group.iter().map(|(.., raw)| Item { bytes: raw.bytes(), meta: Meta::default() }).collect();
            let logical_bytes = items.iter().map(|item| item.bytes.len() as u64).sum();
            stored.push((self.frame_heap.store(&self.encode(&items, level)?)?, items.len() as u32, logical_bytes));
        }
        let mut state = self.lock();
        let now_ms = self.now_ms();
        let raw_bytes: u64 = group.iter().map(|(.., raw)| raw.len() as u64).sum();
        let stored_bytes: u64 = stored.iter().map(|(extent, ..)| extent.len_bytes() as u64).sum();
        if self.cold.is_none() && stored_bytes >= raw_bytes {
            // In RAM the packed form would only be in the way of views.
            for (slot, ..) in group {
                if let Some(smu) = state.smus.get_mut(*slot) {
                    smu.stays_raw = true;
                }
            }
            return Ok(0);
        }
        let count = stored.len() as u32;
        let first = state.frames.take_numbers(count);
        let squeezed = group.iter().filter_map(|(slot, ..)| state.smus.get(*slot).filter(|smu| smu.is_squeezed()));
        // What was warm already goes on ageing.
        let used_ms = squeezed.map(|smu| smu.used_ms).max().unwrap_or(now_ms);
        for (number, (extent, items, logical_bytes)) in (first..).zip(stored) {
            let entry = FrameEntry::new(extent, items, logical_bytes, *agent, *kind, now_ms);
            state.add_frame(number, FrameEntry { used_ms, ..entry });
        }
        let mut dropped_bytes = 0;
        for (item, (slot, _, _, raw)) in group.iter().enumerate() {
            let drops = !keep_raw && !state.is_pinned(*slot);
            let Some(smu) = state.smus.get_mut(*slot) else { continue };
            if smu.packed != Packed::No || !smu.raw_is(raw) {
                continue;
            }
            let was_hot = smu.is_hot();
            smu.packed = match count {
                1 => Packed::Item { frame: first, item: item as u32 },
                count => Packed::Parts { first, count },
            };
            let logical_bytes = smu.logical_bytes;
            let raw = if drops { smu.raw.take() } else { None };
            let claims = smu.claims.clone();
            for number in first..first + count {
                state.frames.get_mut(number).expect("made above").refs.push(Ref::Smu(*slot));
            }
            if was_hot {
                state.counters.demote_warm += 1;
                state.counters.demote_warm_bytes += logical_bytes;
            }
            if drops {
                dropped_bytes += logical_bytes;
                self.drop_raw(&mut state, *slot, claims, Place::Away, raw);
            }
            state.mark_slot(*slot);
        }
        for number in first..first + count {
            state.reassess(number);
        }
        Ok(dropped_bytes)
    }
}

/// How many of `planned` go into the next frame: small ones of one agent and kind together.
fn group_len(planned: &[Planned]) -> usize {
    let (_, agent, kind, first) = &planned[0];
    if first.len() > SMALL_BYTES {
        return 1;
    }
    let mut bytes = 0;
    let fits = |(_, a, k, raw): &&Planned| {
        bytes += raw.len();
        a == agent && k == kind && raw.len() <= SMALL_BYTES && bytes <= GROUP_BYTES.max(first.len())
    };
    planned.iter().take(ITEMS_MAX).take_while(fits).count().max(1)
}
