//! System calls that look at another process and that `rustix` does not offer.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

/// What `kcmp` compares; the numbers of `linux/kcmp.h`.
#[derive(Clone, Copy)]
enum Compare {
    File = 0,
    Memory = 1,
    Descriptors = 2,
    EpollTarget = 7,
}

fn compare(what: Compare, a: i32, b: i32, first: u64, second: u64) -> io::Result<bool> {
    // SAFETY: the kernel takes integers, and for EpollTarget reads a slot at `second`, which the
    // only caller that passes one keeps alive.
    let order = unsafe { libc::syscall(libc::SYS_kcmp, a, b, what as i32, first, second) };
    if order < 0 { Err(io::Error::last_os_error()) } else { Ok(order == 0) }
}

/// Whether descriptor `theirs` of process `pid` is the open file behind `ours`; `None` where the
/// kernel does not say.
pub fn is_same_file(ours: BorrowedFd<'_>, pid: i32, theirs: i32) -> Option<bool> {
    let own = std::process::id() as i32;
    match compare(Compare::File, own, pid, ours.as_raw_fd() as u64, theirs as u64) {
        Ok(is_same) => Some(is_same),
        Err(error) if error.raw_os_error() == Some(libc::EBADF) => Some(false),
        Err(_) => None,
    }
}

/// Whether two processes (or threads) run in the same memory.
pub fn same_memory(a: i32, b: i32) -> io::Result<bool> {
    compare(Compare::Memory, a, b, 0, 0)
}

/// Whether two threads have the same table of descriptors.
pub fn same_descriptors(a: i32, b: i32) -> io::Result<bool> {
    compare(Compare::Descriptors, a, b, 0, 0)
}

/// Whether the `nth` (0 is the first) entry with number `fd` in the epoll set `epoll` of `pid`
/// still is the file that descriptor `fd` of `pid` refers to.
pub fn is_epoll_target(pid: i32, epoll: i32, fd: i32, nth: u32) -> io::Result<bool> {
    #[repr(C)]
    struct Slot {
        epoll: u32,
        fd: u32,
        nth: u32,
    }
    let slot = Slot { epoll: epoll as u32, fd: fd as u32, nth };
    compare(Compare::EpollTarget, pid, pid, fd as u64, &raw const slot as u64)
}

/// CPU time that all threads of `pid` have used, the ended ones included, in nanoseconds.
pub fn cpu_ns(pid: i32) -> io::Result<u64> {
    // As in the kernel's posix-timers: the complement of the pid, then the kind of clock
    // (2 is the scheduler's, to the nanosecond).
    let clock = (!pid << 3) | 2;
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a timespec of ours, alive for the call.
    match unsafe { libc::clock_gettime(clock, &mut time) } {
        0 => Ok(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Ticks a second in which /proc counts CPU time.
pub fn ticks_per_second() -> u64 {
    // SAFETY: sysconf takes an integer and has no effect.
    u64::try_from(unsafe { libc::sysconf(libc::_SC_CLK_TCK) }).unwrap_or(100).max(1)
}

/// What the kernel says of a TCP connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpInfo {
    /// State as in `net/tcp_states.h`: 1 is established, 2 is connecting, 10 listens.
    pub state: u8,
    /// Milliseconds since data was last sent.
    pub sent_ago_ms: u32,
    /// Milliseconds since data last arrived.
    pub received_ago_ms: u32,
    /// Bytes sent, those sent again included.
    pub sent_bytes: u64,
    /// Bytes received.
    pub received_bytes: u64,
}

/// The connection behind `fd`; `None` if that is no TCP socket.
pub fn tcp_info(fd: impl AsFd) -> Option<TcpInfo> {
    let mut raw = [0u8; 256];
    let mut len = raw.len() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes into `raw`, both ours and alive for the call.
    let result = unsafe {
        libc::getsockopt(fd.as_fd().as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, raw.as_mut_ptr().cast(), &mut len)
    };
    (result == 0).then(|| TcpInfo::parse(&raw[..raw.len().min(len as usize)])).flatten()
}

impl TcpInfo {
    /// Takes the fields out of a `struct tcp_info`, which has only ever grown at its end. Kernels
    /// before 4.19 have no `tcpi_bytes_sent`: `tcpi_bytes_acked` stands in.
    fn parse(raw: &[u8]) -> Option<Self> {
        let word = |at: usize| Some(u32::from_ne_bytes(raw.get(at..at + 4)?.try_into().ok()?));
        let long = |at: usize| Some(u64::from_ne_bytes(raw.get(at..at + 8)?.try_into().ok()?));
        Some(Self {
            state: *raw.first()?,
            sent_ago_ms: word(44)?,
            received_ago_ms: word(52)?,
            sent_bytes: long(200).or_else(|| long(120))?,
            received_bytes: long(128)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn a_file_is_itself_under_any_number() {
        let me = std::process::id() as i32;
        let (pipe, other) = std::io::pipe().unwrap();
        let copy = pipe.try_clone().unwrap();
        assert_eq!(is_same_file(pipe.as_fd(), me, copy.as_raw_fd()), Some(true));
        assert_eq!(is_same_file(pipe.as_fd(), me, other.as_raw_fd()), Some(false));
        assert_eq!(is_same_file(pipe.as_fd(), me, -1), Some(false));
        assert_eq!(is_same_file(pipe.as_fd(), i32::MAX, 0), None);
    }

    #[test]
    fn a_process_shares_memory_with_itself_only() {
        let me = std::process::id() as i32;
        assert!(same_memory(me, me).unwrap());
        assert!(same_descriptors(me, me).unwrap());
        assert!(!same_memory(me, 1).unwrap_or(false));
        assert!(same_memory(me, i32::MAX).is_err());
    }

    #[test]
    fn cpu_time_grows_and_a_dead_pid_is_an_error() {
        let me = std::process::id() as i32;
        let before = cpu_ns(me).unwrap();
        let mut work = 0u64;
        while cpu_ns(me).unwrap() == before {
            work = std::hint::black_box(work + 1);
        }
        assert!(cpu_ns((1 << 22) + 1).is_err());
    }

    #[test]
    fn tcp_counts_what_was_sent() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        client.write_all(b"hello").unwrap();
        server.read_exact(&mut [0; 5]).unwrap();
        let (ours, theirs) = (tcp_info(&client).unwrap(), tcp_info(&server).unwrap());
        assert_eq!((ours.state, ours.sent_bytes, ours.received_bytes), (1, 5, 0));
        assert_eq!((theirs.sent_bytes, theirs.received_bytes), (0, 5));
        assert_eq!(tcp_info(&listener).unwrap().state, 10);
        let (pipe, _other) = std::io::pipe().unwrap();
        assert_eq!(tcp_info(&pipe), None);
        assert_eq!(TcpInfo::parse(&[1; 60]), None);
    }
}
