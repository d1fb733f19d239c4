//! Agents.

use crate::conversation::ConversationHandle;
use crate::errors::answer;
use crate::figures;
use crate::handle::Handle;
use crate::promise::{Promise, promise};
use crate::smu::SmuHandle;
use agentmem_core::smu::check_importance;
use agentmem_core::{AgentState, ContentId, Error, ErrorKind, Kind};
use agentmem_store as store;
use napi::Env;
use napi::bindgen_prelude::Uint8Array;
use napi_derive::napi;
use serde_json::Value;

/// An agent.
pub type AgentHandle = Handle<store::Agent>;

fn smu_handle(smu: store::Smu) -> SmuHandle {
    Handle::new(smu)
}

/// Stores content. Where there is no room it waits or fails, as the store was opened.
#[napi]
pub fn put(
    env: Env,
    agent: &AgentHandle,
    content: &[u8],
    kind: u8,
    name: Option<String>,
    importance: i64,
) -> napi::Result<SmuHandle> {
    let put = || {
        let kind = Kind::from_u8(kind).ok_or_else(|| Error::new(ErrorKind::InvalidArgument, "kind"))?;
        agent.put(content, kind, name.as_deref(), check_importance(importance)?, agent.on_full())
    };
    answer(&env, put).map(smu_handle)
}

/// Leases what `smu` is a handle of.
#[napi]
pub fn attach_smu(agent: &AgentHandle, smu: &SmuHandle) -> Promise<store::Smu, SmuHandle> {
    let (agent, smu) = (agent.share(), smu.share());
    promise(move || agent.attach(&smu), smu_handle)
}

/// Leases by id or by name: 64 hex digits are an id, and no name reads so.
#[napi]
pub fn attach_key(agent: &AgentHandle, key: String) -> Promise<store::Smu, SmuHandle> {
    let agent = agent.share();
    let attach = move || match ContentId::parse(&key) {
        Ok(id) => agent.attach_id(&id),
        Err(_) => agent.attach_name(&key),
    };
    promise(attach, smu_handle)
}

/// Gives a lease back.
#[napi]
pub fn release_smu(env: Env, agent: &AgentHandle, smu: &SmuHandle) -> napi::Result<()> {
    answer(&env, || agent.release(smu, agent.on_full()))
}

/// Gives a conversation back.
#[napi]
pub fn release_conversation(agent: &AgentHandle, conversation: &ConversationHandle) -> Promise<(), ()> {
    let (agent, conversation) = (agent.share(), conversation.share());
    promise(move || agent.release_conversation(&conversation), |()| ())
}

/// Its name.
#[napi]
pub fn agent_name(agent: &AgentHandle) -> String {
    agent.name().to_owned()
}

/// Most logical bytes it may hold.
#[napi]
pub fn agent_quota_bytes(agent: &AgentHandle) -> Option<i64> {
    agent.quota_bytes().map(|bytes| bytes as i64)
}

/// Its process.
#[napi]
pub fn agent_pid(agent: &AgentHandle) -> Promise<u32, u32> {
    let agent = agent.share();
    promise(move || agent.pid(), |pid| pid)
}

/// 0 to 100.
#[napi]
pub fn agent_importance(agent: &AgentHandle) -> Promise<u8, u8> {
    let agent = agent.share();
    promise(move || agent.importance(), |importance| importance)
}

/// What it does.
#[napi]
pub fn agent_state(agent: &AgentHandle) -> Promise<AgentState, &'static str> {
    let agent = agent.share();
    promise(move || agent.state(), AgentState::as_str)
}

/// Changes its importance.
#[napi]
pub fn agent_set_importance(agent: &AgentHandle, importance: i64) -> Promise<(), ()> {
    let agent = agent.share();
    promise(move || agent.set_importance(check_importance(importance)?), |()| ())
}

/// Changes its quota.
#[napi]
pub fn agent_set_quota_bytes(agent: &AgentHandle, quota_bytes: Option<i64>) -> Promise<(), ()> {
    let agent = agent.share();
    promise(move || agent.set_quota_bytes(quota_bytes.map(|bytes| bytes as u64)), |()| ())
}

/// Says what it does.
#[napi]
pub fn agent_set_state(agent: &AgentHandle, state: String) -> Promise<(), ()> {
    let agent = agent.share();
    promise(move || agent.set_state(AgentState::parse(&state)?), |()| ())
}

/// What it holds besides conversations.
#[napi]
pub fn agent_smus(agent: &AgentHandle) -> Promise<Vec<store::Smu>, Vec<SmuHandle>> {
    let agent = agent.share();
    promise(move || agent.smus(), |smus| smus.into_iter().map(smu_handle).collect())
}

/// Its conversation of that name, or a new one.
#[napi]
pub fn agent_conversation(
    agent: &AgentHandle,
    name: Option<String>,
) -> Promise<store::Conversation, ConversationHandle> {
    let agent = agent.share();
    promise(move || agent.conversation(name.as_deref()), Handle::new)
}

/// Names of its conversations.
#[napi]
pub fn agent_conversations(agent: &AgentHandle) -> Promise<Vec<String>, Vec<String>> {
    let agent = agent.share();
    promise(move || agent.conversations(), |names| names)
}

/// Makes a conversation of each that a transcript holds.
#[napi]
pub fn agent_load(
    agent: &AgentHandle,
    transcript: Uint8Array,
) -> Promise<Vec<store::Conversation>, Vec<ConversationHandle>> {
    // JavaScript may write to it meanwhile, or take its memory away.
    let (agent, transcript) = (agent.share(), transcript.to_vec());
    promise(move || agent.load(&transcript), |loaded| loaded.into_iter().map(Handle::new).collect())
}

/// Its figures.
#[napi]
pub fn agent_stats(agent: &AgentHandle) -> Promise<Value, Value> {
    let agent = agent.share();
    promise(move || Ok(figures::agent(&agent.stats()?)), |figures| figures)
}

/// Ends it.
#[napi]
pub fn agent_close(agent: &AgentHandle) -> Promise<(), ()> {
    let agent = agent.share();
    promise(move || agent.close(), |()| ())
}
