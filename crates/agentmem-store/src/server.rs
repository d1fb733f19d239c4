//! The daemon's side of sessions: a thread for each connection, which answers one call at a time.

use crate::arena::Shape;
use crate::call::{self, Caller};
use crate::engine::Engine;
use crate::remote::{GOODBYE, HELLO, Hello, JOIN, Join, VERSION, Welcome};
use crate::socket::{self, Message};
use crate::sync::{AtomicUsize, Ordering};
use crate::sys;
use agentmem_core::{Error, ErrorKind, Result};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;

/// Connections at the same time.
const CONNECTIONS_MAX: usize = 8192;
/// The longest call.
const CALL_BYTES_MAX: usize = 1 << 20;
/// Stack of a thread that answers.
const STACK_BYTES: usize = 256 << 10;
/// What a session of another process is given: small, since there may be thousands.
const SHAPE: Shape = Shape { cells: 1 << 10, data_bytes: 4 << 20, claims: 1 << 20 };

/// Serves an engine to other processes of the same user.
pub struct Server {
    engine: Arc<Engine>,
    secrets: Mutex<HashMap<u32, [u8; 16]>>,
    connections: AtomicUsize,
}

impl Server {
    /// One for `engine`, which must have been opened to lend its memory.
    pub fn new(engine: Arc<Engine>) -> Arc<Self> {
        assert!(engine.options.lends, "an engine that is served lends its memory");
        Arc::new(Server { engine, secrets: Mutex::default(), connections: AtomicUsize::new(0) })
    }

    /// Accepts connections until the engine is closed and one more arrives.
    pub fn run(self: &Arc<Self>, listener: &UnixListener) -> Result<()> {
        for stream in listener.incoming() {
            if self.engine.is_closed() {
                return Ok(());
            }
            match stream {
                Ok(stream) => self.spawn(stream),
                // Descriptors or memory ran out: whoever waits is served when some are there again.
                Err(_) => std::thread::sleep(std::time::Duration::from_millis(10)),
            }
        }
        Ok(())
    }

    fn spawn(self: &Arc<Self>, stream: UnixStream) {
        let server = self.clone();
        if self.connections.fetch_add(1, Ordering::AcqRel) >= CONNECTIONS_MAX {
            self.connections.fetch_sub(1, Ordering::AcqRel);
            let refusal = Error::new(ErrorKind::LimitReached, format!("{CONNECTIONS_MAX} connections"));
            let _ = refuse(&stream, &refusal);
            return;
        }
        let builder = std::thread::Builder::new().name("session".into()).stack_size(STACK_BYTES);
        let spawned = builder.spawn(move || {
            server.serve(&stream);
            server.connections.fetch_sub(1, Ordering::AcqRel);
        });
        if spawned.is_err() {
            self.connections.fetch_sub(1, Ordering::AcqRel);
        }
    }

    /// One connection, from its first word to its end.
    fn serve(&self, stream: &UnixStream) {
        // Whoever says nothing, or something else first, is let go.
        let Ok(Some(first)) = socket::receive(stream, CALL_BYTES_MAX) else { return };
        let begun = match first.number {
            HELLO => self.welcome(stream, &first),
            JOIN => self.joined(stream, &first),
            number => Err(Error::new(ErrorKind::Version, format!("call {number} before a hello"))),
        };
        match begun {
            Ok((session, is_first)) => {
                let said_goodbye = self.answer_all(stream, session);
                if is_first {
                    self.secrets.lock().remove(&session);
                    self.engine.end_session(session, said_goodbye);
                }
                if said_goodbye {
                    let _ = socket::send(stream, 0, &[], &[]);
                }
            }
            Err(error) => drop(refuse(stream, &error)),
        }
    }

    fn welcome(&self, stream: &UnixStream, message: &Message) -> Result<(u32, bool)> {
        let malformed = |_| Error::new(ErrorKind::Version, "a hello");
        let hello: Hello = postcard::from_bytes(&message.body).map_err(malformed)?;
        if hello.version != VERSION {
            let what = format!("protocol {} (the daemon has {VERSION})", hello.version);
            return Err(Error::new(ErrorKind::Version, what));
        }
        let peer = sys::peer(stream)?;
        if peer.uid != sys::own_uid() {
            return Err(Error::new(ErrorKind::PermissionDenied, format!("user {} at this daemon", peer.uid)));
        }
        let secret: [u8; 16] = sys::random()?;
        let (session, lent) = self.engine.lend_session(SHAPE, peer.pid)?;
        self.secrets.lock().insert(session, secret);
        let welcome = Welcome {
            session,
            secret,
            cells: SHAPE.cells as u32,
            data_bytes: SHAPE.data_bytes as u64,
            claims: SHAPE.claims as u32,
            memory_max_bytes: self.engine.options.memory_max_bytes,
        };
        let body = postcard::to_allocvec(&welcome).expect("plain values are encoded in memory");
        let descriptors: Vec<_> = lent.iter().map(AsFd::as_fd).collect();
        if socket::send(stream, 0, &body, &descriptors).is_err() {
            self.secrets.lock().remove(&session);
            self.engine.end_session(session, false);
            return Err(Error::new(ErrorKind::Unreachable, "the session"));
        }
        Ok((session, true))
    }

    fn joined(&self, stream: &UnixStream, message: &Message) -> Result<(u32, bool)> {
        let malformed = |_| Error::new(ErrorKind::Version, "a join");
        let join: Join = postcard::from_bytes(&message.body).map_err(malformed)?;
        if self.secrets.lock().get(&join.session) != Some(&join.secret) {
            return Err(Error::new(ErrorKind::PermissionDenied, format!("session {}", join.session)));
        }
        socket::send(stream, 0, &[], &[]).map_err(socket::gone)?;
        Ok((join.session, false))
    }

    /// Answers calls until the other side hangs up or breaks the protocol; returns whether it said goodbye.
    fn answer_all(&self, stream: &UnixStream, session: u32) -> bool {
        while let Ok(Some(message)) = socket::receive(stream, CALL_BYTES_MAX) {
            if message.number == GOODBYE {
                return true;
            }
            let Message { number, body, mut descriptors } = message;
            let mut caller = Caller { engine: &self.engine, session, descriptor: descriptors.pop() };
            let sent = match call::answer(&mut caller, number, &body) {
                Ok(body) => {
                    let lent: Option<OwnedFd> = caller.descriptor.take();
                    let lent: Vec<_> = lent.iter().map(AsFd::as_fd).collect();
                    socket::send(stream, 0, &body, &lent)
                }
                Err(error) => refuse(stream, &error),
            };
            if sent.is_err() {
                return false;
            }
        }
        false
    }
}

fn refuse(stream: &UnixStream, error: &Error) -> std::io::Result<()> {
    socket::send(stream, error.kind() as u16, error.subject().as_bytes(), &[])
}
