//! Many threads at once: nobody reads wrong bytes, nothing is lost, nobody waits for ever.

mod common;

use agentmem_core::frame::Meta;
use agentmem_core::{Advice, Error, ErrorKind, Kind};
use agentmem_store::{Agent, Conversation, OnFull, Options, Smu, Store};
use common::{Random, agent, assert_empty, content_bytes, noise, options, read_all, text};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Content that tells whether it is whole: its length and seed come first, and the rest follows from them.
fn signed(random: &mut Random) -> Vec<u8> {
    let seed = random.below(40);
    let len = match random.below(40) {
        0 => 1_200_000,
        1..=3 => 100_000 + random.below(100_000) as usize,
        _ => 24 + random.below(6000) as usize,
    };
    // The same seed does not always have the same length, so that some are shared and some are not.
    let len = if seed < 20 { 24 + seed as usize * 300 } else { len };
    let mut content = if seed.is_multiple_of(5) { noise(seed, len) } else { text(seed, len) };
    content[..8].copy_from_slice(&seed.to_le_bytes());
    content[8..16].copy_from_slice(&(len as u64).to_le_bytes());
    content
}

fn is_whole(content: &[u8]) -> bool {
    let seed = u64::from_le_bytes(content[..8].try_into().unwrap());
    let len = u64::from_le_bytes(content[8..16].try_into().unwrap()) as usize;
    let expected = if seed.is_multiple_of(5) { noise(seed, len) } else { text(seed, len) };
    content.len() == len && content[16..] == expected[16..]
}

struct Bench<'a> {
    store: &'a Store,
    stop: &'a AtomicBool,
    /// Steps done, so that a test that hangs is told from one that is slow.
    steps: &'a AtomicU64,
    has_ledger: bool,
}

/// A store whose budget is full of other threads' pins may say so; it may say nothing else.
fn patient<T>(outcome: Result<T, Error>) -> Option<T> {
    match outcome {
        Ok(value) => Some(value),
        Err(error) if error.kind() == ErrorKind::OutOfMemory => None,
        Err(error) => panic!("{error}"),
    }
}

struct Worker<'a> {
    bench: &'a Bench<'a>,
    agent: Agent,
    random: Random,
    held: Vec<(Smu, Vec<u8>)>,
    talks: Vec<(Conversation, Vec<Vec<u8>>)>,
}

impl Worker<'_> {
    fn run(mut self) {
        while !self.bench.stop.load(Ordering::Relaxed) {
            self.step();
            self.bench.steps.fetch_add(1, Ordering::Relaxed);
        }
        for (smu, content) in &self.held {
            assert!(*smu.view().unwrap() == content[..]);
        }
        for (conversation, messages) in &self.talks {
            assert!(read_all(conversation).unwrap() == *messages);
        }
        for (smu, _) in &self.held {
            self.agent.release(smu, OnFull::Wait).unwrap();
        }
        for (conversation, _) in &self.talks {
            self.agent.release_conversation(conversation).unwrap();
        }
    }

    fn pick(&mut self, len: usize) -> usize {
        self.random.below(len as u64) as usize
    }

    fn step(&mut self) {
        match self.random.below(20) {
            0..=4 => {
                let content = signed(&mut self.random);
                if let Some(smu) = patient(self.agent.put(&content, Kind::ToolResult, None, 50, OnFull::Wait)) {
                    self.held.push((smu, content));
                }
                if self.held.len() > 40 {
                    let at = self.pick(self.held.len());
                    let (smu, _) = self.held.swap_remove(at);
                    self.agent.release(&smu, OnFull::Wait).unwrap();
                }
            }
            5..=9 if !self.held.is_empty() => {
                let at = self.pick(self.held.len());
                let (smu, content) = &self.held[at];
                let Some(view) = patient(smu.view()) else { return };
                assert!(is_whole(&view) && *view == content[..], "wrong bytes");
                if at.is_multiple_of(8) {
                    std::thread::sleep(Duration::from_millis(2));
                    assert!(is_whole(&view), "bytes changed under a pin");
                }
            }
            10 if !self.held.is_empty() => {
                let at = self.pick(self.held.len());
                let id = patient(self.held[at].0.id()).unwrap();
                let again = self.agent.attach_id(&id).unwrap();
                let content = self.held[at].1.clone();
                self.held.push((again, content));
            }
            11..=14 => {
                if self.talks.len() < 4 {
                    self.talks.push((self.agent.conversation(None).unwrap(), Vec::new()));
                }
                let at = self.pick(self.talks.len());
                for _ in 0..self.random.below(30) {
                    let message = signed(&mut self.random);
                    let (conversation, messages) = &mut self.talks[at];
                    if patient(conversation.append(&message, Meta::default(), OnFull::Wait)).is_some() {
                        messages.push(message);
                    }
                }
            }
            15..=16 if !self.talks.is_empty() => {
                let at = self.pick(self.talks.len());
                let len = self.talks[at].1.len();
                if len > 0 {
                    let index = self.pick(len);
                    let (conversation, messages) = &self.talks[at];
                    let found = conversation.read(index as u64, u64::MAX).unwrap();
                    assert!(found.iter().zip(&messages[index..]).all(|(found, message)| found.bytes == *message));
                }
            }
            17 if !self.talks.is_empty() => {
                let at = self.pick(self.talks.len());
                let (conversation, messages) = &self.talks[at];
                let keep = self.random.below(messages.len() as u64 + 1);
                let forked = conversation.fork(&self.agent, Some(keep), None).unwrap();
                let messages = messages[..keep as usize].to_vec();
                self.talks.push((forked, messages));
            }
            18 if self.talks.len() > 5 => {
                let at = self.pick(self.talks.len());
                let (conversation, messages) = self.talks.swap_remove(at);
                assert!(read_all(&conversation).unwrap() == messages, "a conversation changed");
                self.agent.release_conversation(&conversation).unwrap();
            }
            19 if !self.held.is_empty() => {
                let at = self.pick(self.held.len());
                self.held[at].0.advise(Advice::Cold).unwrap();
            }
            _ => {}
        }
    }
}

/// Agents that come, do something with what others have, and go with everything they hold.
fn come_and_go(bench: &Bench<'_>) {
    let mut random = Random::new(99);
    while !bench.stop.load(Ordering::Relaxed) {
        let agent = common::agent(bench.store, "passing");
        let conversation = agent.conversation(Some("short")).unwrap();
        for _ in 0..random.below(60) {
            let content = signed(&mut random);
            let _ = patient(agent.put(&content, Kind::ToolResult, Some("common"), 50, OnFull::Wait));
            let _ = patient(conversation.append(&content, Meta::default(), OnFull::Wait));
        }
        if let Ok(smu) = agent.attach_name("common") {
            assert!(patient(smu.view()).is_none_or(|view| is_whole(&view)));
        }
        agent.close().unwrap();
        bench.steps.fetch_add(1, Ordering::Relaxed);
    }
}

/// The thread that everybody else's bytes are moved by.
fn disturb(bench: &Bench<'_>) {
    let mut random = Random::new(7);
    while !bench.stop.load(Ordering::Relaxed) {
        match random.below(4) {
            0 => drop(bench.store.reclaim(Some(0)).unwrap()),
            1 if bench.has_ledger => bench.store.flush().unwrap(),
            2 => {
                let found = bench.store.verify().unwrap();
                assert!(found.damaged.is_empty(), "{found:?}");
            }
            _ => drop(bench.store.stats().unwrap()),
        }
        bench.steps.fetch_add(1, Ordering::Relaxed);
    }
}

fn run(options: Options, seconds: u64) {
    let has_ledger = options.path.is_some();
    let memory_max_bytes = options.memory_max_bytes;
    let store = Store::open(options).unwrap();
    let empty_bytes = content_bytes(&store.stats().unwrap());
    let (stop, steps) = (AtomicBool::new(false), AtomicU64::new(0));
    let bench = Bench { store: &store, stop: &stop, steps: &steps, has_ledger };
    std::thread::scope(|scope| {
        let mut threads = Vec::new();
        for number in 0..3u64 {
            let agent = common::agent(&store, &format!("worker-{number}"));
            let random = Random::new(number + 1);
            let worker = Worker { bench: &bench, agent, random, held: Vec::new(), talks: Vec::new() };
            threads.push(scope.spawn(|| worker.run()));
        }
        threads.push(scope.spawn(|| come_and_go(&bench)));
        threads.push(scope.spawn(|| disturb(&bench)));
        let start = Instant::now();
        let (mut seen, mut moved) = (0, Instant::now());
        while start.elapsed() < Duration::from_secs(seconds) && !threads.iter().any(|thread| thread.is_finished()) {
            std::thread::sleep(Duration::from_millis(50));
            let now = steps.load(Ordering::Relaxed);
            if now != seen {
                (seen, moved) = (now, Instant::now());
            }
            if moved.elapsed() > Duration::from_secs(30) {
                // Joining would wait for ever.
                eprintln!("nothing moved for 30 seconds");
                std::process::abort();
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    let resident_bytes = store.stats().unwrap().resident_bytes;
    assert!(resident_bytes < memory_max_bytes * 11 / 10, "{resident_bytes}");
    let found = store.verify().unwrap();
    assert!(found.damaged.is_empty(), "{found:?}");
    assert_empty(&store, empty_bytes);
    store.close().unwrap();
}

fn persistent(seconds: u64) {
    let folder = tempfile::tempdir().unwrap();
    run(Options { path: Some(folder.path().to_owned()), ..options(24 << 20) }, seconds);
}

fn temporary(seconds: u64) {
    run(options(24 << 20), seconds);
}

/// With what behaves like the kernel module.
fn held(seconds: u64) {
    let folder = tempfile::tempdir().unwrap();
    let path = Some(folder.path().to_owned());
    run(Options { path, fakes_module: true, ..options(24 << 20) }, seconds);
}

fn in_ram(seconds: u64) {
    run(Options { cold: false, ..options(64 << 20) }, seconds);
}

// One after the other, since two cores are kept busy by one of them. The long one:
// cargo test -p agentmem-store --release --test stress -- --ignored
#[test]
fn threads_agree() {
    persistent(5);
    temporary(3);
    held(3);
    in_ram(3);
}

#[test]
#[ignore = "minutes"]
fn threads_agree_for_long() {
    persistent(60);
    temporary(30);
    held(30);
    in_ram(30);
}

/// Whoever closes a store leaves no one hanging and nothing half read: others get an error.
#[test]
fn flushes_end_while_others_put_and_pack() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(Options { path: Some(folder.path().join("store")), ..options(64 << 20) }).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for number in 0..3u64 {
            let (store, stop) = (&store, &stop);
            scope.spawn(move || {
                let agent = agent(store, &format!("agent-{number}"));
                let mut talk = agent.conversation(None).unwrap();
                for turn in 0u64.. {
                    if stop.load(Ordering::Acquire) {
                        return;
                    }
                    // Conversations that fill a frame soon, and contents that are packed at a flush.
                    talk.append(&noise(number << 32 | turn, 60_000), Meta::default(), OnFull::Wait).unwrap();
                    let smu = agent.put(&text(number << 32 | turn, 2000), Kind::ToolResult, None, 50, OnFull::Wait);
                    agent.release(&smu.unwrap(), OnFull::Wait).unwrap();
                    if turn % 100 == 99 {
                        agent.release_conversation(&talk).unwrap();
                        talk = agent.conversation(None).unwrap();
                    }
                }
            });
        }
        for _ in 0..12 {
            store.flush().unwrap();
        }
        stop.store(true, Ordering::Release);
    });
    store.close().unwrap();
}

#[test]
fn a_store_closes_under_its_users() {
    for round in 0..10u64 {
        let store = Store::open(options(24 << 20)).unwrap();
        std::thread::scope(|scope| {
            for number in 0..3 {
                let agent = common::agent(&store, &format!("worker-{number}"));
                let store = &store;
                scope.spawn(move || {
                    let mut random = Random::new(round * 3 + number);
                    let work = || -> Result<(), Error> {
                        let conversation = agent.conversation(None)?;
                        let mut messages = 0;
                        loop {
                            let content = signed(&mut random);
                            let smu = agent.put(&content, Kind::ToolResult, None, 50, OnFull::Wait)?;
                            conversation.append(&content, Meta::default(), OnFull::Wait)?;
                            messages += 1;
                            let view = smu.view()?;
                            assert!(is_whole(&view));
                            drop(view);
                            if messages % 20 == 0 {
                                assert_eq!(conversation.read(messages - 1, messages)?[0].bytes, content);
                                smu.id()?;
                                store.verify()?;
                                store.stats()?;
                                store.reclaim(Some(0))?;
                            }
                        }
                    };
                    let error = { work }().unwrap_err();
                    assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
                });
            }
            std::thread::sleep(Duration::from_millis(30 + round * 10));
            store.close().unwrap();
        });
    }
}
