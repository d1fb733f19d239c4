//! Programs of which something, or everything, must not be paged out: they are left alone, it is said why, and every
//! byte of theirs stays right.

mod common;
mod target;

use common::{Place, Running, eventually, lacking};
use serde_json::Value;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;
use target::Target;

const PAGE: u64 = 4096;
const OPTIONS: [&str; 2] = ["run", "--name=a"];

fn stubborn() -> PathBuf {
    target::shapes().with_file_name("stubborn")
}

/// A program with some habit under a supervisor.
struct Managed {
    place: Place,
    program: Target,
    pid: i32,
    /// Name, first page and pages of its memory.
    memory: Vec<(String, u64, u64)>,
}

impl Managed {
    /// None, and it says so: this machine has no such habit.
    fn start(habit: &str) -> Option<Self> {
        let place = Place::new();
        let command = place.supervisor(&OPTIONS);
        Managed::started(place, command, habit)
    }

    /// `run` with this command.
    fn started(place: Place, mut command: Command, habit: &str) -> Option<Self> {
        let mut program = Target::of(command.arg("--").arg(stubborn()).arg(habit));
        let memory = memory(&program.hear(), habit)?;
        let pid = eventually("the command's process", || place.status()["root_pid"].as_i64()) as i32;
        Some(Managed { place, program, pid, memory })
    }

    fn practise(&mut self) {
        assert_eq!(self.program.ask("go on"), "ok");
    }

    /// Pages it out; returns its status.
    fn pause(&self) -> Value {
        let answer = self.place.ask("a", r#"{"op":"pause"}"#);
        assert_eq!(answer["ok"], true, "{answer}");
        self.place.status()
    }

    fn resume(&self) {
        assert_eq!(self.place.ask("a", r#"{"op":"resume"}"#)["ok"], true);
    }

    /// How many pages of what is called `name` are in memory, and how many there are.
    fn present(&self, name: &str) -> (u64, u64) {
        let &(_, first, pages) = self.memory.iter().find(|(known, ..)| known == name).unwrap();
        let mut entries = vec![0; pages as usize * 8];
        let pagemap = File::open(format!("/proc/{}/pagemap", self.pid)).unwrap();
        pagemap.read_exact_at(&mut entries, first * 8).unwrap();
        (entries.chunks(8).filter(|entry| entry[7] >> 7 == 1).count() as u64, pages)
    }

    fn is_untouched(&self, name: &str) -> bool {
        let (present, pages) = self.present(name);
        present == pages
    }

    fn is_gone(&self, name: &str) -> bool {
        self.present(name).0 == 0
    }

    /// Runs `look` between two uses of the habit, twice.
    fn between(&mut self, look: impl Fn(&Self)) {
        for _ in 0..2 {
            self.practise();
            look(self);
        }
        self.practise();
    }

    /// It is paged out, and `look` has a look at it then.
    fn is_paged(&mut self, look: impl Fn(&Self, &Value)) {
        self.between(|managed| {
            let status = managed.pause();
            assert_eq!(status["state"], "paged_out", "{status}");
            assert!(managed.is_gone("plain"));
            look(managed, &status);
            managed.resume();
        });
    }

    /// It is frozen, with all its memory.
    fn is_left_alone(&mut self, why: &str) {
        self.between(|managed| {
            let status = managed.pause();
            assert_eq!(status["state"], "frozen", "{status}");
            assert!(says(&status, managed.pid, why), "{status}");
            assert!(managed.is_untouched("plain"));
            managed.resume();
        });
    }

    /// It is not even frozen.
    fn runs_on(&mut self, why: &str) {
        self.between(|managed| {
            let answer = managed.place.ask("a", r#"{"op":"pause"}"#);
            assert_eq!(answer["ok"], false, "{answer}");
            assert!(answer["text"].as_str().unwrap().contains(why), "{answer}");
            let status = managed.place.status();
            assert!(["running", "idle"].contains(&status["state"].as_str().unwrap()), "{status}");
            assert!(managed.is_untouched("plain"));
        });
    }
}

/// What a program says first.
fn memory(line: &str, habit: &str) -> Option<Vec<(String, u64, u64)>> {
    if let Some(why) = line.strip_prefix("lacks ") {
        lacking(&format!("{habit}: {why}"));
        return None;
    }
    let place = |word: &str| {
        let mut parts = word.split(':');
        let (name, at) = (parts.next()?.to_owned(), u64::from_str_radix(parts.next()?.strip_prefix("0x")?, 16).ok()?);
        Some((name, at / PAGE, parts.next()?.parse::<u64>().ok()? / PAGE))
    };
    line.strip_prefix("ready ").expect("a program that starts").split(' ').map(place).collect()
}

/// Whether `status` says that of process `pid` something was left alone, and why.
fn says(status: &Value, pid: i32, why: &str) -> bool {
    let left = status["left_alone"].as_array().unwrap();
    left.iter().any(|left| left["pid"] == pid && left["why"].as_str().unwrap().contains(why))
}

#[test]
fn whoever_has_the_kernel_write_is_left_alone() {
    for (habit, why) in [
        ("ring", "uses io_uring"),
        ("ring-unnumbered", "uses io_uring"),
        ("ring-hidden", "uses io_uring"),
        ("ring-hidden-thread", "uses io_uring"),
        ("pinned", "pages pinned"),
        ("aio", "uses AIO"),
        ("faults", "userfaultfd of its own"),
    ] {
        if let Some(mut managed) = Managed::start(habit) {
            managed.is_left_alone(why);
        }
    }
}

#[test]
fn whoever_is_traced_or_waits_for_who_knows_what_runs_on() {
    for (habit, why) in [
        ("ring-polled", "io_uring"),
        ("ring-worker", "io_uring"),
        ("faults-watched", "userfaultfd"),
        ("lent", "uninterruptible"),
        ("traced", "traced by process"),
    ] {
        if let Some(mut managed) = Managed::start(habit) {
            managed.runs_on(why);
        }
    }
}

/// A thread of io_uring's that is left over keeps its program from being frozen, for as long as it is there.
#[test]
fn what_runs_on_says_why() {
    if let Some(managed) = Managed::start("ring-worker") {
        assert_eq!(managed.place.ask("a", r#"{"op":"pause"}"#)["ok"], false);
        eventually("the reason, as `ps -v` shows it", || {
            managed.place.status()["busy_with"].as_str().is_some_and(|busy| busy.contains("io_uring")).then_some(())
        });
    }
}

#[test]
fn a_filter_is_passed_by_who_may() {
    if !rustix::process::geteuid().is_root() {
        return lacking("root, for whom filters are suspended");
    }
    for habit in ["filter", "late-filter"] {
        if let Some(mut managed) = Managed::start(habit) {
            managed.is_paged(|_, _| ());
        }
    }
}

#[test]
fn a_filter_is_respected_by_who_may_not_pass_it() {
    let place = Place::new();
    let Some(command) = place.powerless(&[&OPTIONS[..], &["--best-effort"]].concat()) else { return };
    if let Some(mut managed) = Managed::started(place, command, "filter") {
        managed.is_left_alone("seccomp filter cannot be suspended");
    }
}

#[test]
fn memory_of_two_processes_is_paged_when_both_are_stopped() {
    if let Some(mut managed) = Managed::start("shared") {
        managed.is_paged(|_, _| ());
    }
}

#[test]
fn memory_that_an_outsider_runs_in_stays() {
    let mut program = Target::of(Command::new(stubborn()).arg("shared"));
    let Some(memory) = memory(&program.hear(), "shared") else { return };
    let (place, pid) = (Place::new(), program.pid().as_raw_nonzero().get());
    // Without its children.
    let options = ["adopt", &format!("--pid={pid}"), "--name=a"];
    let supervisor = Running(place.supervisor(&options).spawn().unwrap());
    eventually("the supervisor", || place.file("a.sock").exists().then_some(()));
    let mut managed = Managed { place, program, pid, memory };
    managed.runs_on(&format!("process {pid} shares its memory with process"));
    common::kill(&supervisor.0, rustix::process::Signal::TERM);
    managed.practise();
}

/// Of a program with mappings of all kinds, those stay that must, and no others.
fn only_these_stay() {
    let Some(mut managed) = Managed::start("regions") else { return };
    let mut kinds = vec![
        ("locked", Some("locked in memory")),
        ("shared", None),
        ("shared-file", None),
        ("private-file", Some("private pages of a file")),
        ("huge", None),
        ("growing", Some("a stack that grows")),
        ("sealed", Some("sealed against changes")),
        ("hidden", Some("not readable")),
    ];
    kinds.retain(|(name, _)| {
        let is_there = managed.memory.iter().any(|(known, ..)| known == name);
        if !is_there {
            lacking(&format!("memory of this kind: {name}"));
        }
        is_there
    });
    managed.is_paged(|managed, status| {
        for &(name, why) in &kinds {
            assert!(managed.is_untouched(name), "{name}");
            // Of what is shared, nothing is the process's own.
            assert!(why.is_none_or(|why| says(status, managed.pid, why)), "{name}: {status}");
        }
    });
}

#[test]
fn of_all_kinds_of_memory_only_some_stay() {
    only_these_stay();
}

/// Huge pages that are reserved for a test; as many as before are when it is dropped.
struct HugePages(String);

impl HugePages {
    const SETTING: &str = "/proc/sys/vm/nr_hugepages";

    fn reserve() -> std::io::Result<Self> {
        let before = std::fs::read_to_string(Self::SETTING)?;
        let count = before.trim().parse::<u64>().expect("a number") + 1;
        std::fs::write(Self::SETTING, count.to_string())?;
        Ok(HugePages(before))
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        let _ = std::fs::write(Self::SETTING, &self.0);
    }
}

#[test]
#[ignore = "reserves a huge page of the machine: as root, cargo test -p agentmem-pager --test refusals -- --ignored"]
fn huge_pages_stay_too() {
    match HugePages::reserve() {
        Ok(_reserved) => only_these_stay(),
        Err(error) => lacking(&format!("the right to reserve huge pages: {error}")),
    }
}
