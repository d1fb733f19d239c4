//! The folder of a store: made private, locked, and removed if it was temporary.

use crate::sys;
use agentmem_core::{Error, ErrorKind, Result};
use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

const PREFIX: &str = "agentmem-";
const LOCK: &str = "lock";

/// A folder that goes with this.
#[derive(Debug)]
struct Temporary {
    path: PathBuf,
    /// Whether it goes when this is dropped, and not only when it is removed: one with something in it that its store
    /// could not be opened on must stay.
    goes_unasked: bool,
}

impl Temporary {
    fn remove(mut self) -> std::io::Result<()> {
        self.goes_unasked = false;
        std::fs::remove_dir_all(&self.path)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if self.goes_unasked {
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

/// A folder that no other process has open.
#[derive(Debug)]
pub struct Folder {
    /// Where it is.
    pub path: PathBuf,
    temporary: Option<Temporary>,
    lock: File,
}

fn lock(path: &Path) -> Result<File> {
    let open = OpenOptions::new().create(true).truncate(false).write(true).open(path);
    let file = open.map_err(|error| sys::io_failed(path, error))?;
    sys::lock_exclusively(&file, path.parent().unwrap_or(path))?;
    Ok(file)
}

impl Folder {
    /// The folder at `path`, made if it is not there.
    pub fn at(path: &Path) -> Result<Self> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
        made.map_err(|error| sys::io_failed(path, error))?;
        Ok(Folder { path: path.to_owned(), temporary: None, lock: lock(&path.join(LOCK))? })
    }

    /// A new temporary folder. Those that processes left behind when they were killed are removed.
    pub fn temporary() -> Result<Self> {
        remove_abandoned(&std::env::temp_dir());
        let private = Permissions::from_mode(0o700);
        let made = tempfile::Builder::new().prefix(PREFIX).permissions(private).tempdir();
        let made = made.map_err(|error| sys::io_failed(&std::env::temp_dir(), error))?;
        let temporary = Temporary { path: made.keep(), goes_unasked: true };
        // A lock file appears under its name only when it is locked, so whoever can lock one knows
        // that its owner is gone.
        let (made, named) = (temporary.path.join("lock.new"), temporary.path.join(LOCK));
        let file = lock(&made)?;
        std::fs::rename(&made, &named).map_err(|error| sys::io_failed(&named, error))?;
        Ok(Folder { path: temporary.path.clone(), temporary: Some(temporary), lock: file })
    }

    /// The temporary folder that an earlier process of ours had, whose lock was kept. It stays unless it is closed.
    pub fn adopted(path: &Path, lock: OwnedFd) -> Self {
        let temporary = Some(Temporary { path: path.to_owned(), goes_unasked: false });
        Folder { path: path.to_owned(), temporary, lock: lock.into() }
    }

    /// A descriptor of its lock: nobody else has the folder as long as that is open.
    pub fn lock(&self) -> Result<OwnedFd> {
        self.lock.try_clone().map(OwnedFd::from).map_err(|error| sys::io_failed(&self.path, error))
    }

    /// Whether it goes when it is let go.
    pub fn is_temporary(&self) -> bool {
        self.temporary.is_some()
    }

    /// Lets it go, and removes it if it was temporary.
    pub fn close(self) -> Result<()> {
        match self.temporary.map_or(Ok(()), Temporary::remove) {
            // Somebody who cleans up temporary folders was quicker.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            closed => {
                closed.map_err(|error| Error::new(ErrorKind::Io, format!("removing {}: {error}", self.path.display())))
            }
        }
    }
}

fn remove_abandoned(parent: &Path) {
    let Ok(entries) = std::fs::read_dir(parent) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        let is_ours = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(PREFIX));
        // Somebody else's folder cannot be opened for writing, and stays.
        if is_ours
            && path.join("segments").is_dir()
            && let Ok(file) = OpenOptions::new().write(true).open(path.join(LOCK))
            && sys::lock_exclusively(&file, &path).is_ok()
        {
            let _ = std::fs::remove_dir_all(&path);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_process_had_stays_where_its_store_cannot_be_opened() {
        let made = Folder::temporary().unwrap();
        let (path, lock) = (made.path.clone(), made.lock().unwrap());
        std::mem::forget(made);
        drop(Folder::adopted(&path, lock.try_clone().unwrap()));
        assert!(path.exists());
        Folder::adopted(&path, lock).close().unwrap();
        assert!(!path.exists());
        let made = Folder::temporary().unwrap();
        let path = made.path.clone();
        drop(made);
        assert!(!path.exists(), "nothing is in a new one");
    }

    #[test]
    fn abandoned_folders_go_and_living_ones_stay() {
        let parent = tempfile::tempdir().unwrap();
        for name in ["agentmem-dead", "agentmem-alive", "other"] {
            std::fs::create_dir_all(parent.path().join(name).join("segments")).unwrap();
            std::fs::write(parent.path().join(name).join(LOCK), "").unwrap();
        }
        let alive = Folder::at(&parent.path().join("agentmem-alive")).unwrap();
        remove_abandoned(parent.path());
        assert!(!parent.path().join("agentmem-dead").exists());
        assert!(alive.path.exists() && parent.path().join("other").exists());
    }
}
