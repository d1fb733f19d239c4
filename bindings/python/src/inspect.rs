//! What a store says of anything in it, whoever holds it.

use crate::errors::raise;
use crate::store::Store;
use agentmem_core::ContentId;
use agentmem_store::{ConversationDescription, Described, FrameDescription, SmuDescription};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};

/// The bytes of a content or conversation, piece by piece.
#[pyclass(module = "agentmem")]
pub struct Pieces {
    store: Py<Store>,
    rest: Rest,
}

/// What is to come.
enum Rest {
    /// Of a content, from this offset on.
    Content(ContentId, u64),
    /// Of a conversation, the messages from the first number to the second.
    Conversation(u32, u32, u32),
}

impl Pieces {
    /// Those of what `key` means.
    pub fn of(store: &Bound<'_, Store>, key: &str) -> PyResult<Self> {
        let engine = &store.get().engine;
        let described = store.py().detach(|| engine.inspect(key)).map_err(raise)?;
        let rest = match described {
            Described::Smu(smu) => Rest::Content(ContentId(smu.id), 0),
            Described::Conversation(found) => Rest::Conversation(found.number, 0, found.messages as u32),
        };
        Ok(Pieces { store: store.clone().unbind(), rest })
    }
}

#[pymethods]
impl Pieces {
    fn __iter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __next__<'py>(&mut self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyBytes>>> {
        let (rest, engine) = (&mut self.rest, &self.store.get().engine);
        let piece = py.detach(|| match rest {
            Rest::Content(id, offset_bytes) => {
                let piece = engine.read_content(id, *offset_bytes)?;
                *offset_bytes += piece.len() as u64;
                Ok(piece)
            }
            Rest::Conversation(_, at, end) if at == end => Ok(Vec::new()),
            Rest::Conversation(number, at, end) => {
                let messages = engine.read_messages(*number, *at, *end)?;
                *at += messages.len() as u32;
                let mut piece = Vec::new();
                messages.iter().for_each(|message| message.render(&mut piece));
                Ok(piece)
            }
        });
        let piece = piece.map_err(raise)?;
        // Messages may be empty, but at the end there are none.
        let is_over = piece.is_empty() && !matches!(self.rest, Rest::Conversation(_, at, end) if at < end);
        Ok((!is_over).then(|| PyBytes::new(py, &piece)))
    }
}

/// A description as a dict.
pub fn description_dict<'py>(py: Python<'py>, described: &Described) -> PyResult<Bound<'py, PyDict>> {
    match described {
        Described::Smu(smu) => smu_dict(py, smu),
        Described::Conversation(conversation) => conversation_dict(py, conversation),
    }
}

fn smu_dict<'py>(py: Python<'py>, smu: &SmuDescription) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("id", ContentId(smu.id).to_string())?;
    dict.set_item("kind", smu.kind.as_str())?;
    dict.set_item("names", &smu.names)?;
    dict.set_item("importance", smu.importance)?;
    dict.set_item("logical_bytes", smu.logical_bytes)?;
    dict.set_item("stored_bytes", smu.stored_bytes)?;
    dict.set_item("tier", smu.tier.as_str())?;
    dict.set_item("pinned", smu.is_pinned)?;
    dict.set_item("shared_by", smu.shared_by)?;
    let holders = PyDict::new(py);
    for (name, references) in &smu.holders {
        holders.set_item(name, references)?;
    }
    dict.set_item("holders", holders)?;
    dict.set_item("unused_s", smu.unused_ms as f64 / 1000.0)?;
    dict.set_item("frames", frame_dicts(py, &smu.frames)?)?;
    Ok(dict)
}

fn conversation_dict<'py>(py: Python<'py>, found: &ConversationDescription) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("agent", &found.agent)?;
    dict.set_item("conversation", &found.name)?;
    dict.set_item("kind", "conversation")?;
    dict.set_item("messages", found.messages)?;
    dict.set_item("logical_bytes", found.logical_bytes)?;
    dict.set_item("stored_bytes", found.stored_bytes)?;
    dict.set_item("tail_bytes", found.tail_bytes)?;
    dict.set_item("unused_s", found.unused_ms as f64 / 1000.0)?;
    dict.set_item("frames", frame_dicts(py, &found.frames)?)?;
    Ok(dict)
}

fn frame_dicts<'py>(py: Python<'py>, frames: &[FrameDescription]) -> PyResult<Vec<Bound<'py, PyDict>>> {
    let dict_of = |frame: &FrameDescription| {
        let dict = PyDict::new(py);
        dict.set_item("number", frame.number)?;
        dict.set_item("codec", &frame.codec)?;
        dict.set_item("logical_bytes", frame.logical_bytes)?;
        dict.set_item("stored_bytes", frame.stored_bytes)?;
        dict.set_item("items", frame.items)?;
        dict.set_item("in_ram", frame.is_warm)?;
        dict.set_item("on_ssd", frame.is_cold)?;
        dict.set_item("age_s", frame.age_ms as f64 / 1000.0)?;
        Ok(dict)
    };
    frames.iter().map(dict_of).collect()
}
