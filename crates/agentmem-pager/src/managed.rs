//! One managed tree for the supervisor: when asked, it looks at what the tree waits for, has it paged out if all of
//! that is understood, and says what to watch while it is away.

use crate::agent::Move;
use crate::cgroup::Cgroup;
use crate::freeze::Freezer;
use crate::gate::Gate;
use crate::memory;
use crate::pager::{Damaged, NotOut, Pager};
use crate::paging::{Damage, Held, NotAway, PageOutMs, PageOutReport, Paging, Refused, Source, WakeReport, Watched};
use crate::proc::{self, Syscall};
use crate::registers::Call;
use crate::registry::Registration;
use crate::target::Stopped;
use crate::tree::{self, Member, Tree};
use crate::waits::{self, Verdict};
use crate::watch::Watch;
use rustix::event::PollFlags;
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How often it is looked again when something was just running: a runtime's timers go off 15 to 18 times a second, for
/// a moment each.
const LOOKS_MAX: u32 = 40;
const BETWEEN_LOOKS: Duration = Duration::from_millis(7);
/// How often a page-out is tried when a thread moves on between the last look and the stop.
const TRIES_MAX: u32 = 10;
const BETWEEN_TRIES: Duration = Duration::from_millis(20);

/// Pages one tree.
#[derive(Debug)]
pub struct TreePager {
    tree: Tree,
    pager: Pager,
    registration: Arc<Registration>,
    /// Held so that it lives as long as the tree is managed.
    _cgroup: Option<Cgroup>,
}

/// A tree that may be stopped now, as far as can be told while it runs.
struct Understood {
    members: Vec<Member>,
    watch: Watch,
    /// The system call that each thread sits in.
    calls: HashMap<i32, Call>,
}

impl TreePager {
    /// A pager for `tree`; frames on SSD lie in `folder`.
    pub fn new(
        tree: Tree,
        cgroup: Option<Cgroup>,
        folder: &Path,
        gate: Arc<Gate>,
        registration: Arc<Registration>,
    ) -> agentmem_core::Result<Self> {
        let freezer = match &cgroup {
            Some(cgroup) => Freezer::Cgroup(cgroup.path().to_owned()),
            None => Freezer::Stop { stopped_before: Vec::new() },
        };
        let pager = Pager::new(freezer, folder, gate)?;
        Ok(TreePager { tree, pager, registration, _cgroup: cgroup })
    }

    /// Members, parents before children: who started later is nobody's parent.
    fn members(&self) -> Result<Vec<Member>, String> {
        let mut members = self.tree.members()?;
        members.sort_unstable_by_key(|member| (member.start_ticks, member.pid));
        Ok(members)
    }

    /// Looks until every thread of the tree is seen waiting for something that is understood.
    fn understand(&self, abort: &AtomicBool) -> Result<Understood, Refused> {
        let mut last = String::new();
        for _ in 0..LOOKS_MAX {
            if abort.load(Ordering::Relaxed) {
                return Err(Refused { why: NotOut::Aborted.to_string() });
            }
            match self.look() {
                Ok(understood) => return Ok(understood),
                Err(Look::Again(why)) => last = why,
                Err(Look::Never(why)) => return Err(Refused { why }),
            }
            std::thread::sleep(BETWEEN_LOOKS);
        }
        Err(Refused { why: last })
    }

    fn look(&self) -> Result<Understood, Look> {
        let members = self.members().map_err(Look::Again)?;
        if members.is_empty() {
            return Err(Look::Never("no process of the tree is left".into()));
        }
        keeps_its_memory(&members).map_err(Look::Again)?;
        let calls = calls(&members);
        let sources = match waits::verdict(&waits::look(&members)) {
            Verdict::Understood(sources) => sources,
            Verdict::Busy(why) => return Err(Look::Again(why)),
            Verdict::Unknown(why) => return Err(Look::Never(why)),
        };
        let watch = Watch::open(&sources).map_err(|error| Look::Again(error.to_string()))?;
        if let Some(source) = watch.ready() {
            return Err(Look::Again(format!("{source} is ready")));
        }
        Ok(Understood { members, watch, calls })
    }

    fn try_page_out(&mut self, abort: &AtomicBool) -> Result<PageOutReport, NotOut> {
        let understood = self.understand(abort).map_err(|refused| NotOut::NotNow(refused.why))?;
        let resident_before_bytes = understood.members.iter().map(|member| memory::of(member.pid).resident_bytes).sum();
        self.record(&understood.members);
        let tree = &self.tree;
        let mut check = |stopped: &[Stopped]| unchanged(tree, &understood, stopped);
        let outcome = self.pager.page_out(&understood.members, abort, &mut check);
        if outcome.is_err() && !self.pager.is_frozen() {
            self.record(&[]);
        }
        let report = outcome?;
        let mut watched: Vec<Watched> =
            understood.watch.into_fds().map(|(fd, events)| Watched { fd, events, source: Source::Input }).collect();
        self.watch_alarms(&mut watched).map_err(|error| self.back_again(&error))?;
        let millis = |duration: Duration| duration.as_millis() as u64;
        Ok(PageOutReport {
            paged: report.dropped_bytes > 0,
            resident_before_bytes,
            ms: PageOutMs {
                live: millis(report.total - report.stopped),
                stopped: millis(report.stopped),
                cpu: millis(report.cpu),
            },
            held: self.pager.held(),
            watched,
            left_alone: report.left_alone,
        })
    }

    /// Adds what tells of an accident, or of a process that was killed.
    fn watch_alarms(&self, watched: &mut Vec<Watched>) -> std::io::Result<()> {
        let faults = self.pager.faults().map(|fd| (fd, Source::Fault));
        for (fd, source) in faults.chain(self.pager.ends().map(|fd| (fd, Source::Child))) {
            watched.push(Watched { fd: fd.try_clone_to_owned()?, events: PollFlags::IN, source });
        }
        Ok(())
    }

    /// Who cannot be watched must not be away.
    fn back_again(&mut self, error: &std::io::Error) -> NotOut {
        match self.pager.wake() {
            Ok(_) => NotOut::NotNow(error.to_string()),
            Err(Damaged(what)) => NotOut::Damaged(what),
        }
    }

    /// Notes who has missing pages, for whoever cleans up should this process be killed.
    fn record(&self, members: &[Member]) {
        // A registry that cannot be written to costs that cleaning, and nothing else.
        let _ = self.registration.update(|record| record.members = members.to_vec());
    }
}

impl Paging for TreePager {
    fn page_out(&mut self, abort: &AtomicBool) -> Result<PageOutReport, NotAway> {
        let mut tries = 1;
        loop {
            match self.try_page_out(abort) {
                Ok(report) => return Ok(report),
                Err(NotOut::NotNow(_)) if tries < TRIES_MAX && !abort.load(Ordering::Relaxed) => {
                    tries += 1;
                    std::thread::sleep(BETWEEN_TRIES);
                }
                Err(NotOut::Damaged(what)) => return Err(NotAway::Damaged(Damage { what })),
                Err(other) => return Err(NotAway::Refused(Refused { why: other.to_string() })),
            }
        }
    }

    fn wake(&mut self) -> Result<WakeReport, Damage> {
        self.pager.wake().map_err(|Damaged(what)| Damage { what })?;
        self.record(&[]);
        Ok(WakeReport { held: self.pager.held() })
    }

    fn move_frames(&mut self, to: Move, abort: &AtomicBool) -> Held {
        match to {
            // What cannot be moved stays where it is.
            Move::ToSsd => drop(self.pager.demote(abort)),
            Move::Squeeze => drop(self.pager.squeeze(abort)),
            Move::Drop => self.pager.drop_kept(),
        }
        self.pager.held()
    }
}

impl Drop for TreePager {
    fn drop(&mut self) {
        if self.pager.wake().is_ok() {
            self.record(&[]);
            self.pager.release();
        }
    }
}

enum Look {
    /// It may be different in a moment.
    Again(String),
    /// It will not.
    Never(String),
}

fn calls(members: &[Member]) -> HashMap<i32, Call> {
    let threads = members.iter().flat_map(|member| {
        let tids = proc::threads(member.pid).unwrap_or_default();
        tids.into_iter().map(|tid| (member.pid, tid))
    });
    threads
        .filter_map(|(pid, tid)| match proc::syscall(pid, tid) {
            Ok(Syscall::Inside { number, args, .. }) => Some((tid, (number as u64, [args[0], args[1], args[2]]))),
            _ => None,
        })
        .collect()
}

/// Whether nobody but `members` runs in their memory.
fn keeps_its_memory(members: &[Member]) -> Result<(), String> {
    match tree::sharing_outside(members)?.first() {
        None => Ok(()),
        Some(sharing) => {
            let (inside, outside) = (sharing.member.pid, sharing.outsider);
            Err(format!("process {inside} shares its memory with process {outside}"))
        }
    }
}

/// Whether a tree that is stopped is still the one that was understood.
fn unchanged(tree: &Tree, understood: &Understood, stopped: &[Stopped]) -> Result<(), String> {
    let mut now = tree.members()?;
    let mut before = understood.members.clone();
    now.sort_unstable();
    before.sort_unstable();
    if now != before {
        return Err("the processes of the tree just changed".into());
    }
    // Nobody leaves a whole tree whose orphans come to us.
    if tree.reaper.is_none() || !tree.whole {
        keeps_its_memory(&now)?;
    }
    for process in stopped {
        for tid in process.threads() {
            let call = process.interrupted(tid).map_err(|error| error.to_string())?;
            if call.is_none() || call.as_ref() != understood.calls.get(&tid) {
                return Err(format!("thread {tid} of process {} just ran", process.pid()));
            }
        }
    }
    match understood.watch.ready() {
        Some(source) => Err(format!("{source} is ready")),
        None => Ok(()),
    }
}
