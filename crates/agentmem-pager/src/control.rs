//! The socket: one JSON object a line, a request and its answer.

use crate::agent::{No, Op, Ticket};
use crate::fleet::Peer;
use crate::status::Status;
use agentmem_core::ErrorKind;
use rustix::event::PollFlags;
use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};
use std::io::{ErrorKind as Io, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};

/// The longest request.
pub const REQUEST_BYTES_MAX: usize = 64 << 10;
/// The most connections; further ones wait in the socket's own queue.
pub const CONNECTIONS_MAX: usize = 64;

/// What can be asked.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Request {
    /// How the agent is.
    Status {
        /// With what was left alone.
        #[serde(default)]
        verbose: bool,
    },
    /// How the agent looks to those that share memory with it: little work, so it may be asked often.
    Peer {
        /// Said by the daemon: how far the fleet is beyond its budget, from 0 to 1. It holds for a while.
        #[serde(default)]
        beyond_budget: Option<f64>,
    },
    /// Page out and freeze, and stay so.
    Pause,
    /// End a pause.
    Resume,
    /// Come back.
    Wake,
    /// What the agent's hooks know of its turns.
    Hint {
        /// Whether one began or ended.
        turn: Turn,
    },
    /// The most memory that it may hold while awake.
    Limit {
        /// Null: as much as it likes.
        memory_max_bytes: Option<u64>,
    },
}

/// An agent's turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Turn {
    /// It waits for its user.
    Idle,
    /// It works.
    Active,
}

impl Request {
    /// The part of it that the state machine answers, if any.
    pub fn op(&self) -> Option<Op> {
        match self {
            Request::Pause => Some(Op::Pause),
            Request::Resume => Some(Op::Resume),
            Request::Wake => Some(Op::Wake),
            Request::Hint { turn: Turn::Idle } => Some(Op::HintIdle),
            Request::Hint { turn: Turn::Active } => Some(Op::HintActive),
            Request::Status { .. } | Request::Peer { .. } | Request::Limit { .. } => None,
        }
    }
}

/// What is answered.
#[derive(Clone, Debug)]
pub enum Answer {
    /// It is done.
    Done,
    /// How the agent is.
    Agent(Box<Status>),
    /// How it looks to others.
    Peer(Box<Peer>),
    /// It is not done.
    Refused {
        /// As in the error table.
        kind: ErrorKind,
        /// One line.
        text: String,
    },
}

impl Serialize for Answer {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("ok", &!matches!(self, Answer::Refused { .. }))?;
        match self {
            Answer::Done => {}
            Answer::Agent(status) => map.serialize_entry("agent", status)?,
            Answer::Peer(peer) => map.serialize_entry("peer", peer)?,
            Answer::Refused { kind, text } => {
                map.serialize_entry("error", kind.name())?;
                map.serialize_entry("text", text)?;
            }
        }
        map.end()
    }
}

impl From<Result<(), No>> for Answer {
    fn from(result: Result<(), No>) -> Self {
        let (kind, text) = match result {
            Ok(()) => return Answer::Done,
            Err(No::Paused) => (ErrorKind::InvalidArgument, "the agent is paused; resume it".to_owned()),
            Err(No::Refused(why)) => (ErrorKind::Unsupported, why),
            Err(No::Overtaken) => (ErrorKind::Io, "something needed the agent awake; try again".to_owned()),
            Err(No::Damaged(what)) => (ErrorKind::Damaged, what),
            Err(No::Ended) => (ErrorKind::Closed, "the agent has ended".to_owned()),
        };
        Answer::Refused { kind, text }
    }
}

/// The listener and its connections.
pub struct Control {
    listener: UnixListener,
    connections: Vec<Connection>,
    next: u64,
}

impl Control {
    /// Takes requests on `listener`, which must not block.
    pub fn new(listener: UnixListener) -> Self {
        Control { listener, connections: Vec::new(), next: 0 }
    }

    /// The listener, while there is room for another connection.
    pub fn listener(&self) -> Option<BorrowedFd<'_>> {
        (self.connections.len() < CONNECTIONS_MAX).then(|| self.listener.as_fd())
    }

    /// Every connection and what to poll it for.
    pub fn connections(&self) -> impl Iterator<Item = (Ticket, BorrowedFd<'_>, PollFlags)> {
        self.connections.iter().map(|connection| (connection.ticket, connection.stream.as_fd(), connection.interest()))
    }

    /// Takes the connections that wait.
    pub fn accept(&mut self) {
        while self.connections.len() < CONNECTIONS_MAX {
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == Io::Interrupted => continue,
                Err(_) => return,
            };
            if is_ours(&stream) && stream.set_nonblocking(true).is_ok() {
                self.next += 1;
                self.connections.push(Connection::new(Ticket(self.next), stream));
            }
        }
    }

    /// Moves a connection on. Returns its next request, if it has one; what is none is answered here.
    pub fn advance(&mut self, ticket: Ticket, ready: PollFlags) -> Option<Request> {
        let connection = self.connections.iter_mut().find(|connection| connection.ticket == ticket)?;
        let request = connection.advance(ready);
        self.connections.retain(|connection| !connection.is_over());
        request
    }

    /// Answers the request of a connection, if that is still there. Returns the next request of it.
    pub fn answer(&mut self, ticket: Ticket, answer: &Answer) -> Option<Request> {
        let connection = self.connections.iter_mut().find(|connection| connection.ticket == ticket)?;
        connection.answer(answer);
        self.advance(ticket, PollFlags::OUT)
    }
}

/// Whether the peer runs as us, or as root.
fn is_ours(stream: &UnixStream) -> bool {
    let own = rustix::process::geteuid();
    rustix::net::sockopt::socket_peercred(stream).is_ok_and(|peer| peer.uid == own || peer.uid.is_root())
}

struct Connection {
    ticket: Ticket,
    stream: UnixStream,
    input: Vec<u8>,
    output: Vec<u8>,
    /// Whether its request is being worked on: one at a time.
    waits: bool,
    /// Whether it sends no more.
    input_ended: bool,
    broken: bool,
}

impl Connection {
    fn new(ticket: Ticket, stream: UnixStream) -> Self {
        let (input, output) = (Vec::new(), Vec::new());
        Connection { ticket, stream, input, output, waits: false, input_ended: false, broken: false }
    }

    /// A new request is read only once the answer to the last is written.
    fn interest(&self) -> PollFlags {
        match (self.output.is_empty(), self.waits) {
            (false, _) => PollFlags::OUT,
            (true, false) => PollFlags::IN,
            (true, true) => PollFlags::empty(),
        }
    }

    fn is_over(&self) -> bool {
        self.broken || (self.input_ended && !self.waits && self.output.is_empty())
    }

    fn advance(&mut self, ready: PollFlags) -> Option<Request> {
        if ready.intersects(PollFlags::HUP | PollFlags::ERR) && !ready.contains(PollFlags::IN) {
            self.broken = true;
            return None;
        }
        self.write();
        if ready.contains(PollFlags::IN) && !self.waits && self.output.is_empty() {
            self.read();
        }
        loop {
            if self.waits || !self.output.is_empty() || self.broken {
                return None;
            }
            match self.next_line() {
                None => return None,
                Some(Ok(request)) => {
                    self.waits = true;
                    return Some(request);
                }
                Some(Err(text)) => self.answer(&Answer::Refused { kind: ErrorKind::InvalidArgument, text }),
            }
        }
    }

    fn next_line(&mut self) -> Option<Result<Request, String>> {
        let Some(length) = self.input.iter().position(|&byte| byte == b'\n') else {
            if self.input.len() < REQUEST_BYTES_MAX {
                return None;
            }
            // Where the next request begins cannot be told any more.
            self.input.clear();
            self.input_ended = true;
            return Some(Err(format!("a request is at most {REQUEST_BYTES_MAX} bytes")));
        };
        let request = serde_json::from_slice(&self.input[..length]).map_err(|error| error.to_string());
        self.input.drain(..=length);
        Some(request)
    }

    fn read(&mut self) {
        let mut block = [0; 4096];
        while self.input.len() < REQUEST_BYTES_MAX && !self.input_ended {
            match self.stream.read(&mut block) {
                Ok(0) => self.input_ended = true,
                Ok(count) => self.input.extend_from_slice(&block[..count]),
                Err(error) if error.kind() == Io::Interrupted => {}
                Err(error) if error.kind() == Io::WouldBlock => return,
                Err(_) => {
                    self.broken = true;
                    return;
                }
            }
        }
    }

    fn answer(&mut self, answer: &Answer) {
        self.waits = false;
        if serde_json::to_writer(&mut self.output, answer).is_err() {
            self.broken = true;
        }
        self.output.push(b'\n');
        self.write();
    }

    fn write(&mut self) {
        while !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(count) => drop(self.output.drain(..count)),
                Err(error) if error.kind() == Io::Interrupted => {}
                Err(error) if error.kind() == Io::WouldBlock => return,
                Err(_) => {
                    self.broken = true;
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};

    fn server() -> (tempfile::TempDir, Control, BufReader<UnixStream>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.sock");
        let listener = UnixListener::bind(&path).unwrap();
        listener.set_nonblocking(true).unwrap();
        let client = UnixStream::connect(path).unwrap();
        let mut control = Control::new(listener);
        control.accept();
        (folder, control, BufReader::new(client))
    }

    fn send(control: &mut Control, client: &BufReader<UnixStream>, text: &str) -> Option<(Ticket, Request)> {
        client.get_ref().write_all(text.as_bytes()).unwrap();
        let ticket = control.connections().next()?.0;
        control.advance(ticket, PollFlags::IN).map(|request| (ticket, request))
    }

    fn line(client: &mut BufReader<UnixStream>) -> String {
        let mut line = String::new();
        client.read_line(&mut line).unwrap();
        line
    }

    #[test]
    fn requests_come_one_at_a_time_and_are_answered_in_order() {
        let (_folder, mut control, mut client) = server();
        let both = "{\"op\":\"pause\"}\n{\"op\":\"hint\",\"turn\":\"idle\"}\n{\"op\"";
        let (ticket, request) = send(&mut control, &client, both).unwrap();
        assert_eq!(request, Request::Pause);
        let next = control.answer(ticket, &Answer::Done);
        assert_eq!(next, Some(Request::Hint { turn: Turn::Idle }));
        assert_eq!(control.answer(ticket, &Err(No::Paused).into()), None);
        assert_eq!(line(&mut client), "{\"ok\":true}\n");
        assert_eq!(
            line(&mut client),
            "{\"ok\":false,\"error\":\"InvalidArgument\",\"text\":\"the agent is paused; resume it\"}\n"
        );
        let (_, request) = send(&mut control, &client, ":\"status\",\"verbose\":true}\n").unwrap();
        assert_eq!(request, Request::Status { verbose: true });
    }

    #[test]
    fn what_is_no_request_is_an_error_and_the_connection_stays() {
        let (_folder, mut control, mut client) = server();
        assert!(send(&mut control, &client, "{\"op\":\"fly\"}\nnothing\n").is_none());
        assert!(line(&mut client).contains("unknown variant `fly`"));
        assert!(line(&mut client).contains("InvalidArgument"));
        let (_, request) = send(&mut control, &client, "{\"op\":\"wake\"}\n").unwrap();
        assert_eq!(request, Request::Wake);
        let told = "{\"op\":\"peer\",\"beyond_budget\":0.25}\n";
        let ticket = control.connections().next().unwrap().0;
        assert_eq!(control.answer(ticket, &Answer::Done), None);
        let (_, request) = send(&mut control, &client, told).unwrap();
        assert_eq!(request, Request::Peer { beyond_budget: Some(0.25) });
    }

    #[test]
    fn what_is_too_long_ends_the_connection() {
        let (_folder, mut control, mut client) = server();
        assert!(send(&mut control, &client, &"x".repeat(REQUEST_BYTES_MAX)).is_none());
        assert!(line(&mut client).contains("at most 65536 bytes"));
        assert_eq!(control.connections().count(), 0);
    }

    #[test]
    fn who_hung_up_is_forgotten_and_an_answer_to_it_is_dropped() {
        let (_folder, mut control, client) = server();
        let (ticket, _) = send(&mut control, &client, "{\"op\":\"pause\"}\n").unwrap();
        assert_eq!(control.connections().next().unwrap().2, PollFlags::empty());
        drop(client);
        assert_eq!(control.advance(ticket, PollFlags::HUP), None);
        assert_eq!(control.connections().count(), 0);
        assert_eq!(control.answer(ticket, &Answer::Done), None);
    }

    #[test]
    fn who_closes_its_half_still_gets_the_answer() {
        let (_folder, mut control, mut client) = server();
        client.get_ref().write_all(b"{\"op\":\"wake\"}\n").unwrap();
        client.get_ref().shutdown(std::net::Shutdown::Write).unwrap();
        let ticket = control.connections().next().unwrap().0;
        assert_eq!(control.advance(ticket, PollFlags::IN), Some(Request::Wake));
        control.answer(ticket, &Answer::Done);
        assert_eq!(line(&mut client), "{\"ok\":true}\n");
        assert_eq!(control.connections().count(), 0);
    }
}
