//! Conversations.

use crate::agent::AgentHandle;
use crate::errors::answer;
use crate::handle::Handle;
use crate::number::{maybe_whole, whole};
use crate::promise::{Promise, promise};
use agentmem_core::frame::Meta;
use agentmem_core::{Advice, Error, ErrorKind, Result};
use agentmem_store as store;
use agentmem_store::StoredMessage;
use napi::Env;
use napi::bindgen_prelude::{Buffer, Either, Uint8Array};
use napi_derive::napi;

/// A conversation.
pub type ConversationHandle = Handle<store::Conversation>;

/// A message as it was given: the JSON text of a value, or bytes.
type Given = Either<String, Buffer>;

fn own_bytes(message: StoredMessage) -> Vec<u8> {
    let StoredMessage { mut bytes, meta } = message;
    bytes.truncate(bytes.len() - meta.trail_bytes as usize);
    bytes.drain(..meta.lead_bytes as usize);
    bytes
}

fn give_back(message: StoredMessage) -> Result<Either<String, Vec<u8>>> {
    let is_value = message.meta.is_value;
    let bytes = own_bytes(message);
    if !is_value {
        return Ok(Either::B(bytes));
    }
    String::from_utf8(bytes).map(Either::A).map_err(|_| Error::new(ErrorKind::Damaged, "a value that is no text"))
}

fn given(message: Either<String, Vec<u8>>) -> Given {
    match message {
        Either::A(text) => Either::A(text),
        Either::B(bytes) => Either::B(bytes.into()),
    }
}

/// Its name.
#[napi]
pub fn conversation_name(conversation: ConversationHandle) -> String {
    conversation.name().to_owned()
}

/// Messages in it.
#[napi]
pub fn conversation_len(env: Env, conversation: ConversationHandle) -> napi::Result<i64> {
    answer(&env, || conversation.len()).map(|len| len as i64)
}

/// Their bytes.
#[napi]
pub fn conversation_logical_bytes(env: Env, conversation: ConversationHandle) -> napi::Result<i64> {
    answer(&env, || conversation.logical_bytes()).map(|bytes| bytes as i64)
}

/// What is kept for them.
#[napi]
pub fn conversation_stored_bytes(conversation: ConversationHandle) -> Promise<u64, i64> {
    promise(move || conversation.stored_bytes(), |bytes| bytes as i64)
}

/// Adds a message of `agent`'s, whose conversation it is.
#[napi]
pub fn conversation_append(
    env: Env,
    agent: AgentHandle,
    conversation: ConversationHandle,
    message: &[u8],
    is_value: bool,
) -> napi::Result<()> {
    let meta = Meta { is_value, ..Meta::default() };
    answer(&env, || conversation.append(message, meta, agent.on_full()))
}

/// Adds a transcript; gives the number of its messages.
#[napi]
pub fn conversation_load(conversation: ConversationHandle, transcript: Uint8Array) -> Promise<usize, i64> {
    // JavaScript may write to it meanwhile, or take its memory away.
    let transcript = transcript.to_vec();
    promise(move || conversation.load(&transcript), |count| count as i64)
}

/// Messages from `index` on, as many as lie together before `end`: none where `index` is not before it.
#[napi]
pub fn conversation_read(
    conversation: ConversationHandle,
    index: f64,
    end: f64,
) -> Promise<Vec<Either<String, Vec<u8>>>, Vec<Given>> {
    let read = move || {
        let (index, end) = (whole(index, "start")?, whole::<u64>(end, "end")?.min(conversation.len()?));
        let messages = if index < end { conversation.read(index, end)? } else { Vec::new() };
        messages.into_iter().map(give_back).collect()
    };
    promise(read, |messages: Vec<_>| messages.into_iter().map(given).collect())
}

fn one(conversation: &store::Conversation, index: f64) -> Result<StoredMessage> {
    let none = || Error::new(ErrorKind::InvalidArgument, format!("message {index}"));
    let index = whole::<u64>(index, "index")?;
    conversation.read(index, index.saturating_add(1))?.pop().ok_or_else(none)
}

/// One message.
#[napi]
pub fn conversation_get(conversation: ConversationHandle, index: f64) -> Promise<Either<String, Vec<u8>>, Given> {
    promise(move || give_back(one(&conversation, index)?), given)
}

/// The bytes of one message, whichever way it was given.
#[napi]
pub fn conversation_raw(conversation: ConversationHandle, index: f64) -> Promise<Vec<u8>, Buffer> {
    promise(move || one(&conversation, index).map(own_bytes), Buffer::from)
}

/// All messages as one text.
#[napi]
pub fn conversation_render(conversation: ConversationHandle) -> Promise<Vec<u8>, Buffer> {
    let render = move || {
        let len = conversation.len()?;
        let (mut text, mut at) = (Vec::new(), 0);
        while at < len {
            for message in conversation.read(at, len)? {
                message.render(&mut text);
                at += 1;
            }
        }
        Ok(text)
    };
    promise(render, Buffer::from)
}

/// The first messages again, for `agent`.
#[napi]
pub fn conversation_fork(
    conversation: ConversationHandle,
    agent: AgentHandle,
    at: Option<f64>,
    name: Option<String>,
) -> Promise<store::Conversation, ConversationHandle> {
    promise(move || conversation.fork(&agent, maybe_whole(at, "at")?, name.as_deref()), Handle::new)
}

/// Says what is known about its next use.
#[napi]
pub fn conversation_advise(conversation: ConversationHandle, advice: String) -> Promise<(), ()> {
    promise(move || conversation.advise(Advice::parse(&advice)?), |()| ())
}
