//! One process, stopped: every thread traced, and system calls made in its name.

use crate::registers::{self, Call};
use crate::sys::{self, Registers, Stop};
use std::io;
use std::time::{Duration, Instant};

/// Threads of one process; above it, it is left alone.
pub const THREADS_MAX: usize = 4096;
/// A call made in a target's name that takes longer hangs.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// A process whose threads are stopped and traced by this thread. When dropped, all go on as if
/// nothing had happened.
#[derive(Debug)]
pub struct Stopped {
    pid: i32,
    threads: Vec<Thread>,
    injector: Option<Injector>,
    /// Address of a system call instruction, once it was looked for.
    instruction: Option<u64>,
    was_stopped: bool,
}

#[derive(Debug, Clone, Copy)]
struct Thread {
    tid: i32,
    /// A signal that was about to be delivered, and is delivered when the thread is let go.
    signal: i32,
}

/// A thread that calls in the process's name.
#[derive(Debug)]
struct Injector {
    tid: i32,
    /// Its registers, as they were when it stopped.
    registers: Registers,
    signal_mask: u64,
    /// Address of a system call instruction.
    instruction: u64,
    /// Whether its registers are as they were, and it is where a stopped thread rests.
    rests: bool,
}

impl std::fmt::Display for NotStopped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            NotStopped::Gone => f.write_str("it ended"),
            NotStopped::Busy(why) => f.write_str(why),
            NotStopped::Refused(error) => write!(f, "it cannot be traced: {error}"),
        }
    }
}

/// Why a process was not stopped; it goes on.
#[derive(Debug)]
pub enum NotStopped {
    /// It ended.
    Gone,
    /// A thread was not stopped within the deadline, or was about to handle a signal.
    Busy(String),
    /// Linux refused.
    Refused(io::Error),
}

/// Takes the end of a traced thread off our list, so that its own parent learns of it; the end of a
/// child of ours is left for who launched it.
fn take_note_of_end(pid: i32, tid: i32) {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse().ok());
    if tid != pid || parent != Some(std::process::id() as i32) {
        sys::forget(tid);
    }
}

/// A field of a thread's status, unless it is 0.
fn nonzero(pid: i32, tid: i32, field: &str) -> Option<String> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/task/{tid}/status")).ok()?;
    let value = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?.trim();
    (value != "0").then(|| value.to_owned())
}

fn tracer(pid: i32, tid: i32) -> Option<String> {
    nonzero(pid, tid, "TracerPid")
}

fn tasks(pid: i32) -> io::Result<Vec<i32>> {
    let entries = std::fs::read_dir(format!("/proc/{pid}/task"))?;
    Ok(entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect())
}

impl Stopped {
    /// Begins to stop all threads of `pid`; [`Stopped::settle`] waits for them. Several processes
    /// are best begun together.
    pub fn begin(pid: i32) -> Result<Self, NotStopped> {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).map_err(|_| NotStopped::Gone)?;
        let state = status.lines().find_map(|line| line.strip_prefix("State:"));
        let was_stopped = state.is_some_and(|state| state.trim().starts_with('T'));
        let mut stopped = Stopped { pid, threads: Vec::new(), injector: None, instruction: None, was_stopped };
        stopped.seize_new()?;
        if stopped.threads.is_empty() { Err(NotStopped::Gone) } else { Ok(stopped) }
    }

    /// Seizes threads that are not ours yet; says whether there were any.
    fn seize_new(&mut self) -> Result<bool, NotStopped> {
        let mut found = false;
        for tid in tasks(self.pid).map_err(|_| NotStopped::Gone)? {
            if self.threads.iter().any(|thread| thread.tid == tid) {
                continue;
            }
            if self.threads.len() == THREADS_MAX {
                return Err(NotStopped::Busy(format!("more than {THREADS_MAX} threads")));
            }
            match sys::seize(tid) {
                Ok(()) => {}
                // It ended since it was listed.
                Err(error) if error.raw_os_error() == Some(libc::ESRCH) => continue,
                Err(error) => {
                    let traced = tracer(self.pid, tid).map(|tracer| format!("traced by process {tracer}"));
                    return Err(traced.map_or(NotStopped::Refused(error), NotStopped::Busy));
                }
            }
            self.threads.push(Thread { tid, signal: 0 });
            found = true;
            if let Err(error) = sys::interrupt(tid)
                && error.raw_os_error() != Some(libc::ESRCH)
            {
                return Err(NotStopped::Refused(error));
            }
        }
        Ok(found)
    }

    /// Waits until every thread has stopped, those that were begun meanwhile included.
    pub fn settle(&mut self, deadline: Instant) -> Result<(), NotStopped> {
        let mut settled = 0;
        loop {
            while settled < self.threads.len() {
                let thread = &mut self.threads[settled];
                match sys::wait_stop(thread.tid, deadline).map_err(NotStopped::Refused)? {
                    Stop::Event => settled += 1,
                    Stop::Gone => {
                        take_note_of_end(self.pid, thread.tid);
                        self.threads.remove(settled);
                    }
                    Stop::Signal(signal) => {
                        thread.signal = signal;
                        return Err(NotStopped::Busy(format!("thread {} got signal {signal}", thread.tid)));
                    }
                    stop => {
                        return Err(NotStopped::Busy(format!("thread {} does not stop ({stop:?})", thread.tid)));
                    }
                }
            }
            if !self.seize_new()? {
                break;
            }
        }
        if self.threads.is_empty() { Err(NotStopped::Gone) } else { Ok(()) }
    }

    /// Its number.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Whether it was stopped already, by a signal.
    pub fn was_stopped(&self) -> bool {
        self.was_stopped
    }

    /// Its threads.
    pub fn threads(&self) -> impl Iterator<Item = i32> {
        self.threads.iter().map(|thread| thread.tid)
    }

    /// The system call that a thread was in when it stopped, with its first arguments: `None` if it was in none.
    pub fn interrupted(&self, tid: i32) -> io::Result<Option<Call>> {
        sys::registers(tid).map(|registers| registers::interrupted(&registers))
    }

    /// Finds a thread that can make calls: one that stopped inside a system call, so that nothing of
    /// it lies in registers that a call changes, and that no seccomp filter would end for it.
    fn injector(&mut self) -> io::Result<&mut Injector> {
        if self.injector.is_none() {
            self.injector = Some(self.find_injector()?);
        }
        Ok(self.injector.as_mut().expect("just found"))
    }

    fn find_injector(&mut self) -> io::Result<Injector> {
        let instruction = self.instruction()?;
        let mut failure = not_in_a_call();
        for &Thread { tid, .. } in &self.threads {
            match self.injector_in(tid, instruction) {
                Ok(Some(injector)) => return Ok(injector),
                Ok(None) => {}
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => failure = error,
                Err(error) => return Err(error),
            }
        }
        Err(failure)
    }

    /// Where a system call instruction is: looked for once, as the list of mappings may be long.
    fn instruction(&mut self) -> io::Result<u64> {
        match self.instruction {
            Some(address) => Ok(address),
            None => Ok(*self.instruction.insert(find_syscall(self.pid)?)),
        }
    }

    /// None: this thread did not stop inside a system call.
    fn injector_in(&self, tid: i32, instruction: u64) -> io::Result<Option<Injector>> {
        let registers = sys::registers(tid)?;
        if registers::interrupted(&registers).is_none() {
            return Ok(None);
        }
        // A filter is a thread's own. Only the thread that calls goes past it.
        if nonzero(self.pid, tid, "Seccomp").is_some() {
            sys::suspend_seccomp(tid).map_err(|error| {
                io::Error::new(error.kind(), format!("its seccomp filter cannot be suspended: {error}"))
            })?;
        }
        let signal_mask = sys::signal_mask(tid)?;
        Ok(Some(Injector { tid, registers, signal_mask, instruction, rests: true }))
    }

    /// Whether `asked` is true of any thread: one after the other makes the calls, and is put back. None of its memory
    /// may be missing.
    ///
    /// # Errors
    /// Of `asked`, or if a thread cannot make calls: `PermissionDenied` because of a seccomp filter of it.
    pub fn any_thread(&mut self, mut asked: impl FnMut(&mut Self) -> io::Result<bool>) -> io::Result<bool> {
        self.finish_calls()?;
        let instruction = self.instruction()?;
        for at in 0..self.threads.len() {
            let injector = self.injector_in(self.threads[at].tid, instruction)?;
            self.injector = Some(injector.ok_or_else(not_in_a_call)?);
            let answer = asked(self);
            self.finish_calls()?;
            if answer? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The page that the kernel itself touches when the calling thread returns from a call.
    pub fn kept_page(&mut self) -> io::Result<Option<u64>> {
        let tid = self.injector()?.tid;
        let address = sys::rseq_address(tid)?;
        Ok((address != 0).then_some(address & !(sys::PAGE_BYTES - 1)))
    }

    /// Makes a system call in the process's name.
    ///
    /// # Errors
    /// What the call returned as an error, or what kept it from being made.
    pub fn call(&mut self, number: i64, arguments: [u64; 6]) -> io::Result<u64> {
        let injector = self.injector()?;
        let outcome = injector.call(number, arguments)?;
        if (-4095..0).contains(&outcome) {
            Err(io::Error::from_raw_os_error(-outcome as i32))
        } else {
            Ok(outcome as u64)
        }
    }

    /// Makes a system call whose first argument but `before` ones is `text`, placed below the stack.
    pub fn call_with_text(&mut self, number: i64, before: &[u64], text: &std::ffi::CStr) -> io::Result<u64> {
        let bytes = text.to_bytes_with_nul();
        let (pid, registers) = (self.pid, self.injector()?.registers);
        let place = registers::scratch(&registers, bytes.len() as u64);
        sys::write_memory(pid, place, bytes)?;
        let mut arguments = [0; 6];
        arguments[..before.len()].copy_from_slice(before);
        arguments[before.len()] = place;
        // O_RDWR | O_CLOEXEC, the only flags that anybody here opens with.
        arguments[before.len() + 1] = (libc::O_RDWR | libc::O_CLOEXEC) as u64;
        self.call(number, arguments)
    }

    /// Puts the calling thread back to where it was; from here on it makes no calls.
    ///
    /// # Errors
    /// If it cannot be put back: then it must not run again.
    pub fn finish_calls(&mut self) -> io::Result<()> {
        if let Some(injector) = &mut self.injector {
            injector.rest()?;
            self.injector = None;
        }
        Ok(())
    }

    /// Lets one thread go. Linux detaches only from a stopped thread, and one that we left traced would hang at
    /// its next signal: so this waits for a thread that has not stopped yet, for as long as that takes.
    fn let_go(pid: i32, thread: Thread) {
        let mut signal = thread.signal;
        let mut asked = false;
        while sys::detach(thread.tid, signal).is_err() {
            match sys::wait_stop(thread.tid, Instant::now() + Duration::from_millis(20)) {
                Ok(Stop::Gone) | Err(_) => return take_note_of_end(pid, thread.tid),
                Ok(Stop::Signal(pending)) => signal = pending,
                Ok(Stop::Event | Stop::Syscall) => {}
                Ok(Stop::No) if asked && tracer(pid, thread.tid).is_none() => return,
                Ok(Stop::No) => asked = sys::interrupt(thread.tid).is_ok() || asked,
            }
        }
    }

    /// Lets the first thread go, then, once `is_held` says that the process is stopped otherwise,
    /// the others: they go from one stop into the other without running.
    pub fn hand_over(mut self, mut is_held: impl FnMut() -> bool) -> io::Result<()> {
        self.finish_calls()?;
        let deadline = Instant::now() + Duration::from_secs(1);
        let first = self.threads.remove(0);
        Self::let_go(self.pid, first);
        while !is_held() {
            if Instant::now() > deadline {
                return Err(io::Error::other("the process does not stay stopped"));
            }
            std::thread::sleep(Duration::from_micros(50));
        }
        Ok(())
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        if self.finish_calls().is_err() {
            // Its registers are not its own: running on would be worse than ending. Only a process
            // that is being killed, or a kernel that refuses what it granted before, comes here.
            let _ = sys::signal(self.pid, libc::SIGKILL);
        }
        for thread in self.threads.drain(..) {
            Self::let_go(self.pid, thread);
        }
    }
}

impl Injector {
    fn call(&mut self, number: i64, arguments: [u64; 6]) -> io::Result<i64> {
        if self.rests {
            // Nothing may be delivered in between: a handler would run on a changed stack.
            sys::set_signal_mask(self.tid, u64::MAX)?;
            self.rests = false;
        }
        let set = registers::calling(&self.registers, self.instruction, number, arguments);
        sys::set_registers(self.tid, &set)?;
        for _enter_then_leave in 0..2 {
            self.run_to_syscall()?;
        }
        Ok(registers::result(&sys::registers(self.tid)?))
    }

    fn run_to_syscall(&self) -> io::Result<()> {
        let deadline = Instant::now() + CALL_TIMEOUT;
        loop {
            sys::run_to_syscall(self.tid)?;
            match sys::wait_stop(self.tid, deadline)? {
                Stop::Syscall => return Ok(()),
                // Somebody's SIGSTOP: it stops again when we have let it go.
                Stop::Event => {}
                stop => return Err(io::Error::other(format!("thread {} {stop:?} within a call", self.tid))),
            }
        }
    }

    /// Back to where it was. A call that hangs is interrupted.
    fn rest(&mut self) -> io::Result<()> {
        if self.rests {
            return Ok(());
        }
        let is_running = |error: &io::Error| error.raw_os_error() == Some(libc::ESRCH);
        let mut outcome = self.put_back();
        if outcome.as_ref().is_err_and(is_running) {
            // Or it ended: that looks the same.
            let _ = sys::interrupt(self.tid);
            outcome = match sys::wait_stop(self.tid, Instant::now() + CALL_TIMEOUT)? {
                Stop::Gone => Ok(()),
                Stop::No => Err(io::Error::other(format!("thread {} hangs in a call", self.tid))),
                _ => self.put_back(),
            };
        }
        match outcome {
            Err(error) if !is_running(&error) => Err(error),
            _ => {
                self.rests = true;
                Ok(())
            }
        }
    }

    /// Registers, mask, and a stop in which a signal would be looked for, so that the interrupted call is restarted
    /// as after any stop.
    fn put_back(&self) -> io::Result<()> {
        sys::set_registers(self.tid, &self.registers)?;
        sys::set_signal_mask(self.tid, self.signal_mask)?;
        sys::interrupt(self.tid).or_else(|_| sys::interrupt(self.tid))?;
        sys::run(self.tid)?;
        match sys::wait_stop(self.tid, Instant::now() + CALL_TIMEOUT)? {
            Stop::Event | Stop::Gone => Ok(()),
            stop => Err(io::Error::other(format!("thread {} {stop:?} after its calls", self.tid))),
        }
    }
}

fn not_in_a_call() -> io::Error {
    io::Error::other("no thread rests in a system call")
}

/// Address of a system call instruction in the vdso, which every process maps.
fn find_syscall(pid: i32) -> io::Result<u64> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let range = maps
        .lines()
        .find(|line| line.ends_with("[vdso]"))
        .and_then(|line| line.split_once(' '))
        .and_then(|(range, _)| range.split_once('-'))
        .and_then(|(start, end)| Some(u64::from_str_radix(start, 16).ok()?..u64::from_str_radix(end, 16).ok()?))
        .ok_or_else(|| io::Error::other("no vdso"))?;
    let mut code = vec![0; (range.end - range.start) as usize];
    sys::read_memory(pid, &mut code, std::slice::from_ref(&range))?;
    let at = code.windows(registers::SYSCALL.len()).position(|bytes| bytes == registers::SYSCALL);
    at.map(|at| range.start + at as u64).ok_or_else(|| io::Error::other("no system call in the vdso"))
}
