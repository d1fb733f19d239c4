//! The engine is killed again and again while agents work: nothing that was put is lost, nothing is wrong, and
//! views that are open stay as they are.

mod common;

use agentmem_core::frame::Meta;
use agentmem_core::{AgentState, ErrorKind, Kind};
use agentmem_store::{Agent, Conversation, OnFull, Smu, Store, View};
use common::daemon::{Daemon, Random, content};
use common::{signal, wait_until};
use rustix::process::Signal;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

/// As many kills, and agents, as these say; few where they say nothing.
const KILLS: &str = "AGENTMEM_KILLS";
const AGENTS: &str = "AGENTMEM_KILLS_AGENTS";

/// One agent, and all that it knows of what it put.
struct Worker {
    store: Store,
    agent: Agent,
    random: Random,
    number: u64,
    put: Vec<(Smu, Vec<u8>)>,
    talks: Vec<(Conversation, Vec<Vec<u8>>)>,
    views: Vec<(View, Vec<u8>)>,
}

impl Worker {
    fn start(daemon: &Daemon, number: u64) -> Self {
        let store = daemon.connect();
        let agent = store.agent(&format!("agent-{number}"), None, None, None).unwrap();
        let talk = agent.conversation(Some("talk")).unwrap();
        let (put, views, talks) = (Vec::new(), Vec::new(), vec![(talk, Vec::new())]);
        Worker { store, agent, random: Random(number * 7919 + 1), number, put, talks, views }
    }

    fn work(&mut self) {
        let pick = self.random.below(1000);
        match pick {
            0..500 => {
                let chosen = self.random.below(self.talks.len() as u64) as usize;
                let len = 1 + self.random.below(3000) as usize;
                // Half of them are the same for every agent.
                let seed = if pick.is_multiple_of(2) { self.random.below(50) } else { self.random.next() };
                let message = content(seed, len);
                let (talk, known) = &mut self.talks[chosen];
                talk.append(&message, Meta::default(), OnFull::Wait).unwrap();
                known.push(message);
            }
            500..800 => {
                let len = match pick % 100 {
                    0 => 1_200_000,
                    1..10 => 60_000,
                    _ => self.random.below(4000) as usize,
                };
                let bytes = content(self.random.below(1 << 20), len);
                let name = (pick % 40 == 7).then(|| format!("name-{}-{}", self.number, self.random.below(9)));
                let smu = self.agent.put(&bytes, Kind::ToolResult, name.as_deref(), 50, OnFull::Wait).unwrap();
                self.put.push((smu, bytes));
            }
            800..860 => self.look(),
            860..900 if self.put.len() > 20 => {
                let (smu, _) = self.put.swap_remove(self.random.below(self.put.len() as u64) as usize);
                self.agent.release(&smu, OnFull::Wait).unwrap();
            }
            900..940 if !self.put.is_empty() => {
                let (smu, bytes) = &self.put[self.random.below(self.put.len() as u64) as usize];
                let again = match pick % 2 {
                    0 => self.agent.attach(smu),
                    _ => self.agent.attach_id(&smu.id().unwrap()),
                };
                let bytes = bytes.clone();
                self.put.push((again.unwrap(), bytes));
            }
            940..960 => {
                let (talk, known) = &self.talks[self.random.below(self.talks.len() as u64) as usize];
                let at = if pick.is_multiple_of(2) { None } else { Some(known.len() as u64 / 2) };
                let fork = talk.fork(&self.agent, at, Some(&format!("fork-{}", self.random.next()))).unwrap();
                let known = known[..at.unwrap_or(known.len() as u64) as usize].to_vec();
                self.talks.push((fork, known));
            }
            960..970 if self.talks.len() > 4 => {
                let (talk, _) = self.talks.swap_remove(1 + self.random.below(self.talks.len() as u64 - 1) as usize);
                self.agent.release_conversation(&talk).unwrap();
            }
            // These may take longer than engines live here.
            970..975 => self.lasting(Store::reclaim(&self.store, None).map(drop)),
            975..977 => self.lasting(self.store.flush()),
            977..985 => {
                let state = if pick.is_multiple_of(2) { AgentState::Paused } else { AgentState::Active };
                self.agent.set_state(state).unwrap();
            }
            _ => {
                let from = self.views.len().saturating_sub(3);
                self.views.drain(..from);
            }
        }
    }

    fn lasting(&self, outcome: agentmem_core::Result<()>) {
        if let Err(error) = outcome {
            assert_eq!(error.kind(), ErrorKind::Unreachable, "agent {}: {error}", self.number);
        }
    }

    /// Opens a view, and looks at some that are open.
    fn look(&mut self) {
        if !self.put.is_empty() {
            let (smu, bytes) = &self.put[self.random.below(self.put.len() as u64) as usize];
            let view = smu.view().unwrap();
            assert!(view.bytes() == bytes, "agent {}: content of {} bytes is wrong", self.number, bytes.len());
            self.views.push((view, bytes.clone()));
        }
        for (view, bytes) in &self.views {
            assert!(view.bytes() == bytes, "agent {}: a view of {} bytes changed", self.number, bytes.len());
        }
    }

    fn check(&mut self) {
        self.look();
        for (at, (smu, bytes)) in self.put.iter().enumerate() {
            let view = smu.view().unwrap_or_else(|error| panic!("agent {}, put {at}: {error}", self.number));
            assert!(view.bytes() == bytes, "agent {}: put {at} of {} bytes is wrong", self.number, bytes.len());
        }
        for (talk, known) in &self.talks {
            assert_eq!(talk.len().unwrap(), known.len() as u64, "agent {}, {}", self.number, talk.name());
            let mut at = 0;
            while at < known.len() {
                for message in talk.read(at as u64, known.len() as u64).unwrap() {
                    assert!(message.bytes == known[at], "agent {}, {}: message {at}", self.number, talk.name());
                    at += 1;
                }
            }
        }
        let charged: usize = self.put.iter().map(|(_, bytes)| bytes.len()).sum();
        let said: usize = self.talks.iter().flat_map(|(_, known)| known).map(Vec::len).sum();
        let used = self.store.agent_stats(self.agent.name()).unwrap().logical_bytes;
        // A reference that was taken twice, since the first answer was lost with the engine, is charged twice.
        assert!(used >= (charged + said) as u64, "agent {}: {used} of {}", self.number, charged + said);
    }
}

fn number_of(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|number| number.parse().expect("a number"))
}

fn killed_while_agents_work(kills: u64, agents: u64, arguments: &[&str]) {
    let daemon = Daemon::start(arguments);
    let (is_over, works) = (AtomicBool::new(false), AtomicUsize::new(0));
    let mut random = Random(4711);
    let workers: Vec<Worker> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..agents)
            .map(|number| {
                let (daemon, is_over, works) = (&daemon, &is_over, &works);
                scope.spawn(move || {
                    let mut worker = Worker::start(daemon, number);
                    while !is_over.load(Ordering::Acquire) {
                        worker.work();
                        works.fetch_add(1, Ordering::Relaxed);
                        // Not all of it at once: the test is of kills, not of a full store.
                        std::thread::sleep(Duration::from_micros(500));
                    }
                    worker
                })
            })
            .collect();
        for _ in 0..kills {
            std::thread::sleep(Duration::from_millis(random.below(300)));
            daemon.kill();
        }
        is_over.store(true, Ordering::Release);
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    println!("{kills} kills, {agents} agents, {} operations", works.load(Ordering::Relaxed));
    let observer = daemon.connect();
    let verified = observer.verify().unwrap();
    assert!(verified.damaged.is_empty(), "{verified:?}");
    for mut worker in workers {
        worker.check();
        drop(worker.views);
        worker.agent.close().unwrap();
        worker.store.close().unwrap();
    }
    let stats = observer.stats().unwrap();
    assert_eq!((stats.agents, stats.smus, stats.conversations), (0, 0, 0), "{}", daemon.log());
}

#[test]
fn nothing_is_lost_by_kills_while_agents_work() {
    let (kills, agents) = (number_of(KILLS).unwrap_or(12), number_of(AGENTS).unwrap_or(4));
    killed_while_agents_work(kills, agents, &["--memory-max=96M"]);
}

#[test]
fn a_folder_and_kills() {
    let folder = tempfile::tempdir().unwrap();
    let path = format!("--path={}", folder.path().join("store").display());
    killed_while_agents_work(
        number_of(KILLS).unwrap_or(8),
        number_of(AGENTS).unwrap_or(3),
        &["--memory-max=96M", &path],
    );
}

#[test]
fn an_agent_that_died_while_no_engine_was_there_is_reaped_unless_it_lasts() {
    let daemon = Daemon::start(&[]);
    let observer = daemon.connect();
    let mut child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "a_child_that_has_an_agent"])
        .env("AGENTMEM_SOCKET", &daemon.0.socket)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    wait_until("the child has an agent", || observer.agents().unwrap().contains(&"child".to_owned()));
    let [_, engine] = daemon.holders()[..] else { panic!("an engine is there") };
    signal(engine, Signal::STOP);
    child.kill().unwrap();
    child.wait().unwrap();
    signal(engine, Signal::KILL);
    wait_until("the child's agent is reaped", || observer.agents().is_ok_and(|agents| agents == ["lasting"]));
    let lasting = observer.agent("lasting", None, None, None).unwrap();
    let talk = lasting.conversation(Some("talk")).unwrap();
    assert_eq!(talk.read(0, 1).unwrap()[0].bytes, b"what it said");
}

#[test]
#[ignore = "is started by another"]
fn a_child_that_has_an_agent() {
    let socket = std::env::var_os("AGENTMEM_SOCKET").expect("whoever starts it says where");
    let store = Store::connect(Path::new(&socket), None, OnFull::Wait).unwrap();
    let lasting = store.lasting_agent("lasting", None, None, None).unwrap();
    let talk = lasting.conversation(Some("talk")).unwrap();
    talk.append(b"what it said", Meta::default(), OnFull::Wait).unwrap();
    let agent = store.agent("child", None, None, None).unwrap();
    agent.put(b"what only it has", Kind::ToolResult, None, 50, OnFull::Wait).unwrap();
    std::thread::sleep(common::PATIENCE);
}

#[test]
fn what_was_left_by_agents_that_said_goodbye_survives_a_kill() {
    let daemon = Daemon::start(&[]);
    let (bytes, message) = (content(1, 5000), content(2, 700));
    {
        let store = daemon.connect();
        let agent = store.agent("keeper", Some(70), Some(1 << 30), None).unwrap();
        agent.put(&bytes, Kind::SystemPrompt, Some("prompt"), 50, OnFull::Wait).unwrap();
        agent.conversation(Some("talk")).unwrap().append(&message, Meta::default(), OnFull::Wait).unwrap();
        store.close().unwrap();
    }
    let tenant = || Store::connect(&daemon.0.socket, Some(("tenant", b"a token of many bytes")), OnFull::Wait);
    let guest = tenant().unwrap();
    guest.agent("guest", None, None, None).unwrap();
    daemon.kill();
    let store = daemon.connect();
    let agent = store.agent("keeper", None, None, None).unwrap();
    assert_eq!((agent.importance().unwrap(), agent.quota_bytes()), (70, Some(1 << 30)));
    assert_eq!(agent.attach_name("prompt").unwrap().view().unwrap().bytes(), bytes);
    let talk = agent.conversation(Some("talk")).unwrap();
    assert_eq!(talk.read(0, 1).unwrap()[0].bytes, message);
    // The tenant's domain is the same one, and takes the same token.
    assert_eq!(guest.agents().unwrap(), ["guest"]);
    let thief = Store::connect(&daemon.0.socket, Some(("tenant", b"another token of bytes")), OnFull::Wait);
    assert_eq!(thief.err().map(|error| error.kind()), Some(ErrorKind::PermissionDenied));
    assert_eq!(tenant().unwrap().agents().unwrap(), ["guest"]);
}

#[test]
fn a_folder_is_whole_after_kills_and_a_clean_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = format!("--path={}", folder.path().join("store").display());
    let contents: Vec<Vec<u8>> = (0..60).map(|seed| content(seed, 300 + seed as usize * 700)).collect();
    {
        let daemon = Daemon::start(&[&path]);
        let store = daemon.connect();
        let agent = store.agent("a", None, None, None).unwrap();
        let talk = agent.conversation(Some("talk")).unwrap();
        let mut held = Vec::new();
        for (number, bytes) in contents.iter().enumerate() {
            let name = number.to_string();
            held.push(agent.put(bytes, Kind::ToolResult, Some(&name), 50, OnFull::Wait).unwrap());
            talk.append(bytes, Meta::default(), OnFull::Wait).unwrap();
            match number {
                10 | 30 | 50 => daemon.kill(),
                // What the index of the folder names and the journal does not must go with the next flush.
                20 | 40 => {
                    store.flush().unwrap();
                    agent.release(&held[number - 5], OnFull::Wait).unwrap();
                    daemon.kill();
                }
                _ => {}
            }
        }
        drop(held);
        store.close().unwrap();
    }
    let daemon = Daemon::start(&[&path]);
    let store = daemon.connect();
    let agent = store.agent("a", None, None, None).unwrap();
    for (number, bytes) in contents.iter().enumerate() {
        let found = agent.attach_name(&number.to_string());
        match number {
            15 | 35 => assert_eq!(found.err().map(|error| error.kind()), Some(ErrorKind::NotFound)),
            _ => assert_eq!(found.unwrap().view().unwrap().bytes(), bytes),
        }
    }
    let talk = agent.conversation(Some("talk")).unwrap();
    let mut read = Vec::new();
    while read.len() < contents.len() {
        read.extend(
            talk.read(read.len() as u64, contents.len() as u64).unwrap().into_iter().map(|message| message.bytes),
        );
    }
    assert!(read == contents);
    let verified = store.verify().unwrap();
    assert!(verified.damaged.is_empty() && verified.orphans == 0, "{verified:?}");
}

#[test]
fn puts_and_views_go_on_while_no_engine_is_there() {
    let daemon = Daemon::start(&[]);
    let store = daemon.connect();
    let agent = store.agent("a", None, None, None).unwrap();
    let first = agent.put(b"before", Kind::ToolResult, None, 50, OnFull::Wait).unwrap();
    assert_eq!(first.view().unwrap().bytes(), b"before");
    let [_, engine] = daemon.holders()[..] else { panic!("an engine is there") };
    // Stopped, so that there is none until it is killed.
    signal(engine, Signal::STOP);
    let puts: Vec<Smu> = (0..500u32)
        .map(|number| agent.put(&number.to_le_bytes(), Kind::ToolResult, None, 50, OnFull::Fail).unwrap())
        .collect();
    assert_eq!(first.view().unwrap().bytes(), b"before");
    let full = (0..1000).find_map(|_| agent.put(b"more", Kind::ToolResult, None, 50, OnFull::Fail).err());
    assert_eq!(full.map(|error| error.kind()), Some(ErrorKind::ArenaFull));
    signal(engine, Signal::KILL);
    for (number, smu) in puts.iter().enumerate() {
        assert_eq!(smu.view().unwrap().bytes(), (number as u32).to_le_bytes());
    }
}
