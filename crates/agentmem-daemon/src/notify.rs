//! The engine's side: it tells whoever started it how it is, has its descriptors kept there, and finds them
//! again at its start. That is systemd or the keeper, by the same protocol, or nobody.

use crate::message::{self, check_name};
use crate::shelf::{DESCRIPTORS_MAX, FIRST, NAMES_BYTES_MAX};
use crate::sys;
use agentmem_core::{Error, ErrorKind, Result};
use agentmem_store::Keep;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
    sendmsg_addr, socket_with, sockopt,
};
use std::collections::{BTreeMap, BTreeSet};
use std::env::var;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixListener;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The name under which the listening socket is passed.
pub const SOCKET: &str = "agentmem.sock";
/// The name under which a keeper passes the lock of that socket.
pub const LOCK: &str = "agentmem.lock";
/// What a keeper sets: a second descriptor of a name replaces the first by itself there.
pub const REPLACES: &str = "AGENTMEM_KEEPER";

/// How long whoever listens may take for one message that is waited for.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two looks whether it listens again.
const PAUSE: Duration = Duration::from_millis(2);
const VARIABLES: [&str; 6] = ["NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "FDSTORE", REPLACES];

/// What is kept outside of this process, and the way there.
#[derive(Debug)]
pub struct Kept {
    way: Option<Way>,
    found: BTreeMap<String, OwnedFd>,
    names: Mutex<Names>,
    descriptors_max: usize,
    replaces: bool,
}

/// What is kept, as far as this process knows.
#[derive(Debug, Default)]
struct Names {
    known: BTreeSet<String>,
    /// Not needed any more, and whoever keeps them has not been told. They count as kept, so there is a limit.
    leaving: BTreeSet<String>,
    bytes: usize,
}

/// What was known of a name.
#[derive(Clone, Copy, PartialEq)]
enum Before {
    Unknown,
    Known,
    Leaving,
}

impl Names {
    /// Makes a name known; what it was before.
    fn enter(&mut self, name: &str, descriptors_max: usize) -> Result<Before> {
        if self.known.contains(name) {
            return Ok(Before::Known);
        }
        let before = if self.leaving.remove(name) { Before::Leaving } else { Before::Unknown };
        if before == Before::Unknown {
            let (count, bytes) = (self.known.len() + self.leaving.len(), self.bytes);
            if count >= descriptors_max || bytes + name.len() + 1 > NAMES_BYTES_MAX {
                let subject = format!("{count} kept descriptors with {bytes} bytes of names");
                return Err(Error::new(ErrorKind::LimitReached, subject));
            }
            self.bytes += name.len() + 1;
        }
        self.known.insert(name.to_owned());
        Ok(before)
    }

    /// Undoes [`Self::enter`].
    fn undo(&mut self, name: &str, before: Before) {
        match before {
            Before::Known => {}
            Before::Leaving => self.leave(name),
            Before::Unknown => {
                self.known.remove(name);
                self.bytes -= name.len() + 1;
            }
        }
    }

    /// It is not needed any more.
    fn leave(&mut self, name: &str) {
        self.leaving.extend(self.known.take(name));
    }
}

#[derive(Debug)]
struct Way {
    socket: OwnedFd,
    address: SocketAddrUnix,
}

impl Kept {
    /// Takes what the process was started with, out of the environment too. Call it first of all, before
    /// there is a second thread, and once: whoever comes later finds nothing.
    pub fn take() -> Result<Self> {
        let is_for_us = var("LISTEN_PID").is_ok_and(|pid| pid == std::process::id().to_string());
        let listed = if is_for_us { var("LISTEN_FDS").ok() } else { None };
        let names = var("LISTEN_FDNAMES").unwrap_or_default();
        // Without a word: older versions of systemd keep some and do not say how many.
        let descriptors_max = var("FDSTORE").ok().and_then(|max| max.parse().ok()).unwrap_or(DESCRIPTORS_MAX);
        let replaces = std::env::var_os(REPLACES).is_some();
        let address = std::env::var_os("NOTIFY_SOCKET");
        sys::forget_variables(&VARIABLES);
        let way =
            address.filter(|address| !address.is_empty()).map(|address| Way::to(address.as_bytes())).transpose()?;
        let found = listed.map(|count| take_listed(&count, &names)).transpose()?.unwrap_or_default();
        let mut names = Names::default();
        for name in found.keys() {
            names.enter(name, usize::MAX)?;
        }
        Ok(Kept { way, names: Mutex::new(names), found, descriptors_max, replaces })
    }

    /// Nobody keeps anything.
    pub fn nobody() -> Self {
        Kept { way: None, found: BTreeMap::new(), names: Mutex::default(), descriptors_max: 0, replaces: false }
    }

    /// Whether somebody keeps descriptors. If not, what memory holds ends with this process.
    pub fn is_kept(&self) -> bool {
        self.descriptors_max > 0 && self.way.is_some()
    }

    /// The most descriptors that are kept, as far as whoever keeps them says so.
    pub fn descriptors_max(&self) -> usize {
        self.descriptors_max
    }

    /// The listening socket, if one was passed.
    pub fn take_listener(&mut self) -> Option<UnixListener> {
        self.found.remove(SOCKET).map(UnixListener::from)
    }

    /// A descriptor that was passed.
    pub fn take_found(&mut self, name: &str) -> Option<OwnedFd> {
        self.found.remove(name)
    }

    /// All that were passed and not taken yet. What is of no use must be taken off the shelf with [`remove`].
    ///
    /// [`remove`]: Kept::remove
    pub fn take_all_found(&mut self) -> BTreeMap<String, OwnedFd> {
        std::mem::take(&mut self.found)
    }

    /// Has `fd` kept under a name, instead of what had the name before. Returns whether somebody keeps it.
    /// Waits until whoever keeps it listens, for ten seconds at most.
    ///
    /// Under systemd, replacing takes two steps, and whoever dies between them has neither: what holds the
    /// only copy of something needs a name of its own. Descriptors are many and names travel all together
    /// (128 KiB of them at most): short ones, please.
    pub fn store(&self, name: &str, fd: impl AsFd) -> Result<bool> {
        match self.try_store(name, fd.as_fd(), SendFlags::empty())? {
            Ok(()) => Ok(self.is_kept()),
            Err(error) => Err(failed(error)),
        }
    }

    /// The same; the inner error is what the way there said.
    fn try_store(&self, name: &str, fd: BorrowedFd<'_>, how: SendFlags) -> Result<rustix::io::Result<()>> {
        check_name(name)?;
        let Some(way) = self.way.as_ref().filter(|_| self.is_kept()) else { return Ok(Ok(())) };
        let before = self.names().enter(name, self.descriptors_max)?;
        // Without the lock: whoever lets go must not wait for who waits here.
        let send = || {
            if before != Before::Unknown && !self.replaces {
                way.send(&removal(name), None, how)?;
            }
            // FDPOLL=0: systemd would let go of one whose other end is closed; here only `remove` does.
            way.send(&format!("FDSTORE=1\nFDPOLL=0\nFDNAME={name}"), Some(fd), how)
        };
        let sent = send();
        if sent.is_err() {
            self.names().undo(name, before);
        }
        Ok(sent)
    }

    /// Has a descriptor let go of, soon. Never waits: where nobody listens just now, a later call of this or of
    /// [`Self::tell_leaving`] says it.
    pub fn remove(&self, name: &str) -> Result<()> {
        check_name(name)?;
        self.names().leave(name);
        self.tell_leaving()
    }

    /// Tells whoever keeps them what is not needed any more, as far as he listens just now.
    pub fn tell_leaving(&self) -> Result<()> {
        let mut names = self.names();
        while let Some(name) = names.leaving.pop_first() {
            let said = self.way.as_ref().map_or(Ok(()), |way| way.send(&removal(&name), None, SendFlags::DONTWAIT));
            match said {
                Ok(()) => names.bytes -= name.len() + 1,
                Err(error) => {
                    names.leaving.insert(name);
                    let is_busy = error == rustix::io::Errno::AGAIN;
                    return if is_busy { Ok(()) } else { Err(failed(error)) };
                }
            }
        }
        Ok(())
    }

    /// The same until all of it was told, for ten seconds at most.
    pub fn tell_all_leaving(&self) -> Result<()> {
        let begin = Instant::now();
        loop {
            self.tell_leaving()?;
            if self.names().leaving.is_empty() {
                return Ok(());
            }
            if begin.elapsed() > PATIENCE {
                return Err(failed(rustix::io::Errno::AGAIN));
            }
            std::thread::sleep(PAUSE);
        }
    }

    fn names(&self) -> MutexGuard<'_, Names> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Start-up is over: agents are served.
    pub fn ready(&self) -> Result<()> {
        self.say("READY=1")
    }

    /// What follows is a clean end. Without this, an end is a failure, and the engine is started again.
    pub fn stopping(&self) -> Result<()> {
        self.say("STOPPING=1")
    }

    /// A line for people.
    pub fn status(&self, text: &str) -> Result<()> {
        let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(200).collect();
        self.say(&format!("STATUS={line}"))
    }

    /// Waits until all that was said before has been done.
    pub fn barrier(&self, patience: Duration) -> Result<()> {
        let Some(way) = &self.way else { return Ok(()) };
        self.tell_all_leaving()?;
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(failed)?;
        way.send("BARRIER=1", Some(write.as_fd()), SendFlags::empty()).map_err(failed)?;
        drop(write);
        let timeout = Timespec::try_from(patience).ok();
        match poll(&mut [PollFd::new(&read, PollFlags::empty())], timeout.as_ref()).map_err(failed)? {
            0 => Err(Error::new(ErrorKind::Io, "NOTIFY_SOCKET: no answer")),
            _ => Ok(()),
        }
    }

    /// Who keeps nothing may stop listening when start-up is over.
    fn say(&self, text: &str) -> Result<()> {
        let said = self.way.as_ref().map_or(Ok(()), |way| way.send(text, None, SendFlags::empty()));
        if self.is_kept() { said.map_err(failed) } else { Ok(()) }
    }
}

fn removal(name: &str) -> String {
    format!("FDSTOREREMOVE=1\nFDNAME={name}")
}

fn failed(error: rustix::io::Errno) -> Error {
    let what = match error {
        rustix::io::Errno::AGAIN => "who keeps descriptors does not listen".to_owned(),
        other => format!("NOTIFY_SOCKET: {other}"),
    };
    Error::new(ErrorKind::Io, what)
}

impl Keep for Kept {
    fn keep(&self, name: &str, descriptor: BorrowedFd<'_>) -> Result<()> {
        match self.store(name, descriptor)? {
            true => Ok(()),
            false => Err(Error::new(ErrorKind::Unreachable, "who kept descriptors")),
        }
    }

    fn keep_at_once(&self, name: &str, descriptor: BorrowedFd<'_>) -> Result<bool> {
        match self.try_store(name, descriptor, SendFlags::DONTWAIT)? {
            Ok(()) => Ok(self.is_kept()),
            Err(rustix::io::Errno::AGAIN) => Ok(false),
            Err(error) => Err(failed(error)),
        }
    }

    fn let_go(&self, name: &str) {
        // Where that fails nobody is there any more, or it stays as long as the keeper does.
        let _ = self.remove(name);
    }
}

impl Way {
    fn to(address: &[u8]) -> Result<Self> {
        let address = match address {
            [b'/', ..] => SocketAddrUnix::new(address),
            [b'@', name @ ..] => SocketAddrUnix::new_abstract_name(name),
            _ => return Err(Error::new(ErrorKind::Unsupported, "a NOTIFY_SOCKET that is no Unix socket")),
        };
        let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None).map_err(failed)?;
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(PATIENCE)).map_err(failed)?;
        Ok(Way { socket, address: address.map_err(failed)? })
    }

    /// Not connected: whoever listens may have bound the address anew.
    fn send(&self, text: &str, fd: Option<BorrowedFd<'_>>, how: SendFlags) -> rustix::io::Result<()> {
        debug_assert!(text.len() <= message::BYTES_MAX);
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let rights: Vec<_> = fd.into_iter().collect();
        if !rights.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(&rights));
        }
        loop {
            let parts = [IoSlice::new(text.as_bytes())];
            match sendmsg_addr(&self.socket, &self.address, &parts, &mut control, how | SendFlags::NOSIGNAL) {
                Ok(_) => return Ok(()),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// The descriptors from [`FIRST`] on. Of several with one name, the last counts; one without a name cannot
/// be asked for, and is closed.
fn take_listed(count: &str, names: &str) -> Result<BTreeMap<String, OwnedFd>> {
    let refused = |what: String| Error::new(ErrorKind::InvalidArgument, format!("LISTEN_FDS: {what}"));
    let count: RawFd = count.parse().map_err(|_| refused(format!("{count:?} is no number")))?;
    if !(0..=1 << 20).contains(&count) {
        return Err(refused(format!("{count} descriptors")));
    }
    let descriptors = sys::inherited(FIRST..FIRST + count).map_err(|error| refused(error.to_string()))?;
    let named = names.split(':').map(str::to_owned).zip(descriptors);
    Ok(named.filter(|(name, _)| check_name(name).is_ok()).collect())
}
