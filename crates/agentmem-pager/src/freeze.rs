//! Keeping a tree from running: a cgroup's freezer (version 2), else SIGSTOP.

use crate::sys::signal;
use crate::target::Stopped;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How a tree is frozen.
#[derive(Debug, Clone)]
pub enum Freezer {
    /// By the cgroup that the tree lives in: a folder with `cgroup.freeze`.
    Cgroup(PathBuf),
    /// By SIGSTOP to each process. Its parent can see that, and a shell would say so.
    Stop {
        /// Processes that somebody else had stopped before; they are not continued.
        stopped_before: Vec<i32>,
    },
}

/// The cgroup's tasks stop at once unless they are deep in the kernel.
const FREEZE_TIMEOUT: Duration = Duration::from_secs(1);

/// What is let go by somebody else stops again within this, unless it waits for a page.
const AGAIN_TIMEOUT: Duration = Duration::from_millis(20);

/// The state letter of a process.
fn state(pid: i32) -> Option<u8> {
    let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    let end = stat.iter().rposition(|&byte| byte == b')')?;
    stat.get(end + 2).copied()
}

/// Whether a process can run no more: stopped, ended, or gone.
fn is_stopped(pid: i32) -> bool {
    matches!(state(pid), None | Some(b'T' | b'Z' | b'X'))
}

fn set_frozen(cgroup: &Path, frozen: bool) -> io::Result<()> {
    std::fs::write(cgroup.join("cgroup.freeze"), if frozen { "1" } else { "0" })
}

fn is_frozen(cgroup: &Path) -> bool {
    std::fs::read_to_string(cgroup.join("cgroup.events"))
        .is_ok_and(|events| events.lines().any(|line| line == "frozen 1"))
}

impl Freezer {
    /// Asks for the freeze of processes that are stopped by us. Nothing of them runs yet, nor afterwards.
    pub fn request(&mut self, stopped: &[Stopped]) -> io::Result<()> {
        if let Freezer::Stop { stopped_before } = self {
            *stopped_before = stopped.iter().filter(|process| process.was_stopped()).map(Stopped::pid).collect();
        }
        self.ask(stopped.iter().map(Stopped::pid))
    }

    fn ask(&self, mut pids: impl Iterator<Item = i32>) -> io::Result<()> {
        match self {
            Freezer::Cgroup(cgroup) => set_frozen(cgroup, true),
            Freezer::Stop { stopped_before } => pids.try_for_each(|pid| match stopped_before.contains(&pid) {
                true => Ok(()),
                false => signal(pid, libc::SIGSTOP),
            }),
        }
    }

    /// Whether none of `pids`, which were frozen, was let go by somebody else.
    pub fn holds(&self, pids: &[i32]) -> bool {
        match self {
            Freezer::Cgroup(cgroup) => {
                let inside = std::fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
                let is_inside = |pid: &i32| inside.lines().any(|line| line == pid.to_string());
                is_frozen(cgroup) && pids.iter().all(|pid| is_inside(pid) || is_stopped(*pid))
            }
            Freezer::Stop { .. } => pids.iter().all(|&pid| is_stopped(pid)),
        }
    }

    /// Freezes `pids` once more. Whoever waits in the kernel for a page that is missing stops when it is there, before
    /// it runs; so this waits for the others alone, and not long.
    pub fn hold_again(&self, pids: &[i32]) {
        // Who cannot be frozen runs on, with what it finds.
        let _ = self.ask(pids.iter().copied().filter(|&pid| !is_stopped(pid)));
        let deadline = Instant::now() + AGAIN_TIMEOUT;
        while !self.holds(pids) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_micros(100));
        }
    }

    /// Lets go of processes for which the freeze was asked: from our stop they go into the other without running.
    ///
    /// # Errors
    /// If they do not stay frozen: then some of them may be running.
    pub fn hand_over(&self, stopped: Vec<Stopped>) -> io::Result<()> {
        let Freezer::Cgroup(cgroup) = self else {
            return stopped.into_iter().try_for_each(|process| {
                let pid = process.pid();
                process.hand_over(|| is_stopped(pid))
            });
        };
        // Letting go wakes each thread only as far as the freezer's trap.
        drop(stopped);
        let deadline = Instant::now() + FREEZE_TIMEOUT;
        while !is_frozen(cgroup) {
            if Instant::now() > deadline {
                return Err(io::Error::other(format!("{} does not freeze", cgroup.display())));
            }
            std::thread::sleep(Duration::from_micros(100));
        }
        Ok(())
    }

    /// Lets `pids`, children before their parents, run again.
    pub fn thaw(&mut self, pids: &[i32]) -> io::Result<()> {
        match self {
            Freezer::Cgroup(cgroup) => set_frozen(cgroup, false),
            Freezer::Stop { stopped_before } => {
                for &pid in pids.iter().filter(|pid| !stopped_before.contains(pid)) {
                    match signal(pid, libc::SIGCONT) {
                        Err(error) if error.raw_os_error() != Some(libc::ESRCH) => return Err(error),
                        _ => {}
                    }
                }
                stopped_before.clear();
                Ok(())
            }
        }
    }
}
