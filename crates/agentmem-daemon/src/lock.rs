//! One daemon per socket: who holds the lock beside it is the daemon. The lock goes with the last process
//! that has it open, so a keeper that was killed leaves it to its engine until that has ended too.

use crate::paths::{Place, io};
use agentmem_core::Result;
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// Whoever only looks whether the lock is free holds it for a moment.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(20);
/// Two numbers and what is between them.
const TEXT_BYTES_MAX: usize = 64;

/// The lock, held.
#[derive(Debug)]
pub struct Lock(OwnedFd);

/// What came of claiming it.
#[derive(Debug)]
pub enum Claim {
    /// It is ours.
    Ours(Lock),
    /// These processes have it, the keeper first; none if they have not said so yet.
    Theirs(Vec<i32>),
}

impl Lock {
    /// Claims the lock of a socket.
    pub fn claim(place: &Place) -> Result<Claim> {
        let file = open(place)?;
        for attempt in 1.. {
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(Errno::WOULDBLOCK) if attempt == TRIES => return Ok(Claim::Theirs(holders(&file))),
                Err(Errno::WOULDBLOCK | Errno::INTR) => std::thread::sleep(PAUSE),
                Err(error) => return Err(io(&place.beside("lock"), error)),
            }
        }
        let lock = Lock(file);
        lock.note(&[rustix::process::getpid()]);
        Ok(Claim::Ours(lock))
    }

    /// Takes over one that another process claimed for this one.
    pub fn from_fd(fd: OwnedFd) -> Self {
        Lock(fd)
    }

    /// Writes down who has it, for those who want to end them.
    pub fn note(&self, processes: &[Pid]) {
        let numbers: Vec<_> = processes.iter().map(|pid| pid.as_raw_nonzero().to_string()).collect();
        let text = numbers.join(" ") + "\n";
        // Without it, nobody but who looks for a process to end is worse off.
        let _ = rustix::fs::ftruncate(&self.0, 0);
        let _ = rustix::io::pwrite(&self.0, text.as_bytes(), 0);
    }

    /// One more for a process that this one starts.
    pub fn try_clone(&self) -> Result<OwnedFd> {
        self.0.try_clone().map_err(|error| io("lock".as_ref(), error))
    }
}

/// Asks the daemon of a socket to end, and waits until it has. Returns whether there was one; an error after
/// `patience`.
pub fn stop(place: &Place, patience: Duration) -> Result<bool> {
    let file = open(place)?;
    let deadline = Instant::now() + patience;
    let mut asked = Vec::new();
    while rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared).is_err() {
        // A keeper first; its engine only if the keeper is gone.
        for number in holders(&file) {
            if asked.contains(&number) {
                break;
            }
            if ask_to_end(number, &file) {
                asked.push(number);
                break;
            }
        }
        if Instant::now() > deadline {
            let text = format!("still held by {:?} after {} s", holders(&file), patience.as_secs());
            return Err(io(&place.beside("lock"), text));
        }
        std::thread::sleep(PAUSE);
    }
    Ok(!asked.is_empty())
}

/// Signals a holder. Its number is read once more when the process can no longer be mistaken for another.
fn ask_to_end(number: i32, file: &OwnedFd) -> bool {
    let Some(Ok(process)) = Pid::from_raw(number).map(|pid| rustix::process::pidfd_open(pid, PidfdFlags::empty()))
    else {
        return false;
    };
    holders(file).contains(&number) && rustix::process::pidfd_send_signal(&process, Signal::TERM).is_ok()
}

fn holders(file: &OwnedFd) -> Vec<i32> {
    let mut text = [0; TEXT_BYTES_MAX];
    let read = rustix::io::pread(file, &mut text, 0).unwrap_or(0);
    let text = std::str::from_utf8(&text[..read]).unwrap_or_default();
    text.split_whitespace().filter_map(|number| number.parse().ok()).filter(|&number| number > 0).collect()
}

fn open(place: &Place) -> Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(place.reached(Some("lock")), flags, Mode::RUSR | Mode::WUSR)
        .map_err(|error| io(&place.beside("lock"), error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_learns_who_the_first_is() {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::find(Some(&folder.path().join("run/a.sock"))).unwrap();
        let own = std::process::id() as i32;
        let Claim::Ours(lock) = Lock::claim(&place).unwrap() else { panic!("taken") };
        assert!(matches!(Lock::claim(&place).unwrap(), Claim::Theirs(holders) if holders == [own]));
        let inherited = lock.try_clone().unwrap();
        drop(lock);
        assert!(matches!(Lock::claim(&place).unwrap(), Claim::Theirs(_)), "whoever inherited it still has it");
        drop(inherited);
        assert!(!stop(&place, Duration::ZERO).unwrap());
        assert!(matches!(Lock::claim(&place).unwrap(), Claim::Ours(_)));
    }
}
