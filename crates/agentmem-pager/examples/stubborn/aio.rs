//! Asynchronous input by the older interface: io_setup and its relatives.

use crate::Habit;
use crate::memory::{Memory, checked, file};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

const PAGES: usize = 16;

#[repr(C)]
#[derive(Default)]
struct Request {
    data: u64,
    key: u32,
    flags: u32,
    opcode: u16,
    priority: i16,
    fd: u32,
    address: u64,
    len: u64,
    offset: i64,
    reserved: u64,
    more_flags: u32,
    eventfd: u32,
}

#[repr(C)]
#[derive(Default)]
struct Event {
    data: u64,
    request: u64,
    result: i64,
    result2: i64,
}

/// Reads files.
pub struct Reader {
    context: u64,
    file: File,
    memory: Memory,
}

impl Reader {
    pub fn new() -> io::Result<Self> {
        let mut context = 0u64;
        // SAFETY: the kernel fills one word.
        checked(unsafe { libc::syscall(libc::SYS_io_setup, 4, &raw mut context) })?;
        Ok(Reader { context, file: file(PAGES)?, memory: Memory::anonymous(PAGES) })
    }

    fn read(&mut self) -> io::Result<i64> {
        let (address, len) = (self.memory.address() as u64, self.memory.bytes() as u64);
        let mut request = Request { fd: self.file.as_raw_fd() as u32, address, len, ..Request::default() };
        let mut requests = [&raw mut request];
        let mut event = Event::default();
        // SAFETY: one request, which lives until its event was taken; room for one event.
        unsafe {
            checked(libc::syscall(libc::SYS_io_submit, self.context, 1, requests.as_mut_ptr()))?;
            checked(libc::syscall(libc::SYS_io_getevents, self.context, 1, 1, &raw mut event, 0usize))?;
        }
        Ok(event.result)
    }
}

impl Habit for Reader {
    fn practise(&mut self) -> Result<(), String> {
        self.memory.check()?;
        let content = self.memory.next();
        let written = self.file.write_all_at(&content, 0);
        match written.and_then(|()| self.read()) {
            Ok(result) if result as usize == self.memory.bytes() => self.memory.check(),
            other => Err(format!("AIO read {other:?}")),
        }
    }

    fn places(&self) -> Vec<(&'static str, &Memory)> {
        vec![("buffer", &self.memory)]
    }
}
