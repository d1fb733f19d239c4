//! Starting and stopping `agentmemd`, and where it is found.

mod common;

use common::{Running, Site, lives, signal, wait_until};
use rustix::process::Signal;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::process::{Command, Output, Stdio};

fn daemon(site: &Site, arguments: &[&str]) -> Command {
    let mut command = site.command(env!("CARGO_BIN_EXE_agentmemd").as_ref());
    command.args(arguments);
    command
}

fn run(site: &Site, arguments: &[&str]) -> Output {
    daemon(site, arguments).output().expect("agentmemd")
}

fn holders(site: &Site) -> Vec<i32> {
    let text = std::fs::read_to_string(site.folder.path().join("a.sock.lock")).unwrap_or_default();
    text.split_whitespace().map(|number| number.parse().unwrap()).collect()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Leader of a process's session; 0 where it is outside of this pid namespace.
fn session(pid: i32) -> i32 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit_once(") ").unwrap().1.split_ascii_whitespace().nth(3).unwrap().parse().unwrap()
}

/// Ends whatever a test left running.
struct Stopped<'a>(&'a Site);

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        run(self.0, &["--stop"]);
    }
}

#[test]
fn in_the_background_it_serves_when_the_start_returns() {
    let site = Site::new();
    let _stopped = Stopped(&site);
    let started = run(&site, &["--background"]);
    assert!(started.status.success(), "{}", said(&started));
    UnixStream::connect(&site.socket).unwrap();
    let [keeper, engine] = holders(&site)[..] else { panic!("{:?}", holders(&site)) };
    assert_ne!(session(keeper), session(rustix::process::getpid().as_raw_pid()));

    let again = run(&site, &["--background"]);
    assert_eq!(again.status.code(), Some(3));
    assert!(said(&again).contains(&format!("already running (pid {keeper})")), "{}", said(&again));

    signal(engine, Signal::KILL);
    wait_until("the engine is started again", || matches!(holders(&site)[..], [_, other] if other != engine));
    let stopped = run(&site, &["--stop"]);
    assert!(stopped.status.success() && said(&stopped).is_empty(), "{}", said(&stopped));
    assert!(!lives(keeper));
    let stopped = run(&site, &["--stop"]);
    assert!(stopped.status.success() && said(&stopped).contains("none runs"), "{}", said(&stopped));
}

#[test]
fn an_error_of_a_background_start_is_told() {
    let site = Site::new();
    let config = site.folder.path().join("a.toml");
    std::fs::write(&config, "memory_max = \"1G\"\nwarm_after = \"soon\"\n").unwrap();
    for how in ["--background", "--foreground"] {
        let started = run(&site, &[how, "--config", config.to_str().unwrap()]);
        assert_eq!(started.status.code(), Some(2), "{}", said(&started));
        assert!(said(&started).contains("a.toml:2: warm_after"), "{}", said(&started));
        assert!(holders(&site).iter().all(|&pid| !lives(pid)));
    }
    // What an earlier start said is not said again.
    let started = run(&site, &["--background", "--memory-max=1K"]);
    assert!(said(&started).contains("memory_max") && !said(&started).contains("warm_after"), "{}", said(&started));
    assert_eq!(run(&site, &["--backgruond"]).status.code(), Some(2));
}

#[test]
fn of_many_that_start_one_serves() {
    let site = Site::new();
    let _stopped = Stopped(&site);
    let start = || daemon(&site, &["--background"]).stderr(Stdio::piped()).spawn().unwrap();
    let starts: Vec<_> = (0..6).map(|_| start()).collect();
    let ends: Vec<_> = starts.into_iter().map(|start| start.wait_with_output().unwrap()).collect();
    let won = ends.iter().filter(|end| end.status.success()).count();
    let lost: Vec<_> = ends.iter().filter(|end| end.status.code() == Some(3)).collect();
    assert_eq!((won, lost.len()), (1, 5), "{ends:?}");
    assert!(lost.iter().all(|end| said(end).contains("already running (pid ")));
    UnixStream::connect(&site.socket).unwrap();
}

#[test]
fn without_a_keeper_the_engine_is_the_daemon() {
    let site = Site::new();
    let mut engine = Running(daemon(&site, &["--no-keeper"]).spawn().unwrap());
    wait_until("it listens", || UnixStream::connect(&site.socket).is_ok());
    assert_eq!(holders(&site), [engine.pid()]);
    assert!(run(&site, &["--stop"]).status.success());
    assert_eq!(engine.end(), Some(0));

    let _stopped = Stopped(&site);
    assert!(run(&site, &["--no-keeper", "--background"]).status.success());
    UnixStream::connect(&site.socket).unwrap();
    assert!(run(&site, &["--stop"]).status.success());
    let log = std::fs::read_to_string(site.folder.path().join("a.sock.log")).unwrap();
    assert!(log.is_empty(), "who started it listens no more, and that is no error: {log}");
}

#[test]
fn a_folder_that_is_open_to_others_is_refused() {
    let site = Site::new();
    std::fs::set_permissions(site.folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let started = run(&site, &["--foreground"]);
    assert_eq!(started.status.code(), Some(1));
    assert!(said(&started).contains("chmod 700"), "{}", said(&started));
}

#[test]
fn it_says_what_it_is() {
    let site = Site::new();
    let version = run(&site, &["--version"]);
    assert_eq!(String::from_utf8_lossy(&version.stdout), format!("agentmemd {}\n", env!("CARGO_PKG_VERSION")));
    assert!(String::from_utf8_lossy(&run(&site, &["--help"]).stdout).contains("--background"));
}
