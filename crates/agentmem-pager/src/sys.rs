//! Calls to Linux on another process: ptrace, its memory, its userfaultfd, its page tables.
//!
//! With the feature `faults`, tests make the nth of them fail, and see that the target goes on
//! with every byte in place.

use std::io::{Error, Result};
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Instant;

/// Size of a page.
pub const PAGE_BYTES: u64 = 4096;
/// Ranges that one call to [`read_memory`] takes: the kernel's limit.
pub const READ_RANGES_MAX: usize = 1024;

/// Makes calls fail on purpose.
#[cfg(feature = "faults")]
pub mod faults {
    use std::sync::atomic::{AtomicI64, Ordering};

    static COUNTDOWN: AtomicI64 = AtomicI64::new(i64::MAX);

    /// The `nth` call from now on (1 is the next) fails, and none after it.
    pub fn fail_once(nth: i64) {
        COUNTDOWN.store(nth, Ordering::SeqCst);
    }

    /// Calls succeed again. Returns whether one failed.
    pub fn stop() -> bool {
        COUNTDOWN.swap(i64::MAX, Ordering::SeqCst) <= 0
    }

    pub(super) fn due() -> bool {
        COUNTDOWN.load(Ordering::SeqCst) < i64::MAX / 2 && COUNTDOWN.fetch_sub(1, Ordering::SeqCst) == 1
    }
}

/// Every call that can fail passes here first.
fn injected() -> Result<()> {
    #[cfg(feature = "faults")]
    if faults::due() {
        return Err(Error::from_raw_os_error(libc::ENOMEM));
    }
    Ok(())
}

fn checked(outcome: libc::c_long) -> Result<u64> {
    if outcome == -1 { Err(Error::last_os_error()) } else { Ok(outcome as u64) }
}

/// Registers of a stopped thread.
pub type Registers = libc::user_regs_struct;

fn ptrace(request: libc::c_uint, tid: i32, address: u64, data: u64) -> Result<u64> {
    // SAFETY: the requests used here either take no pointer, or one to a live local of the right
    // type and length; a tid that is not our tracee is an error.
    checked(unsafe { libc::ptrace(request, tid, address, data) })
}

/// A traced thread is killed if its tracer dies, and its stops at system calls are told from others.
const OPTIONS: libc::c_int = libc::PTRACE_O_EXITKILL | libc::PTRACE_O_TRACESYSGOOD;

/// Becomes the tracer of a thread, without stopping it.
pub fn seize(tid: i32) -> Result<()> {
    injected()?;
    ptrace(libc::PTRACE_SEIZE, tid, 0, OPTIONS as u64).map(drop)
}

/// Until it is let go, a stopped thread makes its system calls past its seccomp filters.
///
/// # Errors
/// `EPERM` without CAP_SYS_ADMIN, or if this process has filters itself.
pub fn suspend_seccomp(tid: i32) -> Result<()> {
    injected()?;
    let options = OPTIONS | libc::PTRACE_O_SUSPEND_SECCOMP;
    ptrace(libc::PTRACE_SETOPTIONS, tid, 0, options as u64).map(drop)
}

/// Asks a seized thread to stop.
pub fn interrupt(tid: i32) -> Result<()> {
    injected()?;
    ptrace(libc::PTRACE_INTERRUPT, tid, 0, 0).map(drop)
}

/// Lets a stopped thread go, with `signal` delivered if it is not 0.
pub fn detach(tid: i32, signal: i32) -> Result<()> {
    ptrace(libc::PTRACE_DETACH, tid, 0, signal as u64).map(drop)
}

/// The registers of a stopped thread.
pub fn registers(tid: i32) -> Result<Registers> {
    injected()?;
    // SAFETY: plain integers, for which zero is a value.
    let mut registers: Registers = unsafe { std::mem::zeroed() };
    ptrace(libc::PTRACE_GETREGS, tid, 0, &raw mut registers as u64)?;
    Ok(registers)
}

/// Sets the registers of a stopped thread.
pub fn set_registers(tid: i32, registers: &Registers) -> Result<()> {
    ptrace(libc::PTRACE_SETREGS, tid, 0, &raw const *registers as u64).map(drop)
}

/// Lets a stopped thread run until it enters or leaves a system call.
pub fn run_to_syscall(tid: i32) -> Result<()> {
    ptrace(libc::PTRACE_SYSCALL, tid, 0, 0).map(drop)
}

/// Lets a stopped thread run.
pub fn run(tid: i32) -> Result<()> {
    ptrace(libc::PTRACE_CONT, tid, 0, 0).map(drop)
}

/// The signals that a stopped thread blocks, as bits.
pub fn signal_mask(tid: i32) -> Result<u64> {
    injected()?;
    let mut mask = 0u64;
    ptrace(libc::PTRACE_GETSIGMASK, tid, 8, &raw mut mask as u64)?;
    Ok(mask)
}

/// Sets the signals that a stopped thread blocks.
pub fn set_signal_mask(tid: i32, mask: u64) -> Result<()> {
    ptrace(libc::PTRACE_SETSIGMASK, tid, 8, &raw const mask as u64).map(drop)
}

/// Address of the rseq area of a stopped thread, which the kernel writes whenever it returns to
/// user mode; 0 if it has none.
pub fn rseq_address(tid: i32) -> Result<u64> {
    injected()?;
    #[repr(C)]
    #[derive(Default)]
    struct Configuration {
        pointer: u64,
        size: u32,
        signature: u32,
        flags: u32,
        pad: u32,
    }
    const GET_RSEQ_CONFIGURATION: libc::c_uint = 0x420f;
    let mut found = Configuration::default();
    let size = std::mem::size_of::<Configuration>() as u64;
    ptrace(GET_RSEQ_CONFIGURATION, tid, size, &raw mut found as u64)?;
    Ok(found.pointer)
}

/// What a traced thread was found doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// It has not stopped yet.
    No,
    /// Stopped because it was asked to, or in its group's stop.
    Event,
    /// Stopped where it enters or leaves a system call.
    Syscall,
    /// Stopped with this signal about to be delivered.
    Signal(i32),
    /// It ended.
    Gone,
}

/// Looks whether a traced thread has stopped. The end of a thread is left for its parent to learn.
pub fn poll_stop(tid: i32) -> Result<Stop> {
    // SAFETY: plain integers, for which zero is a value.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let flags = libc::WSTOPPED | libc::WEXITED | libc::WNOHANG | libc::WNOWAIT | libc::__WALL;
    // SAFETY: `info` is a live local.
    if unsafe { libc::waitid(libc::P_PID, tid as u32, &mut info, flags) } != 0 {
        let error = Error::last_os_error();
        return if error.raw_os_error() == Some(libc::ECHILD) { Ok(Stop::Gone) } else { Err(error) };
    }
    // SAFETY: waitid filled it, or left it zero.
    let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
    if pid == 0 {
        return Ok(Stop::No);
    }
    if info.si_code != libc::CLD_STOPPED && info.si_code != libc::CLD_TRAPPED {
        return Ok(Stop::Gone);
    }
    // SAFETY: as above; this one takes the stop off the list.
    unsafe { libc::waitid(libc::P_PID, tid as u32, &mut info, libc::WSTOPPED | libc::WNOHANG | libc::__WALL) };
    let (signal, event) = (status & 0xff, status >> 8);
    Ok(match (event, signal) {
        (0, signal) if signal == libc::SIGTRAP | 0x80 => Stop::Syscall,
        (0, signal) => Stop::Signal(signal),
        _ => Stop::Event,
    })
}

/// Takes the end of a traced thread that is no child of ours off the list, so that its own parent
/// learns of it.
pub fn forget(tid: i32) {
    // SAFETY: no pointer but null.
    unsafe { libc::waitpid(tid, std::ptr::null_mut(), libc::WNOHANG | libc::__WALL) };
}

/// Waits for a stop until `deadline`.
pub fn wait_stop(tid: i32, deadline: Instant) -> Result<Stop> {
    let mut pause_us = 5;
    loop {
        match poll_stop(tid)? {
            Stop::No if Instant::now() < deadline => {
                std::thread::sleep(std::time::Duration::from_micros(pause_us));
                pause_us = (pause_us * 2).min(200);
            }
            stop => return Ok(stop),
        }
    }
}

/// Sends a signal to a process.
pub fn signal(pid: i32, signal: i32) -> Result<()> {
    // SAFETY: plain integers.
    checked(unsafe { libc::kill(pid, signal) }.into()).map(drop)
}

/// From this length on, memory of our own is a mapping of its own, which goes back to Linux when it is freed.
const OWN_MAPPING_BYTES_MIN: i32 = 128 << 10;
/// As much that is free stays at the end of the heap until [`release_free_memory`], so that it does not come and go.
const OWN_FREE_BYTES_MAX: i32 = 1 << 20;

/// Has memory of our own kept in one heap, so that what is freed can be given back: by default, glibc gives each
/// thread one, whose end it keeps, and keeps more the larger the buffers are that it has seen.
pub fn keep_memory_together() {
    for (setting, value) in [
        (libc::M_ARENA_MAX, 1),
        (libc::M_MMAP_THRESHOLD, OWN_MAPPING_BYTES_MIN),
        (libc::M_TRIM_THRESHOLD, OWN_FREE_BYTES_MAX),
    ] {
        // SAFETY: a call without pointers. What it refuses stays as it was.
        unsafe { libc::mallopt(setting, value) };
    }
}

/// Gives memory of our own that was freed back to Linux.
pub fn release_free_memory() {
    // SAFETY: a call without pointers.
    unsafe { libc::malloc_trim(0) };
}

/// Reads `ranges` of another process, one after the other, into `into`. Whole or not at all.
///
/// # Errors
/// `ESRCH` if the process is gone, `EFAULT` if a range is not mapped.
pub fn read_memory(pid: i32, into: &mut [u8], ranges: &[Range<u64>]) -> Result<()> {
    injected()?;
    assert!(ranges.len() <= READ_RANGES_MAX, "too many ranges");
    let wanted: u64 = ranges.iter().map(|range| range.end - range.start).sum();
    assert_eq!(wanted, into.len() as u64, "a buffer of another length");
    let local = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
    let remote: Vec<libc::iovec> = ranges
        .iter()
        .map(|range| libc::iovec {
            iov_base: range.start as *mut libc::c_void,
            iov_len: (range.end - range.start) as usize,
        })
        .collect();
    // SAFETY: `into` is as long as the local range says; remote ranges are checked by the kernel.
    let read = unsafe { libc::process_vm_readv(pid, &local, 1, remote.as_ptr(), remote.len() as libc::c_ulong, 0) };
    match read {
        -1 => Err(Error::last_os_error()),
        read if read as u64 == wanted => Ok(()),
        _ => Err(Error::from_raw_os_error(libc::EFAULT)),
    }
}

/// Writes `bytes` into another process at `address`.
pub fn write_memory(pid: i32, address: u64, bytes: &[u8]) -> Result<()> {
    injected()?;
    let local = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let remote = libc::iovec { iov_base: address as *mut libc::c_void, iov_len: bytes.len() };
    // SAFETY: `bytes` is only read; the remote range is checked by the kernel.
    let written = unsafe { libc::process_vm_writev(pid, &local, 1, &remote, 1, 0) };
    if written == bytes.len() as isize { Ok(()) } else { Err(Error::last_os_error()) }
}

/// The process behind `pid`, which stays that process whatever becomes of the number.
pub fn pidfd_open(pid: i32) -> Result<OwnedFd> {
    injected()?;
    // SAFETY: only integers are passed; the descriptor is new and ours.
    unsafe { Ok(OwnedFd::from_raw_fd(checked(libc::syscall(libc::SYS_pidfd_open, pid, 0))? as i32)) }
}

/// A duplicate of descriptor `theirs` of the process behind `pidfd`.
pub fn pidfd_getfd(pidfd: BorrowedFd<'_>, theirs: i32) -> Result<OwnedFd> {
    injected()?;
    // SAFETY: only integers are passed; the descriptor is new and ours.
    unsafe {
        let fd = checked(libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), theirs, 0))?;
        Ok(OwnedFd::from_raw_fd(fd as i32))
    }
}

/// `ioctl` with a pointer to a structure of the length that `request` names.
fn ioctl<T>(fd: BorrowedFd<'_>, request: u32, argument: &mut T) -> Result<u64> {
    assert_eq!((request >> 16) as usize & 0x3fff, std::mem::size_of::<T>(), "an argument of another length");
    // SAFETY: the kernel reads and writes as many bytes as `request` says, which is what `argument` has.
    checked(unsafe { libc::ioctl(fd.as_raw_fd(), request as libc::Ioctl, &raw mut *argument) }.into())
}

/// A range as userfaultfd takes it.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct UffdRange {
    start: u64,
    len: u64,
}

impl From<Range<u64>> for UffdRange {
    fn from(range: Range<u64>) -> Self {
        UffdRange { start: range.start, len: range.end - range.start }
    }
}

/// Faults on pages that are missing.
pub const MODE_MISSING: u64 = 1;
/// Write protection: with `WP_ASYNC`, the record of what was written.
pub const MODE_WP: u64 = 2;
/// The kernel notes what was written by itself, with no fault to answer.
pub const FEATURE_WP_ASYNC: u64 = 1 << 15;

/// Whether this process may make a userfaultfd that handles faults of the kernel too.
pub fn has_userfaultfd() -> bool {
    // SAFETY: only an integer is passed; the descriptor is new and ours, and closed at once.
    let made = checked(unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC) });
    // SAFETY: as above.
    made.map(|fd| unsafe { OwnedFd::from_raw_fd(fd as i32) }).is_ok()
}

/// The handshake of a new userfaultfd.
pub fn uffd_api(uffd: BorrowedFd<'_>, features: u64) -> Result<()> {
    injected()?;
    #[repr(C)]
    struct Api {
        api: u64,
        features: u64,
        ioctls: u64,
    }
    ioctl(uffd, 0xc018_aa3f, &mut Api { api: 0xaa, features, ioctls: 0 }).map(drop)
}

/// Registers a range for `mode`, instead of what it was registered for before.
pub fn uffd_register(uffd: BorrowedFd<'_>, range: Range<u64>, mode: u64) -> Result<()> {
    injected()?;
    #[repr(C)]
    struct Register {
        range: UffdRange,
        mode: u64,
        ioctls: u64,
    }
    ioctl(uffd, 0xc020_aa00, &mut Register { range: range.into(), mode, ioctls: 0 }).map(drop)
}

/// Ends the registration of a range.
pub fn uffd_unregister(uffd: BorrowedFd<'_>, range: Range<u64>) -> Result<()> {
    ioctl(uffd, 0x8010_aa01, &mut UffdRange::from(range)).map(drop)
}

/// Copies `bytes` into missing pages at `address`. Returns how many bytes were copied, and why not all.
pub fn uffd_copy(uffd: BorrowedFd<'_>, address: u64, bytes: &[u8]) -> (u64, Option<Error>) {
    #[repr(C)]
    struct Copy {
        dst: u64,
        src: u64,
        len: u64,
        mode: u64,
        copied: i64,
    }
    if let Err(error) = injected() {
        return (0, Some(error));
    }
    let mut copy = Copy { dst: address, src: bytes.as_ptr() as u64, len: bytes.len() as u64, mode: 0, copied: 0 };
    let outcome = ioctl(uffd, 0xc028_aa03, &mut copy);
    (copy.copied.max(0) as u64, outcome.err())
}

/// Maps the zero page into missing pages. Returns how many bytes, and why not all.
pub fn uffd_zero(uffd: BorrowedFd<'_>, range: Range<u64>) -> (u64, Option<Error>) {
    #[repr(C)]
    struct Zero {
        range: UffdRange,
        mode: u64,
        zeroed: i64,
    }
    if let Err(error) = injected() {
        return (0, Some(error));
    }
    let mut zero = Zero { range: range.into(), mode: 0, zeroed: 0 };
    let outcome = ioctl(uffd, 0xc020_aa04, &mut zero);
    (zero.zeroed.max(0) as u64, outcome.err())
}

/// A run of pages that are alike.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PageRun {
    /// First byte.
    pub start: u64,
    /// One past the last byte.
    pub end: u64,
    /// What they are: `PAGE_IS_*` bits.
    pub categories: u64,
}

/// Written since it was last write-protected.
pub const PAGE_IS_WRITTEN: u64 = 1 << 1;
/// In memory.
pub const PAGE_IS_PRESENT: u64 = 1 << 3;
/// In swap, or a mark in its place.
pub const PAGE_IS_SWAPPED: u64 = 1 << 4;
/// The page of zeros that all share.
pub const PAGE_IS_PFNZERO: u64 = 1 << 5;

/// Lists what is present or swapped in `range` into `runs`, and write-protects it in the same
/// step if `protect`. Returns how many runs there are and where the walk ended.
pub fn pagemap_scan(
    pagemap: BorrowedFd<'_>,
    range: Range<u64>,
    protect: bool,
    runs: &mut [PageRun],
) -> Result<(usize, u64)> {
    injected()?;
    #[repr(C)]
    struct Scan {
        size: u64,
        flags: u64,
        start: u64,
        end: u64,
        walk_end: u64,
        vec: u64,
        vec_len: u64,
        max_pages: u64,
        category_inverted: u64,
        category_mask: u64,
        category_anyof_mask: u64,
        return_mask: u64,
    }
    const WP_MATCHING: u64 = 1;
    const CHECK_WPASYNC: u64 = 2;
    let mut scan = Scan {
        size: std::mem::size_of::<Scan>() as u64,
        flags: if protect { WP_MATCHING | CHECK_WPASYNC } else { 0 },
        start: range.start,
        end: range.end,
        walk_end: 0,
        vec: runs.as_mut_ptr() as u64,
        vec_len: runs.len() as u64,
        max_pages: 0,
        category_inverted: 0,
        category_mask: 0,
        category_anyof_mask: PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
        return_mask: PAGE_IS_WRITTEN | PAGE_IS_PRESENT | PAGE_IS_SWAPPED | PAGE_IS_PFNZERO,
    };
    let count = ioctl(pagemap, 0xc060_6610, &mut scan)?;
    Ok((count as usize, scan.walk_end))
}
