//! Supervisors in registries of their own, and terminals to start them on.
#![allow(dead_code)]

use rustix::process::{Pid, Signal, WaitOptions};
use rustix::termios::{LocalModes, Termios, Winsize};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// How long anything may take before a test gives up on it.
pub const PATIENCE: Duration = Duration::from_secs(30);

const NOBODY: u32 = 65534;

/// Says what could not be tested, past the test harness, which shows only what failed.
pub fn lacking(what: &str) {
    let _ = writeln!(std::io::stderr(), "NOT TESTED: this machine lacks {what}");
}

/// Lets `command` heed signals that whoever runs the tests in the background may ignore.
pub fn heed(command: &mut Command) {
    let heed = || {
        for signal in [libc::SIGINT, libc::SIGQUIT, libc::SIGHUP] {
            // SAFETY: between fork and exec, a call that is allowed there.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
        Ok(())
    };
    // SAFETY: it makes only those calls.
    unsafe { command.pre_exec(heed) };
}

/// A registry, and supervisors in it.
pub struct Place {
    folder: tempfile::TempDir,
    program: PathBuf,
}

impl Place {
    pub fn new() -> Self {
        Self::with_program(env!("CARGO_BIN_EXE_agentmem-supervisor").into())
    }

    pub fn with_program(program: PathBuf) -> Self {
        Place { folder: tempfile::tempdir().unwrap(), program }
    }

    pub fn runtime(&self) -> PathBuf {
        self.folder.path().join("run")
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.runtime().join("agents").join(name)
    }

    /// The supervisor with these arguments.
    pub fn supervisor(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(arguments).env("AGENTMEM_RUNTIME_DIR", self.runtime()).env_remove("AGENTMEM_AGENT");
        heed(&mut command);
        command
    }

    /// The same as a user without any rights; none, and it says so, where the tests cannot have one.
    pub fn powerless(&self, arguments: &[&str]) -> Option<Command> {
        let mut command = self.supervisor(arguments);
        command.arg(format!("--cold-dir={}", self.folder.path().display()));
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(self.folder.path(), Some(NOBODY), Some(NOBODY)).unwrap();
            command.uid(NOBODY).gid(NOBODY);
        } else if agentmem_pager::userfault::is_permitted() {
            lacking("a user who may not handle page faults");
            return None;
        }
        let reached = Command::new(&self.program).arg("none").uid(NOBODY).stderr(Stdio::null()).status();
        if rustix::process::geteuid().is_root() && reached.is_err() {
            lacking("a folder with programs that any user may start");
            return None;
        }
        Some(command)
    }

    /// `run -- command...`
    pub fn run(&self, command: &[&str]) -> Command {
        let mut supervisor = self.supervisor(&["run", "--"]);
        supervisor.args(command).stdin(Stdio::null());
        supervisor
    }

    /// `run -- sh -c script`
    pub fn script(&self, script: &str) -> Command {
        self.run(&["sh", "-c", script])
    }

    /// What a shell finds that was started through the supervisor, and what it finds that was not.
    /// `"$@"` in the script is the supervisor, or nothing.
    pub fn both(&self, script: &str) -> [Output; 2] {
        let prefix = [self.program.to_str().unwrap(), "run", "--"];
        [&prefix[..], &[]].map(|prefix| {
            let mut shell = Command::new("sh");
            shell.args(["-c", script, "sh"]).args(prefix).env("AGENTMEM_RUNTIME_DIR", self.runtime());
            shell.stdin(Stdio::null()).output().unwrap()
        })
    }

    /// Asks over the socket; returns the answer.
    pub fn ask(&self, name: &str, request: &str) -> serde_json::Value {
        let mut stream = UnixStream::connect(self.file(&format!("{name}.sock"))).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        writeln!(stream, "{request}").unwrap();
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }

    /// All that the supervisor of agent `a` says of it.
    pub fn status(&self) -> serde_json::Value {
        self.ask("a", r#"{"op":"status","verbose":true}"#)["agent"].clone()
    }
}

/// Waits until `done` gives something.
pub fn eventually<T>(what: &str, mut done: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = done() {
            return value;
        }
        assert!(start.elapsed() < PATIENCE, "{what} does not happen");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub fn lives(pid: i32) -> bool {
    // A zombie nobody reaped yet is as dead.
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

pub fn kill(child: &Child, signal: Signal) {
    rustix::process::kill_process(Pid::from_child(child), signal).unwrap();
}

/// A child that does not outlive its test.
pub struct Running(pub Child);

impl Running {
    pub fn pid(&self) -> i32 {
        self.0.id() as i32
    }

    pub fn line(&mut self) -> String {
        // One byte at a time: what comes after the line is somebody else's.
        let mut line = Vec::new();
        let mut byte = [0];
        while self.0.stdout.as_mut().unwrap().read(&mut byte).unwrap() == 1 && byte[0] != b'\n' {
            line.push(byte[0]);
        }
        String::from_utf8(line).unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A terminal, with a supervisor (or a shell) as the leader of its session.
pub struct Screen {
    pub user: OwnedFd,
    pub shown: Vec<u8>,
    pub child: Running,
}

impl Screen {
    /// Starts `command` on a terminal of 80 to 24, all three descriptors.
    pub fn start(command: Command) -> Self {
        Self::start_with(command, |_| {})
    }

    /// The same, after `change` had its way with the descriptors.
    pub fn start_with(mut command: Command, change: impl FnOnce(&mut Command)) -> Self {
        use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let user = openpt(flags).unwrap();
        grantpt(&user).unwrap();
        unlockpt(&user).unwrap();
        let side = ioctl_tiocgptpeer(&user, flags).unwrap();
        let size = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(&user, size).unwrap();
        rustix::io::ioctl_fionbio(&user, true).unwrap();
        let copy = || Stdio::from(side.try_clone().unwrap());
        command.stdin(copy()).stdout(copy()).stderr(copy());
        change(&mut command);
        // SAFETY: three system calls.
        unsafe {
            command.pre_exec(|| {
                rustix::process::setsid()?;
                rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?;
                Ok(())
            });
        }
        Screen { user, shown: Vec::new(), child: Running(command.spawn().unwrap()) }
    }

    pub fn type_(&mut self, text: &str) {
        rustix::io::write(&self.user, text.as_bytes()).unwrap();
    }

    /// Takes what is shown; whether there was any.
    pub fn look(&mut self) -> bool {
        let mut block = [0; 4096];
        match rustix::io::read(&self.user, &mut block) {
            Ok(count) => {
                self.shown.extend_from_slice(&block[..count]);
                count > 0
            }
            Err(_) => false,
        }
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.shown).into_owned()
    }

    /// Waits until `text` is shown, and forgets everything up to it.
    pub fn wait_for(&mut self, text: &str) {
        let start = Instant::now();
        loop {
            self.look();
            if let Some(at) = self.shown.windows(text.len()).position(|window| window == text.as_bytes()) {
                self.shown.drain(..at + text.len());
                return;
            }
            assert!(start.elapsed() < PATIENCE, "{text:?} is not shown, but {:?}", self.text());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    pub fn modes(&self) -> Termios {
        rustix::termios::tcgetattr(&self.user).unwrap()
    }

    pub fn is_raw(&self) -> bool {
        !self.modes().local_modes.intersects(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG)
    }

    /// Waits for a stop or the end of the child.
    pub fn changed(&mut self) -> rustix::process::WaitStatus {
        let pid = Pid::from_child(&self.child.0);
        eventually("the end", || {
            while self.look() {}
            let options = WaitOptions::NOHANG | WaitOptions::UNTRACED;
            rustix::process::waitpid(Some(pid), options).unwrap().map(|(_, status)| status)
        })
    }
}
