//! Who may wait for children, and when.
//!
//! The pager's thread traces processes whose parent this process is. A wait by any other thread would
//! then take ptrace stops that are the tracer's, whatever it asks for (Linux treats the parent's
//! whole process as the tracer). So the main thread reaps only while nobody traces.

use crate::launch::Exit;
use rustix::event::EventfdFlags;
use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

/// Something that one thread rings and the main loop polls.
#[derive(Debug)]
pub struct Bell(OwnedFd);

impl Bell {
    /// A silent one.
    pub fn new() -> rustix::io::Result<Self> {
        rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map(Bell)
    }

    /// Wakes the main loop.
    pub fn ring(&self) {
        // It can only fail when it rings already.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }

    /// Silences it.
    pub fn silence(&self) {
        let _ = rustix::io::read(&self.0, &mut [0u8; 8]);
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// What a wait reported of a child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It stopped by this signal.
    Stopped(i32),
    /// It ended and is reaped.
    Ended(Exit),
}

/// Keeps reaping and tracing apart.
#[derive(Debug)]
pub struct Gate {
    tracing: Mutex<()>,
    postponed: AtomicBool,
    bell: Bell,
}

/// While this lives, the holder traces and nobody else waits.
pub struct Tracing<'a> {
    gate: &'a Gate,
    guard: Option<MutexGuard<'a, ()>>,
}

impl Drop for Tracing<'_> {
    fn drop(&mut self) {
        drop(self.guard.take());
        if self.gate.postponed.swap(false, Ordering::SeqCst) {
            self.gate.bell.ring();
        }
    }
}

impl Gate {
    /// An open one, which rings `bell` when reaping was postponed and can be done.
    pub fn new(bell: Bell) -> Self {
        Gate { tracing: Mutex::new(()), postponed: AtomicBool::new(false), bell }
    }

    /// What wakes the main loop.
    pub fn bell(&self) -> &Bell {
        &self.bell
    }

    /// For the tracer: closes the gate from before the first seize until after the last detach.
    pub fn trace(&self) -> Tracing<'_> {
        // A panic under this lock ended the tracer, not what it guards: there is nothing in it.
        let guard = self.tracing.lock().unwrap_or_else(PoisonError::into_inner);
        Tracing { gate: self, guard: Some(guard) }
    }

    /// For the main thread: everything that happened to children of this process since the last
    /// call, each told to `note`. Does nothing, and rings later, while somebody traces.
    pub fn reap(&self, mut note: impl FnMut(Pid, Change)) {
        // Before the try: a tracer that ends between the two must see it.
        self.postponed.store(true, Ordering::SeqCst);
        let _guard = match self.tracing.try_lock() {
            Ok(guard) => guard,
            Err(TryLockError::Poisoned(guard)) => guard.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        self.postponed.store(false, Ordering::SeqCst);
        loop {
            match rustix::process::wait(WaitOptions::NOHANG | WaitOptions::UNTRACED) {
                Ok(Some((pid, status))) => {
                    let stopped = || status.stopping_signal().map(Change::Stopped);
                    if let Some(change) = Exit::from_status(status).map(Change::Ended).or_else(stopped) {
                        note(pid, change);
                    }
                }
                Err(Errno::INTR) => {}
                Ok(None) | Err(_) => return,
            }
        }
    }
}
