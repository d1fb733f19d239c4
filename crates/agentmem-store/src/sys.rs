//! The one seam to Linux: nothing else in this crate calls it.
//!
//! With the feature `faults`, tests make the nth call of a thread's choosing fail here, and see
//! that nothing above loses a byte.

use agentmem_core::{Error, ErrorKind, Result};
use parking_lot::RwLock;
use std::ffi::CString;
use std::fs::{File, Metadata};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::ptr::NonNull;

/// Size of a page.
pub const PAGE_BYTES: u64 = 4096;

fn failed(what: &str) -> Error {
    let error = std::io::Error::last_os_error();
    let kind = if error.raw_os_error() == Some(libc::ENOMEM) { ErrorKind::OutOfMemory } else { ErrorKind::Io };
    Error::new(kind, format!("{what}: {error}"))
}

/// An I/O error that names `path`.
pub fn io_failed(path: &Path, error: std::io::Error) -> Error {
    Error::new(ErrorKind::Io, format!("{}: {error}", path.display()))
}

/// Makes calls fail on purpose.
#[cfg(feature = "faults")]
pub mod faults {
    use crate::sync::Ordering;
    use crate::sync::PlainI64;

    static COUNTDOWN: PlainI64 = PlainI64::new(i64::MAX);
    static LAST: PlainI64 = PlainI64::new(i64::MIN);

    /// The `nth` call from now on (1 is the next) fails with ENOSPC, and every one after it until
    /// [`stop`].
    pub fn fail_from(nth: i64) {
        LAST.store(i64::MIN, Ordering::SeqCst);
        COUNTDOWN.store(nth, Ordering::SeqCst);
    }

    /// The `nth` call from now on fails, and none after it.
    pub fn fail_once(nth: i64) {
        LAST.store(1, Ordering::SeqCst);
        COUNTDOWN.store(nth, Ordering::SeqCst);
    }

    /// Calls succeed again. Returns whether any failed.
    pub fn stop() -> bool {
        COUNTDOWN.swap(i64::MAX, Ordering::SeqCst) <= 0
    }

    pub(super) fn due() -> bool {
        if COUNTDOWN.load(Ordering::SeqCst) > i64::MAX / 2 {
            return false;
        }
        let countdown = COUNTDOWN.fetch_sub(1, Ordering::SeqCst);
        countdown <= 1 && countdown >= LAST.load(Ordering::SeqCst)
    }
}

/// Every call that can fail passes here first.
pub fn injected(_what: &str) -> Result<()> {
    #[cfg(feature = "faults")]
    if faults::due() {
        return Err(Error::new(ErrorKind::Io, format!("{_what}: injected fault")));
    }
    Ok(())
}

/// A memfd mapped shared for its whole length. The mapping keeps the memory; the descriptor is closed
/// at once, unless it is for writing, so that thousands of mappings do not use up a process's descriptors.
#[derive(Debug)]
pub struct Mapping {
    start: NonNull<u8>,
    len: usize,
    /// Only of one made by [`Mapping::writable`], until [`Mapping::close`].
    fd: RwLock<Option<OwnedFd>>,
}

// SAFETY: a mapping is an address range; what is written to it concurrently is its users' care.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// A zeroed memfd of `len` bytes, readable and writable; pages appear when first touched.
    pub fn memfd(name: &str, len: usize) -> Result<Self> {
        Self::create(name, len).map(|(mapping, _)| mapping)
    }

    /// The same, with the descriptor kept for [`Self::write`].
    pub fn writable(name: &str, len: usize) -> Result<Self> {
        let (mapping, fd) = Self::create(name, len)?;
        *mapping.fd.write() = Some(fd);
        Ok(mapping)
    }

    /// A memfd of `len` bytes that `fill` wrote, and that is not written to or resized any more. One that is
    /// `lent` keeps its descriptor, and can be punched.
    pub fn filled(name: &str, len: usize, lent: bool, fill: impl FnOnce(&mut [u8]) -> Result<()>) -> Result<Self> {
        let (mapping, fd) = Self::create(name, len)?;
        mapping.populate(0, len as u64);
        // SAFETY: the mapping is new, at least `len` bytes long, and nobody else knows of it.
        fill(unsafe { std::slice::from_raw_parts_mut(mapping.as_ptr(), len) })?;
        if lent {
            // One that is sealed against writing could not be punched.
            seal(&fd, SEALS_OF_LENT)?;
            *mapping.fd.write() = Some(fd);
            return Ok(mapping);
        }
        seal(&fd, SEALS_OF_LENGTH | libc::F_SEAL_FUTURE_WRITE)?;
        // SAFETY: a range that this mapping owns.
        match unsafe { libc::mprotect(mapping.start.as_ptr().cast(), mapping.len, libc::PROT_READ) } {
            0 => Ok(mapping),
            _ => Err(failed("sealing a memfd")),
        }
    }

    /// What another process lent: `len` bytes of `descriptor`, writable where that is. Nobody may have kept
    /// the right to make it shorter.
    pub fn lent(descriptor: OwnedFd, len: usize) -> Result<Self> {
        let len = len.max(1).next_multiple_of(PAGE_BYTES as usize);
        let raw = descriptor.as_raw_fd();
        // SAFETY: plain system calls on an open descriptor.
        let (flags, seals) = unsafe { (libc::fcntl(raw, libc::F_GETFL), libc::fcntl(raw, libc::F_GET_SEALS)) };
        let found = metadata(&descriptor)?;
        let is_long_enough = match seals {
            // Content of the kernel module, a file of no type: the module maps nothing beyond its end, which stays.
            ..0 => found.mode() & libc::S_IFMT == 0,
            seals => seals & libc::F_SEAL_SHRINK != 0 && found.len() >= len as u64,
        };
        if flags < 0 || !is_long_enough {
            return Err(Error::new(ErrorKind::Version, "memory that was lent"));
        }
        let is_writable = flags & libc::O_ACCMODE == libc::O_RDWR;
        let protection = libc::PROT_READ | if is_writable { libc::PROT_WRITE } else { 0 };
        Self::map(&descriptor, len, protection)
    }

    /// Memory that an earlier process of ours made by [`Self::writable`], all of it.
    pub fn adopted(descriptor: OwnedFd) -> Result<Self> {
        let len = file_len(&descriptor)? as usize;
        if len == 0 || !len.is_multiple_of(PAGE_BYTES as usize) {
            return Err(Error::new(ErrorKind::Damaged, format!("kept memory of {len} bytes")));
        }
        let mapping = Self::map(&descriptor, len, libc::PROT_READ | libc::PROT_WRITE)?;
        *mapping.fd.write() = Some(descriptor);
        Ok(mapping)
    }

    /// `len` bytes of `descriptor` from `offset` on, to be read: what is there stays there, and nobody makes it shorter.
    pub fn readable(descriptor: &impl AsRawFd, offset: u64, len: usize) -> Result<Self> {
        injected("mmap")?;
        let len = len.max(1).next_multiple_of(PAGE_BYTES as usize);
        Self::map_at(descriptor, offset, len, libc::PROT_READ, libc::MAP_POPULATE)
    }

    /// Does `work` with the descriptor, which must have been kept.
    fn with_fd<T>(&self, work: impl FnOnce(&OwnedFd) -> Result<T>) -> Result<T> {
        let fd = self.fd.read();
        work(fd.as_ref().ok_or_else(|| Error::new(ErrorKind::Io, "a descriptor was not kept"))?)
    }

    /// A descriptor of the same memory that only reads.
    pub fn read_only(&self) -> Result<OwnedFd> {
        self.with_fd(|fd| {
            // Whoever was lent it before is of the same user, and so may have changed its mode.
            // SAFETY: plain system call on an open descriptor.
            unsafe { libc::fchmod(fd.as_raw_fd(), 0o600) };
            File::open(format!("/proc/self/fd/{}", fd.as_raw_fd())).map(OwnedFd::from).map_err(lending_failed)
        })
    }

    /// A descriptor of the same memory.
    pub fn descriptor(&self) -> Result<OwnedFd> {
        self.with_fd(|fd| fd.try_clone().map_err(lending_failed))
    }

    /// Nobody can resize it any more, nor seal it further.
    pub fn fix_len(&self) -> Result<()> {
        self.with_fd(|fd| seal(fd, SEALS_OF_LENT))
    }

    fn create(name: &str, len: usize) -> Result<(Self, OwnedFd)> {
        let fd = memfd(name)?;
        let len = len.max(1).next_multiple_of(PAGE_BYTES as usize);
        // SAFETY: plain system call on an open descriptor.
        if unsafe { libc::ftruncate(fd.as_raw_fd(), len as libc::off_t) } != 0 {
            return Err(failed("ftruncate of a memfd"));
        }
        Ok((Self::map(&fd, len, libc::PROT_READ | libc::PROT_WRITE)?, fd))
    }

    fn map(fd: &OwnedFd, len: usize, protection: i32) -> Result<Self> {
        Self::map_at(fd, 0, len, protection, libc::MAP_NORESERVE)
    }

    fn map_at(fd: &impl AsRawFd, offset: u64, len: usize, protection: i32, flags: i32) -> Result<Self> {
        let (flags, offset) = (flags | libc::MAP_SHARED, offset as libc::off_t);
        // SAFETY: a new mapping at an address of the kernel's choice.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), len, protection, flags, fd.as_raw_fd(), offset) };
        if start == libc::MAP_FAILED {
            return Err(failed("mmap"));
        }
        Ok(Mapping { start: NonNull::new(start.cast()).expect("mmap never returns null"), len, fd: RwLock::new(None) })
    }

    /// First byte.
    pub fn as_ptr(&self) -> *mut u8 {
        self.start.as_ptr()
    }

    /// Length in bytes, a multiple of the page size.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Makes the pages of `offset..offset + len` present at once, which is cheaper than a fault for
    /// each. Where the kernel cannot, they appear when touched.
    pub fn populate(&self, offset: u64, len: u64) {
        let (start, end) = (offset / PAGE_BYTES * PAGE_BYTES, (offset + len).next_multiple_of(PAGE_BYTES));
        assert!(end <= self.len as u64);
        // SAFETY: whole pages of this mapping; their content stays as it is.
        unsafe {
            let from = self.start.as_ptr().add(start as usize).cast();
            libc::madvise(from, (end - start) as usize, libc::MADV_POPULATE_WRITE);
        }
    }

    /// Makes all pages present, to be read. Where the kernel cannot, they appear when touched.
    pub fn fault_in(&self) {
        // SAFETY: this mapping; its content stays as it is.
        unsafe { libc::madvise(self.start.as_ptr().cast(), self.len, libc::MADV_POPULATE_READ) };
    }

    /// Writes `bytes` at `offset` by a system call: the quickest way where pages are missing, as the
    /// kernel need not zero them first, and maps them many at a time when they are read. Where that cannot
    /// be, they are copied there.
    pub fn write(&self, offset: u64, bytes: &[u8]) {
        assert!(offset + bytes.len() as u64 <= self.len as u64);
        let written = self.fd.read().as_ref().map(|fd| {
            // SAFETY: readable bytes, and a descriptor of ours.
            unsafe { libc::pwrite(fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), offset as libc::off_t) }
        });
        // SAFETY: inside the mapping; the caller makes sure that nobody reads those bytes yet.
        unsafe {
            let to = self.start.as_ptr().add(offset as usize);
            if written != Some(bytes.len() as isize) {
                std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len());
            }
            for page in (0..bytes.len()).step_by(PAGE_BYTES as usize) {
                to.add(page).read_volatile();
            }
        }
    }

    /// Copies `bytes` to `offset`. The caller makes sure that nobody reads those bytes yet.
    pub fn copy_in(&self, offset: usize, bytes: &[u8]) {
        assert!(offset + bytes.len() <= self.len);
        // SAFETY: inside the mapping, and nobody looks there.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.start.as_ptr().add(offset), bytes.len()) };
    }

    /// Closes the descriptor; the memory stays.
    pub fn close(&self) {
        *self.fd.write() = None;
    }

    /// Bytes of the pages that are resident, by what the kernel says.
    #[cfg(test)]
    pub fn resident_bytes(&self) -> u64 {
        let mut pages = vec![0u8; self.len / PAGE_BYTES as usize];
        // SAFETY: one byte for each page of this mapping.
        let result = unsafe { libc::mincore(self.start.as_ptr().cast(), self.len, pages.as_mut_ptr()) };
        assert_eq!(result, 0);
        pages.iter().filter(|&&page| page & 1 == 1).count() as u64 * PAGE_BYTES
    }

    /// Gives the whole pages of `offset..offset + len` back; they read as zeros afterwards.
    pub fn punch(&self, offset: u64, len: u64) {
        assert!(offset.is_multiple_of(PAGE_BYTES) && len.is_multiple_of(PAGE_BYTES) && offset + len <= self.len as u64);
        // SAFETY: whole pages of this mapping, which the caller says nobody needs. A failure costs
        // memory, not data.
        unsafe {
            libc::madvise(self.start.as_ptr().add(offset as usize).cast(), len as usize, libc::MADV_REMOVE);
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by us, and nobody holds a reference into it any more.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

/// With these, a memfd stays as long as it is.
const SEALS_OF_LENGTH: i32 = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW;
/// With these too, nobody who is lent it keeps a later engine from writing there.
const SEALS_OF_LENT: i32 = SEALS_OF_LENGTH | libc::F_SEAL_SEAL;

/// An empty memfd that can be sealed.
fn memfd(name: &str) -> Result<OwnedFd> {
    injected("memfd_create")?;
    let name = CString::new(name).expect("names of mappings have no NUL");
    // SAFETY: `name` is a NUL-terminated string.
    let fd = unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING) };
    if fd < 0 {
        return Err(failed("memfd_create"));
    }
    // SAFETY: `fd` was just returned to us and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn seal(fd: &impl AsRawFd, seals: i32) -> Result<()> {
    injected("fcntl(F_ADD_SEALS)")?;
    // SAFETY: plain system call on an open descriptor.
    let result = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_ADD_SEALS, seals) };
    if result == 0 { Ok(()) } else { Err(failed("sealing a memfd")) }
}

fn lending_failed(error: std::io::Error) -> Error {
    Error::new(ErrorKind::Io, format!("lending memory: {error}"))
}

fn metadata(fd: &OwnedFd) -> Result<Metadata> {
    let file = File::from(fd.try_clone().map_err(|error| Error::new(ErrorKind::Io, error.to_string()))?);
    file.metadata().map_err(|error| Error::new(ErrorKind::Io, error.to_string()))
}

fn file_len(fd: &OwnedFd) -> Result<u64> {
    metadata(fd).map(|found| found.len())
}

/// Content in a memfd that nobody can change any more, on its way between processes.
#[derive(Debug)]
pub struct SealedFile {
    file: File,
}

impl SealedFile {
    const SEALS: i32 = SEALS_OF_LENGTH | libc::F_SEAL_WRITE;

    /// One that holds `content`.
    pub fn holding(content: &[u8]) -> Result<Self> {
        let file = File::from(memfd("agentmem-put")?);
        // Written, not mapped: with a writable mapping it could not be sealed.
        file.write_all_at(content, 0)
            .map_err(|error| Error::new(ErrorKind::Io, format!("writing a memfd: {error}")))?;
        seal(&file, Self::SEALS)?;
        Ok(SealedFile { file })
    }

    /// The content of `len` bytes in `descriptor`, which comes from another process.
    pub fn check(descriptor: OwnedFd, len: u64) -> Result<Self> {
        // SAFETY: plain system call on an open descriptor.
        let seals = unsafe { libc::fcntl(descriptor.as_raw_fd(), libc::F_GET_SEALS) };
        if seals < 0 || seals & Self::SEALS != Self::SEALS || file_len(&descriptor)? != len {
            return Err(Error::new(ErrorKind::InvalidArgument, "content that is not sealed, or not of its length"));
        }
        Ok(SealedFile { file: File::from(descriptor) })
    }

    /// Reads all of it.
    pub fn read(&self, into: &mut [u8]) -> Result<()> {
        self.file.read_exact_at(into, 0).map_err(|error| Error::new(ErrorKind::Io, format!("reading a memfd: {error}")))
    }
}

/// All of a memfd, which has `len_max` bytes at most.
pub fn read_memfd(descriptor: &OwnedFd, len_max: usize) -> Result<Vec<u8>> {
    let len = file_len(descriptor)?;
    if len > len_max as u64 {
        return Err(Error::new(ErrorKind::Damaged, format!("kept memory of {len} bytes")));
    }
    let file = File::from(descriptor.try_clone().map_err(lending_failed)?);
    let mut bytes = vec![0; len as usize];
    read_at(&file, Path::new("kept memory"), &mut bytes, 0).map(|()| bytes)
}

impl AsFd for SealedFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Who is at the other end of a socket.
#[derive(Debug, Clone, Copy)]
pub struct Peer {
    /// The process.
    pub pid: u32,
    /// Its user.
    pub uid: u32,
}

/// See [`Peer`].
pub fn peer(stream: &UnixStream) -> Result<Peer> {
    let found = rustix::net::sockopt::socket_peercred(stream).map_err(|error| match error.raw_os_error() {
        // It has no number here, and so could be neither watched nor told from others.
        0 => Error::new(ErrorKind::Unsupported, "a process outside of the daemon's PID namespace"),
        _ => Error::new(ErrorKind::Io, format!("asking who calls: {error}")),
    })?;
    Ok(Peer { pid: found.pid.as_raw_nonzero().get() as u32, uid: found.uid.as_raw() })
}

/// The user that this process runs as.
pub fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Gives disk blocks inside `offset..offset + len` of `file` back.
pub fn punch_file(file: &File, offset: u64, len: u64) -> Result<()> {
    injected("fallocate")?;
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    // SAFETY: plain system call on an open descriptor.
    let result = unsafe { libc::fallocate(file.as_raw_fd(), mode, offset as libc::off_t, len as libc::off_t) };
    if result == 0 { Ok(()) } else { Err(failed("punching a hole")) }
}

/// Gives pages back that the allocator keeps for later.
pub fn trim_allocator() {
    // SAFETY: it takes its own locks.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Writes all of `bytes` at `offset`.
pub fn write_at(file: &File, path: &Path, bytes: &[u8], offset: u64) -> Result<()> {
    injected("pwrite")?;
    file.write_all_at(bytes, offset).map_err(|error| io_failed(path, error))
}

/// Reads `buffer.len()` bytes at `offset`.
pub fn read_at(file: &File, path: &Path, buffer: &mut [u8], offset: u64) -> Result<()> {
    injected("pread")?;
    file.read_exact_at(buffer, offset).map_err(|error| match error.kind() {
        std::io::ErrorKind::UnexpectedEof => {
            Error::new(ErrorKind::Damaged, format!("{} ends before {}", path.display(), offset + buffer.len() as u64))
        }
        _ => io_failed(path, error),
    })
}

/// Makes what was written to `file` durable.
pub fn sync(file: &File, path: &Path) -> Result<()> {
    injected("fdatasync")?;
    file.sync_data().map_err(|error| io_failed(path, error))
}

/// Bytes of the blocks that `file` occupies.
pub fn allocated_bytes(file: &File) -> u64 {
    file.metadata().map_or(0, |metadata| metadata.blocks() * 512)
}

/// Takes the lock on `file` that no other process can hold at the same time.
pub fn lock_exclusively(file: &File, path: &Path) -> Result<()> {
    // SAFETY: plain system call on an open descriptor.
    if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } == 0 {
        return Ok(());
    }
    let error = std::io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EWOULDBLOCK) => Err(Error::new(ErrorKind::StoreLocked, path.display().to_string())),
        _ => Err(io_failed(path, error)),
    }
}

/// Makes `file` `len` bytes long.
pub fn set_len(file: &File, path: &Path, len: u64) -> Result<()> {
    injected("ftruncate")?;
    file.set_len(len).map_err(|error| io_failed(path, error))
}

/// A new file at `path`, whose name is durable.
pub fn create_file(path: &Path) -> Result<File> {
    injected("open")?;
    let open = File::options().read(true).write(true).create_new(true).open(path);
    let file = open.map_err(|error| io_failed(path, error))?;
    injected("fsync")?;
    let folder = path.parent().unwrap_or(path);
    let sync = File::open(folder).and_then(|folder| folder.sync_all());
    sync.map_err(|error| io_failed(folder, error))?;
    Ok(file)
}

/// A counter that wakes whoever sleeps on it. Everybody who was lent it shares its flags, and may read it empty or
/// write it full: nothing here waits for anybody all the same.
#[derive(Debug)]
pub struct EventFd(OwnedFd);

impl EventFd {
    /// A new one.
    pub fn new() -> Result<Self> {
        injected("eventfd")?;
        // SAFETY: plain system call.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(failed("eventfd"));
        }
        // SAFETY: `fd` was just returned to us.
        Ok(EventFd(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Another descriptor of it, for who is to ring.
    pub fn descriptor(&self) -> Result<OwnedFd> {
        self.0.try_clone().map_err(|error| Error::new(ErrorKind::LimitReached, error.to_string()))
    }

    /// Wakes the sleeper.
    pub fn ring(&self) {
        let one = 1u64.to_ne_bytes();
        let mut poll = libc::pollfd { fd: self.0.as_raw_fd(), events: libc::POLLOUT, revents: 0 };
        // SAFETY: one valid pollfd, and eight readable bytes. Where the counter is full, the sleeper is awake
        // already.
        unsafe {
            if libc::poll(&mut poll, 1, 0) > 0 {
                libc::write(self.0.as_raw_fd(), one.as_ptr().cast(), 8);
            }
        }
    }

    /// Sleeps until rung or for `timeout_ms`.
    pub fn wait(&self, timeout_ms: i32) {
        let mut poll = libc::pollfd { fd: self.0.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        let mut count = [0u8; 8];
        let into = libc::iovec { iov_base: count.as_mut_ptr().cast(), iov_len: count.len() };
        // SAFETY: one valid pollfd, and eight writable bytes.
        unsafe {
            if libc::poll(&mut poll, 1, timeout_ms) > 0 {
                libc::preadv2(self.0.as_raw_fd(), &into, 1, -1, libc::RWF_NOWAIT);
            }
        }
    }
}

impl From<OwnedFd> for EventFd {
    fn from(descriptor: OwnedFd) -> Self {
        EventFd(descriptor)
    }
}

/// Tells a process from its forked children: a page that the kernel wipes at fork.
#[derive(Debug)]
pub struct ForkGuard(NonNull<u8>);

// SAFETY: the page is written once, before anyone else sees it.
unsafe impl Send for ForkGuard {}
// SAFETY: as above.
unsafe impl Sync for ForkGuard {}

impl ForkGuard {
    /// Marks this process.
    pub fn new() -> Result<Self> {
        injected("mmap")?;
        let len = PAGE_BYTES as usize;
        // SAFETY: a new private page at an address of the kernel's choice, marked before use.
        unsafe {
            let page = libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            );
            if page == libc::MAP_FAILED {
                return Err(failed("mmap"));
            }
            if libc::madvise(page, len, libc::MADV_WIPEONFORK) != 0 {
                let error = failed("madvise(WIPEONFORK)");
                libc::munmap(page, len);
                return Err(error);
            }
            let page = NonNull::new(page.cast::<u8>()).expect("mmap never returns null");
            page.write(1);
            Ok(ForkGuard(page))
        }
    }

    /// Whether this is still the process that made it.
    #[inline]
    pub fn is_same_process(&self) -> bool {
        // SAFETY: the page stays mapped while `self` lives; fork wipes it behind the compiler's
        // back, hence volatile.
        unsafe { self.0.as_ptr().read_volatile() == 1 }
    }
}

impl Drop for ForkGuard {
    fn drop(&mut self) {
        // SAFETY: mapped by us, used by nobody else.
        unsafe { libc::munmap(self.0.as_ptr().cast(), PAGE_BYTES as usize) };
    }
}

/// A process that can be asked whether it lives, without mistaking a reused number for it.
#[derive(Debug)]
pub struct PidFd(OwnedFd);

impl PidFd {
    /// Process `pid`, if it exists.
    pub fn open(pid: u32) -> Option<Self> {
        // SAFETY: plain system call.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid as libc::pid_t, 0) };
        // SAFETY: a non-negative result is a descriptor that was just returned to us.
        (fd >= 0).then(|| PidFd(unsafe { OwnedFd::from_raw_fd(fd as RawFd) }))
    }

    /// The process that was `pid` and started then, by [`start_of_process`].
    pub fn of_process(pid: u32, started: u64) -> Option<Self> {
        let found = Self::open(pid)?;
        (start_of_process(pid) == Some(started)).then_some(found)
    }

    /// Whether it has exited.
    pub fn is_dead(&self) -> bool {
        let mut poll = libc::pollfd { fd: self.0.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one valid pollfd.
        unsafe { libc::poll(&mut poll, 1, 0) > 0 }
    }
}

/// When process `pid` started, in ticks since boot: with its number, that is which process it is.
pub fn start_of_process(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may hold anything; the start is the 20th field behind it.
    stat.rsplit_once(") ")?.1.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// NUMA node of the page at `address`; `None` where it is not resident or the kernel will not say.
pub fn numa_node(address: *const u8) -> Option<u32> {
    let page = (address as usize & !(PAGE_BYTES as usize - 1)) as *mut libc::c_void;
    let mut status = -1i32;
    // SAFETY: one page address and one status; no nodes given means that nothing is moved.
    let result =
        unsafe { libc::syscall(libc::SYS_move_pages, 0, 1usize, &page, std::ptr::null::<i32>(), &mut status, 0) };
    (result == 0).then(|| u32::try_from(status).ok()).flatten()
}

/// Share of the last ten seconds in which some task waited for memory, in percent; `None` where
/// the kernel does not offer it.
pub fn memory_pressure() -> Option<f32> {
    let text = std::fs::read_to_string("/proc/pressure/memory").ok()?;
    let some = text.lines().find(|line| line.starts_with("some "))?;
    some.split_whitespace().find_map(|field| field.strip_prefix("avg10="))?.parse().ok()
}

fn clock_ms(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a valid clock and a writable timespec.
    unsafe { libc::clock_gettime(clock, &mut time) };
    time.tv_sec as u64 * 1000 + time.tv_nsec as u64 / 1_000_000
}

/// Milliseconds of a clock that never goes back.
pub fn monotonic_ms() -> u64 {
    clock_ms(libc::CLOCK_MONOTONIC)
}

/// Milliseconds since 1970.
pub fn unix_ms() -> u64 {
    clock_ms(libc::CLOCK_REALTIME)
}

/// `N` unpredictable bytes.
pub fn random<const N: usize>() -> Result<[u8; N]> {
    injected("getrandom")?;
    let mut bytes = [0; N];
    // SAFETY: `N` writable bytes.
    let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), N, 0) };
    if got == N as isize { Ok(bytes) } else { Err(failed("getrandom")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn punched_pages_read_as_zeros() {
        let mapping = Mapping::memfd("agentmem-test", 3 * 4096).unwrap();
        // SAFETY: the test owns the mapping and writes within it.
        let bytes = unsafe { std::slice::from_raw_parts_mut(mapping.as_ptr(), mapping.len()) };
        bytes.fill(7);
        mapping.punch(4096, 4096);
        assert_eq!((bytes[4095], bytes[4096], bytes[8191], bytes[8192]), (7, 0, 0, 7));
    }

    #[test]
    fn what_is_written_is_there_with_a_descriptor_and_without() {
        let mapping = Mapping::writable("agentmem-test", 16 * 4096).unwrap();
        mapping.write(100, &[7; 9000]);
        mapping.close();
        mapping.write(5000, &[8; 9000]);
        // SAFETY: the test owns the mapping, and writes no more.
        let bytes = unsafe { std::slice::from_raw_parts(mapping.as_ptr(), mapping.len()) };
        let expected = [(0..100, 0), (100..5000, 7), (5000..14000, 8), (14000..16 * 4096, 0)];
        assert!(expected.into_iter().all(|(range, value)| bytes[range].iter().all(|&byte| byte == value)));
    }

    #[test]
    fn a_resident_page_has_a_node() {
        let value = [1u8; 64];
        if let Some(node) = numa_node(value.as_ptr()) {
            assert!(node < 1024);
        }
    }

    #[test]
    fn an_event_waits_for_nobody_whatever_others_do_to_it() {
        let event = EventFd::new().unwrap();
        let theirs = event.descriptor().unwrap();
        // SAFETY: plain system calls on a descriptor of the test's own.
        unsafe {
            assert_eq!(libc::fcntl(theirs.as_raw_fd(), libc::F_SETFL, 0), 0);
            let full = (u64::MAX - 1).to_ne_bytes();
            assert_eq!(libc::write(theirs.as_raw_fd(), full.as_ptr().cast(), 8), 8);
        }
        event.ring();
        event.wait(-1);
        // It was read empty: nothing but the time ends this one.
        event.wait(1);
        event.ring();
        event.wait(-1);
    }

    #[test]
    fn what_is_lent_cannot_be_resized_or_sealed_and_can_be_lent_again() {
        let mapping = Mapping::writable("agentmem-test", 4096).unwrap();
        mapping.fix_len().unwrap();
        let theirs = mapping.descriptor().unwrap();
        for seals in [libc::F_SEAL_FUTURE_WRITE, libc::F_SEAL_WRITE, libc::F_SEAL_SEAL] {
            assert!(seal(&theirs, seals).is_err(), "{seals}");
        }
        assert!(File::from(theirs.try_clone().unwrap()).set_len(0).is_err());
        // SAFETY: plain system call on a descriptor of the test's own.
        assert_eq!(unsafe { libc::fchmod(theirs.as_raw_fd(), 0) }, 0);
        mapping.read_only().unwrap();
    }

    #[test]
    fn a_dead_process_is_seen() {
        let mut child = std::process::Command::new("sleep").arg("100").spawn().unwrap();
        let pidfd = PidFd::open(child.id()).unwrap();
        assert!(!pidfd.is_dead());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(pidfd.is_dead());
    }

    #[test]
    fn the_clock_does_not_go_back() {
        let before = monotonic_ms();
        assert!(monotonic_ms() >= before);
        assert!(unix_ms() > 1_700_000_000_000);
    }
}
