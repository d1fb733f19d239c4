//! Memory that is written again and again.

use std::fs::File;
use std::io;
use std::os::fd::{FromRawFd, RawFd};

pub const PAGE: usize = 4096;

pub const PRIVATE: i32 = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;

/// Compresses no better than noise.
fn word(generation: u64, index: usize) -> u64 {
    let value = (generation << 40 ^ index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (value ^ value >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9)
}

/// What memory of that generation holds.
pub fn content(generation: u64, bytes: usize) -> Vec<u8> {
    (0..bytes / 8).flat_map(|index| word(generation, index).to_ne_bytes()).collect()
}

/// A mapping of its own, for as long as the process lives.
pub struct Memory {
    at: *mut u64,
    words: usize,
    generation: u64,
}

// SAFETY: it is used by whoever holds it, and by nobody else at the same time.
unsafe impl Send for Memory {}

impl Memory {
    pub fn anonymous(pages: usize) -> Self {
        Memory::mapped(pages, PRIVATE, -1).expect("mmap")
    }

    pub fn mapped(pages: usize, flags: i32, fd: RawFd) -> io::Result<Self> {
        let mut memory = Memory::empty(pages, flags, fd)?;
        memory.write();
        Ok(memory)
    }

    /// Nothing is written to it yet.
    pub fn empty(pages: usize, flags: i32, fd: RawFd) -> io::Result<Self> {
        let rights = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping touches nothing that exists.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), pages * PAGE, rights, flags, fd, 0) };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Memory { at: at.cast(), words: pages * PAGE / 8, generation: 0 })
    }

    pub fn address(&self) -> usize {
        self.at as usize
    }

    pub fn bytes(&self) -> usize {
        self.words * 8
    }

    /// Everything anew.
    pub fn write(&mut self) {
        self.generation += 1;
        for index in 0..self.words {
            // SAFETY: within the mapping, which is writable while this is called.
            unsafe { self.at.add(index).write_volatile(word(self.generation, index)) };
        }
    }

    /// What comes next, for somebody else to write it.
    pub fn next(&mut self) -> Vec<u8> {
        self.generation += 1;
        content(self.generation, self.bytes())
    }

    pub fn check(&self) -> Result<(), String> {
        self.check_bytes(self.bytes())
    }

    /// The first so many bytes.
    pub fn check_bytes(&self, bytes: usize) -> Result<(), String> {
        for index in 0..bytes / 8 {
            // SAFETY: within the mapping, which is readable while this is called.
            let (got, expected) = unsafe { (self.at.add(index).read_volatile(), word(self.generation, index)) };
            if got != expected {
                return Err(format!("at {:#x}: {got:#x} and not {expected:#x}", self.address() + index * 8));
            }
        }
        Ok(())
    }
}

/// A file that nobody else knows, of zeros.
pub fn file(pages: usize) -> io::Result<File> {
    // SAFETY: a name that ends; the descriptor is new and ours.
    let file = unsafe {
        File::from_raw_fd(checked(libc::memfd_create(c"stubborn".as_ptr(), libc::MFD_CLOEXEC).into())? as i32)
    };
    file.set_len((pages * PAGE) as u64)?;
    Ok(file)
}

/// The result of a system call.
pub fn checked(result: i64) -> io::Result<i64> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
