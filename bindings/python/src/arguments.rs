//! Arguments as Python gives them: content, sizes, messages.

use crate::errors::{invalid, raise};
use agentmem_core::smu::check_importance;
use pyo3::buffer::PyUntypedBuffer;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyByteArray, PyBytes, PyDict, PyMemoryView, PyString};

/// Content, readable without the GIL as long as this lives.
pub enum Content<'py> {
    /// The bytes of an immutable `bytes` or `str`, which the caller's argument keeps.
    Borrowed(&'py [u8]),
    /// An exported buffer: it can be written by others meanwhile, but not freed or moved.
    Exported(PyUntypedBuffer),
}

impl<'py> Content<'py> {
    /// `data` as content; text is UTF-8.
    #[inline]
    pub fn of(data: &'py Bound<'py, PyAny>) -> PyResult<Self> {
        if let Ok(bytes) = data.cast::<PyBytes>() {
            Ok(Content::Borrowed(bytes.as_bytes()))
        } else if let Ok(text) = data.cast::<PyString>() {
            Ok(Content::Borrowed(text.to_str()?.as_bytes()))
        } else {
            Self::exported(data)
        }
    }

    fn exported(data: &Bound<'py, PyAny>) -> PyResult<Self> {
        let buffer = PyUntypedBuffer::get(data)
            .map_err(|error| invalid(format!("content of type {}: {error}", type_name(data))))?;
        if !buffer.is_c_contiguous() {
            return Err(invalid("a buffer that is not contiguous"));
        }
        Ok(Content::Exported(buffer))
    }

    /// The bytes.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        match self {
            Content::Borrowed(bytes) => bytes,
            Content::Exported(buffer) if buffer.len_bytes() == 0 => &[],
            // SAFETY: the export keeps `len_bytes` bytes readable there while `self` lives. Another
            // thread that writes to its own bytearray during a put gets what it deserves: some mix
            // of old and new bytes is stored, each of them a byte.
            Content::Exported(buffer) => unsafe {
                std::slice::from_raw_parts(buffer.buf_ptr().cast::<u8>(), buffer.len_bytes())
            },
        }
    }
}

/// Name of a value's type, for errors.
pub fn type_name(value: &Bound<'_, PyAny>) -> String {
    value.get_type().name().map_or_else(|_| "?".into(), |name| name.to_string())
}

/// Bytes, as a number or as text such as "2G".
pub fn size(value: &Bound<'_, PyAny>) -> PyResult<u64> {
    if let Ok(number) = value.extract::<u64>() {
        return Ok(number);
    }
    let refuse = || invalid(format!("{value} is not a size: give bytes, or text such as \"512M\""));
    let text: String = value.extract().map_err(|_| refuse())?;
    let text = text.trim();
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match text[digits.len()..].to_ascii_uppercase().trim_end_matches("IB").trim_end_matches('B') {
        "" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        _ => return Err(refuse()),
    };
    let amount: f64 = digits.trim().parse().map_err(|_| refuse())?;
    let bytes = amount * (1u64 << shift) as f64;
    if (0.0..u64::MAX as f64).contains(&bytes) { Ok(bytes as u64) } else { Err(refuse()) }
}

/// An importance in 0 to 100.
pub fn importance(value: i64) -> PyResult<u8> {
    check_importance(value).map_err(raise)
}

/// Whether a message is kept as the bytes it is.
pub fn is_bytes_like(message: &Bound<'_, PyAny>) -> bool {
    message.is_instance_of::<PyBytes>()
        || message.is_instance_of::<PyByteArray>()
        || message.is_instance_of::<PyMemoryView>()
        || (!message.is_instance_of::<PyString>()
            && !message.is_instance_of::<PyDict>()
            && PyUntypedBuffer::get(message).is_ok())
}

static CODEC: PyOnceLock<Py<PyAny>> = PyOnceLock::new();

fn codec(py: Python<'_>) -> PyResult<&Bound<'_, PyAny>> {
    Ok(CODEC.get_or_try_init(py, || PyResult::Ok(py.import("agentmem._values")?.into_any().unbind()))?.bind(py))
}

/// A value as the JSON bytes that give an equal value back.
pub fn encode_value<'py>(message: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
    Ok(codec(message.py())?.call_method1("encode", (message,))?.cast_into::<PyBytes>()?)
}

/// The value that was encoded.
pub fn decode_value<'py>(py: Python<'py>, bytes: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    codec(py)?.call_method1("decode", (PyBytes::new(py, bytes),))
}

/// Runs `method` of `object` in a worker thread of asyncio's.
pub fn in_thread<'py>(
    object: &Bound<'py, PyAny>,
    method: &str,
    arguments: impl IntoIterator<Item = Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = object.py();
    let mut all = vec![object.getattr(method)?];
    all.extend(arguments);
    py.import("asyncio")?.call_method1("to_thread", pyo3::types::PyTuple::new(py, all)?)
}
