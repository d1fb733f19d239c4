//! Figures: the main ones as structs, all of them as JSON with the names that Python gives them.

use agentmem_core::{ContentId, Kind, Tier};
use agentmem_store::{DomainNow, GrantFacts, stats, verify};
use serde_json::{Map, Value, json};

/// `agentmem_store_figures`. New members go to the end.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct StoreFigures {
    agents: u64,
    smus: u64,
    conversations: u64,
    messages: u64,
    logical_bytes: u64,
    stored_bytes: u64,
    resident_bytes: u64,
    hot_bytes: u64,
    warm_bytes: u64,
    cold_bytes: u64,
    disk_bytes: u64,
    shared_bytes: u64,
    pinned_bytes: u64,
}

/// `agentmem_agent_figures`. New members go to the end.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct AgentFigures {
    smus: u64,
    conversations: u64,
    messages: u64,
    logical_bytes: u64,
    hot_bytes: u64,
    stored_bytes: u64,
    shared_bytes: u64,
    quota_bytes: u64,
    created_unix_ms: u64,
    active_unix_ms: u64,
}

/// `agentmem_domain_figures`. New members go to the end.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct DomainFigures {
    logical_bytes: u64,
    quota_bytes: u64,
    agents: u64,
    agents_max: u64,
}

/// `agentmem_verification`. New members go to the end.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Verification {
    frames: u64,
    smus: u64,
    messages: u64,
    logical_bytes: u64,
    orphans: u64,
    damaged: u64,
}

// What agentmem.h asserts as well.
const _: () = assert!(size_of::<StoreFigures>() == 104);
const _: () = assert!(size_of::<AgentFigures>() == 80);
const _: () = assert!(size_of::<DomainFigures>() == 32);
const _: () = assert!(size_of::<Verification>() == 48);

impl StoreFigures {
    /// The main ones of `stats`.
    pub fn of(stats: &stats::Stats) -> Self {
        StoreFigures {
            agents: stats.agents,
            smus: stats.smus,
            conversations: stats.conversations,
            messages: stats.messages,
            logical_bytes: stats.logical_bytes,
            stored_bytes: stats.stored_bytes,
            resident_bytes: stats.resident_bytes,
            hot_bytes: stats.hot_bytes,
            warm_bytes: stats.warm_bytes,
            cold_bytes: stats.cold_bytes,
            disk_bytes: stats.disk_bytes,
            shared_bytes: stats.shared_bytes,
            pinned_bytes: stats.pinned_bytes,
        }
    }
}

impl AgentFigures {
    /// Those of `stats` that are numbers.
    pub fn of(stats: &stats::AgentStats) -> Self {
        AgentFigures {
            smus: stats.smus,
            conversations: stats.conversations,
            messages: stats.messages,
            logical_bytes: stats.logical_bytes,
            hot_bytes: stats.hot_bytes,
            stored_bytes: stats.stored_bytes,
            shared_bytes: stats.shared_bytes,
            quota_bytes: stats.quota_bytes.unwrap_or(u64::MAX),
            created_unix_ms: stats.created_unix_ms,
            active_unix_ms: stats.active_unix_ms,
        }
    }
}

impl DomainFigures {
    /// Those of `now`.
    pub fn of(now: &DomainNow) -> Self {
        DomainFigures {
            logical_bytes: now.used_bytes,
            quota_bytes: now.quota.logical_bytes.unwrap_or(u64::MAX),
            agents: now.agents,
            agents_max: now.quota.agents.unwrap_or(u64::MAX),
        }
    }
}

impl Verification {
    /// Its figures.
    pub fn of(found: &verify::Verification) -> Self {
        Verification {
            frames: found.frames,
            smus: found.smus,
            messages: found.messages,
            logical_bytes: found.logical_bytes,
            orphans: found.orphans,
            damaged: found.damaged.len() as u64,
        }
    }
}

fn object(figures: &[(&str, u64)]) -> Map<String, Value> {
    figures.iter().map(|&(name, value)| (name.to_owned(), json!(value))).collect()
}

/// All figures of a store.
pub fn store_json(stats: &stats::Stats) -> String {
    let of_kind = |(kind, row): (&Kind, &stats::KindStats)| (kind.as_str().to_owned(), object(&row.figures()).into());
    let by_kind: Map<String, Value> = Kind::ALL.iter().zip(&stats.by_kind).map(of_kind).collect();
    let of_tier =
        |(tier, count, bytes): (Tier, u64, u64)| (tier.as_str().to_owned(), json!({ "count": count, "bytes": bytes }));
    let by_tier: Map<String, Value> = stats.by_tier().into_iter().map(of_tier).collect();
    let counters: Map<String, Value> =
        stats.counters.iter().map(|(name, value)| (name.to_string(), json!(value))).collect();
    let mut all = object(&stats.figures());
    for (name, value) in [
        ("by_kind", by_kind.into()),
        ("by_tier", by_tier.into()),
        ("counters", counters.into()),
        ("policy", json!(stats.policy)),
        ("backend", json!(stats.backend)),
    ] {
        all.insert(name.to_owned(), value);
    }
    Value::from(all).to_string()
}

/// Grants, as a list.
pub fn grants_json(grants: &[GrantFacts]) -> String {
    let grant = |grant: &GrantFacts| {
        json!({
            "id": grant.id,
            "agent": grant.agent,
            "to_domain": Some(&grant.to).filter(|name| !name.is_empty()),
            "content": ContentId(grant.content).to_string(),
            "kind": grant.kind.as_str(),
            "logical_bytes": grant.logical_bytes,
            "uses": grant.uses,
            "created_s": grant.created_unix_ms as f64 / 1000.0,
            "expires_s": grant.expires_unix_ms as f64 / 1000.0,
        })
    };
    Value::from(grants.iter().map(grant).collect::<Vec<_>>()).to_string()
}

/// All figures of an agent.
pub fn agent_json(stats: &stats::AgentStats) -> String {
    json!({
        "name": stats.name,
        "pid": stats.pid,
        "state": stats.state.as_str(),
        "importance": stats.importance,
        "quota_bytes": stats.quota_bytes,
        "created_s": stats.created_unix_ms as f64 / 1000.0,
        "last_active_s": stats.active_unix_ms as f64 / 1000.0,
        "smus": stats.smus,
        "conversations": stats.conversations,
        "messages": stats.messages,
        "logical_bytes": stats.logical_bytes,
        "hot_bytes": stats.hot_bytes,
        "stored_bytes": stats.stored_bytes,
        "shared_bytes": stats.shared_bytes,
    })
    .to_string()
}
