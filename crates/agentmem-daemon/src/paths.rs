//! Where the daemon is found: one socket in a folder that is its user's and nobody else's, and beside it
//! what its processes need among themselves.

use agentmem_core::{Error, ErrorKind, Result, runtime};
use rustix::fs::{Mode, OFlags};
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// The longest path that a socket's address has room for.
const ADDRESS_BYTES_MAX: usize = 107;

/// The socket's place.
#[derive(Debug)]
pub struct Place {
    socket: PathBuf,
    name: OsString,
    folder: OwnedFd,
}

impl Place {
    /// The socket that was asked for, else the one of this user and environment. Makes the folder if it is
    /// not there, and refuses one that others could write to or look into.
    pub fn find(given: Option<&Path>) -> Result<Self> {
        let socket = given.map_or_else(socket, Path::to_owned);
        let socket = std::path::absolute(&socket).map_err(|error| io(&socket, error))?;
        let (Some(folder), Some(name)) = (socket.parent(), socket.file_name()) else {
            return Err(Error::new(ErrorKind::InvalidArgument, format!("{} is no file", socket.display())));
        };
        Ok(Place { name: name.to_owned(), folder: private_folder(folder)?, socket })
    }

    /// The socket's path.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The path of a file beside the socket: `agentmem.sock.log`, say, for `log`.
    pub fn beside(&self, ending: &str) -> PathBuf {
        let mut path = self.socket.clone().into_os_string();
        path.push(".");
        path.push(ending);
        path.into()
    }

    /// The same file as this process reaches it: the folder as it was checked, whatever has its path by now.
    pub fn reached(&self, ending: Option<&str>) -> PathBuf {
        self.through("self".as_ref(), ending)
    }

    /// The same file, as an address that fits into a socket's and can be given to a child.
    pub fn address(&self, ending: &str) -> PathBuf {
        let path = self.beside(ending);
        let own = std::process::id().to_string();
        if path.as_os_str().len() <= ADDRESS_BYTES_MAX { path } else { self.through(own.as_ref(), Some(ending)) }
    }

    fn through(&self, process: &OsStr, ending: Option<&str>) -> PathBuf {
        let mut name = self.name.clone();
        for part in ending.iter().flat_map(|&ending| [".", ending]) {
            name.push(part);
        }
        Path::new("/proc").join(process).join("fd").join(self.folder.as_raw_fd().to_string()).join(name)
    }

    /// Listens on the socket, and takes the place of one that nobody listens on any more. Only for who holds
    /// the lock.
    pub fn bind(&self) -> Result<UnixListener> {
        let path = self.reached(None);
        if UnixStream::connect(&path).is_ok() {
            let subject = format!("{}: somebody listens there without holding its lock", self.socket.display());
            return Err(Error::new(ErrorKind::NameTaken, subject));
        }
        let _ = std::fs::remove_file(&path);
        let bound = UnixListener::bind(&path).and_then(|listener| {
            std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600))?;
            Ok(listener)
        });
        bound.map_err(|error| io(&self.socket, error))
    }
}

/// Where the socket is for this user and environment.
fn socket() -> PathBuf {
    let user = rustix::process::geteuid().as_raw();
    let is_ours = |path: &Path| std::fs::metadata(path).is_ok_and(|meta| meta.is_dir() && meta.uid() == user);
    runtime::socket(|name| std::env::var_os(name), user, is_ours)
}

/// Opens a folder that is ours and nobody else's, made if it is not there. What is opened is what is checked.
fn private_folder(path: &Path) -> Result<OwnedFd> {
    match std::fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(io(path, error)),
        _ => {}
    }
    let refused = |why: &str| Error::new(ErrorKind::PermissionDenied, format!("{} {why}", path.display()));
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(folder) => folder,
        Err(rustix::io::Errno::NOTDIR | rustix::io::Errno::LOOP) => return Err(refused("is no folder")),
        Err(error) => return Err(io(path, error)),
    };
    let found = rustix::fs::fstat(&folder).map_err(|error| io(path, error))?;
    match runtime::distrust(true, found.st_uid, found.st_mode, rustix::process::geteuid().as_raw()) {
        None => Ok(folder),
        Some(why) => Err(refused(why)),
    }
}

/// What the system said about a path.
pub(crate) fn io(path: &Path, error: impl std::fmt::Display) -> Error {
    // A path may hold anything; a message is one line.
    let shown = String::from_utf8_lossy(path.as_os_str().as_bytes()).replace('\n', "?");
    Error::new(ErrorKind::Io, format!("{shown}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_of_others_and_links_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let open = folder.path().join("open");
        std::fs::create_dir(&open).unwrap();
        std::fs::set_permissions(&open, PermissionsExt::from_mode(0o750)).unwrap();
        let refused = |path: &Path| Place::find(Some(&path.join("a.sock"))).unwrap_err();
        assert_eq!(refused(&open).kind(), ErrorKind::PermissionDenied);
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(folder.path(), &link).unwrap();
        assert!(refused(&link).subject().contains("is no folder"));
        assert_eq!(refused(&folder.path().join("no/where")).kind(), ErrorKind::Io);
    }

    #[test]
    fn a_long_folder_is_no_trouble_for_the_socket() {
        let folder = tempfile::tempdir().unwrap();
        let long = folder.path().join("x".repeat(150));
        let place = Place::find(Some(&long.join("a.sock"))).unwrap();
        let _listener = place.bind().unwrap();
        assert_eq!(place.bind().unwrap_err().kind(), ErrorKind::NameTaken);
        assert_eq!(std::fs::metadata(place.socket()).unwrap().mode() & 0o777, 0o600);
        assert_eq!(place.beside("lock"), long.join("a.sock.lock"));
        std::fs::write(place.address("log"), "here").unwrap();
        assert_eq!(std::fs::read(long.join("a.sock.log")).unwrap(), b"here");
    }

    #[test]
    fn a_socket_left_behind_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::find(Some(&folder.path().join("run/a.sock"))).unwrap();
        drop(place.bind().unwrap());
        place.bind().unwrap();
    }
}
