//! The command's own terminal: a pty, and the relay between it and the terminal that the supervisor
//! was started on.
//!
//! Both buffers are bounded, and a side is polled only for what can be done with it, so a reader
//! that stops makes nothing grow and nothing spin.

use crate::os;
use crate::proc;
use rustix::event::PollFlags;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::pty::OpenptFlags;
use rustix::termios::{OptionalActions, Termios};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

const BUFFER_BYTES: usize = 16 << 10;

/// Whether two descriptors are the same terminal.
pub fn is_same(one: BorrowedFd<'_>, other: BorrowedFd<'_>) -> bool {
    let number = os::terminal_number(one);
    number.is_some() && number == os::terminal_number(other)
}

/// What the terminal's descriptors should be polled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interest {
    /// The terminal of the user.
    pub outer: PollFlags,
    /// The pty's side of the supervisor.
    pub inner: PollFlags,
}

/// The relay.
pub struct Terminal {
    /// Opened anew: making a descriptor that is shared with a shell non-blocking would break that.
    outer: OwnedFd,
    inner: OwnedFd,
    /// How the outer terminal was before it was made raw; none while it is not.
    saved: Option<Termios>,
    input: Buffer,
    output: Buffer,
    /// Whether the outer terminal is another job's now, so that neither its modes nor its keys
    /// are ours.
    background: bool,
    hung_up: bool,
    output_ended: bool,
}

impl Terminal {
    /// A terminal for the command, if stdin and stdout are one. A pipeline (`run -- command | less`)
    /// keeps its descriptors as they are: its other processes read the same keys.
    ///
    /// Returns the command's side too.
    pub fn open() -> io::Result<Option<(Self, OwnedFd)>> {
        if !is_same(rustix::stdio::stdin(), rustix::stdio::stdout()) {
            return Ok(None);
        }
        let Some(outer) = reopen() else { return Ok(None) };
        let inner = rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        rustix::pty::grantpt(&inner)?;
        rustix::pty::unlockpt(&inner)?;
        let command_side = peer(&inner)?;
        rustix::io::ioctl_fionbio(&inner, true)?;
        let (input, output) = (Buffer::new(), Buffer::new());
        let saved = None;
        let mut terminal =
            Terminal { outer, inner, saved, input, output, background: false, hung_up: false, output_ended: false };
        if terminal.in_foreground() {
            // In the background, the modes are those of a shell that edits its line.
            let modes = rustix::termios::tcgetattr(&terminal.outer)?;
            rustix::termios::tcsetattr(&command_side, OptionalActions::Now, &modes)?;
        }
        terminal.resize();
        Ok(Some((terminal, command_side)))
    }

    /// Takes the outer terminal: raw modes, current size. Where it is another job's, nothing but a
    /// note is made, and this wants to be called again.
    pub fn take(&mut self) {
        self.background = !self.in_foreground();
        if self.background {
            return;
        }
        self.resize();
        if self.saved.is_none() {
            self.saved = rustix::termios::tcgetattr(&self.outer).ok();
        }
        // Set even if it was set before: a shell may have changed it while we were stopped.
        if let Some(modes) = &self.saved {
            let mut raw = modes.clone();
            raw.make_raw();
            let _ = rustix::termios::tcsetattr(&self.outer, OptionalActions::Now, &raw);
        }
    }

    /// Gives the outer terminal back as it was found.
    pub fn give_back(&mut self) {
        if let Some(modes) = self.saved.take()
            && self.in_foreground()
        {
            let _ = rustix::termios::tcsetattr(&self.outer, OptionalActions::Now, &modes);
        }
    }

    /// Whether another job has the outer terminal.
    pub fn in_background(&self) -> bool {
        self.background
    }

    /// Gives the pty the size of the outer terminal. The kernel tells the command if that is new.
    pub fn resize(&mut self) {
        if let Ok(size) = rustix::termios::tcgetwinsize(&self.outer) {
            let _ = rustix::termios::tcsetwinsize(&self.inner, size);
        }
    }

    /// What to poll for. `delivers`: input may reach the command. `listens`: input is of interest,
    /// even if it may not.
    pub fn interest(&self, delivers: bool, listens: bool) -> Interest {
        let mut interest = Interest { outer: PollFlags::empty(), inner: PollFlags::empty() };
        let reads = if delivers { self.input.has_room() } else { listens };
        if reads && !self.background && !self.hung_up {
            interest.outer |= PollFlags::IN;
        }
        if !self.output.is_empty() && !self.hung_up {
            interest.outer |= PollFlags::OUT;
        }
        if delivers && !self.input.is_empty() {
            interest.inner |= PollFlags::OUT;
        }
        if self.output.has_room() && !self.output_ended {
            interest.inner |= PollFlags::IN;
        }
        interest
    }

    /// The terminal of the user.
    pub fn outer(&self) -> BorrowedFd<'_> {
        self.outer.as_fd()
    }

    /// The pty's side of the supervisor.
    pub fn inner(&self) -> BorrowedFd<'_> {
        self.inner.as_fd()
    }

    /// Brings what was typed nearer to the command.
    pub fn relay_input(&mut self) {
        if self.input.has_room() && !self.hung_up {
            if !self.in_foreground() {
                // Read now, and the keys of the job that has the terminal would be taken.
                self.background = true;
                self.saved = None;
            } else {
                match self.input.fill(&self.outer) {
                    // Nothing read is the end only if there is no terminal any more.
                    Ok(Filled::End) => self.hung_up = rustix::termios::tcgetattr(&self.outer).is_err(),
                    Err(_) => self.hung_up = true,
                    Ok(_) => {}
                }
            }
        }
        // What the command's side no longer takes has nobody to read it.
        if self.input.drain(&self.inner).is_err() {
            self.input.clear();
        }
    }

    /// Brings what the command wrote nearer to the user. Returns whether anything moved.
    pub fn relay_output(&mut self) -> bool {
        let mut moved = false;
        if self.output.has_room() && !self.output_ended {
            match self.output.fill(&self.inner) {
                Ok(Filled::Some) => moved = true,
                Ok(Filled::Nothing) => {}
                Ok(Filled::End) | Err(_) => self.output_ended = true,
            }
        }
        match self.output.drain(&self.outer) {
            Ok(drained) => moved || drained,
            Err(_) => {
                self.hung_up = true;
                self.output.clear();
                moved
            }
        }
    }

    /// Whether the user's terminal is gone.
    pub fn is_hung_up(&self) -> bool {
        self.hung_up
    }

    /// Whether everything that the command wrote has been handed over. Asked once it has ended.
    pub fn is_drained(&mut self) -> bool {
        while self.relay_output() {}
        self.hung_up || self.output.is_empty()
    }

    /// Whether the outer terminal is ours to use. One that is not our controlling terminal has no
    /// foreground to be in.
    fn in_foreground(&self) -> bool {
        match rustix::termios::tcgetpgrp(&self.outer) {
            Ok(group) => proc::own_stat().is_ok_and(|own| own.group == group.as_raw_pid()),
            Err(_) => true,
        }
    }
}

impl Drop for Terminal {
    /// On every way out, a panic among them.
    fn drop(&mut self) {
        self.give_back();
    }
}

/// The terminal of stdin, as an open file of its own.
fn reopen() -> Option<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    ["/dev/tty", "/proc/self/fd/0"]
        .into_iter()
        .filter_map(|path| rustix::fs::open(path, flags, Mode::empty()).ok())
        .find(|fd| is_same(fd.as_fd(), rustix::stdio::stdin()))
}

/// The command's side of a pty, even where `/dev/pts` shows another one.
fn peer(inner: &OwnedFd) -> rustix::io::Result<OwnedFd> {
    rustix::pty::ioctl_tiocgptpeer(inner, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)
}

#[derive(Debug, PartialEq, Eq)]
enum Filled {
    Some,
    Nothing,
    End,
}

/// Bytes on their way, at most [`BUFFER_BYTES`].
struct Buffer {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Buffer {
    fn new() -> Self {
        Buffer { bytes: vec![0; BUFFER_BYTES].into_boxed_slice(), start: 0, end: 0 }
    }

    fn is_empty(&self) -> bool {
        self.start == self.end
    }

    fn has_room(&self) -> bool {
        self.end < self.bytes.len()
    }

    fn clear(&mut self) {
        (self.start, self.end) = (0, 0);
    }

    /// Reads once, as much as there is room for.
    fn fill(&mut self, from: &OwnedFd) -> rustix::io::Result<Filled> {
        match rustix::io::retry_on_intr(|| rustix::io::read(from, &mut self.bytes[self.end..])) {
            Ok(0) => Ok(Filled::End),
            Ok(count) => {
                self.end += count;
                Ok(Filled::Some)
            }
            Err(Errno::AGAIN) => Ok(Filled::Nothing),
            Err(error) => Err(error),
        }
    }

    /// Writes until empty or the other side takes no more. Returns whether it took anything.
    fn drain(&mut self, to: &OwnedFd) -> rustix::io::Result<bool> {
        let mut moved = false;
        while !self.is_empty() {
            match rustix::io::retry_on_intr(|| rustix::io::write(to, &self.bytes[self.start..self.end])) {
                Ok(0) | Err(Errno::AGAIN) => return Ok(moved),
                Ok(count) => {
                    self.start += count;
                    moved = true;
                }
                Err(error) => return Err(error),
            }
        }
        self.clear();
        Ok(moved)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_that_stops_stops_the_writer() {
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::NONBLOCK).unwrap();
        let (slow_read, slow_write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::NONBLOCK).unwrap();
        let (mut buffer, mut sent, mut received) = (Buffer::new(), 0u64, 0u64);
        let mut block = [7u8; 4096];
        while let Ok(count) = rustix::io::write(&write, &block) {
            sent += count as u64;
            while buffer.has_room() && buffer.fill(&read) == Ok(Filled::Some) {}
            buffer.drain(&slow_write).unwrap();
        }
        drop(write);
        assert!(!buffer.has_room());
        let mut ended = false;
        while !ended || !buffer.is_empty() {
            buffer.drain(&slow_write).unwrap();
            while let Ok(count @ 1..) = rustix::io::read(&slow_read, &mut block) {
                received += count as u64;
            }
            ended = ended || (buffer.has_room() && buffer.fill(&read) == Ok(Filled::End));
        }
        assert_eq!(sent, received);
    }
}
