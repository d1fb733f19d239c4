//! The descriptors that a keeper holds, by name.
//!
//! They lie above a floor, so that a child can be given them from 3 on without one being written over
//! by another.

use crate::message::check_name;
use agentmem_core::{Error, ErrorKind, Result};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd, RawFd};

/// The most descriptors that are held, where the system allows that many.
pub const DESCRIPTORS_MAX: usize = 16_384;
/// The most that their names take, a colon behind each: one variable of the environment holds them, and the
/// kernel refuses to start a program with one of more than 128 KiB.
pub const NAMES_BYTES_MAX: usize = 128 * 1024 - 64;
/// The first number of a descriptor that is passed on.
pub const FIRST: RawFd = 3;

/// What the process needs for itself: standard streams, sockets, and some to spare.
const OWN: u64 = 64;
/// What to count on where the system states no limit.
const LIMIT_UNSTATED: u64 = 1 << 20;

/// Descriptors by name.
#[derive(Debug)]
pub struct Shelf {
    held: BTreeMap<Box<str>, OwnedFd>,
    names_bytes: usize,
    max: usize,
    floor: RawFd,
}

impl Shelf {
    /// An empty one with room for what the system allows, once the process's limit is as high as it may be.
    pub fn new() -> Self {
        let limit = raise_limit();
        let max = (limit.saturating_sub(OWN) / 2).min(DESCRIPTORS_MAX as u64);
        Shelf { held: BTreeMap::new(), names_bytes: 0, max: max as usize, floor: FIRST + max as RawFd }
    }

    /// How many it holds at most.
    pub fn max(&self) -> usize {
        self.max
    }

    /// How many it holds.
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Holds `fd`, instead of what had the name before.
    pub fn put(&mut self, name: &str, fd: OwnedFd) -> Result<()> {
        check_name(name)?;
        if !self.held.contains_key(name) {
            let names_bytes = self.names_bytes + name.len() + 1;
            if self.held.len() >= self.max {
                return Err(Error::new(ErrorKind::LimitReached, format!("{} kept descriptors", self.max)));
            }
            if names_bytes > NAMES_BYTES_MAX {
                let subject = format!("{NAMES_BYTES_MAX} bytes of names of kept descriptors");
                return Err(Error::new(ErrorKind::LimitReached, subject));
            }
        }
        let above = rustix::io::fcntl_dupfd_cloexec(&fd, self.floor)
            .map_err(|error| Error::new(ErrorKind::Io, format!("cannot keep {name}: {error}")))?;
        if self.held.insert(name.into(), above).is_none() {
            self.names_bytes += name.len() + 1;
        }
        Ok(())
    }

    /// Lets go of one. Returns whether it was there.
    pub fn remove(&mut self, name: &str) -> bool {
        let found = self.held.remove(name).is_some();
        self.names_bytes -= if found { name.len() + 1 } else { 0 };
        found
    }

    /// All names in order, with colons between them.
    pub fn names(&self) -> String {
        self.held.keys().map(|name| &**name).collect::<Vec<_>>().join(":")
    }

    /// In a child that is about to execute a program: gives each its number, from [`FIRST`] on, in order.
    pub fn hand_on(&self) -> io::Result<()> {
        self.held.values().zip(FIRST..).try_for_each(|(fd, number)| crate::sys::place(fd.as_fd(), number))
    }
}

impl Default for Shelf {
    fn default() -> Self {
        Self::new()
    }
}

/// Raises the limit of open descriptors as far as it goes, and returns it.
pub fn raise_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    getrlimit(Resource::Nofile).current.unwrap_or(LIMIT_UNSTATED)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn null() -> OwnedFd {
        std::fs::File::open("/dev/null").unwrap().into()
    }

    #[test]
    fn a_second_one_of_a_name_replaces_the_first() {
        let mut shelf = Shelf::new();
        shelf.put("b", null()).unwrap();
        shelf.put("a", null()).unwrap();
        shelf.put("b", null()).unwrap();
        assert_eq!((shelf.len(), shelf.names().as_str(), shelf.names_bytes), (2, "a:b", 4));
        assert!(shelf.remove("a") && !shelf.remove("a"));
        assert_eq!((shelf.names().as_str(), shelf.names_bytes), ("b", 2));
    }

    #[test]
    fn no_more_are_held_than_can_be_passed_on() {
        let mut shelf = Shelf { max: 2, ..Shelf::new() };
        shelf.put("a", null()).unwrap();
        shelf.put("b", null()).unwrap();
        assert_eq!(shelf.put("c", null()).unwrap_err().kind(), ErrorKind::LimitReached);
        shelf.put("b", null()).unwrap();
        let mut shelf = Shelf { names_bytes: NAMES_BYTES_MAX - 3, ..Shelf::new() };
        shelf.put("aa", null()).unwrap();
        assert_eq!(shelf.put("b", null()).unwrap_err().kind(), ErrorKind::LimitReached);
    }
}
