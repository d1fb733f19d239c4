use super::*;
use crate::group::Group;
use crate::watch::Watch;
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

struct Spawned(Group);

impl Spawned {
    fn new(command: &[&str]) -> Self {
        let mut start = Command::new(command[0]);
        Self(Group::start(start.args(&command[1..]).stdin(Stdio::piped()).stdout(Stdio::null())))
    }

    fn python(script: &str) -> Self {
        Self::new(&["python3", "-c", script])
    }

    fn pid(&self) -> i32 {
        self.0.pid()
    }

    fn threads(&self) -> Vec<Thread> {
        look(&[Member::of(self.pid()).unwrap()])
    }

    /// The threads, once `settled` says that they wait where they are expected to.
    fn wait_for(&self, settled: impl Fn(&[Thread]) -> bool) -> Vec<Thread> {
        let give_up = Instant::now() + Duration::from_secs(30);
        loop {
            let threads = self.threads();
            if settled(&threads) {
                return threads;
            }
            assert!(Instant::now() < give_up, "{threads:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn wait_for_main(&self, wait: &Wait) {
        self.wait_for(|threads| threads[0].wait == *wait);
    }

    /// What it waits for, once it waits for the expected descriptors.
    fn sources(&self, expected: &[(i32, &str, u16)]) -> Vec<Source> {
        self.understood(|sources| named(sources) == expected)
    }

    fn understood(&self, expected: impl Fn(&[Source]) -> bool) -> Vec<Source> {
        let settled =
            |threads: &[Thread]| matches!(verdict(threads), Verdict::Understood(sources) if expected(&sources));
        match verdict(&self.wait_for(settled)) {
            Verdict::Understood(sources) => sources,
            other => panic!("{other:?}"),
        }
    }

    fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(rustix::process::Pid::from_raw(self.pid()).unwrap(), signal).unwrap();
    }

    fn stop_and_continue(&self) {
        self.signal(rustix::process::Signal::STOP);
        self.wait_for_main(&Wait::Inner("a signal to continue"));
        self.signal(rustix::process::Signal::CONT);
    }
}

fn named(sources: &[Source]) -> Vec<(i32, &str, u16)> {
    sources.iter().map(|source| (source.fd, source.kind.name(), source.events)).collect()
}

fn is_understood(threads: &[Thread]) -> bool {
    matches!(verdict(threads), Verdict::Understood(_))
}

#[test]
fn a_read_on_a_pipe_wakes_when_data_comes() {
    let mut cat = Spawned::new(&["cat"]);
    let sources = cat.sources(&[(0, "pipe", 1)]);
    let watch = Watch::open(&sources).unwrap();
    assert_eq!(watch.ready(), None);
    cat.signal(rustix::process::Signal::STOP);
    cat.0.0.stdin.as_mut().unwrap().write_all(b"x").unwrap();
    assert_eq!(watch.ready().unwrap().to_string(), format!("pipe fd 0 of pid {}", cat.pid()));
}

#[test]
fn a_sleeping_tool_is_no_idle_one() {
    let sleep = Spawned::new(&["sleep", "100"]);
    sleep.wait_for_main(&Wait::Sleeping);
    sleep.stop_and_continue();
    sleep.wait_for_main(&Wait::Sleeping);
    assert!(matches!(verdict(&sleep.threads()), Verdict::Busy(_)));
}

#[test]
fn a_shell_waits_for_its_child() {
    let shell = Spawned::new(&["sh", "-c", "sleep 100; true"]);
    shell.wait_for_main(&Wait::Inner("a child"));
}

#[test]
fn one_that_computes_is_busy() {
    let shell = Spawned::new(&["sh", "-c", "while :; do :; done"]);
    shell.wait_for_main(&Wait::Busy);
}

#[test]
fn a_sleeping_helper_is_a_timer() {
    let python = Spawned::python(
        "import threading, time, sys; threading.Thread(target=time.sleep, args=(100,)).start(); sys.stdin.read()",
    );
    let timer = Wait::Inner("its own timer");
    python.wait_for(|threads| threads.len() == 2 && threads[1].wait == timer && is_understood(threads));
}

#[test]
fn poll_and_select_name_their_descriptors_even_after_a_stop() {
    let script = "import select, os; r, w = os.pipe(); p = select.poll()\n\
                  p.register(0, select.POLLIN); p.register(r, select.POLLIN); p.poll(100000)";
    let polls = Spawned::python(script);
    polls.sources(&[(0, "pipe", 1), (3, "pipe", 1)]);
    polls.stop_and_continue();
    polls.sources(&[(0, "pipe", 1), (3, "pipe", 1)]);

    let script = "import select, os, fcntl; r, w = os.pipe(); fcntl.fcntl(w, 1031, 4096); os.write(w, bytes(4096))\n\
                  os.dup2(0, 200); select.select([0, 200], [w], [])";
    let selects = Spawned::python(script);
    selects.sources(&[(0, "pipe", 1), (4, "pipe", 4), (200, "pipe", 1)]);
}

const EPOLL: &str = "
import select, os, socket, signal, ctypes, threading, time
inner = select.epoll(); outer = select.epoll()
a, b = socket.socketpair()
inner.register(a, select.EPOLLIN | select.EPOLLOUT | select.EPOLLET)
libc = ctypes.CDLL(None)
timer = libc.timerfd_create(1, 0)
outer.register(timer, select.EPOLLIN)
mask = ctypes.create_string_buffer(128); libc.sigemptyset(mask); libc.sigaddset(mask, 10)
libc.sigprocmask(0, mask, None)
outer.register(libc.signalfd(-1, mask, 0), select.EPOLLIN)
outer.register(os.eventfd(0), select.EPOLLIN)
outer.register(libc.inotify_init(), select.EPOLLIN)
outer.register(os.pidfd_open(os.getppid()), select.EPOLLIN)
r, w = os.pipe(); os.write(w, b'x')
outer.register(r, select.EPOLLIN | select.EPOLLONESHOT); outer.poll()
inner.poll()
outer.register(inner, select.EPOLLIN)
outer.register(0, select.EPOLLIN)
outer.poll()
";

#[test]
fn epoll_sets_are_opened_and_timers_left_out() {
    let mut python = Spawned::python(EPOLL);
    let expected = ["eventfd", "pipe", "process", "socket", "watch on files"];
    let kinds =
        |sources: &[Source]| sources.iter().map(|source| source.kind.name().to_owned()).collect::<BTreeSet<_>>();
    let sources =
        python.understood(|sources| sources.len() == 5 && kinds(sources) == expected.map(String::from).into());
    let socket = sources.iter().find(|source| source.kind.name() == "socket").unwrap();
    assert!(socket.edge && socket.flags().contains(PollFlags::OUT));
    let watch = Watch::open(&sources).unwrap();
    assert_eq!(watch.ready(), None, "the socket is writable, but that is nothing new");
    python.0.0.stdin.as_mut().unwrap().write_all(b"x").unwrap();
    assert!(watch.ready().is_some());
}

#[test]
fn what_an_epoll_set_holds_under_a_reused_number_is_not_understood() {
    let script = "import select, os\n\
                  e = select.epoll(); r, w = os.pipe(); e.register(r, select.EPOLLIN); d = os.dup(r); os.close(r)\n\
                  os.dup2(0, r); e.poll()";
    let python = Spawned::python(script);
    python.wait_for(|threads| matches!(verdict(threads), Verdict::Unknown(why) if why.contains("elsewhere")));
}

#[test]
fn futexes_in_shared_memory_are_not_understood() {
    let script = "import multiprocessing, threading\n\
                  lock = multiprocessing.Semaphore(0); lock.acquire()";
    let python = Spawned::python(script);
    python.wait_for(|threads| matches!(&threads[0].wait, Wait::Unknown(why) if why == "a futex in shared memory"));
    let private = Spawned::python("import threading; threading.Event().wait()");
    private.wait_for_main(&Wait::Inner("a futex"));
}

#[test]
fn a_lock_on_a_file_is_not_understood() {
    let file = tempfile::NamedTempFile::new().unwrap();
    rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let path = file.path().to_str().unwrap();
    let python = Spawned::python(&format!("import fcntl; fcntl.flock(open({path:?}), fcntl.LOCK_EX)"));
    python.wait_for_main(&Wait::Unknown("flock".into()));
}

#[test]
fn servers_wait_for_connections_and_datagrams() {
    let script = "import socket; s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen(); s.accept()";
    Spawned::python(script).sources(&[(3, "socket", 1)]);
    let script = "import socket; s = socket.socket(type=socket.SOCK_DGRAM); s.bind(('127.0.0.1', 0)); s.recv(1)";
    Spawned::python(script).sources(&[(3, "socket", 1)]);
}

#[test]
fn a_blocked_write_waits_for_room() {
    let script = "import socket; a, b = socket.socketpair(); a.sendall(bytes(1 << 24))";
    Spawned::python(script).sources(&[(3, "socket", 4)]);
}

#[test]
fn a_thread_with_descriptors_of_its_own_is_not_understood() {
    let script = "import threading, ctypes, os, time\n\
                  def work():\n  ctypes.CDLL(None).unshare(0x400); os.read(0, 1)\n\
                  threading.Thread(target=work).start()";
    let python = Spawned::python(script);
    python.wait_for(|threads| matches!(verdict(threads), Verdict::Unknown(why) if why.contains("of its own")));
}

#[test]
fn verdicts_put_the_unknown_first_and_drop_duplicates() {
    let member = Member { pid: 7, start_ticks: 1 };
    let thread = |wait| Thread { member, tid: 8, comm: "x".into(), wait };
    let source = Source { member, fd: 0, edge: false, kind: FdKind::Pipe, events: 1 };
    let waits = Wait::Sources(vec![source.clone(), source.clone()]);
    let unknown = Wait::Unknown("flock".into());
    assert_eq!(verdict(&[]), Verdict::Understood(vec![]));
    assert_eq!(verdict(&[thread(waits.clone()), thread(waits.clone())]), Verdict::Understood(vec![source]));
    assert_eq!(verdict(&[thread(waits.clone()), thread(Wait::Busy)]), Verdict::Busy("pid 7 (x, thread 8) runs".into()));
    let text = "pid 7 (x, thread 8) waits for: flock".to_owned();
    assert_eq!(verdict(&[thread(Wait::Sleeping), thread(unknown), thread(waits)]), Verdict::Unknown(text));
}
