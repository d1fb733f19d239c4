//! Real processes, looked at from outside: which are idle, and which are not.

mod group;

use agentmem_pager::idle::Idleness;
use agentmem_pager::sample::sample;
use agentmem_pager::tree::Tree;
use group::Group;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

struct Watched {
    group: Group,
    idleness: Idleness,
    started: Instant,
}

impl Watched {
    fn new(command: &[&str]) -> Self {
        let mut start = Command::new(command[0]);
        let group = Group::start(start.args(&command[1..]).stdin(Stdio::piped()).stdout(Stdio::piped()));
        Self { group, idleness: Idleness::new(0), started: Instant::now() }
    }

    /// Samples until it is quiet or busy as `expected`.
    fn expect(&mut self, expected: impl Fn(&Idleness) -> bool) {
        loop {
            std::thread::sleep(Duration::from_millis(100));
            let tree = Tree { root: self.group.pid(), cgroup: None, reaper: None, whole: true };
            let now_ms = self.started.elapsed().as_millis() as u64;
            self.idleness.observe(now_ms, &sample(&tree.members().unwrap()));
            if expected(&self.idleness) {
                return;
            }
            assert!(self.started.elapsed() < Duration::from_secs(60), "{:?}", self.idleness);
        }
    }

    fn expect_quiet(&mut self) {
        self.expect(|idleness| idleness.quiet_since().is_some());
    }

    fn expect_busy(&mut self, text: &str) {
        self.expect(|idleness| idleness.busy_with().is_some_and(|busy| busy.contains(text)));
    }
}

#[test]
fn one_that_reads_a_pipe_is_quiet_until_it_works() {
    let mut cat = Watched::new(&["cat"]);
    cat.expect_quiet();
    let mut shell = Watched::new(&["sh", "-c", "read line; while :; do :; done"]);
    shell.expect_quiet();
    shell.group.0.stdin.as_mut().unwrap().write_all(b"go\n").unwrap();
    shell.expect_busy("% of a core");
}

#[test]
fn a_sleeping_tool_runs() {
    Watched::new(&["sleep", "100"]).expect_busy("sleep (");
    Watched::new(&["sh", "-c", "sleep 100; true"]).expect_busy("sleep (");
}

const SERVER: &str = "
import selectors, socket
s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen(); print(s.getsockname()[1], flush=True)
c, _ = s.accept()
sel = selectors.DefaultSelector(); sel.register(s, 1); sel.register(c, 1)
while True:
    for key, _ in sel.select():
        c.send(c.recv(100) * 10)
";

#[test]
fn a_server_with_a_connection_is_quiet_between_requests() {
    let mut server = Watched::new(&["python3", "-c", SERVER]);
    let mut port = String::new();
    BufReader::new(server.group.0.stdout.take().unwrap()).read_line(&mut port).unwrap();
    let mut client = TcpStream::connect(("127.0.0.1", port.trim().parse().unwrap())).unwrap();
    server.expect_quiet();
    client.write_all(&[1; 100]).unwrap();
    client.read_exact(&mut [0; 1000]).unwrap();
    server.expect_busy("traffic");
    server.expect_quiet();
}

const CLIENT: &str = "
import socket, sys
s = socket.create_connection(('127.0.0.1', int(sys.argv[1])))
s.send(bytes(1000)); s.recv(100); sys.stdin.read()
";

#[test]
fn a_client_awaits_its_answer() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let mut client = Watched::new(&["python3", "-c", CLIENT, &port]);
    let (mut server, _) = listener.accept().unwrap();
    server.read_exact(&mut [0; 1000]).unwrap();
    client.expect_busy("an answer awaited");
    server.write_all(b"answer").unwrap();
    client.expect_quiet();
}
