//! The leader of the command's own terminal session: a process between supervisor and command that
//! does nothing but stand where a shell would.
//!
//! A group whose parents are all outside of its session is orphaned, and the kernel ignores Ctrl-Z
//! in it. So the command is not the session's leader: this process is, and the command leads the
//! foreground group below it, as a job of a shell does.

use crate::launch::{self, Exit, Inherited, LaunchError};
use crate::os::{self, Forked, SignalSet};
use rustix::process::{Pid, WaitOptions};
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// What the leader tells of the command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record {
    /// It runs, with this process id.
    Started(i32),
    /// It cannot be executed: an errno.
    Failed(i32),
    /// It stopped by this signal.
    Stopped(i32),
    /// It ended.
    Ended(Exit),
}

const RECORD_BYTES: usize = 8;

impl Record {
    fn to_bytes(self) -> [u8; RECORD_BYTES] {
        let (tag, value) = match self {
            Record::Started(pid) => (0, pid),
            Record::Failed(errno) => (1, errno),
            Record::Stopped(signal) => (2, signal),
            Record::Ended(Exit::Code(code)) => (3, code),
            Record::Ended(Exit::Signal(signal)) => (4, signal),
        };
        ((tag as u64) << 32 | u64::from(value as u32)).to_ne_bytes()
    }

    fn from_bytes(bytes: [u8; RECORD_BYTES]) -> Option<Self> {
        let word = u64::from_ne_bytes(bytes);
        let value = word as u32 as i32;
        Some(match word >> 32 {
            0 => Record::Started(value),
            1 => Record::Failed(value),
            2 => Record::Stopped(value),
            3 => Record::Ended(Exit::Code(value)),
            4 => Record::Ended(Exit::Signal(value)),
            _ => return None,
        })
    }
}

/// The supervisor's end of a session.
pub struct Session {
    leader: Pid,
    records: OwnedFd,
}

impl Session {
    /// Starts a session on `terminal` with `command` in its foreground. Returns the command's
    /// process id too.
    pub fn start(command: &[OsString], inherited: &Inherited, terminal: OwnedFd) -> Result<(Self, Pid), LaunchError> {
        let own = |error: rustix::io::Errno| LaunchError::own("a terminal session", error);
        let (records, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(own)?;
        let supervisor = rustix::process::getpid();
        // SAFETY: the supervisor starts its second thread later.
        let forked = unsafe { os::fork() }.map_err(|error| LaunchError::own("a terminal session", error))?;
        let leader = match forked {
            Forked::Child => lead(command, inherited, &terminal, &write, supervisor),
            Forked::Parent(leader) => leader,
        };
        drop(write);
        let session = Session { leader, records };
        match session.next() {
            Some(Record::Started(pid)) => {
                let pid = Pid::from_raw(pid).ok_or_else(|| own(rustix::io::Errno::SRCH))?;
                rustix::io::ioctl_fionbio(&session.records, true).map_err(own)?;
                Ok((session, pid))
            }
            Some(Record::Failed(errno)) => Err(LaunchError::exec(&command[0], &io::Error::from_raw_os_error(errno))),
            _ => Err(own(rustix::io::Errno::CHILD)),
        }
    }

    /// The leader's process id: a child of the supervisor, and no part of the command's tree.
    pub fn leader(&self) -> Pid {
        self.leader
    }

    /// What happened next to the command, if anything did. A leader that was killed has taken the
    /// command with it.
    pub fn next(&self) -> Option<Record> {
        let mut bytes = [0; RECORD_BYTES];
        match rustix::io::retry_on_intr(|| rustix::io::read(&self.records, &mut bytes)) {
            Ok(RECORD_BYTES) => Record::from_bytes(bytes),
            Ok(_) => Some(Record::Ended(Exit::Signal(libc::SIGKILL))),
            Err(_) => None,
        }
    }

    /// Lets the stopped command go on.
    pub fn resume(&self) {
        os::kill(self.leader.as_raw_nonzero().get(), libc::SIGCONT);
    }
}

impl AsFd for Session {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.records.as_fd()
    }
}

/// The leader's life.
fn lead(command: &[OsString], inherited: &Inherited, terminal: &OwnedFd, out: &OwnedFd, supervisor: Pid) -> ! {
    let root = match begin(command, inherited, terminal, supervisor) {
        Ok(root) => root,
        Err(errno) => {
            tell(out, Record::Failed(errno));
            os::exit_now(launch::EXIT_OWN);
        }
    };
    // The terminal stays open here, so that it never hangs up while the command runs.
    let _ = os::forget_standard();
    os::close_all_but(&[terminal.as_raw_fd(), out.as_raw_fd()]);
    tell(out, Record::Started(root.as_raw_nonzero().get()));
    let signals = SignalSet::of(&[libc::SIGCHLD, libc::SIGCONT]);
    loop {
        if let Some(exit) = watch(root, out) {
            // Who outlives the command should not be hung up on when the session ends.
            let _ = rustix::termios::tcsetpgrp(terminal, rustix::process::getpid());
            tell(out, Record::Ended(exit));
            os::exit_now(0);
        }
        if signals.wait().signal == libc::SIGCONT {
            os::kill(-root.as_raw_nonzero().get(), libc::SIGCONT);
        }
    }
}

fn begin(command: &[OsString], inherited: &Inherited, terminal: &OwnedFd, supervisor: Pid) -> Result<Pid, i32> {
    let errno = |error: io::Error| error.raw_os_error().unwrap_or(libc::EINVAL);
    launch::die_with(supervisor).map_err(errno)?;
    let _ = rustix::thread::set_name(c"agentmem-leader");
    rustix::process::setsid().map_err(|e| e.raw_os_error())?;
    rustix::process::ioctl_tiocsctty(terminal).map_err(|e| e.raw_os_error())?;
    launch::spawn(command, inherited, Some(terminal)).map_err(|error| error.errno)
}

/// Passes on what the command did since the last time; returns how it ended once it has.
fn watch(root: Pid, out: &OwnedFd) -> Option<Exit> {
    let options = WaitOptions::NOHANG | WaitOptions::UNTRACED;
    while let Ok(Some((_, status))) = rustix::process::waitpid(Some(root), options) {
        if let Some(exit) = Exit::from_status(status) {
            return Some(exit);
        }
        if let Some(signal) = status.stopping_signal() {
            tell(out, Record::Stopped(signal));
        }
    }
    None
}

fn tell(out: &OwnedFd, record: Record) {
    // A supervisor that is gone kills this process; there is nobody else to tell.
    let _ = rustix::io::write(out, &record.to_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_survive_the_pipe() {
        for record in [
            Record::Started(4_194_304),
            Record::Failed(libc::ENOENT),
            Record::Stopped(libc::SIGTSTP),
            Record::Ended(Exit::Code(255)),
            Record::Ended(Exit::Signal(9)),
        ] {
            assert_eq!(Record::from_bytes(record.to_bytes()), Some(record));
        }
        assert_eq!(Record::from_bytes([0xff; RECORD_BYTES]), None);
    }
}
