//! A userfaultfd of the program's own.

use crate::Habit;
use crate::memory::{Memory, PAGE, PRIVATE, checked, content};
use std::io;
use std::os::fd::RawFd;
use std::thread;

const PAGES: usize = 16;
const API: u64 = 0xc018_aa3f;
const REGISTER: u64 = 0xc020_aa00;
const COPY: u64 = 0xc028_aa03;
const MODE_MISSING: u64 = 1;
const EVENT_PAGEFAULT: u8 = 0x12;

fn ioctl<const N: usize>(fd: RawFd, request: u64, mut argument: [u64; N]) -> io::Result<()> {
    // SAFETY: each of the three takes a structure of as many words as it is called with.
    checked(unsafe { libc::ioctl(fd, request as libc::Ioctl, argument.as_mut_ptr()) }.into()).map(drop)
}

/// One over memory that is not there yet.
fn guard(memory: &Memory, flags: i32) -> io::Result<RawFd> {
    // SAFETY: only an integer is passed.
    let fd = checked(unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | flags) })? as RawFd;
    ioctl(fd, API, [0xaa, 0, 0])?;
    ioctl(fd, REGISTER, [memory.address() as u64, memory.bytes() as u64, MODE_MISSING, 0])?;
    Ok(fd)
}

/// Puts page `page` of what comes first where it belongs.
fn fill(fd: RawFd, at: usize, page: usize) -> io::Result<()> {
    let content = content(1, PAGES * PAGE);
    let source = content[page * PAGE..].as_ptr() as u64;
    ioctl(fd, COPY, [(at + page * PAGE) as u64, source, PAGE as u64, 0, 0])
}

/// Puts one page more there each time, before it touches that.
pub struct Unwatched {
    memory: Memory,
    fd: RawFd,
    filled: usize,
}

impl Unwatched {
    pub fn new() -> io::Result<Self> {
        let mut memory = Memory::empty(PAGES, PRIVATE, -1)?;
        memory.next();
        let fd = guard(&memory, libc::O_NONBLOCK)?;
        Ok(Unwatched { memory, fd, filled: 0 })
    }
}

impl Habit for Unwatched {
    fn practise(&mut self) -> Result<(), String> {
        if self.filled < PAGES {
            fill(self.fd, self.memory.address(), self.filled).map_err(|error| error.to_string())?;
            self.filled += 1;
        }
        self.memory.check_bytes(self.filled * PAGE)
    }
}

/// Has a thread that puts there what is touched.
pub struct Watched(Memory);

impl Watched {
    pub fn new() -> io::Result<Self> {
        let mut memory = Memory::empty(PAGES, PRIVATE, -1)?;
        memory.next();
        let (fd, at) = (guard(&memory, 0)?, memory.address());
        thread::spawn(move || {
            let mut message = [0u64; 4];
            // SAFETY: room for one message.
            while unsafe { libc::read(fd, message.as_mut_ptr().cast(), size_of_val(&message)) } > 0 {
                assert_eq!(message[0] as u8, EVENT_PAGEFAULT);
                fill(fd, at, (message[2] as usize - at) / PAGE).expect("a page that is missing");
            }
        });
        Ok(Watched(memory))
    }
}

impl Habit for Watched {
    fn practise(&mut self) -> Result<(), String> {
        self.0.check()
    }
}
