//! The store.

use crate::agent::Agent;
use crate::arguments::{importance, in_thread, size};
use crate::errors::{invalid, raise};
use crate::inspect::{Pieces, description_dict};
use crate::policy::PythonPolicy;
use agentmem_core::{Backend, ContentId, Kind, policy};
use agentmem_store::stats::{AgentStats, Stats};
use agentmem_store::{DomainQuota, GrantFacts, OnFull, Options, Store as Engine};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};
use std::ffi::OsString;
use std::path::PathBuf;

/// A store of semantic memory units, with its engine.
#[pyclass(frozen, weakref, module = "agentmem")]
pub struct Store {
    pub(crate) engine: Engine,
}

impl Drop for Store {
    fn drop(&mut self) {
        // Closing waits for the engine, which may be waiting for the GIL to ask a policy. Where
        // there is no interpreter left to give it back to, nobody can be asked either.
        let closed = Python::try_attach(|py| py.detach(|| drop(self.engine.close())));
        if closed.is_none() {
            drop(self.engine.close());
        }
    }
}

/// Seconds as milliseconds; an error names the argument.
pub fn milliseconds(seconds: f64, name: &str) -> PyResult<u64> {
    match seconds {
        seconds if (0.0..1e12).contains(&seconds) => Ok((seconds * 1000.0) as u64),
        seconds => Err(invalid(format!("{name}={seconds}"))),
    }
}

/// Open a store whose engine runs on a thread of this process.
#[pyfunction]
#[pyo3(signature = (path=None, *, memory_max=None, policy=None, cold=true, warm_after_s=300.0,
    cold_after_s=259_200.0, on_full="wait", arena_bytes=None, warm_level=3, cold_level=9, pressure=true,
    backend="user"))]
#[expect(clippy::too_many_arguments, reason = "they are keywords")]
pub fn open_store(
    py: Python<'_>,
    path: Option<PathBuf>,
    memory_max: Option<&Bound<'_, PyAny>>,
    policy: Option<&Bound<'_, PyAny>>,
    cold: bool,
    warm_after_s: f64,
    cold_after_s: f64,
    on_full: &str,
    arena_bytes: Option<&Bound<'_, PyAny>>,
    warm_level: i32,
    cold_level: i32,
    pressure: bool,
    backend: &str,
) -> PyResult<Store> {
    let mut options = Options {
        path,
        cold,
        warm_after_ms: milliseconds(warm_after_s, "warm_after_s")?,
        cold_after_ms: milliseconds(cold_after_s, "cold_after_s")?,
        on_full: self::on_full(on_full)?,
        warm_level,
        cold_level,
        pressure,
        backend: Backend::parse(backend).map_err(raise)?,
        ..Options::default()
    };
    if let Some(value) = memory_max {
        options.memory_max_bytes = size(value)?;
    }
    if let Some(value) = arena_bytes {
        options.arena_bytes = size(value)?;
    }
    if let Some(value) = policy {
        options.policy = match value.cast::<PyString>() {
            Ok(name) => policy::by_name(name.to_str()?).map_err(raise)?,
            Err(_) if value.hasattr("choose")? => Box::new(PythonPolicy::new(value)),
            Err(_) => return Err(invalid("a policy is \"semantic\", \"lru\" or an object with choose(batch)")),
        };
    }
    let engine = py.detach(|| Engine::open(options)).map_err(raise)?;
    Ok(Store { engine })
}

/// Open a session with the daemon that listens at `socket`.
#[pyfunction]
#[pyo3(signature = (socket, *, domain=None, token=None, on_full="wait"))]
pub fn connect_store(
    py: Python<'_>,
    socket: PathBuf,
    domain: Option<&str>,
    token: Option<&str>,
    on_full: &str,
) -> PyResult<Store> {
    let on_full = self::on_full(on_full)?;
    let domain = match (domain, token) {
        (Some(domain), Some(token)) => Some((domain, token.as_bytes())),
        (None, None) => None,
        _ => return Err(invalid("a domain is entered by its name and its token")),
    };
    let engine = py.detach(|| Engine::connect(&socket, domain, on_full)).map_err(raise)?;
    Ok(Store { engine })
}

fn on_full(word: &str) -> PyResult<OnFull> {
    match word {
        "wait" => Ok(OnFull::Wait),
        "fail" => Ok(OnFull::Fail),
        other => Err(invalid(format!("on_full={other:?} is none of wait, fail"))),
    }
}

#[pymethods]
impl Store {
    #[getter]
    fn path(&self) -> Option<OsString> {
        self.engine.path().map(|path| path.as_os_str().to_owned())
    }

    #[getter]
    fn memory_max(&self) -> u64 {
        self.engine.memory_max_bytes()
    }

    #[getter]
    fn is_closed(&self) -> bool {
        self.engine.is_closed()
    }

    #[pyo3(signature = (name, *, importance=None, quota_bytes=None, pid=None, lasting=false))]
    fn agent(
        &self,
        py: Python<'_>,
        name: &str,
        importance: Option<i64>,
        quota_bytes: Option<&Bound<'_, PyAny>>,
        pid: Option<u32>,
        lasting: bool,
    ) -> PyResult<Agent> {
        let importance = importance.map(self::importance).transpose()?;
        let quota_bytes = quota_bytes.map(size).transpose()?;
        let opened = py.detach(|| match lasting {
            true => self.engine.lasting_agent(name, importance, quota_bytes, pid),
            false => self.engine.agent(name, importance, quota_bytes, pid),
        });
        Ok(Agent::new(opened.map_err(raise)?))
    }

    fn agents(&self, py: Python<'_>) -> PyResult<Vec<String>> {
        py.detach(|| self.engine.agents()).map_err(raise)
    }

    fn flush(&self, py: Python<'_>) -> PyResult<()> {
        py.detach(|| self.engine.flush()).map_err(raise)
    }

    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let stats = py.detach(|| self.engine.stats()).map_err(raise)?;
        stats_dict(py, &stats)
    }

    fn agent_stats<'py>(&self, py: Python<'py>, name: &str) -> PyResult<Bound<'py, PyDict>> {
        let stats = py.detach(|| self.engine.agent_stats(name)).map_err(raise)?;
        agent_stats_dict(py, &stats)
    }

    fn all_agent_stats<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyDict>>> {
        let mut all = Vec::new();
        let mut after = String::new();
        loop {
            let some = py.detach(|| self.engine.agents_after(&after)).map_err(raise)?;
            let Some(last) = some.last() else { return Ok(all) };
            after.clone_from(&last.stats.name);
            for figures in &some {
                let dict = agent_stats_dict(py, &figures.stats)?;
                dict.set_item("warm_bytes", figures.warm_bytes)?;
                dict.set_item("cold_bytes", figures.cold_bytes)?;
                dict.set_item("tail_bytes", figures.tail_bytes)?;
                all.push(dict);
            }
        }
    }

    #[pyo3(signature = (name, quota_bytes))]
    fn limit(&self, py: Python<'_>, name: &str, quota_bytes: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
        let quota_bytes = quota_bytes.map(size).transpose()?;
        py.detach(|| self.engine.limit_agent(name, quota_bytes)).map_err(raise)
    }

    fn domain<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let now = py.detach(|| self.engine.domain()).map_err(raise)?;
        let dict = PyDict::new(py);
        dict.set_item("name", &now.name)?;
        dict.set_item("logical_bytes", now.used_bytes)?;
        dict.set_item("quota_bytes", now.quota.logical_bytes)?;
        dict.set_item("agents", now.agents)?;
        dict.set_item("agents_max", now.quota.agents)?;
        Ok(dict)
    }

    #[pyo3(signature = (*, quota_bytes, agents_max))]
    fn limit_domain(
        &self,
        py: Python<'_>,
        quota_bytes: Option<&Bound<'_, PyAny>>,
        agents_max: Option<u64>,
    ) -> PyResult<()> {
        let quota = DomainQuota { logical_bytes: quota_bytes.map(size).transpose()?, agents: agents_max };
        py.detach(|| self.engine.limit_domain(quota)).map_err(raise)
    }

    fn grants<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyDict>>> {
        let facts = |grant: GrantFacts| -> PyResult<Bound<'py, PyDict>> {
            let dict = PyDict::new(py);
            dict.set_item("id", &grant.id)?;
            dict.set_item("agent", &grant.agent)?;
            dict.set_item("to_domain", Some(&grant.to).filter(|name| !name.is_empty()))?;
            dict.set_item("content", ContentId(grant.content).to_string())?;
            dict.set_item("kind", grant.kind.as_str())?;
            dict.set_item("logical_bytes", grant.logical_bytes)?;
            dict.set_item("uses", grant.uses)?;
            dict.set_item("created_s", grant.created_unix_ms as f64 / 1000.0)?;
            dict.set_item("expires_s", grant.expires_unix_ms as f64 / 1000.0)?;
            Ok(dict)
        };
        py.detach(|| self.engine.grants()).map_err(raise)?.into_iter().map(facts).collect()
    }

    fn revoke(&self, py: Python<'_>, grant: &str) -> PyResult<()> {
        py.detach(|| self.engine.revoke(grant)).map_err(raise)
    }

    fn inspect<'py>(&self, py: Python<'py>, key: &str) -> PyResult<Bound<'py, PyDict>> {
        let described = py.detach(|| self.engine.inspect(key)).map_err(raise)?;
        description_dict(py, &described)
    }

    fn pieces(slf: &Bound<'_, Self>, key: &str) -> PyResult<Pieces> {
        Pieces::of(slf, key)
    }

    #[pyo3(signature = (target_bytes=None))]
    fn reclaim(&self, py: Python<'_>, target_bytes: Option<&Bound<'_, PyAny>>) -> PyResult<u64> {
        let target_bytes = target_bytes.map(size).transpose()?;
        py.detach(|| self.engine.reclaim(target_bytes)).map_err(raise)
    }

    fn verify<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let found = py.detach(|| self.engine.verify()).map_err(raise)?;
        let dict = PyDict::new(py);
        dict.set_item("frames", found.frames)?;
        dict.set_item("smus", found.smus)?;
        dict.set_item("messages", found.messages)?;
        dict.set_item("bytes", found.logical_bytes)?;
        dict.set_item("orphans", found.orphans)?;
        dict.set_item("damaged", found.damaged)?;
        Ok(dict)
    }

    fn close(&self, py: Python<'_>) -> PyResult<()> {
        py.detach(|| self.engine.close()).map_err(raise)
    }

    fn flush_async<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        in_thread(slf.as_any(), "flush", [])
    }

    #[pyo3(signature = (target_bytes=None))]
    fn reclaim_async<'py>(
        slf: &Bound<'py, Self>,
        target_bytes: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        in_thread(slf.as_any(), "reclaim", target_bytes)
    }

    fn verify_async<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        in_thread(slf.as_any(), "verify", [])
    }

    fn __enter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, py: Python<'_>, _exception: &Bound<'_, pyo3::types::PyTuple>) -> PyResult<()> {
        self.close(py)
    }
}

fn stats_dict<'py>(py: Python<'py>, stats: &Stats) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    for (name, value) in stats.figures() {
        dict.set_item(name, value)?;
    }
    let by_kind = PyDict::new(py);
    for (kind, figures) in Kind::ALL.iter().zip(stats.by_kind) {
        let row = PyDict::new(py);
        for (name, value) in figures.figures() {
            row.set_item(name, value)?;
        }
        by_kind.set_item(kind.as_str(), row)?;
    }
    dict.set_item("by_kind", by_kind)?;
    let by_tier = PyDict::new(py);
    for (tier, count, bytes) in stats.by_tier() {
        let row = PyDict::new(py);
        row.set_item("count", count)?;
        row.set_item("bytes", bytes)?;
        by_tier.set_item(tier.as_str(), row)?;
    }
    dict.set_item("by_tier", by_tier)?;
    let counters = PyDict::new(py);
    for (name, value) in &stats.counters {
        counters.set_item(name, value)?;
    }
    dict.set_item("counters", counters)?;
    dict.set_item("policy", &stats.policy)?;
    dict.set_item("backend", &stats.backend)?;
    Ok(dict)
}

/// Figures of one agent as a dict.
pub fn agent_stats_dict<'py>(py: Python<'py>, stats: &AgentStats) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("name", &stats.name)?;
    dict.set_item("pid", stats.pid)?;
    dict.set_item("state", stats.state.as_str())?;
    dict.set_item("importance", stats.importance)?;
    dict.set_item("quota_bytes", stats.quota_bytes)?;
    dict.set_item("created_s", stats.created_unix_ms as f64 / 1000.0)?;
    dict.set_item("last_active_s", stats.active_unix_ms as f64 / 1000.0)?;
    dict.set_item("smus", stats.smus)?;
    dict.set_item("conversations", stats.conversations)?;
    dict.set_item("messages", stats.messages)?;
    dict.set_item("logical_bytes", stats.logical_bytes)?;
    dict.set_item("hot_bytes", stats.hot_bytes)?;
    dict.set_item("stored_bytes", stats.stored_bytes)?;
    dict.set_item("shared_bytes", stats.shared_bytes)?;
    Ok(dict)
}
