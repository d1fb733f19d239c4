//! What /proc tells about processes: pure parsers, and thin readers on top of them.
//!
//! Processes come and go while they are looked at, and some may not be looked at: both are
//! ordinary outcomes ([`Unseen`]), and neither may be taken for the other. One that is gone waits
//! for nothing; one that cannot be seen might wait for anything.

use std::fs::File;
use std::io::{self, Read};

/// Threads of one process that are looked at.
pub const THREADS_MAX: usize = 4096;

/// Descriptors of one process that are looked at.
pub const DESCRIPTORS_MAX: usize = 65_536;

/// Bytes read of one file under /proc.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// Why there is nothing to see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unseen {
    /// The process, the thread or the descriptor no longer exists.
    Gone,
    /// It exists, but cannot be looked at or understood; a line that says why.
    Refused(String),
}

/// Something seen, or why not.
pub type Seen<T> = Result<T, Unseen>;

impl Unseen {
    /// What an I/O error on `what` means.
    pub fn from_io(what: &str, error: &io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::ENOENT | libc::ESRCH) => Self::Gone,
            _ => Self::Refused(format!("{what}: {error}")),
        }
    }

    fn garbled(what: &str) -> Self {
        Self::Refused(format!("{what}: not in the expected form"))
    }
}

/// Fields of /proc/PID/stat, of a process or of one thread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stat {
    /// Process or thread.
    pub pid: i32,
    /// Name; any bytes may be in it, parentheses and spaces too.
    pub comm: String,
    /// `R`, `S`, `D`, `T`, `t`, `Z`, `X`, ...
    pub state: u8,
    /// Parent.
    pub ppid: i32,
    /// Leader of its process group; 0 where that is outside of our pid namespace.
    pub group: i32,
    /// Leader of its session; 0 likewise.
    pub session: i32,
    /// Number of its controlling terminal; 0: it has none.
    pub terminal: i32,
    /// CPU time of this process (or thread), in ticks.
    pub cpu_ticks: u64,
    /// CPU time of children that ended and were waited for, in ticks.
    pub children_cpu_ticks: u64,
    /// Threads.
    pub threads: u64,
    /// When it started, in ticks since boot: with the pid, this is its identity.
    pub start_ticks: u64,
    /// Start of its code, bottom of its stack, start of its arguments: alike in all processes of
    /// one memory, 0 or 1 where the reader may not know.
    pub memory_marks: [u64; 3],
}

impl Stat {
    /// Whether nothing of it runs any more. (The main thread may end before the others do.)
    pub fn is_dead(&self) -> bool {
        matches!(self.state, b'Z' | b'X' | b'x') && self.threads <= 1
    }
}

/// Parses /proc/PID/stat.
pub fn parse_stat(text: &[u8]) -> Option<Stat> {
    let open = text.iter().position(|&byte| byte == b'(')?;
    let close = text.iter().rposition(|&byte| byte == b')')?;
    let pid = std::str::from_utf8(text.get(..open)?).ok()?.trim().parse().ok()?;
    let comm = String::from_utf8_lossy(text.get(open + 1..close)?).into_owned();
    let fields: Vec<&str> = std::str::from_utf8(&text[close + 1..]).ok()?.split_ascii_whitespace().collect();
    // Counted as in proc(5), where the state is field 3.
    let field = |number: usize| fields.get(number - 3).copied();
    let number = |at: usize| field(at)?.parse::<u64>().ok();
    // Times of children are signed in the kernel's printing.
    let ticks = |at: usize| Some(field(at)?.parse::<i64>().ok()?.max(0) as u64);
    Some(Stat {
        pid,
        comm,
        state: *field(3)?.as_bytes().first()?,
        ppid: field(4)?.parse().ok()?,
        group: field(5)?.parse().ok()?,
        session: field(6)?.parse().ok()?,
        terminal: field(7)?.parse().ok()?,
        cpu_ticks: ticks(14)?.saturating_add(ticks(15)?),
        children_cpu_ticks: ticks(16)?.saturating_add(ticks(17)?),
        threads: ticks(20)?,
        start_ticks: number(22)?,
        memory_marks: [number(26)?, number(28)?, number(48).unwrap_or(0)],
    })
}

/// Fields of /proc/PID/status that decide whether a process can be paged.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    /// Process that a thread belongs to.
    pub tgid: i32,
    /// Who traces it, 0 for nobody.
    pub tracer_pid: i32,
    /// Effective user.
    pub uid: u32,
    /// Seccomp mode: 0 none, 1 strict, 2 filter.
    pub seccomp: u8,
    /// Memory that is pinned for devices.
    pub pinned_bytes: u64,
    /// Memory that is locked into RAM.
    pub locked_bytes: u64,
    /// Resident anonymous memory.
    pub anonymous_bytes: u64,
}

/// Parses /proc/PID/status. Lines that are missing count as 0, as old kernels lack some.
pub fn parse_status(text: &str) -> Option<Status> {
    let line = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let word = |name: &str, nth: usize| line(name)?.split_ascii_whitespace().nth(nth);
    let bytes = |name: &str| word(name, 0).and_then(|word| word.parse::<u64>().ok()).unwrap_or(0).saturating_mul(1024);
    Some(Status {
        tgid: word("Tgid", 0)?.parse().ok()?,
        tracer_pid: word("TracerPid", 0)?.parse().ok()?,
        uid: word("Uid", 1)?.parse().ok()?,
        seccomp: word("Seccomp", 0).and_then(|word| word.parse().ok()).unwrap_or(0),
        pinned_bytes: bytes("VmPin"),
        locked_bytes: bytes("VmLck"),
        anonymous_bytes: bytes("RssAnon"),
    })
}

/// What a thread is doing, from /proc/PID/task/TID/syscall.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Syscall {
    /// It runs, or could.
    Running,
    /// It is stopped or blocked (on a page, say), but not in a system call.
    Outside,
    /// It is in one.
    Inside {
        /// Its number.
        number: i64,
        /// Its arguments.
        args: [u64; 6],
        /// The stack pointer.
        stack: u64,
    },
}

/// Parses /proc/PID/task/TID/syscall.
pub fn parse_syscall(text: &str) -> Option<Syscall> {
    let mut words = text.split_ascii_whitespace();
    let first = words.next()?;
    if first == "running" {
        return Some(Syscall::Running);
    }
    let number: i64 = first.parse().ok()?;
    if number < 0 {
        return Some(Syscall::Outside);
    }
    let mut hex = || u64::from_str_radix(words.next()?.strip_prefix("0x")?, 16).ok();
    let mut args = [0; 6];
    for arg in &mut args {
        *arg = hex()?;
    }
    Some(Syscall::Inside { number, args, stack: hex()? })
}

/// One `tfd:` line of the fdinfo of an epoll set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interest {
    /// Number of the descriptor when it was added.
    pub fd: i32,
    /// EPOLL bits.
    pub events: u32,
    /// How many entries with this number come before it: numbers are used again, files stay.
    pub nth: u32,
}

/// Parses the fdinfo of an epoll set; `None` if a line of it is not understood.
pub fn parse_epoll(text: &str) -> Option<Vec<Interest>> {
    let mut interests: Vec<Interest> = Vec::new();
    let mut seen = std::collections::HashMap::new();
    for line in text.lines().filter_map(|line| line.strip_prefix("tfd:")) {
        let mut words = line.split_ascii_whitespace();
        let fd = words.next()?.parse().ok()?;
        let events = match words.next()?.strip_prefix("events:")? {
            "" => words.next()?,
            joined => joined,
        };
        let count: &mut u32 = seen.entry(fd).or_default();
        interests.push(Interest { fd, events: u32::from_str_radix(events, 16).ok()?, nth: *count });
        *count += 1;
    }
    Some(interests)
}

/// Whether `address` lies in memory mapped shared, by /proc/PID/maps; `None` if it is not mapped.
pub fn is_shared_mapping(maps: &str, address: u64) -> Option<bool> {
    maps.lines().find_map(|line| {
        let (range, rest) = line.split_once(' ')?;
        let (start, end) = range.split_once('-')?;
        let within = u64::from_str_radix(start, 16).ok()? <= address && address < u64::from_str_radix(end, 16).ok()?;
        within.then(|| rest.as_bytes().get(3) == Some(&b's'))
    })
}

/// What a descriptor refers to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum FdKind {
    /// One end of a pipe, named or not.
    Pipe,
    /// A socket, and its inode.
    Socket(u64),
    /// A terminal, or the master of one.
    Terminal,
    /// A counter.
    EventFd,
    /// A timer of the process's own.
    TimerFd,
    /// Signals that are pending for whoever reads it.
    SignalFd,
    /// Changes of files.
    Inotify,
    /// A process.
    PidFd,
    /// A set of descriptors.
    Epoll,
    /// A file on disk, which is always ready.
    File,
    /// Anything else, by name.
    Other(String),
}

impl FdKind {
    /// From the target of /proc/PID/fd/N. A path elsewhere than in /dev, /proc and /sys counts as
    /// [`FdKind::File`]: whether it is a named pipe, only the file system knows ([`fd_kind`] asks).
    pub fn of_link(link: &str) -> Self {
        if let Some((kind, inode)) = link.strip_suffix(']').and_then(|link| link.split_once(":[")) {
            match (kind, inode.parse()) {
                ("pipe", Ok(_)) => return Self::Pipe,
                ("socket", Ok(inode)) => return Self::Socket(inode),
                ("pidfd", Ok(_)) => return Self::PidFd,
                _ => {}
            }
        }
        // The kernel writes some names in brackets and some without.
        if let Some(name) = link.strip_prefix("anon_inode:") {
            return match name.trim_matches(['[', ']']) {
                "eventfd" => Self::EventFd,
                "timerfd" => Self::TimerFd,
                "signalfd" => Self::SignalFd,
                "inotify" => Self::Inotify,
                "pidfd" => Self::PidFd,
                "eventpoll" => Self::Epoll,
                other => Self::Other(other.to_owned()),
            };
        }
        if link.starts_with("/proc/") || link.starts_with("/sys/") {
            return Self::Other(link.to_owned());
        }
        match link.strip_prefix("/dev/") {
            Some(device) if device.starts_with("tty") || device.starts_with("pts/") => Self::Terminal,
            Some("console" | "ptmx") => Self::Terminal,
            Some("null" | "zero" | "full" | "random" | "urandom") => Self::File,
            Some(device) if device.starts_with("shm/") => Self::File,
            Some(_) => Self::Other(link.to_owned()),
            None if link.starts_with('/') => Self::File,
            None => Self::Other(link.to_owned()),
        }
    }

    /// One word for it.
    pub fn name(&self) -> &str {
        match self {
            Self::Pipe => "pipe",
            Self::Socket(_) => "socket",
            Self::Terminal => "terminal",
            Self::EventFd => "eventfd",
            Self::TimerFd => "timer",
            Self::SignalFd => "signals",
            Self::Inotify => "watch on files",
            Self::PidFd => "process",
            Self::Epoll => "epoll set",
            Self::File => "file",
            Self::Other(name) => name,
        }
    }
}

/// Reads a file under /proc that is expected to be short, in one call and without allocating more.
fn read_short(path: &str) -> Seen<Vec<u8>> {
    let mut bytes = vec![0; 2048];
    let read = File::open(path).and_then(|mut file| file.read(&mut bytes));
    bytes.truncate(read.map_err(|error| Unseen::from_io(path, &error))?);
    Ok(bytes)
}

fn read_text(path: &str) -> Seen<String> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(FILE_BYTES_MAX).read_to_end(&mut bytes));
    match read.map_err(|error| Unseen::from_io(path, &error))? as u64 {
        FILE_BYTES_MAX => Err(Unseen::Refused(format!("{path}: longer than {FILE_BYTES_MAX} bytes"))),
        _ => Ok(String::from_utf8_lossy(&bytes).into_owned()),
    }
}

/// The numbers that name entries of a folder under /proc, at most `max`.
fn numbers(path: &str, max: usize) -> Seen<Vec<i32>> {
    let entries = std::fs::read_dir(path).map_err(|error| Unseen::from_io(path, &error))?;
    let mut numbers = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| Unseen::from_io(path, &error))?;
        if let Some(number) = entry.file_name().to_str().and_then(|name| name.parse().ok()) {
            if numbers.len() == max {
                return Err(Unseen::Refused(format!("{path}: more than {max} entries")));
            }
            numbers.push(number);
        }
    }
    Ok(numbers)
}

fn stat_at(path: &str) -> Seen<Stat> {
    let text = read_short(path)?;
    match parse_stat(&text) {
        Some(stat) => Ok(stat),
        // A process that ends while it is read gives nothing.
        None if text.is_empty() => Err(Unseen::Gone),
        None => Err(Unseen::garbled(path)),
    }
}

/// /proc/PID/stat.
pub fn stat(pid: i32) -> Seen<Stat> {
    stat_at(&format!("/proc/{pid}/stat"))
}

/// /proc/PID/stat of this process.
pub fn own_stat() -> Seen<Stat> {
    stat_at("/proc/self/stat")
}

/// /proc/PID/task/TID/stat.
pub fn thread_stat(pid: i32, tid: i32) -> Seen<Stat> {
    stat_at(&format!("/proc/{pid}/task/{tid}/stat"))
}

/// /proc/PID/status.
pub fn status(pid: i32) -> Seen<Status> {
    let path = format!("/proc/{pid}/status");
    parse_status(&read_text(&path)?).ok_or_else(|| Unseen::garbled(&path))
}

/// Threads of a process.
pub fn threads(pid: i32) -> Seen<Vec<i32>> {
    let threads = numbers(&format!("/proc/{pid}/task"), THREADS_MAX)?;
    if threads.is_empty() { Err(Unseen::Gone) } else { Ok(threads) }
}

/// All processes, at most `max`.
pub fn processes(max: usize) -> Seen<Vec<i32>> {
    numbers("/proc", max)
}

/// Children of one thread; refused where the kernel was built without this file.
pub fn children(pid: i32, tid: i32) -> Seen<Vec<i32>> {
    let text = read_text(&format!("/proc/{pid}/task/{tid}/children"))?;
    Ok(text.split_ascii_whitespace().filter_map(|word| word.parse().ok()).collect())
}

/// What a thread is doing.
pub fn syscall(pid: i32, tid: i32) -> Seen<Syscall> {
    let path = format!("/proc/{pid}/task/{tid}/syscall");
    let text = read_short(&path)?;
    std::str::from_utf8(&text).ok().and_then(parse_syscall).ok_or_else(|| Unseen::garbled(&path))
}

/// How often a thread has gone to rest: it waited for something, or was stopped.
pub fn rests(pid: i32, tid: i32) -> Seen<u64> {
    let path = format!("/proc/{pid}/task/{tid}/status");
    let text = read_text(&path)?;
    let count = text.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    count.and_then(|count| count.trim().parse().ok()).ok_or_else(|| Unseen::garbled(&path))
}

/// Name of the kernel function that a thread sleeps in; `0` where there is none or it is secret.
pub fn wchan(pid: i32, tid: i32) -> Seen<String> {
    Ok(String::from_utf8_lossy(&read_short(&format!("/proc/{pid}/task/{tid}/wchan"))?).trim().to_owned())
}

/// Descriptors of a process.
pub fn fds(pid: i32) -> Seen<Vec<i32>> {
    numbers(&format!("/proc/{pid}/fd"), DESCRIPTORS_MAX)
}

/// What a descriptor refers to, by its name alone: what looks like a file may be a named pipe.
pub fn fd_link_kind(pid: i32, fd: i32) -> Seen<FdKind> {
    let path = format!("/proc/{pid}/fd/{fd}");
    let link = std::fs::read_link(&path).map_err(|error| Unseen::from_io(&path, &error))?;
    Ok(FdKind::of_link(&link.to_string_lossy()))
}

/// What a descriptor refers to.
pub fn fd_kind(pid: i32, fd: i32) -> Seen<FdKind> {
    use std::os::unix::fs::FileTypeExt;
    let kind = fd_link_kind(pid, fd)?;
    if kind != FdKind::File {
        return Ok(kind);
    }
    let path = format!("/proc/{pid}/fd/{fd}");
    let kind = std::fs::metadata(&path).map_err(|error| Unseen::from_io(&path, &error))?.file_type();
    Ok(if kind.is_fifo() { FdKind::Pipe } else { FdKind::File })
}

/// What an epoll set waits for.
pub fn epoll(pid: i32, fd: i32) -> Seen<Vec<Interest>> {
    let path = format!("/proc/{pid}/fdinfo/{fd}");
    parse_epoll(&read_text(&path)?).ok_or_else(|| Unseen::garbled(&path))
}

/// /proc/PID/maps, for [`is_shared_mapping`].
pub fn maps(pid: i32) -> Seen<String> {
    read_text(&format!("/proc/{pid}/maps"))
}

#[cfg(test)]
mod tests;
