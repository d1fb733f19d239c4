//! Who is there: one record and one socket per supervisor, in a folder of the user's own.
//!
//! A name is claimed and a dead record cleared under the folder's lock, so two that want the same are
//! decided there, and nobody clears what another just claimed.

use crate::tree::Member;
use agentmem_core::{Error, ErrorKind, Result, runtime};
use rustix::fs::{FlockOperation, Mode, OFlags};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

/// The most agents of one user on one machine.
pub const AGENTS_MAX: usize = 1024;
/// The longest name.
pub const NAME_BYTES_MAX: usize = 64;
/// How long a record of a killed supervisor stays, unless its name is wanted again.
pub const TOMBSTONE_MS: u64 = 3_600_000;

const LOCK_TRIES: u32 = 500;
const LOCK_PAUSE: Duration = Duration::from_millis(10);
/// A record lists the processes of one tree; what is larger is none of ours.
const RECORD_BYTES_MAX: u64 = 1 << 20;

/// What `NAME.json` holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The agent's name.
    pub name: String,
    /// The supervisor.
    pub pid: i32,
    /// When that started, as the kernel counts.
    pub start_ticks: u64,
    /// The command's process; null until it runs.
    pub root_pid: Option<i32>,
    /// Program and arguments.
    pub command: Vec<String>,
    /// The cgroup that the tree is frozen in, if it is.
    pub cgroup: Option<PathBuf>,
    /// When it was started, in ms since 1970.
    pub started_ms: u64,
    /// Who has missing pages, and hangs for ever once the supervisor is gone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub members: Vec<Member>,
    /// Whether the supervisor was found dead.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub lost: bool,
    /// When, in ms since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost_ms: Option<u64>,
}

impl Record {
    fn supervisor(&self) -> Member {
        Member { pid: self.pid, start_ticks: self.start_ticks }
    }
}

/// A supervisor that died without a clean end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Lost {
    /// Its agent.
    pub name: String,
    /// It.
    pub pid: i32,
    /// How many processes of its tree hung on missing pages and were killed just now.
    pub killed: usize,
}

/// The folder of the registry.
#[derive(Debug)]
pub struct Registry {
    path: PathBuf,
    folder: OwnedFd,
}

/// Ms since 1970.
pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// Where the registry is for this user and environment.
pub fn runtime_folder() -> PathBuf {
    let user = rustix::process::geteuid().as_raw();
    let is_ours = |path: &Path| std::fs::metadata(path).is_ok_and(|meta| meta.is_dir() && meta.uid() == user);
    runtime::folder(|name| std::env::var_os(name), user, is_ours)
}

impl Registry {
    /// Opens the user's own.
    pub fn open() -> Result<Self> {
        Self::open_in(&runtime_folder())
    }

    /// Opens or makes the one in `runtime`, which must be ours alone.
    pub fn open_in(runtime: &Path) -> Result<Self> {
        private_folder(runtime)?;
        let path = runtime.join("agents");
        private_folder(&path)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::open(&path, flags, Mode::empty()).map_err(|error| io(&path, error))?;
        Ok(Registry { path, folder })
    }

    /// Claims a name and binds its socket: `wanted`, or the lowest free of `base`, `base-2`, ...
    pub fn claim(self: &Arc<Self>, wanted: Option<&str>, command: &[String]) -> Result<(Registration, UnixListener)> {
        let _lock = self.lock()?;
        let mut records = self.records()?;
        self.bury(&mut records);
        let lives = |name: &str| records.get(name).is_some_and(|record| !record.lost);
        let name = match wanted {
            Some(name) => check_name(name)?.to_owned(),
            None => free_name(command.first().map_or("", String::as_str), lives),
        };
        if lives(&name) {
            let subject = format!("agent {name}, of process {}", records[&name].pid);
            return Err(Error::new(ErrorKind::NameTaken, subject));
        }
        if records.values().filter(|record| !record.lost).count() >= AGENTS_MAX {
            return Err(Error::new(ErrorKind::LimitReached, format!("{AGENTS_MAX} agents")));
        }
        let own = Member::of(rustix::process::getpid().as_raw_nonzero().get())
            .map_err(|_| Error::new(ErrorKind::Unsupported, "/proc"))?;
        let record = Record {
            name,
            pid: own.pid,
            start_ticks: own.start_ticks,
            root_pid: None,
            command: command.to_vec(),
            cgroup: None,
            started_ms: now_ms(),
            members: Vec::new(),
            lost: false,
            lost_ms: None,
        };
        let listener = self.bind(&record.name)?;
        self.write(&record)?;
        Ok((Registration { registry: Arc::clone(self), record: Mutex::new(record) }, listener))
    }

    /// Clears up after supervisors that were killed. Processes of theirs that have missing pages hang on
    /// them for ever, and are killed. Returns all whose record still stands.
    pub fn sweep(&self) -> Result<Vec<Lost>> {
        let _lock = self.lock()?;
        let mut records = self.records()?;
        Ok(self.bury(&mut records))
    }

    /// Every record there is.
    pub fn records(&self) -> Result<BTreeMap<String, Record>> {
        let mut records = BTreeMap::new();
        for entry in std::fs::read_dir(&self.path).map_err(|error| io(&self.path, error))?.flatten() {
            let path = entry.path();
            let file_name = entry.file_name();
            let Some(name) = file_name.to_str().and_then(|name| name.strip_suffix(".json")) else { continue };
            if check_name(name).is_err() || entry.metadata().is_ok_and(|meta| meta.len() > RECORD_BYTES_MAX) {
                continue;
            }
            let record = std::fs::read(&path).ok().and_then(|text| serde_json::from_slice::<Record>(&text).ok());
            // One that is not ours to understand is left where it is, until its name is claimed.
            records.extend(record.filter(|record| record.name == name).map(|record| (name.to_owned(), record)));
        }
        Ok(records)
    }

    /// Turns records of dead supervisors into tombstones, and removes old ones. Under the lock.
    fn bury(&self, records: &mut BTreeMap<String, Record>) -> Vec<Lost> {
        let now_ms = now_ms();
        let mut found = Vec::new();
        for record in records.values_mut().filter(|record| !record.supervisor().lives()) {
            let killed = record.members.drain(..).filter(|member| member.kill()).count();
            if !record.lost {
                (record.lost, record.lost_ms) = (true, Some(now_ms));
                let _ = std::fs::remove_file(self.file(&record.name, "sock"));
                let _ = self.write(record);
            } else if now_ms.saturating_sub(record.lost_ms.unwrap_or(0)) > TOMBSTONE_MS {
                self.remove(&record.name);
                continue;
            }
            found.push(Lost { name: record.name.clone(), pid: record.pid, killed });
        }
        found
    }

    fn lock(&self) -> Result<OwnedFd> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        let lock = rustix::fs::openat(&self.folder, ".lock", flags, mode).map_err(|error| io(&self.path, error))?;
        for _ in 0..LOCK_TRIES {
            match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(lock),
                Err(rustix::io::Errno::WOULDBLOCK | rustix::io::Errno::INTR) => std::thread::sleep(LOCK_PAUSE),
                Err(error) => return Err(io(&self.path, error)),
            }
        }
        Err(Error::new(ErrorKind::StoreLocked, format!("{}/.lock", self.path.display())))
    }

    /// Binds through the folder's descriptor: a socket's address has room for 107 bytes only.
    fn bind(&self, name: &str) -> Result<UnixListener> {
        let path = self.file(name, "sock");
        let _ = std::fs::remove_file(&path);
        let short = format!("/proc/self/fd/{}/{name}.sock", self.folder.as_raw_fd());
        let listener = UnixListener::bind(short).map_err(|error| io(&path, error))?;
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).map_err(|error| io(&path, error))?;
        listener.set_nonblocking(true).map_err(|error| io(&path, error))?;
        Ok(listener)
    }

    /// Replaces a record as a whole: a reader finds the old one or the new one.
    fn write(&self, record: &Record) -> Result<()> {
        let path = self.file(&record.name, "json");
        let temporary = self.path.join(format!(".{}.json", record.name));
        let mut text = serde_json::to_vec(record).map_err(|error| io(&path, error))?;
        text.push(b'\n');
        std::fs::write(&temporary, text).map_err(|error| io(&temporary, error))?;
        std::fs::rename(&temporary, &path).map_err(|error| io(&path, error))
    }

    fn remove(&self, name: &str) {
        for ending in ["sock", "json"] {
            let _ = std::fs::remove_file(self.file(name, ending));
        }
    }

    fn file(&self, name: &str, ending: &str) -> PathBuf {
        self.path.join(format!("{name}.{ending}"))
    }
}

/// A claimed name. Dropping it is the clean end.
#[derive(Debug)]
pub struct Registration {
    registry: Arc<Registry>,
    record: Mutex<Record>,
}

impl Registration {
    /// What the record says now.
    pub fn record(&self) -> Record {
        self.record.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes the record, on disk as well.
    pub fn update(&self, change: impl FnOnce(&mut Record)) -> Result<()> {
        let mut record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut record);
        self.registry.write(&record)
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        // Who has missing pages must be found by the next one that sweeps.
        if record.members.is_empty() {
            self.registry.remove(&record.name);
        }
    }
}

/// `name`, if it is one.
pub fn check_name(name: &str) -> Result<&str> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let first = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    if first && name.len() <= NAME_BYTES_MAX && name.bytes().all(good) {
        return Ok(name);
    }
    let subject = format!("agent name {name:?} (letters, digits, '.', '_' and '-', at most {NAME_BYTES_MAX})");
    Err(Error::new(ErrorKind::InvalidArgument, subject))
}

/// The name after a command: what is left of the last part of its path, short enough for a number behind.
pub fn base_name(program: &str) -> String {
    let last = program.rsplit('/').next().unwrap_or_default();
    let good = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' };
    let name: String = last.chars().map(good).collect();
    let name = name.trim_start_matches(['.', '_', '-']);
    let name = &name[..name.len().min(NAME_BYTES_MAX - 5)];
    if name.is_empty() { "agent".to_owned() } else { name.to_owned() }
}

fn free_name(program: &str, taken: impl Fn(&str) -> bool) -> String {
    let base = base_name(program);
    let numbered = (2..).map(|number| format!("{base}-{number}"));
    // There are more numbers than agents.
    std::iter::once(base.clone()).chain(numbered).find(|name| !taken(name)).unwrap_or(base)
}

/// A folder that is ours and nobody else's, made if it is not there.
fn private_folder(path: &Path) -> Result<()> {
    match std::fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(io(path, error)),
        _ => {}
    }
    let meta = std::fs::symlink_metadata(path).map_err(|error| io(path, error))?;
    let user = rustix::process::geteuid().as_raw();
    match runtime::distrust(meta.is_dir(), meta.uid(), meta.mode(), user) {
        None => Ok(()),
        Some(why) => Err(Error::new(ErrorKind::PermissionDenied, format!("{} {why}", path.display()))),
    }
}

fn io(path: &Path, error: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Io, format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fresh() -> (tempfile::TempDir, Arc<Registry>) {
        let folder = tempfile::tempdir().unwrap();
        let registry = Registry::open_in(&folder.path().join("run")).unwrap();
        (folder, Arc::new(registry))
    }

    fn command() -> Vec<String> {
        vec!["/usr/bin/claude".into(), "-p".into()]
    }

    #[test]
    fn names_are_chosen_after_the_command_and_freed_by_a_clean_end() {
        let (_folder, registry) = fresh();
        let (first, _socket) = registry.claim(None, &command()).unwrap();
        let (second, _socket) = registry.claim(None, &command()).unwrap();
        let (third, _socket) = registry.claim(None, &command()).unwrap();
        assert_eq!([&first, &second, &third].map(|r| r.record().name), ["claude", "claude-2", "claude-3"]);
        drop(second);
        assert_eq!(registry.records().unwrap().len(), 2);
        assert_eq!(registry.claim(None, &command()).unwrap().0.record().name, "claude-2");
    }

    #[test]
    fn a_taken_name_is_refused_and_says_whose_it_is() {
        let (_folder, registry) = fresh();
        let _held = registry.claim(Some("a"), &command()).unwrap();
        let error = registry.claim(Some("a"), &command()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NameTaken);
        assert!(error.subject().contains(&std::process::id().to_string()));
        assert_eq!(registry.claim(Some(".a"), &command()).unwrap_err().kind(), ErrorKind::InvalidArgument);
    }

    #[test]
    fn of_many_that_want_one_name_one_gets_it() {
        let (_folder, registry) = fresh();
        let claims: Vec<_> = (0..8)
            .map(|_| {
                let registry = Arc::clone(&registry);
                std::thread::spawn(move || registry.claim(Some("a"), &command()))
            })
            .collect();
        let results: Vec<_> = claims.into_iter().map(|thread| thread.join().unwrap()).collect();
        assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
    }

    #[test]
    fn folders_of_others_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let open = folder.path().join("open");
        std::fs::create_dir(&open).unwrap();
        std::fs::set_permissions(&open, PermissionsExt::from_mode(0o755)).unwrap();
        assert_eq!(Registry::open_in(&open).unwrap_err().kind(), ErrorKind::PermissionDenied);
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(folder.path(), &link).unwrap();
        assert!(Registry::open_in(&link).unwrap_err().subject().contains("no folder"));
    }

    #[test]
    fn a_long_folder_is_no_trouble_for_the_socket() {
        let folder = tempfile::tempdir().unwrap();
        let long = folder.path().join("x".repeat(150));
        let registry = Arc::new(Registry::open_in(&long).unwrap());
        assert!(registry.claim(Some("a"), &command()).is_ok());
    }

    #[test]
    fn the_dead_leave_a_tombstone_until_their_name_is_wanted() {
        let (_folder, registry) = fresh();
        let (held, _socket) = registry.claim(Some("a"), &command()).unwrap();
        // The same number at another time: nobody that lives.
        let own = std::process::id() as i32;
        let strangers = [(own, 2), (1, 0)].map(Member::from);
        held.update(|record| (record.start_ticks, record.members) = (1, strangers.into())).unwrap();
        let lost = [Lost { name: "a".into(), pid: own, killed: 0 }];
        assert_eq!(registry.sweep().unwrap(), lost, "and this process lives to tell");
        assert_eq!(registry.sweep().unwrap(), lost);
        let tombstone = &registry.records().unwrap()["a"];
        assert!(tombstone.lost && tombstone.lost_ms.is_some() && tombstone.members.is_empty());
        let (again, _socket) = registry.claim(Some("a"), &command()).unwrap();
        assert!(!again.record().lost);
        assert_eq!(registry.sweep().unwrap(), []);
    }

    #[test]
    fn old_tombstones_go() {
        let (_folder, registry) = fresh();
        let (held, _socket) = registry.claim(Some("a"), &command()).unwrap();
        held.update(|record| (record.start_ticks, record.lost, record.lost_ms) = (1, true, Some(5))).unwrap();
        assert_eq!(registry.sweep().unwrap(), []);
        assert!(registry.records().unwrap().is_empty());
    }

    #[test]
    fn any_program_gives_a_name() {
        for (program, name) in [
            ("/usr/bin/claude", "claude"),
            ("./my agent!", "my-agent-"),
            ("", "agent"),
            ("/", "agent"),
            ("-ö", "agent"),
            (".hidden", "hidden"),
        ] {
            assert_eq!(base_name(program), name);
            assert!(check_name(name).is_ok());
        }
        assert!(check_name(&format!("{}-1024", base_name(&"x".repeat(300)))).is_ok());
    }
}
