//! kill -9 at any moment: what was flushed is there, the rest is there whole or not at all.
//!
//! The parent starts this same binary as a child, which works on a store and says what it flushed; kills it;
//! opens the store and looks. The next child goes on where the last one was killed.

mod common;

use agentmem_core::frame::Meta;
use agentmem_core::{Advice, ErrorKind, Kind};
use agentmem_store::{OnFull, Options, Smu, Store};
use common::{Random, agent, noise, options, read_all, text};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

const TALKS: u64 = 3;
const FOLDER: &str = "AGENTMEM_KILL_FOLDER";
const STATE: &str = "AGENTMEM_KILL_STATE";

fn open(path: &Path) -> Store {
    Store::open(Options { path: Some(path.to_owned()), ..options(24 << 20) }).unwrap()
}

fn message(talk: u64, index: u64) -> Vec<u8> {
    let seed = talk << 32 | index;
    let len = match index % 50 {
        7 => 70_000,
        _ => (seed.wrapping_mul(0x9E37_79B9) % 1500) as usize,
    };
    text(seed, len)
}

fn content(number: u64) -> Vec<u8> {
    let len = match number % 20 {
        3 => 1_100_000,
        11 => 120_000,
        _ => 200 + (number * 77 % 3000) as usize,
    };
    if number % 4 == 1 { noise(number, len) } else { text(number, len) }
}

/// What is certain: messages flushed of each conversation, contents flushed, and contents that a flush may
/// have forgotten.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Certain {
    messages: Vec<u64>,
    put: u64,
    released: u64,
}

impl Certain {
    fn to_line(&self) -> String {
        let messages: Vec<String> = self.messages.iter().map(u64::to_string).collect();
        format!("{} {} {}", self.put, self.released, messages.join(" "))
    }

    fn from_line(line: &str) -> Self {
        let numbers: Vec<u64> = line.split_whitespace().map(|word| word.parse().unwrap()).collect();
        Certain { put: numbers[0], released: numbers[1], messages: numbers[2..].to_vec() }
    }
}

/// Not a test: what the killed process does. Without its environment it does nothing.
#[test]
fn child() {
    let (Ok(folder), Ok(state)) = (std::env::var(FOLDER), std::env::var(STATE)) else { return };
    // The test runner leaves its line unfinished, and what is said has lines of its own.
    println!();
    let mut now = Certain::from_line(&state);
    let mut random = Random::new(std::process::id().into());
    let store = open(Path::new(&folder));
    let agent = agent(&store, "a");
    let talks: Vec<_> = (0..TALKS).map(|talk| agent.conversation(Some(&format!("talk-{talk}"))).unwrap()).collect();
    now.messages = talks.iter().map(|talk| talk.len().unwrap()).collect();
    let mut held: BTreeMap<u64, Smu> = BTreeMap::new();
    let mut forks = 0;
    let say = |word: &str, what: &Certain| {
        let mut out = std::io::stdout().lock();
        writeln!(out, "{word} {}", what.to_line()).and_then(|()| out.flush()).unwrap();
    };
    loop {
        match random.below(40) {
            0..=24 => {
                let talk = random.below(TALKS);
                let index = &mut now.messages[talk as usize];
                talks[talk as usize].append(&message(talk, *index), Meta::default(), OnFull::Wait).unwrap();
                *index += 1;
            }
            25..=29 => {
                let name = format!("content-{}", now.put);
                let smu = agent.put(&content(now.put), Kind::ToolResult, Some(&name), 50, OnFull::Wait).unwrap();
                held.insert(now.put, smu);
                now.put += 1;
            }
            30..=31 if now.released + 20 < now.put => {
                let name = format!("content-{}", now.released);
                let is_it = |smu: &Smu| smu.name().is_ok_and(|found| found.as_deref() == Some(&name));
                let smu = held.remove(&now.released).or_else(|| agent.smus().unwrap().into_iter().find(is_it));
                // Lost with an earlier child before it was flushed.
                if let Some(smu) = smu {
                    agent.release(&smu, OnFull::Wait).unwrap();
                }
                now.released += 1;
            }
            32 => {
                let talk = random.below(TALKS);
                let at = random.below(now.messages[talk as usize] + 1);
                forks += 1;
                let name = format!("fork-{talk}-{at}-{}-{forks}", std::process::id());
                talks[talk as usize].fork(&agent, Some(at), Some(&name)).unwrap();
                let names = agent.conversations().unwrap();
                let oldest = names.iter().find(|name| name.starts_with("fork"));
                if let Some(oldest) = oldest.filter(|_| names.len() > 12) {
                    agent.release_conversation(&agent.conversation(Some(oldest)).unwrap()).unwrap();
                }
            }
            33 => drop(store.reclaim(Some(0)).unwrap()),
            34 => talks[random.below(TALKS) as usize].advise(Advice::Cold).unwrap(),
            35..=37 => {
                say("begin", &now);
                store.flush().unwrap();
                say("done", &now);
            }
            _ => std::thread::sleep(Duration::from_micros(random.below(3000))),
        }
    }
}

/// Runs a child for a while and kills it. Returns what it said before a flush and after one, last.
fn run_and_kill(folder: &Path, state: &Certain, life: Duration) -> (Certain, Certain) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture", "--test-threads=1"])
        .env(FOLDER, folder)
        .env(STATE, state.to_line())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap());
    let reader = std::thread::spawn(move || {
        let mut said: BTreeMap<String, Certain> = BTreeMap::new();
        for line in lines.lines().map_while(Result::ok) {
            if let Some((word @ ("begin" | "done"), rest)) = line.split_once(' ') {
                said.insert(word.into(), Certain::from_line(rest));
            }
        }
        said
    });
    std::thread::sleep(life);
    assert!(child.try_wait().unwrap().is_none(), "the child ended by itself");
    child.kill().unwrap();
    child.wait().unwrap();
    let mut said = reader.join().unwrap();
    let mut take = |word: &str| said.remove(word).unwrap_or_else(|| state.clone());
    (take("begin"), take("done"))
}

/// Looks at what a killed child left; returns where the next one goes on.
fn check(folder: &Path, begun: &Certain, done: &Certain) -> Certain {
    let store = open(folder);
    let found = store.verify().unwrap();
    assert!(found.damaged.is_empty() && found.orphans == 0, "{found:?}");
    let agent = agent(&store, "a");
    let mut next = Certain::default();
    for (talk, &flushed) in done.messages.iter().enumerate() {
        let conversation = agent.conversation(Some(&format!("talk-{talk}"))).unwrap();
        let messages = read_all(&conversation).unwrap();
        assert!(messages.len() as u64 >= flushed, "{} messages of {flushed} flushed ones", messages.len());
        for (index, bytes) in messages.iter().enumerate() {
            assert!(*bytes == message(talk as u64, index as u64), "message {index} of talk {talk}");
        }
        next.messages.push(messages.len() as u64);
    }
    for name in agent.conversations().unwrap().iter().filter(|name| name.starts_with("fork")) {
        let mut words = name.split('-').skip(1).map(|word| word.parse::<u64>().unwrap());
        let (talk, at) = (words.next().unwrap(), words.next().unwrap());
        let messages = read_all(&agent.conversation(Some(name)).unwrap()).unwrap();
        assert_eq!(messages.len() as u64, at, "{name}");
        assert!((0..at).zip(&messages).all(|(index, bytes)| *bytes == message(talk, index)), "{name}");
    }
    let put_max = begun.put.max(done.put) + 2000;
    for number in 0..put_max {
        match agent.attach_name(&format!("content-{number}")) {
            Ok(smu) => assert!(*smu.view().unwrap() == content(number)[..], "content {number}"),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
                let is_certain = (begun.released.max(done.released)..done.put).contains(&number);
                assert!(!is_certain, "content {number} was flushed and is lost: {begun:?} {done:?}");
            }
        }
        store.reclaim(Some(if number % 500 == 499 { 0 } else { u64::MAX })).unwrap();
    }
    store.close().unwrap();
    // A child that was killed took its unflushed puts with it; their numbers are put again.
    Certain { put: done.put, released: begun.released.max(done.released).min(done.put), ..next }
}

fn rounds(count: u64, life_max_ms: u64) {
    let folder = tempfile::tempdir().unwrap();
    let mut random = Random::new(std::process::id().into());
    let mut state = Certain { messages: vec![0; TALKS as usize], ..Certain::default() };
    for _ in 0..count {
        let life = Duration::from_millis(30 + random.below(life_max_ms));
        let (begun, done) = run_and_kill(folder.path(), &state, life);
        state = check(folder.path(), &begun, &done);
    }
    assert!(state.messages.iter().sum::<u64>() > 0, "no child came as far as flushing");
}

#[test]
fn what_was_flushed_survives_being_killed() {
    rounds(30, 350);
}

// cargo test -p agentmem-store --release --test kill -- --ignored
#[test]
#[ignore = "minutes"]
fn what_was_flushed_survives_being_killed_often() {
    (0..10).for_each(|_| rounds(40, 400));
}
