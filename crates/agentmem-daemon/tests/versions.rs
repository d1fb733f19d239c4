//! Client and daemon of different versions say so, and nothing worse happens.

mod common;

use agentmem_core::{Error, ErrorKind};
use agentmem_store::{OnFull, Store};
use common::daemon::Daemon;
use common::wire::{Answer, HELLO, Raw, Session, frame, header, hello, number, text, version};
use std::io::{Read, Write};
use std::os::unix::net::UnixListener;

#[test]
fn a_client_of_another_version_is_told_both_versions() {
    let daemon = Daemon::start(&[]);
    // What else a hello of that version says is not looked at.
    let foreign = |version: u64| frame(HELLO, &[number(version), b"whatever that one has here".to_vec()].concat());
    let own = version(&daemon.0.socket);
    for other in [0, 1, own - 1, own + 1, u64::from(u32::MAX)] {
        for said in [hello(other), foreign(other)] {
            let Answer::Frame(error, body, lent) = Raw::dial(&daemon.0.socket).ask(&said) else { panic!("no answer") };
            assert_eq!(error, ErrorKind::Version as u16);
            let body = String::from_utf8(body).unwrap();
            assert_eq!(body, format!("protocol {other} (the daemon has {own})"));
            assert!(lent.is_empty());
        }
    }
    // And this is what it has.
    Session::enter(&daemon.0.socket);
}

/// What connecting to a daemon gives that answers `answer` to a hello, and then hangs up.
fn met_with(answer: Vec<u8>) -> Error {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("a.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let daemon = std::thread::spawn(move || {
        let (mut peer, _) = listener.accept().unwrap();
        let mut begin = [0; 8];
        peer.read_exact(&mut begin).unwrap();
        assert_eq!(begin[4..6], HELLO.to_le_bytes());
        peer.write_all(&answer).unwrap();
        // Not before all was read: what it says would be lost.
        peer.shutdown(std::net::Shutdown::Write).unwrap();
        let _ = peer.read_to_end(&mut Vec::new());
    });
    let error = Store::connect(&socket, None, OnFull::Wait).err().expect("it is no daemon of this version");
    daemon.join().unwrap();
    error
}

#[test]
fn a_daemon_of_another_version_is_recognised() {
    for said in ["protocol 2 (the daemon has 1)", "protocol 2 (the daemon has 9)"] {
        let error = met_with(frame(ErrorKind::Version as u16, said.as_bytes()));
        assert_eq!((error.kind(), error.subject()), (ErrorKind::Version, said));
        assert!(error.to_string().contains("update"), "the way out: {error}");
    }
    // An error that this version does not know still says what it says.
    let error = met_with(frame(0x7FFF, b"the moon is in the way"));
    assert_eq!((error.kind(), error.subject()), (ErrorKind::Version, "the moon is in the way"));
}

#[test]
fn what_is_no_welcome_is_an_error() {
    for (answer, kind) in [
        (frame(0, b""), ErrorKind::Version),
        (frame(0, &[0xff; 60]), ErrorKind::Version),
        // All of a welcome but what has to come along.
        (
            frame(
                0,
                &[number(1), vec![7; 16], number(1024), number(1 << 20), number(1 << 20), number(1 << 30), number(0)]
                    .concat(),
            ),
            ErrorKind::Version,
        ),
        (header(u32::MAX, 0, 0), ErrorKind::Unreachable),
        (header(0, 0, 5), ErrorKind::Unreachable),
        (text(b"HTTP/1.1 400 Bad Request\r\n\r\n"), ErrorKind::Unreachable),
        (vec![1, 0], ErrorKind::Unreachable),
        (Vec::new(), ErrorKind::Unreachable),
    ] {
        let error = met_with(answer.clone());
        assert_eq!(error.kind(), kind, "{answer:?}: {error}");
        assert!(error.to_string().contains("daemon"), "{error}");
    }
}
