//! The engine process. For now it answers nobody: it takes connections and closes them.

use crate::config::Config;
use crate::notify::Kept;
use crate::sys::Signals;
use agentmem_core::{Error, ErrorKind, Result};
use rustix::event::{PollFd, PollFlags, poll};
use std::os::unix::net::UnixListener;

/// Serves agents until a signal to end arrives.
pub fn serve(_config: &Config, listener: UnixListener, kept: Kept, signals: &Signals) -> Result<()> {
    let fail = |error: std::io::Error| Error::new(ErrorKind::Io, format!("the socket: {error}"));
    listener.set_nonblocking(true).map_err(fail)?;
    kept.ready()?;
    while signals.next().is_none() {
        let mut awaited = [PollFd::new(signals, PollFlags::IN), PollFd::new(&listener, PollFlags::IN)];
        match poll(&mut awaited, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => drop(listener.accept()),
            Err(error) => return Err(fail(error.into())),
        }
    }
    kept.stopping()
}
