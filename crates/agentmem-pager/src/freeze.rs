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
        match self {
            Freezer::Cgroup(cgroup) => set_frozen(cgroup, true),
            Freezer::Stop { stopped_before } => {
                *stopped_before = stopped.iter().filter(|process| process.was_stopped()).map(Stopped::pid).collect();
                stopped
                    .iter()
                    .filter(|process| !process.was_stopped())
                    .try_for_each(|process| signal(process.pid(), libc::SIGSTOP))
            }
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
