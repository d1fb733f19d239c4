use super::*;
use crate::group::Group;
use std::io::{BufRead, BufReader, Write};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;

/// Waits with equal arguments for more and more pipes: one for each line that it reads. A helper sleeps.
const GROWS: &str = "
import ctypes, os, select, threading, time
threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
libc, events, epoll = ctypes.CDLL(None), ctypes.create_string_buffer(1200), select.epoll()
epoll.register(0, select.EPOLLIN)
while True:
    print('waits', flush=True)
    while libc.epoll_wait(epoll.fileno(), events, 100, -1) < 0: pass
    os.read(0, 100)
    epoll.register(os.pipe()[0], select.EPOLLIN)
";

struct Program {
    group: Group,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    tree: Tree,
}

impl Program {
    fn start(script: &str) -> Self {
        let mut command = Command::new("python3");
        let mut group = Group::start(command.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped()));
        let input = group.0.stdin.take().unwrap();
        let output = BufReader::new(group.0.stdout.take().unwrap());
        let tree = Tree { root: group.pid(), cgroup: None, reaper: None, whole: true };
        Program { group, input, output, tree }
    }

    fn hear(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line
    }

    fn understood(&self) -> Understood {
        let give_up = Instant::now() + Duration::from_secs(30);
        loop {
            match look(&self.tree) {
                Ok(understood) if understood.seats.get(&self.group.pid()).is_some_and(is_epoll) => {
                    return understood;
                }
                Ok(_) => assert!(Instant::now() < give_up, "it waits for something else"),
                Err(Look::Again(why) | Look::Never(why)) => assert!(Instant::now() < give_up, "{why}"),
            }
            std::thread::sleep(BETWEEN_LOOKS);
        }
    }

    /// The same, once nobody runs: a thread may just be on its way to where it was seen.
    fn at_rest(&self) -> Understood {
        let rests = |understood: &Understood| understood.seats.values().map(|seat| seat.rests).sum::<u64>();
        loop {
            let (before, now) = (self.understood(), self.understood());
            if rests(&before) == rests(&now) {
                return now;
            }
        }
    }

    fn stop(&self) -> Stopped {
        let mut stopped = Stopped::begin(self.group.pid()).unwrap();
        stopped.settle(Instant::now() + Duration::from_secs(5)).unwrap();
        stopped
    }
}

fn is_epoll(seat: &Seat) -> bool {
    [libc::SYS_epoll_wait, libc::SYS_epoll_pwait].contains(&(seat.call.0 as i64))
}

#[test]
fn who_came_back_to_the_same_call_may_wait_for_more() {
    let mut grows = Program::start(GROWS);
    grows.hear();
    for _ in 0..5 {
        let before = grows.understood();
        grows.input.write_all(b"x").unwrap();
        assert_eq!(grows.hear(), "waits\n");
        let again = grows.understood();
        let root = grows.group.pid();
        assert_eq!(before.seats[&root].call, again.seats[&root].call);
        let stopped = [grows.stop()];
        assert!(unchanged(&grows.tree, &before, &stopped).unwrap_err().contains("just ran"));
        assert_eq!(unchanged(&grows.tree, &again, &stopped), Ok(()));
    }
}

#[test]
fn being_stopped_is_no_move() {
    let mut sits = Program::start(GROWS);
    sits.hear();
    for _ in 0..50 {
        let understood = sits.at_rest();
        let stopped = [sits.stop()];
        assert_eq!(moved(&understood, &stopped), Ok(vec![]));
    }
    let signal = |signal| crate::sys::signal(sits.group.pid(), signal).unwrap();
    for _ in 0..20 {
        sits.at_rest();
        signal(libc::SIGSTOP);
        while proc::stat(sits.group.pid()).unwrap().state != b'T' {
            std::thread::yield_now();
        }
        let understood = look(&sits.tree).unwrap_or_else(|_| panic!("it is stopped"));
        let stopped = [sits.stop()];
        assert!(stopped[0].was_stopped());
        assert_eq!(moved(&understood, &stopped), Ok(vec![]));
        drop(stopped);
        signal(libc::SIGCONT);
    }
}
