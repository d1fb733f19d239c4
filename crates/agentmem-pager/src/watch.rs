//! Watching what a frozen tree waits for, through duplicates of its descriptors.

use crate::peek;
use crate::proc::{FdKind, Unseen};
use crate::tree::Member;
use crate::waits::{SOURCES_MAX, Source};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{PidfdGetfdFlags, pidfd_getfd};
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// The end of what a descriptor can ever tell.
const ENDED: PollFlags = PollFlags::HUP.union(PollFlags::ERR).union(PollFlags::RDHUP);

/// Duplicates of the descriptors that a tree waits for, to be polled in its place.
///
/// Polling takes nothing out of them. While they are open, the far side of a pipe or socket does
/// not see that the tree closed its side, so a watch is for frozen trees and ends with the freeze.
#[derive(Debug)]
pub struct Watch {
    watched: Vec<Watched>,
}

#[derive(Debug)]
struct Watched {
    source: Source,
    fd: OwnedFd,
    events: PollFlags,
}

impl Watch {
    /// Duplicates the descriptors of `sources`.
    ///
    /// Open it while the tree still runs, look at [`Watch::ready`] once the tree is stopped, and
    /// nothing is missed: of a source that wakes on changes only, what is ready *now* is taken to
    /// have been told to the tree.
    ///
    /// # Errors
    /// `NotFound` if a process or descriptor is gone (the tree was not waiting, after all: look
    /// again); `InvalidInput` for more than [`SOURCES_MAX`] sources; others, such as too many open
    /// files in this process, as they come. With any error the tree must not be frozen.
    pub fn open(sources: &[Source]) -> io::Result<Self> {
        if sources.len() > SOURCES_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("more than {SOURCES_MAX} descriptors")));
        }
        let mut pidfds = HashMap::new();
        let mut copies: HashMap<(Member, i32, bool), usize> = HashMap::new();
        let mut watched: Vec<Watched> = Vec::new();
        for source in sources {
            match copies.get(&(source.member, source.fd, source.edge)) {
                Some(&nth) => watched[nth].events |= source.flags(),
                None => {
                    copies.insert((source.member, source.fd, source.edge), watched.len());
                    watched.push(Watched::open(source, &mut pidfds)?);
                }
            }
        }
        let ready = poll(&watched)?;
        let mut ready = ready.into_iter();
        watched.retain_mut(|watched| watched.expects_more(ready.next().unwrap_or(PollFlags::empty())));
        Ok(Self { watched })
    }

    /// What to add to a poll loop. If one of them becomes ready there, ask [`Watch::ready`].
    pub fn fds(&self) -> impl Iterator<Item = (BorrowedFd<'_>, PollFlags)> {
        self.watched.iter().map(|watched| (watched.fd.as_fd(), watched.events))
    }

    /// The duplicates, for somebody else to poll.
    pub fn into_fds(self) -> impl Iterator<Item = (OwnedFd, PollFlags)> {
        self.watched.into_iter().map(|watched| (watched.fd, watched.events))
    }

    /// A source that is ready now; does not block. In doubt, when poll itself fails, one is.
    pub fn ready(&self) -> Option<&Source> {
        let nth = match poll(&self.watched) {
            Ok(ready) => ready.into_iter().position(|events| !events.is_empty()),
            Err(_) => Some(0),
        };
        nth.and_then(|nth| self.watched.get(nth)).map(|watched| &watched.source)
    }

    /// A source whose descriptor is another file by now, as far as the kernel says.
    pub fn replaced(&self) -> Option<&Source> {
        let is_another = |watched: &&Watched| {
            let Source { member, fd, .. } = watched.source;
            peek::is_same_file(watched.fd.as_fd(), member.pid, fd) == Some(false)
        };
        self.watched.iter().find(is_another).map(|watched| &watched.source)
    }
}

impl Watched {
    fn open(source: &Source, pidfds: &mut HashMap<Member, OwnedFd>) -> io::Result<Self> {
        let pidfd = match pidfds.entry(source.member) {
            std::collections::hash_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::hash_map::Entry::Vacant(entry) => {
                entry.insert(source.member.pidfd().map_err(|unseen| into_io(source, unseen))?)
            }
        };
        match pidfd_getfd(pidfd, source.fd, PidfdGetfdFlags::empty()) {
            Ok(fd) => Ok(Self { source: source.clone(), fd, events: source.flags() }),
            Err(rustix::io::Errno::BADF | rustix::io::Errno::SRCH) => Err(into_io(source, Unseen::Gone)),
            Err(error) => Err(io::Error::new(io::Error::from(error).kind(), format!("{source}: {error}"))),
        }
    }

    /// Forgets what a source that wakes on changes only has told already; whether there is
    /// anything left that it could tell.
    fn expects_more(&mut self, ready: PollFlags) -> bool {
        if !self.source.edge {
            return true;
        }
        if ready.intersects(ENDED) {
            return false;
        }
        self.events -= ready & PollFlags::OUT;
        // A counter that runtimes ring to wake themselves, and never read. Data that lies in
        // anything else keeps counting: more may come, and would look no different.
        if self.source.kind == FdKind::EventFd {
            self.events -= ready;
        }
        !(self.events - ENDED).is_empty()
    }
}

fn into_io(source: &Source, unseen: Unseen) -> io::Error {
    match unseen {
        Unseen::Gone => io::Error::new(io::ErrorKind::NotFound, format!("{source} is gone")),
        Unseen::Refused(why) => io::Error::other(why),
    }
}

/// What is ready now.
fn poll(watched: &[Watched]) -> io::Result<Vec<PollFlags>> {
    let mut fds: Vec<_> = watched.iter().map(|watched| PollFd::new(&watched.fd, watched.events)).collect();
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    rustix::io::retry_on_intr(|| rustix::event::poll(&mut fds, Some(&at_once)))?;
    Ok(fds.iter().map(|fd| fd.revents()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::fd::AsRawFd;

    fn source(fd: &impl AsRawFd, kind: FdKind, events: PollFlags, edge: bool) -> Source {
        let member = Member::of(std::process::id() as i32).unwrap();
        Source { member, fd: fd.as_raw_fd(), edge, kind, events: events.bits() }
    }

    #[test]
    fn says_what_is_ready() {
        let (reader, mut writer) = io::pipe().unwrap();
        let source = source(&reader, FdKind::Pipe, PollFlags::IN, false);
        let watch = Watch::open(&[source.clone(), source.clone()]).unwrap();
        assert_eq!(watch.fds().count(), 1, "no duplicate of a duplicate");
        assert_eq!(watch.ready(), None);
        writer.write_all(b"x").unwrap();
        let text = format!("pipe fd {} of pid {}", reader.as_raw_fd(), std::process::id());
        assert_eq!(watch.ready().map(Source::to_string), Some(text));
    }

    #[test]
    fn another_file_under_the_same_number_is_seen() {
        let (reader, _writer) = io::pipe().unwrap();
        let watch = Watch::open(&[source(&reader, FdKind::Pipe, PollFlags::IN, false)]).unwrap();
        assert_eq!(watch.replaced(), None);
        let mut replaced = OwnedFd::from(reader);
        let (other, _other_writer) = io::pipe().unwrap();
        rustix::io::dup2(&other, &mut replaced).unwrap();
        assert!(watch.replaced().is_some_and(|source| source.fd == replaced.as_raw_fd()));
    }

    #[test]
    fn an_edge_counts_only_what_changes() {
        let (ours, mut theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let both = PollFlags::IN | PollFlags::OUT | PollFlags::RDHUP;
        let level = source(&ours, FdKind::Socket(1), both, false);
        let edge = source(&ours, FdKind::Socket(1), both, true);
        assert!(Watch::open(&[level]).unwrap().ready().is_some(), "writable");
        let watch = Watch::open(std::slice::from_ref(&edge)).unwrap();
        assert_eq!(watch.ready(), None);
        theirs.write_all(b"x").unwrap();
        assert_eq!(watch.ready(), Some(&edge));
        assert!(Watch::open(std::slice::from_ref(&edge)).unwrap().ready().is_some(), "data that nobody took yet");
        drop(theirs);
        assert_eq!(Watch::open(&[edge]).unwrap().fds().count(), 0, "hung up, and told so");
    }

    #[test]
    fn a_full_pipe_that_empties_is_a_change() {
        let (mut reader, mut writer) = io::pipe().unwrap();
        rustix::pipe::fcntl_setpipe_size(&writer, 4096).unwrap();
        writer.write_all(&[0; 4096]).unwrap();
        let watch = Watch::open(&[source(&writer, FdKind::Pipe, PollFlags::OUT, true)]).unwrap();
        assert_eq!(watch.ready(), None);
        io::Read::read_exact(&mut reader, &mut [0; 4096]).unwrap();
        assert!(watch.ready().is_some());
    }

    #[test]
    fn a_counter_that_is_never_read_does_not_wake() {
        let counter = rustix::event::eventfd(1, rustix::event::EventfdFlags::empty()).unwrap();
        let edge = source(&counter, FdKind::EventFd, PollFlags::IN, true);
        assert_eq!(Watch::open(&[edge]).unwrap().ready(), None);
        let level = source(&counter, FdKind::EventFd, PollFlags::IN, false);
        assert!(Watch::open(&[level]).unwrap().ready().is_some());
    }

    #[test]
    fn what_is_gone_is_not_found() {
        let (reader, _writer) = io::pipe().unwrap();
        let mut gone = source(&reader, FdKind::Pipe, PollFlags::IN, false);
        gone.fd = 1_000_000;
        assert_eq!(Watch::open(&[gone.clone()]).unwrap_err().kind(), io::ErrorKind::NotFound);
        gone.member.start_ticks += 1;
        assert_eq!(Watch::open(&[gone]).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn too_many_are_refused() {
        let (reader, _writer) = io::pipe().unwrap();
        let source = source(&reader, FdKind::Pipe, PollFlags::IN, false);
        let many = vec![source; SOURCES_MAX + 1];
        assert_eq!(Watch::open(&many).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}
