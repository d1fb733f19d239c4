//! io_uring, by hand: the kernel reads what comes through a pipe into memory, without a thread of the process.

use crate::Habit;
use crate::memory::{Memory, PAGE, PRIVATE, checked};
use std::ffi::c_void;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::thread;

/// A thread of the kernel takes what is submitted.
pub const SETUP_SQPOLL: u32 = 2;

/// Its queues lie in memory that the program brings.
const SETUP_NO_MMAP: u32 = 1 << 14;
/// It never has a descriptor.
const SETUP_REGISTERED_FD_ONLY: u32 = 1 << 15;

const PAGES: usize = 16;
const ENTRIES: u32 = 4;
const ENTER_GETEVENTS: u32 = 1;
const ENTER_SQ_WAKEUP: u32 = 2;
const ENTER_REGISTERED_RING: u32 = 16;
const REGISTER_BUFFERS: u32 = 0;
const REGISTER_RING_FDS: u32 = 20;
const OFFSET_SQES: i64 = 0x1000_0000;
const OP_READ_FIXED: u8 = 4;
const OP_READ: u8 = 22;
/// Not at once, but by a thread of the kernel.
const SQE_ASYNC: u8 = 16;

#[repr(C)]
#[derive(Default)]
struct SqOffsets {
    head: u32,
    tail: u32,
    ring_mask: u32,
    ring_entries: u32,
    flags: u32,
    dropped: u32,
    array: u32,
    reserved: u32,
    /// Of the entries, where the program brings memory for them.
    user_address: u64,
}

#[repr(C)]
#[derive(Default)]
struct CqOffsets {
    head: u32,
    tail: u32,
    ring_mask: u32,
    ring_entries: u32,
    overflow: u32,
    cqes: u32,
    flags: u32,
    reserved: u32,
    /// Of both rings, where the program brings memory for them.
    user_address: u64,
}

#[repr(C)]
#[derive(Default)]
struct Params {
    sq_entries: u32,
    cq_entries: u32,
    flags: u32,
    sq_thread_cpu: u32,
    sq_thread_idle: u32,
    features: u32,
    wq_fd: u32,
    reserved: [u32; 3],
    sq: SqOffsets,
    cq: CqOffsets,
}

#[repr(C)]
#[derive(Default)]
struct Sqe {
    opcode: u8,
    flags: u8,
    priority: u16,
    fd: i32,
    offset: u64,
    address: u64,
    len: u32,
    op_flags: u32,
    user_data: u64,
    buffer: u16,
    personality: u16,
    file_index: u32,
    more: [u64; 2],
}

#[repr(C)]
struct Cqe {
    user_data: u64,
    result: i32,
    flags: u32,
}

fn map(fd: RawFd, bytes: usize, offset: i64) -> io::Result<*mut u8> {
    let (rights, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_POPULATE);
    // SAFETY: a new mapping touches nothing that exists.
    let at = unsafe { libc::mmap(std::ptr::null_mut(), bytes, rights, flags, fd, offset) };
    if at == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(at.cast()) }
}

/// Lives as long as the process.
struct Ring {
    fd: RawFd,
    enter_flags: u32,
    params: Params,
    rings: *mut u8,
    sqes: *mut Sqe,
}

impl Ring {
    fn new(flags: u32) -> io::Result<Self> {
        let mut params = Params { flags, sq_thread_idle: 50, ..Params::default() };
        // SAFETY: the kernel fills the parameters, whose size it knows.
        let fd = checked(unsafe { libc::syscall(libc::SYS_io_uring_setup, ENTRIES, &raw mut params) })? as RawFd;
        // One mapping of both rings, and more of it than there is of either.
        let end = params.cq.cqes as usize + params.cq_entries as usize * size_of::<Cqe>();
        let rings = map(fd, end.max(params.sq.array as usize + params.sq_entries as usize * 4), 0)?;
        let sqes = map(fd, params.sq_entries as usize * size_of::<Sqe>(), OFFSET_SQES)?.cast();
        Ok(Ring { fd, enter_flags: 0, params, rings, sqes })
    }

    fn register(&self, what: u32, argument: *mut c_void) -> io::Result<()> {
        // SAFETY: callers pass one item of what the kernel takes there.
        checked(unsafe { libc::syscall(libc::SYS_io_uring_register, self.fd, what, argument, 1) }).map(drop)
    }

    /// One of which nothing is to be seen: neither a descriptor nor a mapping. The kernel writes to `memory`, of two
    /// pages, for ever.
    fn hidden(memory: &Memory) -> io::Result<Self> {
        let rings = memory.address() as *mut u8;
        let mut params = Params { flags: SETUP_NO_MMAP | SETUP_REGISTERED_FD_ONLY, ..Params::default() };
        params.cq.user_address = rings as u64;
        params.sq.user_address = rings as u64 + PAGE as u64;
        // SAFETY: the kernel fills the parameters, whose size it knows, and memory that lives as long as the process.
        let place = checked(unsafe { libc::syscall(libc::SYS_io_uring_setup, ENTRIES, &raw mut params) })?;
        let sqes = params.sq.user_address as *mut Sqe;
        Ok(Ring { fd: place as RawFd, enter_flags: ENTER_REGISTERED_RING, params, rings, sqes })
    }

    /// Goes on without a descriptor.
    fn unnumber(&mut self) -> io::Result<()> {
        // Any place; none; the descriptor.
        let mut update = [u64::from(u32::MAX), self.fd as u64];
        self.register(REGISTER_RING_FDS, update.as_mut_ptr().cast())?;
        // SAFETY: nobody uses it any more.
        unsafe { libc::close(self.fd) };
        (self.fd, self.enter_flags) = (update[0] as u32 as RawFd, ENTER_REGISTERED_RING);
        Ok(())
    }

    fn word(&self, offset: u32) -> &AtomicU32 {
        // SAFETY: an aligned word within the mapped rings, which the kernel changes as atomics only.
        unsafe { AtomicU32::from_ptr(self.rings.add(offset as usize).cast()) }
    }

    fn enter(&self, submit: u32, wait: u32, flags: u32) -> Result<(), String> {
        let flags = flags | self.enter_flags;
        // SAFETY: no pointer but a null one.
        let entered = unsafe { libc::syscall(libc::SYS_io_uring_enter, self.fd, submit, wait, flags, 0usize, 0usize) };
        checked(entered).map(drop).map_err(|error| format!("io_uring_enter: {error}"))
    }

    fn submit(&mut self, sqe: Sqe) -> Result<(), String> {
        let tail = self.word(self.params.sq.tail).load(Ordering::Acquire);
        let index = tail & self.word(self.params.sq.ring_mask).load(Ordering::Relaxed);
        // SAFETY: an entry of the mapped queue that the kernel has consumed.
        unsafe { self.sqes.add(index as usize).write(sqe) };
        self.word(self.params.sq.array + 4 * index).store(index, Ordering::Relaxed);
        self.word(self.params.sq.tail).store(tail.wrapping_add(1), Ordering::Release);
        self.enter(1, 0, ENTER_SQ_WAKEUP)
    }

    /// The result of what completes next.
    fn wait(&mut self) -> Result<i32, String> {
        let head = self.word(self.params.cq.head).load(Ordering::Relaxed);
        while self.word(self.params.cq.tail).load(Ordering::Acquire) == head {
            self.enter(0, 1, ENTER_GETEVENTS)?;
        }
        let index = head & self.word(self.params.cq.ring_mask).load(Ordering::Relaxed);
        let at = self.params.cq.cqes as usize + index as usize * size_of::<Cqe>();
        // SAFETY: an entry of the mapped queue that the kernel has filled.
        let result = unsafe { (*self.rings.add(at).cast::<Cqe>()).result };
        self.word(self.params.cq.head).store(head.wrapping_add(1), Ordering::Release);
        Ok(result)
    }
}

/// Reads what comes through a pipe.
pub struct Reader {
    ring: Ring,
    input: io::PipeReader,
    output: io::PipeWriter,
    memory: Memory,
    opcode: u8,
    flags: u8,
}

impl Reader {
    pub fn new(setup: u32) -> io::Result<Self> {
        Reader::with(Ring::new(setup)?)
    }

    fn with(ring: Ring) -> io::Result<Self> {
        let ((input, output), memory) = (io::pipe()?, Memory::anonymous(PAGES));
        Ok(Reader { ring, input, output, memory, opcode: OP_READ, flags: 0 })
    }

    /// Its ring has no descriptor any more.
    pub fn unnumbered() -> io::Result<Self> {
        let mut reader = Reader::new(0)?;
        reader.ring.unnumber()?;
        Ok(reader)
    }

    /// Of its ring nothing is to be seen.
    pub fn hidden() -> io::Result<Self> {
        Reader::with(Ring::hidden(&Memory::empty(2, PRIVATE, -1)?)?)
    }

    /// Its memory is pinned: the kernel looks it up once, and writes to those pages for ever.
    pub fn pinned() -> io::Result<Self> {
        let reader = Reader { opcode: OP_READ_FIXED, ..Reader::new(0)? };
        let memory = &reader.memory;
        let mut buffer = libc::iovec { iov_base: memory.address() as *mut c_void, iov_len: memory.bytes() };
        reader.ring.register(REGISTER_BUFFERS, (&raw mut buffer).cast())?;
        Ok(reader)
    }

    fn begin(&mut self) -> Result<(), String> {
        let &mut Reader { opcode, flags, .. } = self;
        let (address, len) = (self.memory.address() as u64, self.memory.bytes() as u32);
        let fd = self.input.as_raw_fd();
        self.ring.submit(Sqe { opcode, flags, fd, offset: u64::MAX, address, len, ..Sqe::default() })
    }

    fn write(&mut self) -> Result<(), String> {
        self.memory.check()?;
        let content = self.memory.next();
        self.output.write_all(&content).map_err(|error| error.to_string())
    }

    fn end(&mut self) -> Result<(), String> {
        match self.ring.wait()? {
            result if result as usize == self.memory.bytes() => self.memory.check(),
            result => Err(format!("io_uring read {result} bytes")),
        }
    }
}

impl Habit for Reader {
    fn practise(&mut self) -> Result<(), String> {
        self.write()?;
        self.begin()?;
        self.end()
    }

    fn places(&self) -> Vec<(&'static str, &Memory)> {
        vec![("buffer", &self.memory)]
    }
}

/// Has a thread of the kernel waiting for what comes.
pub struct Waiter(Reader);

impl Waiter {
    pub fn new() -> io::Result<Self> {
        // A page at most comes in one piece to who waits.
        let mut reader = Reader { flags: SQE_ASYNC, memory: Memory::anonymous(1), ..Reader::new(0)? };
        reader.begin().map_err(io::Error::other)?;
        Ok(Waiter(reader))
    }
}

impl Habit for Waiter {
    fn practise(&mut self) -> Result<(), String> {
        self.0.write()?;
        self.0.end()?;
        self.0.begin()
    }
}

/// Has a thread with a ring of which nothing is to be seen.
pub struct Distant {
    tell: mpsc::Sender<()>,
    hear: mpsc::Receiver<Result<(), String>>,
}

impl Distant {
    pub fn new() -> io::Result<Self> {
        let ((tell, told), (say, hear)) = (mpsc::channel(), mpsc::channel());
        let (started, start) = mpsc::channel();
        thread::spawn(move || {
            let made = Reader::hidden();
            let mut reader = match made {
                Ok(reader) => reader,
                Err(error) => return started.send(Err(error)).expect("somebody who waits"),
            };
            started.send(Ok(())).expect("somebody who waits");
            for () in told {
                say.send(reader.practise()).expect("somebody who waits");
            }
        });
        start.recv().map_err(io::Error::other)??;
        Ok(Distant { tell, hear })
    }
}

impl Habit for Distant {
    fn practise(&mut self) -> Result<(), String> {
        self.tell.send(()).map_err(|error| error.to_string())?;
        self.hear.recv().map_err(|error| error.to_string())?
    }
}
