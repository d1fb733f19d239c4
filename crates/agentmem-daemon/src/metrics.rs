//! What the daemon tells Prometheus. Labels have few values: none is a name that somebody chose.

use crate::http::Form;
use crate::oversight::Overseen;
use agentmem_core::{Kind, Tier};
use agentmem_pager::event::State;
use agentmem_pager::fleet::Peer;
use agentmem_store::stats::Stats;
use agentmem_store::{BOUNDS_US, LatencyCounts, Server};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, prometheus_text, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};
use std::fmt::Error;
use std::time::Duration;

/// The states of agents that have a session or had one, in the order of `Stats::agent_states`.
const AGENT_STATES: [&str; 4] = ["active", "idle", "paused", "absent"];

/// All figures of one moment.
#[derive(Debug)]
pub struct Snapshot {
    /// Of each domain.
    pub stats: Vec<Stats>,
    /// How long views waited.
    pub views: LatencyCounts,
    /// What may be in RAM, trees included where they are.
    pub budget_bytes: u64,
    /// Whether it is that of managed trees too.
    pub governs_trees: bool,
    /// Of this, what is the engine's now.
    pub engine_budget_bytes: u64,
    /// What the machine allows, and what came of it.
    pub overseen: Overseen,
    /// Connections to the socket.
    pub connections: u64,
    /// Trees that supervisors manage.
    pub trees: Vec<Peer>,
    /// Processor time of this process.
    pub cpu: Duration,
    /// PSS of this process.
    pub pss_bytes: u64,
}

impl Snapshot {
    /// The figures of `server` and of `trees`, now.
    pub fn take(
        server: &Server,
        (budget_bytes, governs_trees): (u64, bool),
        overseen: Overseen,
        trees: Vec<Peer>,
    ) -> Self {
        let mut views = LatencyCounts::default();
        let mut stats = Vec::new();
        for (_, domain) in server.domains().all() {
            views += domain.store.view_latencies();
            // A domain that is just closing has none.
            stats.extend(domain.store.stats());
        }
        let cpu = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        Snapshot {
            stats,
            views,
            budget_bytes,
            governs_trees,
            engine_budget_bytes: server.domains().memory_max_bytes(),
            overseen,
            connections: server.connections() as u64,
            trees,
            cpu: Duration::new(cpu.tv_sec as u64, cpu.tv_nsec as u32),
            pss_bytes: agentmem_pager::memory::of(std::process::id() as i32).resident_bytes,
        }
    }

    /// As text.
    pub fn encode(self, form: Form) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self));
        let mut out = String::new();
        match form {
            Form::Text => prometheus_text::encode(&mut out, &registry),
            Form::OpenMetrics => text::encode(&mut out, &registry),
        }
        .expect("a string takes all that is written to it");
        out
    }

    fn sum(&self, of: impl Fn(&Stats) -> u64) -> u64 {
        self.stats.iter().map(of).sum()
    }

    fn count(&self, name: &str) -> u64 {
        let of = |stats: &Stats| stats.counters.iter().find(|(known, _)| known == name).map_or(0, |(_, count)| *count);
        self.sum(of)
    }
}

/// Writes one family after the other.
struct Families<'a>(DescriptorEncoder<'a>);

type Labels<'a> = Vec<(&'a str, &'a str)>;

impl Families<'_> {
    fn gauges<'a>(
        &mut self,
        (name, unit): (&str, Option<&Unit>),
        help: &str,
        values: impl IntoIterator<Item = (Labels<'a>, u64)>,
    ) -> Result<(), Error> {
        self.family((name, unit), help, MetricType::Gauge, values, |encoder, value| encoder.encode_gauge(value))
    }

    fn counters<'a>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (Labels<'a>, u64)>,
    ) -> Result<(), Error> {
        self.family((name, None), help, MetricType::Counter, values, |encoder, value| {
            encoder.encode_counter::<NoLabelSet, u64, u64>(value, None)
        })
    }

    fn family<'a>(
        &mut self,
        (name, unit): (&str, Option<&Unit>),
        help: &str,
        metric_type: MetricType,
        values: impl IntoIterator<Item = (Labels<'a>, u64)>,
        write: impl Fn(&mut MetricEncoder<'_>, &u64) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut family = self.0.encode_descriptor(name, help, unit, metric_type)?;
        for (labels, value) in values {
            match labels.is_empty() {
                true => write(&mut family, &value)?,
                false => write(&mut family.encode_family(&labels)?, &value)?,
            }
        }
        Ok(())
    }
}

fn alone<'a>(value: u64) -> [(Labels<'a>, u64); 1] {
    [(Vec::new(), value)]
}

impl Collector for Snapshot {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let mut families = Families(encoder);
        self.encode_bytes(&mut families)?;
        self.encode_agents(&mut families)?;
        self.encode_events(&mut families)?;
        self.encode_process(&mut families)
    }
}

impl Snapshot {
    fn encode_bytes(&self, to: &mut Families<'_>) -> Result<(), Error> {
        let bytes = Some(&Unit::Bytes);
        let tiers = [Tier::Hot, Tier::Warm, Tier::Cold];
        let by_tier = tiers.into_iter().enumerate().flat_map(|(at, tier)| {
            let labels = move |kind: Kind| vec![("tier", tier.as_str()), ("kind", kind.as_str())];
            Kind::ALL.iter().map(move |&kind| (labels(kind), self.sum(|stats| stats.tier_bytes[at][kind as usize])))
        });
        let help = "Bytes of contents and frames in each tier; what is in two tiers counts in both";
        to.gauges(("agentmem_stored", bytes), help, by_tier)?;
        let by_kind = |of: fn(&Stats, usize) -> u64| {
            Kind::ALL
                .iter()
                .map(move |&kind| (vec![("kind", kind.as_str())], self.sum(|stats| of(stats, kind as usize))))
        };
        let logical = by_kind(|stats, kind| stats.by_kind[kind].logical_bytes);
        to.gauges(("agentmem_logical", bytes), "Bytes that agents believe they hold", logical)?;
        let kept = by_kind(|stats, kind| stats.by_kind[kind].stored_bytes);
        to.gauges(("agentmem_kept", bytes), "Bytes after sharing and codec, each content once", kept)?;
        let shared = alone(self.sum(|stats| stats.shared_bytes));
        to.gauges(("agentmem_shared", bytes), "Bytes that two agents or more hold, each content once", shared)?;
        let resident = alone(self.sum(|stats| stats.resident_bytes));
        to.gauges(("agentmem_resident", bytes), "RAM that engines take, tables included", resident)?;
        let disk = alone(self.sum(|stats| stats.disk_bytes));
        to.gauges(("agentmem_disk", bytes), "Disk space of the cold tier", disk)?;
        to.gauges(("agentmem_budget", bytes), "What may be in RAM: memory_max", alone(self.budget_bytes))?;
        let help = "The same, where managed trees are within it too; else 0";
        let fleet_bytes = if self.governs_trees { self.budget_bytes } else { 0 };
        to.gauges(("agentmem_fleet_budget", bytes), help, alone(fleet_bytes))?;
        let help = "Of the budget, what is the engines' now: what managed trees leave and the machine allows";
        to.gauges(("agentmem_engine_budget", bytes), help, alone(self.engine_budget_bytes))?;
        let help = "Of the budget, what the machine and the daemon's cgroups allow now";
        to.gauges(("agentmem_machine_allows", bytes), help, alone(self.overseen.allowed_bytes))?;
        let trees = [
            ("private", (|tree| tree.private_bytes) as fn(&Peer) -> u64),
            ("frames", |tree| tree.compressed_bytes),
            ("supervisor", |tree| tree.supervisor_bytes),
        ];
        let trees = trees.map(|(what, of)| (vec![("what", what)], self.trees.iter().map(of).sum()));
        let help = "RAM of managed trees: private memory, compressed frames, supervisors";
        to.gauges(("agentmem_tree", bytes), help, trees)
    }

    fn encode_agents(&self, to: &mut Families<'_>) -> Result<(), Error> {
        let api = AGENT_STATES.into_iter().enumerate();
        let api = api.map(|(at, state)| (vec![("type", "api"), ("state", state)], self.sum(|s| s.agent_states[at])));
        let trees = State::all().map(|state| {
            let count = self.trees.iter().filter(|tree| tree.state == state).count() as u64;
            (vec![("type", "tree"), ("state", state.name())], count)
        });
        let help = "Agents: of the API, and managed trees of processes";
        to.gauges(("agentmem_agents", None), help, api.chain(trees))?;
        to.gauges(("agentmem_sessions", None), "Sessions", alone(self.sum(|stats| stats.sessions.saturating_sub(1))))?;
        to.gauges(("agentmem_connections", None), "Connections to the socket", alone(self.connections))?;
        let help = "Processes whose oom_score_adj follows the importance of their agents";
        to.gauges(("agentmem_scored_processes", None), help, alone(self.overseen.scored))?;
        to.gauges(("agentmem_domains", None), "Trust domains", alone(self.stats.len() as u64))?;
        to.gauges(("agentmem_smus", None), "Distinct contents", alone(self.sum(|stats| stats.smus)))?;
        to.gauges(("agentmem_conversations", None), "Conversations", alone(self.sum(|stats| stats.conversations)))?;
        to.gauges(("agentmem_messages", None), "Messages in conversations", alone(self.sum(|stats| stats.messages)))
    }

    fn encode_events(&self, to: &mut Families<'_>) -> Result<(), Error> {
        let moves = [
            ("hot", "warm", "demote_warm"),
            ("warm", "cold", "demote_cold"),
            ("warm", "hot", "promote_warm"),
            ("cold", "warm", "promote_cold"),
        ];
        let moves = moves.map(|(from, to, name)| (vec![("from", from), ("to", to)], self.count(name)));
        to.counters("agentmem_tier_moves", "Contents, tails and frames that moved between tiers", moves)?;
        let refaults = [("warm", "refault_warm"), ("cold", "refault_cold")];
        let refaults = refaults.map(|(tier, name)| (vec![("tier", tier)], self.count(name)));
        to.counters("agentmem_refaults", "Uses of what had been demoted to the tier", refaults)?;
        let taken = [("put", "put"), ("append", "append")].map(|(what, name)| (vec![("what", what)], self.count(name)));
        to.counters("agentmem_taken_in", "Contents and messages taken in", taken)?;
        let shared = [("put", "put_shared"), ("append", "append_shared")];
        let shared = shared.map(|(what, name)| (vec![("what", what)], self.count(name)));
        to.counters("agentmem_shared_in", "Of these, what was there already", shared)?;
        let grants = [("granted", "grant"), ("redeemed", "redeem"), ("revoked", "revoke")];
        let grants = grants.map(|(event, name)| (vec![("event", event)], self.count(name)));
        to.counters("agentmem_grants", "What was granted, redeemed and revoked across trust domains", grants)?;
        let reasons = [("memory", "reject_memory"), ("quota", "reject_quota"), ("malformed", "reject_cell")];
        let rejected = reasons.map(|(reason, name)| (vec![("reason", reason)], self.count(name)));
        to.counters("agentmem_rejected", "Operations that were refused", rejected)?;
        let reasons = [("scarce", self.overseen.scarce), ("stalled", self.overseen.stalled)];
        let reasons = reasons.map(|(reason, times)| (vec![("reason", reason)], times));
        to.counters("agentmem_pressure_reclaims", "Times that engines gave memory back to the machine", reasons)?;
        to.counters("agentmem_reaped", "Agents whose process had died", alone(self.count("reap")))?;
        to.counters("agentmem_cold_errors", "Writes of the cold tier that failed", alone(self.count("cold_error")))?;
        let help = "How long views took that asked the daemon to promote; views of what is hot never reach it";
        let unit = Some(&Unit::Seconds);
        let mut views = to.0.encode_descriptor("agentmem_view_duration", help, unit, MetricType::Histogram)?;
        let bounds = BOUNDS_US.iter().map(|&us| us as f64 / 1e6).chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> = bounds.zip(self.views.counts).collect();
        let count = self.views.counts.iter().sum();
        views.encode_histogram::<NoLabelSet>(self.views.sum_us as f64 / 1e6, count, &buckets, None)
    }

    fn encode_process(&self, to: &mut Families<'_>) -> Result<(), Error> {
        let help = "Processor time of the daemon's engine process";
        let mut cpu = to.0.encode_descriptor("process_cpu", help, Some(&Unit::Seconds), MetricType::Counter)?;
        cpu.encode_counter::<NoLabelSet, f64, u64>(&self.cpu.as_secs_f64(), None)?;
        let help = "PSS of the daemon's engine process";
        to.gauges(("agentmem_daemon_pss", Some(&Unit::Bytes)), help, alone(self.pss_bytes))
    }
}
