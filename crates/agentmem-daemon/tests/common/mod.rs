//! Daemons to test, each in a folder of its own, and none left behind.
#![allow(dead_code)]

pub mod daemon;

use std::io::{BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub const PATIENCE: Duration = Duration::from_secs(30);

/// The example's program.
pub fn holder() -> PathBuf {
    let test = std::env::current_exe().expect("a test has a program");
    let path = test.ancestors().nth(2).expect("target/PROFILE").join("examples/holder");
    assert!(path.exists(), "{} is missing: cargo build -p agentmem-daemon --examples", path.display());
    path
}

/// A folder with a socket in it.
pub struct Site {
    pub folder: tempfile::TempDir,
    pub socket: PathBuf,
}

impl Site {
    pub fn new() -> Self {
        let folder =
            tempfile::Builder::new().permissions(PermissionsExt::from_mode(0o700)).tempdir().expect("a folder");
        let socket = folder.path().join("a.sock");
        Site { folder, socket }
    }

    /// A program that knows this folder and no other.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.env_clear().env("HOME", self.folder.path()).env("AGENTMEM_SOCKET", &self.socket);
        command.stdin(Stdio::null()).process_group(0);
        command
    }

    /// A keeper of the example's engine, with its stderr in a file.
    pub fn keeper(&self, policy: &[&str]) -> Running {
        let mut command = self.command(&holder());
        let log = std::fs::File::create(self.folder.path().join("stderr")).expect("a log");
        Running(command.arg("keeper").arg(&self.socket).args(policy).stderr(log).spawn().expect("a keeper"))
    }

    pub fn said(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("stderr")).expect("a log")
    }

    /// Asks the example's engine, whoever that is by now. None if it died instead of answering.
    pub fn try_ask(&self, question: &str) -> Option<String> {
        let deadline = Instant::now() + PATIENCE;
        let peer = loop {
            match UnixStream::connect(&self.socket) {
                Ok(peer) => break peer,
                Err(error) => assert!(Instant::now() < deadline, "nobody listens: {error}"),
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        peer.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        writeln!(&peer, "{question}").ok()?;
        peer.shutdown(Shutdown::Write).ok()?;
        let mut answer = String::new();
        BufReader::new(&peer).read_to_string(&mut answer).ok()?;
        Some(answer)
    }

    pub fn ask(&self, question: &str) -> String {
        self.try_ask(question).expect("an answer").trim_end().to_owned()
    }

    pub fn engine(&self) -> i32 {
        self.ask("pid").parse().expect("a number")
    }
}

/// A process of the test's own.
pub struct Running(pub Child);

impl Running {
    pub fn pid(&self) -> i32 {
        self.0.id() as i32
    }

    /// Its exit code, or none if a signal killed it.
    pub fn end(&mut self) -> Option<i32> {
        let mut code = None;
        wait_until("the process ends", || {
            code = self.0.try_wait().expect("a child");
            code.is_some()
        });
        code.and_then(|status| status.code())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub fn signal(pid: i32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(pid).expect("a number");
    rustix::process::kill_process(pid, signal).expect("it lives");
}

/// Whether a process is there and has not ended.
pub fn lives(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

pub fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "not within {} s: {what}", PATIENCE.as_secs());
        std::thread::sleep(Duration::from_millis(5));
    }
}
