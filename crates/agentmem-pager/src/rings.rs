//! Rings of io_uring that /proc does not show.
//!
//! A ring may have neither a descriptor nor a mapping: its queues lie in memory that the program brought, which the
//! kernel writes to for as long as the ring lives, and a thread knows it by a number that means something to that thread
//! alone. So each thread is made to ask. Whoever never had a ring costs one call, which does nothing.

use crate::target::Stopped;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

/// The descriptor of io_uring_enter is the number of a ring of this thread; of `linux/io_uring.h`.
const ENTER_REGISTERED_RING: u64 = 1 << 4;
/// More numbers than any kernel gives out: they end at 16 today.
const NUMBERS_MAX: u64 = 1024;

/// Whether a thread of a stopped process knows a ring by number.
///
/// # Errors
/// `PermissionDenied` if a thread has a seccomp filter that cannot be suspended; `Interrupted` once `abort` is true.
pub fn are_held(stopped: &mut Stopped, abort: &AtomicBool) -> io::Result<bool> {
    stopped.any_thread(|stopped| {
        if abort.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        holds(|number| stopped.call(libc::SYS_io_uring_enter, [number, 0, 0, ENTER_REGISTERED_RING, 0, 0]))
    })
}

/// What the answers of one thread mean, number by number; nothing is submitted, and nothing waited for.
fn holds(mut enter: impl FnMut(u64) -> io::Result<u64>) -> io::Result<bool> {
    for number in 0..NUMBERS_MAX {
        let outcome = enter(number);
        match outcome.as_ref().map_err(io::Error::raw_os_error) {
            // There is one; perhaps it is not enabled yet, or has lost its thread.
            Ok(_) | Err(Some(libc::EBADFD | libc::EOWNERDEAD)) => return Ok(true),
            // No ring has this number.
            Err(Some(libc::EBADF)) => {}
            // This thread never had any, or there are no more numbers, or the kernel has no rings.
            Err(Some(libc::EINVAL | libc::ENOSYS)) => return Ok(false),
            Err(_) => return outcome.map(|_| false),
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_say_whether_there_is_a_ring() {
        let asked = |answers: &[i32]| {
            let mut answers = answers.iter();
            let answer = holds(|_| match *answers.next().unwrap() {
                0 => Ok(0),
                number => Err(io::Error::from_raw_os_error(number)),
            });
            (answer.ok(), answers.len())
        };
        assert_eq!(asked(&[libc::EINVAL]), (Some(false), 0), "never had one");
        assert_eq!(asked(&[libc::ENOSYS]), (Some(false), 0), "no such call");
        assert_eq!(asked(&[libc::EBADF, libc::EBADF, libc::EINVAL]), (Some(false), 0), "had one");
        assert_eq!(asked(&[libc::EBADF, 0]), (Some(true), 0));
        assert_eq!(asked(&[libc::EBADFD, 0]), (Some(true), 1), "one that is not enabled yet");
        assert_eq!(asked(&[libc::EBADF, libc::ESRCH, 0]), (None, 1), "nobody was asked");
    }
}
