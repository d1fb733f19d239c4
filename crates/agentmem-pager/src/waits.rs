//! What a tree waits for, thread by thread.
//!
//! A frozen tree is woken when something that it waits for happens, so everything that it waits
//! for must be understood. **A wait that is not understood means no freeze and no page-out.**
//!
//! Look while the tree runs: a stopped thread shows its system call, but not where in it it
//! sleeps. A thread's own timers (timeouts, timerfd, sleeping helper threads) are no reason to
//! wake: idle runtimes have some go off 15 to 18 times a second.

use crate::calls::{self, Call};
use crate::peek;
use crate::proc::{self, FdKind, Seen, Unseen};
use crate::sys;
use crate::tree::Member;
use rustix::event::PollFlags;
use std::collections::BTreeSet;
use std::fmt;

/// Descriptors that are watched for one tree: what it waits for, and what tells of accidents to it. One call may name as
/// many.
pub const SOURCES_MAX: usize = 8192;

/// Futexes that one futex_waitv may name: the kernel's own limit.
const FUTEXES_MAX: usize = 128;

/// Epoll sets inside epoll sets; the kernel allows fewer.
const NESTED_MAX: usize = 5;

const EDGE: u32 = libc::EPOLLET as u32;

/// Bits of an epoll entry that name no event. One with no other bits is disabled: it was
/// one-shot, and has fired.
const NO_EVENTS: u32 = EDGE | (libc::EPOLLONESHOT | libc::EPOLLWAKEUP | libc::EPOLLEXCLUSIVE) as u32;

/// A descriptor of a process that wakes a thread of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Source {
    /// Whose.
    pub member: Member,
    /// Its number there.
    pub fd: i32,
    /// Whether only a change counts (EPOLLET): what is ready already has been told already.
    pub edge: bool,
    /// What it refers to.
    pub kind: FdKind,
    /// Events that are waited for, as bits of poll.
    pub events: u16,
}

impl Source {
    /// Events that are waited for.
    pub fn flags(&self) -> PollFlags {
        PollFlags::from_bits_retain(self.events)
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} fd {} of pid {}", self.kind.name(), self.fd, self.member.pid)
    }
}

/// What one thread waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wait {
    /// For nothing: it computes.
    Busy,
    /// A main thread that sleeps, as that of `sleep 60` in a shell: a tool that runs.
    Sleeping,
    /// For something inside the tree, a signal, or its own timer; in a word.
    Inner(&'static str),
    /// For one of these; none are left where timers and signals are all that it waits for.
    Sources(Vec<Source>),
    /// Not understood; a line that says why.
    Unknown(String),
}

/// One thread and its wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Thread {
    /// Process.
    pub member: Member,
    /// Thread.
    pub tid: i32,
    /// Its name.
    pub comm: String,
    /// What it waits for.
    pub wait: Wait,
}

/// Whether a tree may be frozen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Everything that it waits for is known: these, without duplicates, at most [`SOURCES_MAX`].
    Understood(Vec<Source>),
    /// Something runs just now; a line that says what. Another look soon may find it waiting.
    Busy(String),
    /// Something waits for what is not understood; a line that says what.
    Unknown(String),
}

/// Looks at every thread of every member.
pub fn look(members: &[Member]) -> Vec<Thread> {
    members.iter().flat_map(|&member| threads_of(member)).collect()
}

/// What the waits of all threads of a tree mean together.
pub fn verdict(threads: &[Thread]) -> Verdict {
    let mut busy = None;
    let mut sources = BTreeSet::new();
    for thread in threads {
        let at = || format!("{} ({}, thread {})", thread.member.pid, thread.comm, thread.tid);
        match &thread.wait {
            Wait::Unknown(why) => return Verdict::Unknown(format!("pid {} waits for: {why}", at())),
            Wait::Busy => busy = busy.or_else(|| Some(format!("pid {} runs", at()))),
            Wait::Sleeping => busy = busy.or_else(|| Some(format!("pid {} is a tool that sleeps", at()))),
            Wait::Inner(_) => {}
            Wait::Sources(more) => sources.extend(more.iter().cloned()),
        }
    }
    match busy {
        Some(text) => Verdict::Busy(text),
        None if sources.len() > SOURCES_MAX => Verdict::Unknown(format!("more than {SOURCES_MAX} descriptors")),
        None => Verdict::Understood(sources.into_iter().collect()),
    }
}

fn threads_of(member: Member) -> Vec<Thread> {
    let threads = match member.stat().and_then(|_| proc::threads(member.pid)) {
        Ok(tids) => tids.into_iter().filter_map(|tid| thread(member, tid)).collect(),
        Err(unseen) => unseen_thread(member, member.pid, unseen).into_iter().collect(),
    };
    // What was seen may belong to the next process with this pid.
    if member.stat() == Err(Unseen::Gone) { Vec::new() } else { threads }
}

/// A thread that refuses to be seen waits for something unknown; one that is gone waits no more.
fn unseen_thread(member: Member, tid: i32, unseen: Unseen) -> Option<Thread> {
    match unseen {
        Unseen::Gone => None,
        Unseen::Refused(why) => Some(Thread { member, tid, comm: "?".into(), wait: Wait::Unknown(why) }),
    }
}

fn thread(member: Member, tid: i32) -> Option<Thread> {
    let stat = match proc::thread_stat(member.pid, tid) {
        Ok(stat) if matches!(stat.state, b'Z' | b'X' | b'x') => return None,
        Ok(stat) => stat,
        Err(unseen) => return unseen_thread(member, tid, unseen),
    };
    let process = Process { member, tid };
    match call_of(member.pid, tid, stat.state).and_then(|call| process.wait(call)) {
        Ok(wait) => Some(Thread { member, tid, comm: stat.comm, wait }),
        // It changed while it was looked at: a descriptor is gone, say. If the thread is, too,
        // then it does not matter; if not, it was just running.
        Err(Unseen::Gone) => {
            proc::thread_stat(member.pid, tid).ok().map(|_| Thread { member, tid, comm: stat.comm, wait: Wait::Busy })
        }
        Err(Unseen::Refused(why)) => Some(Thread { member, tid, comm: stat.comm, wait: Wait::Unknown(why) }),
    }
}

/// What a thread asks of the kernel.
pub fn call_of(pid: i32, tid: i32, state: u8) -> Seen<Call> {
    let call = proc::syscall(pid, tid)?;
    let wchan = match call {
        proc::Syscall::Inside { number: libc::SYS_restart_syscall, .. } => proc::wchan(pid, tid)?,
        _ => String::new(),
    };
    Ok(calls::classify(&call, state, &wchan))
}

/// One process, seen from one of its threads.
struct Process {
    member: Member,
    tid: i32,
}

impl Process {
    fn wait(&self, call: Call) -> Seen<Wait> {
        let mut sources = Vec::new();
        let found = &mut sources;
        match call {
            Call::Running => return Ok(Wait::Busy),
            Call::Unknown(why) => return Ok(Wait::Unknown(why)),
            Call::Inner(what) => return Ok(Wait::Inner(what)),
            Call::Sleep if self.tid == self.member.pid => return Ok(Wait::Sleeping),
            Call::Sleep => return Ok(Wait::Inner("its own timer")),
            Call::Futex { address } => return self.futexes(&[address]),
            Call::Futexes { address, count } => return self.futexes(&self.futex_array(address, count)?),
            Call::Descriptor { fd, events } => self.interest(fd, events.bits().into(), true, NESTED_MAX, found)?,
            Call::Epoll { fd } => self.epoll(fd, false, NESTED_MAX, found)?,
            Call::Poll { address, count } => {
                for (fd, events) in self.poll_array(address, count)? {
                    self.interest(fd, events.into(), false, NESTED_MAX, found)?;
                }
            }
            Call::Select { count, sets } => {
                for (fd, events) in self.select_sets(count, sets)? {
                    self.interest(fd, events.bits().into(), false, NESTED_MAX, found)?;
                }
            }
        }
        // Descriptors were looked up in the main thread's table.
        match self.tid == self.member.pid || peek::same_descriptors(self.member.pid, self.tid).unwrap_or(true) {
            true => Ok(Wait::Sources(sources)),
            false => Err(Unseen::Refused("a thread with descriptors of its own".into())),
        }
    }

    /// What waiting for `events` (EPOLL bits) of `fd` comes down to. `alone`: in a call that reads
    /// or writes, not in one of those that wait for several.
    fn interest(&self, fd: i32, events: u32, alone: bool, depth: usize, found: &mut Vec<Source>) -> Seen<()> {
        let kind = proc::fd_kind(self.member.pid, fd)?;
        match kind {
            FdKind::Epoll if events & libc::EPOLLIN as u32 != 0 => {
                self.epoll(fd, events & EDGE != 0, depth, found)?;
            }
            // Its own timers, and signals: to look whether a signalfd is ready would look at ours.
            FdKind::Epoll | FdKind::TimerFd | FdKind::SignalFd => {}
            FdKind::File if alone => return Err(Unseen::Refused(format!("a file, fd {fd}"))),
            // Always ready: a thread that waits for others beside it does not wait for this one.
            FdKind::File => {}
            FdKind::Other(name) => return Err(Unseen::Refused(format!("{name}, fd {fd}"))),
            _ if found.len() == SOURCES_MAX => {
                return Err(Unseen::Refused(format!("more than {SOURCES_MAX} descriptors")));
            }
            _ => {
                let (edge, events) = (events & EDGE != 0, (events & !NO_EVENTS) as u16);
                found.push(Source { member: self.member, fd, edge, kind, events });
            }
        }
        Ok(())
    }

    fn epoll(&self, epoll: i32, edge: bool, depth: usize, found: &mut Vec<Source>) -> Seen<()> {
        let Some(depth) = depth.checked_sub(1) else {
            return Err(Unseen::Refused("epoll sets nested too deeply".into()));
        };
        let pid = self.member.pid;
        for entry in proc::epoll(pid, epoll)?.into_iter().filter(|entry| entry.events & !NO_EVENTS != 0) {
            match peek::is_epoll_target(pid, epoll, entry.fd, entry.nth) {
                Ok(true) => {}
                // Closed here, but open elsewhere, it still counts, and cannot be got hold of.
                Ok(false) => return Err(Unseen::Refused(format!("a file that was fd {} and is elsewhere", entry.fd))),
                Err(error) => match error.raw_os_error() {
                    Some(libc::EBADF) => {
                        return Err(Unseen::Refused(format!("a file that was fd {} and is elsewhere", entry.fd)));
                    }
                    // The set changed since it was listed.
                    Some(libc::ENOENT | libc::ESRCH) => return Err(Unseen::Gone),
                    _ => return Err(Unseen::Refused(format!("fd {} in an epoll set: {error}", entry.fd))),
                },
            }
            let inherited = if edge { EDGE } else { 0 };
            self.interest(entry.fd, entry.events | inherited, false, depth, found)?;
        }
        Ok(())
    }

    fn futexes(&self, addresses: &[u64]) -> Seen<Wait> {
        if addresses.is_empty() {
            return Ok(Wait::Inner("a futex"));
        }
        let maps = proc::maps(self.member.pid)?;
        match addresses.iter().all(|&address| proc::is_shared_mapping(&maps, address) == Some(false)) {
            true => Ok(Wait::Inner("a futex")),
            false => Ok(Wait::Unknown("a futex in shared memory".into())),
        }
    }

    /// The addresses of those that are not in private memory by their own word.
    fn futex_array(&self, address: u64, count: u64) -> Seen<Vec<u64>> {
        let raw = self.array(address, count, 24, FUTEXES_MAX)?;
        let shared = raw.chunks_exact(24).filter(|waiter| u32_at(waiter, 16) & calls::FUTEX_PRIVATE == 0);
        Ok(shared.map(|waiter| u64_at(waiter, 8)).collect())
    }

    fn poll_array(&self, address: u64, count: u64) -> Seen<Vec<(i32, u16)>> {
        let raw = self.array(address, count, 8, SOURCES_MAX)?;
        let entries = raw.chunks_exact(8).map(|entry| (u32_at(entry, 0) as i32, u32_at(entry, 4) as u16));
        // A negative number is how poll is told to skip an entry.
        Ok(entries.filter(|entry| entry.0 >= 0).collect())
    }

    fn select_sets(&self, count: u64, sets: [u64; 3]) -> Seen<Vec<(i32, PollFlags)>> {
        let mut found = Vec::new();
        for (address, events) in sets.into_iter().zip([PollFlags::IN, PollFlags::OUT, PollFlags::PRI]) {
            if address != 0 {
                let raw = self.array(address, count.div_ceil(64), 8, SOURCES_MAX / 64)?;
                let set = |fd: &u64| raw[*fd as usize / 8] >> (fd % 8) & 1 == 1;
                found.extend((0..count).filter(set).map(|fd| (fd as i32, events)));
            }
        }
        Ok(found)
    }

    /// `count` items of `bytes` bytes each at `address`.
    fn array(&self, address: u64, count: u64, bytes: usize, max: usize) -> Seen<Vec<u8>> {
        let count = usize::try_from(count).ok().filter(|&count| count <= max);
        let Some(count) = count else { return Err(Unseen::Refused(format!("more than {max} things at once"))) };
        let mut raw = vec![0; count * bytes];
        let end = address.checked_add(raw.len() as u64);
        let end = end.ok_or_else(|| Unseen::Refused("something outside its memory".into()))?;
        let read = sys::read_memory(self.member.pid, &mut raw, std::slice::from_ref(&(address..end)));
        read.map(|()| raw).map_err(|error| Unseen::from_io("memory", &error))
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(std::array::from_fn(|nth| bytes[at + nth]))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_ne_bytes(std::array::from_fn(|nth| bytes[at + nth]))
}

#[cfg(test)]
mod tests;
