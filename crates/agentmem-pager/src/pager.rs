//! Paging a whole tree out and in, in the order that cannot lose memory.
//!
//! ```text
//! live      capture what was written since the last time, while the tree runs on
//! stopped   every thread of every process; capture the rest; guard; drop; ask for the freeze; let go
//! frozen    pages are missing; nothing of the tree runs
//! wake      bring everything back, checked; stop guarding; thaw
//! ```
//! All of it happens on one thread: Linux ties a tracer to its thread.

use crate::frames::{Block, Frames};
use crate::freeze::Freezer;
use crate::gate::Gate;
use crate::memory;
use crate::paging::{Held, LeftAlone};
use crate::peek;
use crate::process::{Plan, Process, STOP_DEADLINE, mappings};
use crate::refusals::{self, Facts};
use crate::rings;
use crate::sys;
use crate::target::Stopped;
use crate::tree::Member;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// As warm frames of the store.
const LEVEL: i32 = 3;
/// Threads that compress while the tree is stopped, or that bring it back.
const THREADS_MAX: usize = 8;

/// Why the tree is not paged out.
#[derive(Debug)]
pub enum NotOut {
    /// It was asked to stop, because something came in. The tree runs on as before.
    Aborted,
    /// It was busy, or a step failed; later it may work. The tree runs on as before.
    NotNow(String),
    /// Pages are missing and cannot be brought back: the tree stays frozen, because running on would be worse.
    Damaged(String),
}

impl std::fmt::Display for NotOut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            NotOut::Aborted => f.write_str("something came in"),
            NotOut::NotNow(why) | NotOut::Damaged(why) => f.write_str(why),
        }
    }
}

impl From<io::Error> for NotOut {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::Interrupted { NotOut::Aborted } else { NotOut::NotNow(error.to_string()) }
    }
}

/// A page could not be brought back: the tree stays frozen, because running on would be worse.
#[derive(Debug)]
pub struct Damaged(pub String);

/// What a page-out did.
#[derive(Debug, Clone, Default)]
pub struct PageOut {
    /// PSS of the tree before.
    pub resident_before_bytes: u64,
    /// Bytes of pages that are missing now.
    pub dropped_bytes: u64,
    /// Bytes that were compressed for it; the rest was held from before.
    pub fresh_bytes: u64,
    /// How long the tree was stopped before it was frozen.
    pub stopped: Duration,
    /// How long it took in all.
    pub total: Duration,
    /// Processor time of it.
    pub cpu: Duration,
    /// What stayed.
    pub left_alone: Vec<LeftAlone>,
}

/// What a wake did.
#[derive(Debug, Clone, Default)]
pub struct Wake {
    /// Bytes brought back.
    pub bytes: u64,
    /// Until the tree ran.
    pub total: Duration,
}

/// Asked while the tree is stopped, whether it may be paged out.
pub type Check<'a> = &'a mut dyn FnMut(&[Stopped]) -> Result<(), String>;

/// What was captured of a tree while it ran on.
#[derive(Debug)]
pub struct Live {
    members: Vec<Member>,
    /// Those that can be paged.
    willing: Vec<Member>,
    report: PageOut,
    began: Instant,
    cpu_before: Duration,
}

impl Live {
    /// Whose memory it is, parents before children.
    pub fn members(&self) -> &[Member] {
        &self.members
    }
}

/// Pages one tree out and in.
#[derive(Debug)]
pub struct Pager {
    frames: Frames,
    freezer: Freezer,
    processes: HashMap<Member, Process>,
    /// While frozen: children before parents, which is how they are thawed.
    frozen: Option<Vec<i32>>,
    threads: usize,
    gate: Arc<Gate>,
}

/// Processor time of this process.
fn cpu_time() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

impl Pager {
    /// A pager for a tree that `freezer` freezes; frames on SSD lie in `folder`. `gate` is closed while it traces.
    pub fn new(freezer: Freezer, folder: &Path, gate: Arc<Gate>) -> agentmem_core::Result<Self> {
        let threads = std::thread::available_parallelism().map_or(1, |count| count.get().min(THREADS_MAX));
        let frames = Frames::new(folder, LEVEL)?;
        Ok(Pager { frames, freezer, processes: HashMap::new(), frozen: None, threads, gate })
    }

    /// Whether pages are missing, or nothing of the tree may run.
    pub fn is_away(&self) -> bool {
        self.frozen.is_some() || self.processes.values().any(Process::is_out)
    }

    /// Descriptors that become readable when somebody touches a missing page.
    pub fn faults(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.processes.values().filter(|process| process.is_out()).filter_map(|p| p.userfault()).map(|u| u.fd())
    }

    /// Descriptors that become readable when a process ends.
    pub fn ends(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.processes.values().map(Process::pidfd)
    }

    /// What the frames hold.
    pub fn held(&self) -> Held {
        let blocks = || self.processes.values().flat_map(Process::blocks);
        Held {
            held_bytes: blocks().map(Block::stored_bytes).sum(),
            compressed_bytes: self.frames.resident_bytes(),
            ssd_bytes: blocks().map(Block::ssd_bytes).sum(),
            loose_bytes: blocks().map(Block::loose_bytes).sum(),
        }
    }

    /// Moves all frames from RAM to SSD, until `abort` turns true.
    pub fn demote(&mut self, abort: &AtomicBool) -> agentmem_core::Result<()> {
        let blocks = self.processes.values_mut().flat_map(Process::blocks_mut);
        let outcome = self.frames.demote(blocks.take_while(|_| !abort.load(Ordering::Relaxed)));
        self.release_free_memory();
        outcome
    }

    /// Compresses frames in RAM again, with more time, where that pays, until `abort` turns true.
    pub fn squeeze(&mut self, abort: &AtomicBool) -> agentmem_core::Result<()> {
        let blocks = self.processes.values_mut().flat_map(Process::blocks_mut);
        let outcome = self.frames.squeeze(blocks, abort);
        self.release_free_memory();
        outcome
    }

    /// Forgets the frames of pages that are there, which only save work.
    pub fn drop_kept(&mut self) {
        self.processes.values_mut().for_each(Process::drop_kept);
        self.release_free_memory();
    }

    /// Captures what `members` (parents before children) wrote since the last time, while they run on: what takes long,
    /// before [`Pager::page_out`].
    ///
    /// # Errors
    /// See [`NotOut`].
    pub fn capture(&mut self, members: &[Member], abort: &AtomicBool) -> Result<Live, NotOut> {
        assert!(!self.is_away(), "captured while it is away");
        let (began, cpu_before) = (Instant::now(), cpu_time());
        let resident_before_bytes = members.iter().map(|member| memory::of(member.pid).resident_bytes).sum();
        let report = PageOut { resident_before_bytes, ..PageOut::default() };
        let mut live = Live { members: members.to_vec(), willing: Vec::new(), report, began, cpu_before };
        let outcome = self.capture_live(&mut live, abort);
        self.release_free_memory();
        outcome.map(|()| live)
    }

    /// Pages out what was captured, with what was written since, and freezes it. `check` is asked when all of the tree
    /// is stopped; an error of it means that it goes on. It can be tried again.
    ///
    /// # Errors
    /// See [`NotOut`].
    pub fn page_out(&mut self, live: &Live, abort: &AtomicBool, check: Check<'_>) -> Result<PageOut, NotOut> {
        assert!(!self.is_away(), "paged out twice");
        let mut report = live.report.clone();
        let outcome = self.stop_and_drop(live, abort, check, &mut report);
        self.release_free_memory();
        outcome?;
        report.total = live.began.elapsed();
        report.cpu = cpu_time() - live.cpu_before;
        Ok(report)
    }

    /// What can be done while the tree runs.
    fn capture_live(&mut self, live: &mut Live, abort: &AtomicBool) -> Result<(), NotOut> {
        self.processes.retain(|member, _| live.members.contains(member));
        for &member in &live.members {
            if let Entry::Vacant(place) = self.processes.entry(member) {
                place.insert(Process::new(member.pid)?);
            }
        }
        for member in &live.members {
            match self.prepare(member)? {
                None => live.willing.push(*member),
                Some(why) => live.report.left_alone.push(whole(member.pid, why)),
            }
        }
        for member in &live.willing {
            let process = self.processes.get_mut(member).expect("just met");
            // One thread: whoever else runs on this machine comes first.
            let (_, captured) = process.capture(&self.frames, None, 1, abort)?;
            live.report.fresh_bytes += captured.fresh_bytes;
        }
        Ok(())
    }

    /// Why a process as it is now cannot be paged, if it cannot.
    fn refusal(&self, member: &Member) -> Option<String> {
        let ours: Vec<BorrowedFd<'_>> =
            self.processes.values().filter_map(|process| process.userfault().map(|userfault| userfault.fd())).collect();
        let own = self.processes[member].userfault().map(|userfault| userfault.in_target());
        let is_ours = |number: i32| {
            own == Some(number) || ours.iter().any(|fd| peek::is_same_file(*fd, member.pid, number) == Some(true))
        };
        Facts::of(member.pid).refusal(&is_ours)
    }

    /// Makes a userfaultfd in a process, which stops it for a moment the first time; says why not, if it never will.
    /// A process that was busy is asked again later.
    fn prepare(&mut self, member: &Member) -> Result<Option<String>, NotOut> {
        if let Some(why) = self.refusal(member) {
            return Ok(Some(why));
        }
        let process = self.processes.get_mut(member).expect("just met");
        if process.is_prepared() {
            return Ok(None);
        }
        let gate = self.gate.clone();
        let _tracing = gate.trace();
        let mut stopped = stop(&[*member])?;
        Ok(process.prepare(&mut stopped[0]).err().map(|error| format!("no userfaultfd in it: {error}")))
    }

    fn stop_and_drop(
        &mut self,
        live: &Live,
        abort: &AtomicBool,
        check: Check<'_>,
        report: &mut PageOut,
    ) -> Result<(), NotOut> {
        let Live { members, .. } = live;
        let gate = self.gate.clone();
        let _tracing = gate.trace();
        let began = Instant::now();
        let mut stopped = stop(members)?;
        check(&stopped).map_err(NotOut::NotNow)?;
        let plans = self.capture_stopped(live, &mut stopped, abort, report)?;
        // From here on pages are missing.
        match self.drop_all(&plans, members, &mut stopped, abort) {
            Ok(dropped_bytes) => report.dropped_bytes = dropped_bytes,
            Err(error) => return Err(self.undo(stopped, false, error)),
        }
        if let Err(error) = self.freezer.request(&stopped) {
            return Err(self.undo(stopped, true, error));
        }
        let handed_over = self.freezer.hand_over(stopped);
        self.frozen = Some(members.iter().rev().map(|member| member.pid).collect());
        report.stopped = began.elapsed();
        match handed_over {
            Ok(()) => Ok(()),
            // Whoever runs waits at the first missing page.
            Err(error) => match self.wake() {
                Ok(_) => Err(error.into()),
                Err(Damaged(why)) => Err(NotOut::Damaged(why)),
            },
        }
    }

    /// Captures the rest; returns a plan for each of the stopped but those that are left alone.
    fn capture_stopped(
        &mut self,
        live: &Live,
        stopped: &mut [Stopped],
        abort: &AtomicBool,
        report: &mut PageOut,
    ) -> Result<Vec<Option<Plan>>, NotOut> {
        let mut plans = Vec::new();
        for (member, stopped) in live.members.iter().zip(stopped) {
            if !live.willing.contains(member) {
                plans.push(None);
                continue;
            }
            // It ran since it was asked.
            let why = match self.refusal(member) {
                Some(why) => Some(why),
                None => unseen(stopped, abort)?,
            };
            match why {
                Some(why) => {
                    report.left_alone.push(whole(member.pid, why));
                    plans.push(None);
                }
                None => plans.push(Some(self.capture_rest(member, stopped.kept_page()?, abort, report)?)),
            }
        }
        Ok(plans)
    }

    fn capture_rest(
        &mut self,
        member: &Member,
        keep: Option<u64>,
        abort: &AtomicBool,
        report: &mut PageOut,
    ) -> io::Result<Plan> {
        let process = self.processes.get_mut(member).expect("met before");
        if !process.is_prepared() {
            return Err(io::Error::other(format!("process {} executes another program", member.pid)));
        }
        let (plan, captured) = process.capture(&self.frames, keep, self.threads, abort)?;
        report.fresh_bytes += captured.fresh_bytes;
        let stay = captured.stay_bytes.into_iter();
        report.left_alone.extend(stay.map(|(why, bytes)| LeftAlone { pid: member.pid, bytes, why: why.to_owned() }));
        Ok(plan)
    }

    fn drop_all(
        &mut self,
        plans: &[Option<Plan>],
        members: &[Member],
        stopped: &mut [Stopped],
        abort: &AtomicBool,
    ) -> io::Result<u64> {
        let (has_swap, mut dropped_bytes) = (memory::has_swap(), 0);
        for ((plan, member), stopped) in plans.iter().zip(members).zip(stopped) {
            let process = self.processes.get_mut(member).expect("met before");
            match plan {
                Some(plan) => dropped_bytes += process.drop_pages(stopped, plan, abort)?,
                // What we cannot page, the kernel may.
                None if has_swap => process.page_to_swap(stopped, abort)?,
                None => {}
            }
        }
        Ok(dropped_bytes)
    }

    /// Brings everything back while all is stopped, and lets go.
    fn undo(&mut self, stopped: Vec<Stopped>, freeze_was_asked: bool, cause: io::Error) -> NotOut {
        let pids: Vec<i32> = stopped.iter().rev().map(Stopped::pid).collect();
        match self.restore(false) {
            Ok(_) => {
                // It must not freeze once it is let go; where nobody asked for that, what somebody stopped stays so.
                let thawed = if freeze_was_asked { self.freezer.thaw(&pids) } else { Ok(()) };
                drop(stopped);
                if let Err(error) = thawed {
                    self.frozen = Some(pids);
                    return NotOut::Damaged(format!("cannot be thawed: {error}"));
                }
                cause.into()
            }
            Err(Damaged(why)) => {
                let _ = self.freezer.request(&stopped);
                let _ = self.freezer.hand_over(stopped);
                self.frozen = Some(pids);
                NotOut::Damaged(why)
            }
        }
    }

    /// `has_run`: since pages are missing.
    fn restore(&mut self, has_run: bool) -> Result<u64, Damaged> {
        let mut bytes = 0;
        for (member, process) in &mut self.processes {
            bytes += process
                .restore(&self.frames, self.threads, has_run)
                .map_err(|error| Damaged(format!("process {}: {error}", member.pid)))?;
        }
        Ok(bytes)
    }

    /// Brings everything back and lets the tree run.
    ///
    /// # Errors
    /// Then it stays frozen; it can be tried again.
    pub fn wake(&mut self) -> Result<Wake, Damaged> {
        let began = Instant::now();
        if !self.is_away() {
            return Ok(Wake::default());
        }
        let pids = self.frozen.clone().unwrap_or_else(|| self.pids());
        let has_run = !self.freezer.holds(&pids);
        if has_run {
            self.freezer.hold_again(&pids);
        }
        let bytes = self.restore(has_run)?;
        if has_run || !self.freezer.holds(&pids) {
            // The record of writes began anew when all was back: what was written before then is in no record.
            self.processes.values_mut().for_each(Process::drop_kept);
        }
        self.freezer.thaw(&pids).map_err(|error| Damaged(format!("cannot be thawed: {error}")))?;
        self.frozen = None;
        let total = began.elapsed();
        self.release_free_memory();
        Ok(Wake { bytes, total })
    }

    /// Of all processes, children before parents.
    fn pids(&self) -> Vec<i32> {
        let mut members: Vec<&Member> = self.processes.keys().collect();
        members.sort_unstable_by_key(|member| std::cmp::Reverse((member.start_ticks, member.pid)));
        members.iter().map(|member| member.pid).collect()
    }

    /// Between two page-outs a supervisor holds frames and little else.
    fn release_free_memory(&self) {
        self.frames.trim();
        sys::release_free_memory();
    }

    /// Ends management of an awake tree.
    pub fn release(&mut self) {
        assert!(!self.is_away(), "a tree that is away is woken first");
        let gate = self.gate.clone();
        let _tracing = gate.trace();
        self.processes.values_mut().for_each(Process::release);
        self.processes.clear();
    }
}

/// Stops all threads of all of `members`, or none.
fn stop(members: &[Member]) -> Result<Vec<Stopped>, NotOut> {
    let not_now = |pid: i32, why: &dyn std::fmt::Display| NotOut::NotNow(format!("process {pid}: {why}"));
    let mut stopped = Vec::new();
    for member in members {
        stopped.push(Stopped::begin(member.pid).map_err(|why| not_now(member.pid, &why))?);
    }
    let deadline = Instant::now() + STOP_DEADLINE;
    for process in &mut stopped {
        process.settle(deadline).map_err(|why| not_now(process.pid(), &why))?;
    }
    Ok(stopped)
}

/// Why a stopped process cannot be paged, as only its threads can tell.
fn unseen(stopped: &mut Stopped, abort: &AtomicBool) -> io::Result<Option<String>> {
    match rings::are_held(stopped, abort) {
        Ok(is_held) => Ok(is_held.then(|| refusals::writes("io_uring"))),
        // Then it cannot be made to do anything else either.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(Some(error.to_string())),
        Err(error) => Err(error),
    }
}

/// Nothing of a process is paged out.
fn whole(pid: i32, why: String) -> LeftAlone {
    let bytes = mappings(pid).unwrap_or_default().iter().map(|mapping| mapping.anonymous_bytes).sum();
    LeftAlone { pid, bytes, why }
}
