//! Garbage collection: frames of which less than three quarters are alive are rewritten with what is, and
//! frames are moved out of files that dead ones left ragged, as log-structured file systems clean their
//! segments (Rosenblum and Ousterhout, 1992).

use crate::cold::{Cold, DiskPlace};
use crate::engine::{Engine, TICK_MS};
use crate::frames::{FrameEntry, Ref};
use crate::smus::Packed;
use crate::tree::Body;
use agentmem_core::frame::{self, Item};
use agentmem_core::{ContentId, Error, ErrorKind, Kind, Result};

/// Frames looked at by the collector at a tick, and how long a frame counts as young.
const REWRITES: usize = 16;
const YOUNG_MS: u64 = 60_000;
/// Old frames, and files, are looked at in one of so many ticks only.
const OLD_TICKS: u64 = 16;
/// Bytes that are moved between files at such a tick, and of them at a time.
const MOVED_BYTES: u64 = 16 << 20;
const MOVED_TOGETHER_BYTES: u64 = 1 << 20;

impl Engine {
    /// Rewrites frames of which less than three quarters are alive: young ones at every tick, old ones seldom.
    pub fn collect(&self, now_ms: u64) -> bool {
        let looks_at_old = (now_ms / TICK_MS as u64).is_multiple_of(OLD_TICKS);
        if looks_at_old && self.clean_file().is_err() {
            self.lock().counters.cold_error += 1;
        }
        let chosen: Vec<u32> = {
            let state = self.lock();
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

    /// Moves frames out of the most ragged file, some at a time.
    fn clean_file(&self) -> Result<()> {
        let Some(cold) = &self.cold else { return Ok(()) };
        let Some(file) = cold.most_ragged() else { return Ok(()) };
        let mut rest: Vec<(u32, DiskPlace)> = {
            let state = self.lock();
            let there =
                |(number, entry): (u32, &FrameEntry)| Some((number, entry.disk.filter(|disk| disk.file == file)?));
            state.frames.iter().filter_map(there).collect()
        };
        // In the order of the file, so that its front goes first.
        rest.sort_unstable_by_key(|&(_, place)| place.offset);
        let mut moved_bytes = 0;
        for together in rest
            .chunk_by(|(_, one), (_, other)| one.offset / MOVED_TOGETHER_BYTES == other.offset / MOVED_TOGETHER_BYTES)
        {
            self.move_frames(cold, together)?;
            moved_bytes += together.iter().map(|(_, place)| u64::from(place.len)).sum::<u64>();
            if moved_bytes >= MOVED_BYTES {
                break;
            }
        }
        Ok(())
    }

    /// Writes frames to the end of the files once more. Until that is committed, their old places stay too.
    fn move_frames(&self, cold: &Cold, frames: &[(u32, DiskPlace)]) -> Result<()> {
        let read = |&(number, place): &(u32, DiskPlace)| {
            // One that cannot be read stays where it is; reading it reports the damage.
            let bytes = cold.read(number, place).ok().filter(|bytes| frame::check(bytes).is_ok())?;
            Some((number, place, bytes))
        };
        let read: Vec<(u32, DiskPlace, Vec<u8>)> = frames.iter().filter_map(read).collect();
        let batch: Vec<(u32, &[u8])> = read.iter().map(|(number, _, bytes)| (*number, &bytes[..])).collect();
        let places = cold.write(&batch)?;
        let mut state = self.lock();
        for ((number, old, _), new) in read.iter().zip(places) {
            match state.frames.get_mut(*number).filter(|entry| entry.disk == Some(*old)) {
                Some(entry) => {
                    entry.disk = Some(new);
                    state.dead_on_disk.push(*old);
                    state.mark_frame(*number);
                }
                None => state.dead_on_disk.push(new),
            }
        }
        Ok(())
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
        let frame = bytes.frame()?;
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

#[cfg(all(test, not(loom)))]
mod tests {
    use crate::options::{OnFull, Options};
    use crate::store::Store;
    use agentmem_core::{Advice, ContentId, Kind};
    use std::path::Path;

    fn open(path: &Path) -> Store {
        Store::open(Options { path: Some(path.to_owned()), pressure: false, ..Options::default() }).unwrap()
    }

    fn content(number: u32) -> Vec<u8> {
        (0..4_500u32).flat_map(|at| at.wrapping_mul(number ^ 0x9e37_79b9).rotate_left(at % 31).to_le_bytes()).collect()
    }

    /// What a process that is killed now leaves behind: every content that `ids` names can be read there.
    fn is_whole(path: &Path, ids: &[(ContentId, u32)]) {
        let copy = tempfile::tempdir().unwrap();
        std::fs::create_dir(copy.path().join("segments")).unwrap();
        std::fs::copy(path.join("index.redb"), copy.path().join("index.redb")).unwrap();
        for file in std::fs::read_dir(path.join("segments")).unwrap() {
            let file = file.unwrap();
            std::fs::copy(file.path(), copy.path().join("segments").join(file.file_name())).unwrap();
        }
        let store = open(copy.path());
        let agent = store.agent("agent", None, None, None).unwrap();
        for &(id, number) in ids {
            assert!(*agent.attach_id(&id).unwrap().view().unwrap() == content(number)[..], "content {number}");
        }
        assert!(store.verify().unwrap().damaged.is_empty());
    }

    #[test]
    fn frames_that_are_moved_between_files_are_whole_at_every_moment() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path());
        let agent = store.agent("agent", None, None, None).unwrap();
        let put = |number| agent.put(&content(number), Kind::ToolResult, None, 50, OnFull::Wait).unwrap();
        let smus: Vec<_> = (0..240).map(put).collect();
        let mut kept = Vec::new();
        smus.iter().for_each(|smu| smu.advise(Advice::Cold).unwrap());
        store.flush().unwrap();
        store.reclaim(Some(0)).unwrap();
        for (number, smu) in (0..).zip(&smus) {
            match number % 2 {
                0 => agent.release(smu, OnFull::Wait).unwrap(),
                _ => kept.push((smu.id().unwrap(), number)),
            }
        }
        store.flush().unwrap();
        let engine = store.engine().unwrap();
        let cold = engine.cold.as_ref().unwrap();
        let moved = |wanted: &dyn Fn(u32) -> bool| {
            engine.lock().frames.iter().filter(|(_, entry)| entry.disk.is_some_and(|disk| wanted(disk.file))).count()
        };
        let ragged = cold.most_ragged().expect("half is gone");
        let before = cold.disk_bytes();
        assert!(moved(&|file| file == ragged) > 0);
        engine.clean_file().unwrap();
        assert_eq!(moved(&|file| file == ragged), 0);
        // The index still names the old places.
        is_whole(folder.path(), &kept);
        store.flush().unwrap();
        is_whole(folder.path(), &kept);
        assert!(cold.disk_bytes() < before && cold.most_ragged().is_none());
        for &(id, number) in &kept {
            assert!(*agent.attach_id(&id).unwrap().view().unwrap() == content(number)[..], "content {number}");
        }
    }
}
