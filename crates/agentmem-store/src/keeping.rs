//! What keeps memory beyond the death of the engine's process: somebody outside who holds its descriptors.

use crate::sys::Mapping;
use agentmem_core::Result;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// Holds descriptors by name, outside of this process.
pub trait Keep: Send + Sync {
    /// Holds a descriptor from now on. May wait until whoever holds it listens.
    fn keep(&self, name: &str, descriptor: BorrowedFd<'_>) -> Result<()>;
    /// The same, where nobody has to be waited for; whether it is held.
    fn keep_at_once(&self, name: &str, descriptor: BorrowedFd<'_>) -> Result<bool>;
    /// Lets go of it, soon. Never waits: whoever lets go mostly has the engine's lock.
    fn let_go(&self, name: &str);
}

/// Where one store has its memory kept, and what was kept there when it began.
pub struct Keeping {
    keep: Arc<dyn Keep>,
    /// In front of every name, since stores share who keeps.
    prefix: String,
    /// By name without the prefix; what recovery does not take is let go of.
    found: Mutex<BTreeMap<String, OwnedFd>>,
    /// The names of all that is kept.
    held: Mutex<BTreeSet<String>>,
}

impl std::fmt::Debug for Keeping {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Keeping({:?}, {} found)", self.prefix, self.found.lock().len())
    }
}

impl Keeping {
    /// For a store whose names begin with `prefix`: takes what is its own out of `found`.
    pub fn new(keep: Arc<dyn Keep>, prefix: &str, found: &mut BTreeMap<String, OwnedFd>) -> Self {
        let own: Vec<String> = found.keys().filter(|name| name.starts_with(prefix)).cloned().collect();
        let take = |name: String| found.remove(&name).map(|found| (name[prefix.len()..].to_owned(), found));
        let found: BTreeMap<String, OwnedFd> = own.into_iter().filter_map(take).collect();
        let held = Mutex::new(found.keys().cloned().collect());
        Keeping { keep, prefix: prefix.to_owned(), found: Mutex::new(found), held }
    }

    /// Takes what was kept as `name`.
    pub fn take(&self, name: &str) -> Option<OwnedFd> {
        self.found.lock().remove(name)
    }

    /// Has `descriptor` kept as `name`.
    pub fn keep(&self, name: &str, descriptor: impl AsFd) -> Result<()> {
        self.keep.keep(&format!("{}{name}", self.prefix), descriptor.as_fd())?;
        self.held.lock().insert(name.to_owned());
        Ok(())
    }

    /// The same under the engine's lock, where nobody can be waited for; whether it is kept.
    pub fn keep_at_once(&self, name: &str, descriptor: impl AsFd) -> Result<bool> {
        let is_kept = self.keep.keep_at_once(&format!("{}{name}", self.prefix), descriptor.as_fd())?;
        if is_kept {
            self.held.lock().insert(name.to_owned());
        }
        Ok(is_kept)
    }

    /// As [`Self::keep`], with the memory of `mapping`.
    pub fn keep_mapping(&self, name: &str, mapping: &Mapping) -> Result<()> {
        self.keep(name, mapping.descriptor()?)
    }

    /// What was kept as `name` is not needed any more.
    pub fn let_go(&self, name: &str) {
        if self.held.lock().remove(name) {
            self.keep.let_go(&format!("{}{name}", self.prefix));
        }
    }

    /// Nothing is to be kept any more.
    pub fn let_go_of_everything(&self) {
        let held = self.held.lock().clone();
        held.iter().for_each(|name| self.let_go(name));
    }

    /// Lets go of all that was found and not taken.
    pub fn let_go_of_the_rest(&self) {
        for name in std::mem::take(&mut *self.found.lock()).into_keys() {
            self.let_go(&name);
        }
    }
}
