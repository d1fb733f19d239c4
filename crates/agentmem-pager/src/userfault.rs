//! A userfaultfd of another process: made in its name, held by both.
//!
//! The target keeps its own descriptor, so that a page that is missing when every holder outside
//! has died makes it wait, and never reads as zeros.

use crate::sys::{self, PageRun};
use crate::target::Stopped;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Where the target keeps its descriptor, so that the low numbers stay as the program expects them.
const DESCRIPTOR_MIN: u64 = 900;
/// Runs of pages taken from the kernel at a time.
const RUNS_MAX: usize = 1024;
/// `_IO(0xAA, 0)` of /dev/userfaultfd.
const USERFAULTFD_IOC_NEW: u64 = 0xaa00;

/// A userfaultfd, with the page tables that it is about.
#[derive(Debug)]
pub struct Userfault {
    fd: OwnedFd,
    in_target: i32,
    pagemap: File,
    /// Whether the kernel keeps a record of what was written.
    tracks_writes: bool,
}

impl Userfault {
    /// Makes one in the name of a stopped process.
    ///
    /// # Errors
    /// `EPERM` if the process may not handle faults of the kernel.
    pub fn create(stopped: &mut Stopped, pidfd: BorrowedFd<'_>) -> io::Result<Self> {
        let flags = (libc::O_CLOEXEC | libc::O_NONBLOCK) as u64;
        let low = match stopped.call(libc::SYS_userfaultfd, [flags, 0, 0, 0, 0, 0]) {
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => create_by_device(stopped, flags)?,
            other => other?,
        };
        let high = move_up(stopped, low);
        let wrapped = sys::pidfd_getfd(pidfd, high as i32).and_then(|fd| {
            let tracks_writes = match sys::uffd_api(fd.as_fd(), sys::FEATURE_WP_ASYNC) {
                Ok(()) => true,
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                    sys::uffd_api(fd.as_fd(), 0)?;
                    false
                }
                Err(error) => return Err(error),
            };
            let pagemap = File::open(format!("/proc/{}/pagemap", stopped.pid()))?;
            let tracks_writes = tracks_writes && sys::pagemap_scan(pagemap.as_fd(), 0..0, false, &mut []).is_ok();
            Ok(Userfault { fd, in_target: high as i32, pagemap, tracks_writes })
        });
        if wrapped.is_err() {
            let _ = stopped.call(libc::SYS_close, [high, 0, 0, 0, 0, 0]);
        }
        wrapped
    }

    /// The descriptor, which becomes readable when somebody faults on a missing page.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// The target's page tables.
    pub fn pagemap(&self) -> &File {
        &self.pagemap
    }

    /// The number that the target knows it by.
    pub fn in_target(&self) -> i32 {
        self.in_target
    }

    /// Whether the kernel tells which pages were written.
    pub fn tracks_writes(&self) -> bool {
        self.tracks_writes
    }

    /// From now on, writes to `range` are recorded, and nothing of it faults. Registering cannot take a mode away
    /// from a range that is guarded: see [`Userfault::unguard`].
    pub fn track(&self, range: Range<u64>) -> io::Result<()> {
        sys::uffd_register(self.fd(), range, sys::MODE_WP)
    }

    /// Ends what [`Userfault::guard`] began. What is there counts as not written from now on. Of a process that
    /// `has_run` since, nothing may be mapped there any more.
    pub fn unguard(&self, range: Range<u64>, has_run: bool) -> io::Result<()> {
        match sys::uffd_unregister(self.fd(), range.clone()) {
            Err(error) if has_run && error.raw_os_error() == Some(libc::EINVAL) => return Ok(()),
            unregistered => unregistered?,
        }
        if self.tracks_writes {
            // Where this fails, the range counts as written, and nothing else is lost.
            let _ = self.track(range.clone()).and_then(|()| self.scan(range, true, |_| {}));
        }
        Ok(())
    }

    /// From now on, whoever touches a missing page of `range` waits.
    pub fn guard(&self, range: Range<u64>) -> io::Result<()> {
        let mode = if self.tracks_writes { sys::MODE_MISSING | sys::MODE_WP } else { sys::MODE_MISSING };
        sys::uffd_register(self.fd(), range, mode)
    }

    /// Calls `each` for every run of alike pages of `range` that are present or in swap, and begins the record of
    /// writes anew if `protect`.
    pub fn scan(&self, range: Range<u64>, protect: bool, mut each: impl FnMut(PageRun)) -> io::Result<()> {
        let mut runs = vec![PageRun::default(); RUNS_MAX];
        let mut at = range.start;
        while at < range.end {
            let (count, end) = sys::pagemap_scan(self.pagemap.as_fd(), at..range.end, protect, &mut runs)?;
            runs[..count].iter().copied().for_each(&mut each);
            assert!(end > at, "a walk that does not move on");
            at = end;
        }
        Ok(())
    }

    /// Puts `bytes` into missing pages from `address` on. A page that is there is left as it is: it was never
    /// dropped. One that is unmapped is an error, unless the process `has_run` since.
    pub fn fill(&self, address: u64, bytes: &[u8], has_run: bool) -> io::Result<()> {
        fill_all(bytes.len() as u64, has_run, |part| {
            sys::uffd_copy(self.fd(), address + part.start, &bytes[part.start as usize..part.end as usize])
        })
    }

    /// Maps zeros into the missing pages of `range`, likewise.
    pub fn fill_zeros(&self, range: Range<u64>, has_run: bool) -> io::Result<()> {
        fill_all(range.end - range.start, has_run, |part| {
            sys::uffd_zero(self.fd(), range.start + part.start..range.start + part.end)
        })
    }
}

/// Fills `len` bytes of pages by calls of `fill`, which says how many bytes of a part it did, and why not all; pages that
/// are not registered are passed over where they `may_be_gone`.
fn fill_all(
    len: u64,
    may_be_gone: bool,
    mut fill: impl FnMut(Range<u64>) -> (u64, Option<io::Error>),
) -> io::Result<()> {
    let (mut done, mut most) = (0, len);
    while done < len {
        let part = done..(done + most).min(len);
        let (filled, error) = fill(part.clone());
        done += filled;
        let Some(error) = error else { continue };
        match error.raw_os_error() {
            // A page that was there.
            Some(libc::EEXIST) => done += sys::PAGE_BYTES,
            // The target's address space is being changed; the kernel asks to try again.
            Some(libc::EAGAIN) => {}
            // It fills one mapping at a time, and these may be several.
            Some(libc::ENOENT) if part.end - part.start > sys::PAGE_BYTES => {
                most = ((part.end - part.start) / 2).next_multiple_of(sys::PAGE_BYTES);
            }
            Some(libc::ENOENT) if may_be_gone => done += sys::PAGE_BYTES,
            _ => return Err(error),
        }
    }
    Ok(())
}

/// Whether processes of this user may have userfaultfds for the kernel's faults too.
pub fn is_permitted() -> bool {
    sys::has_userfaultfd() || File::options().read(true).write(true).open("/dev/userfaultfd").is_ok()
}

/// By /dev/userfaultfd, which its owner may open to users who may not call `userfaultfd`.
fn create_by_device(stopped: &mut Stopped, flags: u64) -> io::Result<u64> {
    let device = stopped.call_with_text(libc::SYS_openat, &[libc::AT_FDCWD as u64], c"/dev/userfaultfd")?;
    let made = stopped.call(libc::SYS_ioctl, [device, USERFAULTFD_IOC_NEW, flags, 0, 0, 0]);
    stopped.call(libc::SYS_close, [device, 0, 0, 0, 0, 0])?;
    made
}

/// Moves a descriptor of the target to a high number, if its limits allow.
fn move_up(stopped: &mut Stopped, low: u64) -> u64 {
    let duplicate = [low, libc::F_DUPFD_CLOEXEC as u64, DESCRIPTOR_MIN, 0, 0, 0];
    match stopped.call(libc::SYS_fcntl, duplicate) {
        Ok(high) => {
            let _ = stopped.call(libc::SYS_close, [low, 0, 0, 0, 0, 0]);
            high
        }
        Err(_) => low,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PAGE: u64 = sys::PAGE_BYTES;

    proptest! {
        /// A kernel that fills up to the end of a mapping, and stops at pages that are there.
        #[test]
        fn every_page_is_filled_once(ends in proptest::collection::btree_set(1u64..16, 0..6), there: u16) {
            let mut filled = [0; 16];
            let answer = fill_all(16 * PAGE, false, |part| {
                let (first, last) = (part.start / PAGE, part.end / PAGE);
                if ends.iter().any(|&end| first < end && end < last) {
                    return (0, Some(io::Error::from_raw_os_error(libc::ENOENT)));
                }
                let stop = (first..last).find(|page| there >> page & 1 == 1);
                (first..stop.unwrap_or(last)).for_each(|page| filled[page as usize] += 1);
                let error = stop.map(|_| io::Error::from_raw_os_error(libc::EEXIST));
                ((stop.unwrap_or(last) - first) * PAGE, error)
            });
            prop_assert!(answer.is_ok());
            prop_assert!((0..16).all(|page| filled[page] == i32::from(there >> page & 1 == 0)), "{filled:?}");
        }
    }

    #[test]
    fn what_is_not_registered_is_an_error() {
        let gone = |_| (0, Some(io::Error::from_raw_os_error(libc::ENOENT)));
        assert_eq!(fill_all(4 * PAGE, false, gone).unwrap_err().raw_os_error(), Some(libc::ENOENT));
    }

    #[test]
    fn what_is_gone_is_passed_over_and_the_rest_filled() {
        let mut filled = [false; 8];
        let answer = fill_all(8 * PAGE, true, |part| {
            let (first, last) = (part.start / PAGE, part.end / PAGE);
            if (first..last).any(|page| [2, 3, 7].contains(&page)) {
                return (0, Some(io::Error::from_raw_os_error(libc::ENOENT)));
            }
            (first..last).for_each(|page| filled[page as usize] = true);
            (part.end - part.start, None)
        });
        assert!(answer.is_ok());
        assert_eq!(filled, [true, true, false, false, true, true, true, false]);
    }
}
