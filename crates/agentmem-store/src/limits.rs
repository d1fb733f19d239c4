//! What one session and one server may have at most: whoever wants more is told, and nobody else feels it.

use crate::call::{Call, encode};
use crate::calls::store::{LeaveLarge, ListAgents, TakeBack};
use crate::domains::{Domains, Limits};
use crate::options::{OnFull, Options};
use crate::remote::{CALL_BYTES_MAX, HELLO, Hello, JOIN, Join, VERSION, Welcome};
use crate::server::Server;
use crate::socket;
use crate::store::Store;
use crate::sys::SealedFile;
use agentmem_core::ErrorKind;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub struct Served {
    pub server: Arc<Server>,
    pub path: PathBuf,
    _folder: tempfile::TempDir,
}

pub fn serve(limits: Limits) -> Served {
    let options = |_: &str| Ok(Options { pressure: false, ..Options::default() });
    let server = Server::new(Domains::new(128 << 20, limits, Box::new(options)).unwrap(), Box::new(|_, _| {}));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agentmem.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let serving = server.clone();
    std::thread::spawn(move || serving.run(&listener));
    Served { server, path, _folder: folder }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.server.stop().unwrap();
        let _ = UnixStream::connect(&self.path);
    }
}

/// What is answered to `body`: the number of an error or 0, and its text.
fn say(stream: &UnixStream, number: u16, body: &[u8]) -> (u16, String) {
    socket::send(stream, number, body, &[]).unwrap();
    answer(stream)
}

fn answer(stream: &UnixStream) -> (u16, String) {
    let answer = socket::receive(stream, 1 << 20).unwrap().expect("an answer");
    (answer.number, String::from_utf8_lossy(&answer.body).into_owned())
}

fn enter(path: &Path) -> (UnixStream, Welcome) {
    let stream = UnixStream::connect(path).unwrap();
    let hello = Hello { domain: String::new(), token: Vec::new() };
    socket::send(&stream, HELLO, &encode(&(VERSION, hello)).unwrap(), &[]).unwrap();
    let answer = socket::receive(&stream, 1 << 20).unwrap().unwrap();
    (stream, postcard::from_bytes(&answer.body).unwrap())
}

const REFUSED: u16 = ErrorKind::LimitReached as u16;

#[test]
fn a_session_has_no_more_calls_under_way_than_it_may_have() {
    let served = serve(Limits::default());
    let (first, welcome) = enter(&served.path);
    let join = encode(&Join { secret: welcome.secret }).unwrap();
    let mut more = Vec::new();
    let refused = loop {
        let stream = UnixStream::connect(&served.path).unwrap();
        match say(&stream, JOIN, &join) {
            (0, _) => more.push(stream),
            (number, text) => break (number, text),
        }
    };
    assert_eq!(refused, (REFUSED, "256 calls of one session at a time".into()));
    // The first one counts.
    assert_eq!(more.len(), 255);
    assert_eq!(say(&first, ListAgents::NUMBER, &[]).0, 0);
    let other = Store::connect(&served.path, None, OnFull::Wait).unwrap();
    assert!(other.agents().unwrap().is_empty());
}

/// A connection answers one call after the other, and takes in none before the one before is answered.
#[test]
fn calls_of_one_connection_are_answered_in_their_order() {
    let served = serve(Limits::default());
    let (stream, _) = enter(&served.path);
    for _ in 0..500 {
        socket::send(&stream, ListAgents::NUMBER, &[], &[]).unwrap();
    }
    socket::send(&stream, 999, &[], &[]).unwrap();
    for _ in 0..500 {
        assert_eq!(answer(&stream).0, 0);
    }
    assert_eq!(answer(&stream), (ErrorKind::Version as u16, "call 999".into()));
}

#[test]
fn a_session_leaves_no_more_large_contents_than_it_may() {
    let served = serve(Limits::default());
    let (stream, _) = enter(&served.path);
    let file = SealedFile::holding(b"x").unwrap();
    let leave = encode(&LeaveLarge { len_bytes: 1 }).unwrap();
    let leave_all = || {
        let mut left = 0;
        loop {
            socket::send(&stream, LeaveLarge::NUMBER, &leave, &[file.as_fd()]).unwrap();
            match answer(&stream) {
                (0, _) => left += 1,
                refused => return (left, refused),
            }
        }
    };
    let own = served.server.domains().enter("", b"").unwrap();
    let engine = own.store.engine().unwrap();
    let refused = (REFUSED, "256 large contents left and not put".to_owned());
    assert_eq!(leave_all(), (256, refused.clone()));
    // What is taken back makes room for others; what is not there, or of another session, is not.
    let keys: Vec<u64> = engine.inbox.lock().keys().map(|(_, key)| *key).take(10).collect();
    for key in keys.iter().copied().chain([0, u64::MAX, keys[0]]) {
        assert_eq!(say(&stream, TakeBack::NUMBER, &encode(&TakeBack { key }).unwrap()).0, 0);
    }
    assert_eq!(leave_all(), (10, refused));
    drop(stream);
    // They go with the session.
    for _ in 0..1000 {
        if engine.inbox.lock().is_empty() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    panic!("{} are still there", engine.inbox.lock().len());
}

#[test]
fn a_server_has_no_more_connections_than_it_may_have() {
    let served = serve(Limits { connections: 2, ..Limits::default() });
    let held = [enter(&served.path), enter(&served.path)];
    let third = UnixStream::connect(&served.path).unwrap();
    assert_eq!(answer(&third), (REFUSED, "2 connections".into()));
    assert_eq!(say(&held[0].0, ListAgents::NUMBER, &[]).0, 0);
}

#[test]
fn a_call_that_is_too_long_is_not_even_read() {
    let served = serve(Limits::default());
    let (stream, _) = enter(&served.path);
    let header = [&(CALL_BYTES_MAX as u32 + 1).to_le_bytes()[..], &ListAgents::NUMBER.to_le_bytes(), &[0, 0]].concat();
    std::io::Write::write_all(&mut &stream, &header).unwrap();
    assert!(!matches!(socket::receive(&stream, 1 << 20), Ok(Some(_))));
}
