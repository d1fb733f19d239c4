//! Other processes with a hand in this one: one that traces it, and one that runs in its memory.

use crate::Habit;
use crate::memory::{Memory, checked};
use std::ffi::{c_int, c_void};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::thread;

const PAGES: usize = 16;
const STACK_BYTES: usize = 64 << 10;
/// In the stop of a seized thread, behind the signal.
const EVENT_STOP: c_int = 128;

/// In the child: ends when the parent does.
fn end_with_parent() {
    // SAFETY: no pointers.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
}

/// Is traced by a child, which lets it do all that it does.
pub struct Traced;

impl Traced {
    pub fn new() -> io::Result<Self> {
        // SAFETY: no pointers. What there is of Yama lets the child.
        let parent = unsafe {
            libc::prctl(libc::PR_SET_PTRACER, libc::PR_SET_PTRACER_ANY);
            libc::getpid()
        };
        let (mut ready, tell) = io::pipe()?;
        // SAFETY: this process has one thread; the child never returns.
        if unsafe { libc::fork() } == 0 {
            end_with_parent();
            trace(parent, tell);
        }
        drop(tell);
        match ready.read_exact(&mut [0]) {
            Ok(()) => Ok(Traced),
            Err(_) => Err(io::Error::other("the right to be traced by a child")),
        }
    }
}

fn trace(parent: c_int, mut ready: io::PipeWriter) -> ! {
    // SAFETY: no pointers but a live local.
    unsafe {
        if libc::ptrace(libc::PTRACE_SEIZE, parent, 0, 0) == 0 && ready.write_all(&[0]).is_ok() {
            let mut status = 0;
            while libc::waitpid(parent, &mut status, libc::__WALL) == parent && libc::WIFSTOPPED(status) {
                let (signal, event) = (libc::WSTOPSIG(status), status >> 16);
                match (event, signal) {
                    (EVENT_STOP, libc::SIGTRAP) => libc::ptrace(libc::PTRACE_CONT, parent, 0, 0),
                    (EVENT_STOP, _) => libc::ptrace(libc::PTRACE_LISTEN, parent, 0, 0),
                    _ => libc::ptrace(libc::PTRACE_CONT, parent, 0, signal),
                };
            }
        }
        libc::_exit(0)
    }
}

impl Habit for Traced {
    fn practise(&mut self) -> Result<(), String> {
        let status = std::fs::read_to_string("/proc/self/status").map_err(|error| error.to_string())?;
        match status.contains("TracerPid:\t0\n") {
            true => Err("its tracer is gone".into()),
            false => Ok(()),
        }
    }
}

/// What a process in our memory has to know.
struct Errand {
    memory: Memory,
    go: io::PipeReader,
    done: io::PipeWriter,
    /// How often; for ever where there is no number.
    times: Option<u32>,
}

extern "C" fn run(errand: *mut c_void) -> c_int {
    end_with_parent();
    // SAFETY: it outlives this process, and who started it does not touch it before it is done.
    let errand = unsafe { &mut *errand.cast::<Errand>() };
    let mut byte = 0u8;
    let at = (&raw mut byte).cast();
    while errand.times != Some(0) {
        // SAFETY: one byte of this stack. Nothing is allocated, and no lock is taken.
        if unsafe { libc::read(errand.go.as_raw_fd(), at, 1) } != 1 {
            break;
        }
        errand.memory.write();
        // SAFETY: the same.
        unsafe { libc::write(errand.done.as_raw_fd(), at, 1) };
        errand.times = errand.times.map(|times| times - 1);
    }
    // SAFETY: ends this process alone.
    unsafe { libc::_exit(0) }
}

/// The errand of a process that is not started yet, and both pipes' other ends.
fn errand(times: Option<u32>) -> io::Result<(Box<Errand>, io::PipeWriter, io::PipeReader)> {
    let ((go, tell), (hear, done)) = (io::pipe()?, io::pipe()?);
    Ok((Box::new(Errand { memory: Memory::anonymous(PAGES), go, done, times }), tell, hear))
}

/// Starts a process in our memory.
fn start(errand: *mut Errand, flags: c_int) -> io::Result<()> {
    let top = Box::leak(vec![0u128; STACK_BYTES / 16].into_boxed_slice()).as_mut_ptr_range().end;
    // SAFETY: the child has a stack of its own, which is never freed, and an errand that stays where it is.
    checked(unsafe { libc::clone(run, top.cast(), libc::CLONE_VM | libc::SIGCHLD | flags, errand.cast()) }.into())
        .map(drop)
}

/// Has its memory written by a process that runs in it.
pub struct Sharer {
    errand: *mut Errand,
    tell: io::PipeWriter,
    hear: io::PipeReader,
}

impl Sharer {
    pub fn new() -> io::Result<Self> {
        let (errand, tell, hear) = errand(None)?;
        let errand = Box::into_raw(errand);
        start(errand, 0)?;
        Ok(Sharer { errand, tell, hear })
    }
}

impl Habit for Sharer {
    fn practise(&mut self) -> Result<(), String> {
        let error = |error: io::Error| error.to_string();
        for _ in 0..3 {
            // SAFETY: never freed, and the other process waits.
            unsafe { (*self.errand).memory.check()? };
            self.tell.write_all(&[0]).map_err(error)?;
            self.hear.read_exact(&mut [0]).map_err(error)?;
        }
        Ok(())
    }
}

/// Has a thread that lends its memory to a child, as vfork does, and cannot be stopped meanwhile.
pub struct Lender {
    tell: io::PipeWriter,
    hear: io::PipeReader,
}

impl Lender {
    pub fn new() -> io::Result<Self> {
        let (mut errand, tell, hear) = errand(Some(1))?;
        thread::spawn(move || {
            loop {
                errand.times = Some(1);
                start(&raw mut *errand, libc::CLONE_VFORK).expect("a process");
                errand.memory.check().expect("what the other process wrote");
                // SAFETY: no pointers but a null one.
                unsafe { libc::waitpid(-1, std::ptr::null_mut(), 0) };
            }
        });
        Ok(Lender { tell, hear })
    }
}

impl Habit for Lender {
    fn practise(&mut self) -> Result<(), String> {
        let error = |error: io::Error| error.to_string();
        self.tell.write_all(&[0]).map_err(error)?;
        self.hear.read_exact(&mut [0]).map_err(error)
    }
}
