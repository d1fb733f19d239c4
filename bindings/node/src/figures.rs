//! Figures as objects of JavaScript: the names are those of every language, written as JavaScript writes names.

use agentmem_core::{ContentId, Kind};
use agentmem_store::stats::{AgentStats, Stats};
use agentmem_store::verify::Verification;
use agentmem_store::{AgentFigures, DomainNow, GrantFacts};
use serde_json::{Map, Value, json};

/// `logical_bytes` as `logicalBytes`.
fn camel(name: &str) -> String {
    let mut words = name.split('_');
    let mut out = words.next().unwrap_or_default().to_owned();
    for word in words {
        let (first, rest) = word.split_at(word.len().min(1));
        out.push_str(&first.to_ascii_uppercase());
        out.push_str(rest);
    }
    out
}

fn named<'a>(figures: impl IntoIterator<Item = (&'a str, u64)>) -> Map<String, Value> {
    figures.into_iter().map(|(name, figure)| (camel(name), figure.into())).collect()
}

/// Of a store. Kinds, tiers and counters keep their names: those are words, not fields.
pub fn store(stats: &Stats) -> Value {
    let mut object = named(stats.figures());
    let kinds = Kind::ALL.iter().zip(stats.by_kind);
    let by_kind = kinds.map(|(kind, figures)| (kind.as_str().to_owned(), named(figures.figures()).into()));
    let tiers = stats.by_tier().into_iter();
    let by_tier = tiers.map(|(tier, count, bytes)| (tier.as_str().to_owned(), json!({"count": count, "bytes": bytes})));
    let counters = stats.counters.iter().map(|(name, value)| (name.to_string(), (*value).into()));
    object.insert("byKind".into(), Value::Object(by_kind.collect()));
    object.insert("byTier".into(), Value::Object(by_tier.collect()));
    object.insert("counters".into(), Value::Object(counters.collect()));
    object.insert("policy".into(), stats.policy.as_str().into());
    object.insert("backend".into(), stats.backend.as_str().into());
    object.into()
}

fn agent_map(stats: &AgentStats) -> Map<String, Value> {
    let mut object = named([
        ("created_ms", stats.created_unix_ms),
        ("last_active_ms", stats.active_unix_ms),
        ("smus", stats.smus),
        ("conversations", stats.conversations),
        ("messages", stats.messages),
        ("logical_bytes", stats.logical_bytes),
        ("hot_bytes", stats.hot_bytes),
        ("stored_bytes", stats.stored_bytes),
        ("shared_bytes", stats.shared_bytes),
    ]);
    object.insert("name".into(), stats.name.as_str().into());
    object.insert("pid".into(), stats.pid.into());
    object.insert("state".into(), stats.state.as_str().into());
    object.insert("importance".into(), stats.importance.into());
    object.insert("quotaBytes".into(), limit(stats.quota_bytes));
    object
}

/// A limit, of which a program in another language may have made any number: a double, and never a BigInt.
fn limit(most: Option<u64>) -> Value {
    most.map(|most| most as f64).into()
}

/// Of an agent.
pub fn agent(stats: &AgentStats) -> Value {
    agent_map(stats).into()
}

/// Of an agent, and where what it holds is.
pub fn agent_everywhere(figures: &AgentFigures) -> Value {
    let mut object = agent_map(&figures.stats);
    object.extend(named([
        ("warm_bytes", figures.warm_bytes),
        ("cold_bytes", figures.cold_bytes),
        ("tail_bytes", figures.tail_bytes),
    ]));
    object.into()
}

/// Of a trust domain.
pub fn domain(now: &DomainNow) -> Value {
    json!({
        "name": now.name,
        "logicalBytes": now.used_bytes,
        "quotaBytes": limit(now.quota.logical_bytes),
        "agents": now.agents,
        "agentsMax": limit(now.quota.agents),
    })
}

/// Of a grant.
pub fn grant(grant: &GrantFacts) -> Value {
    json!({
        "id": grant.id,
        "agent": grant.agent,
        "toDomain": Some(&grant.to).filter(|name| !name.is_empty()),
        "content": ContentId(grant.content).to_string(),
        "kind": grant.kind.as_str(),
        "logicalBytes": grant.logical_bytes,
        "uses": grant.uses,
        "createdMs": grant.created_unix_ms,
        "expiresMs": grant.expires_unix_ms,
    })
}

/// What a look at everything found.
pub fn verification(found: &Verification) -> Value {
    json!({
        "frames": found.frames,
        "smus": found.smus,
        "messages": found.messages,
        "bytes": found.logical_bytes,
        "orphans": found.orphans,
        "damaged": found.damaged,
    })
}
