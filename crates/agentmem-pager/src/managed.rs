//! One managed tree for the supervisor: when asked, it looks at what the tree waits for, has it paged out if all of
//! that is understood, and says what to watch while it is away.

use crate::agent::Move;
use crate::cgroup::Cgroup;
use crate::freeze::Freezer;
use crate::gate::Gate;
use crate::pager::{Damaged, Live, NotOut, Pager};
use crate::paging::{Damage, Held, NotAway, PageOutMs, PageOutReport, Paging, Refused, Source, WakeReport, Watched};
use crate::proc::{self, Syscall};
use crate::registers::Call;
use crate::registry::Registration;
use crate::target::Stopped;
use crate::tree::{self, Member, Tree};
use crate::waits::{self, SOURCES_MAX, Verdict};
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

/// What tells of accidents to one process: its userfaultfd, and its end.
const ALARMS: usize = 2;

/// How the kernel goes on with a call that waits for a time; where it sleeps tells which one, unless it is stopped.
const RESTARTED: u64 = libc::SYS_restart_syscall as u64;

const CHANGED: &str = "the processes of the tree just changed";

/// Pages one tree.
#[derive(Debug)]
pub struct TreePager {
    tree: Tree,
    pager: Pager,
    registration: Arc<Registration>,
    /// Held so that it lives as long as the tree is managed, and longer if that cannot be woken.
    cgroup: Option<Cgroup>,
}

/// A tree that may be stopped now, as far as can be told while it runs.
struct Understood {
    members: Vec<Member>,
    /// What it waits for, and the watch on all of that.
    sources: Vec<waits::Source>,
    watch: Watch,
    /// Where each thread sits.
    seats: HashMap<i32, Seat>,
}

/// Where a thread sits.
struct Seat {
    /// The system call.
    call: Call,
    /// How often it had gone to rest by then: who comes back to the same call has done so once more.
    rests: u64,
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
        Ok(TreePager { tree, pager, registration, cgroup })
    }

    /// Looks until every thread of the tree is seen waiting for something that is understood.
    fn understand(&self, abort: &AtomicBool) -> Result<Understood, NotOut> {
        let mut last = String::new();
        for _ in 0..LOOKS_MAX {
            if abort.load(Ordering::Relaxed) {
                return Err(NotOut::Aborted);
            }
            match look(&self.tree) {
                Ok(understood) => return Ok(understood),
                Err(Look::Again(why)) => last = why,
                Err(Look::Never(why)) => return Err(NotOut::NotNow(why)),
            }
            std::thread::sleep(BETWEEN_LOOKS);
        }
        Err(NotOut::NotNow(last))
    }

    /// Pages out; tried again while a thread moves on between the last look and the stop.
    fn pages_out(&mut self, abort: &AtomicBool) -> Result<PageOutReport, NotOut> {
        let (mut live, mut tries) = (None, 1);
        loop {
            match self.try_page_out(&mut live, abort) {
                Err(NotOut::NotNow(_)) if tries < TRIES_MAX && !abort.load(Ordering::Relaxed) => {
                    tries += 1;
                    std::thread::sleep(BETWEEN_TRIES);
                }
                outcome => return outcome,
            }
        }
    }

    fn try_page_out(&mut self, live: &mut Option<Live>, abort: &AtomicBool) -> Result<PageOutReport, NotOut> {
        let mut understood = self.understand(abort)?;
        if live.as_ref().is_none_or(|live| live.members() != understood.members) {
            // What takes long comes before the last look: from there to the stop, a runtime's timers leave milliseconds.
            *live = Some(self.pager.capture(&understood.members, abort)?);
            understood = self.understand(abort)?;
        }
        let is_captured = |live: &&Live| live.members() == understood.members;
        let live = live.as_ref().filter(is_captured).ok_or_else(|| NotOut::NotNow(CHANGED.into()))?;
        let tree = &self.tree;
        let mut check = |stopped: &[Stopped]| unchanged(tree, &understood, stopped);
        self.record(live.members());
        let outcome = self.pager.page_out(live, abort, &mut check);
        if !matches!(outcome, Ok(_) | Err(NotOut::Damaged(_))) {
            self.record(&[]);
        }
        let report = outcome?;
        let mut watched: Vec<Watched> =
            understood.watch.into_fds().map(|(fd, events)| Watched { fd, events, source: Source::Input }).collect();
        self.watch_alarms(&mut watched).map_err(|error| self.back_again(&error))?;
        let millis = |duration: Duration| duration.as_millis() as u64;
        Ok(PageOutReport {
            paged: report.dropped_bytes > 0,
            resident_before_bytes: report.resident_before_bytes,
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
            Ok(_) => {
                self.record(&[]);
                NotOut::NotNow(error.to_string())
            }
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
        self.pages_out(abort).map_err(|error| match error {
            NotOut::Damaged(what) => NotAway::Damaged(Damage { what }),
            other => NotAway::Refused(Refused { why: other.to_string() }),
        })
    }

    fn is_out(&self) -> bool {
        self.pager.is_away()
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
        Cgroup::end_after(self.cgroup.take(), || {
            let is_awake = self.wake().is_ok();
            if is_awake {
                self.pager.release();
            }
            is_awake
        });
    }
}

enum Look {
    /// It may be different in a moment.
    Again(String),
    /// It will not.
    Never(String),
}

/// Members, parents before children: who started later is nobody's parent.
fn parents_first(tree: &Tree) -> Result<Vec<Member>, String> {
    let mut members = tree.members()?;
    members.sort_unstable_by_key(|member| (member.start_ticks, member.pid));
    Ok(members)
}

/// Whether every thread of the tree is seen waiting for something that is understood.
fn look(tree: &Tree) -> Result<Understood, Look> {
    let members = parents_first(tree).map_err(Look::Again)?;
    if members.is_empty() {
        return Err(Look::Never("no process of the tree is left".into()));
    }
    if let Some(why) = tree.strayed().map_err(Look::Again)? {
        return Err(Look::Never(why));
    }
    keeps_its_memory(&members).map_err(Look::Again)?;
    let seats = seats(&members);
    let sources = match waits::verdict(&waits::look(&members)) {
        Verdict::Understood(sources) => sources,
        Verdict::Busy(why) => return Err(Look::Again(why)),
        Verdict::Unknown(why) => return Err(Look::Never(why)),
    };
    can_be_watched(sources.len(), members.len()).map_err(Look::Never)?;
    let watch = Watch::open(&sources).map_err(|error| Look::Again(error.to_string()))?;
    if let Some(source) = watch.ready() {
        return Err(Look::Again(format!("{source} is ready")));
    }
    Ok(Understood { members, sources, watch, seats })
}

/// Whether all that wakes a tree is little enough to be watched: what is not would never wake it.
fn can_be_watched(inputs: usize, members: usize) -> Result<(), String> {
    match inputs + members * ALARMS {
        0..=SOURCES_MAX => Ok(()),
        _ => Err(format!("{members} processes wait for {inputs} descriptors: at most {SOURCES_MAX} can be watched")),
    }
}

fn seats(members: &[Member]) -> HashMap<i32, Seat> {
    let threads = members.iter().flat_map(|member| {
        let tids = proc::threads(member.pid).unwrap_or_default();
        tids.into_iter().map(|tid| (member.pid, tid))
    });
    threads.filter_map(|(pid, tid)| Some((tid, seat(pid, tid)?))).collect()
}

fn seat(pid: i32, tid: i32) -> Option<Seat> {
    // First: whatever it does from here on is one more.
    let rests = proc::rests(pid, tid).ok()?;
    match proc::syscall(pid, tid) {
        Ok(Syscall::Inside { number, args, .. }) => {
            Some(Seat { call: (number as u64, [args[0], args[1], args[2]]), rests })
        }
        _ => None,
    }
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
        return Err(CHANGED.into());
    }
    // Nobody leaves a whole tree whose orphans come to us.
    if tree.reaper.is_none() || !tree.whole {
        keeps_its_memory(&now)?;
    }
    let moved = moved(understood, stopped)?;
    if !moved.is_empty() {
        waits_for_no_more(understood, &now, &moved)?;
        // Who ran may have put another file under a number that is waited for.
        if let Some(source) = understood.watch.replaced() {
            return Err(format!("{source} was just replaced"));
        }
    }
    match understood.watch.ready() {
        Some(source) => Err(format!("{source} is ready")),
        None => Ok(()),
    }
}

/// Threads that ran since the last look: they sit in another call, or went to rest more often than the once that being
/// stopped is.
fn moved(understood: &Understood, stopped: &[Stopped]) -> Result<Vec<i32>, String> {
    let mut moved = Vec::new();
    for process in stopped {
        for tid in process.threads() {
            let call = process.interrupted(tid).map_err(|error| error.to_string())?;
            let call = call.ok_or_else(|| format!("thread {tid} of process {} just ran", process.pid()))?;
            let sat = understood.seats.get(&tid).filter(|seat| seat.call == call);
            if !sat.is_some_and(|seat| proc::rests(process.pid(), tid).is_ok_and(|rests| rests <= seat.rests + 1)) {
                moved.push(tid);
            }
        }
    }
    Ok(moved)
}

/// Whether threads that `moved` on since the last look left the tree waiting for what was understood then, as helpers of
/// a runtime do, who wake each other all the time. They may have changed what others wait for in epoll sets, so
/// everybody's waits are looked at again; those that did not move and were restarted are as they were.
fn waits_for_no_more(understood: &Understood, members: &[Member], moved: &[i32]) -> Result<(), String> {
    let is_restarted = |tid: i32| understood.seats.get(&tid).is_some_and(|seat| seat.call.0 == RESTARTED);
    let mut threads = waits::look(members);
    threads.retain(|thread| moved.contains(&thread.tid) || !is_restarted(thread.tid));
    match waits::verdict(&threads) {
        Verdict::Understood(sources) if sources.iter().all(|source| understood.sources.contains(source)) => Ok(()),
        _ => Err(format!("thread {} just ran", moved[0])),
    }
}

#[cfg(test)]
mod tests;
