//! The daemon's side of sessions: a thread for each connection, which answers one call at a time.

use crate::arena::Shape;
use crate::call::{self, Caller};
use crate::domains::{Counted, Domain, Domains};
use crate::engine::Engine;
use crate::remote::{CALL_BYTES_MAX, HELLO, Hello, JOIN, Join, RESUME, Secret, VERSION, Welcome};
use crate::socket::{self, Message};
use crate::strangers::Strangers;
use crate::sync::{AtomicBool, AtomicUsize, Ordering};
use crate::sys;
use agentmem_core::{Error, ErrorKind, Result};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;

/// Connections of one session, and so the calls that it has under way.
const SESSION_CONNECTIONS_MAX: usize = 256;
/// Stack of a thread that answers.
const STACK_BYTES: usize = 256 << 10;
/// An arena is a small part of the budget. Since there may be thousands, the nth session gets no more than an nth of
/// what the first two get together, which for a hundred is a quarter of the budget in all, however great it is.
const ARENA_BUDGET_SHARE: u64 = 32;
const ARENA_BYTES_MIN: u64 = 64 << 10;
/// What a connection of no session begins with. As the length of a frame it would be half a gigabyte.
const HTTP_GET: &[u8; 4] = b"GET ";

/// Answers one request that begins with a GET, of a process of the same user.
pub type Http = Box<dyn Fn(&Server, &UnixStream) + Send + Sync>;

/// What a session of another process is given by an engine with that budget and so many `sessions`.
fn shape(arena_bytes: u64, memory_max_bytes: u64, sessions: usize) -> Shape {
    let first = memory_max_bytes / ARENA_BUDGET_SHARE;
    let bytes = arena_bytes.min(first).min(2 * first / (sessions as u64 + 1)).max(ARENA_BYTES_MIN);
    Shape { cells: 1 << 10, data_bytes: 1 << bytes.ilog2(), claims: 1 << 20 }
}

/// Serves trust domains to other processes of the same user.
pub struct Server {
    domains: Domains,
    http: Http,
    /// By what further connections of theirs prove themselves by.
    sessions: Mutex<HashMap<Secret, Entered>>,
    connections: Arc<AtomicUsize>,
    strangers: Strangers,
    is_over: AtomicBool,
}

/// A session, and where.
#[derive(Clone)]
struct Entered {
    domain: Arc<Domain>,
    session: u32,
    connections: Arc<AtomicUsize>,
}

impl Entered {
    fn new(domain: &Arc<Domain>, session: u32) -> Self {
        Entered { domain: domain.clone(), session, connections: Arc::default() }
    }

    fn connect(&self) -> Result<Counted> {
        Counted::new(&self.connections, SESSION_CONNECTIONS_MAX, "calls of one session at a time")
    }
}

/// A connection whose process is known.
struct Known {
    entered: Entered,
    /// As one of the domain's and one of the session's.
    _counted: [Counted; 2],
    /// What the session's first connection was given; a further one has none.
    secret: Option<Secret>,
}

impl Server {
    /// One for `domains`, which leaves requests that are none of a session's to `http`.
    pub fn new(domains: Domains, http: Http) -> Arc<Self> {
        let (connections, is_over) = (Arc::default(), AtomicBool::new(false));
        let mut sessions = HashMap::new();
        for (_, domain) in domains.all() {
            for (session, secret) in domain.store.engine().map(|engine| engine.secrets()).unwrap_or_default() {
                sessions.insert(secret, Entered::new(&domain, session));
            }
        }
        let (sessions, strangers) = (Mutex::new(sessions), Strangers::default());
        Arc::new(Server { domains, http, sessions, connections, strangers, is_over })
    }

    /// What it serves.
    pub fn domains(&self) -> &Domains {
        &self.domains
    }

    /// Connections that are open.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Deals the budget out every quarter of a second, until [`Self::stop`]. `private_bytes` says what private memory
    /// the process has, where it has none but for them; else 0.
    pub fn govern(&self, private_bytes: impl Fn() -> u64) {
        while !self.is_over.load(Ordering::Acquire) {
            self.domains.set_private_bytes(private_bytes());
            self.domains.govern();
            std::thread::sleep(std::time::Duration::from_millis(250));
        }
    }

    /// Ends: what can be made durable is, and sessions that are left are told that it is closed.
    pub fn stop(&self) -> Result<()> {
        self.is_over.store(true, Ordering::Release);
        self.domains.close()
    }

    /// Accepts connections until [`Self::stop`], and one more after it.
    pub fn run(self: &Arc<Self>, listener: &UnixListener) {
        for stream in listener.incoming() {
            if self.is_over.load(Ordering::Acquire) {
                return;
            }
            match stream {
                Ok(stream) => self.spawn(stream),
                // Descriptors or memory ran out: whoever waits is served when some are there again.
                Err(_) => std::thread::sleep(std::time::Duration::from_millis(10)),
            }
        }
    }

    fn spawn(self: &Arc<Self>, stream: UnixStream) {
        let counted = match Counted::new(&self.connections, self.domains.limits.connections, "connections") {
            Ok(counted) => counted,
            // Who says nothing has to make room for who does.
            Err(_) if self.strangers.hang_up_oldest() => Counted::in_place_of_another(&self.connections),
            Err(error) => return drop(refuse(&stream, &error)),
        };
        let server = self.clone();
        let stream = Arc::new(stream);
        let number = self.strangers.add(&stream);
        let builder = std::thread::Builder::new().name("session".into()).stack_size(STACK_BYTES);
        let spawned = builder.spawn(move || {
            server.serve(&stream, number);
            drop(counted);
        });
        // Without a thread the connection ends, which says enough.
        if spawned.is_err() {
            self.strangers.remove(number);
        }
    }

    /// One connection, from its first word to its end; until then it is stranger `number`.
    fn serve(&self, stream: &UnixStream, number: u64) {
        if socket::begins_with(stream, HTTP_GET) {
            if sys::peer(stream).is_ok_and(|peer| peer.uid == sys::own_uid()) {
                (self.http)(self, stream);
            }
            return self.strangers.remove(number);
        }
        // Whoever says nothing, or something else first, is let go.
        let first = socket::receive(stream, CALL_BYTES_MAX);
        self.strangers.remove(number);
        let Ok(Some(first)) = first else { return };
        let begun = match first.number {
            HELLO => self.welcome(stream, &first),
            JOIN | RESUME => self.joined(stream, &first),
            number => Err(Error::new(ErrorKind::Version, format!("call {number} before a hello"))),
        };
        let known = match begun {
            Ok(known) => known,
            Err(error) => return drop(refuse(stream, &error)),
        };
        let Known { entered: Entered { domain, session, .. }, secret, _counted } = known;
        let Ok(engine) = domain.store.engine() else { return };
        let answering = std::panic::AssertUnwindSafe(|| answer_all(stream, &self.domains, engine, session));
        if std::panic::catch_unwind(answering).is_err() {
            // State that a panic left half-changed must not be worked with.
            engine.mark_failed();
        }
        if let Some(secret) = secret {
            self.sessions.lock().remove(&secret);
            engine.end_session(session);
        }
    }

    fn welcome(&self, stream: &UnixStream, message: &Message) -> Result<Known> {
        let malformed = |_| Error::new(ErrorKind::Version, "a hello");
        // The version comes first, so that a hello of any version says at least that.
        let (version, rest) = postcard::take_from_bytes::<u32>(&message.body).map_err(malformed)?;
        if version != VERSION {
            let what = format!("protocol {version} (the daemon has {VERSION})");
            return Err(Error::new(ErrorKind::Version, what));
        }
        let hello: Hello = postcard::from_bytes(rest).map_err(malformed)?;
        let peer = sys::peer(stream)?;
        if peer.uid != sys::own_uid() {
            return Err(Error::new(ErrorKind::PermissionDenied, format!("user {} at this daemon", peer.uid)));
        }
        let domain = self.domains.enter(&hello.domain, &hello.token)?;
        let counted = domain.connect()?;
        let engine = domain.store.engine()?;
        let secret = domain.secret()?;
        let shape = shape(self.domains.limits.arena_bytes, engine.memory_max_bytes(), engine.lock().sessions.len());
        let (session, lent) = engine.lend_session(shape, peer.pid, secret)?;
        let welcome = Welcome {
            session,
            secret,
            cells: shape.cells as u32,
            data_bytes: shape.data_bytes as u64,
            claims: shape.claims as u32,
            memory_max_bytes: engine.memory_max_bytes(),
            hot_segment: engine.hot_heap.segment(),
        };
        let entered = Entered::new(&domain, session);
        let counted = [counted, entered.connect()?];
        self.sessions.lock().insert(secret, entered.clone());
        let descriptors: Vec<_> = lent.iter().map(AsFd::as_fd).collect();
        let sent =
            call::encode(&welcome).and_then(|body| socket::send(stream, 0, &body, &descriptors).map_err(socket::gone));
        if let Err(error) = sent {
            self.sessions.lock().remove(&secret);
            engine.end_session(session);
            return Err(error);
        }
        Ok(Known { entered, _counted: counted, secret: Some(secret) })
    }

    fn joined(&self, stream: &UnixStream, message: &Message) -> Result<Known> {
        let malformed = |_| Error::new(ErrorKind::Version, "a join");
        let join: Join = postcard::from_bytes(&message.body).map_err(malformed)?;
        let known = self.sessions.lock().get(&join.secret).cloned();
        // Of the daemon that was there before, or never of one.
        let over = || Error::new(ErrorKind::Closed, "this session, which the daemon does not know,");
        let entered = known.ok_or_else(|| self.domains.why_left_out(&join.secret).unwrap_or_else(over))?;
        let counted = [entered.domain.connect()?, entered.connect()?];
        let resumes = message.number == RESUME;
        if resumes && !entered.domain.store.engine()?.resume_session(entered.session) {
            return Err(over());
        }
        let known = Known { entered, _counted: counted, secret: resumes.then_some(join.secret) };
        match socket::send(stream, 0, &[], &[]) {
            Err(_) if resumes => Ok(known), // it is to end with this connection, which is over
            sent => sent.map_err(socket::gone).map(|()| known),
        }
    }
}

/// Answers calls until the other side hangs up or breaks the protocol.
fn answer_all(stream: &UnixStream, domains: &Domains, engine: &Arc<Engine>, session: u32) {
    while let Ok(Some(message)) = socket::receive(stream, CALL_BYTES_MAX) {
        let Message { number, body, mut descriptors } = message;
        let domains = Some(domains);
        let mut caller = Caller { engine, session, is_repeated: false, domains, descriptor: descriptors.pop() };
        let sent = match call::answer(&mut caller, number, &body) {
            Ok(body) => {
                let lent: Option<OwnedFd> = caller.descriptor.take();
                let lent: Vec<_> = lent.iter().map(AsFd::as_fd).collect();
                socket::send(stream, 0, &body, &lent)
            }
            Err(error) => refuse(stream, &error),
        };
        if sent.is_err() {
            return;
        }
    }
}

fn refuse(stream: &UnixStream, error: &Error) -> std::io::Result<()> {
    socket::send(stream, error.kind() as u16, error.subject().as_bytes(), &[])
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_hundred_rings_are_a_quarter_of_the_budget_but_for_the_least_that_each_has() {
        for budget in [16 << 20, 100 << 20, 1 << 30, 64 << 30] {
            for arena_bytes in [64 << 10, 4 << 20, 1 << 30] {
                let rings = |count| (1..=count).map(move |n| shape(arena_bytes, budget, n).data_bytes as u64);
                assert!(rings(100).all(|bytes| (ARENA_BYTES_MIN..=arena_bytes.min(budget / 32)).contains(&bytes)));
                let above_least = |count| rings(count).filter(|&bytes| bytes > ARENA_BYTES_MIN).sum::<u64>();
                assert!(above_least(100) <= budget / 4, "{} of {budget}", above_least(100));
                assert!(above_least(4096) <= budget / 2, "{} of {budget}", above_least(4096));
            }
        }
    }
}
