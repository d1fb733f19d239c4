//! A process to do things to: usually `shapes`, which answers commands, a line each.
#![allow(dead_code)]

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// Longer than any answer takes on a busy machine.
const PATIENCE: Timespec = Timespec { tv_sec: 120, tv_nsec: 0 };

/// Killed when dropped; the children of `shapes` then end by themselves.
pub struct Target {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

/// An answer that all is well.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    /// All that were made since the start.
    pub steps: u64,
    /// Of everything that memory should hold.
    pub digest: u64,
}

/// Checked memory of a target.
#[derive(Clone, Debug)]
pub struct Place {
    pub pid: i32,
    /// Of the shape, as `wrong` names it: `huge`, `thread2/jit`, `child0/brk`.
    pub name: String,
    pub at: u64,
    pub len: usize,
}

/// `shapes`, as cargo built it for this profile. AGENTMEM_SHAPES names another one, such as a static one.
pub fn shapes() -> PathBuf {
    if let Some(path) = std::env::var_os("AGENTMEM_SHAPES") {
        return path.into();
    }
    let test = std::env::current_exe().expect("the test's file");
    let path = test.ancestors().nth(2).expect("target/PROFILE").join("examples/shapes");
    assert!(path.exists(), "{} is missing: cargo build -p agentmem-pager --examples", path.display());
    path
}

impl Target {
    /// `shapes` with these arguments, separated by spaces.
    pub fn start(arguments: &str) -> Self {
        Target::of(Command::new(shapes()).args(arguments.split_whitespace()))
    }

    /// Any program that answers lines with lines.
    pub fn of(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a program to start");
        let (input, output) = (child.stdin.take().expect("a pipe"), child.stdout.take().expect("a pipe"));
        Target { child, input, output: BufReader::new(output) }
    }

    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Asks without waiting for the answer.
    pub fn tell(&mut self, line: &str) {
        writeln!(self.input, "{line}").expect("a target that reads");
    }

    /// The next line, or what is left of it when the target ends.
    pub fn hear(&mut self) -> String {
        if self.output.buffer().is_empty() {
            let ready = poll(&mut [PollFd::new(self.output.get_ref(), PollFlags::IN)], Some(&PATIENCE));
            assert_eq!(ready, Ok(1), "no answer");
        }
        let mut line = String::new();
        self.output.read_line(&mut line).expect("an answer");
        line.truncate(line.trim_end().len());
        line
    }

    pub fn ask(&mut self, line: &str) -> String {
        self.tell(line);
        self.hear()
    }

    /// Makes so many changes.
    pub fn step(&mut self, steps: u64) -> Answer {
        parse(&self.ask(&format!("step {steps}")))
    }

    /// Compares every byte.
    pub fn check(&mut self) -> Answer {
        parse(&self.ask("check"))
    }

    /// Where checked memory is, some of each shape.
    pub fn places(&mut self) -> Vec<Place> {
        let line = self.ask("places");
        assert!(line.starts_with("ok "), "{line}");
        line.split(' ').skip(3).map(|word| parse_place(word).expect("a place")).collect()
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("a target that lives");
    }

    /// Waits for its end and hands back the exit code. None: ended by a signal.
    pub fn end(&mut self) -> Option<i32> {
        self.child.wait().expect("a child").code()
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        // Stopped or not, and whatever became of the test.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What `ok STEPS DIGEST` says. Anything else fails the test.
#[track_caller]
pub fn parse(line: &str) -> Answer {
    let words: Vec<&str> = line.split(' ').collect();
    match words[..] {
        ["ok", steps, digest] => Answer {
            steps: steps.parse().expect("a number"),
            digest: u64::from_str_radix(digest, 16).expect("a digest"),
        },
        _ => panic!("{line:?} instead of ok"),
    }
}

fn parse_place(word: &str) -> Option<Place> {
    let mut parts = word.split(':');
    let (pid, name) = (parts.next()?.parse().ok()?, parts.next()?.to_owned());
    let at = u64::from_str_radix(parts.next()?.strip_prefix("0x")?, 16).ok()?;
    Some(Place { pid, name, at, len: parts.next()?.parse().ok()? })
}

/// Memory of a process as a file.
pub fn memory(pid: i32) -> File {
    OpenOptions::new().read(true).write(true).open(format!("/proc/{pid}/mem")).expect("the right to open it")
}

/// Changes a bit of a byte in another process.
pub fn damage(pid: i32, at: u64, bit: u32) {
    let memory = memory(pid);
    let mut byte = [0];
    memory.read_exact_at(&mut byte, at).expect("memory that can be read");
    memory.write_all_at(&[byte[0] ^ 1 << bit], at).expect("memory that can be written");
}
