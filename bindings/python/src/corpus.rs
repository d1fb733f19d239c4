//! Text for the demonstration and the benchmarks.

use crate::errors::raise;
use agentmem_core::{Error, ErrorKind};
use agentmem_corpus as corpus;
use agentmem_corpus::measure;
use agentmem_corpus::{AgentConversations, Original};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

/// Texts to measure with: transcripts, prompts and tool definitions.
#[pyclass(frozen, module = "agentmem")]
pub struct Corpus {
    corpus: Arc<corpus::Corpus>,
}

fn messages<'py>(
    py: Python<'py>,
    messages: impl ExactSizeIterator<Item = impl AsRef<[u8]>>,
) -> PyResult<Bound<'py, PyList>> {
    PyList::new(py, messages.map(|message| PyBytes::new(py, message.as_ref())))
}

fn unreadable(error: impl ToString) -> PyErr {
    raise(Error::new(ErrorKind::Io, error.to_string()))
}

#[pymethods]
impl Corpus {
    #[staticmethod]
    fn open(py: Python<'_>, paths: Vec<PathBuf>) -> PyResult<Corpus> {
        let read = || {
            let mut all = corpus::Corpus::default();
            for path in &paths {
                all.append(corpus::Corpus::open(path)?);
            }
            Ok(all)
        };
        let corpus = py.detach(read).map_err(|error: corpus::CorpusError| unreadable(error))?;
        Ok(Corpus { corpus: Arc::new(corpus) })
    }

    #[staticmethod]
    fn generate(py: Python<'_>, seed: u64, size_bytes: u64) -> Corpus {
        Corpus { corpus: Arc::new(py.detach(|| corpus::Corpus::generate(seed, size_bytes))) }
    }

    #[getter]
    fn synthetic(&self) -> bool {
        self.corpus.is_synthetic()
    }

    fn sources(&self) -> BTreeMap<&str, Vec<Vec<&str>>> {
        let mut sources: BTreeMap<&str, Vec<Vec<&str>>> = BTreeMap::new();
        let originals: Vec<Original<'_>> = self.corpus.originals().collect();
        for file in originals.chunk_by(|a, b| std::ptr::eq(a.file, b.file)) {
            let names = file.iter().map(|original| original.name).collect();
            sources.entry(&file[0].file.source).or_default().push(names);
        }
        sources
    }

    fn original<'py>(&self, py: Python<'py>, name: &str) -> PyResult<Bound<'py, PyList>> {
        let original = self.corpus.originals().find(|original| original.name == name);
        let original =
            original.ok_or_else(|| raise(Error::new(ErrorKind::NotFound, format!("conversation {name:?}"))))?;
        messages(py, original.messages())
    }

    fn rewritten(&self, seed: u64, agent: u64, target_bytes: u64) -> PyResult<Rewritten> {
        let corpus = Arc::clone(&self.corpus);
        // One conversation waits while the next is being rewritten; whoever drops the receiver ends it.
        let (sender, receiver) = sync_channel(1);
        let deal = move || {
            for conversation in AgentConversations::new(&corpus, seed, agent, target_bytes) {
                if sender.send(conversation).is_err() {
                    return;
                }
            }
        };
        thread::Builder::new().name("rewriter".into()).spawn(deal).map_err(unreadable)?;
        Ok(Rewritten { receiver: Mutex::new(receiver) })
    }

    fn prompt<'py>(&self, py: Python<'py>, seed: u64, size_bytes: usize) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &py.detach(|| corpus::prompt(&self.corpus, seed, size_bytes)))
    }

    fn tools<'py>(&self, py: Python<'py>, seed: u64, size_bytes: usize) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &py.detach(|| corpus::tools(&self.corpus, seed, size_bytes)))
    }
}

/// The conversations of one agent, rewritten on a thread of its own.
#[pyclass(frozen, module = "agentmem")]
pub struct Rewritten {
    receiver: Mutex<Receiver<corpus::Conversation>>,
}

#[pymethods]
impl Rewritten {
    fn __iter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __next__<'py>(&self, py: Python<'py>) -> PyResult<Option<(String, Bound<'py, PyList>)>> {
        let receive = || self.receiver.lock().unwrap_or_else(PoisonError::into_inner).recv().ok();
        let Some(conversation) = py.detach(receive) else { return Ok(None) };
        let text = &conversation.text;
        let list = messages(py, conversation.pieces.iter().map(|piece| piece.message(text)))?;
        Ok(Some((conversation.name, list)))
    }
}

/// How conversations compress.
#[pyclass(module = "agentmem")]
#[derive(Default)]
pub struct Tally {
    tally: measure::Tally,
}

#[pymethods]
impl Tally {
    #[new]
    fn new() -> Tally {
        Tally::default()
    }

    fn add(&mut self, py: Python<'_>, conversation: Vec<Bound<'_, PyBytes>>) -> PyResult<()> {
        let pieces: Vec<&[u8]> = conversation.iter().map(|message| message.as_bytes()).collect();
        let tally = &mut self.tally;
        py.detach(|| tally.add(pieces.into_iter())).map_err(unreadable)
    }

    #[getter]
    fn logical_bytes(&self) -> u64 {
        self.tally.original_bytes()
    }

    fn ratios(&self) -> BTreeMap<&'static str, f64> {
        self.tally.ratios().named().into_iter().collect()
    }
}

/// The messages of one agent, remembered by hash.
#[pyclass(frozen, module = "agentmem")]
#[derive(Default)]
pub struct MessageSet {
    set: Mutex<measure::MessageSet>,
}

#[pymethods]
impl MessageSet {
    #[new]
    fn new() -> MessageSet {
        MessageSet::default()
    }

    fn add(&self, messages: Vec<Bound<'_, PyBytes>>) {
        let mut set = self.set.lock().unwrap_or_else(PoisonError::into_inner);
        messages.iter().for_each(|message| set.insert(message.as_bytes()));
    }
}

/// The share of the bytes of all agents that lies in messages which some other agent has too.
#[pyfunction]
pub fn equal_share(py: Python<'_>, agents: Vec<Bound<'_, MessageSet>>) -> f64 {
    let lock = |set: &Bound<'_, MessageSet>| set.get().set.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let sets: Vec<measure::MessageSet> = agents.iter().map(lock).collect();
    py.detach(|| measure::equal_share(&sets))
}
