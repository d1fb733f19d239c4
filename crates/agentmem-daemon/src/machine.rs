//! What the kernel says of memory: of the machine, of the cgroups (version 2) that the daemon is in, and how long tasks
//! waited for it.

use crate::headroom::{Room, Sight};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Part of the time in which some task waited for memory, from which on it is a stall.
const STALLED_SHARE: f64 = 0.1;
/// The same, as the kernel is asked to tell of it: of each second, or of two, which needs no rights. In microseconds.
const TRIGGERS: [&str; 2] = ["some 100000 1000000", "some 200000 2000000"];

/// Where all this is read, and what was read there before.
#[derive(Debug)]
pub struct Machine {
    proc: PathBuf,
    /// Of the own cgroup and those that it lies in.
    cgroups: Vec<PathBuf>,
    /// Of the machine, and of the own cgroup.
    pressures: Vec<Pressure>,
    ran_out: Option<u64>,
}

/// Where the kernel counts for how long tasks waited.
#[derive(Debug)]
struct Pressure {
    path: PathBuf,
    /// Ready when there is a stall; nothing where the kernel does not offer that, or to others.
    trigger: Option<File>,
    /// Microseconds, and when they were read.
    before: Option<(u64, Instant)>,
}

impl Machine {
    /// As this process sees it.
    pub fn own() -> Self {
        let mut machine = Self::at(Path::new("/proc"), agentmem_pager::cgroup::own_folder().as_deref());
        machine.pressures.iter_mut().for_each(Pressure::arm);
        machine
    }

    /// As it is said in the folder `proc`, and in `cgroup` and those around it.
    fn at(proc: &Path, cgroup: Option<&Path>) -> Self {
        let is_cgroup = |folder: &&Path| folder.join("cgroup.controllers").exists();
        let cgroups: Vec<PathBuf> =
            cgroup.into_iter().flat_map(Path::ancestors).take_while(is_cgroup).map(Path::to_owned).collect();
        let pressures = std::iter::once(proc.join("pressure/memory"));
        let pressures = pressures.chain(cgroups.first().map(|own| own.join("memory.pressure")));
        let pressures = pressures.map(|path| Pressure { path, trigger: None, before: None }).collect();
        let mut machine = Machine { proc: proc.to_owned(), cgroups, pressures, ran_out: None };
        // What was before does not count.
        machine.look();
        machine
    }

    /// Waits for `pause`, or until there is a stall.
    pub fn wait(&mut self, pause: Duration) {
        let timeout = Timespec::try_from(pause).ok();
        let armed: Vec<&File> = self.pressures.iter().filter_map(|pressure| pressure.trigger.as_ref()).collect();
        let mut awaited: Vec<PollFd<'_>> = armed.iter().map(|trigger| PollFd::new(*trigger, PollFlags::PRI)).collect();
        if poll(&mut awaited, timeout.as_ref()).is_err() {
            std::thread::sleep(pause);
        }
        let is_gone = awaited.iter().any(|awaited| awaited.revents().intersects(PollFlags::ERR | PollFlags::NVAL));
        if is_gone {
            // Its cgroup was removed: looking from time to time must do.
            self.pressures.iter_mut().for_each(|pressure| pressure.trigger = None);
        }
    }

    /// What there is to see now.
    pub fn look(&mut self) -> Sight {
        let machine = read(&self.proc.join("meminfo")).and_then(|text| meminfo(&text));
        let rooms = machine.into_iter().chain(self.cgroups.iter().filter_map(|folder| room(folder))).collect();
        let mut is_stalled = false;
        for pressure in &mut self.pressures {
            is_stalled |= pressure.is_stalled();
        }
        let ran_out: u64 = self.cgroups.iter().filter_map(|folder| count(folder, "memory.events.local", "oom")).sum();
        let before = self.ran_out.replace(ran_out);
        Sight { rooms, is_stalled, ran_out: before.is_some_and(|before| ran_out > before) }
    }
}

impl Pressure {
    /// Asks the kernel to tell of stalls at once.
    fn arm(&mut self) {
        let asked = TRIGGERS.iter().find_map(|trigger| {
            let nonblocking = rustix::fs::OFlags::NONBLOCK.bits() as i32;
            let mut file = File::options().read(true).write(true).custom_flags(nonblocking).open(&self.path).ok()?;
            file.write_all(trigger.as_bytes()).ok().map(|()| file)
        });
        self.trigger = asked;
    }

    /// Whether tasks waited for so much of the time since the last look.
    fn is_stalled(&mut self) -> bool {
        let Some(now_us) = read(&self.path).and_then(|text| waited_us(&text)) else { return false };
        let now = Instant::now();
        let Some((before_us, before)) = self.before.replace((now_us, now)) else { return false };
        let passed_us = now.duration_since(before).as_micros().max(1) as f64;
        now_us.saturating_sub(before_us) as f64 >= passed_us * STALLED_SHARE
    }
}

fn read(path: &Path) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

/// The machine's memory, from /proc/meminfo.
fn meminfo(text: &str) -> Option<Room> {
    let bytes = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.split_ascii_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
    };
    Some(Room { total_bytes: bytes("MemTotal")?, available_bytes: bytes("MemAvailable")? })
}

/// A cgroup's memory, where it has a limit. What the kernel can have back of it without anybody's doing is available.
fn room(folder: &Path) -> Option<Room> {
    let number = |name: &str| read(&folder.join(name))?.trim().parse::<u64>().ok();
    // Without a limit it says "max".
    let total_bytes = number("memory.max").into_iter().chain(number("memory.high")).min()?;
    let of_stat = |name| count(folder, "memory.stat", name).unwrap_or(0);
    let spare_bytes = of_stat("inactive_file") + of_stat("active_file") + of_stat("slab_reclaimable");
    let taken_bytes = number("memory.current")?.saturating_sub(spare_bytes);
    Some(Room { total_bytes, available_bytes: total_bytes.saturating_sub(taken_bytes) })
}

/// What a cgroup's file says behind a name.
fn count(folder: &Path, file: &str, name: &str) -> Option<u64> {
    let text = read(&folder.join(file))?;
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

/// For how long some task has waited, in microseconds.
fn waited_us(text: &str) -> Option<u64> {
    let some = text.lines().find_map(|line| line.strip_prefix("some "))?;
    some.split_ascii_whitespace().find_map(|word| word.strip_prefix("total=")?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// A folder with these files.
    struct Fake(tempfile::TempDir);

    impl Fake {
        fn new(files: &[(&str, &str)]) -> Self {
            let fake = Fake(tempfile::tempdir().unwrap());
            files.iter().for_each(|(name, text)| fake.write(name, text));
            fake
        }

        fn write(&self, name: &str, text: &str) {
            let path = self.0.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }

        fn machine(&self) -> Machine {
            Machine::at(&self.0.path().join("proc"), Some(&self.0.path().join("slice/daemon")))
        }
    }

    fn stalled(total_us: u64) -> String {
        format!("some avg10=0.00 avg60=0.00 avg300=0.00 total={total_us}\nfull avg10=0.00 total=99999999999\n")
    }

    #[test]
    fn the_machine_and_every_cgroup_with_a_limit_are_seen() {
        let fake = Fake::new(&[
            ("proc/meminfo", "MemTotal:       16384 kB\nMemFree:  1 kB\nMemAvailable:    8192 kB\n"),
            ("slice/cgroup.controllers", "memory"),
            ("slice/memory.max", "1073741824\n"),
            ("slice/memory.high", "536870912\n"),
            ("slice/memory.current", "419430400\n"),
            ("slice/memory.stat", "anon 1\nfile 9\ninactive_file 104857600\nactive_file 10\nslab_reclaimable 5\n"),
            ("slice/daemon/cgroup.controllers", ""),
            ("slice/daemon/memory.max", "max\n"),
            ("slice/daemon/memory.high", "max\n"),
        ]);
        let sight = fake.machine().look();
        let machine = Room { total_bytes: 16 * MIB, available_bytes: 8 * MIB };
        let slice = Room { total_bytes: 512 * MIB, available_bytes: 212 * MIB + 15 };
        assert_eq!(sight, Sight { rooms: vec![machine, slice], is_stalled: false, ran_out: false });
        fake.write("slice/memory.current", "99999999999\n");
        assert_eq!(fake.machine().look().rooms[1].available_bytes, 0, "beyond its limit");
    }

    #[test]
    fn stalls_are_what_came_since_the_last_look() {
        for path in ["proc/pressure/memory", "slice/daemon/memory.pressure"] {
            let fake = Fake::new(&[("slice/daemon/cgroup.controllers", ""), (path, &stalled(10_000_000))]);
            let mut machine = fake.machine();
            assert!(!machine.look().is_stalled, "before it began");
            // An hour's worth, in a moment.
            fake.write(path, &stalled(3_610_000_000));
            assert!(machine.look().is_stalled, "{path}");
            assert!(!machine.look().is_stalled, "and none since");
        }
    }

    #[test]
    fn that_a_cgroup_ran_out_is_told_once() {
        let events = "slice/daemon/memory.events.local";
        let fake = Fake::new(&[("slice/daemon/cgroup.controllers", ""), (events, "high 7\noom 3\noom_kill 1\n")]);
        let mut machine = fake.machine();
        assert!(!machine.look().ran_out);
        fake.write(events, "high 9\noom 4\noom_kill 1\n");
        assert!(machine.look().ran_out && !machine.look().ran_out);
    }

    #[test]
    fn what_is_not_there_or_makes_no_sense_is_not_heeded() {
        let nothing = Fake::new(&[]);
        assert_eq!(nothing.machine().look(), Sight::default());
        let odd = Fake::new(&[
            ("proc/meminfo", "MemTotal: lots\n"),
            ("proc/pressure/memory", "some avg10=1\n"),
            ("slice/daemon/cgroup.controllers", ""),
            ("slice/daemon/memory.max", "12\n"),
            ("slice/daemon/memory.events.local", "oom many\n"),
        ]);
        assert_eq!(odd.machine().look(), Sight::default());
    }

    /// The kernel's own files: where it offers them, this process may at least read.
    #[test]
    fn this_machine_is_seen() {
        let mut machine = Machine::own();
        let room = machine.look().rooms[0];
        assert!(0 < room.available_bytes && room.available_bytes < room.total_bytes, "{room:?}");
        for pressure in &machine.pressures {
            assert_eq!(pressure.path.exists(), pressure.before.is_some(), "{}", pressure.path.display());
        }
        machine.wait(Duration::from_millis(1));
    }

    /// A cgroup of the test's own, and the kernel's trigger on it. Nothing where there are none to be had.
    #[test]
    fn a_trigger_is_armed_and_given_up_when_its_cgroup_is_gone() {
        let Some(own) = agentmem_pager::cgroup::own_folder() else { return println!("skipped: no cgroup version 2") };
        let folder = own.join(format!("agentmem-test-{}", std::process::id()));
        if let Err(error) = std::fs::create_dir(&folder) {
            return println!("skipped: {}: {error}", folder.display());
        }
        let mut machine = Machine::at(Path::new("/nowhere"), Some(&folder));
        machine.pressures.iter_mut().for_each(Pressure::arm);
        let armed = machine.pressures.iter().filter(|pressure| pressure.trigger.is_some()).count();
        let offered = folder.join("memory.pressure").exists();
        // Nobody is in it, so nobody waits.
        machine.wait(Duration::from_millis(10));
        let kept = machine.pressures.iter().filter(|pressure| pressure.trigger.is_some()).count();
        std::fs::remove_dir(&folder).unwrap();
        assert_eq!((armed, kept), (usize::from(offered), usize::from(offered)));
        machine.wait(Duration::from_millis(10));
        assert!(machine.pressures.iter().all(|pressure| pressure.trigger.is_none()));
        assert_eq!(machine.look(), Sight::default());
    }
}
