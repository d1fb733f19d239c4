//! What a system call that a thread sits in says about what the thread waits for: one table, of
//! x86-64.

use crate::proc::Syscall;
use rustix::event::PollFlags;

/// What a thread asks of the kernel, as far as number and arguments tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// Nothing: it computes.
    Running,
    /// Time to pass, and nothing else.
    Sleep,
    /// Something that only happens inside the tree, or a signal.
    Inner(&'static str),
    /// A futex that may be in memory shared with others.
    Futex {
        /// Where it is.
        address: u64,
    },
    /// Several futexes: an array of `struct futex_waitv`.
    Futexes {
        /// Where the array is.
        address: u64,
        /// Its length.
        count: u64,
    },
    /// A descriptor to become ready.
    Descriptor {
        /// The descriptor.
        fd: i32,
        /// For what.
        events: PollFlags,
    },
    /// One of an array of `struct pollfd`.
    Poll {
        /// Where the array is.
        address: u64,
        /// Its length.
        count: u64,
    },
    /// One of the descriptors below `count` whose bit is set.
    Select {
        /// Descriptors.
        count: u64,
        /// Where the sets for reading, writing and exceptions are; 0 for none.
        sets: [u64; 3],
    },
    /// An epoll set.
    Epoll {
        /// Its descriptor.
        fd: i32,
    },
    /// Not known; a line that says why.
    Unknown(String),
}

/// How to read the arguments of a system call.
#[derive(Clone, Copy)]
enum Shape {
    Read,
    Write,
    Poll,
    PollUntil,
    Select,
    Epoll,
    Sleep,
    Futex,
    FutexWait,
    Futexes,
    Inner,
    Refused,
}

/// Every call that a thread may be found in for long; one that is missing is not understood.
const TABLE: &[(libc::c_long, &str, Shape)] = &[
    (libc::SYS_read, "read", Shape::Read),
    (libc::SYS_readv, "readv", Shape::Read),
    (libc::SYS_pread64, "pread", Shape::Read),
    (libc::SYS_preadv, "preadv", Shape::Read),
    (libc::SYS_preadv2, "preadv2", Shape::Read),
    (libc::SYS_recvfrom, "recvfrom", Shape::Read),
    (libc::SYS_recvmsg, "recvmsg", Shape::Read),
    (libc::SYS_recvmmsg, "recvmmsg", Shape::Read),
    (libc::SYS_accept, "accept", Shape::Read),
    (libc::SYS_accept4, "accept4", Shape::Read),
    (libc::SYS_write, "write", Shape::Write),
    (libc::SYS_writev, "writev", Shape::Write),
    (libc::SYS_pwrite64, "pwrite", Shape::Write),
    (libc::SYS_pwritev, "pwritev", Shape::Write),
    (libc::SYS_pwritev2, "pwritev2", Shape::Write),
    (libc::SYS_sendto, "sendto", Shape::Write),
    (libc::SYS_sendmsg, "sendmsg", Shape::Write),
    (libc::SYS_sendmmsg, "sendmmsg", Shape::Write),
    (libc::SYS_poll, "poll", Shape::Poll),
    (libc::SYS_ppoll, "ppoll", Shape::PollUntil),
    (libc::SYS_select, "select", Shape::Select),
    (libc::SYS_pselect6, "pselect6", Shape::Select),
    (libc::SYS_epoll_wait, "epoll_wait", Shape::Epoll),
    (libc::SYS_epoll_pwait, "epoll_pwait", Shape::Epoll),
    (libc::SYS_epoll_pwait2, "epoll_pwait2", Shape::Epoll),
    (libc::SYS_nanosleep, "nanosleep", Shape::Sleep),
    (libc::SYS_clock_nanosleep, "clock_nanosleep", Shape::Sleep),
    (libc::SYS_futex, "futex", Shape::Futex),
    (FUTEX_WAIT, "futex_wait", Shape::FutexWait),
    (libc::SYS_futex_waitv, "futex_waitv", Shape::Futexes),
    (libc::SYS_wait4, "a child", Shape::Inner),
    (libc::SYS_waitid, "a child", Shape::Inner),
    (libc::SYS_pause, "a signal", Shape::Inner),
    (libc::SYS_rt_sigsuspend, "a signal", Shape::Inner),
    (libc::SYS_rt_sigtimedwait, "a signal", Shape::Inner),
    (libc::SYS_vfork, "vfork", Shape::Refused),
    (libc::SYS_clone, "clone", Shape::Refused),
    (libc::SYS_clone3, "clone3", Shape::Refused),
    (libc::SYS_connect, "connect", Shape::Refused),
    (libc::SYS_ioctl, "ioctl", Shape::Refused),
    (libc::SYS_flock, "flock", Shape::Refused),
    (libc::SYS_fcntl, "fcntl", Shape::Refused),
    (libc::SYS_fsync, "fsync", Shape::Refused),
    (libc::SYS_open, "open", Shape::Refused),
    (libc::SYS_openat, "openat", Shape::Refused),
    (libc::SYS_splice, "splice", Shape::Refused),
    (libc::SYS_sendfile, "sendfile", Shape::Refused),
    (libc::SYS_io_getevents, "io_getevents", Shape::Refused),
    (libc::SYS_io_uring_enter, "io_uring_enter", Shape::Refused),
];

/// Missing in some versions of libc.
const FUTEX_WAIT: libc::c_long = 455;

/// Below this, a stack belongs to a 32-bit program, whose calls have other numbers.
const STACK_MIN: u64 = 1 << 32;

/// What a thread in `state` (as in stat) asks for. `wchan` is the kernel function it sleeps in; it
/// matters only for a call that was restarted, as a stop and a continue do.
pub fn classify(call: &Syscall, state: u8, wchan: &str) -> Call {
    let (number, args) = match (*call, state) {
        // Whoever stopped it continues it, by a signal.
        (_, b'T') => return Call::Inner("a signal to continue"),
        (_, b'R') | (Syscall::Running, _) => return Call::Running,
        (_, b'D') => return Call::Unknown("uninterruptible".into()),
        // Under a tracer it was computing; else it hangs on a page.
        (Syscall::Outside, b't') => return Call::Running,
        (Syscall::Outside, _) => return Call::Unknown("blocked, but in no system call".into()),
        (Syscall::Inside { stack: 0, .. }, _) => {
            return Call::Unknown("a thread of the kernel's, such as io_uring has".into());
        }
        (Syscall::Inside { stack, .. }, _) if stack < STACK_MIN => return Call::Unknown("a 32-bit program".into()),
        (Syscall::Inside { number, args, .. }, _) => (number, args),
    };
    match if number == libc::SYS_restart_syscall { restarted(wchan) } else { Some(number) } {
        Some(number) => read_arguments(number, &args),
        None => Call::Unknown("a restarted system call".into()),
    }
}

/// Which call continues. Only poll, futex and the sleeps are restarted this way, and all keep
/// their arguments. A restarted sleep has no function of its own to be seen in.
fn restarted(wchan: &str) -> Option<libc::c_long> {
    match wchan {
        _ if wchan.contains("poll") => Some(libc::SYS_poll),
        _ if wchan.contains("futex") => Some(libc::SYS_futex),
        _ if wchan.contains("nanosleep") => Some(libc::SYS_nanosleep),
        "do_syscall_64" => Some(libc::SYS_nanosleep),
        _ => None,
    }
}

fn read_arguments(number: libc::c_long, args: &[u64; 6]) -> Call {
    let Some(&(_, name, shape)) = TABLE.iter().find(|row| row.0 == number) else {
        return Call::Unknown(format!("system call {number}"));
    };
    // Descriptors and counts of poll and select are 32 bits wide, whatever is above them.
    let fd = args[0] as i32;
    match shape {
        Shape::Read => Call::Descriptor { fd, events: PollFlags::IN },
        Shape::Write => Call::Descriptor { fd, events: PollFlags::OUT },
        Shape::Epoll => Call::Epoll { fd },
        Shape::Poll => poll(args, args[2] as i32 >= 0),
        Shape::PollUntil => poll(args, args[2] != 0),
        Shape::Select => select(args),
        Shape::Sleep => Call::Sleep,
        Shape::Futex if args[1] & u64::from(FUTEX_PRIVATE) != 0 => Call::Inner("a futex"),
        Shape::FutexWait if args[3] & u64::from(FUTEX_PRIVATE) != 0 => Call::Inner("a futex"),
        Shape::Futex | Shape::FutexWait => Call::Futex { address: args[0] },
        Shape::Futexes => Call::Futexes { address: args[0], count: u64::from(args[1] as u32) },
        Shape::Inner => Call::Inner(name),
        Shape::Refused => Call::Unknown(name.into()),
    }
}

/// The flag that says that a futex is in private memory; of `futex` and of the newer calls alike.
pub const FUTEX_PRIVATE: u32 = libc::FUTEX_PRIVATE_FLAG as u32;

fn poll(args: &[u64; 6], limited: bool) -> Call {
    match u64::from(args[1] as u32) {
        0 if limited => Call::Sleep,
        0 => Call::Inner("a signal"),
        count => Call::Poll { address: args[0], count },
    }
}

fn select(args: &[u64; 6]) -> Call {
    let sets = [args[1], args[2], args[3]];
    match args[0] as i32 {
        count if count > 0 && sets != [0; 3] => Call::Select { count: count as u64, sets },
        _ if args[4] != 0 => Call::Sleep,
        _ => Call::Inner("a signal"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const STACK: u64 = 0x7ffd_0000_0000;

    fn inside(number: libc::c_long, args: [u64; 6]) -> Syscall {
        Syscall::Inside { number, args, stack: STACK }
    }

    fn sleeping(number: libc::c_long, args: [u64; 6]) -> Call {
        classify(&inside(number, args), b'S', "x")
    }

    #[test]
    fn states_come_before_calls() {
        let read = inside(libc::SYS_read, [0; 6]);
        assert_eq!(classify(&read, b'R', ""), Call::Running);
        assert_eq!(classify(&Syscall::Running, b'S', ""), Call::Running);
        assert_eq!(classify(&Syscall::Outside, b't', ""), Call::Running);
        assert_eq!(classify(&read, b'T', ""), Call::Inner("a signal to continue"));
        assert_eq!(classify(&read, b't', ""), Call::Descriptor { fd: 0, events: PollFlags::IN });
        assert_eq!(classify(&read, b'D', ""), Call::Unknown("uninterruptible".into()));
        assert!(matches!(classify(&Syscall::Outside, b'S', ""), Call::Unknown(_)));
        let of_32_bits = Syscall::Inside { number: libc::SYS_read, args: [0; 6], stack: 0xffff_0000 };
        assert_eq!(classify(&of_32_bits, b'S', ""), Call::Unknown("a 32-bit program".into()));
        let without_stack = Syscall::Inside { number: libc::SYS_read, args: [0; 6], stack: 0 };
        assert!(matches!(classify(&without_stack, b'S', ""), Call::Unknown(why) if why.contains("io_uring")));
    }

    #[test]
    fn arguments() {
        let garbage = 0xdead_0000_0000;
        for (number, args, call) in [
            (libc::SYS_read, [3, 1, 1, 0, 0, 0], Call::Descriptor { fd: 3, events: PollFlags::IN }),
            (libc::SYS_accept4, [4, 0, 0, 0, 0, 0], Call::Descriptor { fd: 4, events: PollFlags::IN }),
            (libc::SYS_sendmsg, [garbage + 5, 0, 0, 0, 0, 0], Call::Descriptor { fd: 5, events: PollFlags::OUT }),
            (libc::SYS_poll, [64, garbage + 2, 1000, 0, 0, 0], Call::Poll { address: 64, count: 2 }),
            (libc::SYS_poll, [0, 0, 1000, 0, 0, 0], Call::Sleep),
            (libc::SYS_poll, [0, 0, u64::MAX, 0, 0, 0], Call::Inner("a signal")),
            (libc::SYS_poll, [0, 0, 0xffff_ffff, 0, 0, 0], Call::Inner("a signal")),
            (libc::SYS_ppoll, [0, 0, 64, 0, 0, 0], Call::Sleep),
            (libc::SYS_ppoll, [0, 0, 0, 0, 0, 0], Call::Inner("a signal")),
            (libc::SYS_select, [9, 0, 64, 0, 0, 0], Call::Select { count: 9, sets: [0, 64, 0] }),
            (libc::SYS_select, [0, 0, 0, 0, 64, 0], Call::Sleep),
            (libc::SYS_pselect6, [5, 0, 0, 0, 0, 0], Call::Inner("a signal")),
            (libc::SYS_epoll_pwait2, [6, 0, 0, 0, 0, 0], Call::Epoll { fd: 6 }),
            (libc::SYS_futex, [64, 0x89, 0, 0, 0, 0], Call::Inner("a futex")),
            (libc::SYS_futex, [64, 0x109, 0, 0, 0, 0], Call::Futex { address: 64 }),
            (FUTEX_WAIT, [64, 0, 0, 0x82, 0, 0], Call::Inner("a futex")),
            (FUTEX_WAIT, [64, 0, 0, 2, 0, 0], Call::Futex { address: 64 }),
            (libc::SYS_futex_waitv, [64, 2, 0, 0, 0, 0], Call::Futexes { address: 64, count: 2 }),
            (libc::SYS_wait4, [0; 6], Call::Inner("a child")),
            (libc::SYS_clock_nanosleep, [0; 6], Call::Sleep),
            (libc::SYS_connect, [0; 6], Call::Unknown("connect".into())),
            (libc::SYS_io_uring_enter, [0; 6], Call::Unknown("io_uring_enter".into())),
            (9999, [0; 6], Call::Unknown("system call 9999".into())),
        ] {
            assert_eq!(sleeping(number, args), call, "{number} {args:?}");
        }
    }

    #[test]
    fn a_restarted_call_is_told_by_where_it_sleeps() {
        let again = inside(libc::SYS_restart_syscall, [64, 0x80, 5, 0, 0, 0]);
        for (wchan, call) in [
            ("poll_schedule_timeout.constprop.0", Call::Poll { address: 64, count: 0x80 }),
            ("do_sys_poll", Call::Poll { address: 64, count: 0x80 }),
            ("futex_do_wait", Call::Inner("a futex")),
            ("hrtimer_nanosleep", Call::Sleep),
            ("do_syscall_64", Call::Sleep),
            ("0", Call::Unknown("a restarted system call".into())),
            ("ptrace_stop", Call::Unknown("a restarted system call".into())),
        ] {
            assert_eq!(classify(&again, b'S', wchan), call, "{wchan}");
        }
    }

    #[test]
    fn no_number_is_in_the_table_twice() {
        for (nth, row) in TABLE.iter().enumerate() {
            assert!(TABLE[..nth].iter().all(|other| other.0 != row.0), "{}", row.1);
        }
    }

    proptest! {
        #[test]
        fn nothing_outside_the_table_is_understood(number in 0i64..600, args: [u64; 6], wchan in "[a-z_]{0,8}") {
            prop_assume!(number != libc::SYS_restart_syscall && TABLE.iter().all(|row| row.0 != number));
            let is_unknown = matches!(classify(&inside(number, args), b'S', &wchan), Call::Unknown(_));
            prop_assert!(is_unknown);
        }
    }
}
