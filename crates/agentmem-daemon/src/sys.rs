//! The one unsafe file of the daemon: what rustix lacks, each behind a small safe function.

use rustix::process::{Pid, Signal};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

/// What the allocator maps by itself and gives back by itself. Where nothing is said, that begins here too, but grows
/// to 32 MiB with what is freed.
const MAPPED_BYTES_MIN: libc::c_int = 128 << 10;
/// What is free at the end of a heap goes back when it is this much.
const TRIMMED_BYTES_MIN: libc::c_int = 1 << 20;

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Signals as something to poll.
pub struct Signals(OwnedFd);

impl Signals {
    /// Blocks these for this thread, and those that it starts, and queues them instead.
    pub fn block(signals: &[Signal]) -> io::Result<Self> {
        let mut set = MaybeUninit::uninit();
        // SAFETY: sigemptyset initialises the set, before anything reads it.
        let set = unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            for signal in signals {
                libc::sigaddset(set.as_mut_ptr(), signal.as_raw());
            }
            set.assume_init()
        };
        // SAFETY: the set is initialised, the old mask is not asked for, and -1 asks for a new descriptor.
        unsafe {
            libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
            let fd = check(libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK))?;
            Ok(Signals(OwnedFd::from_raw_fd(fd)))
        }
    }

    /// The next that arrived, if one did.
    pub fn next(&self) -> Option<i32> {
        let mut info = [0u8; size_of::<libc::signalfd_siginfo>()];
        let read = rustix::io::read(&self.0, &mut info).ok()?;
        // The number is what the structure begins with.
        (read == info.len()).then(|| i32::from_ne_bytes([info[0], info[1], info[2], info[3]]))
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The two ways out of [`fork`].
pub enum Forked {
    /// This is the new process.
    Child,
    /// This is the one before, and that is the new one.
    Parent(Pid),
}

/// Forks, if this is the process's only thread: then the child may do whatever its parent may.
pub fn fork() -> io::Result<Forked> {
    if !has_one_thread() {
        return Err(io::Error::other("a process with several threads cannot fork"));
    }
    // SAFETY: no other thread holds a lock that the child would wait for.
    let pid = check(unsafe { libc::fork() })?;
    Ok(Pid::from_raw(pid).map_or(Forked::Child, Forked::Parent))
}

/// Gives `fd` this number too, for the program that is about to be executed.
///
/// For a child between fork and exec: whatever had the number is closed, and nothing of it is used again.
pub fn place(fd: BorrowedFd<'_>, number: RawFd) -> io::Result<()> {
    // SAFETY: no pointers; the child ends or is another program before an `OwnedFd` of that number is dropped.
    check(unsafe { libc::dup2(fd.as_raw_fd(), number) }).map(drop)
}

/// Takes over descriptors that the process was started with; only the first call gets any.
pub fn inherited(numbers: std::ops::Range<RawFd>) -> io::Result<Vec<OwnedFd>> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::Relaxed) {
        return Ok(Vec::new());
    }
    let mut taken = Vec::with_capacity(numbers.len());
    for number in numbers {
        // SAFETY: no pointers; a number that is not open gives an error.
        check(unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) })?;
        // SAFETY: it is open, came with the start of the process, and is taken once.
        taken.push(unsafe { OwnedFd::from_raw_fd(number) });
    }
    Ok(taken)
}

/// Removes variables from the environment, so that no program started later believes them. A process with
/// several threads keeps them: another thread could be reading.
pub fn forget_variables(names: &[&str]) {
    if has_one_thread() {
        for name in names {
            // SAFETY: there is no other thread.
            unsafe { std::env::remove_var(name) };
        }
    }
}

/// Has the allocator keep little. A thread for each connection would otherwise spread over eight heaps for each core,
/// and what one of those keeps is of no use to the others; and a frame, or what it decodes to, goes back at once,
/// instead of leaving a hole where others find no place.
pub fn keep_little() {
    #[cfg(target_env = "gnu")]
    // SAFETY: no pointers; it changes where later allocations come from.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 2);
        libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_BYTES_MIN);
        libc::mallopt(libc::M_TRIM_THRESHOLD, TRIMMED_BYTES_MIN);
    }
}

fn has_one_thread() -> bool {
    std::fs::read_dir("/proc/self/task").is_ok_and(|threads| threads.count() == 1)
}

/// Ends the process at once: no destructors, nothing flushed.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: does not return, touches no memory.
    unsafe { libc::_exit(code) }
}
