//! `run -- COMMAND` is the command: everything that can be told from outside or inside is the same.

mod common;

use common::{Place, Running, eventually, kill, lives};
use rustix::process::{Pid, Signal};
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;

#[test]
fn exit_codes_are_the_commands() {
    let place = Place::new();
    for (script, code) in [("exit 0", 0), ("exit 3", 3), ("exit 255", 255)] {
        let output = place.script(script).output().unwrap();
        assert_eq!(output.status.code(), Some(code));
        assert!(output.stdout.is_empty() && output.stderr.is_empty());
    }
}

#[test]
fn a_command_killed_by_a_signal_is_told_by_the_same_signal() {
    let place = Place::new();
    for signal in [2, 6, 9, 11, 13, 15] {
        let output = place.script(&format!("kill -{signal} $$")).output().unwrap();
        assert_eq!(output.status.signal(), Some(signal));
        assert!(output.stderr.is_empty());
    }
}

#[test]
fn what_cannot_be_run_is_said_in_one_line_and_a_code_of_its_own() {
    let place = Place::new();
    for (arguments, code, text) in [
        (&["run", "--", "no-such-command"][..], 127, "cannot run no-such-command: No such file or directory"),
        (&["run", "--", "/no/such/command"], 127, "No such file"),
        (&["run", "--", "/etc/passwd"], 126, "Permission denied"),
        (&["run", "--", "/etc"], 126, "Permission denied"),
        (&["run", "--nmae=x", "--", "true"], 125, "--nmae"),
        (&["run"], 125, "needs a command"),
        (&["run", "--name=a b", "--", "true"], 125, "agent name"),
        (&["adopt", "--pid=2147483647"], 125, "process 2147483647"),
    ] {
        let output = place.supervisor(arguments).stdin(Stdio::null()).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}");
        assert!(said.starts_with("agentmem: ") && said.contains(text) && said.lines().count() == 1, "{said}");
    }
}

#[test]
fn arguments_arrive_as_given() {
    let place = Place::new();
    let output = place.run(&["cat", "/proc/self/cmdline", "/dev/null"]).output().unwrap();
    assert_eq!(output.stdout, b"cat\0/proc/self/cmdline\0/dev/null\0");
}

#[test]
fn the_environment_is_the_same_but_for_the_agents_name() {
    let place = Place::new();
    let [with, without] = place.both("exec \"$@\" cat /proc/self/environ");
    let words = |bytes: &[u8]| bytes.split(|&b| b == 0).map(<[u8]>::to_vec).collect::<Vec<_>>();
    let (mut with, without) = (words(&with.stdout), words(&without.stdout));
    with.retain(|word| word != b"AGENTMEM_AGENT=cat");
    assert_eq!(with, without);
}

#[test]
fn signals_limits_and_descriptors_are_inherited() {
    let place = Place::new();
    for script in [
        "exec \"$@\" grep Sig[^Q] /proc/self/status",
        "trap '' PIPE CHLD HUP TERM; exec \"$@\" grep Sig[^Q] /proc/self/status",
        "ulimit -n 77; ulimit -c 0; exec \"$@\" cat /proc/self/limits",
        "umask 27; exec \"$@\" sh -c umask",
        "exec 5</dev/null 9>/dev/null; exec \"$@\" ls /proc/self/fd",
        "exec 0<&-; exec \"$@\" ls /proc/self/fd",
        "exec 0<&- 2>&-; exec \"$@\" ls /proc/self/fd",
        "cd /usr; exec \"$@\" pwd",
    ] {
        let [with, without] = place.both(script);
        let text = |bytes| String::from_utf8(bytes).unwrap();
        assert!(!without.stdout.is_empty());
        assert_eq!(text(with.stdout), text(without.stdout), "{script}");
        assert_eq!(with.status, without.status);
    }
}

#[test]
fn pipes_pass_through() {
    let place = Place::new();
    let mut command = place.run(&["cat"]);
    let mut cat = Running(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap());
    cat.0.stdin.take().unwrap().write_all(b"x").unwrap();
    let mut said = String::new();
    cat.0.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(said, "x");
    assert_eq!(cat.0.wait().unwrap().code(), Some(0));
}

#[test]
fn a_reader_that_leaves_is_a_broken_pipe() {
    let place = Place::new();
    let mut yes = Running(place.run(&["yes"]).stdout(Stdio::piped()).spawn().unwrap());
    yes.line();
    drop(yes.0.stdout.take());
    assert_eq!(yes.0.wait().unwrap().signal(), Some(13));
}

#[test]
fn the_supervisor_holds_no_end_of_a_pipe() {
    let place = Place::new();
    let mut command = place.script("echo on; exec 1>&-; exec sleep 600");
    let mut closer = Running(command.stdout(Stdio::piped()).spawn().unwrap());
    assert_eq!(closer.line(), "on");
    let mut rest = Vec::new();
    closer.0.stdout.take().unwrap().read_to_end(&mut rest).unwrap();
    assert!(lives(closer.pid()));
}

#[test]
fn signals_reach_the_command_and_the_supervisor_waits_for_what_it_makes_of_them() {
    let place = Place::new();
    for signal in [Signal::USR1, Signal::USR2, Signal::TERM, Signal::HUP, Signal::INT, Signal::QUIT, Signal::WINCH] {
        let number = signal.as_raw();
        let script = format!("trap 'echo told; sleep 0.1; exit 7' {number}; echo on; while :; do sleep 0.02; done");
        let mut shell = Running(place.script(&script).stdout(Stdio::piped()).spawn().unwrap());
        assert_eq!(shell.line(), "on");
        kill(&shell.0, signal);
        assert_eq!(shell.line(), "told");
        assert_eq!(shell.0.wait().unwrap().code(), Some(7), "{signal:?}");
    }
}

#[test]
fn what_the_tree_sends_to_its_parent_is_not_sent_back() {
    let place = Place::new();
    let output = place.script("trap 'echo back' USR1; kill -USR1 $PPID; sleep 0.2; echo end").output().unwrap();
    assert_eq!(output.stdout, b"end\n");
}

#[test]
fn a_stopped_command_stops_the_supervisor() {
    let place = Place::new();
    let mut shell = Running(place.script("echo on; kill -STOP $$; echo on").stdout(Stdio::piped()).spawn().unwrap());
    assert_eq!(shell.line(), "on");
    let state = |pid: i32| std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap().contains(") T ");
    eventually("the stop", || state(shell.pid()).then_some(()));
    kill(&shell.0, Signal::CONT);
    assert_eq!(shell.line(), "on");
    assert_eq!(shell.0.wait().unwrap().code(), Some(0));
}

#[test]
fn orphans_are_reaped() {
    let place = Place::new();
    let mut command = place.script("(sleep 600 >&- & echo $!); read line");
    let mut shell = Running(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap());
    let orphan: i32 = shell.line().parse().unwrap();
    let parent = || {
        let stat = std::fs::read_to_string(format!("/proc/{orphan}/stat")).ok()?;
        stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse::<i32>().ok()
    };
    eventually("the adoption", || (parent() == Some(shell.pid())).then_some(()));
    rustix::process::kill_process(Pid::from_raw(orphan).unwrap(), Signal::KILL).unwrap();
    eventually("the reaping", || parent().is_none().then_some(()));
    assert!(lives(shell.pid()));
    drop(shell.0.stdin.take());
    assert_eq!(shell.0.wait().unwrap().code(), Some(1));
}

#[test]
fn the_registry_knows_it_while_it_lives() {
    let place = Place::new();
    let mut command = place.supervisor(&["run", "--name=one", "--importance=70", "--", "cat", "-"]);
    let mut cat = Running(command.stdin(Stdio::piped()).spawn().unwrap());
    let record = eventually("the record", || {
        let text = std::fs::read(place.file("one.json")).ok()?;
        let record: serde_json::Value = serde_json::from_slice(&text).unwrap();
        record["root_pid"].is_number().then_some(record)
    });
    assert_eq!(record["pid"], cat.pid());
    assert_eq!(record["command"], serde_json::json!(["cat", "-"]));
    let status = &place.ask("one", "{\"op\":\"status\"}")["agent"];
    assert_eq!(status["root_pid"], record["root_pid"]);
    assert_eq!((&status["state"], &status["importance"]), (&"running".into(), &70.into()));
    assert!(status["left_alone"].is_null());
    assert!(status["supervisor_bytes"].as_u64().unwrap() > 0);
    assert_eq!(place.ask("one", "{\"op\":\"limit\",\"memory_max_bytes\":5}"), serde_json::json!({"ok": true}));
    let verbose = &place.ask("one", "{\"op\":\"status\",\"verbose\":true}")["agent"];
    assert_eq!((&verbose["memory_max_bytes"], &verbose["left_alone"]), (&5.into(), &serde_json::json!([])));
    assert_eq!(place.ask("one", "{\"op\":\"fly\"}")["error"], "InvalidArgument");
    assert_eq!(place.ask("one", "{\"op\":\"wake\"}")["ok"], true);
    let refused = place.supervisor(&["run", "--name=one", "--", "true"]).output().unwrap();
    assert_eq!(refused.status.code(), Some(125));
    drop(cat.0.stdin.take());
    assert_eq!(cat.0.wait().unwrap().code(), Some(0));
    assert!(!place.file("one.json").exists() && !place.file("one.sock").exists());
}

#[test]
fn a_killed_supervisor_takes_the_command_with_it_and_is_found_out() {
    let place = Place::new();
    let mut shell = Running(place.script("echo $$; exec sleep 600").stdout(Stdio::piped()).spawn().unwrap());
    let command: i32 = shell.line().parse().unwrap();
    kill(&shell.0, Signal::KILL);
    shell.0.wait().unwrap();
    eventually("the command's end", || (!lives(command)).then_some(()));
    let swept = place.supervisor(&["sweep"]).output().unwrap();
    let lost: serde_json::Value = serde_json::from_slice(&swept.stdout).unwrap();
    assert_eq!(lost, serde_json::json!({"name": "sh", "pid": shell.pid(), "killed": 0}));
    assert!(!place.file("sh.sock").exists() && place.file("sh.json").exists());
}

#[test]
fn several_are_several() {
    let place = Place::new();
    let script = "echo $AGENTMEM_AGENT; read x; case $AGENTMEM_AGENT in *-2) exit 4;; esac; exit 0";
    let output = place.supervisor(&["run", "--count=3", "--name=n", "--", "sh", "-c", script]).output().unwrap();
    let mut names: Vec<_> = str::from_utf8(&output.stdout).unwrap().lines().collect();
    names.sort_unstable();
    assert_eq!(names, ["n-1", "n-2", "n-3"]);
    assert_eq!(output.status.code(), Some(4));
    let script = "trap 'exit 5' TERM; echo on; while :; do sleep 0.02; done";
    let mut command = place.supervisor(&["run", "--count=2", "--", "sh", "-c", script]);
    let mut both = Running(command.stdout(Stdio::piped()).spawn().unwrap());
    assert_eq!([both.line(), both.line()], ["on", "on"]);
    kill(&both.0, Signal::TERM);
    assert_eq!(both.0.wait().unwrap().code(), Some(5));
}

#[test]
fn the_command_is_killed_for_memory_before_the_supervisor() {
    let place = Place::new();
    let [_, without] = place.both("exec \"$@\" cat /proc/self/oom_score_adj");
    let number = |bytes: &[u8]| str::from_utf8(bytes).unwrap().trim().parse::<i32>().unwrap();
    let script = "cat /proc/self/oom_score_adj; cat /proc/$PPID/oom_score_adj";
    let output = place.script(script).output().unwrap();
    let scores: Vec<i32> =
        str::from_utf8(&output.stdout).unwrap().lines().map(|line| number(line.as_bytes())).collect();
    assert!(scores[1] < scores[0]);
    assert!([0, 100].contains(&(scores[0] - number(&without.stdout))));
}

#[test]
fn a_supervisor_in_a_supervisor_is_one_more() {
    let place = Place::new();
    let inner = env!("CARGO_BIN_EXE_agentmem-supervisor");
    let output = place.run(&[inner, "run", "--", "sh", "-c", "echo $AGENTMEM_AGENT; exit 6"]).output().unwrap();
    assert_eq!((output.stdout.as_slice(), output.status.code()), (&b"sh\n"[..], Some(6)));
}

#[test]
fn one_taken_up_is_told_of_until_it_ends() {
    let place = Place::new();
    let mut sleep = Running(std::process::Command::new("sleep").arg("600").spawn().unwrap());
    let pid = format!("--pid={}", sleep.pid());
    // Its arguments appear a moment after it began.
    eventually("the command", || {
        (!std::fs::read(format!("/proc/{}/cmdline", sleep.pid())).unwrap().is_empty()).then_some(())
    });
    let adopt = || Running(place.supervisor(&["adopt", &pid, "--name=it"]).spawn().unwrap());
    let mut supervisor = adopt();
    eventually("the record", || place.file("it.json").exists().then_some(()));
    let status = eventually("an answer", || Some(place.ask("it", "{\"op\":\"status\"}")));
    assert_eq!(status["agent"]["command"], serde_json::json!(["sleep", "600"]));
    kill(&supervisor.0, Signal::TERM);
    assert_eq!(supervisor.0.wait().unwrap().code(), Some(0));
    assert!(lives(sleep.pid()), "it is let go, not killed");
    let mut supervisor = adopt();
    eventually("the record", || place.file("it.json").exists().then_some(()));
    sleep.0.kill().unwrap();
    assert_eq!(supervisor.0.wait().unwrap().code(), Some(0));
}
