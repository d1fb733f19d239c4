//! Calls to Linux that rustix lacks, each behind a small safe function.

use rustix::process::Pid;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// The last of the three standard descriptors.
pub const LAST_STANDARD: RawFd = 2;

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// A set of signals, as a mask holds it.
#[derive(Clone, Copy)]
pub struct SignalSet(libc::sigset_t);

impl SignalSet {
    /// Every signal.
    pub fn full() -> Self {
        let mut set = MaybeUninit::uninit();
        // SAFETY: sigfillset initialises the set that it is given.
        unsafe {
            libc::sigfillset(set.as_mut_ptr());
            SignalSet(set.assume_init())
        }
    }

    /// These signals alone. Numbers that are none are left out.
    pub fn of(signals: &[i32]) -> Self {
        let mut set = MaybeUninit::uninit();
        // SAFETY: sigemptyset initialises the set; sigaddset refuses numbers that are no signal.
        unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            for &signal in signals {
                libc::sigaddset(set.as_mut_ptr(), signal);
            }
            SignalSet(set.assume_init())
        }
    }

    /// Makes this set the thread's mask and returns the one before.
    pub fn apply(&self) -> SignalSet {
        self.change(libc::SIG_SETMASK)
    }

    /// Takes these signals out of the thread's mask.
    pub fn unblock(&self) -> SignalSet {
        self.change(libc::SIG_UNBLOCK)
    }

    fn change(&self, how: libc::c_int) -> SignalSet {
        let mut before = SignalSet::of(&[]);
        // SAFETY: both point at initialised sets.
        unsafe { libc::pthread_sigmask(how, &self.0, &mut before.0) };
        before
    }

    /// Waits for one of these signals, all of which must be blocked.
    pub fn wait(&self) -> Received {
        let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
        loop {
            // SAFETY: the set is initialised, and the kernel fills the details.
            let signal = unsafe { libc::sigwaitinfo(&self.0, info.as_mut_ptr()) };
            if signal > 0 {
                // SAFETY: filled, and plain numbers; the sender's place is valid for any of them.
                let (info, sender) = unsafe { (info.assume_init(), info.assume_init().si_pid()) };
                return Received { signal, by_kernel: info.si_code > 0, sender };
            }
        }
    }

    /// Takes back one pending signal of these, if there is one.
    pub fn take_pending(&self) -> Option<i32> {
        let now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: set and time are initialised, and no details are asked for.
        let signal = unsafe { libc::sigtimedwait(&self.0, std::ptr::null_mut(), &now) };
        (signal > 0).then_some(signal)
    }
}

/// Whether this process ignores `signal`.
pub fn is_ignored(signal: i32) -> bool {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: only asks; a zeroed sigaction is valid, and a failed call leaves it as it is.
    unsafe {
        libc::sigaction(signal, std::ptr::null(), action.as_mut_ptr());
        action.assume_init().sa_sigaction == libc::SIG_IGN
    }
}

/// Ignores `signal`, or gives it its default action.
pub fn set_ignored(signal: i32, ignored: bool) {
    // SAFETY: neither action runs code of this process.
    unsafe { libc::signal(signal, if ignored { libc::SIG_IGN } else { libc::SIG_DFL }) };
}

/// Signals as something to poll.
pub struct SignalQueue(OwnedFd);

/// One signal that arrived.
#[derive(Clone, Copy, Debug)]
pub struct Received {
    /// Its number.
    pub signal: i32,
    /// Whether the kernel sent it (a key on the terminal, a hang-up) and not a process.
    pub by_kernel: bool,
    /// Who sent it, where a process did.
    pub sender: i32,
}

impl SignalQueue {
    /// Blocks every signal for this thread (and those it starts) and queues them instead. Returns
    /// the mask before.
    pub fn open() -> io::Result<(Self, SignalSet)> {
        let all = SignalSet::full();
        let before = all.apply();
        // SAFETY: the set is initialised, and -1 asks for a new descriptor.
        let fd = check(unsafe { libc::signalfd(-1, &all.0, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) })?;
        // SAFETY: the descriptor was just made, and nobody else owns it.
        Ok((SignalQueue(unsafe { OwnedFd::from_raw_fd(fd) }), before))
    }

    /// The next signal, or none.
    pub fn next(&self) -> Option<Received> {
        let mut info = [0u8; size_of::<libc::signalfd_siginfo>()];
        let read = rustix::io::read(&self.0, &mut info).ok()?;
        if read < info.len() {
            return None;
        }
        // SAFETY: the kernel filled the whole structure, which is plain numbers.
        let info: libc::signalfd_siginfo = unsafe { std::ptr::read_unaligned(info.as_ptr().cast()) };
        Some(Received { signal: info.ssi_signo as i32, by_kernel: info.ssi_code > 0, sender: info.ssi_pid as i32 })
    }
}

impl std::os::fd::AsFd for SignalQueue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Sends `signal`; `false` if there is no such process (any more), or it may not be sent to.
pub fn signal_pidfd(pidfd: BorrowedFd<'_>, signal: i32) -> bool {
    // SAFETY: no pointer but a null one, which asks for the details of kill.
    let result = unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, std::ptr::null::<libc::siginfo_t>(), 0)
    };
    result == 0
}

/// Sends `signal` to the own process, its whole group, or another group.
pub fn kill(target: i32, signal: i32) {
    // SAFETY: no pointers.
    unsafe { libc::kill(target, signal) };
}

/// The two ways out of [`fork`].
pub enum Forked {
    /// This is the new process.
    Child,
    /// This is the one before, and that is the new one.
    Parent(Pid),
}

/// Forks.
///
/// # Safety
///
/// The process must have one thread, or the child may do no more than is async-signal-safe.
pub unsafe fn fork() -> io::Result<Forked> {
    // SAFETY: what the child may do is the caller's care.
    let pid = check(unsafe { libc::fork() })?;
    Ok(Pid::from_raw(pid).map_or(Forked::Child, Forked::Parent))
}

/// Ends the process at once: no destructors, nothing flushed.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: does not return, touches no memory.
    unsafe { libc::_exit(code) }
}

/// The descriptors from 3 on that a program started now would inherit.
pub fn inheritable() -> io::Result<Vec<RawFd>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let Some(fd) = entry?.file_name().to_str().and_then(|name| name.parse::<RawFd>().ok()) else { continue };
        // SAFETY: only asks; a closed descriptor gives an error.
        let flags = unsafe { libc::fcntl(fd, libc::F_GETFD) };
        if fd > LAST_STANDARD && flags >= 0 && flags & libc::FD_CLOEXEC == 0 {
            found.push(fd);
        }
    }
    Ok(found)
}

/// Closes a descriptor that no `OwnedFd` of this process stands for.
pub fn close(fd: RawFd) {
    // SAFETY: the callers name descriptors that were inherited and are nowhere in use.
    unsafe { libc::close(fd) };
}

/// Closes every descriptor but the standard ones and `kept`, in a process that will never run a
/// destructor.
pub fn close_all_but(kept: &[RawFd]) {
    let mut kept = kept.to_vec();
    kept.sort_unstable();
    let mut from = LAST_STANDARD + 1;
    for fd in kept.into_iter().chain([RawFd::MAX]) {
        if fd > from {
            // SAFETY: no pointers; the caller vouches that nothing uses what is closed.
            unsafe { libc::close_range(from as u32, (fd - 1) as u32, 0) };
        }
        from = from.max(fd.saturating_add(1));
    }
}

/// Keeps the numbers 0 to 2 from being given to something else where the caller closed them: a
/// command finds them closed all the same.
pub fn hold_standard() -> io::Result<()> {
    loop {
        // SAFETY: a NUL-terminated path.
        let fd = check(unsafe { libc::open(c"/dev/null".as_ptr(), libc::O_RDWR | libc::O_CLOEXEC) })?;
        if fd > LAST_STANDARD {
            close(fd);
            return Ok(());
        }
    }
}

/// Makes the standard descriptors /dev/null, which nothing started later inherits.
pub fn forget_standard() -> io::Result<()> {
    let null = std::fs::File::options().read(true).write(true).open("/dev/null")?;
    for fd in 0..=LAST_STANDARD {
        // SAFETY: no pointers; 0 to 2 are owned by no `OwnedFd`.
        check(unsafe { libc::dup3(null.as_raw_fd(), fd, libc::O_CLOEXEC) })?;
    }
    Ok(())
}

/// Makes stdin /dev/null, for what is started later too.
pub fn forget_stdin() -> io::Result<()> {
    let null = std::fs::File::open("/dev/null")?;
    // SAFETY: no pointers; 0 is owned by no `OwnedFd`.
    check(unsafe { libc::dup2(null.as_raw_fd(), 0) }).map(drop)
}

/// The number of the terminal behind `fd`: the same for `/dev/tty` and the terminal it stands for.
pub fn terminal_number(fd: BorrowedFd<'_>) -> Option<u32> {
    let mut number = 0u32;
    // SAFETY: the kernel writes one 32-bit number.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCGDEV, &mut number) };
    (result == 0).then_some(number)
}

/// Stops this process by `signal`, or its whole group, and returns when it was continued: at once, if
/// the group is orphaned and the signal one from a terminal.
pub fn stop(signal: i32, group: bool) {
    if signal == libc::SIGSTOP {
        return kill(rustix::process::getpid().as_raw_nonzero().get(), signal);
    }
    let set = SignalSet::of(&[signal]);
    // The same key may have sent it to us already, and that one would stop us once more.
    set.take_pending();
    let ignored = is_ignored(signal);
    set_ignored(signal, false);
    let mask = set.unblock();
    kill(if group { 0 } else { rustix::process::getpid().as_raw_nonzero().get() }, signal);
    mask.apply();
    set_ignored(signal, ignored);
}
