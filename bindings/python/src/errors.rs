//! Errors: the engine's kinds become the classes of `agentmem.errors`.

use agentmem_core::{Error, ErrorKind};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyDict;

static BY_NUMBER: PyOnceLock<Py<PyDict>> = PyOnceLock::new();

/// `error` as the Python exception that the table names.
pub fn raise(error: Error) -> PyErr {
    Python::attach(|py| match class_of(py, error.kind()) {
        Ok(class) => match class.call1((error.to_string(),)) {
            Ok(instance) => PyErr::from_value(instance),
            Err(other) => other,
        },
        Err(other) => other,
    })
}

fn class_of(py: Python<'_>, kind: ErrorKind) -> PyResult<Bound<'_, PyAny>> {
    let table = BY_NUMBER.get_or_try_init(py, || {
        PyResult::Ok(py.import("agentmem.errors")?.getattr("BY_NUMBER")?.cast_into::<PyDict>()?.unbind())
    })?;
    let class = table.bind(py).get_item(kind.number())?;
    class.ok_or_else(|| pyo3::exceptions::PyRuntimeError::new_err("the error tables do not agree"))
}

/// An argument that makes no sense.
pub fn invalid(what: impl Into<String>) -> PyErr {
    raise(Error::new(ErrorKind::InvalidArgument, what))
}
