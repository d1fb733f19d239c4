//! What an engine says to whoever holds its descriptors: lines of `NAME=value` in one datagram, as systemd
//! has them (sd_notify(3)).

use agentmem_core::{Error, ErrorKind, Result};

/// The longest datagram; what is longer is not read.
pub const BYTES_MAX: usize = 4096;
/// The longest name of a descriptor. All names together travel in one variable of the environment, which the
/// kernel limits: short ones leave room for more.
pub const NAME_BYTES_MAX: usize = 64;

/// One datagram. What it does not say is false or none, and what is not understood is passed over.
#[derive(Debug, Default, PartialEq)]
pub struct Message<'a> {
    /// `READY=1`: start-up is over.
    pub ready: bool,
    /// `STOPPING=1`: what follows is a clean end.
    pub stopping: bool,
    /// `FDSTORE=1`: keep the descriptor that came along.
    pub store: bool,
    /// `FDSTOREREMOVE=1`: let go of a descriptor.
    pub remove: bool,
    /// `BARRIER=1`: close the descriptor that came along once all before it is done.
    pub barrier: bool,
    /// `STATUS=`: a line for people.
    pub status: Option<&'a str>,
    /// `FDNAME=`: which descriptor.
    pub name: Option<&'a str>,
}

impl<'a> Message<'a> {
    /// Reads a datagram; none if it is no text.
    pub fn parse(datagram: &'a [u8]) -> Option<Self> {
        let mut message = Message::default();
        for line in std::str::from_utf8(datagram).ok()?.lines() {
            match line.split_once('=') {
                Some(("READY", "1")) => message.ready = true,
                Some(("STOPPING", "1")) => message.stopping = true,
                Some(("FDSTORE", "1")) => message.store = true,
                Some(("FDSTOREREMOVE", "1")) => message.remove = true,
                Some(("BARRIER", "1")) => message.barrier = true,
                Some(("STATUS", text)) => message.status = Some(text),
                Some(("FDNAME", name)) => message.name = Some(name),
                _ => {}
            }
        }
        Some(message)
    }
}

/// `name`, if a descriptor can be called that: printable ASCII without `:`, as names are listed between colons.
pub fn check_name(name: &str) -> Result<&str> {
    let good = |byte: u8| byte.is_ascii_graphic() && byte != b':';
    if (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(good) {
        return Ok(name);
    }
    let subject = format!("descriptor name {name:?} (1 to {NAME_BYTES_MAX} printable characters, no colon)");
    Err(Error::new(ErrorKind::InvalidArgument, subject))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_taken_by_name_and_strange_ones_passed_over() {
        let message = Message::parse(b"READY=1\nX_MORE=yes\nnonsense\nSTATUS=a=b\nFDSTORE=0\nFDNAME=n").unwrap();
        let expected = Message { ready: true, status: Some("a=b"), name: Some("n"), ..Message::default() };
        assert_eq!(message, expected);
        assert_eq!(Message::parse(b""), Some(Message::default()));
        assert_eq!(Message::parse(b"READY=1\n\xff"), None);
    }

    #[test]
    fn names_fit_between_colons() {
        for name in ["a", "agentmem.sock", "12/ring", &"x".repeat(64)] {
            assert_eq!(check_name(name).unwrap(), name);
        }
        for name in ["", "a:b", "a b", "a\n", "ä", &"x".repeat(65)] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
    }
}
