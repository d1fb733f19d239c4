//! Conversations.

use crate::agent::{Agent, patiently};
use crate::arguments::{Content, decode_value, encode_value, in_thread, is_bytes_like};
use crate::errors::{invalid, raise};
use agentmem_core::frame::Meta;
use agentmem_store as store;
use agentmem_store::StoredMessage;
use pyo3::exceptions::PyIndexError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PySlice};
use std::collections::VecDeque;

/// An ordered, forkable list of messages.
#[pyclass(frozen, module = "agentmem")]
pub struct Conversation {
    agent: store::Agent,
    pub(crate) conversation: store::Conversation,
}

/// A message as it was given.
fn give_back<'py>(py: Python<'py>, message: &StoredMessage) -> PyResult<Bound<'py, PyAny>> {
    match message.meta.is_value {
        true => decode_value(py, message.own_bytes()),
        false => Ok(PyBytes::new(py, message.own_bytes()).into_any()),
    }
}

impl Conversation {
    /// Wraps what the engine gave.
    pub fn new(agent: store::Agent, conversation: store::Conversation) -> Self {
        Conversation { agent, conversation }
    }

    fn one(&self, py: Python<'_>, index: isize) -> PyResult<StoredMessage> {
        py.detach(|| {
            let len = self.conversation.len()?;
            let at = if index < 0 { len as i64 + index as i64 } else { index as i64 };
            match u64::try_from(at) {
                Ok(at) if at < len => Ok(self.conversation.read(at, at + 1)?.pop()),
                _ => Ok(None),
            }
        })
        .map_err(raise)?
        .ok_or_else(|| PyIndexError::new_err(format!("message {index}")))
    }

    fn push(&self, py: Python<'_>, bytes: &[u8], is_value: bool) -> PyResult<()> {
        let meta = Meta { is_value, ..Meta::default() };
        let is_long = self.agent.is_long(bytes.len());
        patiently(py, &self.agent, is_long, |on_full| self.conversation.append(bytes, meta, on_full))
    }
}

#[pymethods]
impl Conversation {
    #[getter]
    fn name(&self) -> &str {
        self.conversation.name()
    }

    #[getter]
    fn logical_bytes(&self) -> PyResult<u64> {
        self.conversation.logical_bytes().map_err(raise)
    }

    #[getter]
    fn stored_bytes(&self, py: Python<'_>) -> PyResult<u64> {
        py.detach(|| self.conversation.stored_bytes()).map_err(raise)
    }

    fn append(&self, message: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = message.py();
        if is_bytes_like(message) {
            return self.push(py, Content::of(message)?.bytes(), false);
        }
        self.push(py, encode_value(message)?.as_bytes(), true)
    }

    fn extend(&self, messages: &Bound<'_, PyAny>) -> PyResult<()> {
        for message in messages.try_iter()? {
            self.append(&message?)?;
        }
        Ok(())
    }

    fn load(&self, py: Python<'_>, transcript: &Bound<'_, PyAny>) -> PyResult<usize> {
        let content = Content::of(transcript)?;
        let bytes = content.bytes();
        py.detach(|| self.conversation.load(bytes)).map_err(raise)
    }

    fn render<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let text = py.detach(|| {
            let len = self.conversation.len()?;
            let (mut text, mut at) = (Vec::new(), 0);
            while at < len {
                for message in self.conversation.read(at, len)? {
                    message.render(&mut text);
                    at += 1;
                }
            }
            Ok(text)
        });
        Ok(PyBytes::new(py, &text.map_err(raise)?))
    }

    #[pyo3(signature = (at=None, *, name=None, agent=None))]
    fn fork(
        &self,
        py: Python<'_>,
        at: Option<i64>,
        name: Option<&str>,
        agent: Option<&Bound<'_, Agent>>,
    ) -> PyResult<Conversation> {
        let at = at.map(|at| u64::try_from(at).map_err(|_| invalid(format!("a fork at {at}")))).transpose()?;
        let agent = agent.map_or(&self.agent, |agent| &agent.get().agent);
        let forked = py.detach(|| self.conversation.fork(agent, at, name)).map_err(raise)?;
        Ok(Conversation::new(agent.clone(), forked))
    }

    fn raw<'py>(&self, py: Python<'py>, index: isize) -> PyResult<Bound<'py, PyBytes>> {
        Ok(PyBytes::new(py, self.one(py, index)?.own_bytes()))
    }

    fn read_async<'py>(slf: &Bound<'py, Self>, index: Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        in_thread(slf.as_any(), "__getitem__", [index])
    }

    fn __len__(&self) -> PyResult<usize> {
        Ok(self.conversation.len().map_err(raise)? as usize)
    }

    fn __getitem__<'py>(&self, key: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let py = key.py();
        let Ok(slice) = key.cast::<PySlice>() else {
            return give_back(py, &self.one(py, key.extract()?)?);
        };
        let indices = slice.indices(self.__len__()? as isize)?;
        let list = PyList::empty(py);
        if indices.step == 1 {
            let mut messages = Messages::over(self, indices.start as u64, indices.stop.max(indices.start) as u64);
            while let Some(message) = messages.take(py)? {
                list.append(give_back(py, &message)?)?;
            }
            return Ok(list.into_any());
        }
        let mut at = indices.start;
        for _ in 0..indices.slicelength {
            list.append(give_back(py, &self.one(py, at)?)?)?;
            at += indices.step;
        }
        Ok(list.into_any())
    }

    fn __iter__(&self) -> PyResult<Messages> {
        Ok(Messages::over(self, 0, u64::MAX))
    }

    fn __repr__(&self) -> String {
        format!("<agentmem.Conversation {:?}>", self.conversation.name())
    }
}

/// Walks over the messages of a conversation, a frame at a time.
#[pyclass(module = "agentmem")]
pub struct Messages {
    conversation: store::Conversation,
    at: u64,
    end: u64,
    ahead: VecDeque<StoredMessage>,
}

impl Messages {
    fn over(conversation: &Conversation, at: u64, end: u64) -> Self {
        Messages { conversation: conversation.conversation.clone(), at, end, ahead: VecDeque::new() }
    }

    fn take(&mut self, py: Python<'_>) -> PyResult<Option<StoredMessage>> {
        if self.ahead.is_empty() {
            let (conversation, at, end) = (&self.conversation, self.at, self.end);
            self.ahead = py
                .detach(|| {
                    let end = end.min(conversation.len()?);
                    if at < end { conversation.read(at, end) } else { Ok(Vec::new()) }
                })
                .map_err(raise)?
                .into();
        }
        let next = self.ahead.pop_front();
        self.at += u64::from(next.is_some());
        Ok(next)
    }
}

#[pymethods]
impl Messages {
    fn __iter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __next__<'py>(&mut self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        self.take(py)?.map(|message| give_back(py, &message)).transpose()
    }
}
