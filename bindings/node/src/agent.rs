//! Agents.

use crate::conversation::ConversationHandle;
use crate::errors::answer;
use crate::figures;
use crate::handle::Handle;
use crate::number::{maybe_whole, whole};
use crate::promise::{Promise, promise};
use crate::smu::SmuHandle;
use agentmem_core::smu::check_importance;
use agentmem_core::{AgentState, ContentId, Error, ErrorKind, Kind, Result};
use agentmem_store as store;
use napi::Env;
use napi::bindgen_prelude::Uint8Array;
use napi_derive::napi;
use serde_json::Value;

/// An agent.
pub type AgentHandle = Handle<store::Agent>;

/// An importance that JavaScript gave.
pub fn importance(number: f64) -> Result<u8> {
    check_importance(whole(number, "importance")?)
}

fn smu_handle(smu: store::Smu) -> SmuHandle {
    Handle::new(smu)
}

/// Stores content. Where there is no room it waits or fails, as the store was opened.
#[napi]
pub fn put(
    env: Env,
    agent: AgentHandle,
    content: &[u8],
    kind: f64,
    name: Option<String>,
    importance: f64,
) -> napi::Result<SmuHandle> {
    let put = || {
        let kind = Kind::from_u8(whole(kind, "kind")?);
        let kind = kind.ok_or_else(|| Error::new(ErrorKind::InvalidArgument, "kind"))?;
        agent.put(content, kind, name.as_deref(), self::importance(importance)?, agent.on_full())
    };
    answer(&env, put).map(smu_handle)
}

/// Leases what `smu` is a handle of.
#[napi]
pub fn attach_smu(agent: AgentHandle, smu: SmuHandle) -> Promise<store::Smu, SmuHandle> {
    promise(move || agent.attach(&smu), smu_handle)
}

/// Leases by id or by name: 64 hex digits are an id, and no name reads so.
#[napi]
pub fn attach_key(agent: AgentHandle, key: String) -> Promise<store::Smu, SmuHandle> {
    let attach = move || match ContentId::parse(&key) {
        Ok(id) => agent.attach_id(&id),
        Err(_) => agent.attach_name(&key),
    };
    promise(attach, smu_handle)
}

/// Gives a lease back.
#[napi]
pub fn release_smu(env: Env, agent: AgentHandle, smu: SmuHandle) -> napi::Result<()> {
    answer(&env, || agent.release(&smu, agent.on_full()))
}

/// Gives a conversation back.
#[napi]
pub fn release_conversation(agent: AgentHandle, conversation: ConversationHandle) -> Promise<(), ()> {
    promise(move || agent.release_conversation(&conversation), |()| ())
}

/// Its name.
#[napi]
pub fn agent_name(agent: AgentHandle) -> String {
    agent.name().to_owned()
}

/// Most logical bytes it may hold.
#[napi]
pub fn agent_quota_bytes(agent: AgentHandle) -> Option<i64> {
    agent.quota_bytes().map(|bytes| bytes as i64)
}

/// Its process.
#[napi]
pub fn agent_pid(agent: AgentHandle) -> Promise<u32, u32> {
    promise(move || agent.pid(), |pid| pid)
}

/// 0 to 100.
#[napi]
pub fn agent_importance(agent: AgentHandle) -> Promise<u8, u8> {
    promise(move || agent.importance(), |importance| importance)
}

/// What it does.
#[napi]
pub fn agent_state(agent: AgentHandle) -> Promise<AgentState, &'static str> {
    promise(move || agent.state(), AgentState::as_str)
}

/// Changes its importance.
#[napi]
pub fn agent_set_importance(agent: AgentHandle, importance: f64) -> Promise<(), ()> {
    promise(move || agent.set_importance(self::importance(importance)?), |()| ())
}

/// Changes its quota.
#[napi]
pub fn agent_set_quota_bytes(agent: AgentHandle, quota_bytes: Option<f64>) -> Promise<(), ()> {
    promise(move || agent.set_quota_bytes(maybe_whole(quota_bytes, "quotaBytes")?), |()| ())
}

/// Says what it does.
#[napi]
pub fn agent_set_state(agent: AgentHandle, state: String) -> Promise<(), ()> {
    promise(move || agent.set_state(AgentState::parse(&state)?), |()| ())
}

/// What it holds besides conversations.
#[napi]
pub fn agent_smus(agent: AgentHandle) -> Promise<Vec<store::Smu>, Vec<SmuHandle>> {
    promise(move || agent.smus(), |smus| smus.into_iter().map(smu_handle).collect())
}

/// Its conversation of that name, or a new one.
#[napi]
pub fn agent_conversation(
    agent: AgentHandle,
    name: Option<String>,
) -> Promise<store::Conversation, ConversationHandle> {
    promise(move || agent.conversation(name.as_deref()), Handle::new)
}

/// Names of its conversations.
#[napi]
pub fn agent_conversations(agent: AgentHandle) -> Promise<Vec<String>, Vec<String>> {
    promise(move || agent.conversations(), |names| names)
}

/// Makes a conversation of each that a transcript holds.
#[napi]
pub fn agent_load(
    agent: AgentHandle,
    transcript: Uint8Array,
) -> Promise<Vec<store::Conversation>, Vec<ConversationHandle>> {
    // JavaScript may write to it meanwhile, or take its memory away.
    let transcript = transcript.to_vec();
    promise(move || agent.load(&transcript), |loaded| loaded.into_iter().map(Handle::new).collect())
}

/// Its figures.
#[napi]
pub fn agent_stats(agent: AgentHandle) -> Promise<Value, Value> {
    promise(move || Ok(figures::agent(&agent.stats()?)), |figures| figures)
}

/// Lets agents of another domain copy; gives the text that does.
#[napi]
pub fn agent_grant(
    agent: AgentHandle,
    smu: SmuHandle,
    to_domain: Option<String>,
    lasts_ms: f64,
    uses: f64,
) -> Promise<String, String> {
    let grant = move || {
        let to = to_domain.unwrap_or_default();
        agent.grant(&smu, &to, whole(lasts_ms, "lastsMs")?, whole(uses, "uses")?)
    };
    promise(grant, |grant| grant)
}

/// Copies what another domain granted.
#[napi]
pub fn agent_redeem(agent: AgentHandle, grant: String) -> Promise<store::Smu, SmuHandle> {
    promise(move || agent.redeem(&grant), smu_handle)
}

/// Leaves it to be taken up again.
#[napi]
pub fn agent_leave(agent: AgentHandle) -> Promise<(), ()> {
    promise(move || agent.leave(), |()| ())
}

/// Ends it.
#[napi]
pub fn agent_close(agent: AgentHandle) -> Promise<(), ()> {
    promise(move || agent.close(), |()| ())
}
