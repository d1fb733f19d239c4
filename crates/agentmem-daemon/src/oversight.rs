//! Looks once a second, and at once when tasks wait for memory: makes room before the kernel has to kill, and has it
//! kill the least important first if it must.

use crate::budget::Budget;
use crate::config::Config;
use crate::headroom::{Headroom, Reason, Sight};
use crate::machine::Machine;
use crate::notify::Kept;
use crate::scores::Scores;
use agentmem_core::{Error, ErrorKind, Result};
use agentmem_store::Server;
use rustix::fs::{MemfdFlags, memfd_create};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

const PAUSE: Duration = Duration::from_secs(1);
/// What the memory of changed scores is kept as.
pub const SCORES: &str = "scores";

/// See the module.
#[derive(Debug)]
pub struct Oversight {
    heeds_pressure: bool,
    /// Nothing where they are not to be set, and once the daemon ends.
    scores: Mutex<Option<Scores>>,
    figures: Figures,
}

/// What is looked at, and what was decided before.
#[derive(Debug)]
pub struct Watch {
    machine: Machine,
    headroom: Headroom,
    begin: Instant,
}

impl Watch {
    /// On the machine, for engines with that budget.
    pub fn new(budget: &Budget) -> Self {
        Watch { machine: Machine::own(), headroom: Headroom::new(budget.whole_bytes()), begin: Instant::now() }
    }
}

/// What came of it so far.
#[derive(Debug)]
struct Figures {
    allowed_bytes: AtomicU64,
    scarce: AtomicU64,
    stalled: AtomicU64,
    scored: AtomicU64,
}

/// The same, at one moment.
#[derive(Debug, Clone, Copy)]
pub struct Overseen {
    /// What the machine allows the engines.
    pub allowed_bytes: u64,
    /// How often something was given back because there was not enough.
    pub scarce: u64,
    /// How often because tasks waited.
    pub stalled: u64,
    /// Processes whose score is another than it was.
    pub scored: u64,
}

impl Oversight {
    /// As the configuration has it; `remembered` is what an engine that was killed left as [`SCORES`].
    pub fn new(config: &Config, budget_bytes: u64, kept: &Kept, remembered: Option<OwnedFd>) -> Result<Self> {
        let remembered = remembered.map(|memory| Scores::new(File::from(memory)));
        let scores = match (config.oom_score, remembered) {
            (true, Some(scores)) => Some(scores),
            (true, None) => {
                let failed = |error| Error::new(ErrorKind::Io, format!("memory for scores: {error}"));
                let memory = memfd_create("agentmem-scores", MemfdFlags::CLOEXEC).map_err(failed)?;
                kept.store(SCORES, &memory)?;
                Some(Scores::new(File::from(memory)))
            }
            (false, Some(mut scores)) => {
                scores.put_all_back();
                kept.remove(SCORES)?;
                None
            }
            (false, None) => None,
        };
        let [scarce, stalled, scored] = [(); 3].map(|()| AtomicU64::new(0));
        let figures = Figures { allowed_bytes: AtomicU64::new(budget_bytes), scarce, stalled, scored };
        Ok(Oversight { heeds_pressure: config.pressure, scores: Mutex::new(scores), figures })
    }

    /// Looks and does what follows.
    pub fn look(&self, watch: &mut Watch, server: &Server, budget: &Budget) {
        if self.heeds_pressure {
            let now_ms = watch.begin.elapsed().as_millis() as u64;
            self.heed(server, budget, &mut watch.headroom, now_ms, &watch.machine.look());
        }
        self.set_scores(server);
    }

    /// The same again and again, until the process ends.
    pub fn run(&self, mut watch: Watch, server: &Server, budget: &Budget) {
        loop {
            watch.machine.wait(PAUSE);
            self.look(&mut watch, server, budget);
        }
    }

    /// Does what follows from what was seen.
    fn heed(&self, server: &Server, budget: &Budget, headroom: &mut Headroom, now_ms: u64, sight: &Sight) {
        let reason = headroom.look(now_ms, server.domains().needed_bytes(), sight);
        let allowed_bytes = headroom.allowed_bytes();
        budget.set_allowed_by_machine(server, allowed_bytes);
        self.figures.allowed_bytes.store(allowed_bytes, Ordering::Relaxed);
        let times = match reason {
            Some(Reason::Scarce) => &self.figures.scarce,
            Some(Reason::Stalled) => &self.figures.stalled,
            None => return,
        };
        times.fetch_add(1, Ordering::Relaxed);
        // Engines demote to what each may have now, and keep nothing only to be quick.
        server.domains().govern();
        server.domains().relieve();
    }

    fn set_scores(&self, server: &Server) {
        if let Some(scores) = &mut *self.scores() {
            let domains = server.domains().all();
            let processes: Vec<_> = domains.iter().flat_map(|(_, domain)| domain.store.processes()).collect();
            scores.follow(&processes);
            self.figures.scored.store(scores.changed() as u64, Ordering::Relaxed);
        }
    }

    /// What came of it so far.
    pub fn figures(&self) -> Overseen {
        let of = |figure: &AtomicU64| figure.load(Ordering::Relaxed);
        let Figures { allowed_bytes, scarce, stalled, scored } = &self.figures;
        Overseen { allowed_bytes: of(allowed_bytes), scarce: of(scarce), stalled: of(stalled), scored: of(scored) }
    }

    /// Everybody's score is what it was, as the daemon ends.
    pub fn end(&self) {
        if let Some(mut scores) = self.scores().take() {
            scores.put_all_back();
        }
    }

    fn scores(&self) -> MutexGuard<'_, Option<Scores>> {
        self.scores.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::headroom::Room;
    use agentmem_core::Kind;
    use agentmem_store::{Domains, Limits, OnFull, Options};

    const MIB: u64 = 1 << 20;

    fn oversight(config: &Config) -> Oversight {
        Oversight::new(config, 128 * MIB, &Kept::nobody(), None).unwrap()
    }

    /// Words that shrink to a part.
    fn text(seed: u64, len: usize) -> Vec<u8> {
        let words = (seed * 1000..).flat_map(|number| format!("word {} ", number * 7919 % 10_007).into_bytes());
        words.take(len).collect()
    }

    #[test]
    fn memory_is_given_back_to_the_machine_and_nothing_is_lost() {
        let options = |_: &str| Ok(Options { memory_max_bytes: 128 * MIB, pressure: false, ..Options::default() });
        let domains = Domains::new(128 * MIB, Limits::default(), Box::new(options)).unwrap();
        let server = Server::new(domains, Box::new(|_, _| {}));
        let own = server.domains().enter("", b"").unwrap();
        let agent = own.store.agent("a", None, None, None).unwrap();
        let held: Vec<_> = (0..60)
            .map(|seed| {
                let bytes = text(seed, MIB as usize);
                (agent.put(&bytes, Kind::ToolResult, None, 50, OnFull::Wait).unwrap(), bytes)
            })
            .collect();
        for (smu, _) in &held {
            smu.id().unwrap();
        }
        let taken = server.domains().needed_bytes();
        assert!(taken > 50 * MIB, "{taken}");
        let (oversight, budget) = (oversight(&Config::default()), Budget::new(128 * MIB));
        let mut headroom = Headroom::new(128 * MIB);
        let mut see = |now_ms, available_bytes| {
            let rooms = vec![Room { total_bytes: 1600 * MIB, available_bytes }];
            oversight.heed(&server, &budget, &mut headroom, now_ms, &Sight { rooms, ..Sight::default() });
        };
        see(0, 1000 * MIB);
        assert_eq!((server.domains().memory_max_bytes(), oversight.figures().scarce), (128 * MIB, 0));
        // A tenth of a gigabyte is to be left to others, and 30 MiB of it are missing.
        see(1000, 70 * MIB);
        let allowed = taken - 30 * MIB;
        assert_eq!((server.domains().memory_max_bytes(), oversight.figures().allowed_bytes), (allowed, allowed));
        assert!(server.domains().needed_bytes() <= allowed);
        assert!(own.store.stats().unwrap().resident_bytes <= allowed);
        assert_eq!((oversight.figures().scarce, oversight.figures().stalled), (1, 0));
        // What trees leave may be still less, and counts then.
        budget.set_left_by_trees(&server, 20 * MIB);
        assert_eq!(server.domains().memory_max_bytes(), 20 * MIB);
        budget.set_left_by_trees(&server, u64::MAX);
        assert_eq!(server.domains().memory_max_bytes(), allowed);
        for (smu, bytes) in &held {
            assert_eq!(smu.view().unwrap().bytes(), bytes);
        }
        server.stop().unwrap();
    }

    #[test]
    fn without_scores_what_was_changed_before_is_put_back() {
        let memory = || File::from(memfd_create("test", MemfdFlags::CLOEXEC).unwrap());
        let mut child = std::process::Command::new("sleep").arg("100").spawn().unwrap();
        let score = || std::fs::read_to_string(format!("/proc/{}/oom_score_adj", child.id())).unwrap();
        let before = score();
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
        let started = stat.rsplit_once(") ").unwrap().1.split(' ').nth(19).unwrap().parse().unwrap();
        let mut scores = Scores::new(memory());
        let remembered = memory();
        let mut killed = Scores::new(remembered.try_clone().unwrap());
        let process = agentmem_store::SessionProcess { pid: child.id(), started, importance: 0 };
        killed.follow(&[process]);
        assert_ne!(score(), before);
        scores.follow(&[]);
        assert_ne!(score(), before, "that is none of its business");
        let off = Config { oom_score: false, ..Config::default() };
        let oversight = Oversight::new(&off, 128 * MIB, &Kept::nobody(), Some(remembered.into())).unwrap();
        assert_eq!(score(), before);
        assert!(oversight.scores().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
