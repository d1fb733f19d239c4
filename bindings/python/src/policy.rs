//! Policies written in Python.

use agentmem_core::policy::{Candidate, Policy};
use pyo3::prelude::*;
use pyo3::types::PyList;

/// An object with `choose(batch)`.
pub struct PythonPolicy {
    name: String,
    object: Py<PyAny>,
    has_complained: bool,
}

impl PythonPolicy {
    /// Asks `object` from now on.
    pub fn new(object: &Bound<'_, PyAny>) -> Self {
        PythonPolicy {
            name: crate::arguments::type_name(object),
            object: object.clone().unbind(),
            has_complained: false,
        }
    }

    fn choose(&self, py: Python<'_>, batch: &[Candidate]) -> PyResult<Vec<usize>> {
        let rows = batch.iter().map(|candidate| {
            (
                &*candidate.agent,
                candidate.agent_state.as_str(),
                candidate.agent_importance,
                candidate.agent_idle_ms as f64 / 1000.0,
                candidate.kind.as_str(),
                candidate.importance,
                candidate.resident_bytes,
                candidate.idle_ms as f64 / 1000.0,
                candidate.uses,
                f64::from(candidate.restore_us),
            )
        });
        let rows: PyResult<Vec<_>> = rows.map(|row| row.into_pyobject(py)).collect();
        self.object.bind(py).call_method1("choose", (PyList::new(py, rows?)?,))?.extract()
    }
}

impl Policy for PythonPolicy {
    fn name(&self) -> &str {
        &self.name
    }

    fn order(&mut self, batch: &[Candidate]) -> Option<Vec<usize>> {
        // The engine counts each failure and falls back; Python hears of the first, as of any error
        // that nobody can catch.
        let chosen = Python::attach(|py| {
            self.choose(py, batch).map_err(|error| {
                if !self.has_complained {
                    error.write_unraisable(py, None);
                }
            })
        });
        self.has_complained |= chosen.is_err();
        chosen.ok()
    }
}
