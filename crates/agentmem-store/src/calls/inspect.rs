//! What people ask about anything in the domain, whoever holds it. Looking is no use of what is looked at: nothing
//! is promoted, and nothing looks younger for it.

use crate::call::{Call, Caller};
use crate::engine::{Engine, State};
use crate::read::StoredMessage;
use crate::smus::{Packed, Smu};
use crate::tree::Body;
use agentmem_core::{ContentId, Error, ErrorKind, Kind, Result, Tier};
use serde::{Deserialize, Serialize};

/// Fewer digits of an id are no abbreviation.
const DIGITS_MIN: usize = 4;
/// Digits of a whole id.
const DIGITS: usize = 64;
/// Slots that are looked at before others may take the lock.
const SLOTS_AT_ONCE: u32 = 1 << 16;
/// Holders that are named.
const HOLDERS_MAX: usize = 1000;
/// Frames that are described.
const FRAMES_MAX: usize = 1000;

/// Describes what `key` means: an id, its first digits if they are nobody else's, a name, or a conversation as
/// `AGENT/CONVERSATION`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Inspect {
    /// What is meant.
    pub key: String,
}

/// What was meant.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Described {
    /// A content.
    Smu(SmuDescription),
    /// A conversation.
    Conversation(ConversationDescription),
}

/// One content.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SmuDescription {
    /// Its id.
    pub id: [u8; 32],
    /// Its names, oldest first.
    pub names: Vec<String>,
    /// What it is.
    pub kind: Kind,
    /// 0 to 100.
    pub importance: u8,
    /// Its length.
    pub logical_bytes: u64,
    /// Bytes kept for it: its part of a frame, or its length.
    pub stored_bytes: u64,
    /// The fastest tier that has it.
    pub tier: Tier,
    /// Whether a view pins it just now.
    pub is_pinned: bool,
    /// How many agents hold it.
    pub shared_by: u32,
    /// Some of them, each with its number of references.
    pub holders: Vec<(String, u32)>,
    /// Milliseconds since the engine last saw it used.
    pub unused_ms: u64,
    /// Where its compressed form is.
    pub frames: Vec<FrameDescription>,
}

/// One conversation.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ConversationDescription {
    /// Whose it is.
    pub agent: String,
    /// Its name.
    pub name: String,
    /// Its number.
    pub number: u32,
    /// Messages in it.
    pub messages: u64,
    /// Their bytes.
    pub logical_bytes: u64,
    /// Bytes of the frames that it uses, shared ones in full, and of its raw tail.
    pub stored_bytes: u64,
    /// Of these, the raw tail.
    pub tail_bytes: u64,
    /// Milliseconds since the engine last saw any of it used.
    pub unused_ms: u64,
    /// Its frames, oldest first.
    pub frames: Vec<FrameDescription>,
}

/// One frame.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FrameDescription {
    /// Its number.
    pub number: u32,
    /// How its payload is stored; none where it cannot be read.
    pub codec: Option<String>,
    /// Its length.
    pub stored_bytes: u64,
    /// What it decodes to.
    pub logical_bytes: u64,
    /// Contents or messages in it.
    pub items: u32,
    /// Whether it is in RAM.
    pub is_warm: bool,
    /// Whether it is on SSD.
    pub is_cold: bool,
    /// Milliseconds since it was made, or the store was opened.
    pub age_ms: u64,
}

impl Call for Inspect {
    const NUMBER: u16 = 80;
    type Answer = Described;

    fn run(self, at: &mut Caller<'_>) -> Result<Described> {
        at.engine.seal_all()?;
        match find(at.engine, &self.key)? {
            Found::Smu(slot) => at.engine.describe_smu(slot).map(Described::Smu),
            Found::Conversation(number) => at.engine.describe_conversation(number).map(Described::Conversation),
        }
    }
}

/// Content from `offset_bytes` on: some at least, and none behind its end. Part by part it is all of it, whatever
/// tier it is in.
#[derive(Debug, Serialize, Deserialize)]
pub struct ReadContent {
    /// Which.
    pub id: [u8; 32],
    /// Where to begin.
    pub offset_bytes: u64,
}

impl Call for ReadContent {
    const NUMBER: u16 = 81;
    type Answer = Vec<u8>;

    fn run(self, at: &mut Caller<'_>) -> Result<Vec<u8>> {
        at.engine.read_content(&ContentId(self.id), self.offset_bytes)
    }
}

/// Messages of any conversation of the domain, from `index` on: as [`super::conversation::ReadMessages`].
#[derive(Debug, Serialize, Deserialize)]
pub struct ReadAnyMessages {
    /// Of which conversation.
    pub conversation: u32,
    /// The first.
    pub index: u32,
    /// One past the last.
    pub end: u32,
}

impl Call for ReadAnyMessages {
    const NUMBER: u16 = 82;
    type Answer = Vec<StoredMessage>;

    fn run(self, at: &mut Caller<'_>) -> Result<Vec<StoredMessage>> {
        at.engine.read_messages(self.conversation, self.index, self.end)
    }
}

enum Found {
    Smu(u32),
    Conversation(u32),
}

/// What is exact comes before what is abbreviated.
fn find(engine: &Engine, key: &str) -> Result<Found> {
    {
        let state = engine.lock();
        let by_id = ContentId::parse(key).ok().and_then(|id| state.smus.find(&id));
        if let Some(slot) = by_id.or_else(|| state.smus.named(key)) {
            return Ok(Found::Smu(slot));
        }
        if let Some(number) = conversation_called(&state, key) {
            return Ok(Found::Conversation(number));
        }
    }
    let what = format!("{key:?}, as an id, a name or AGENT/CONVERSATION");
    let not_found = || Error::new(ErrorKind::NotFound, what.clone());
    let is_digits = key.bytes().all(|digit| digit.is_ascii_hexdigit());
    if !is_digits || !(DIGITS_MIN..DIGITS).contains(&key.len()) {
        return Err(not_found());
    }
    let [found, other] = abbreviated(engine, &key.to_ascii_lowercase());
    match (found, other) {
        (None, _) => Err(not_found()),
        (Some((slot, _)), None) => Ok(Found::Smu(slot)),
        (Some((_, first)), Some((_, second))) => {
            let what =
                format!("{key:?} is the beginning of several ids, such as {first} and {second}: give more digits");
            Err(Error::new(ErrorKind::InvalidArgument, what))
        }
    }
}

/// Names may hold slashes, so each may be the one in between.
fn conversation_called(state: &State, key: &str) -> Option<u32> {
    key.match_indices('/').find_map(|(at, _)| {
        let agent = state.agents.get(state.agents.number(&key[..at])?)?;
        agent.conversations.get(&key[at + 1..]).copied()
    })
}

/// The first two contents whose ids begin with `digits`.
fn abbreviated(engine: &Engine, digits: &str) -> [Option<(u32, ContentId)>; 2] {
    let mut found = [None, None];
    let mut from = 0;
    loop {
        let state = engine.lock();
        let end = (from + SLOTS_AT_ONCE).min(state.smus.slot_count());
        for slot in from..end {
            let Some(smu) = state.smus.get(slot).filter(|smu| smu.is_sealed) else { continue };
            if begins_with(&smu.id, digits) {
                match found[0] {
                    None => found[0] = Some((slot, smu.id)),
                    Some(_) => return [found[0], Some((slot, smu.id))],
                }
            }
        }
        if end == state.smus.slot_count() {
            return found;
        }
        from = end;
    }
}

fn begins_with(id: &ContentId, digits: &str) -> bool {
    let digit_at = |at: usize| char::from_digit(u32::from(id.0[at / 2] >> (4 * (1 - at % 2)) & 15), 16);
    digits.chars().enumerate().all(|(at, digit)| digit_at(at) == Some(digit))
}

impl State {
    /// The fastest tier that has all of `smu`.
    pub fn tier(&self, smu: &Smu) -> Tier {
        if smu.is_squeezed() || !smu.is_hot() && self.is_packed_in_ram(smu) {
            return Tier::Warm;
        }
        if smu.is_hot() { Tier::Hot } else { Tier::Cold }
    }

    /// Whether there is a compressed form of `smu`, and all of it in RAM.
    pub fn is_packed_in_ram(&self, smu: &Smu) -> bool {
        let is_warm = |number| self.frames.get(number).is_some_and(|entry| entry.stored.is_some());
        smu.packed != Packed::No && smu.packed.frames().all(is_warm)
    }
}

impl Engine {
    fn describe_smu(&self, slot: u32) -> Result<SmuDescription> {
        let (mut described, frames) = {
            let state = self.lock();
            let released = || Error::new(ErrorKind::Released, format!("the SMU in slot {slot}"));
            let smu = state.smus.get(slot).ok_or_else(released)?;
            let held = state.agents.iter().filter_map(|agent| Some((&agent.shared.name, *agent.leases.get(&slot)?)));
            let mut holders: Vec<(String, u32)> =
                held.take(HOLDERS_MAX).map(|(name, count)| (name.to_string(), count)).collect();
            holders.sort_unstable();
            let described = SmuDescription {
                id: smu.id.0,
                names: state.smus.names_of(slot).into_iter().map(String::from).collect(),
                kind: smu.kind,
                importance: smu.importance,
                logical_bytes: smu.logical_bytes,
                stored_bytes: state.stored_bytes(slot),
                tier: state.tier(smu),
                is_pinned: state.sessions.is_pinned(&smu.claims),
                shared_by: smu.agents,
                holders,
                unused_ms: self.now_ms().saturating_sub(smu.used_ms),
                frames: Vec::new(),
            };
            (described, smu.packed.frames())
        };
        described.frames = self.describe_frames(frames);
        Ok(described)
    }

    fn describe_conversation(&self, number: u32) -> Result<ConversationDescription> {
        let (mut described, frames) = {
            let state = self.lock();
            let released = || Error::new(ErrorKind::Released, format!("conversation {number}"));
            let found = state.conversations.get(&number).ok_or_else(released)?;
            let (mut frames, mut tail_bytes, mut used_ms) = (Vec::new(), 0, 0);
            for (_, node) in state.tree.chain(found.head) {
                used_ms = used_ms.max(node.used_ms);
                match &node.body {
                    Body::Run { frame, .. } => frames.push(*frame),
                    Body::Tail(_) => tail_bytes += node.logical_bytes,
                }
            }
            frames.reverse();
            frames.dedup();
            let agent = state.agents.get(found.agent).map_or_else(String::new, |agent| agent.shared.name.to_string());
            let described = ConversationDescription {
                agent,
                name: found.shared.name.to_string(),
                number,
                messages: found.len.into(),
                logical_bytes: found.logical_bytes,
                stored_bytes: state.conversation_stored_bytes(number)?,
                tail_bytes,
                unused_ms: self.now_ms().saturating_sub(used_ms),
                frames: Vec::new(),
            };
            (described, frames)
        };
        described.frames = self.describe_frames(frames);
        Ok(described)
    }

    /// Of the frames that are still there. The codec stands in the frame, so each is read.
    fn describe_frames(&self, numbers: impl IntoIterator<Item = u32>) -> Vec<FrameDescription> {
        let describe = |number: u32| {
            let stored = self.load_frame(number, &|| format!("frame {number}")).ok().flatten();
            let codec = stored.as_ref().and_then(|stored| Some(stored.frame().ok()?.codec()));
            let state = self.lock();
            let entry = state.frames.get(number)?;
            Some(FrameDescription {
                number,
                codec: codec.map(|codec| codec.as_str().to_owned()),
                stored_bytes: entry.stored_bytes.into(),
                logical_bytes: entry.logical_bytes,
                items: entry.items,
                is_warm: entry.stored.is_some(),
                is_cold: entry.disk.is_some(),
                age_ms: self.now_ms().saturating_sub(entry.made_ms),
            })
        };
        numbers.into_iter().take(FRAMES_MAX).filter_map(describe).collect()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn an_id_begins_with_its_digits() {
        let mut id = ContentId([0; 32]);
        id.0[..2].copy_from_slice(&[0xab, 0xc4]);
        for (digits, is_so) in [("", true), ("a", true), ("abc", true), ("abc40", true), ("abc5", false), ("b", false)]
        {
            assert_eq!(begins_with(&id, digits), is_so, "{digits}");
        }
        assert!(begins_with(&id, &id.to_string()));
    }
}
