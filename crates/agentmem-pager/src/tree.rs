//! Which processes belong to a managed tree.

use crate::peek;
use crate::proc::{self, Seen, Stat, Unseen};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashSet};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// Processes that a tree may have.
pub const MEMBERS_MAX: usize = 4096;

/// Processes of the machine that are looked through.
const PROCESSES_MAX: usize = 4 << 20;

/// Depth of cgroups below the tree's own.
const CGROUP_DEPTH_MAX: usize = 16;

/// One process, which a pid alone does not identify: pids are used again. In JSON, `[pid, start_ticks]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(from = "(i32, u64)", into = "(i32, u64)")]
pub struct Member {
    /// Its number.
    pub pid: i32,
    /// When it started, in ticks since boot.
    pub start_ticks: u64,
}

impl Member {
    /// The living process that has number `pid` now.
    pub fn of(pid: i32) -> Seen<Self> {
        let stat = proc::stat(pid)?;
        if stat.is_dead() { Err(Unseen::Gone) } else { Ok(Self::from(&stat)) }
    }

    /// Its stat, unless it ended, even if the pid belongs to another process by now.
    pub fn stat(&self) -> Seen<Stat> {
        let stat = proc::stat(self.pid)?;
        if stat.is_dead() || Self::from(&stat) != *self { Err(Unseen::Gone) } else { Ok(stat) }
    }

    /// Whether it lives.
    pub fn lives(&self) -> bool {
        self.stat().is_ok()
    }

    /// Kills it and nobody else. Returns whether it lived.
    pub fn kill(&self) -> bool {
        self.pidfd().is_ok_and(|pidfd| pidfd_send_signal(pidfd, Signal::KILL).is_ok())
    }

    /// A descriptor of it, which never refers to another process.
    pub fn pidfd(&self) -> Seen<OwnedFd> {
        let pid = Pid::from_raw(self.pid).ok_or(Unseen::Gone)?;
        let pidfd = pidfd_open(pid, PidfdFlags::empty())
            .map_err(|error| Unseen::from_io(&format!("pidfd of {}", self.pid), &error.into()))?;
        // Whoever has the pid now, after the descriptor was made, is who it refers to.
        self.stat().map(|_| pidfd)
    }
}

impl From<&Stat> for Member {
    fn from(stat: &Stat) -> Self {
        Self { pid: stat.pid, start_ticks: stat.start_ticks }
    }
}

impl From<(i32, u64)> for Member {
    fn from((pid, start_ticks): (i32, u64)) -> Self {
        Self { pid, start_ticks }
    }
}

impl From<Member> for (i32, u64) {
    fn from(member: Member) -> Self {
        (member.pid, member.start_ticks)
    }
}

/// A managed tree of processes.
#[derive(Debug, Clone)]
pub struct Tree {
    /// The process that was started or adopted.
    pub root: i32,
    /// A cgroup that was made for this tree alone.
    pub cgroup: Option<PathBuf>,
    /// `None` where the root was adopted by something else.
    pub reaper: Option<Reaper>,
    /// Whether what is below the root belongs to it.
    pub whole: bool,
}

/// The supervisor: a child subreaper, to which orphans of the tree come, so that its children belong to the tree.
#[derive(Debug, Clone, Copy)]
pub struct Reaper {
    /// Its number.
    pub pid: i32,
    /// A child of it between it and the root, and no part of the tree: it hands signals on, which only who runs can.
    pub leader: Option<i32>,
}

impl Tree {
    /// The living processes of the tree, in the order of their pids; empty once all have ended.
    ///
    /// A process that is just being forked may be missing; stopped trees are listed completely.
    ///
    /// # Errors
    /// A line that says why the list would not be complete: more than [`MEMBERS_MAX`], or some
    /// process that cannot be looked at.
    pub fn members(&self) -> Result<Vec<Member>, String> {
        let pids = match &self.cgroup {
            Some(cgroup) => pids_of_cgroup(cgroup)?,
            None if !self.whole => vec![self.root],
            None => self.descendants()?,
        };
        let mut members = Vec::with_capacity(pids.len());
        for pid in pids {
            match Member::of(pid) {
                Ok(member) => members.push(member),
                Err(Unseen::Gone) => {}
                Err(Unseen::Refused(why)) => return Err(why),
            }
        }
        members.sort_unstable();
        Ok(members)
    }

    /// What keeps the tree awake because nobody can look at it: a living process below the tree's that left its cgroup, as
    /// what `systemd-run --scope` runs. Who waits for its end would wait frozen, and not be woken.
    ///
    /// # Errors
    /// A line that says why it cannot be known.
    pub fn strayed(&self) -> Result<Option<String>, String> {
        let Some(cgroup) = self.cgroup.as_ref().filter(|_| self.whole) else { return Ok(None) };
        let below = self.descendants()?;
        let inside: HashSet<i32> = pids_of_cgroup(cgroup)?.into_iter().collect();
        let mut outside = below.iter().filter(|pid| !inside.contains(pid)).filter_map(|&pid| proc::stat(pid).ok());
        let strayed = outside.find(|stat| !stat.is_dead());
        Ok(strayed.map(|stat| format!("{} ({}) runs outside of the tree's cgroup", stat.comm, stat.pid)))
    }

    fn descendants(&self) -> Result<Vec<i32>, String> {
        let family = Family::look()?;
        let mut found = HashSet::from([self.root]);
        let mut queue = vec![self.root];
        if let Some(reaper) = self.reaper {
            queue.extend(family.children(reaper.pid)?.into_iter().filter(|&pid| found.insert(pid)));
        }
        while let Some(pid) = queue.pop() {
            queue.extend(family.children(pid)?.into_iter().filter(|&pid| found.insert(pid)));
            if found.len() > MEMBERS_MAX {
                return Err(too_many());
            }
        }
        if let Some(Reaper { pid, leader }) = self.reaper {
            found.retain(|&member| member != pid && Some(member) != leader);
        }
        Ok(found.into_iter().collect())
    }
}

fn too_many() -> String {
    format!("more than {MEMBERS_MAX} processes in the tree")
}

/// Who is whose child.
enum Family {
    /// The kernel says it per thread: cost grows with the tree, not with the machine.
    Kernel,
    /// It does not, and the parents of all processes were looked up.
    Parents(BTreeMap<i32, Vec<i32>>),
}

impl Family {
    fn look() -> Result<Self, String> {
        if Path::new("/proc/thread-self/children").exists() {
            return Ok(Self::Kernel);
        }
        let mut parents: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
        for stat in all_processes()? {
            parents.entry(stat.ppid).or_default().push(stat.pid);
        }
        Ok(Self::Parents(parents))
    }

    fn children(&self, pid: i32) -> Result<Vec<i32>, String> {
        match self {
            Self::Kernel => children_of(pid),
            Self::Parents(parents) => Ok(parents.get(&pid).cloned().unwrap_or_default()),
        }
    }
}

fn children_of(pid: i32) -> Result<Vec<i32>, String> {
    let mut children = Vec::new();
    // Each thread has the children that it forked itself.
    for tid in or_default(proc::threads(pid))? {
        children.extend(or_default(proc::children(pid, tid))?);
    }
    Ok(children)
}

/// What is gone has no parts; what refuses to be seen is an error.
fn or_default<T: Default>(seen: Seen<T>) -> Result<T, String> {
    match seen {
        Ok(value) => Ok(value),
        Err(Unseen::Gone) => Ok(T::default()),
        Err(Unseen::Refused(why)) => Err(why),
    }
}

fn all_processes() -> Result<impl Iterator<Item = Stat>, String> {
    let pids = or_default(proc::processes(PROCESSES_MAX))?;
    Ok(pids.into_iter().filter_map(|pid| proc::stat(pid).ok()))
}

fn pids_of_cgroup(cgroup: &Path) -> Result<Vec<i32>, String> {
    let mut pids = Vec::new();
    let mut queue = vec![(cgroup.to_owned(), 0)];
    while let Some((folder, depth)) = queue.pop() {
        let Some(text) = read_procs(&folder)? else { continue };
        // 0 stands for a process that this pid namespace does not see.
        pids.extend(text.split_ascii_whitespace().filter_map(|word| word.parse::<i32>().ok()).filter(|&pid| pid > 0));
        if pids.len() > MEMBERS_MAX || queue.len() > MEMBERS_MAX {
            return Err(too_many());
        }
        let below = std::fs::read_dir(&folder).into_iter().flatten().flatten();
        let folders = below.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        if depth < CGROUP_DEPTH_MAX {
            queue.extend(folders.map(|entry| (entry.path(), depth + 1)));
        } else if folders.count() > 0 {
            return Err(format!("cgroups below {} are nested too deeply", cgroup.display()));
        }
    }
    Ok(pids)
}

/// The list of one cgroup; `None` if the cgroup is gone, or a threaded one, whose processes its
/// parent lists.
fn read_procs(folder: &Path) -> Result<Option<String>, String> {
    match std::fs::read_to_string(folder.join("cgroup.procs")) {
        Ok(text) => Ok(Some(text)),
        Err(error) => match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENODEV | libc::EOPNOTSUPP) => Ok(None),
            _ => Err(format!("{}: {error}", folder.display())),
        },
    }
}

/// A process outside the tree that runs in the memory of one inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sharing {
    /// Inside.
    pub member: Member,
    /// Outside.
    pub outsider: i32,
}

/// Who outside of `members` runs in the memory of one of them (after vfork, or clone with
/// CLONE_VM): such a process would see pages go while nobody stops it.
///
/// Looks through all processes of the machine: for once per page-out, not for every tick.
///
/// # Errors
/// A line that says why it cannot be known.
pub fn sharing_outside(members: &[Member]) -> Result<Vec<Sharing>, String> {
    let inside: HashSet<i32> = members.iter().map(|member| member.pid).collect();
    let mut marked: BTreeMap<[u64; 3], Vec<Member>> = BTreeMap::new();
    for member in members {
        if let Ok(stat) = member.stat() {
            marked.entry(stat.memory_marks).or_default().push(*member);
        }
    }
    let mut sharing = Vec::new();
    for stat in all_processes()?.filter(|stat| !inside.contains(&stat.pid) && !stat.is_dead()) {
        for &member in marked.get(&stat.memory_marks).into_iter().flatten() {
            match peek::same_memory(member.pid, stat.pid) {
                Ok(true) => sharing.push(Sharing { member, outsider: stat.pid }),
                Ok(false) => {}
                Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
                Err(error) => return Err(format!("comparing memory of {} and {}: {error}", member.pid, stat.pid)),
            }
        }
    }
    Ok(sharing)
}

#[cfg(test)]
mod tests;
