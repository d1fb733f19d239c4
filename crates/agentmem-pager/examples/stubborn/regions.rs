//! Mappings of all kinds that are not paged out.

use crate::Habit;
use crate::memory::{Memory, PAGE, PRIVATE, checked, file};
use std::ffi::c_void;
use std::io;
use std::os::fd::AsRawFd;

const PAGES: usize = 32;
const HUGE_PAGES: usize = (2 << 20) / PAGE;
/// Missing in some versions of libc.
const SYS_MSEAL: i64 = 462;

/// Those that this machine lets a program have.
pub struct Regions(Vec<(&'static str, Memory)>);

fn of_file(flags: i32) -> io::Result<Memory> {
    Memory::mapped(PAGES, flags, file(PAGES)?.as_raw_fd())
}

fn locked() -> io::Result<Memory> {
    let memory = Memory::anonymous(PAGES);
    // SAFETY: this mapping alone.
    checked(unsafe { libc::mlock(memory.address() as *const c_void, memory.bytes()) }.into())?;
    Ok(memory)
}

fn sealed() -> io::Result<Memory> {
    let memory = Memory::anonymous(PAGES);
    // SAFETY: this mapping alone, which is never changed.
    checked(unsafe { libc::syscall(SYS_MSEAL, memory.address(), memory.bytes(), 0) })?;
    Ok(memory)
}

fn protect(memory: &Memory, rights: i32) -> io::Result<()> {
    // SAFETY: this mapping alone; who takes a right away gives it back before using it.
    checked(unsafe { libc::mprotect(memory.address() as *mut c_void, memory.bytes(), rights) }.into()).map(drop)
}

fn hidden() -> io::Result<Memory> {
    let memory = Memory::anonymous(PAGES);
    protect(&memory, libc::PROT_NONE)?;
    Ok(memory)
}

impl Regions {
    pub fn new() -> Self {
        let all = [
            ("locked", locked()),
            ("shared", Memory::mapped(PAGES, libc::MAP_SHARED | libc::MAP_ANONYMOUS, -1)),
            ("shared-file", of_file(libc::MAP_SHARED)),
            ("private-file", of_file(libc::MAP_PRIVATE)),
            ("huge", Memory::mapped(HUGE_PAGES, PRIVATE | libc::MAP_HUGETLB, -1)),
            ("growing", Memory::mapped(PAGES, PRIVATE | libc::MAP_GROWSDOWN, -1)),
            ("sealed", sealed()),
            ("hidden", hidden()),
        ];
        Regions(all.into_iter().filter_map(|(name, memory)| Some((name, memory.ok()?))).collect())
    }
}

impl Habit for Regions {
    fn practise(&mut self) -> Result<(), String> {
        for (name, memory) in &mut self.0 {
            let is_hidden = *name == "hidden";
            if is_hidden {
                protect(memory, libc::PROT_READ | libc::PROT_WRITE).map_err(|error| error.to_string())?;
            }
            memory.check().map_err(|wrong| format!("{name} {wrong}"))?;
            memory.write();
            if is_hidden {
                protect(memory, libc::PROT_NONE).map_err(|error| error.to_string())?;
            }
        }
        Ok(())
    }

    fn places(&self) -> Vec<(&'static str, &Memory)> {
        self.0.iter().map(|(name, memory)| (*name, memory)).collect()
    }
}
