//! Handles on content, and views of it.

use crate::arguments::in_thread;
use crate::errors::raise;
use agentmem_store as store;
use pyo3::exceptions::PyBufferError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyMemoryView, PyString};
use std::ffi::c_int;

/// A handle on one semantic memory unit.
#[pyclass(frozen, module = "agentmem")]
pub struct Smu {
    pub(crate) smu: store::Smu,
}

#[pymethods]
impl Smu {
    #[getter]
    fn kind(&self) -> &'static str {
        self.smu.kind().as_str()
    }

    #[getter]
    fn logical_bytes(&self) -> u64 {
        self.smu.logical_bytes()
    }

    #[getter]
    fn importance(&self) -> u8 {
        self.smu.importance()
    }

    #[getter]
    fn name(&self, py: Python<'_>) -> PyResult<Option<String>> {
        py.detach(|| self.smu.name()).map_err(raise)
    }

    #[getter]
    fn tier(&self, py: Python<'_>) -> PyResult<&'static str> {
        Ok(py.detach(|| self.smu.tier()).map_err(raise)?.as_str())
    }

    #[getter]
    fn numa_node(&self, py: Python<'_>) -> PyResult<Option<u32>> {
        py.detach(|| self.smu.numa_node()).map_err(raise)
    }

    #[getter]
    fn id(&self, py: Python<'_>) -> PyResult<String> {
        Ok(py.detach(|| self.smu.id()).map_err(raise)?.to_string())
    }

    #[getter]
    fn stored_bytes(&self, py: Python<'_>) -> PyResult<u64> {
        py.detach(|| self.smu.stored_bytes()).map_err(raise)
    }

    #[getter]
    fn shared_by(&self, py: Python<'_>) -> PyResult<u32> {
        py.detach(|| self.smu.shared_by()).map_err(raise)
    }

    fn view(&self, py: Python<'_>) -> PyResult<View> {
        let view = match self.smu.view_now().map_err(raise)? {
            Some(view) => view,
            None => py.detach(|| self.smu.view()).map_err(raise)?,
        };
        Ok(View { view: Some(view), exports: 0, is_left: false })
    }

    fn view_async<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        in_thread(slf.as_any(), "view", [])
    }

    fn read<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let view = py.detach(|| self.smu.view()).map_err(raise)?;
        Ok(PyBytes::new(py, &view))
    }

    fn text<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyString>> {
        let view = py.detach(|| self.smu.view()).map_err(raise)?;
        PyString::from_encoded_object(PyBytes::new(py, &view).as_any(), Some(c"utf-8"), Some(c"strict"))
    }

    fn __len__(&self) -> usize {
        self.smu.logical_bytes() as usize
    }

    fn __repr__(&self) -> String {
        format!("<agentmem.Smu {} of {} bytes>", self.smu.kind().as_str(), self.smu.logical_bytes())
    }
}

/// Pinned content as a read-only buffer.
#[pyclass(module = "agentmem")]
pub struct View {
    view: Option<store::View>,
    exports: usize,
    is_left: bool,
}

#[pymethods]
impl View {
    fn __enter__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyMemoryView>> {
        PyMemoryView::from(slf.as_any())
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&mut self, _exception: &Bound<'_, pyo3::types::PyTuple>) {
        self.release();
    }

    fn release(&mut self) {
        self.is_left = true;
        if self.exports == 0 {
            self.view = None;
        }
    }

    fn __len__(&self) -> PyResult<usize> {
        self.view.as_ref().map(|view| view.len()).ok_or_else(|| PyBufferError::new_err("the view was released"))
    }

    /// # Safety
    /// Python calls this with a `Py_buffer` to be filled.
    unsafe fn __getbuffer__(slf: Bound<'_, Self>, view: *mut ffi::Py_buffer, flags: c_int) -> PyResult<()> {
        let mut this = slf.borrow_mut();
        if this.is_left {
            return Err(PyBufferError::new_err("the view was released"));
        }
        let Some(shown) = &this.view else { return Err(PyBufferError::new_err("the view was released")) };
        let (start, len) = (shown.as_ptr(), shown.len());
        // SAFETY: Python gave us `view`; the bytes stay while an export exists, because `release`
        // keeps the pin until the last one is given back.
        let filled = unsafe {
            ffi::PyBuffer_FillInfo(view, slf.as_ptr(), start.cast_mut().cast(), len as ffi::Py_ssize_t, 1, flags)
        };
        if filled != 0 {
            return Err(PyErr::fetch(slf.py()));
        }
        this.exports += 1;
        Ok(())
    }

    /// # Safety
    /// Python calls this with a `Py_buffer` that `__getbuffer__` filled.
    unsafe fn __releasebuffer__(&mut self, _view: *mut ffi::Py_buffer) {
        self.exports -= 1;
        if self.exports == 0 && self.is_left {
            self.view = None;
        }
    }
}
