//! The budget of the engines: the least of what the trees leave of it and what the machine allows.

use agentmem_store::Server;
use std::sync::{Mutex, PoisonError};

/// See the module.
#[derive(Debug)]
pub struct Budget {
    whole_bytes: u64,
    parts: Mutex<Parts>,
}

#[derive(Debug, Clone, Copy)]
struct Parts {
    left_by_trees: u64,
    allowed_by_machine: u64,
}

impl Budget {
    /// All of `whole_bytes`, until somebody says less.
    pub fn new(whole_bytes: u64) -> Self {
        Budget { whole_bytes, parts: Mutex::new(Parts { left_by_trees: u64::MAX, allowed_by_machine: u64::MAX }) }
    }

    /// All of it.
    pub fn whole_bytes(&self) -> u64 {
        self.whole_bytes
    }

    /// The trees leave so much.
    pub fn set_left_by_trees(&self, server: &Server, bytes: u64) {
        self.set(server, |parts| parts.left_by_trees = bytes);
    }

    /// The machine allows so much.
    pub fn set_allowed_by_machine(&self, server: &Server, bytes: u64) {
        self.set(server, |parts| parts.allowed_by_machine = bytes);
    }

    fn set(&self, server: &Server, change: impl FnOnce(&mut Parts)) {
        // Held meanwhile, so that the engines hear of both.
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut parts);
        server.domains().set_memory_max_bytes(self.whole_bytes.min(parts.left_by_trees).min(parts.allowed_by_machine));
    }
}
