//! While the keeper does not listen, nobody who works waits for it, and nothing is forgotten.

mod common;

use agentmem_core::Kind;
use agentmem_core::frame::Meta;
use agentmem_store::{OnFull, Smu};
use common::daemon::{Daemon, content};
use common::{signal, wait_until};
use rustix::process::Signal;

/// More than a queue of datagrams holds.
const LARGE: u64 = 60;
/// So much history that the journal is to be written anew.
const SMALL: u64 = 40_000;

/// A process that stands still until this goes.
struct Still(i32);

impl Still {
    fn of(pid: i32) -> Self {
        signal(pid, Signal::STOP);
        let still = Still(pid);
        wait_until("it stands still", || still.is_so());
        still
    }

    fn is_so(&self) -> bool {
        std::fs::read_to_string(format!("/proc/{}/stat", self.0)).is_ok_and(|stat| stat.contains(") T "))
    }
}

impl Drop for Still {
    fn drop(&mut self) {
        signal(self.0, Signal::CONT);
    }
}

fn descriptors(pid: i32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

#[test]
fn a_keeper_that_does_not_listen_holds_nobody_up() {
    let daemon = Daemon::start(&[]);
    let [keeper, _] = daemon.holders()[..] else { panic!("no engine: {}", daemon.log()) };
    let (ours, theirs) = (daemon.connect(), daemon.connect());
    let gone = daemon.connect();
    gone.agent("gone", None, None, None).unwrap();
    let (agent, neighbour) = (ours.agent("a", None, None, None).unwrap(), theirs.agent("b", None, None, None).unwrap());
    let talk = neighbour.conversation(Some("talk")).unwrap();
    let before = descriptors(keeper);
    let put = |seed, len| {
        let bytes = content(seed, len);
        (agent.put(&bytes, Kind::ToolResult, None, 50, OnFull::Wait).unwrap(), bytes)
    };
    // Each has a descriptor of its own.
    let large: Vec<(Smu, Vec<u8>)> = (0..LARGE).map(|seed| put(seed * 2, 1_100_000)).collect();
    for (smu, _) in &large {
        smu.id().unwrap();
    }
    let counted = || ours.stats().unwrap().smus;
    wait_until("all are taken in", || counted() == LARGE);
    wait_until("all are kept", || descriptors(keeper) == before + LARGE as usize);
    let held = Still::of(keeper);
    for (smu, _) in &large {
        agent.release(smu, OnFull::Wait).unwrap();
    }
    gone.close().unwrap();
    drop(gone);
    wait_until("nobody has them any more", || counted() == 0);
    // And the work of others goes on, so much of it that the journal is long.
    for number in 0..SMALL {
        let smu = neighbour.put(&number.to_le_bytes(), Kind::ToolResult, None, 50, OnFull::Wait).unwrap();
        neighbour.release(&smu, OnFull::Wait).unwrap();
        if number % 100 == 0 {
            talk.append(&number.to_le_bytes(), Meta::default(), OnFull::Wait).unwrap();
        }
    }
    let (kept, bytes) = put(4711, 3000);
    assert_eq!(talk.len().unwrap(), SMALL / 100);
    assert!(held.is_so(), "it has not listened until now");
    assert!(descriptors(keeper) >= before + LARGE as usize);
    drop(held);
    // All that was said meanwhile is heard, and no more than that is let go of: one session has ended.
    wait_until("it lets go of what nobody needs", || descriptors(keeper) == before - 1);
    daemon.kill();
    assert_eq!(kept.view().unwrap().bytes(), bytes);
    let (again, bytes) = put(4712, 1_100_000);
    assert_eq!(again.view().unwrap().bytes(), bytes);
    for index in 0..SMALL / 100 {
        assert_eq!(talk.read(index, index + 1).unwrap()[0].bytes, (index * 100).to_le_bytes());
    }
}
