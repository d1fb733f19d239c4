//! Reading everything once, to see whether it is all there.

use crate::engine::Engine;
use crate::smus::Packed;
use crate::tree::Body;
use agentmem_core::ContentId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What a look at everything found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verification {
    /// Frames read.
    pub frames: u64,
    /// Contents whose id was computed again.
    pub smus: u64,
    /// Messages decoded.
    pub messages: u64,
    /// Bytes decoded.
    pub logical_bytes: u64,
    /// Frames that nobody refers to.
    pub orphans: u64,
    /// What is hurt, each in words.
    pub damaged: Vec<String>,
}

/// Who would miss a frame, in words.
#[derive(Debug, Default)]
struct Holders {
    smus: Vec<(u32, u32)>,
    words: Vec<String>,
}

impl Engine {
    /// Reads and checks every frame, in RAM and on SSD, and every id.
    pub fn verify(&self) -> Verification {
        let mut found = Verification::default();
        // Sealing what was put brings it under an id; a full budget leaves the rest for later.
        let _ = self.seal_all();
        let (frames, holders, raw, in_parts) = {
            let state = self.lock();
            let frames: Vec<u32> = state.frames.iter().map(|(number, _)| number).collect();
            let mut holders: BTreeMap<u32, Holders> = BTreeMap::new();
            for (slot, smu) in state.smus.iter() {
                let word = format!("SMU {}", smu.id);
                match smu.packed {
                    Packed::No => {}
                    Packed::Item { frame, item } => {
                        let holder = holders.entry(frame).or_default();
                        holder.smus.push((slot, item));
                        holder.words.push(word);
                    }
                    Packed::Parts { first, count } => {
                        (first..first + count).for_each(|f| holders.entry(f).or_default().words.push(word.clone()));
                    }
                }
            }
            for (_, conversation) in state.conversations.iter() {
                let agent = state.agents.get(conversation.agent).map_or("", |agent| &agent.shared.name);
                for (_, node) in state.tree.chain(conversation.head) {
                    if let Body::Run { frame, .. } = node.body {
                        let word = format!("conversation {:?} of agent {agent:?}", conversation.shared.name);
                        holders.entry(frame).or_default().words.push(word);
                    }
                }
            }
            found.messages = state.tails.iter().map(|number| u64::from(state.tree.node(number).count)).sum();
            let raw: Vec<_> = state
                .smus
                .iter()
                .filter(|(_, smu)| smu.is_sealed)
                .filter_map(|(_, smu)| Some((smu.id, smu.packed != Packed::No, smu.raw.clone()?)))
                .collect();
            let in_parts: Vec<_> = state
                .smus
                .iter()
                .filter_map(|(slot, smu)| match smu.packed {
                    Packed::Parts { first, count } => Some((slot, smu.id, first, count)),
                    _ => None,
                })
                .collect();
            (frames, holders, raw, in_parts)
        };
        for (id, is_packed, raw) in raw {
            // What is packed too is counted with its frame.
            found.smus += u64::from(!is_packed);
            found.logical_bytes += raw.len() as u64;
            if ContentId::of(&self.key, raw.bytes()) != id {
                found.damaged.push(format!("SMU {id}: raw bytes"));
            }
        }
        for (slot, id, first, count) in in_parts {
            found.smus += 1;
            if self.id_of_parts(first, count).is_some_and(|found| found != id) && self.lock().smus.get(slot).is_some() {
                found.damaged.push(format!("SMU {id}: wrong id"));
            }
        }
        for number in frames {
            let nobody = Holders::default();
            let holder = holders.get(&number).unwrap_or(&nobody);
            self.verify_frame(number, holder, &mut found);
        }
        found
    }

    /// The id of content that takes several frames; `None` if one cannot be read, which is found
    /// where frames are looked at.
    fn id_of_parts(&self, first: u32, count: u32) -> Option<ContentId> {
        let mut parts = (first..first + count).map(|number| {
            let bytes = self.load_frame(number, &|| format!("frame {number}")).ok()??;
            bytes.frame().ok()?.decode().ok()
        });
        let mut is_whole = true;
        let known = std::iter::from_fn(|| {
            let part = parts.next()?;
            is_whole &= part.is_some();
            part
        });
        let id = ContentId::of_parts(&self.key, known);
        is_whole.then_some(id)
    }

    fn verify_frame(&self, number: u32, holder: &Holders, found: &mut Verification) {
        let hurt = |what: String| {
            let words = if holder.words.is_empty() { format!("frame {number}") } else { holder.words.join(", ") };
            format!("{words}: {what}")
        };
        let bytes = match self.load_frame(number, &|| format!("frame {number}")) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return, // it went meanwhile
            Err(error) => return found.damaged.push(hurt(error.to_string())),
        };
        found.frames += 1;
        found.orphans += u64::from(holder.words.is_empty());
        let decoded = bytes.frame().and_then(|frame| Ok((frame.decode()?, frame.entries().to_vec())));
        let (content, entries) = match decoded {
            Ok(decoded) => decoded,
            Err(error) => return found.damaged.push(hurt(error.to_string())),
        };
        found.logical_bytes += content.len() as u64;
        if holder.smus.is_empty() {
            found.messages += entries.len() as u64;
        }
        for &(slot, item) in &holder.smus {
            found.smus += 1;
            let id = self.lock().smus.get(slot).map(|smu| smu.id);
            let entry = entries.get(item as usize);
            let is_right = entry.is_some_and(|e| Some(ContentId::of(&self.key, &content[e.start..e.end])) == id);
            // A slot that was given to other content meanwhile is not this frame's any more.
            let state = self.lock();
            let is_here = state.smus.get(slot).is_some_and(|s| s.packed == Packed::Item { frame: number, item });
            if is_here && !is_right {
                found.damaged.push(format!("SMU {}: wrong id", id.map_or_else(String::new, |id| id.to_string())));
            }
        }
    }
}
