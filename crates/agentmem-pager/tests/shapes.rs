//! `shapes` itself: it is right about untouched memory whatever happens to it, and notices any byte that is not.

mod target;

use agentmem_core::codec::Compressor;
use rustix::process::Signal;
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;
use target::{Place, Target, damage, memory, parse};

/// Numbers that depend on a seed alone.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (self.0 >> 33) % limit
    }
}

#[test]
fn the_same_seed_answers_the_same() {
    let arguments = "serve --seed 11 --mib 12 --threads 6 --children 3 --ticking";
    let (mut one, mut other) = (Target::start(arguments), Target::start(arguments));
    for round in 1..=12 {
        let stepped = one.step(150);
        assert_eq!(stepped.steps, round * 150);
        assert_eq!(stepped, one.check());
        assert_eq!(stepped, other.step(150));
    }
    assert_eq!(one.check(), other.check());
    assert_ne!(one.check().digest, Target::start(&arguments.replace("11", "12")).step(1800).digest);
    parse(&one.ask("quit"));
    assert_eq!(one.end(), Some(0));
}

/// Stops and continues `target` at random moments until `done`.
fn stop_and_go(pids: &[rustix::process::Pid], seed: u64, done: &AtomicBool) {
    let mut random = Random(seed);
    while !done.load(Ordering::Relaxed) {
        for signal in [Signal::STOP, Signal::CONT] {
            for &pid in pids {
                // A child may have been replaced by another one.
                let _ = rustix::process::kill_process(pid, signal);
            }
            thread::sleep(Duration::from_micros(random.below(3000)));
        }
    }
}

#[test]
fn stops_change_nothing() {
    let arguments = "serve --seed 21 --mib 12 --threads 6 --children 1 --ticking";
    let (mut stopped, mut untouched) = (Target::start(arguments), Target::start(arguments));
    let pids = [stopped.pid()];
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| stop_and_go(&pids, 5, &done));
        for _ in 0..20 {
            assert_eq!(stopped.step(100), untouched.step(100));
            stopped.check();
        }
        done.store(true, Ordering::Relaxed);
    });
    assert_eq!(stopped.check(), untouched.check());
}

#[test]
fn runs_by_itself() {
    for arguments in ["--threads 3", "--threads 4 --children 4 --ticking"] {
        let mut target = Target::start(&format!("run --seed 31 --seconds 3 --mib 12 {arguments}"));
        assert!(parse(&target.hear()).steps > 0);
        assert_eq!(target.end(), Some(0));
    }
}

#[test]
fn sleeps_between_commands() {
    let mut target = Target::start("serve --seed 41 --mib 8 --threads 6");
    target.step(100);
    let switches = |target: &Target| -> u64 {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", target.pid())).unwrap();
        let of_task = |task: std::fs::DirEntry| {
            let status = std::fs::read_to_string(task.path().join("status")).unwrap();
            let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")).unwrap();
            line.trim().parse::<u64>().unwrap()
        };
        tasks.map(|task| of_task(task.unwrap())).sum()
    };
    // It may take a moment until the last thread is back at rest.
    let rests = |_| {
        let before = switches(&target);
        thread::sleep(Duration::from_millis(300));
        switches(&target) == before
    };
    assert!((0..100).any(rests));
    // Without a signal that wakes it, a sleeping thread would miss this.
    target.check();
}

/// Starts `shapes`, damages a byte of the shape called `name`, and expects to be told which one.
fn is_noticed(arguments: &str, name: &str, random: &mut Random) {
    let mut target = Target::start(arguments);
    target.step(60);
    let of_shape: Vec<Place> = target.places().into_iter().filter(|place| place.name == name).collect();
    let place = &of_shape[random.below(of_shape.len() as u64) as usize];
    let at = place.at + random.below(place.len as u64);
    damage(place.pid, at, random.below(8) as u32);
    let told = target.ask("check");
    assert!(told.starts_with(&format!("wrong {name} at {at:#x} expected ")), "{told} and not {name} at {at:#x}");
    assert_eq!(target.end(), Some(1));
}

fn names(arguments: &str) -> BTreeSet<String> {
    Target::start(arguments).places().into_iter().map(|place| place.name).collect()
}

#[test]
fn damage_of_every_shape_is_noticed() {
    let arguments = "serve --seed 51 --mib 4 --children 2";
    let mut random = Random(51);
    let names = names(arguments);
    let own: Vec<&String> = names.iter().filter(|name| !name.contains('/')).collect();
    assert!(own.len() >= 20, "{own:?}");
    for name in own {
        is_noticed(arguments, name, &mut random);
        is_noticed(arguments, name, &mut random);
    }
}

#[test]
fn damage_of_threads_and_children_is_noticed() {
    let arguments = "serve --seed 61 --mib 4 --threads 1 --children 3 --ticking";
    let mut random = Random(61);
    let mut of_party: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for name in names(arguments) {
        if let Some((party, _)) = name.rsplit_once('/') {
            of_party.entry(party.to_owned()).or_default().push(name);
        }
    }
    // The ticking thread finds it by itself, if it is not rewritten by chance.
    of_party.remove("ticker");
    let parties: Vec<&str> = of_party.keys().map(String::as_str).collect();
    assert_eq!(parties, ["child0", "child0/thread0", "child1", "child2", "child2/thread0", "thread0"]);
    for names in of_party.values() {
        for _ in 0..3 {
            is_noticed(arguments, &names[random.below(names.len() as u64) as usize], &mut random);
        }
    }
}

/// What a pager with an old copy would bring back.
#[test]
fn an_old_page_is_noticed() {
    const PAGE: usize = 4096;
    for name in ["again", "huge", "anonymous"] {
        let mut target = Target::start("serve --seed 81 --mib 4");
        let of_shape = |target: &mut Target| target.places().into_iter().find(|place| place.name == name).unwrap();
        let place = of_shape(&mut target);
        let memory = memory(place.pid);
        let content = || {
            let mut content = vec![0; place.len];
            memory.read_exact_at(&mut content, place.at).unwrap();
            content
        };
        let before = content();
        let changed = |now: &[u8]| (0..place.len).step_by(PAGE).find(|&at| now[at..][..PAGE] != before[at..][..PAGE]);
        let at = loop {
            target.step(20);
            assert_eq!(of_shape(&mut target).at, place.at, "this seed moves the place");
            if let Some(at) = changed(&content()) {
                break at;
            }
        };
        target.check();
        memory.write_all_at(&before[at..][..PAGE], place.at + at as u64).unwrap();
        let told = target.ask("check");
        assert!(told.starts_with(&format!("wrong {name} at ")), "{told}");
    }
}

#[test]
fn an_agent_like_heap_shrinks_like_one() {
    let mut target = Target::start("compress-like --seed 71 --mib 32");
    target.step(100);
    target.check();
    let places = target.places();
    let mut compressor = Compressor::new(3).unwrap();
    let (mut whole, mut shrunk) = (0, 0);
    for place in &places {
        let memory = memory(place.pid);
        for at in (place.at..place.at + place.len as u64).step_by(1 << 16) {
            let mut block = vec![0; 1 << 16];
            memory.read_exact_at(&mut block, at).unwrap();
            whole += block.len();
            shrunk += compressor.compress(&[&block]).unwrap().len();
        }
    }
    let ratio = whole as f64 / shrunk as f64;
    assert!((5.0..7.0).contains(&ratio), "{ratio}");
}
