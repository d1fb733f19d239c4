//! The supervisor with a pager that freezes and does no more: who is frozen when, who is woken by what,
//! and that nothing reaches the tree in between.
//!
//! This program is supervisor and test in one: called with `run`, it is the first.

mod common;

use agentmem_pager::agent::Move;
use agentmem_pager::agent::Quiet;
use agentmem_pager::arguments::{self, Arguments, Settings};
use agentmem_pager::gate::Gate;
use agentmem_pager::observer::{Activity, Equip, Equipment, Observer, Tree};
use agentmem_pager::paging::{Damage, Held, NotAway, PageOutReport, Paging, Refused, Source, WakeReport, Watched};
use agentmem_pager::registry::Registration;
use agentmem_pager::start;
use agentmem_pager::status::Measured;
use agentmem_pager::tree::Member;
use common::{Place, Running, Screen, eventually, kill, lives};
use rustix::event::PollFlags;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, Signal};
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Stops every process of the tree, and lets it go on.
struct Freezer {
    root: Pid,
    gate: Arc<Gate>,
    registration: Arc<Registration>,
}

fn below(pid: i32) -> Vec<i32> {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let children = children.split_whitespace().map(|pid| pid.parse::<i32>().unwrap());
    std::iter::once(pid).chain(children.flat_map(below)).collect()
}

impl Freezer {
    fn send(&self, signal: Signal) {
        let _tracing = self.gate.trace();
        for pid in below(self.root.as_raw_nonzero().get()) {
            let _ = rustix::process::kill_process(Pid::from_raw(pid).unwrap(), signal);
        }
    }

    fn stdin(&self) -> Option<Watched> {
        let pidfd = rustix::process::pidfd_open(self.root, PidfdFlags::empty()).ok()?;
        let fd = rustix::process::pidfd_getfd(&pidfd, 0, PidfdGetfdFlags::empty()).ok()?;
        Some(Watched { fd, events: PollFlags::IN, source: Source::Input })
    }
}

impl Paging for Freezer {
    fn page_out(&mut self, abort: &AtomicBool) -> Result<PageOutReport, NotAway> {
        let (start, slow) = (Instant::now(), std::env::var_os("SLOW").is_some());
        while start.elapsed() < Duration::from_millis(if slow { 20_000 } else { 50 }) {
            if abort.load(Ordering::SeqCst) {
                return Err(NotAway::Refused(Refused { why: "aborted".into() }));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let members =
            below(self.root.as_raw_nonzero().get()).into_iter().filter_map(|pid| Member::of(pid).ok()).collect();
        self.registration.update(|record| record.members = members).unwrap();
        self.send(Signal::STOP);
        let resident_before_bytes = 12345;
        Ok(PageOutReport { resident_before_bytes, watched: self.stdin().into_iter().collect(), ..Default::default() })
    }

    fn is_out(&self) -> bool {
        !self.registration.record().members.is_empty()
    }

    fn wake(&mut self) -> Result<WakeReport, Damage> {
        self.registration.update(|record| record.members.clear()).unwrap();
        self.send(Signal::CONT);
        Ok(WakeReport::default())
    }

    fn move_frames(&mut self, _to: Move, _abort: &AtomicBool) -> Held {
        Held::default()
    }
}

struct Clock;

impl Observer for Clock {
    fn sample(&mut self, terminal: Activity, now_ms: u64) -> Quiet {
        Quiet { quiet_ms: now_ms - terminal.output_ms, ..Quiet::default() }
    }

    fn measure(&mut self) -> Measured {
        Measured::default()
    }
}

struct Freezing;

impl Equip for Freezing {
    fn check(&self, settings: &Settings) -> Result<(), String> {
        if settings.freeze { Ok(()) } else { Err("this pager can do nothing but freeze".into()) }
    }

    fn wants_cgroup(&self, _settings: &Settings) -> bool {
        false
    }

    fn equip(&self, tree: Tree) -> Equipment {
        let Tree { root, gate, registration, .. } = tree;
        Equipment { paging: Some(Box::new(Freezer { root, gate, registration })), observer: Box::new(Clock) }
    }
}

fn main() {
    if std::env::args().nth(1).as_deref() == Some("run") {
        let Ok(Arguments::Run { settings, command, .. }) = arguments::parse(std::env::args_os().skip(1)) else {
            std::process::exit(125);
        };
        match start::run(settings, &command, &Freezing) {
            Ok(exit) => exit.leave(),
            Err(error) => {
                eprintln!("{}", error.text);
                std::process::exit(error.code);
            }
        }
    }
    let tests: &[(&str, fn())] = &[
        ("a pause holds input back until resumed", a_pause_holds_input_back),
        ("a key wakes and is not lost", a_key_wakes),
        ("a pipe that fills wakes", a_pipe_wakes),
        ("a signal wakes and arrives", a_signal_wakes),
        ("input aborts a page-out", input_aborts),
        ("timers get a breath", timers_get_a_breath),
        ("nothing wakes the supervisor while nothing happens", nothing_happens),
        ("one that is killed while away ends", killed_while_away),
        ("who hangs on missing pages is swept away", the_hanging_are_swept_away),
        ("what cannot be is refused before the start", refused_before_the_start),
    ];
    for (name, test) in tests {
        test();
        println!("{name}: ok");
    }
}

fn place() -> Place {
    Place::with_program(std::env::current_exe().unwrap())
}

fn state(place: &Place) -> String {
    place.ask("a", "{\"op\":\"status\"}")["agent"]["state"].as_str().unwrap().to_owned()
}

fn becomes(place: &Place, wanted: &str) {
    eventually(wanted, || (state(place) == wanted).then_some(()));
}

fn last_wake(place: &Place) -> String {
    place.ask("a", "{\"op\":\"status\"}")["agent"]["last_wake"].to_string()
}

/// `run --name=a` with these options.
fn run(place: &Place, options: &[&str], script: &str) -> std::process::Command {
    let mut command = place.supervisor(&["run", "--name=a", "--breath-ms=0"]);
    command.args(options).args(["--", "sh", "-c", script]);
    command
}

const ECHO: &str = "echo on; while read line; do echo \"got $line\"; done";
const NEVER: &str = "--idle-after-ms=1000000000";
const SOON: &str = "--idle-after-ms=1000";

fn a_pause_holds_input_back() {
    let place = place();
    let mut screen = Screen::start(run(&place, &[NEVER], ECHO));
    screen.wait_for("on");
    assert_eq!(place.ask("a", "{\"op\":\"pause\"}"), serde_json::json!({"ok": true}));
    assert_eq!(state(&place), "frozen");
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", screen.child.pid())).unwrap();
    assert!(!stat.contains(") T "), "it follows only stops of others");
    screen.type_("word\n");
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(state(&place), "frozen");
    assert_eq!(place.ask("a", "{\"op\":\"wake\"}")["ok"], false);
    screen.look();
    assert!(!screen.text().contains("word"));
    assert_eq!(place.ask("a", "{\"op\":\"resume\"}")["ok"], true);
    screen.wait_for("got word");
}

fn a_key_wakes() {
    let place = place();
    let mut screen = Screen::start(run(&place, &[SOON], ECHO));
    screen.wait_for("on");
    for round in ["one", "two"] {
        becomes(&place, "frozen");
        screen.type_(&format!("{round}\n"));
        screen.wait_for(&format!("got {round}"));
        assert_eq!(last_wake(&place), "\"terminal\"");
    }
    let status = &place.ask("a", "{\"op\":\"status\"}")["agent"];
    assert_eq!((&status["page_outs"], &status["woken"]), (&2.into(), &2.into()));
    assert_eq!(status["resident_before_bytes"], 12345);
    screen.type_("\u{4}");
    assert_eq!(screen.changed().exit_status(), Some(0));
}

fn a_pipe_wakes() {
    let place = place();
    let mut command = run(&place, &[SOON], ECHO);
    let mut shell = Running(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap());
    assert_eq!(shell.line(), "on");
    becomes(&place, "frozen");
    shell.0.stdin.as_mut().unwrap().write_all(b"word\n").unwrap();
    assert_eq!(shell.line(), "got word");
    // The tree may answer before the pager has reported.
    eventually("the report", || (last_wake(&place) == "\"input\"").then_some(()));
    becomes(&place, "frozen");
    drop(shell.0.stdin.take());
    assert_eq!(shell.0.wait().unwrap().code(), Some(0));
}

fn a_signal_wakes() {
    let place = place();
    let script = "trap 'echo told; exit 7' TERM; echo on; while :; do read line; done";
    let mut command = run(&place, &[NEVER], script);
    let mut shell = Running(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap());
    assert_eq!(shell.line(), "on");
    place.ask("a", "{\"op\":\"pause\"}");
    kill(&shell.0, Signal::TERM);
    assert_eq!(shell.line(), "told");
    assert_eq!(shell.0.wait().unwrap().code(), Some(7));
}

fn input_aborts() {
    let place = place();
    let mut command = run(&place, &[SOON], ECHO);
    command.env("SLOW", "1");
    let mut screen = Screen::start(command);
    screen.wait_for("on");
    // By now it is being paged out, which takes longer than it takes to answer.
    std::thread::sleep(Duration::from_millis(2_500));
    screen.type_("word\n");
    screen.wait_for("got word");
    assert_eq!(place.ask("a", "{\"op\":\"status\"}")["agent"]["page_outs"], 0);
}

fn timers_get_a_breath() {
    let place = place();
    let mut command = run(&place, &[SOON, "--breath-ms=300"], "echo on; read line");
    let mut shell = Running(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap());
    assert_eq!(shell.line(), "on");
    eventually("a second breath", || {
        let status = &place.ask("a", "{\"op\":\"status\"}")["agent"];
        (status["woken"].as_u64()? > 1).then_some(())
    });
    assert_eq!(last_wake(&place), "\"breath\"");
}

fn nothing_happens() {
    let place = place();
    let mut screen = Screen::start(run(&place, &[SOON], "echo on; read line"));
    screen.wait_for("on");
    becomes(&place, "frozen");
    let switches = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", screen.child.pid())).unwrap();
        status.lines().filter(|line| line.contains("ctxt_switches")).map(str::to_owned).collect::<Vec<_>>()
    };
    eventually("rest", || {
        let before = switches();
        std::thread::sleep(Duration::from_millis(1_500));
        (before == switches()).then_some(())
    });
}

fn killed_while_away() {
    let place = place();
    let mut screen = Screen::start(run(&place, &[NEVER], "echo on; read line"));
    screen.wait_for("on");
    place.ask("a", "{\"op\":\"pause\"}");
    let root = place.ask("a", "{\"op\":\"status\"}")["agent"]["root_pid"].as_i64().unwrap();
    rustix::process::kill_process(Pid::from_raw(root as i32).unwrap(), Signal::KILL).unwrap();
    assert_eq!(screen.changed().terminating_signal(), Some(9));
    assert!(!screen.is_raw());
}

fn the_hanging_are_swept_away() {
    let place = place();
    let script = "sleep 600 >&- & echo $!; read line";
    let mut command = run(&place, &[NEVER], script);
    let mut shell = Running(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap());
    let sleep: i32 = shell.line().parse().unwrap();
    place.ask("a", "{\"op\":\"pause\"}");
    kill(&shell.0, Signal::KILL);
    assert_eq!(shell.0.wait().unwrap().signal(), Some(9));
    assert!(lives(sleep));
    let supervisor = Place::with_program(env!("CARGO_BIN_EXE_agentmem-supervisor").into());
    let mut sweep = supervisor.supervisor(&["sweep"]);
    let output = sweep.env("AGENTMEM_RUNTIME_DIR", place.runtime()).output().unwrap();
    let lost: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(lost["name"], "a");
    eventually("its end", || (!lives(sleep)).then_some(()));
}

fn refused_before_the_start() {
    let place = place();
    let output = run(&place, &["--no-freeze"], "echo started").output().unwrap();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(125), 0));
    let output = run(&place, &["--no-freeze", "--best-effort"], "echo started").output().unwrap();
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(0), &b"started\n"[..]));
}
