//! The trees of processes that supervisors manage, as the daemon sees them: those of the registry beside its socket.

use crate::budget::Budget;
use crate::fleet::deal;
use agentmem_pager::fleet::Peer;
use agentmem_pager::peers::ask_all;
use agentmem_store::Server;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How often trees are asked what they take, and told what it is too much by.
const PAUSE: Duration = Duration::from_secs(2);

/// Where supervisors are found.
#[derive(Debug, Clone)]
pub struct Trees {
    folder: PathBuf,
}

impl Trees {
    /// Those of the registry beside `socket`: a daemon elsewhere is none of theirs.
    pub fn beside(socket: &Path) -> Self {
        Trees { folder: socket.with_file_name("agents") }
    }

    /// All that answer.
    pub fn all(&self) -> Vec<Peer> {
        ask_all(&self.folder, None)
    }

    /// Deals `budget` out between them and `server`, again and again, until the process ends.
    pub fn govern(&self, server: &Server, budget: &Budget) {
        let (mut beyond_budget, mut beyond_since) = (0.0, None::<Instant>);
        loop {
            let trees = ask_all(&self.folder, Some(beyond_budget));
            let beyond_ms = beyond_since.map_or(0, |since| since.elapsed().as_millis() as u64);
            let dealt = deal(budget.whole_bytes(), server.domains().needed_bytes(), &trees, beyond_ms);
            budget.set_left_by_trees(server, dealt.engine_bytes);
            beyond_budget = dealt.beyond_budget;
            beyond_since = if beyond_budget > 0.0 { beyond_since.or_else(|| Some(Instant::now())) } else { None };
            std::thread::sleep(PAUSE);
        }
    }
}
