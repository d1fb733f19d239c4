//! Starting the command as if there were no supervisor, and ending as the command ended.

use crate::os::{self, SignalQueue, SignalSet};
use rustix::process::{Pid, Resource, Rlimit, Signal, WaitStatus};
use std::ffi::OsString;
use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Exit code of errors of the supervisor's own.
pub const EXIT_OWN: i32 = 125;
/// Exit code when the command cannot be executed.
pub const EXIT_NOT_EXECUTABLE: i32 = 126;
/// Exit code when the command is not found.
pub const EXIT_NOT_FOUND: i32 = 127;

const OOM_SCORE_ADJ: &str = "/proc/self/oom_score_adj";
/// What a supervisor asks for: whoever is killed for memory, its command should be before it.
const OOM_SCORE_ADJ_OWN: i32 = -900;
/// How much the command's score is raised where the own one cannot be lowered.
const OOM_SCORE_ADJ_RAISE: i32 = 100;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// By itself, with this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

impl Exit {
    /// What a wait reported, if it is an end.
    pub fn from_status(status: WaitStatus) -> Option<Self> {
        let signal = || status.terminating_signal().map(Exit::Signal);
        status.exit_status().map(Exit::Code).or_else(signal)
    }

    /// Ends the own process in the same way: of the same signal where possible, else with
    /// 128 + signal.
    pub fn leave(self) -> ! {
        let signal = match self {
            Exit::Code(code) => os::exit_now(code),
            Exit::Signal(signal) => signal,
        };
        // The core, if any, is the command's; a second one of the supervisor would replace it.
        let _ = rustix::process::setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
        os::set_ignored(signal, false);
        SignalSet::of(&[signal]).unblock();
        os::kill(rustix::process::getpid().as_raw_nonzero().get(), signal);
        os::exit_now(128 + signal)
    }
}

/// Why a command could not be started.
#[derive(Debug)]
pub struct LaunchError {
    /// One line for people.
    pub text: String,
    /// 125, 126 or 127, as env and docker have it.
    pub code: i32,
    /// What the system said, as a number.
    pub errno: i32,
}

impl LaunchError {
    /// An error of the supervisor's own.
    pub fn own(what: &str, error: impl std::fmt::Display) -> Self {
        LaunchError { text: format!("{what}: {error}"), code: EXIT_OWN, errno: libc::EIO }
    }

    /// What the system said when it was asked to execute `program`.
    pub fn exec(program: &OsString, error: &io::Error) -> Self {
        let code = match error.kind() {
            io::ErrorKind::NotFound => EXIT_NOT_FOUND,
            _ => EXIT_NOT_EXECUTABLE,
        };
        // The number behind the message is for programs, and those have the exit code.
        let text = error.to_string();
        let text = text.split(" (os error").next().unwrap_or_default();
        let text = format!("cannot run {}: {text}", program.to_string_lossy());
        LaunchError { text, code, errno: error.raw_os_error().unwrap_or(libc::EINVAL) }
    }
}

/// What the command must find as the supervisor found it. Taken first of all, given back to the
/// command last of all.
#[derive(Clone)]
pub struct Inherited {
    mask: SignalSet,
    child_ignored: bool,
    pipe_ignored: bool,
    descriptors: Vec<RawFd>,
    oom_score_adj: Option<i32>,
    /// The file that takes the command into its cgroup.
    cgroup_procs: Option<PathBuf>,
}

impl Inherited {
    /// Notes what was inherited and sets what a supervisor needs instead.
    pub fn take() -> io::Result<(Self, SignalQueue)> {
        os::hold_standard()?;
        let descriptors = os::inheritable()?;
        let (signals, mask) = SignalQueue::open()?;
        let inherited = Inherited {
            mask,
            child_ignored: os::is_ignored(libc::SIGCHLD),
            pipe_ignored: os::is_ignored(libc::SIGPIPE),
            descriptors,
            oom_score_adj: lower_oom_score(),
            cgroup_procs: None,
        };
        // Who ignores it never learns of its children's ends: they are reaped by the kernel.
        os::set_ignored(libc::SIGCHLD, false);
        Ok((inherited, signals))
    }

    /// The command will start in this cgroup, so that nothing of it is ever outside.
    pub fn start_in(&mut self, cgroup: &Path) {
        self.cgroup_procs = Some(cgroup.join("cgroup.procs"));
    }

    /// In the command's process, just before it is executed.
    fn give_back(&self) {
        if let Some(procs) = &self.cgroup_procs {
            let _ = std::fs::write(procs, "0");
        }
        if let Some(score) = self.oom_score_adj {
            let _ = std::fs::write(OOM_SCORE_ADJ, score.to_string());
        }
        os::set_ignored(libc::SIGCHLD, self.child_ignored);
        os::set_ignored(libc::SIGPIPE, self.pipe_ignored);
        self.mask.apply();
    }

    /// Lets go of every descriptor that is the command's alone, so that an end of file and a broken
    /// pipe mean what they should.
    pub fn let_go(&self) -> io::Result<()> {
        for &fd in &self.descriptors {
            os::close(fd);
        }
        os::forget_standard()
    }
}

/// Lowers the own score and returns the one that the command should have.
fn lower_oom_score() -> Option<i32> {
    let inherited: i32 = std::fs::read_to_string(OOM_SCORE_ADJ).ok()?.trim().parse().ok()?;
    let lowered = std::fs::write(OOM_SCORE_ADJ, OOM_SCORE_ADJ_OWN.min(inherited).to_string()).is_ok();
    Some(if lowered { inherited } else { (inherited + OOM_SCORE_ADJ_RAISE).min(1000) })
}

/// Executes `command` in a child of this process that dies with it. With a `terminal`, that becomes
/// its stdin and stdout (and stderr, where that was the same terminal), and it leads the foreground
/// group there.
pub fn spawn(command: &[OsString], inherited: &Inherited, terminal: Option<&OwnedFd>) -> Result<Pid, LaunchError> {
    let [program, arguments @ ..] = command else {
        return Err(LaunchError::own("run", "no command given"));
    };
    let mut child = Command::new(program);
    child.args(arguments);
    if let Some(terminal) = terminal {
        let duplicate = || terminal.try_clone().map(Stdio::from).map_err(|e| LaunchError::own("a terminal", e));
        child.stdin(duplicate()?).stdout(duplicate()?);
        if crate::terminal::is_same(rustix::stdio::stdin(), rustix::stdio::stderr()) {
            child.stderr(duplicate()?);
        }
    }
    let (inherited, in_terminal) = (inherited.clone(), terminal.is_some());
    let parent = rustix::process::getpid();
    let prepare = move || {
        // std emptied the mask, and taking the terminal from the background must not stop us.
        SignalSet::full().apply();
        die_with(parent)?;
        if in_terminal {
            rustix::process::setpgid(None, None)?;
            rustix::termios::tcsetpgrp(rustix::stdio::stdin(), rustix::process::getpid())?;
        }
        inherited.give_back();
        Ok(())
    };
    // SAFETY: this process has one thread, so its child may do anything.
    unsafe { child.pre_exec(prepare) };
    let child = child.spawn().map_err(|error| LaunchError::exec(program, &error))?;
    Ok(Pid::from_child(&child))
}

/// Has the kernel kill this process when `parent`, which started it, ends.
pub fn die_with(parent: Pid) -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    if rustix::process::getppid() == Some(parent) {
        return Ok(());
    }
    // It ended before the call above, and nothing would come any more.
    os::exit_now(EXIT_OWN)
}
