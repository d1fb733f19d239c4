//! A daemon, as tests need one.

use super::options;
use agentmem_store::{Domain, Domains, Limits, OnFull, Options, Server, Store};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A daemon on threads of this process, with the socket to reach it.
pub struct Daemon {
    /// What it serves.
    pub server: Arc<Server>,
    _folder: tempfile::TempDir,
    socket: PathBuf,
}

impl Daemon {
    /// One that keeps nothing when it ends.
    pub fn start_in_ram(memory_max_bytes: u64) -> Daemon {
        Daemon::start(memory_max_bytes, move || options(memory_max_bytes))
    }

    /// One whose stores are opened with `options`.
    pub fn start(memory_max_bytes: u64, options: impl Fn() -> Options + Send + Sync + 'static) -> Daemon {
        let options = Box::new(move |_: &str| Ok(options()));
        Daemon::serve(Domains::new(memory_max_bytes, Limits::default(), options).unwrap())
    }

    /// One with these domains.
    pub fn serve(domains: Domains) -> Daemon {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("agentmem.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let server = Server::new(domains, Box::new(|_, _| {}));
        for governs in [true, false] {
            let (server, listener) = (server.clone(), listener.try_clone().unwrap());
            std::thread::spawn(move || if governs { server.govern(|| 0) } else { server.run(&listener) });
        }
        Daemon { server, _folder: folder, socket }
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    pub fn connect(&self) -> Store {
        self.connect_with(OnFull::Wait).unwrap()
    }

    pub fn connect_with(&self, on_full: OnFull) -> agentmem_core::Result<Store> {
        Store::connect(&self.socket, None, on_full)
    }

    pub fn enter(&self, domain: &str, token: &str) -> agentmem_core::Result<Store> {
        Store::connect(&self.socket, Some((domain, token.as_bytes())), OnFull::Wait)
    }

    /// The user's own domain, as the daemon sees it.
    pub fn own(&self) -> Arc<Domain> {
        self.server.domains().enter("", b"").unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.server.stop().unwrap();
        // The server looks up when somebody calls.
        let _ = std::os::unix::net::UnixStream::connect(&self.socket);
    }
}
