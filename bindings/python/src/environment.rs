//! The environment, as a program that this process started would have it.

use std::env;
use std::os::unix::ffi::OsStrExt;

use pyo3::prelude::*;
use pyo3::types::PyBytes;

/// `NAME=VALUE`, with a NUL between two. Python changes it under the GIL alone, which is held here.
#[pyfunction]
pub(crate) fn environment_block(py: Python<'_>) -> Bound<'_, PyBytes> {
    let mut block = Vec::new();
    for (name, value) in env::vars_os() {
        if !block.is_empty() {
            block.push(0);
        }
        block.extend_from_slice(name.as_bytes());
        block.push(b'=');
        block.extend_from_slice(value.as_bytes());
    }
    PyBytes::new(py, &block)
}
