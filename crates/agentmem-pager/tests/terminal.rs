//! A command under the supervisor has a terminal as if it had the user's.

mod common;

use common::{Place, Screen, eventually, kill, lives};
use rustix::process::Signal;
use rustix::termios::Winsize;
use std::process::{Command, Stdio};
use std::time::Duration;

#[test]
fn it_is_a_terminal_of_the_same_size() {
    let place = Place::new();
    let mut screen =
        Screen::start(place.script("test -t 0 && test -t 1 && test -t 2 && echo all; stty size </dev/tty"));
    screen.wait_for("all");
    screen.wait_for("24 80");
    assert_eq!(screen.changed().exit_status(), Some(0));
}

#[test]
fn modes_are_raw_while_it_runs_and_as_before_afterwards() {
    let place = Place::new();
    for (script, last) in [("echo on; read x; exit 3", "\n"), ("echo on; exec sleep 600", "\u{3}")] {
        let mut screen = Screen::start(place.script(script));
        let before = format!("{:?}", Screen::start(Command::new("true")).modes());
        screen.wait_for("on");
        assert!(screen.is_raw());
        screen.type_(last);
        let status = screen.changed();
        assert_eq!((status.exit_status(), status.terminating_signal()).0.is_some(), last == "\n");
        assert_eq!(format!("{:?}", screen.modes()), before);
    }
}

#[test]
fn a_signal_that_ends_the_command_restores_the_terminal_too() {
    let place = Place::new();
    let mut screen = Screen::start(place.script("echo on; exec sleep 600"));
    screen.wait_for("on");
    kill(&screen.child.0, Signal::TERM);
    assert_eq!(screen.changed().terminating_signal(), Some(15));
    assert!(!screen.is_raw());
}

#[test]
fn control_c_is_a_signal_to_the_command_once() {
    let place = Place::new();
    let mut screen = Screen::start(place.script("trap 'echo told' INT; echo on; read x; read x; read x"));
    screen.wait_for("on");
    screen.type_("\u{3}");
    screen.wait_for("told");
    std::thread::sleep(Duration::from_millis(50));
    screen.look();
    assert!(!screen.text().contains("told"));
    screen.type_("\n\n\n");
    screen.changed();
}

#[test]
fn a_new_size_arrives() {
    let place = Place::new();
    let mut screen = Screen::start(place.script("trap 'stty size' WINCH; echo on; while :; do sleep 0.02; done"));
    screen.wait_for("on");
    let size = Winsize { ws_row: 50, ws_col: 132, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(&screen.user, size).unwrap();
    screen.wait_for("50 132");
}

#[test]
fn a_megabyte_passes_both_ways_unchanged() {
    let place = Place::new();
    let mut screen = Screen::start(place.script("stty raw -echo; printf ready; head -c 1048576; printf done"));
    screen.wait_for("ready");
    let sent: Vec<u8> = (0..1u32 << 20).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let mut written = 0;
    while screen.shown.len() < sent.len() {
        let more = rustix::io::write(&screen.user, &sent[written..sent.len().min(written + 8192)]);
        written += more.unwrap_or(0);
        if !screen.look() {
            std::thread::sleep(Duration::from_micros(200));
        }
    }
    assert!(screen.shown[..sent.len()] == sent, "not what was sent");
    screen.shown.drain(..sent.len());
    screen.wait_for("done");
    assert_eq!(screen.changed().exit_status(), Some(0));
}

#[test]
fn the_last_words_are_shown() {
    let place = Place::new();
    let mut screen = Screen::start(place.script("seq 1 20000; exec kill -9 $$"));
    std::thread::sleep(Duration::from_millis(300));
    let status = screen.changed();
    while screen.look() {}
    assert_eq!(status.terminating_signal(), Some(9));
    assert!(screen.text().ends_with("19999\r\n20000\r\n"));
}

#[test]
fn a_user_who_does_not_look_makes_nothing_grow_or_spin() {
    let place = Place::new();
    let screen = Screen::start(place.run(&["yes"]));
    let pid = screen.child.pid();
    let spent = || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let fields: Vec<_> = stat.rsplit_once(')').unwrap().1.split_whitespace().map(str::to_owned).collect();
        (fields[11].clone(), fields[12].clone(), fields[21].clone())
    };
    eventually("rest", || {
        let before = spent();
        std::thread::sleep(Duration::from_millis(300));
        (before == spent()).then_some(())
    });
}

#[test]
fn a_pipeline_keeps_its_descriptors() {
    let place = Place::new();
    let script = place.script("test -t 0 && test ! -t 1 && echo piped");
    let mut screen = Screen::start_with(script, |command| _ = command.stdout(Stdio::piped()));
    assert_eq!(screen.child.line(), "piped");
    assert!(!screen.is_raw());
    let script = place.script("test -t 0 && test -t 1 && echo first; echo second >&2");
    let mut screen = Screen::start_with(script, |command| _ = command.stderr(Stdio::piped()));
    screen.wait_for("first");
    let mut second = String::new();
    std::io::Read::read_to_string(&mut screen.child.0.stderr.take().unwrap(), &mut second).unwrap();
    assert_eq!(second, "second\n");
}

#[test]
fn a_command_that_stops_gives_the_terminal_to_the_shell() {
    let place = Place::new();
    let mut shell = Command::new("bash");
    shell.args(["--norc", "--noprofile", "-i"]).env("AGENTMEM_RUNTIME_DIR", place.runtime()).env("PS1", "> ");
    shell.env("SUPERVISOR", env!("CARGO_BIN_EXE_agentmem-supervisor")).env("TERM", "dumb");
    let mut screen = Screen::start(shell);
    for stop in ["kill -TSTP 0", "kill -STOP $$"] {
        screen.wait_for("> ");
        screen.type_(&format!("$SUPERVISOR run -- sh -c '{stop}; echo b''ack; read x; exit 9'\n"));
        screen.wait_for("Stopped");
        screen.wait_for("> ");
        screen.type_("echo at$?; fg\n");
        screen.wait_for("at1");
        screen.wait_for("back");
        screen.type_("\u{1a}");
        screen.wait_for("Stopped");
        screen.wait_for("> ");
        screen.type_("fg\n");
        screen.wait_for("exit 9'");
        screen.type_("\n");
        screen.wait_for("> ");
        screen.type_("echo code$?\n");
        screen.wait_for("code9");
    }
}

#[test]
fn a_terminal_that_hangs_up_hangs_up_for_the_command() {
    let place = Place::new();
    let mut screen = Screen::start(place.script("trap '' HUP; echo $$; while read x; do :; done; sleep 0.2"));
    screen.wait_for("\n");
    let supervisor = screen.child.pid();
    drop(std::mem::replace(&mut screen.user, rustix::event::eventfd(0, rustix::event::EventfdFlags::empty()).unwrap()));
    eventually("the end", || (!lives(supervisor)).then_some(()));
}

/// As below `unshare --pid`, `bwrap` and `nsenter`: there the leader of the session has no number.
#[test]
fn a_session_that_began_outside_of_the_pid_namespace_works_alike() {
    let place = Place::new();
    let unshare = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc"];
    let possible = Command::new(unshare[0]).args(&unshare[1..]).arg("true").stderr(Stdio::null()).status();
    if !possible.is_ok_and(|status| status.success()) {
        return common::lacking("leave to make a pid namespace");
    }
    let told = place.runtime().with_extension("told");
    let script =
        format!("trap 'echo >{}; exit' HUP; echo on; read x; echo $x; while :; do sleep 0.02; done", told.display());
    let mut command = Command::new(unshare[0]);
    let supervisor = place.script(&script);
    command.args(&unshare[1..]).arg(supervisor.get_program()).args(supervisor.get_args());
    command.env("AGENTMEM_RUNTIME_DIR", place.runtime());
    common::heed(&mut command);
    let mut screen = Screen::start(command);
    screen.wait_for("on");
    screen.type_("typed\n");
    screen.wait_for("typed");
    drop(std::mem::replace(&mut screen.user, rustix::event::eventfd(0, rustix::event::EventfdFlags::empty()).unwrap()));
    eventually("the hang-up", || told.exists().then_some(()));
}

#[test]
fn a_killed_supervisor_takes_the_session_with_it() {
    let place = Place::new();
    let mut screen = Screen::start(place.script("trap '' HUP; echo =$$,$PPID=; exec sleep 600"));
    screen.wait_for("=");
    let text = eventually("the numbers", || {
        screen.look();
        screen.text().split_once('=').map(|(text, _)| text.to_owned())
    });
    let pids: Vec<i32> = text.split(',').map(|pid| pid.parse().unwrap()).collect();
    assert!(pids.iter().all(|&pid| lives(pid)) && pids[1] != screen.child.pid());
    kill(&screen.child.0, Signal::KILL);
    for pid in pids {
        eventually("the end of all", || (!lives(pid)).then_some(()));
    }
}
