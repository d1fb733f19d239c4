//! The whole of it: a supervisor that finds its tree idle, pages it out, and wakes it when something comes in.

mod common;
mod target;

use agentmem_pager::waits::SOURCES_MAX;
use common::{Place, eventually};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, setrlimit};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;
use target::Target;

const SHAPES: &str = "serve --seed 61 --mib 8 --threads 2 --children 2 --ticking";

fn managed(place: &Place, options: &[&str]) -> Target {
    let shapes = target::shapes();
    let mut words = vec!["run", "--name=a", "--idle-after-ms=300", "--breath-ms=0"];
    words.extend(options);
    words.extend(["--", shapes.to_str().unwrap()]);
    words.extend(SHAPES.split(' '));
    Target::of(&mut place.supervisor(&words))
}

fn paged_out(place: &Place) -> serde_json::Value {
    eventually("the page-out", || Some(place.status()).filter(|status| status["state"] == "paged_out"))
}

#[test]
fn an_idle_tree_pages_out_and_answers_as_if_it_had_not() {
    let place = Place::new();
    let (mut untouched, mut paged) = (Target::start(SHAPES), managed(&place, &[]));
    for round in 1..=3 {
        assert_eq!(untouched.step(30), paged.step(30), "round {round}");
        let status = paged_out(&place);
        assert!(status["private_bytes"].as_u64() < status["resident_before_bytes"].as_u64(), "{status}");
        assert!(status["held_bytes"].as_u64() > Some(4 << 20), "{status}");
        assert_eq!(untouched.check(), paged.check(), "round {round}");
        // The answer may be quicker than the report.
        eventually("the wake", || (place.status()["last_wake"] == "input").then_some(()));
    }
}

#[test]
fn a_breath_is_a_moment_for_who_does_nothing_in_it() {
    let place = Place::new();
    // Who counted as new after each breath would be in memory for an hour.
    let words = ["run", "--name=a", "--idle-after-ms=3600000", "--breath-ms=300", "--", "cat"];
    let mut cat = Target::of(&mut place.supervisor(&words));
    assert_eq!(cat.ask("on"), "on");
    assert_eq!(place.ask("a", r#"{"op":"hint","turn":"idle"}"#)["ok"], true);
    eventually("a second breath", || (place.status()["woken"].as_u64()? >= 2).then_some(()));
    assert_eq!(place.status()["last_wake"], "breath");
    paged_out(&place);
}

#[test]
fn a_limit_moves_frames_to_ssd_and_they_come_back() {
    let place = Place::new();
    let cold = tempfile::tempdir().unwrap();
    let option = format!("--cold-dir={}", cold.path().display());
    let mut paged = managed(&place, &[&option]);
    let before = paged.check();
    paged_out(&place);
    assert_eq!(place.ask("a", r#"{"op":"limit","memory_max_bytes":1048576}"#)["ok"], true);
    let status = eventually("the move", || Some(place.status()).filter(|status| status["compressed_bytes"] == 0));
    assert!(status["ssd_bytes"].as_u64() > Some(0), "{status}");
    assert_eq!(paged.check(), before);
}

#[test]
fn a_pause_holds_until_it_is_resumed_and_a_signal_ends_what_is_away() {
    let place = Place::new();
    let mut paged = managed(&place, &[]);
    let before = paged.check();
    assert_eq!(place.ask("a", r#"{"op":"pause"}"#)["ok"], true);
    paged.tell("check");
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(place.status()["state"], "paged_out", "input does not end a pause");
    assert_eq!(place.ask("a", r#"{"op":"resume"}"#)["ok"], true);
    assert_eq!(target::parse(&paged.hear()), before);
    paged_out(&place);
    paged.signal(Signal::TERM);
    assert_eq!(paged.end(), None, "it dies of the signal that its command dies of");
}

#[test]
fn a_supervisor_that_is_killed_takes_its_frozen_tree_along() {
    let place = Place::new();
    let mut paged = managed(&place, &[]);
    paged.check();
    let root = paged_out(&place)["root_pid"].as_i64().unwrap() as i32;
    paged.signal(Signal::KILL);
    paged.end();
    eventually("the end of the root", || (!common::lives(root)).then_some(()));
    let swept = place.supervisor(&["sweep"]).output().unwrap();
    assert!(String::from_utf8_lossy(&swept.stdout).contains("\"a\""), "it is found out: {swept:?}");
}

#[test]
fn one_that_runs_already_is_taken_up_and_let_go() {
    let place = Place::new();
    let mut paged = Target::of(Command::new(target::shapes()).args(SHAPES.split(' ')));
    let before = paged.check();
    let pid = format!("--pid={}", paged.pid());
    let options = ["adopt", &pid, "--tree", "--name=a", "--idle-after-ms=300"];
    let mut supervisor = common::Running(place.supervisor(&options).spawn().unwrap());
    eventually("the supervisor", || place.file("a.sock").exists().then_some(()));
    paged_out(&place);
    assert_eq!(paged.check(), before);
    paged_out(&place);
    common::kill(&supervisor.0, Signal::TERM);
    assert!(supervisor.0.wait().unwrap().success());
    assert_eq!(paged.check(), before, "it runs on by itself, with everything in place");
}

#[test]
fn what_is_never_frozen_keeps_its_memory_and_its_timers() {
    let place = Place::new();
    let mut managed = managed(&place, &["--no-freeze"]);
    let before = managed.check();
    // How often its threads were woken.
    let wakes = || -> u64 {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", place.status()["root_pid"])).unwrap().flatten();
        let wakes = |task: std::fs::DirEntry| {
            let status = std::fs::read_to_string(task.path().join("status")).ok()?;
            status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")?.trim().parse::<u64>().ok())
        };
        tasks.filter_map(wakes).sum()
    };
    for _ in 0..3 {
        let before = wakes();
        std::thread::sleep(Duration::from_secs(1));
        assert!(wakes() >= before + 10, "it ticks twenty times a second");
    }
    let status = place.status();
    assert!(["running", "idle"].contains(&status["state"].as_str().unwrap()), "{status}");
    assert_eq!((&status["page_outs"], &status["held_bytes"]), (&0.into(), &0.into()), "{status}");
    let answer = place.ask("a", r#"{"op":"pause"}"#);
    assert!(answer["text"].as_str().unwrap().contains("--no-freeze"), "{answer}");
    assert_eq!(managed.check(), before);
}

/// Says what comes by UDP, the way that its argument names; a lock of its own on a file is held all the while.
const DATAGRAMS: &str = "
import fcntl, selectors, socket, sys
lock = open(sys.argv[2], 'w'); fcntl.flock(lock, fcntl.LOCK_EX)
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('127.0.0.1', 0))
selector = selectors.DefaultSelector(); selector.register(s, selectors.EVENT_READ)
print(s.getsockname()[1], flush=True)
while True:
    if sys.argv[1] == 'epoll': selector.select()
    print(s.recv(100).decode(), flush=True)
";

#[test]
fn datagrams_wake_what_is_away_and_its_locks_hold() {
    for way in ["epoll", "recv"] {
        let place = Place::new();
        let locked = place.runtime().with_file_name("lock");
        let words = ["run", "--name=a", "--idle-after-ms=300", "--breath-ms=0", "--", "python3", "-c", DATAGRAMS, way];
        let mut program = Target::of(place.supervisor(&words).arg(&locked));
        let port: u16 = program.hear().parse().unwrap();
        let sender = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        for word in ["first", "second"] {
            paged_out(&place);
            let lock = std::fs::File::open(&locked).unwrap();
            assert!(lock.try_lock().is_err(), "who is frozen keeps what it locked");
            sender.send_to(word.as_bytes(), ("127.0.0.1", port)).unwrap();
            assert_eq!(program.hear(), word, "{way}");
            eventually("the wake", || (place.status()["last_wake"] == "input").then_some(()));
        }
    }
}

#[test]
fn one_whose_tool_runs_in_another_cgroup_stays_awake() {
    let Some(folder) = agentmem_pager::cgroup::own_folder() else { return common::lacking("cgroups of version 2") };
    let place = Place::new();
    let script = "(echo 0 >$0/cgroup.procs && exec sleep 6); echo over; read line";
    let words = ["run", "--name=a", "--idle-after-ms=300", "--breath-ms=0", "--", "sh", "-c", script];
    let mut program = Target::of(place.supervisor(&words).arg(folder));
    let record = eventually("the record", || {
        let record: serde_json::Value = serde_json::from_slice(&std::fs::read(place.file("a.json")).ok()?).ok()?;
        (!record["root_pid"].is_null()).then_some(record)
    });
    if record["cgroup"].is_null() {
        return common::lacking("a user who may make cgroups");
    }
    eventually("its tool", || {
        let busy_with = place.status()["busy_with"].as_str()?.to_owned();
        busy_with.contains("outside of the tree's cgroup").then_some(())
    });
    let answer = place.ask("a", r#"{"op":"pause"}"#);
    assert!(answer["text"].as_str().unwrap().contains("outside of the tree's cgroup"), "{answer}");
    assert_eq!(program.hear(), "over");
    paged_out(&place);
}

/// Waits for as many counters as its argument says, for lines, which come by the highest descriptor, and for a child.
const MANY: &str = "
import os, select, subprocess, sys
epoll = select.epoll()
for _ in range(int(sys.argv[1])): epoll.register(os.eventfd(0), select.EPOLLIN)
last = os.dup(0); epoll.register(last, select.EPOLLIN)
child = subprocess.Popen(['cat'], stdin=subprocess.PIPE)
print(child.pid, flush=True)
while True:
    epoll.poll()
    print(os.read(last, 100).decode().strip(), flush=True)
";

fn waits_for_many(place: &Place, many: usize) -> Option<Target> {
    let limit = getrlimit(Resource::Nofile);
    if limit.maximum.is_some_and(|maximum| maximum < 9000) {
        common::lacking("9000 descriptors");
        return None;
    }
    let many = many.to_string();
    let words = ["run", "--name=a", "--idle-after-ms=300", "--breath-ms=0", "--", "python3", "-c", MANY, &many];
    let mut command = place.supervisor(&words);
    let raise = move || Ok(setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })?);
    // SAFETY: between fork and exec, it makes one system call.
    unsafe { command.pre_exec(raise) };
    Some(Target::of(&mut command))
}

#[test]
fn one_that_waits_for_thousands_is_woken_by_the_last_of_them_and_by_an_end() {
    let place = Place::new();
    let Some(mut program) = waits_for_many(&place, 5000) else { return };
    let child = Pid::from_raw(program.hear().parse().unwrap()).unwrap();
    for (reason, wake) in [("input", None), ("child", Some(child))] {
        paged_out(&place);
        match wake {
            None => assert_eq!(program.ask("word"), "word"),
            Some(child) => rustix::process::kill_process(child, Signal::KILL).unwrap(),
        }
        eventually(reason, || (place.status()["last_wake"] == reason).then_some(()));
    }
}

#[test]
fn one_that_waits_for_more_than_can_be_watched_stays_awake() {
    let place = Place::new();
    // With the alarms of two processes, and what these wait for besides.
    let Some(mut program) = waits_for_many(&place, SOURCES_MAX - 4) else { return };
    program.hear();
    let text = eventually("the refusal", || {
        let answer = place.ask("a", r#"{"op":"pause"}"#);
        answer["text"].as_str().filter(|text| text.contains("descriptors")).map(str::to_owned)
    });
    assert!(text.contains(&SOURCES_MAX.to_string()), "{text}");
    assert_eq!(program.ask("word"), "word");
}

/// A thread that waits, every two milliseconds, for something else that is its process's own.
const HELPERS: &str = "
import sys, threading, time
locks = [threading.Lock() for _ in range(64)]
for lock in locks: lock.acquire()
def waits():
    turn = 0
    while True:
        locks[turn % 64].acquire()
        turn += 1
def wakes():
    turn = 0
    while True:
        time.sleep(0.002)
        if locks[turn % 64].locked():
            locks[turn % 64].release()
            turn += 1
held = bytes(range(256)) * 50000
for work in waits, wakes: threading.Thread(target=work, daemon=True).start()
print('ready', flush=True)
for line in sys.stdin: print(held == bytes(range(256)) * 50000, flush=True)
";

#[test]
fn helpers_that_wake_each_other_all_the_time_do_not_keep_a_tree_in_memory() {
    let place = Place::new();
    let words = ["run", "--name=a", "--idle-after-ms=3600000", "--breath-ms=0", "--", "python3", "-c", HELPERS];
    let mut program = Target::of(&mut place.supervisor(&words));
    assert_eq!(program.hear(), "ready");
    for _ in 0..5 {
        eventually("the pause", || (place.ask("a", r#"{"op":"pause"}"#)["ok"] == true).then_some(()));
        let status = place.status();
        assert_eq!(status["state"], "paged_out", "{status}");
        assert!(status["held_bytes"].as_u64() > Some(12 << 20), "{status}");
        assert_eq!(place.ask("a", r#"{"op":"resume"}"#)["ok"], true);
        assert_eq!(program.ask("go on"), "True");
    }
}
