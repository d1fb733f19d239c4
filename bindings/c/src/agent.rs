//! Agents.

use crate::border::{Bytes, Out, Text, free_array, hand_over_array, importance, kind, needed, state, unless_none};
use crate::conversation::Conversation;
use crate::errors::{answer, c_text};
use crate::list::List;
use crate::smu::{Id, Smu};
use crate::stats::{self, AgentFigures};
use crate::store::Store;
use agentmem_core::{ContentId, Result};
use agentmem_store as store;
use std::ffi::{CString, c_char, c_int};

/// `agentmem_agent`.
pub struct Agent {
    pub(crate) agent: store::Agent,
    name: CString,
}

/// An importance, or -1 for none given.
fn optional_importance(value: i32) -> Result<Option<u8>> {
    if value == -1 { Ok(None) } else { importance(value).map(Some) }
}

/// The agent behind a handle.
fn agent_of(given: Option<&Agent>) -> Result<&store::Agent> {
    Ok(&needed(given, "agent")?.agent)
}

/// What registers an agent.
type Open = fn(&store::Store, &str, Option<u8>, Option<u64>, Option<u32>) -> Result<store::Agent>;

fn open(
    how: Open,
    store: Option<&Store>,
    name: Text,
    importance: i32,
    quota_bytes: u64,
    pid: u32,
    agent: Out<*mut Agent>,
) -> c_int {
    answer(|| {
        agent.hand_over("agent", || {
            let store = &needed(store, "store")?.store;
            let (importance, quota_bytes) = (optional_importance(importance)?, unless_none(quota_bytes));
            let agent = how(store, name.needed("name")?, importance, quota_bytes, (pid != 0).then_some(pid))?;
            Ok(Agent { name: c_text(agent.name()), agent })
        })
    })
}

/// Registers an agent.
#[unsafe(no_mangle)]
pub extern "C" fn agentmem_agent_open(
    store: Option<&Store>,
    name: Text,
    importance: i32,
    quota_bytes: u64,
    pid: u32,
    agent: Out<*mut Agent>,
) -> c_int {
    open(store::Store::agent, store, name, importance, quota_bytes, pid, agent)
}

/// Registers one that outlives its process.
#[unsafe(no_mangle)]
pub extern "C" fn agentmem_agent_open_lasting(
    store: Option<&Store>,
    name: Text,
    importance: i32,
    quota_bytes: u64,
    pid: u32,
    agent: Out<*mut Agent>,
) -> c_int {
    open(store::Store::lasting_agent, store, name, importance, quota_bytes, pid, agent)
}

/// Leaves it to who comes.
#[unsafe(no_mangle)]
pub extern "C" fn agentmem_agent_leave(agent: Option<&Agent>) -> c_int {
    answer(|| agent_of(agent)?.leave())
}

/// Gives everything back.
#[unsafe(no_mangle)]
pub extern "C" fn agentmem_agent_close(agent: Option<&Agent>) -> c_int {
    answer(|| agent_of(agent)?.close())
}

/// Frees the handle.
#[unsafe(no_mangle)]
pub extern "C" fn agentmem_agent_free(agent: Option<Box<Agent>>) {
    answer(|| {
        drop(agent);
        Ok(())
    });
}

/// Its name.
#[unsafe(no_mangle)]
pub extern "C" fn agentmem_agent_name(agent: Option<&Agent>, name: Out<*const c_char>) -> c_int {
    answer(|| name.fill("name", || Ok(needed(agent, "agent")?.name.as_ptr())))
}

/// Its process.
#[unsafe(no_mangle)]
pub extern "C" fn agentmem_agent_pid(agent: Option<&Agent>, pid: Out<u32>) -> c_int {
    answer(|| pid.fill("pid", || agent_of(agent)?.pid()))
}

/// What it is doing.
#[unsafe(no_mangle)]
pub extern "C" fn agentmem_agent_state(agent: Option<&Agent>, state: Out<u32>) -> c_int {
    answer(|| state.fill("state", || Ok(agent_of(agent)?.state()? as u32)))
}

/// Says what it is doing.
#[unsafe(no_mangle)]
pub extern "C" fn agentmem_agent_set_state(agent: Option<&Agent>, state: u32) -> c_int {
    answer(|| agent_of(agent)?.set_state(self::state(state)?))
}

/// 0 to 100.
#[unsafe(no_mangle)]
pub extern "C" fn agentmem_agent_importance(agent: Option<&Agent>, importance: Out<i32>) -> c_int {
    answer(|| importance.fill("importance", || Ok(agent_of(agent)?.importance()?.into())))
}

/// Changes its importance.
#[unsafe(no_mangle)]
pub extern "C" fn agentmem_agent_set_importance(agent: Option<&Agent>, importance: i32) -> c_int {
    answer(|| agent_of(agent)?.set_importance(self::importance(importance)?))
}

/// Its quota.
#[unsafe(no_mangle)]
pub extern "C" fn agentmem_agent_quota_bytes(agent: Option<&Agent>, quota_bytes: Out<u64>) -> c_int {
    answer(|| quota_bytes.fill("quota_bytes", || Ok(agent_of(agent)?.quota_bytes().unwrap_or(u64::MAX))))
}

/// Changes its quota.
#[unsafe(no_mangle)]
pub extern "C" fn agentmem_agent_set_quota_bytes(agent: Option<&Agent>, quota_bytes: u64) -> c_int {
    answer(|| agent_of(agent)?.set_quota_bytes(unless_none(quota_bytes)))
}

/// Stores content.
#[unsafe(no_mangle)]
pub extern "C" fn agentmem_agent_put(
    agent: Option<&Agent>,
    bytes: Bytes,
    len_bytes: usize,
    kind: u32,
    name: Text,
    importance: i32,
    smu: Out<*mut Smu>,
) -> c_int {
    answer(|| {
        smu.hand_over("smu", || {
            let agent = agent_of(agent)?;
            let (kind, importance) = (self::kind(kind)?, self::importance(importance)?);
            let content = bytes.slice(len_bytes, "bytes")?;
            let smu = agent.put(content, kind, name.optional("name")?, importance, agent.on_full())?;
            Ok(Smu { smu })
        })
    })
}

/// A lease on what another handle is of.
#[unsafe(no_mangle)]
pub extern "C" fn agentmem_agent_attach(agent: Option<&Agent>, smu: Option<&Smu>, own: Out<*mut Smu>) -> c_int {
    answer(|| own.hand_over("own", || Ok(Smu { smu: agent_of(agent)?.attach(&needed(smu, "smu")?.smu)? })))
}

/// A lease by id.
#[unsafe(no_mangle)]
pub extern "C" fn agentmem_agent_attach_id(agent: Option<&Agent>, id: Option<&Id>, smu: Out<*mut Smu>) -> c_int {
    answer(|| {
        smu.hand_over("smu", || {
            let id = ContentId(needed(id, "id")?.bytes);
            Ok(Smu { smu: agent_of(agent)?.attach_id(&id)? })
        })
    })
}

/// A lease by name.
#[unsafe(no_mangle)]
pub extern "C" fn agentmem_agent_attach_name(agent: Option<&Agent>, name: Text, smu: Out<*mut Smu>) -> c_int {
    answer(|| smu.hand_over("smu", || Ok(Smu { smu: agent_of(agent)?.attach_name(name.needed("name")?)? })))
}

/// Lets another domain copy.
#[unsafe(no_mangle)]
pub extern "C" fn agentmem_agent_grant(
    agent: Option<&Agent>,
    smu: Option<&Smu>,
    to_domain: Text,
    lasts_ms: u64,
    uses: u32,
    grant: Out<*mut c_char>,
) -> c_int {
    answer(|| {
        grant.hand_over_text("grant", || {
            let to = to_domain.optional("to_domain")?.unwrap_or("");
            agent_of(agent)?.grant(&needed(smu, "smu")?.smu, to, lasts_ms, uses)
        })
    })
}

/// Copies what another domain granted.
#[unsafe(no_mangle)]
pub extern "C" fn agentmem_agent_redeem(agent: Option<&Agent>, grant: Text, smu: Out<*mut Smu>) -> c_int {
    answer(|| smu.hand_over("smu", || Ok(Smu { smu: agent_of(agent)?.redeem(grant.needed("grant")?)? })))
}

/// Gives a lease back.
#[unsafe(no_mangle)]
pub extern "C" fn agentmem_agent_release(agent: Option<&Agent>, smu: Option<&Smu>) -> c_int {
    answer(|| {
        let agent = agent_of(agent)?;
        agent.release(&needed(smu, "smu")?.smu, agent.on_full())
    })
}

/// Handles of all that it holds.
#[unsafe(no_mangle)]
pub extern "C" fn agentmem_agent_smus(agent: Option<&Agent>, smus: Out<*mut *mut Smu>, count: Out<usize>) -> c_int {
    answer(|| {
        count.clear("count")?;
        smus.fill("smus", || {
            let held = agent_of(agent)?.smus()?;
            count.write(held.len());
            hand_over_array(held.into_iter().map(|smu| Smu { smu }).collect())
        })
    })
}

/// Frees such an array and its handles.
#[unsafe(no_mangle)]
pub extern "C" fn agentmem_smus_free(smus: *mut *mut Smu, count: usize) {
    answer(|| {
        free_array(smus, count);
        Ok(())
    });
}

/// A conversation by name.
#[unsafe(no_mangle)]
pub extern "C" fn agentmem_agent_conversation(
    agent: Option<&Agent>,
    name: Text,
    conversation: Out<*mut Conversation>,
) -> c_int {
    answer(|| {
        conversation.hand_over("conversation", || {
            let agent = agent_of(agent)?;
            Ok(Conversation::new(agent.clone(), agent.conversation(name.optional("name")?)?))
        })
    })
}

/// Names of its conversations.
#[unsafe(no_mangle)]
pub extern "C" fn agentmem_agent_conversations(agent: Option<&Agent>, names: Out<*mut List>) -> c_int {
    answer(|| names.hand_over("names", || Ok(List::of_names(agent_of(agent)?.conversations()?))))
}

/// A conversation of each that a transcript holds.
#[unsafe(no_mangle)]
pub extern "C" fn agentmem_agent_load(
    agent: Option<&Agent>,
    bytes: Bytes,
    len_bytes: usize,
    conversations: Out<*mut *mut Conversation>,
    count: Out<usize>,
) -> c_int {
    answer(|| {
        count.clear("count")?;
        conversations.fill("conversations", || {
            let agent = agent_of(agent)?;
            let loaded = agent.load(bytes.slice(len_bytes, "bytes")?)?;
            count.write(loaded.len());
            hand_over_array(loaded.into_iter().map(|one| Conversation::new(agent.clone(), one)).collect())
        })
    })
}

/// Frees such an array and its handles.
#[unsafe(no_mangle)]
pub extern "C" fn agentmem_conversations_free(conversations: *mut *mut Conversation, count: usize) {
    answer(|| {
        free_array(conversations, count);
        Ok(())
    });
}

/// Gives a conversation back.
#[unsafe(no_mangle)]
pub extern "C" fn agentmem_agent_release_conversation(
    agent: Option<&Agent>,
    conversation: Option<&Conversation>,
) -> c_int {
    answer(|| agent_of(agent)?.release_conversation(&needed(conversation, "conversation")?.conversation))
}

/// Its figures.
#[unsafe(no_mangle)]
pub extern "C" fn agentmem_agent_stats(agent: Option<&Agent>, stats: Out<AgentFigures>, size_bytes: usize) -> c_int {
    answer(|| stats.fill_sized("stats", size_bytes, || Ok(AgentFigures::of(&agent_of(agent)?.stats()?))))
}

/// Its figures as JSON.
#[unsafe(no_mangle)]
pub extern "C" fn agentmem_agent_stats_json(agent: Option<&Agent>, json: Out<*mut c_char>) -> c_int {
    answer(|| json.hand_over_text("json", || Ok(stats::agent_json(&agent_of(agent)?.stats()?))))
}
