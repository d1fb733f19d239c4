//! Real processes, paged out and woken at random, with every byte of them checked by themselves.

mod target;

use agentmem_pager::freeze::Freezer;
use agentmem_pager::gate::{Bell, Gate};
use agentmem_pager::pager::{NotOut, PageOut, Pager};
use agentmem_pager::sys::faults;
use agentmem_pager::target::Stopped;
use agentmem_pager::tree::{Member, Tree};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use target::Target;

/// Faults are injected into all of a test program, and two cores are enough for one tree at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// A small generator, so that a failure can be had again by its seed.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % limit
    }
}

/// A process and all that it started, parents before children.
fn tree(root: i32) -> Vec<Member> {
    let tree = Tree { root, cgroup: None, reaper: None, whole: true };
    let mut members = tree.members().unwrap();
    members.sort_unstable_by_key(|member| (member.start_ticks, member.pid));
    members
}

fn private_kib(members: &[Member]) -> u64 {
    let rollup =
        |member: &Member| std::fs::read_to_string(format!("/proc/{}/smaps_rollup", member.pid)).unwrap_or_default();
    let anonymous = |text: String| {
        let line = text.lines().find_map(|line| line.strip_prefix("Pss_Anon:").map(str::to_owned));
        line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0)
    };
    members.iter().map(rollup).map(anonymous).sum()
}

/// A cgroup of version 2 of our own, where this user may make one. Removed when dropped.
struct Cgroup(PathBuf);

impl Cgroup {
    fn new() -> Option<Self> {
        static COUNT: AtomicI32 = AtomicI32::new(0);
        let mounts = std::fs::read_to_string("/proc/mounts").unwrap();
        let root = mounts.lines().find_map(|line| {
            let words: Vec<&str> = line.split(' ').collect();
            (words[2] == "cgroup2").then(|| PathBuf::from(words[1]))
        })?;
        let name = format!("agentmem-test-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = root.join(name);
        std::fs::create_dir(&path).ok()?;
        path.join("cgroup.freeze").exists().then_some(Cgroup(path))
    }

    fn take(&self, members: &[Member]) {
        for member in members {
            std::fs::write(self.0.join("cgroup.procs"), member.pid.to_string()).unwrap();
        }
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = std::fs::write(self.0.join("cgroup.freeze"), "0");
        let _ = std::fs::write(self.0.join("cgroup.kill"), "1");
        for _ in 0..100 {
            if std::fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn by_signals() -> Freezer {
    Freezer::Stop { stopped_before: Vec::new() }
}

fn pager(freezer: Freezer, folder: &Path) -> Pager {
    Pager::new(freezer, &folder.join("pages"), Arc::new(Gate::new(Bell::new().unwrap()))).unwrap()
}

static GO: AtomicBool = AtomicBool::new(false);

/// Pages out, whatever the tree does.
fn try_page_out(pager: &mut Pager, members: &[Member], abort: &AtomicBool) -> Result<PageOut, NotOut> {
    let live = pager.capture(members, abort)?;
    pager.page_out(&live, abort, &mut |_| Ok(()))
}

/// Pages out, trying again while the tree is busy.
fn page_out(pager: &mut Pager, members: &[Member]) -> PageOut {
    let mut last = String::new();
    for _ in 0..200 {
        match try_page_out(pager, members, &GO) {
            Ok(report) => return report,
            Err(NotOut::NotNow(why)) => last = why,
            Err(other) => panic!("{other:?}"),
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("never paged out: {last}");
}

/// Changes, page-outs, moves to SSD and wakes in random order; every answer is what an untouched program gives.
fn survives(arguments: &str, rounds: u64, seed: u64, cgroup: Option<Cgroup>) {
    let folder = tempfile::tempdir().unwrap();
    let mut random = Random(seed);
    let (mut untouched, mut paged) = (Target::start(arguments), Target::start(arguments));
    assert_eq!(untouched.check(), paged.check());
    let root = paged.pid().as_raw_nonzero().get();
    let freezer = cgroup.as_ref().map_or_else(by_signals, |cgroup| {
        cgroup.take(&tree(root));
        Freezer::Cgroup(cgroup.0.clone())
    });
    let mut pager = pager(freezer, folder.path());
    for round in 0..rounds {
        let steps = random.below(20);
        assert_eq!(untouched.step(steps), paged.step(steps), "round {round}");
        let members = tree(root);
        let before = private_kib(&members);
        let report = page_out(&mut pager, &members);
        let after = private_kib(&members);
        assert!(report.dropped_bytes > 0 && after < before, "{before} KiB, {after} KiB: {report:?}");
        match random.below(8) {
            0 => pager.demote(&GO).unwrap(),
            1 => std::thread::sleep(Duration::from_millis(random.below(30))),
            _ => {}
        }
        pager.wake().unwrap();
        if random.below(6) == 0 {
            pager.drop_kept();
        }
        assert_eq!(untouched.check(), paged.check(), "round {round}: {report:?}");
    }
    pager.release();
    assert_eq!(untouched.check(), paged.check());
}

#[test]
fn every_shape_survives() {
    let _alone = alone();
    survives("serve --seed 11 --mib 24 --threads 3 --children 3", 12, 1, None);
}

#[test]
fn every_shape_survives_in_a_cgroup() {
    let _alone = alone();
    let Some(cgroup) = Cgroup::new() else {
        println!("no cgroup of version 2 can be made here: nothing was tested");
        return;
    };
    survives("serve --seed 12 --mib 24 --threads 3 --children 3 --ticking", 12, 2, Some(cgroup));
}

#[test]
#[ignore = "a quarter of an hour"]
fn every_shape_survives_thousands_of_times() {
    let _alone = alone();
    for seed in 0..10 {
        survives("serve --seed 13 --mib 16 --threads 4 --children 3 --ticking", 150, seed, Cgroup::new());
        survives("serve --seed 14 --mib 16 --threads 4 --children 3", 150, seed + 100, None);
    }
}

#[test]
fn whatever_call_fails_the_target_goes_on_with_every_byte() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let mut paged = Target::start("serve --seed 21 --mib 4 --threads 1 --children 1");
    let root = paged.pid().as_raw_nonzero().get();
    let mut pager = pager(by_signals(), folder.path());
    let (mut nth, mut succeeded) = (1, 0);
    // Past the last call of a page-out and a wake, nothing is left to fail.
    while succeeded < 3 {
        paged.step(3);
        let members = tree(root);
        faults::fail_once(nth);
        let outcome = try_page_out(&mut pager, &members, &GO);
        let woken = match outcome {
            Ok(_) => pager.wake(),
            Err(NotOut::Damaged(why)) => Err(agentmem_pager::pager::Damaged(why)),
            Err(_) => Ok(Default::default()),
        };
        let failed = faults::stop();
        if woken.is_err() {
            // It stayed frozen; once calls work again, it wakes.
            pager.wake().unwrap();
        }
        paged.check();
        succeeded += i32::from(!failed);
        // Every call at first, then ever fewer: there are thousands.
        nth += 1 + nth / 7;
    }
    assert!(nth > 100, "only {nth} calls were made to fail");
}

#[test]
fn what_comes_in_aborts_at_any_moment() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let mut paged = Target::start("serve --seed 31 --mib 32 --threads 2 --children 1");
    let root = paged.pid().as_raw_nonzero().get();
    let mut pager = pager(by_signals(), folder.path());
    let mut random = Random(5);
    let (mut aborted, mut out) = (0, 0);
    for _ in 0..24 {
        paged.step(10);
        let members = tree(root);
        let abort = AtomicBool::new(false);
        let delay = Duration::from_micros(random.below(80_000));
        let outcome = std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(delay);
                abort.store(true, Ordering::Relaxed);
            });
            try_page_out(&mut pager, &members, &abort)
        });
        match outcome {
            Ok(_) => {
                out += 1;
                pager.wake().unwrap();
            }
            Err(NotOut::Aborted) => aborted += 1,
            Err(NotOut::NotNow(_)) => {}
            Err(other) => panic!("{other:?}"),
        }
        paged.check();
    }
    assert!(aborted > 0 && aborted + out > 12, "{aborted} aborted, {out} out");
}

/// What is shared with a child stays, and whatever is held of it then is of before.
#[test]
fn what_was_shared_for_a_while_is_not_what_it_was_before() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let mut paged = forks();
    let root = paged.pid().as_raw_nonzero().get();
    let mut pager = pager(by_signals(), folder.path());
    let mut away = |paged: &mut Target| {
        page_out(&mut pager, &tree(root));
        pager.wake().unwrap();
        paged.ask("get")
    };
    for (before, after) in [(1, 2), (2, 3)] {
        assert_eq!(paged.ask(&format!("set {before}")), format!("[{before}]"));
        assert_eq!(away(&mut paged), format!("[{before}]"));
        paged.ask(&format!("set {after}"));
        paged.ask("fork");
        assert_eq!(away(&mut paged), format!("[{after}]"), "with a child");
        paged.ask("reap");
        assert_eq!(away(&mut paged), format!("[{after}]"), "when the child is over");
    }
}

#[test]
fn somebody_elses_thaw_makes_it_wait_and_not_read_zeros() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let mut paged = Target::start("serve --seed 41 --mib 8 --threads 2");
    let before = paged.check();
    let members = tree(paged.pid().as_raw_nonzero().get());
    let mut pager = pager(by_signals(), folder.path());
    page_out(&mut pager, &members);
    // Before the thaw: a reader that waits for a page holds up who writes to its pipe.
    paged.tell("check");
    paged.signal(rustix::process::Signal::CONT);
    std::thread::sleep(Duration::from_millis(100));
    let mut alarms: Vec<rustix::event::PollFd<'_>> =
        pager.faults().map(|fd| rustix::event::PollFd::from_borrowed_fd(fd, rustix::event::PollFlags::IN)).collect();
    let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    assert!(rustix::event::poll(&mut alarms, Some(&now)).unwrap() > 0, "the fault is noticed");
    drop(alarms);
    pager.wake().unwrap();
    assert_eq!(target::parse(&paged.hear()), before);
}

/// A program with memory that it fills at a word.
fn forks() -> Target {
    Target::of(&mut std::process::Command::new(target::shapes().with_file_name("forks")))
}

/// Paged out, told something, thawed by somebody else and woken; and what it said to that.
fn thawed_and_woken(paged: &mut Target, members: &[Member], pager: &mut Pager, told: &str) -> String {
    page_out(pager, members);
    paged.tell(told);
    paged.signal(rustix::process::Signal::CONT);
    std::thread::sleep(Duration::from_millis(20));
    pager.wake().unwrap();
    paged.hear()
}

#[test]
fn what_happens_after_somebody_elses_thaw_has_happened_after_the_next_wake() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let mut paged = forks();
    let members = tree(paged.pid().as_raw_nonzero().get());
    let mut pager = pager(by_signals(), folder.path());
    paged.ask("set 1");
    // Written, and unmapped.
    for (told, there) in [("set 2", "[2]"), ("set 3", "[3]"), ("new", "[0]"), ("set 4", "[4]")] {
        assert_eq!(thawed_and_woken(&mut paged, &members, &mut pager, told), there);
        page_out(&mut pager, &members);
        pager.wake().unwrap();
        assert_eq!(paged.ask("get"), there);
    }
}

#[test]
fn who_is_killed_while_it_is_brought_back_keeps_nobody_away() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let mut random = Random(8);
    for _ in 0..20 {
        let mut paged = forks();
        paged.ask("set 1");
        let members = tree(paged.pid().as_raw_nonzero().get());
        let mut pager = pager(by_signals(), folder.path());
        page_out(&mut pager, &members);
        let delay = Duration::from_micros(random.below(6000));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(delay);
                paged.signal(rustix::process::Signal::KILL);
            });
            pager.wake().unwrap();
        });
        assert_eq!(paged.end(), None);
    }
}

#[test]
fn whoever_manages_it_next_pages_it_too() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let mut paged = Target::start("serve --seed 81 --mib 4 --threads 2");
    let members = tree(paged.pid().as_raw_nonzero().get());
    for turn in 0..3 {
        let mut pager = pager(by_signals(), folder.path());
        paged.step(5);
        let report = page_out(&mut pager, &members);
        assert!(report.dropped_bytes > 4 << 20, "manager {turn}: {report:?}");
        pager.wake().unwrap();
        pager.release();
        paged.check();
    }
}

#[test]
fn without_its_pager_it_waits_and_never_reads_zeros() {
    let _alone = alone();
    let mut paged = Target::start("serve --seed 51 --mib 8 --threads 2");
    paged.check();
    let pid = paged.pid().as_raw_nonzero().get();
    let example = target::shapes().with_file_name("page");
    let mut other = Target::of(std::process::Command::new(example).arg(pid.to_string()));
    assert!(other.ask("o").starts_with("PageOut"));
    other.signal(rustix::process::Signal::KILL);
    other.end();
    // Before the thaw: a reader that waits for a page holds up who writes to its pipe.
    paged.tell("check");
    paged.signal(rustix::process::Signal::CONT);
    std::thread::sleep(Duration::from_millis(300));
    let waits = std::fs::read_dir(format!("/proc/{pid}/task"))
        .unwrap()
        .flatten()
        .any(|task| std::fs::read_to_string(task.path().join("wchan")).is_ok_and(|wchan| wchan.contains("userfault")));
    assert!(waits, "it waits for its pages, and says nothing");
}

#[test]
fn a_call_that_hangs_is_interrupted_and_leaves_no_trace() {
    let _alone = alone();
    let mut paged = Target::start("serve --seed 61 --mib 4 --threads 1");
    let before = paged.check();
    let mut stopped = Stopped::begin(paged.pid().as_raw_nonzero().get()).unwrap();
    stopped.settle(Instant::now() + Duration::from_secs(1)).unwrap();
    let a_minute = [0, 0, 60_000, 0, 0, 0];
    assert!(stopped.call(libc::SYS_poll, a_minute).is_err());
    drop(stopped);
    assert_eq!(paged.check(), before);
}
