//! Child processes, asked through pipes: forked ones, which inherit the parent's world, and programs of their own.

use crate::command::{Command, Report};
use crate::region::Wrong;
use crate::relatives::{end_with_parent, reap};
use crate::serve::{self, Fleet};
use rustix::process::Pid;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{self, Stdio};

/// How a child comes to be.
#[derive(Clone, Copy)]
enum Birth {
    /// posix_spawn of this program.
    Spawned,
    /// fork, and the parent's memory from then on its own.
    Forked,
    /// fork, then this program again.
    Executed,
}

pub struct Child {
    name: String,
    pid: Pid,
    ask: File,
    hear: BufReader<File>,
}

impl Child {
    /// The child number `index` of `fleet`.
    pub fn start(fleet: &mut Fleet, index: usize, seed: u64, mib: usize) -> Self {
        let birth = [Birth::Spawned, Birth::Forked, Birth::Executed][index % 3];
        let (pid, ask, hear) = match birth {
            Birth::Forked => fork(fleet, seed),
            birth => execute(birth, seed, mib),
        };
        Child { name: format!("child{index}"), pid, ask: ask.into(), hear: BufReader::new(hear.into()) }
    }

    pub fn tell(&mut self, command: Command) -> Result<(), Wrong> {
        writeln!(self.ask, "{command}").map_err(|_| self.gone())
    }

    /// What became of the last command.
    pub fn outcome(&mut self) -> Result<Report, Wrong> {
        let mut line = String::new();
        self.hear.read_line(&mut line).map_err(|_| self.gone())?;
        let outcome = Report::parse(line.trim_end()).ok_or_else(|| self.gone())?;
        let mut report = outcome.map_err(|wrong| wrong.within(&self.name))?;
        report.places = report.places.into_iter().map(|place| place.within(&self.name)).collect();
        Ok(report)
    }

    pub fn end(mut self) -> Result<(), Wrong> {
        self.tell(Command::Quit)?;
        self.outcome()?;
        reap(self.pid);
        Ok(())
    }

    /// A child that ended by itself did so because of what its memory held.
    fn gone(&self) -> Wrong {
        Wrong::told("ended of itself").within(&self.name)
    }
}

fn execute(birth: Birth, seed: u64, mib: usize) -> (Pid, OwnedFd, OwnedFd) {
    let program = std::env::current_exe().expect("the program's file");
    let mut command = process::Command::new(program);
    command.args(["child", "--threads", "1", "--seed", &seed.to_string(), "--mib", &mib.to_string()]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    if matches!(birth, Birth::Executed) {
        let before = || {
            end_with_parent();
            Ok(())
        };
        // SAFETY: a single system call. That there is something to do before exec is what makes this a fork.
        unsafe { command.pre_exec(before) };
    }
    #[expect(clippy::zombie_processes, reason = "children of all kinds are waited for by their number")]
    let mut child = command.spawn().expect("a child");
    let pid = Pid::from_child(&child);
    (pid, child.stdin.take().expect("a pipe").into(), child.stdout.take().expect("a pipe").into())
}

fn fork(fleet: &mut Fleet, seed: u64) -> (Pid, OwnedFd, OwnedFd) {
    let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).expect("pipe");
    let ((asked, ask), (hear, heard)) = (pipe(), pipe());
    // SAFETY: the C library keeps its own locks usable in the child, which takes no others that threads may hold.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        end_with_parent();
        rustix::stdio::dup2_stdin(&asked).expect("dup2");
        rustix::stdio::dup2_stdout(&heard).expect("dup2");
        drop(((asked, ask), (hear, heard)));
        fleet.forked(seed);
        serve::to_the_end(fleet);
    }
    (Pid::from_raw(pid).expect("fork"), ask, hear)
}
