//! One look at what a tree does: CPU time, threads that run, traffic of its TCP connections.
//!
//! Taken about once a second while a tree runs, and never while it is frozen, so it has to cost
//! next to nothing: some microseconds a thread and a descriptor.

use crate::calls::Call;
use crate::peek::{self, TcpInfo};
use crate::proc::{self, FdKind, Seen, Stat, Unseen};
use crate::tree::Member;
use crate::waits;
use rustix::process::{PidfdGetfdFlags, pidfd_getfd};
use std::collections::HashSet;
use std::os::fd::OwnedFd;

/// TCP sockets of one tree that are looked at; those beyond are not.
pub const SOCKETS_MAX: usize = 4096;

/// One process at the time of a sample.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Which.
    pub member: Member,
    /// Its name.
    pub comm: String,
    /// CPU time of all its threads and of its children that ended, in nanoseconds.
    pub cpu_ns: u64,
    /// Whether its main thread does nothing but let time pass: a tool that runs, as `sleep 60`.
    pub sleeps: bool,
}

/// One TCP socket at the time of a sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Socket {
    /// What identifies it.
    pub inode: u64,
    /// Process and descriptor, for people.
    pub pid: i32,
    /// See `pid`.
    pub fd: i32,
    /// Its port on this side; 0 if it has none.
    pub port: u16,
    /// Counters of the kernel.
    pub tcp: TcpInfo,
}

/// What a tree does at one time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sample {
    /// Its processes.
    pub processes: Vec<Process>,
    /// Threads (process, thread) that run, or wait uninterruptibly, as for a disk.
    pub running: Vec<(i32, i32)>,
    /// Its TCP sockets, each once.
    pub sockets: Vec<Socket>,
    /// What refused to be looked at, or is where nobody looks, a line each.
    pub unseen: Vec<String>,
}

/// Looks at `members`. One that ended is left out.
pub fn sample(members: &[Member]) -> Sample {
    let mut sample = Sample::default();
    let mut inodes = HashSet::new();
    for &member in members {
        match sample.add(member, &mut inodes) {
            Ok(()) | Err(Unseen::Gone) => {}
            Err(Unseen::Refused(why)) => sample.unseen.push(why),
        }
    }
    sample
}

impl Sample {
    fn add(&mut self, member: Member, inodes: &mut HashSet<u64>) -> Seen<()> {
        let stat = member.stat()?;
        let process = process(member, &stat)?;
        for tid in proc::threads(member.pid)? {
            match proc::thread_stat(member.pid, tid) {
                Ok(thread) if matches!(thread.state, b'R' | b'D') => self.running.push((member.pid, tid)),
                Ok(_) | Err(Unseen::Gone) => {}
                Err(refused) => return Err(refused),
            }
        }
        self.processes.push(process);
        self.add_sockets(member, inodes)
    }

    fn add_sockets(&mut self, member: Member, inodes: &mut HashSet<u64>) -> Seen<()> {
        let mut pidfd = None;
        for fd in proc::fds(member.pid)? {
            let Ok(FdKind::Socket(inode)) = proc::fd_link_kind(member.pid, fd) else { continue };
            if self.sockets.len() == SOCKETS_MAX || !inodes.insert(inode) {
                continue;
            }
            if pidfd.is_none() {
                pidfd = Some(member.pidfd()?);
            }
            if let Some((tcp, port)) = pidfd.as_ref().and_then(|pidfd| connection(pidfd, fd)) {
                self.sockets.push(Socket { inode, pid: member.pid, fd, port, tcp });
            }
        }
        Ok(())
    }
}

fn process(member: Member, stat: &Stat) -> Seen<Process> {
    let own = peek::cpu_ns(member.pid).map_err(|_| Unseen::Gone)?;
    // Work of children too short-lived to be seen is added when their parent waits for them.
    let children = stat.children_cpu_ticks.saturating_mul(1_000_000_000 / peek::ticks_per_second());
    let sleeps = stat.state == b'S' && waits::call_of(member.pid, member.pid, stat.state)? == Call::Sleep;
    Ok(Process { member, comm: stat.comm.clone(), cpu_ns: own.saturating_add(children), sleeps })
}

/// The connection behind descriptor `fd` of a process, held for a moment only.
fn connection(pidfd: &OwnedFd, fd: i32) -> Option<(TcpInfo, u16)> {
    let socket = pidfd_getfd(pidfd, fd, PidfdGetfdFlags::empty()).ok()?;
    let tcp = peek::tcp_info(&socket)?;
    let name = rustix::net::getsockname(&socket).ok()?;
    let port = std::net::SocketAddr::try_from(name).map_or(0, |address| address.port());
    Some((tcp, port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsRawFd;

    fn me() -> Member {
        Member::of(std::process::id() as i32).unwrap()
    }

    #[test]
    fn sees_traffic_of_tcp_sockets_only_and_once() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        let copy = client.try_clone().unwrap();
        client.write_all(b"question").unwrap();
        server.read_exact(&mut [0; 8]).unwrap();
        let sample = sample(&[me(), me()]);
        let of = |fd: &dyn AsRawFd| sample.sockets.iter().filter(|socket| socket.fd == fd.as_raw_fd()).count();
        assert_eq!((of(&listener), of(&server)), (1, 1));
        assert_eq!(of(&client) + of(&copy), 1, "one connection");
        let port = client.local_addr().unwrap().port();
        let ours = sample.sockets.iter().find(|socket| socket.port == port).unwrap();
        assert_eq!((ours.tcp.sent_bytes, ours.tcp.received_bytes), (8, 0));
    }

    #[test]
    fn sees_who_runs_and_leaves_out_who_ended() {
        let gone = Member { pid: me().pid, start_ticks: 1 };
        let sample = sample(&[me(), gone]);
        assert_eq!(sample.processes.len(), 1);
        assert!(sample.processes[0].cpu_ns > 0 && !sample.processes[0].sleeps);
        assert!(sample.running.iter().any(|&(pid, _)| pid == me().pid), "this thread runs");
        assert_eq!(sample.unseen, Vec::<String>::new());
    }
}
