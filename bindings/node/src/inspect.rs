//! What a store says of anything in it, whoever holds it.

use crate::number::whole;
use crate::promise::{Promise, promise};
use crate::store::StoreHandle;
use agentmem_core::ContentId;
use agentmem_store::{ConversationDescription, Described, FrameDescription, SmuDescription};
use napi::bindgen_prelude::Buffer;
use napi_derive::napi;
use serde_json::{Map, Value, json};

/// Describes what `key` means.
#[napi]
pub fn store_inspect(store: StoreHandle, key: String) -> Promise<Value, Value> {
    let inspect = move || {
        Ok(match store.inspect(&key)? {
            Described::Smu(smu) => smu_object(&smu),
            Described::Conversation(conversation) => conversation_object(&conversation),
        })
    };
    promise(inspect, |described| described)
}

/// Content from an offset on: some, and nothing behind its end.
#[napi]
pub fn store_read_content(store: StoreHandle, id: String, offset_bytes: f64) -> Promise<Vec<u8>, Buffer> {
    promise(move || store.read_content(&ContentId::parse(&id)?, whole(offset_bytes, "offsetBytes")?), Buffer::from)
}

/// Messages of a conversation by its number, from `index` on, as one text, and how many they are: one at least.
#[napi]
pub fn store_read_messages(store: StoreHandle, number: f64, index: f64, end: f64) -> Promise<(Vec<u8>, u32), Piece> {
    let read = move || {
        let messages = store.read_messages(whole(number, "number")?, whole(index, "index")?, whole(end, "end")?)?;
        let mut text = Vec::new();
        messages.iter().for_each(|message| message.render(&mut text));
        Ok((text, messages.len() as u32))
    };
    promise(read, |(text, messages)| Piece { text: text.into(), messages })
}

/// Some messages.
#[napi(object, object_from_js = false)]
pub struct Piece {
    /// As one text.
    pub text: Buffer,
    /// How many.
    pub messages: u32,
}

fn smu_object(smu: &SmuDescription) -> Value {
    let holders = smu.holders.iter().map(|(name, references)| (name.clone(), (*references).into()));
    json!({
        "id": ContentId(smu.id).to_string(),
        "kind": smu.kind.as_str(),
        "names": smu.names,
        "importance": smu.importance,
        "logicalBytes": smu.logical_bytes,
        "storedBytes": smu.stored_bytes,
        "tier": smu.tier.as_str(),
        "pinned": smu.is_pinned,
        "sharedBy": smu.shared_by,
        "holders": Value::Object(holders.collect::<Map<_, _>>()),
        "unusedMs": smu.unused_ms,
        "frames": smu.frames.iter().map(frame_object).collect::<Value>(),
    })
}

fn conversation_object(found: &ConversationDescription) -> Value {
    json!({
        "agent": found.agent,
        "conversation": found.name,
        "number": found.number,
        "kind": "conversation",
        "messages": found.messages,
        "logicalBytes": found.logical_bytes,
        "storedBytes": found.stored_bytes,
        "tailBytes": found.tail_bytes,
        "unusedMs": found.unused_ms,
        "frames": found.frames.iter().map(frame_object).collect::<Value>(),
    })
}

fn frame_object(frame: &FrameDescription) -> Value {
    json!({
        "number": frame.number,
        "codec": frame.codec,
        "logicalBytes": frame.logical_bytes,
        "storedBytes": frame.stored_bytes,
        "items": frame.items,
        "inRam": frame.is_warm,
        "onSsd": frame.is_cold,
        "ageMs": frame.age_ms,
    })
}
