//! The keeper: a tiny parent that holds every descriptor whose bytes must outlive the engine, and starts the
//! engine again when that dies. It is to the engine what systemd would be, by systemd's own protocol.
//!
//! One thread, no mapping of anything it holds, and no more memory than that takes.

use crate::inbox::{Inbox, Letter};
use crate::lock::Lock;
use crate::message::Message;
use crate::notify::{Kept, LOCK, REPLACES, SOCKET};
use crate::oom;
use crate::paths::Place;
use crate::restarts::{Policy, Restarts};
use crate::scores;
use crate::shelf::Shelf;
use crate::sys::{self, Forked, Signals};
use agentmem_core::{Error, ErrorKind, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, waitpid};
use std::ffi::OsString;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Exit code of a child that could not become the engine.
const EXIT_NOT_EXECUTED: i32 = 127;
/// The most letters that are read in one go: more than a queue holds, so that what was sent before is read,
/// and a flood does not keep the keeper from its child.
const LETTERS_MAX: usize = 4096;
/// From this size on, a log in the folder of the socket begins anew at a restart.
const LOG_BYTES_MAX: u64 = 1 << 20;

/// What to keep running, and how.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The engine's program.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// When to start it again.
    pub policy: Policy,
    /// Whether it may change the scores for being killed for memory, the keeper's own among them.
    pub oom_score: bool,
}

/// The keeper of one socket.
pub struct Keeper {
    own: Pid,
    settings: Settings,
    shelf: Shelf,
    lock: Lock,
    inbox: Inbox,
    signals: Signals,
    upstream: Kept,
    restarts: Restarts,
    /// The score for being killed for memory that the child begins with: the keeper's before it lowered its own.
    oom_score: Option<i32>,
    begin: Instant,
    child: Option<Child>,
    /// When to start the next child, since `begin`.
    due: Option<Duration>,
    was_ready: bool,
    stop: Stop,
    /// Last: the inbox is reached through its folder until it is gone.
    _place: Place,
}

struct Child {
    pid: Pid,
    ready: bool,
    stopping: bool,
}

/// How far the end of all has come.
#[derive(Clone, Copy, PartialEq)]
enum Stop {
    No,
    /// Asked for.
    Asked,
    /// The engine died of it instead of ending, and was started once more to save what is kept.
    Again,
}

impl Keeper {
    /// Makes the keeper of a socket, whose lock is `lock`. `upstream` is whoever started it: what was passed
    /// from there is kept as well, and the engine's state is told there. Call it before there is a second
    /// thread.
    pub fn new(place: Place, lock: Lock, mut upstream: Kept, settings: Settings) -> Result<Self> {
        let mut shelf = Shelf::new();
        // Blocked before there is a child, so that no end of one is missed.
        let signals = Signals::block(&[Signal::TERM, Signal::INT, Signal::HUP, Signal::CHILD])
            .map_err(|error| Error::new(ErrorKind::Io, format!("signals: {error}")))?;
        let listener = upstream.take_listener().map_or_else(|| place.bind(), Ok)?;
        let passed = upstream.take_all_found();
        let own = [(SOCKET.to_owned(), listener.into()), (LOCK.to_owned(), lock.try_clone()?)];
        passed.into_iter().chain(own).try_for_each(|(name, fd)| shelf.put(&name, fd))?;
        Ok(Keeper {
            own: rustix::process::getpid(),
            restarts: Restarts::new(settings.policy.clone()),
            oom_score: if settings.oom_score { scores::lower_own(&oom::KEEPER) } else { None },
            settings,
            shelf,
            lock,
            inbox: Inbox::bind(&place, "notify")?,
            signals,
            _place: place,
            upstream,
            begin: Instant::now(),
            child: None,
            due: Some(Duration::ZERO),
            was_ready: false,
            stop: Stop::No,
        })
    }

    /// Keeps the engine running until it ends by itself or the keeper is told to stop. Returns the exit code.
    pub fn run(mut self) -> i32 {
        loop {
            if self.due.is_some_and(|due| self.begin.elapsed() >= due) {
                self.start();
            }
            self.wait();
            // Before the look at the child: an end after that look has a signal of its own, which wakes.
            while let Some(signal) = self.signals.next() {
                if signal != Signal::CHILD.as_raw()
                    && let Some(code) = self.ask_to_stop()
                {
                    return code;
                }
            }
            // What was said comes before how it ended: a descriptor sent last of all is kept.
            let ended = self.reap();
            self.read_all();
            if let Some(status) = ended
                && let Some(code) = self.bury(status)
            {
                return code;
            }
        }
    }

    /// Waits for a letter, a signal, or the time of a restart.
    fn wait(&self) {
        let left = self.due.map(|due| due.saturating_sub(self.begin.elapsed()));
        let timeout = left.and_then(|left| Timespec::try_from(left).ok());
        let mut awaited = [PollFd::new(&self.signals, PollFlags::IN), PollFd::new(&self.inbox, PollFlags::IN)];
        let _ = poll(&mut awaited, timeout.as_ref());
    }

    fn reap(&self) -> Option<WaitStatus> {
        let pid = self.child.as_ref()?.pid;
        let (_, status) = waitpid(Some(pid), WaitOptions::NOHANG).ok()??;
        (status.exited() || status.signaled()).then_some(status)
    }

    fn read_all(&mut self) {
        for _ in 0..LETTERS_MAX {
            let Some(letter) = self.inbox.receive() else { return };
            self.read(letter);
        }
    }

    /// Does what the engine asks for, and nothing that another process does.
    fn read(&mut self, letter: Letter) {
        let Some(child) = self.child.as_mut().filter(|child| child.pid == letter.sender.pid) else { return };
        let Some(message) = Message::parse(&letter.text) else { return };
        child.stopping |= message.stopping;
        let name = message.name.unwrap_or_default();
        // These two are the keeper's.
        let is_own = name == SOCKET || name == LOCK;
        if message.store
            && !is_own
            && let Some(descriptor) = letter.descriptor
        {
            if let Err(error) = self.shelf.put(name, descriptor) {
                say(&format!("not kept: {error}"));
            }
        } else if message.remove && !is_own {
            self.shelf.remove(name);
        }
        // A barrier's descriptor is closed here, with the letter: all before it has been done.
        if let Some(text) = message.status {
            let _ = self.upstream.status(text);
        }
        if message.ready {
            self.ready();
        }
    }

    fn ready(&mut self) {
        let Some(child) = &mut self.child else { return };
        child.ready = true;
        if !self.was_ready {
            self.was_ready = true;
            let _ = self.upstream.ready();
        }
        if self.stop != Stop::No {
            self.signal_child();
        }
    }

    /// What to do when told to stop: the engine is told to, and has all the time it needs. Until it is ready
    /// it has not seen what is kept and could not save it, unless somebody insists.
    fn ask_to_stop(&mut self) -> Option<i32> {
        let insisted = self.stop != Stop::No;
        self.stop = if insisted { self.stop } else { Stop::Asked };
        match &self.child {
            Some(child) if child.ready || insisted || self.kept() == 0 => self.signal_child(),
            Some(_) => {}
            // Between two starts: the next one saves what is kept, if it can.
            None if self.kept() > 0 && !insisted => self.due = Some(Duration::ZERO),
            None => return Some(self.give_up(1)),
        }
        None
    }

    fn signal_child(&self) {
        // Not reaped yet, so the number is still its own.
        if let Some(child) = &self.child {
            let _ = rustix::process::kill_process(child.pid, Signal::TERM);
        }
    }

    /// Decides what comes after the end of a child. Returns the exit code if nothing does.
    fn bury(&mut self, status: WaitStatus) -> Option<i32> {
        let child = self.child.take()?;
        self.lock.note(&[self.own]);
        let code = status.exit_status().unwrap_or_else(|| 128 + status.terminating_signal().unwrap_or(0));
        let is_clean = code == 0 && (child.stopping || self.stop != Stop::No);
        if is_clean {
            let _ = self.upstream.stopping();
            return Some(0);
        }
        match self.stop {
            // It failed at its first start and has said why: nobody is helped by trying again.
            Stop::No if !self.was_ready && self.kept() == 0 => return Some(code.max(1)),
            Stop::No => {}
            Stop::Asked if self.kept() > 0 => self.stop = Stop::Again,
            Stop::Asked | Stop::Again => return Some(self.give_up(code.max(1))),
        }
        let now = self.begin.elapsed();
        let pause = self.restarts.died(now, child.ready);
        self.due = Some(now + pause.length);
        let text = format!(
            "the engine {}; {} descriptors are kept; starting it again {}",
            if status.signaled() {
                format!("died of signal {}", code - 128)
            } else {
                format!("ended with code {code}")
            },
            self.kept(),
            if pause.slow { format!("in {} s: it dies too often", pause.length.as_secs()) } else { "now".into() }
        );
        say(&text);
        let _ = self.upstream.status(&text);
        None
    }

    /// The end, with what is lost by it.
    fn give_up(&self, code: i32) -> i32 {
        if self.kept() > 0 {
            say(&format!("ending without the engine: {} kept descriptors are let go", self.kept()));
        }
        let _ = self.upstream.stopping();
        code
    }

    /// How many descriptors of the engine's are held.
    fn kept(&self) -> usize {
        self.shelf.len().saturating_sub([SOCKET, LOCK].len())
    }

    fn start(&mut self) {
        self.due = None;
        shorten_log();
        match sys::fork() {
            Ok(Forked::Child) => self.become_engine(),
            Ok(Forked::Parent(pid)) => {
                self.lock.note(&[self.own, pid]);
                self.child = Some(Child { pid, ready: false, stopping: false });
            }
            Err(error) => {
                say(&format!("cannot start the engine: {error}"));
                let now = self.begin.elapsed();
                self.due = Some(now + self.restarts.died(now, false).length.max(Duration::from_millis(100)));
            }
        }
    }

    /// In the child: becomes the engine, with every descriptor.
    fn become_engine(&self) -> ! {
        let error = match self.prepare() {
            Ok(mut command) => command.exec(),
            Err(error) => error,
        };
        say(&format!("cannot execute {}: {error}", self.settings.program.display()));
        sys::exit_now(EXIT_NOT_EXECUTED)
    }

    fn prepare(&self) -> io::Result<Command> {
        // A clean end, not a kill: then what the keeper no longer holds is written down.
        rustix::process::set_parent_process_death_signal(Some(Signal::TERM))?;
        if rustix::process::getppid() != Some(self.own) {
            sys::exit_now(EXIT_NOT_EXECUTED);
        }
        // Its own group: what a key on the terminal means is for the keeper to pass on.
        rustix::process::setpgid(None, None)?;
        if let Some(score) = self.oom_score {
            scores::set_own(score);
        }
        self.shelf.hand_on()?;
        let mut command = Command::new(&self.settings.program);
        command
            .arg0("agentmemd")
            .args(&self.settings.arguments)
            .stdin(Stdio::null())
            .env("NOTIFY_SOCKET", self.inbox.address())
            .env("LISTEN_PID", std::process::id().to_string())
            .env("LISTEN_FDS", self.shelf.len().to_string())
            .env("LISTEN_FDNAMES", self.shelf.names())
            .env("FDSTORE", self.shelf.max().to_string())
            .env(REPLACES, self.own.as_raw_nonzero().to_string());
        Ok(command)
    }
}

/// Where the background start made stderr a log file, keeps that from growing without end.
fn shorten_log() {
    let stderr = rustix::stdio::stderr();
    let appends = rustix::fs::fcntl_getfl(stderr).is_ok_and(|flags| flags.contains(rustix::fs::OFlags::APPEND));
    let is_long = rustix::fs::fstat(stderr).is_ok_and(|found| {
        rustix::fs::FileType::from_raw_mode(found.st_mode).is_file() && found.st_size as u64 > LOG_BYTES_MAX
    });
    if appends && is_long {
        let _ = rustix::fs::ftruncate(stderr, 0);
    }
}

/// A line on stderr, if there still is one.
fn say(text: &str) {
    let _ = writeln!(io::stderr(), "agentmemd: {text}");
}
