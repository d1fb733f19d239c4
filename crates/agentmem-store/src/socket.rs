//! The socket between a session and the daemon: frames with a few descriptors.
//!
//! ```text
//!  0  4  len          bytes that follow the header
//!  4  2  number       of the call; of an answer: 0, or the number of the error
//!  6  2  descriptors  that came with the header
//! ```

use agentmem_core::{Error, ErrorKind};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};
use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

/// Descriptors that one frame may carry.
pub const DESCRIPTORS_MAX: usize = 8;
const HEADER_BYTES: usize = 8;

/// One call or answer.
#[derive(Debug)]
pub struct Message {
    /// See the module.
    pub number: u16,
    /// What it says.
    pub body: Vec<u8>,
    /// What came with it.
    pub descriptors: Vec<OwnedFd>,
}

/// The other side is not there any more.
pub fn gone(error: std::io::Error) -> Error {
    Error::new(ErrorKind::Unreachable, format!("the daemon ({error})"))
}

/// Whether the other side, which says nothing unasked, has not hung up.
pub fn is_open(stream: &UnixStream) -> bool {
    let mut event = [PollFd::new(stream, PollFlags::IN | PollFlags::RDHUP)];
    matches!(poll(&mut event, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(0))
}

/// Sends one frame.
pub fn send(stream: &UnixStream, number: u16, body: &[u8], descriptors: &[BorrowedFd<'_>]) -> std::io::Result<()> {
    let mut header = [0u8; HEADER_BYTES];
    header[..4].copy_from_slice(&(body.len() as u32).to_le_bytes());
    header[4..6].copy_from_slice(&number.to_le_bytes());
    header[6..].copy_from_slice(&(descriptors.len() as u16).to_le_bytes());
    let sent = send_some(stream, &[IoSlice::new(&header), IoSlice::new(body)], descriptors)?;
    // Descriptors went with the first byte; what did not fit follows.
    let mut stream = stream;
    if sent < HEADER_BYTES {
        stream.write_all(&header[sent..])?;
    }
    stream.write_all(&body[sent.saturating_sub(HEADER_BYTES)..])
}

/// Sends descriptors and what of `parts` fits; returns how many bytes that was.
pub fn send_some(stream: &UnixStream, parts: &[IoSlice<'_>], descriptors: &[BorrowedFd<'_>]) -> std::io::Result<usize> {
    assert!(descriptors.len() <= DESCRIPTORS_MAX);
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        ancillary.push(SendAncillaryMessage::ScmRights(descriptors));
    }
    loop {
        match rustix::net::sendmsg(stream, parts, &mut ancillary, SendFlags::NOSIGNAL) {
            Err(rustix::io::Errno::INTR) => {}
            other => return Ok(other?),
        }
    }
}

/// Whether what arrives first is `start`. Nothing is taken. A frame cannot begin with what reads as a length that no
/// frame has; who sends such a start in pieces is not understood.
pub fn begins_with(stream: &UnixStream, start: &[u8; 4]) -> bool {
    let mut seen = [0; 4];
    loop {
        match rustix::net::recv(stream, &mut seen, RecvFlags::PEEK) {
            Err(rustix::io::Errno::INTR) => {}
            Ok((count, _)) => return seen[..count] == start[..],
            Err(_) => return false,
        }
    }
}

/// Receives one frame of at most `len_max` bytes; `None` where the other side has hung up.
pub fn receive(stream: &UnixStream, len_max: usize) -> std::io::Result<Option<Message>> {
    let mut header = [0u8; HEADER_BYTES];
    let mut descriptors = Vec::new();
    let mut filled = 0;
    while filled < HEADER_BYTES {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [IoSliceMut::new(&mut header[filled..])];
        let received = match rustix::net::recvmsg(stream, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => continue,
            other => other?,
        };
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                descriptors.extend(rights);
            }
        }
        if received.bytes == 0 {
            return if filled == 0 { Ok(None) } else { Err(std::io::ErrorKind::UnexpectedEof.into()) };
        }
        filled += received.bytes;
    }
    let invalid = |what: &str| std::io::Error::new(std::io::ErrorKind::InvalidData, what);
    let len = u32::from_le_bytes(header[..4].try_into().expect("four bytes")) as usize;
    if len > len_max {
        return Err(invalid("a message that is too long"));
    }
    if descriptors.len() != usize::from(u16::from_le_bytes([header[6], header[7]])) {
        return Err(invalid("descriptors were lost"));
    }
    if descriptors.len() > DESCRIPTORS_MAX {
        return Err(invalid("too many descriptors"));
    }
    // What is claimed is believed only as far as it arrives.
    let mut body = Vec::new();
    stream.take(len as u64).read_to_end(&mut body)?;
    if body.len() != len {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    Ok(Some(Message { number: u16::from_le_bytes([header[4], header[5]]), body, descriptors }))
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::os::fd::AsFd;

    proptest! {
        #[test]
        fn what_is_sent_arrives(number: u16, body in prop::collection::vec(any::<u8>(), 0..300_000), count in 0..4usize) {
            let (here, there) = UnixStream::pair().unwrap();
            let file = std::fs::File::open("/dev/null").unwrap();
            let sender = std::thread::spawn({
                let body = body.clone();
                move || send(&here, number, &body, &vec![file.as_fd(); count])
            });
            let message = receive(&there, 1 << 20).unwrap().unwrap();
            sender.join().unwrap().unwrap();
            prop_assert_eq!((message.number, message.descriptors.len()), (number, count));
            prop_assert_eq!(message.body, body);
            prop_assert!(receive(&there, 1).unwrap().is_none());
        }

        #[test]
        fn any_bytes_are_a_message_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let (mut here, there) = UnixStream::pair().unwrap();
            here.write_all(&bytes).unwrap();
            drop(here);
            let _ = receive(&there, 1 << 10);
        }
    }
}
