//! What a supervisor needs to manage its tree: whether this machine lets it, a pager, and an observer.

use crate::agent::{Move, Quiet};
use crate::arguments::Settings;
use crate::event::State;
use crate::fleet::{self, Peer};
use crate::idle::{Idleness, Turn};
use crate::managed::TreePager;
use crate::memory;
use crate::observer::{Activity, Equip, Equipment, Observer, Tree};
use crate::paging::Held;
use crate::peers::Peers;
use crate::sample::sample;
use crate::status::Measured;
use crate::tracing;
use crate::tree::{self, Reaper};
use rustix::process::Pid;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Equipment for trees that are paged out and frozen.
#[derive(Debug)]
pub struct Paged;

/// Squeezing takes three times the processor time of paging out, for six percent of memory: who is away between two
/// answers is spared that, and who has been away for so long will likely stay away.
const SQUEEZE_AFTER_MS: u64 = 120_000;

/// What the daemon said holds for so long: it may have ended.
const TOLD_FOR: Duration = Duration::from_secs(10);

/// At the importance that agents have by default; see [`fleet::may_move_to_ssd`].
const SSD_AFTER_MS: u64 = 30 * 60 * 1000;

/// Without it, no page can be guarded, and what was said to people is this.
const NO_USERFAULTFD: &str = "this user may not handle page faults of agents: run `sudo agentmem setup` once, or add --best-effort to have them frozen only";

impl Equip for Paged {
    fn check(&self, settings: &Settings) -> Result<(), String> {
        if !settings.freeze {
            return Ok(());
        }
        tracing::check_own()?;
        if crate::userfault::is_permitted() || memory::has_swap() { Ok(()) } else { Err(NO_USERFAULTFD.into()) }
    }

    fn check_adopted(&self, settings: &Settings, pid: Pid) -> Result<(), String> {
        if settings.freeze { tracing::check(pid.as_raw_nonzero().get()) } else { Ok(()) }
    }

    fn wants_cgroup(&self, settings: &Settings) -> bool {
        settings.freeze
    }

    fn equip(&self, tree: Tree) -> Equipment {
        let root = tree.root.as_raw_nonzero().get();
        let leader = tree.leader.map(Pid::as_raw_pid);
        let reaper = tree.launched.then(|| Reaper { pid: std::process::id() as i32, leader });
        let cgroup = tree.cgroup.as_ref().map(|cgroup| cgroup.path().to_owned());
        let whole = tree::Tree { root, cgroup, reaper, whole: tree.whole };
        let observer = Box::new(TreeObserver {
            tree: whole.clone(),
            name: tree.registration.record().name,
            settings: tree.settings.clone(),
            idleness: Idleness::new(0),
            input_ms: 0,
            peers: Peers::default(),
            told: None,
        });
        let folder = cold_folder(&tree.settings);
        let paging =
            tree.settings.freeze.then(|| TreePager::new(whole, tree.cgroup, &folder, tree.gate, tree.registration));
        // A pager that cannot be made is as good as none: the command runs already.
        let paging = paging.and_then(Result::ok).map(|pager| Box::new(pager) as Box<dyn crate::paging::Paging>);
        Equipment { paging, observer }
    }
}

/// Where this supervisor's frames lie on SSD: not in a folder that may be in RAM.
fn cold_folder(settings: &Settings) -> PathBuf {
    let state = || std::env::var_os("XDG_STATE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/state"));
    let base = settings.cold_dir.clone().or_else(|| state().or_else(home).map(|path| path.join("agentmem/pages")));
    base.unwrap_or_else(|| PathBuf::from("/var/tmp/agentmem-pages")).join(std::process::id().to_string())
}

/// Watches a tree for the main loop.
#[derive(Debug)]
struct TreeObserver {
    tree: tree::Tree,
    name: String,
    settings: Settings,
    idleness: Idleness,
    input_ms: u64,
    peers: Peers,
    /// How far the fleet is beyond its budget, and when the daemon said so.
    told: Option<(f64, Instant)>,
}

impl TreeObserver {
    fn members(&self) -> Vec<tree::Member> {
        self.tree.members().unwrap_or_default()
    }

    fn memory(&self) -> Option<fleet::Memory> {
        let told = self.told.filter(|(_, when)| when.elapsed() < TOLD_FOR);
        let memory = fleet::Memory::read().ok()?;
        Some(fleet::Memory { beyond_budget: told.map_or(0.0, |(share, _)| share), ..memory })
    }

    /// This agent as the others see it.
    fn as_peer(&self, state: State, idle_ms: u64, compressed_bytes: u64) -> Peer {
        Peer {
            name: self.name.clone(),
            state,
            idle_ms,
            idle_after_ms: self.settings.idle_after_ms,
            importance: self.settings.importance,
            private_bytes: self.private_bytes(),
            compressed_bytes,
            supervisor_bytes: 0,
        }
    }

    /// Whether memory of an agent that is quiet is wanted before its time: by its own limit, or by the machine.
    fn is_wanted(&self, quiet_ms: u64) -> bool {
        if quiet_ms == 0 {
            return false;
        }
        if self.settings.memory_max_bytes.is_some_and(|max_bytes| self.private_bytes() > max_bytes) {
            return true;
        }
        let Some(memory) = self.memory().filter(|memory| memory.squeeze() > 0.0) else { return false };
        let me = || self.as_peer(State::Idle, quiet_ms, 0);
        quiet_ms >= fleet::QUIET_MS_MIN
            && self.peers.others(&self.name).is_some_and(|peers| fleet::may_page_out(&me(), &peers, &memory))
    }

    /// Whether frames of an agent that is away should be on SSD: by its own limit, its age, or the machine.
    fn belongs_on_ssd(&self, away_ms: u64, held: Held) -> bool {
        if self.is_too_large(held) {
            return true;
        }
        let Some(memory) = self.memory() else { return false };
        let peers = match memory.squeeze() > 0.0 {
            true => self.peers.others(&self.name),
            false => Some(Vec::new()),
        };
        let me = self.as_peer(State::PagedOut, away_ms, held.compressed_bytes);
        peers.is_some_and(|peers| fleet::may_move_to_ssd(&me, &peers, &memory, SSD_AFTER_MS))
    }

    fn is_too_large(&self, held: Held) -> bool {
        self.settings.memory_max_bytes.is_some_and(|max_bytes| self.private_bytes() + held.compressed_bytes > max_bytes)
    }
}

impl Observer for TreeObserver {
    fn sample(&mut self, terminal: Activity, now_ms: u64) -> Quiet {
        if terminal.input_ms > self.input_ms {
            self.input_ms = terminal.input_ms;
            self.idleness.input(terminal.input_ms);
        }
        let mut sample = sample(&self.members());
        sample.unseen.extend(self.tree.strayed().unwrap_or_else(Some));
        self.idleness.observe(now_ms, &sample);
        let quiet_ms = self.idleness.quiet_since().map_or(0, |since_ms| now_ms.saturating_sub(since_ms));
        let wanted = self.is_wanted(quiet_ms);
        Quiet { quiet_ms, busy_with: self.idleness.busy_with(), wanted }
    }

    fn limit(&mut self, memory_max_bytes: Option<u64>) {
        self.settings.memory_max_bytes = memory_max_bytes;
    }

    fn frames(&mut self, away_ms: Option<u64>, held: Held) -> Option<Move> {
        if held.compressed_bytes == 0 {
            return None;
        }
        match away_ms {
            Some(away_ms) if self.belongs_on_ssd(away_ms, held) => Some(Move::ToSsd),
            Some(away_ms) if away_ms >= SQUEEZE_AFTER_MS && held.loose_bytes > 0 => Some(Move::Squeeze),
            Some(_) => None,
            None => self.is_too_large(held).then_some(Move::Drop),
        }
    }

    fn private_bytes(&self) -> u64 {
        self.members().iter().map(|member| memory::private_bytes(member.pid)).sum()
    }

    fn beyond_budget(&mut self, share: f64) {
        self.told = Some((share, Instant::now()));
    }

    fn hint(&mut self, now_ms: u64, turn: Turn) {
        self.idleness.hint(now_ms, turn);
    }

    fn woke(&mut self, now_ms: u64) {
        self.idleness.woke(now_ms);
    }

    fn breathes(&mut self, now_ms: u64) {
        self.idleness.breathes(now_ms, &sample(&self.members()));
    }

    fn measure(&mut self) -> Measured {
        let memories: Vec<memory::Memory> = self.members().iter().map(|member| memory::of(member.pid)).collect();
        Measured {
            processes: memories.len(),
            resident_bytes: memories.iter().map(|memory| memory.resident_bytes).sum(),
            private_bytes: memories.iter().map(|memory| memory.private_bytes).sum(),
        }
    }
}
