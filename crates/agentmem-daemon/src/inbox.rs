//! Where a parent hears what its child says through `NOTIFY_SOCKET`.

use crate::message;
use crate::paths::{Place, io};
use agentmem_core::Result;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SocketAddrUnix, SocketFlags,
    SocketType, UCred, bind, recvmsg, socket_with, sockopt,
};
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

/// A socket for datagrams, in the folder of the daemon's own.
#[derive(Debug)]
pub struct Inbox {
    socket: OwnedFd,
    reached: PathBuf,
    address: PathBuf,
}

/// One datagram.
#[derive(Debug)]
pub struct Letter {
    /// Who sent it, by the kernel's word.
    pub sender: UCred,
    /// What it says.
    pub text: Vec<u8>,
    /// The descriptor that came along.
    pub descriptor: Option<OwnedFd>,
}

impl Inbox {
    /// Makes one, under the socket's name with `ending` behind.
    pub fn bind(place: &Place, ending: &str) -> Result<Self> {
        let reached = place.reached(Some(ending));
        let fail = |error| io(&place.beside(ending), error);
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None).map_err(fail)?;
        sockopt::set_socket_passcred(&socket, true).map_err(fail)?;
        let _ = std::fs::remove_file(&reached);
        bind(&socket, &SocketAddrUnix::new(&reached).map_err(fail)?).map_err(fail)?;
        Ok(Inbox { socket, reached, address: place.address(ending) })
    }

    /// What a child's `NOTIFY_SOCKET` must say.
    pub fn address(&self) -> &PathBuf {
        &self.address
    }

    /// The next datagram that makes sense: of this user, whole, and with one descriptor at most. None when
    /// there is no more.
    pub fn receive(&self) -> Option<Letter> {
        loop {
            match self.receive_any() {
                Ok(Some(letter)) => return Some(letter),
                Ok(None) | Err(rustix::io::Errno::INTR) => {}
                Err(_) => return None,
            }
        }
    }

    fn receive_any(&self) -> rustix::io::Result<Option<Letter>> {
        let mut text = [0; message::BYTES_MAX];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1), ScmRights(2))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let received = recvmsg(&self.socket, &mut [IoSliceMut::new(&mut text)], &mut control, flags)?;
        let (mut sender, mut descriptors) = (None, Vec::new());
        for part in control.drain() {
            match part {
                RecvAncillaryMessage::ScmCredentials(credentials) => sender = Some(credentials),
                RecvAncillaryMessage::ScmRights(rights) => descriptors.extend(rights),
                _ => {}
            }
        }
        let whole = !received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) && descriptors.len() <= 1;
        let sender = sender.filter(|sender| whole && sender.uid == rustix::process::geteuid());
        let text = text[..received.bytes.min(message::BYTES_MAX)].to_vec();
        Ok(sender.map(|sender| Letter { sender, text, descriptor: descriptors.pop() }))
    }
}

impl AsFd for Inbox {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.reached);
    }
}
