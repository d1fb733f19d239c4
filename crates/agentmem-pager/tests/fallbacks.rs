//! Where pages cannot be guarded: swap, where there is some; else freezing alone.

mod common;
mod target;

use agentmem_pager::cgroup;
use agentmem_pager::proc::{self, Syscall};
use common::{Place, Screen, eventually, lacking};
use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use target::Target;

const SHAPES: &str = "serve --seed 71 --mib 24 --threads 2";
const OPTIONS: [&str; 4] = ["run", "--name=a", "--idle-after-ms=300", "--breath-ms=0"];

fn frozen(place: &Place) -> Value {
    eventually("the freeze", || Some(place.status()).filter(|status| status["state"] == "frozen"))
}

fn has_swap() -> bool {
    agentmem_pager::memory::has_swap()
}

/// One test at a time has to do with the machine's swap, in whatever program.
fn alone() -> File {
    let swaps = File::open("/proc/swaps").expect("a list of swap");
    flock(&swaps, FlockOperation::LockExclusive).expect("a lock");
    swaps
}

fn shapes(command: &mut Command) -> Target {
    Target::of(command.arg("--").arg(target::shapes()).args(SHAPES.split(' ')))
}

#[test]
fn freezing_alone_is_what_is_left() {
    let _alone = alone();
    let place = Place::new();
    let Some(mut command) = place.powerless(&OPTIONS) else { return };
    if has_swap() {
        return lacking("a state without swap");
    }
    let refused = command.args(["--", "echo", "started"]).output().unwrap();
    assert_eq!((refused.status.code(), refused.stdout.as_slice()), (Some(125), &b""[..]));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("sudo agentmem setup"), "{refused:?}");

    let mut command = place.powerless(&[&OPTIONS[..], &["--best-effort"]].concat()).unwrap();
    let (mut untouched, mut managed) = (Target::start(SHAPES), shapes(&mut command));
    for _ in 0..3 {
        assert_eq!(untouched.step(50), managed.step(50));
        let status = frozen(&place);
        let left = status["left_alone"].as_array().unwrap();
        assert!(left.iter().any(|left| left["pid"] == status["root_pid"]), "{status}");
        assert!(left.iter().all(|left| left["why"].as_str().unwrap().contains("no userfaultfd")), "{status}");
        assert_eq!((&status["held_bytes"], &status["page_out_ms"]["cpu"].is_u64()), (&0.into(), &true), "{status}");
        assert!(swapped_kib(&status) == 0 && status["private_bytes"].as_u64() > Some(20 << 20), "{status}");
        assert_eq!(untouched.check(), managed.check());
    }
}

/// A cgroup below which none can be made, so that a tree is frozen by signals.
struct Barren(PathBuf);

impl Barren {
    /// `None` where there are no cgroups to make, which does as well.
    fn new() -> Option<Self> {
        let folder = cgroup::own_folder()?.join(format!("barren-{}", std::process::id()));
        std::fs::create_dir(&folder).ok()?;
        std::fs::write(folder.join("cgroup.max.descendants"), "0").unwrap();
        Some(Barren(folder))
    }

    fn take(&self, command: &mut Command) {
        let members = self.0.join("cgroup.procs");
        // SAFETY: between fork and exec, it opens a file and writes to it.
        unsafe { command.pre_exec(move || std::fs::write(&members, "0")) };
    }
}

impl Drop for Barren {
    fn drop(&mut self) {
        for pid in std::fs::read_to_string(self.0.join("cgroup.procs")).unwrap_or_default().lines() {
            kill_process(Pid::from_raw(pid.parse().unwrap()).unwrap(), Signal::KILL).unwrap();
        }
        eventually("the end of the cgroup", || std::fs::remove_dir(&self.0).ok());
    }
}

#[test]
fn by_signals_whoever_was_stopped_stays_so_and_the_leader_of_the_session_runs() {
    let (place, barren) = (Place::new(), Barren::new());
    let script = "sleep 600 & echo sleeps $!.; read line";
    let words = ["run", "--name=a", "--idle-after-ms=3600000", "--breath-ms=0", "--", "sh", "-c", script];
    let mut supervisor = place.supervisor(&words);
    barren.iter().for_each(|barren| barren.take(&mut supervisor));
    let mut screen = Screen::start(supervisor);
    screen.wait_for("sleeps ");
    let stopped: i32 = eventually("its number", || {
        screen.look();
        screen.text().split_once('.')?.0.parse().ok()
    });
    // Stopped outside of a system call, it would be taken for one that runs.
    let call = || proc::syscall(stopped, stopped).unwrap();
    let sleeps = || matches!(call(), Syscall::Inside { number: libc::SYS_clock_nanosleep, .. });
    eventually("its sleep", || sleeps().then_some(()));
    kill_process(Pid::from_raw(stopped).unwrap(), Signal::STOP).unwrap();
    eventually("the pause", || (place.ask("a", r#"{"op":"pause"}"#)["ok"] == true).then_some(()));
    let status = place.status();
    assert_eq!(status["processes"], 2, "the session's leader is none of it: {status}");
    let root = proc::stat(status["root_pid"].as_i64().unwrap() as i32).unwrap();
    let leader = proc::stat(root.ppid).unwrap();
    assert_eq!((root.state, leader.comm.as_str()), (b'T', "agentmem-leader"));
    assert_ne!(leader.state, b'T');
    assert_eq!(place.ask("a", r#"{"op":"resume"}"#)["ok"], true);
    eventually("the wake", || (proc::stat(root.pid).unwrap().state == b'S').then_some(()));
    for _ in 0..20 {
        assert_eq!(proc::stat(stopped).unwrap().state, b'T');
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Swap for a test. It is gone when this is dropped, which takes everything back that is in it.
struct Swap {
    device: PathBuf,
    /// Where it is a file, and not compressed memory.
    file: Option<tempfile::NamedTempFile>,
}

const SWAP_BYTES: u64 = 256 << 20;

/// What a command says; an error is what it complains about.
fn said(program: &str, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(program).args(arguments).output().map_err(|error| format!("{program}: {error}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

impl Swap {
    fn on(make: fn() -> Result<Self, String>) -> Result<Self, String> {
        let swap = make()?;
        let device = swap.device.to_str().expect("a plain name");
        said("mkswap", &[device])?;
        said("swapon", &[device])?;
        Ok(swap)
    }

    fn of_memory() -> Result<Self, String> {
        let device = said("zramctl", &["--find", "--size", &SWAP_BYTES.to_string()])?.into();
        Ok(Swap { device, file: None })
    }

    fn of_file() -> Result<Self, String> {
        let file = tempfile::NamedTempFile::new_in("/var/tmp").map_err(|error| error.to_string())?;
        // Written in full: a file with holes is none to swap to.
        std::fs::write(file.path(), vec![1; SWAP_BYTES as usize]).map_err(|error| error.to_string())?;
        Ok(Swap { device: file.path().to_owned(), file: Some(file) })
    }
}

impl Drop for Swap {
    fn drop(&mut self) {
        let device = self.device.to_str().expect("a plain name");
        // Fails where it was not switched on.
        let _ = said("swapoff", &[device]);
        if self.file.is_none() {
            let _ = said("zramctl", &["--reset", device]);
        }
    }
}

/// What the root of a tree has in swap.
fn swapped_kib(status: &Value) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{}/status", status["root_pid"])).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("VmSwap:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Runs `test` with swap in compressed memory, then with a file. Where there is none, it says so: this user may not
/// have any.
fn with_swap(test: impl Fn()) {
    let _alone = alone();
    for (kind, make) in [("compressed memory", Swap::of_memory as fn() -> _), ("a file", Swap::of_file)] {
        match Swap::on(make) {
            Ok(_swap) => test(),
            Err(why) => lacking(&format!("swap to {kind}: {why}")),
        }
    }
}

#[test]
#[ignore = "switches swap on for a moment: as root, cargo test -p agentmem-pager --test fallbacks -- --ignored"]
fn swap_takes_what_nobody_may_guard() {
    with_swap(nobody_may_guard);
}

fn nobody_may_guard() {
    let place = Place::new();
    let Some(mut command) = place.powerless(&OPTIONS) else { return };
    let (mut untouched, mut managed) = (Target::start(SHAPES), shapes(&mut command));
    for _ in 0..3 {
        assert_eq!(untouched.step(50), managed.step(50));
        let status = frozen(&place);
        assert!(swapped_kib(&status) > 10 << 10, "{} KiB: {status}", swapped_kib(&status));
        assert_eq!(untouched.check(), managed.check());
    }
}

/// A program that the pager refuses.
fn refused(place: &Place, habit: &str) -> Target {
    let program: &Path = &target::shapes().with_file_name("stubborn");
    let mut target = Target::of(place.supervisor(&OPTIONS).arg("--").arg(program).arg(habit));
    assert!(target.hear().starts_with("ready"));
    target
}

#[test]
#[ignore = "switches swap on for a moment: as root, cargo test -p agentmem-pager --test fallbacks -- --ignored"]
fn swap_takes_what_is_refused() {
    with_swap(what_is_refused);
}

fn what_is_refused() {
    for habit in ["ring", "ring-hidden", "pinned", "aio", "faults"] {
        let place = Place::new();
        let mut managed = refused(&place, habit);
        for _ in 0..2 {
            assert_eq!(managed.ask("go on"), "ok");
            let status = frozen(&place);
            assert!(swapped_kib(&status) > 2 << 10, "{habit}: {} KiB: {status}", swapped_kib(&status));
        }
        assert_eq!(managed.ask("go on"), "ok");
    }
}
