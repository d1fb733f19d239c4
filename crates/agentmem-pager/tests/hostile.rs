//! Trees that change while they are looked at: nothing may panic, hang, or pass for another.

mod group;

use agentmem_pager::idle::Idleness;
use agentmem_pager::sample::sample;
use agentmem_pager::tree::{Tree, sharing_outside};
use agentmem_pager::waits::{Verdict, look, verdict};
use agentmem_pager::watch::Watch;
use group::Group;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

/// Names itself like fields of stat; threads, processes, descriptors and epoll sets come and go.
const CHURN: &str = "
import ctypes, os, select, threading, time
libc = ctypes.CDLL(None); libc.prctl(15, b'a) R (b', 0, 0, 0)
def descriptors():
    while True:
        e = select.epoll(); r, w = os.pipe(); e.register(r, select.EPOLLIN); e.poll(0.001); os.close(r)
        d = os.dup(w); os.close(w); e.register(d, select.EPOLLOUT | select.EPOLLET); e.close(); os.close(d)
def threads():
    while True:
        t = threading.Thread(target=time.sleep, args=(0.0005,)); t.start(); t.join()
def processes():
    while True:
        if os.fork() == 0:
            os._exit(0)
        os.wait()
for work in (descriptors, threads, processes):
    threading.Thread(target=work, daemon=True).start()
print('ready', flush=True)
time.sleep(1000)
";

fn look_at(tree: &Tree, idleness: &mut Idleness, now_ms: u64) {
    let members = tree.members().unwrap();
    idleness.observe(now_ms, &sample(&members));
    match verdict(&look(&members)) {
        Verdict::Understood(sources) => {
            if let Ok(watch) = Watch::open(&sources) {
                watch.ready();
            }
        }
        Verdict::Busy(text) | Verdict::Unknown(text) => assert!(!text.is_empty()),
    }
    let _ = sharing_outside(&members);
}

#[test]
fn one_that_changes_all_the_time() {
    let mut child = Group::start(Command::new("python3").args(["-c", CHURN]).stdout(Stdio::piped()));
    let mut line = String::new();
    BufReader::new(child.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let tree = Tree { root: child.pid(), cgroup: None, reaper: None, whole: true };
    let mut idleness = Idleness::new(0);
    let mut named = false;
    for round in 0..300 {
        look_at(&tree, &mut idleness, round * 100);
        assert!(idleness.quiet_since().is_none(), "its main thread sleeps, so it is a tool");
        named |= look(&tree.members().unwrap()).iter().any(|thread| thread.comm == "a) R (b");
    }
    assert!(named);
    drop(child);
    assert_eq!(tree.members(), Ok(vec![]));
}

#[test]
fn ones_that_end_while_they_are_looked_at() {
    for round in 0..100 {
        let script = if round % 2 == 0 { "true & true & exec true" } else { "kill -9 $$" };
        let mut child = Command::new("sh").args(["-c", script]).spawn().unwrap();
        let tree = Tree { root: child.id() as i32, cgroup: None, reaper: None, whole: true };
        let mut idleness = Idleness::new(0);
        while !tree.members().unwrap().is_empty() {
            look_at(&tree, &mut idleness, round);
        }
        child.wait().unwrap();
        look_at(&tree, &mut idleness, round);
    }
}
