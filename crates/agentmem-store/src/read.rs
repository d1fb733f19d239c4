//! Bringing content back: promotion of SMUs, and reading of messages.

use crate::engine::{Engine, State};
use crate::heap::Extent;
use crate::raw::LARGE_BYTES;
use crate::smus::Packed;
use crate::tree::Body;
use agentmem_core::frame::{self, Frame, Meta};
use agentmem_core::{ContentId, Error, ErrorKind, Result};
use std::sync::Arc;

/// Frames of at most this size are decoded whole and kept for the next read.
const DECODED_BYTES_MAX: u64 = 2 << 20;
/// How many of them are kept.
const DECODED_FRAMES: usize = 4;
/// Raw bytes that are read at once.
const RAW_BYTES_MAX: usize = 16 << 20;
/// Attempts before a frame that keeps moving is given up on.
const ATTEMPTS: usize = 16;

/// The stored bytes of a frame.
#[derive(Debug, Clone)]
pub enum FrameBytes {
    /// In RAM.
    Warm(Arc<Extent>),
    /// Read from SSD just now, and checked then.
    Cold(Arc<Vec<u8>>),
}

impl FrameBytes {
    /// The frame, whose bytes were checked once.
    ///
    /// # Errors
    /// `Damaged`.
    pub fn frame(&self) -> Result<Frame<'_>> {
        match self {
            FrameBytes::Warm(extent) => Frame::parse(extent.bytes()),
            FrameBytes::Cold(bytes) => Frame::parse_checked(bytes),
        }
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        match self {
            FrameBytes::Warm(extent) => extent.bytes(),
            FrameBytes::Cold(bytes) => bytes,
        }
    }
}

/// One message as it was given.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct StoredMessage {
    /// All its bytes.
    #[serde(with = "whole")]
    pub bytes: Vec<u8>,
    /// How it was given.
    pub meta: Meta,
}

/// Bytes that cross the socket at once. Derived code takes them one by one, which costs more than all else about a
/// long conversation.
mod whole {
    use serde::de::{Deserializer, Error, Visitor};
    use serde::ser::Serializer;

    pub fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(bytes)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        from.deserialize_byte_buf(Whole)
    }

    struct Whole;

    impl Visitor<'_> for Whole {
        type Value = Vec<u8>;

        fn expecting(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            to.write_str("bytes")
        }

        fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
            Ok(bytes.to_vec())
        }
    }
}

impl StoredMessage {
    /// The message's own bytes, without what surrounded it in a transcript.
    pub fn own_bytes(&self) -> &[u8] {
        &self.bytes[self.meta.lead_bytes as usize..self.bytes.len() - self.meta.trail_bytes as usize]
    }

    /// Adds it to a text of all messages: transcripts byte for byte, values as a line each, bytes as they are.
    pub fn render(&self, text: &mut Vec<u8>) {
        text.extend_from_slice(&self.bytes);
        if self.meta.is_value {
            text.push(b'\n');
        }
    }
}

impl Engine {
    /// The bytes of a frame, those from SSD checked; `None` if it went meanwhile. `subject` is named in errors.
    pub fn load_frame(&self, number: u32, subject: &dyn Fn() -> String) -> Result<Option<FrameBytes>> {
        for _ in 0..ATTEMPTS {
            let place = {
                let state = self.lock();
                let Some(entry) = state.frames.get(number) else { return Ok(None) };
                match (&entry.stored, entry.disk) {
                    (Some(extent), _) => return Ok(Some(FrameBytes::Warm(extent.clone()))),
                    (None, Some(place)) => place,
                    (None, None) => unreachable!("a frame is somewhere"),
                }
            };
            let cold = self.cold.as_ref().expect("only a cold tier has places");
            let outcome = cold.read(number, place).and_then(|bytes| frame::check(&bytes).map(|()| bytes));
            match outcome {
                Ok(bytes) => return Ok(Some(FrameBytes::Cold(Arc::new(bytes)))),
                Err(error) => {
                    // It may have moved or gone while it was read; then this was not its place.
                    let mut state = self.lock();
                    if state.frames.get(number).is_some_and(|entry| entry.disk == Some(place) && entry.stored.is_none())
                    {
                        if error.kind() == ErrorKind::Damaged {
                            state.damaged.insert(number);
                        }
                        return Err(Error::new(error.kind(), format!("{}: {}", subject(), error.subject())));
                    }
                }
            }
        }
        Err(Error::new(ErrorKind::Io, format!("{}: frame {number} keeps moving", subject())))
    }

    /// Notes that a frame was used: counts refaults, and keeps what came from SSD in RAM where the
    /// budget has room.
    fn note_use(&self, state: &mut State, number: u32, bytes: &FrameBytes) {
        let now_ms = self.now_ms();
        let has_room = self.resident_bytes(state) + bytes.bytes().len() as u64 <= self.budget_bytes();
        let Some(entry) = state.frames.get_mut(number) else { return };
        entry.used_ms = now_ms;
        entry.uses += 1;
        let stored_bytes = u64::from(entry.stored_bytes);
        match bytes {
            FrameBytes::Warm(_) => {
                state.counters.refault_warm += 1;
                state.counters.refault_warm_bytes += stored_bytes;
            }
            FrameBytes::Cold(bytes) => {
                if has_room
                    && entry.stored.is_none()
                    && let Ok(extent) = self.frame_heap.store(bytes)
                {
                    entry.stored = Some(Arc::new(extent));
                    state.warm.insert(number);
                    state.note(|fresh| fresh.frames.push(number));
                    state.counters.promote_cold += 1;
                }
                state.counters.refault_cold += 1;
                state.counters.refault_cold_bytes += stored_bytes;
            }
        }
    }

    /// Makes the content of `slot` hot. The caller has pinned the slot, so it stays.
    pub fn promote(&self, slot: u32) -> Result<()> {
        let is_large = self.lock().smus.get(slot).is_some_and(|smu| smu.logical_bytes >= LARGE_BYTES as u64);
        let _one = is_large.then(|| self.large.lock());
        for _ in 0..ATTEMPTS {
            let (id, logical_bytes, packed, kind, importance) = {
                let state = self.lock();
                let smu = state
                    .smus
                    .get(slot)
                    .ok_or_else(|| Error::new(ErrorKind::Released, format!("the SMU in slot {slot}")))?;
                match &smu.raw {
                    Some(raw) if smu.is_squeezed() => {
                        let raw = raw.clone();
                        drop(state);
                        self.make_room(raw.len() as u64)?;
                        return self.bring_back(slot, &raw);
                    }
                    Some(_) => return Ok(()),
                    None => {}
                }
                (smu.id, smu.logical_bytes, smu.packed, smu.kind, smu.importance)
            };
            self.make_room(logical_bytes)?;
            let _reading = self.readers.enter();
            let subject = || format!("SMU {id}");
            let (numbers, item) = match packed {
                Packed::No => unreachable!("content is raw or packed"),
                Packed::Item { frame, item } => (frame..frame + 1, item as usize),
                Packed::Parts { first, count } => (first..first + count, 0),
            };
            let mut loaded = Vec::with_capacity(numbers.len());
            for number in numbers {
                match self.load_frame(number, &subject)? {
                    Some(bytes) => loaded.push((number, bytes)),
                    None => break,
                }
            }
            let is_whole = matches!(packed, Packed::Item { .. }) && loaded.len() == 1
                || matches!(packed, Packed::Parts { count, .. } if loaded.len() == count as usize);
            if !is_whole {
                continue; // its frame was rewritten meanwhile: look again
            }
            let damaged = |error: Error| Error::new(error.kind(), format!("{}: {}", subject(), error.subject()));
            let raw = self.raw_with(logical_bytes as usize, kind, importance, |out| {
                let mut rest = out;
                for (number, bytes) in &loaded {
                    let frame = bytes.frame()?;
                    let entry = frame.entries().get(item).copied();
                    let entry = entry.filter(|entry| entry.end - entry.start <= rest.len());
                    let entry = entry.ok_or_else(|| Error::new(ErrorKind::Damaged, "length"))?;
                    let (part, after) = rest.split_at_mut(entry.end - entry.start);
                    rest = after;
                    if entry.start == 0 {
                        self.decode(&frame, part)?;
                    } else {
                        // Neighbours were packed together and are often wanted together.
                        let content = self.decoded(*number, &frame, frame.logical_bytes())?;
                        part.copy_from_slice(&content[entry.start..entry.end]);
                    }
                }
                if rest.is_empty() { Ok(()) } else { Err(Error::new(ErrorKind::Damaged, "length")) }
            });
            let raw = raw.map_err(damaged)?;
            let mut state = self.lock();
            let Some(smu) = state.smus.get_mut(slot) else { continue };
            if smu.packed != packed || smu.raw.is_some() {
                continue;
            }
            let place = raw.place();
            smu.raw = Some(raw);
            smu.used_ms = self.now_ms();
            state.note(|fresh| fresh.slots.push(slot));
            state.counters.promote_warm += 1;
            state.hot.insert(slot);
            self.slots.relocate(slot, place);
            for (number, bytes) in &loaded {
                self.note_use(&mut state, *number, bytes);
            }
            return Ok(());
        }
        Err(Error::new(ErrorKind::Io, format!("the SMU in slot {slot} keeps moving")))
    }

    /// Content `id` from `offset_bytes` on, wherever it is, and without a use of it: what is raw, up to
    /// [`RAW_BYTES_MAX`] of it; else the rest of one frame's part.
    pub fn read_content(&self, id: &ContentId, offset_bytes: u64) -> Result<Vec<u8>> {
        let _reading = self.readers.enter();
        let subject = || format!("SMU {id}");
        for _ in 0..ATTEMPTS {
            let (frame, item, skipped_bytes) = {
                let state = self.lock();
                let found = state.smus.find(id).and_then(|slot| state.smus.get(slot));
                let smu = found.ok_or_else(|| Error::new(ErrorKind::NotFound, format!("id {id}")))?;
                if offset_bytes >= smu.logical_bytes {
                    return Ok(Vec::new());
                }
                let raw = smu.raw.clone();
                let packed = smu.packed;
                match (raw, packed) {
                    (Some(raw), _) => {
                        drop(state);
                        let rest = &raw.bytes()[offset_bytes as usize..];
                        return Ok(rest[..rest.len().min(RAW_BYTES_MAX)].to_vec());
                    }
                    (None, Packed::Item { frame, item }) => (frame, item as usize, 0),
                    (None, Packed::Parts { first, count }) => {
                        let mut skipped_bytes = 0;
                        let part = (first..first + count).find(|&part| {
                            let len = state.frames.get(part).map_or(0, |entry| entry.logical_bytes);
                            let is_it = offset_bytes < skipped_bytes + len;
                            skipped_bytes += if is_it { 0 } else { len };
                            is_it
                        });
                        (part.ok_or_else(|| Error::new(ErrorKind::Damaged, subject()))?, 0, skipped_bytes)
                    }
                    (None, Packed::No) => unreachable!("content is raw or packed"),
                }
            };
            let Some(stored) = self.load_frame(frame, &subject)? else { continue };
            let hurt = |what: &str| Error::new(ErrorKind::Damaged, format!("{}: {what}", subject()));
            let frame = stored.frame().map_err(|error| hurt(error.subject()))?;
            let entry = frame.entries().get(item).copied().ok_or_else(|| hurt("item"))?;
            let mut content = vec![0; entry.end];
            self.decode(&frame, &mut content)?;
            content.drain(..entry.start + (offset_bytes - skipped_bytes) as usize);
            return Ok(content);
        }
        Err(Error::new(ErrorKind::Io, format!("{} keeps moving", subject())))
    }

    /// Messages of `conversation` from `index` on: at least one, and no more than lie together in
    /// one node before `end`.
    pub fn read_messages(&self, conversation: u32, index: u32, end: u32) -> Result<Vec<StoredMessage>> {
        for _ in 0..ATTEMPTS {
            let (frame, items, name) = {
                let mut state = self.settled();
                let now_ms = self.now_ms();
                let found = state.conversations.get(&conversation);
                let found =
                    found.ok_or_else(|| Error::new(ErrorKind::Released, format!("conversation {conversation}")))?;
                let end = end.min(found.len);
                if index >= end {
                    return Err(Error::new(ErrorKind::OutOfMemory, format!("message {index} is still in the arena")));
                }
                let name = found.shared.name.clone();
                let (number, seen_end) = state.tree.find(found.head, found.len, index);
                let node = state.tree.node_mut(number);
                node.used_ms = now_ms;
                let (from, to) = (index - node.start, end.min(seen_end) - node.start);
                match &node.body {
                    Body::Tail(tail) => {
                        let message = |at: u32| StoredMessage {
                            bytes: tail.bytes(at as usize).to_vec(),
                            meta: tail.items[at as usize].meta,
                        };
                        return Ok((from..to).map(message).collect());
                    }
                    Body::Run { frame, first } => (*frame, first + from..first + to, name),
                }
            };
            let subject = || format!("conversation {name:?}, message {index}");
            if let Some(messages) = self.read_items(frame, items, &subject)? {
                return Ok(messages);
            }
        }
        Err(Error::new(ErrorKind::Io, format!("conversation {conversation}, message {index} keeps moving")))
    }

    /// The content of a frame, at least its first `wanted` bytes. Small ones are decoded whole and
    /// kept for the next reader.
    fn decoded(&self, number: u32, frame: &Frame<'_>, wanted: usize) -> Result<Arc<Vec<u8>>> {
        let kept = self.lock().decoded.iter().find(|(kept, _)| *kept == number).map(|(_, content)| content.clone());
        if let Some(content) = kept {
            return Ok(content);
        }
        let is_kept = frame.logical_bytes() as u64 <= DECODED_BYTES_MAX;
        let mut content = vec![0; if is_kept { frame.logical_bytes() } else { wanted }];
        self.decode(frame, &mut content)?;
        let content = Arc::new(content);
        let mut state = self.lock();
        if is_kept && state.frames.get(number).is_some() {
            if state.decoded.len() == DECODED_FRAMES {
                state.decoded.pop_front();
            }
            state.decoded.push_back((number, content.clone()));
        }
        Ok(content)
    }

    /// Items of a frame; `None` if it went meanwhile.
    fn read_items(
        &self,
        number: u32,
        items: std::ops::Range<u32>,
        subject: &dyn Fn() -> String,
    ) -> Result<Option<Vec<StoredMessage>>> {
        let _reading = self.readers.enter();
        let Some(stored) = self.load_frame(number, subject)? else { return Ok(None) };
        let hurt = |error: Error| {
            self.lock().damaged.insert(number);
            Error::new(error.kind(), format!("{}: {}", subject(), error.subject()))
        };
        let frame = stored.frame().map_err(hurt)?;
        let entries = frame.entries().get(items.start as usize..items.end as usize);
        let entries = entries.ok_or_else(|| hurt(Error::new(ErrorKind::Damaged, "items")))?;
        let is_known = self.lock().decoded.iter().any(|(kept, _)| *kept == number);
        let content = self.decoded(number, &frame, entries.last().map_or(0, |entry| entry.end)).map_err(hurt)?;
        let mut state = self.lock();
        if !is_known {
            self.note_use(&mut state, number, &stored);
        } else if let Some(entry) = state.frames.get_mut(number) {
            // No refault, but a use: what is read all the time must not look idle.
            entry.used_ms = self.now_ms();
        }
        drop(state);
        let message = |entry: &agentmem_core::frame::Entry| StoredMessage {
            bytes: content[entry.start..entry.end].to_vec(),
            meta: entry.meta,
        };
        Ok(Some(entries.iter().map(message).collect()))
    }

    /// Brings the frames of a conversation into RAM, newest first, while there is room.
    pub fn prefetch(&self, conversation: u32) -> Result<()> {
        let numbers: Vec<u32> = {
            let state = self.settled();
            let Some(found) = state.conversations.get(&conversation) else { return Ok(()) };
            let frame = |(_, node): (u32, &crate::tree::Node)| match node.body {
                Body::Run { frame, .. } => Some(frame),
                Body::Tail(_) => None,
            };
            state.tree.chain(found.head).filter_map(frame).collect()
        };
        for number in numbers {
            let subject = || format!("conversation {conversation}");
            if let Some(FrameBytes::Cold(bytes)) = self.load_frame(number, &subject)? {
                let mut state = self.lock();
                let full = self.resident_bytes(&state) + bytes.len() as u64 > self.budget_bytes();
                if full {
                    break;
                }
                if let Some(entry) = state.frames.get_mut(number)
                    && entry.stored.is_none()
                {
                    entry.stored = Some(Arc::new(self.frame_heap.store(&bytes)?));
                    entry.used_ms = self.now_ms();
                    state.warm.insert(number);
                    state.note(|fresh| fresh.frames.push(number));
                    state.counters.promote_cold += 1;
                }
            }
        }
        Ok(())
    }
}
