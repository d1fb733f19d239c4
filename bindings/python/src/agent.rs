//! Agents.

use crate::arguments::{Content, importance, size};
use crate::conversation::Conversation;
use crate::errors::{invalid, raise};
use crate::smu::Smu;
use crate::store::{agent_stats_dict, milliseconds};
use agentmem_core::{Advice, AgentState, ContentId, ErrorKind, Kind};
use agentmem_store as store;
use agentmem_store::OnFull;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};

/// A registered agent.
#[pyclass(frozen, module = "agentmem")]
pub struct Agent {
    pub(crate) agent: store::Agent,
}

/// Runs `call` first without waiting, and, if there is no room as far as can be told without asking, and the store waits
/// then, once more without the GIL.
pub fn patiently<T: Send>(
    py: Python<'_>,
    agent: &store::Agent,
    is_long: bool,
    call: impl Fn(OnFull) -> agentmem_core::Result<T> + Sync,
) -> PyResult<T> {
    if !is_long {
        match call(OnFull::Fail) {
            Err(error) if lacks_room(error.kind()) && agent.on_full() == OnFull::Wait => {}
            other => return other.map_err(raise),
        }
    }
    py.detach(|| call(agent.on_full())).map_err(raise)
}

fn lacks_room(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::ArenaFull | ErrorKind::OutOfMemory | ErrorKind::DomainQuotaExceeded)
}

impl Agent {
    /// Wraps what the engine gave.
    pub fn new(agent: store::Agent) -> Self {
        Agent { agent }
    }
}

#[pymethods]
impl Agent {
    #[getter]
    fn name(&self) -> &str {
        self.agent.name()
    }

    #[getter]
    fn pid(&self, py: Python<'_>) -> PyResult<u32> {
        py.detach(|| self.agent.pid()).map_err(raise)
    }

    #[getter]
    fn get_importance(&self, py: Python<'_>) -> PyResult<u8> {
        py.detach(|| self.agent.importance()).map_err(raise)
    }

    #[setter]
    fn set_importance(&self, py: Python<'_>, value: i64) -> PyResult<()> {
        let value = importance(value)?;
        py.detach(|| self.agent.set_importance(value)).map_err(raise)
    }

    #[getter]
    fn state(&self, py: Python<'_>) -> PyResult<&'static str> {
        Ok(py.detach(|| self.agent.state()).map_err(raise)?.as_str())
    }

    #[getter]
    fn get_quota_bytes(&self) -> Option<u64> {
        self.agent.quota_bytes()
    }

    #[setter]
    fn set_quota_bytes(&self, py: Python<'_>, value: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
        let value = value.map(size).transpose()?;
        py.detach(|| self.agent.set_quota_bytes(value)).map_err(raise)
    }

    #[pyo3(signature = (data, *, kind="tool_result", name=None, importance=50))]
    fn put(
        &self,
        py: Python<'_>,
        data: &Bound<'_, PyAny>,
        kind: &str,
        name: Option<&str>,
        importance: i64,
    ) -> PyResult<Smu> {
        let kind = Kind::parse(kind).map_err(raise)?;
        let importance = self::importance(importance)?;
        let content = Content::of(data)?;
        let bytes = content.bytes();
        let is_long = self.agent.is_long(bytes.len());
        let smu =
            patiently(py, &self.agent, is_long, |on_full| self.agent.put(bytes, kind, name, importance, on_full))?;
        Ok(Smu { smu })
    }

    fn attach(&self, py: Python<'_>, key: &Bound<'_, PyAny>) -> PyResult<Smu> {
        let attached = if let Ok(smu) = key.cast::<Smu>() {
            let smu = &smu.get().smu;
            py.detach(|| self.agent.attach(smu))
        } else if let Ok(bytes) = key.cast::<PyBytes>() {
            let bytes: [u8; 32] = bytes.as_bytes().try_into().map_err(|_| invalid("an id as bytes has 32 of them"))?;
            py.detach(|| self.agent.attach_id(&ContentId(bytes)))
        } else {
            let text: &str = key.extract().map_err(|_| invalid("attach takes an id, a name or an Smu"))?;
            // 64 hex digits are an id; a name that looks like one would shadow nothing.
            match ContentId::parse(text) {
                Ok(id) => py.detach(|| self.agent.attach_id(&id)),
                Err(_) => py.detach(|| self.agent.attach_name(text)),
            }
        };
        Ok(Smu { smu: attached.map_err(raise)? })
    }

    fn share(&self, py: Python<'_>, smu: &Smu, to: &Agent) -> PyResult<Smu> {
        Ok(Smu { smu: py.detach(|| to.agent.attach(&smu.smu)).map_err(raise)? })
    }

    #[pyo3(signature = (smu, to_domain, *, expires_s=3600.0, uses=1))]
    fn grant(&self, py: Python<'_>, smu: &Smu, to_domain: Option<&str>, expires_s: f64, uses: u32) -> PyResult<String> {
        let lasts_ms = milliseconds(expires_s, "expires_s")?;
        py.detach(|| self.agent.grant(&smu.smu, to_domain.unwrap_or(""), lasts_ms, uses)).map_err(raise)
    }

    fn redeem(&self, py: Python<'_>, grant: &str) -> PyResult<Smu> {
        Ok(Smu { smu: py.detach(|| self.agent.redeem(grant)).map_err(raise)? })
    }

    fn release(&self, py: Python<'_>, held: &Bound<'_, PyAny>) -> PyResult<()> {
        if let Ok(smu) = held.cast::<Smu>() {
            let smu = &smu.get().smu;
            patiently(py, &self.agent, false, |on_full| self.agent.release(smu, on_full))
        } else if let Ok(conversation) = held.cast::<Conversation>() {
            let conversation = &conversation.get().conversation;
            py.detach(|| self.agent.release_conversation(conversation)).map_err(raise)
        } else {
            Err(invalid("release takes an Smu or a Conversation"))
        }
    }

    fn advise(&self, py: Python<'_>, held: &Bound<'_, PyAny>, advice: &str) -> PyResult<()> {
        let advice = Advice::parse(advice).map_err(raise)?;
        if let Ok(smu) = held.cast::<Smu>() {
            let smu = &smu.get().smu;
            py.detach(|| smu.advise(advice)).map_err(raise)
        } else if let Ok(conversation) = held.cast::<Conversation>() {
            let conversation = &conversation.get().conversation;
            py.detach(|| conversation.advise(advice)).map_err(raise)
        } else {
            Err(invalid("advise takes an Smu or a Conversation"))
        }
    }

    fn smus(&self, py: Python<'_>) -> PyResult<Vec<Smu>> {
        Ok(py.detach(|| self.agent.smus()).map_err(raise)?.into_iter().map(|smu| Smu { smu }).collect())
    }

    #[pyo3(signature = (name=None))]
    fn conversation(&self, py: Python<'_>, name: Option<&str>) -> PyResult<Conversation> {
        let conversation = py.detach(|| self.agent.conversation(name)).map_err(raise)?;
        Ok(Conversation::new(self.agent.clone(), conversation))
    }

    fn load(&self, py: Python<'_>, transcript: &Bound<'_, PyAny>) -> PyResult<Vec<Conversation>> {
        let content = Content::of(transcript)?;
        let bytes = content.bytes();
        let loaded = py.detach(|| self.agent.load(bytes)).map_err(raise)?;
        Ok(loaded.into_iter().map(|conversation| Conversation::new(self.agent.clone(), conversation)).collect())
    }

    fn conversations(&self, py: Python<'_>) -> PyResult<Vec<String>> {
        py.detach(|| self.agent.conversations()).map_err(raise)
    }

    fn pause(&self, py: Python<'_>) -> PyResult<()> {
        py.detach(|| self.agent.set_state(AgentState::Paused)).map_err(raise)
    }

    fn resume(&self, py: Python<'_>) -> PyResult<()> {
        py.detach(|| self.agent.set_state(AgentState::Active)).map_err(raise)
    }

    fn idle(&self, py: Python<'_>) -> PyResult<()> {
        py.detach(|| self.agent.set_state(AgentState::Idle)).map_err(raise)
    }

    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let stats = py.detach(|| self.agent.stats()).map_err(raise)?;
        agent_stats_dict(py, &stats)
    }

    #[pyo3(signature = (*, keep_empty=true))]
    fn leave(&self, py: Python<'_>, keep_empty: bool) -> PyResult<()> {
        let leave = || if keep_empty { self.agent.leave() } else { self.agent.leave_or_close() };
        py.detach(leave).map_err(raise)
    }

    fn close(&self, py: Python<'_>) -> PyResult<()> {
        py.detach(|| self.agent.close()).map_err(raise)
    }

    fn __enter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, py: Python<'_>, _exception: &Bound<'_, pyo3::types::PyTuple>) -> PyResult<()> {
        self.close(py)
    }

    fn __repr__(&self) -> String {
        format!("<agentmem.Agent {:?}>", self.agent.name())
    }
}
