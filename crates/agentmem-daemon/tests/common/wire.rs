//! The socket's protocol by hand, as a client would speak it that was not made here: so that it can lie.

use super::PATIENCE;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use std::io::{IoSlice, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::OnceLock;

pub const HELLO: u16 = 0xFF00;
pub const JOIN: u16 = 0xFF01;
pub const RESUME: u16 = 0xFF02;
pub const OPEN_AGENT: u16 = 1;
pub const READ_STATS: u16 = 4;
pub const DRAIN: u16 = 8;
pub const LEAVE_LARGE: u16 = 10;

/// A number as postcard writes it: seven bits a byte, the lowest first.
pub fn number(mut value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while value > 0x7f {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
    out
}

/// Bytes or text with their length in front.
pub fn text(bytes: &[u8]) -> Vec<u8> {
    [number(bytes.len() as u64), bytes.to_vec()].concat()
}

/// A frame as it should be.
pub fn frame(call: u16, body: &[u8]) -> Vec<u8> {
    header(body.len() as u32, call, 0).into_iter().chain(body.iter().copied()).collect()
}

/// A header that says what one likes.
pub fn header(len: u32, call: u16, descriptors: u16) -> Vec<u8> {
    [&len.to_le_bytes()[..], &call.to_le_bytes(), &descriptors.to_le_bytes()].concat()
}

/// The first thing that a client says.
pub fn hello(version: u64) -> Vec<u8> {
    frame(HELLO, &[number(version), text(b""), text(b"")].concat())
}

/// The version that the daemon has, as it says itself.
pub fn version(socket: &Path) -> u64 {
    static KNOWN: OnceLock<u64> = OnceLock::new();
    *KNOWN.get_or_init(|| {
        let Answer::Frame(_, body, _) = Raw::dial(socket).ask(&hello(u64::from(u32::MAX))) else { panic!("no answer") };
        let body = String::from_utf8(body).expect("text");
        body.trim_end_matches(')').rsplit(' ').next().and_then(|word| word.parse().ok()).expect("a version")
    })
}

/// What came back.
#[derive(Debug)]
pub enum Answer {
    /// A frame: 0 or the number of an error, what it says, and what came along.
    Frame(u16, Vec<u8>, Vec<OwnedFd>),
    /// Nothing any more.
    HungUp,
}

/// A connection.
pub struct Raw(pub UnixStream);

impl Raw {
    pub fn dial(socket: &Path) -> Self {
        let stream = UnixStream::connect(socket).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        Raw(stream)
    }

    /// Says these bytes, whatever they are; whether anybody took them.
    pub fn say(&self, bytes: &[u8], lent: &[BorrowedFd<'_>]) -> bool {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(lent.is_empty() || control.push(SendAncillaryMessage::ScmRights(lent)));
        sendmsg(&self.0, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)
            .is_ok_and(|sent| sent == bytes.len())
    }

    /// What comes back within [`PATIENCE`].
    pub fn hear(&self) -> Answer {
        let mut header = [0; 8];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = recvmsg(&self.0, &mut [IoSliceMut::new(&mut header)], &mut control, RecvFlags::CMSG_CLOEXEC);
        match received {
            Ok(received) if received.bytes == header.len() => {}
            Ok(received) if received.bytes == 0 => return Answer::HungUp,
            Err(rustix::io::Errno::CONNRESET) => return Answer::HungUp,
            other => panic!("neither an answer nor a hang-up: {other:?}"),
        }
        let lent = control.drain().flat_map(|message| match message {
            RecvAncillaryMessage::ScmRights(rights) => rights.collect(),
            _ => Vec::new(),
        });
        let lent = lent.collect();
        let mut body = vec![0; u32::from_le_bytes([header[0], header[1], header[2], header[3]]) as usize];
        (&self.0).read_exact(&mut body).expect("a whole frame");
        Answer::Frame(u16::from_le_bytes([header[4], header[5]]), body, lent)
    }

    pub fn ask(&self, bytes: &[u8]) -> Answer {
        self.say(bytes, &[]);
        self.hear()
    }
}

/// A session, and the memory that it shares.
pub struct Session {
    pub raw: Raw,
    /// What it alone writes to.
    pub arena: OwnedFd,
    /// What it wakes the engine by.
    pub bell: OwnedFd,
    /// What it may only read.
    pub tables: Vec<OwnedFd>,
}

/// Cells of a session's ring, and where they lie in its arena; and its claims.
pub const CELLS: u64 = 1024;
pub const CELLS_AT: u64 = 4096;
pub const CELL_BYTES: u64 = 64;
pub const CLAIMS_AT: u64 = CELLS_AT + CELLS * CELL_BYTES;

impl Session {
    pub fn enter(socket: &Path) -> Self {
        let raw = Raw::dial(socket);
        let Answer::Frame(0, _, lent) = raw.ask(&hello(version(socket))) else { panic!("no welcome") };
        let mut lent = lent.into_iter();
        let (arena, bell) = (lent.next().expect("an arena"), lent.next().expect("a bell"));
        Session { raw, arena, bell, tables: lent.collect() }
    }

    /// Registers an agent; its number.
    pub fn agent(&self, name: &str) -> u32 {
        let body = [text(name.as_bytes()), vec![0, 0, 0, 0]].concat();
        let Answer::Frame(0, body, _) = self.raw.ask(&frame(OPEN_AGENT, &body)) else { panic!("no agent") };
        let bytes = body.iter().take_while(|&&byte| byte & 0x80 != 0).count() + 1;
        body[..bytes].iter().rev().fold(0, |value, &byte| value << 7 | u32::from(byte & 0x7f))
    }

    /// Writes words into the arena.
    pub fn write(&self, at: u64, words: &[u64]) {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        assert_eq!(rustix::io::pwrite(&self.arena, &bytes, at), Ok(bytes.len()));
    }
}
