//! The root of the supervised tree: the command's process, and the ways to hear of it.

use crate::gate::{Change, Gate};
use crate::launch::{self, Exit, Inherited, LaunchError};
use crate::os;
use crate::session::{Record, Session};
use rustix::process::{Pid, PidfdFlags};
use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// How far up a process's ancestors are looked for.
const ANCESTORS_MAX: usize = 256;

enum Link {
    /// Our child, in our process group and on our terminal, if we have one.
    Child,
    /// Grandchild in a terminal session of its own.
    Session(Session),
    /// Somebody else's.
    Adopted,
}

/// The root.
pub struct Root {
    pid: Pid,
    /// None if it was over before it could be asked for.
    pidfd: Option<OwnedFd>,
    link: Link,
    over: bool,
}

impl Root {
    /// Starts `command`: in a session on `terminal`, or as a plain child.
    pub fn start(command: &[OsString], inherited: &Inherited, terminal: Option<OwnedFd>) -> Result<Self, LaunchError> {
        let (pid, link) = match terminal {
            Some(terminal) => {
                let (session, pid) = Session::start(command, inherited, terminal)?;
                (pid, Link::Session(session))
            }
            None => (launch::spawn(command, inherited, None)?, Link::Child),
        };
        let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok();
        Ok(Root { pid, pidfd, link, over: false })
    }

    /// Takes up a process that runs already.
    pub fn adopt(pid: Pid) -> Result<Self, LaunchError> {
        let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty())
            .map_err(|error| LaunchError::own(&format!("process {pid}"), error))?;
        Ok(Root { pid, pidfd: Some(pidfd), link: Link::Adopted, over: false })
    }

    /// Its process id.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// A process that stands between supervisor and root, and is no part of the tree.
    pub fn leader(&self) -> Option<Pid> {
        match &self.link {
            Link::Session(session) => Some(session.leader()),
            Link::Child | Link::Adopted => None,
        }
    }

    /// Whether the terminal's keys and hang-ups reach the root without us.
    pub fn shares_group(&self) -> bool {
        matches!(self.link, Link::Child)
    }

    /// Whether it was there before us.
    pub fn is_adopted(&self) -> bool {
        matches!(self.link, Link::Adopted)
    }

    /// What to poll to hear of it, where that is not SIGCHLD.
    pub fn source(&self) -> Option<BorrowedFd<'_>> {
        match &self.link {
            _ if self.over => None,
            Link::Session(session) => Some(session.as_fd()),
            Link::Adopted => self.pidfd.as_ref().map(AsFd::as_fd),
            Link::Child => None,
        }
    }

    /// What its source has to tell.
    pub fn changes(&mut self) -> Vec<Change> {
        let mut changes = Vec::new();
        match &self.link {
            Link::Child => {}
            Link::Adopted => changes.push(Change::Ended(Exit::Code(0))),
            Link::Session(session) => {
                while let Some(record) = session.next() {
                    match record {
                        Record::Stopped(signal) => changes.push(Change::Stopped(signal)),
                        Record::Ended(exit) => {
                            changes.push(Change::Ended(exit));
                            break;
                        }
                        Record::Started(_) | Record::Failed(_) => {}
                    }
                }
            }
        }
        self.over |= changes.iter().any(|change| matches!(change, Change::Ended(_)));
        changes
    }

    /// Reaps whoever ended below us, orphans too. Returns what concerns the root.
    pub fn reap(&mut self, gate: &Gate) -> Vec<Change> {
        let mut changes = Vec::new();
        let own = self.shares_group().then_some(self.pid);
        gate.reap(|pid, change| changes.extend((own == Some(pid)).then_some(change)));
        changes
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: i32) {
        match (&self.link, &self.pidfd) {
            (Link::Session(session), _) if signal == libc::SIGCONT => session.resume(),
            (_, Some(pidfd)) => drop(os::signal_pidfd(pidfd.as_fd(), signal)),
            (_, None) => {}
        }
    }

    /// Lets it go on after a stop that we followed. Whoever continued us may have continued it too.
    pub fn resume(&self) {
        if !self.shares_group() || stat_field(self.pid.as_raw_nonzero().get(), 0).as_deref() == Some("T") {
            self.signal(libc::SIGCONT);
        }
    }
}

/// A field of a process's stat, counted from the state.
fn stat_field(pid: i32, index: usize) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(index).map(str::to_owned)
}

/// Whether a process is below this one.
pub fn is_below_us(pid: i32) -> bool {
    let own = rustix::process::getpid().as_raw_nonzero().get();
    let parent = |pid: &i32| stat_field(*pid, 1)?.parse().ok().filter(|&parent: &i32| parent > 0);
    std::iter::successors(parent(&pid), parent).take(ANCESTORS_MAX).any(|ancestor| ancestor == own)
}
