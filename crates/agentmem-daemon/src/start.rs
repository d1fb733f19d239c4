//! The ways into the daemon: in the foreground, in the background, and out of it again.

use crate::arguments::{Settings, Verb};
use crate::config::Config;
use crate::grant_log::GrantLog;
use crate::inbox::Inbox;
use crate::keeper::{self, Keeper};
use crate::lock::{self, Claim, Lock};
use crate::message::Message;
use crate::notify::{Kept, LOCK, SOCKET};
use crate::oom;
use crate::paths::{Place, io};
use crate::restarts::Policy;
use crate::scores;
use crate::server::serve;
use crate::shelf::raise_limit;
use crate::sys::{Signals, keep_little};
use crate::trees::Trees;
use agentmem_core::{Error, ErrorKind, Result};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Exit code of a daemon that failed.
pub const EXIT_FAILED: i32 = 1;
/// Exit code of arguments or a configuration that make no sense.
pub const EXIT_USAGE: i32 = 2;
/// Exit code of a start where one runs already.
pub const EXIT_RUNS_ALREADY: i32 = 3;

/// How long `--stop` waits: a daemon that ends writes down what it holds.
const STOP_PATIENCE: Duration = Duration::from_secs(120);

/// Does what the arguments say. Returns the exit code; an error is told as one line, with its own code.
pub fn start(verb: Verb, settings: &Settings) -> Result<i32> {
    match verb {
        Verb::Engine => engine(settings, Kept::take()?),
        Verb::Foreground => foreground(settings),
        Verb::Background => background(settings),
        Verb::Detached => {
            // Fails only for the leader of a group, which then already is apart from the caller's.
            let _ = rustix::process::setsid();
            foreground(settings)
        }
        Verb::Stop => stop(settings),
        Verb::Version => print(&format!("agentmemd {}\n", env!("CARGO_PKG_VERSION"))),
        Verb::Help => print(crate::arguments::HELP),
    }
}

fn print(text: &str) -> Result<i32> {
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(0)
}

/// The exit code that goes with an error.
pub fn exit_code(error: &Error) -> i32 {
    if error.kind() == ErrorKind::InvalidArgument { EXIT_USAGE } else { EXIT_FAILED }
}

fn foreground(settings: &Settings) -> Result<i32> {
    let kept = Kept::take()?;
    if settings.no_keeper {
        return engine(settings, kept);
    }
    let place = Place::find(settings.socket.as_deref())?;
    let lock = match Lock::claim(&place)? {
        Claim::Ours(lock) => lock,
        Claim::Theirs(holders) => return Ok(runs_already(&place, &holders)),
    };
    let mut arguments = settings.to_options();
    arguments.push("--engine".into());
    let oom_score = Config::load(settings)?.oom_score;
    let settings = keeper::Settings { program: own_program(), arguments, policy: Policy::default(), oom_score };
    Ok(Keeper::new(place, lock, kept, settings)?.run())
}

/// The engine: below a keeper, which passes socket and lock, or by itself.
fn engine(settings: &Settings, mut kept: Kept) -> Result<i32> {
    let signals = Signals::block(&[Signal::TERM, Signal::INT, Signal::HUP])
        .map_err(|error| Error::new(ErrorKind::Io, format!("signals: {error}")))?;
    raise_limit();
    keep_little();
    let config = Config::load(settings)?;
    if config.oom_score {
        scores::lower_own(&oom::ENGINE);
    }
    let place = Place::find(settings.socket.as_deref())?;
    let _lock = match kept.take_found(LOCK) {
        Some(lock) => Lock::from_fd(lock),
        None => match Lock::claim(&place)? {
            Claim::Ours(lock) => lock,
            Claim::Theirs(holders) => return Ok(runs_already(&place, &holders)),
        },
    };
    let listener = match kept.take_listener() {
        Some(listener) => listener,
        None => {
            let listener = place.bind()?;
            // Who connects while there is no engine waits for the next one.
            kept.store(SOCKET, &listener)?;
            listener
        }
    };
    let grants = GrantLog::beside(|ending| place.reached(Some(ending)));
    serve(&config, &Trees::beside(place.socket()), grants, listener, kept, &signals)?;
    Ok(0)
}

/// Starts a daemon in a session of its own, and returns when it serves or has failed. What it said till then
/// is said on stderr, and stays in the log beside the socket.
fn background(settings: &Settings) -> Result<i32> {
    let place = Place::find(settings.socket.as_deref())?;
    let inbox = Inbox::bind(&place, &format!("start-{}", std::process::id()))?;
    let (log_path, reached) = (place.beside("log"), place.reached(Some("log")));
    let log = std::fs::OpenOptions::new().append(true).create(true).mode(0o600).open(&reached);
    let log = log.map_err(|error| io(&log_path, error))?;
    let before = log.metadata().map_or(0, |found| found.len());
    let mut command = Command::new(own_program());
    command.arg0("agentmemd").arg("--detached").args(settings.to_options()).current_dir("/");
    // Somebody to tell, but not to have anything kept.
    command.env("NOTIFY_SOCKET", inbox.address()).env("FDSTORE", "0").env_remove("LISTEN_FDS");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    let mut child = command.spawn().map_err(|error| io(&own_program(), error))?;
    let code = until_ready(&inbox, &mut child)?;
    if code != 0 {
        let said = std::fs::read(&reached).unwrap_or_default();
        let _ = std::io::stderr().write_all(said.get(before as usize..).unwrap_or(&said));
    }
    Ok(code)
}

/// Waits until a daemon says that it serves, and returns 0; or its exit code.
fn until_ready(inbox: &Inbox, child: &mut Child) -> Result<i32> {
    let fail = |error: std::io::Error| Error::new(ErrorKind::Io, format!("waiting for the daemon: {error}"));
    let pid = Pid::from_child(child);
    let process = rustix::process::pidfd_open(pid, PidfdFlags::empty()).map_err(|error| fail(error.into()))?;
    loop {
        while let Some(letter) = inbox.receive() {
            let is_ready = Message::parse(&letter.text).is_some_and(|message| message.ready);
            if is_ready && letter.sender.pid == pid {
                return Ok(0);
            }
        }
        if let Some(status) = child.try_wait().map_err(fail)? {
            return Ok(status.code().filter(|&code| code != 0).unwrap_or(EXIT_FAILED));
        }
        let _ = poll(&mut [PollFd::new(inbox, PollFlags::IN), PollFd::new(&process, PollFlags::IN)], None);
    }
}

fn stop(settings: &Settings) -> Result<i32> {
    let place = Place::find(settings.socket.as_deref())?;
    if !lock::stop(&place, STOP_PATIENCE)? {
        let _ = writeln!(std::io::stderr(), "agentmemd: none runs at {}", place.socket().display());
    }
    Ok(0)
}

fn runs_already(place: &Place, holders: &[i32]) -> i32 {
    let who = holders.first().map_or("pid not known yet".to_owned(), |pid| format!("pid {pid}"));
    let _ = writeln!(std::io::stderr(), "agentmemd: already running ({who}) at {}", place.socket().display());
    EXIT_RUNS_ALREADY
}

/// This program, even where another has its path by now: keeper and engine are of one version.
fn own_program() -> PathBuf {
    "/proc/self/exe".into()
}
