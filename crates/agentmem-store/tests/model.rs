//! Random histories against a model that fits on a page: what was put is there, counted right, and gone when
//! the last lease went.

mod common;

use agentmem_core::frame::Meta;
use agentmem_core::{Advice, AgentState, ErrorKind, Kind};
use agentmem_store::{Agent, Conversation, OnFull, Options, Smu, Store, View};
use common::daemon::Daemon;
use common::{assert_empty, content_bytes, noise, options, text};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

const AGENTS: usize = 3;
const NAMES: usize = 4;

#[derive(Debug, Clone)]
enum Step {
    Put { agent: usize, content: Content, kind: usize, name: Option<usize> },
    AttachName { agent: usize, name: usize },
    AttachId { agent: usize, pick: usize },
    AttachSmu { agent: usize, pick: usize },
    Release { pick: usize },
    View { pick: usize },
    Hold { pick: usize },
    LetGo { pick: usize },
    AdviseSmu { pick: usize, advice: usize },
    Open { agent: usize },
    Append { pick: usize, content: Content, times: usize, is_value: bool },
    Fork { pick: usize, agent: usize, at: usize },
    ReadAll { pick: usize },
    ReadOne { pick: usize, at: usize },
    ReleaseConversation { pick: usize },
    AdviseConversation { pick: usize, advice: usize },
    State { agent: usize, state: usize },
    Reclaim { percent: u64 },
    Flush,
    LeaveAgent { agent: usize },
    CloseAgent { agent: usize },
    Reopen,
    Verify,
    Figures,
}

/// Content by recipe, so that failures print in a line and the same content comes again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Content {
    seed: u64,
    bytes: usize,
    is_noise: bool,
}

impl Content {
    fn make(self) -> Vec<u8> {
        if self.is_noise { noise(self.seed, self.bytes) } else { text(self.seed, self.bytes) }
    }
}

fn content(bytes: impl Strategy<Value = usize>) -> impl Strategy<Value = Content> {
    (0..5u64, bytes, prop::bool::weighted(0.2)).prop_map(|(seed, bytes, is_noise)| Content { seed, bytes, is_noise })
}

fn small() -> impl Strategy<Value = usize> {
    prop::sample::select(vec![0, 1, 63, 64, 65, 300, 1000, 4096, 5000])
}

fn any_size() -> impl Strategy<Value = usize> {
    let big = vec![(64 << 10) + 1, 200_000, 300_000, (1 << 20) - 1, 1 << 20, 3 << 20];
    prop_oneof![6 => small(), 2 => prop::sample::select(vec![20_000, 64 << 10]), 2 => prop::sample::select(big)]
}

fn step() -> impl Strategy<Value = Step> {
    let agent = 0..AGENTS;
    let pick = 0..1000usize;
    prop_oneof![
        12 => (agent.clone(), content(any_size()), 0..4usize, prop::option::weighted(0.3, 0..NAMES))
            .prop_map(|(agent, content, kind, name)| Step::Put { agent, content, kind, name }),
        3 => (agent.clone(), 0..NAMES).prop_map(|(agent, name)| Step::AttachName { agent, name }),
        3 => (agent.clone(), pick.clone()).prop_map(|(agent, pick)| Step::AttachId { agent, pick }),
        3 => (agent.clone(), pick.clone()).prop_map(|(agent, pick)| Step::AttachSmu { agent, pick }),
        8 => pick.clone().prop_map(|pick| Step::Release { pick }),
        5 => pick.clone().prop_map(|pick| Step::View { pick }),
        2 => pick.clone().prop_map(|pick| Step::Hold { pick }),
        2 => pick.clone().prop_map(|pick| Step::LetGo { pick }),
        2 => (pick.clone(), 0..3usize).prop_map(|(pick, advice)| Step::AdviseSmu { pick, advice }),
        4 => agent.clone().prop_map(|agent| Step::Open { agent }),
        12 => (pick.clone(), content(any_size()), 1..5usize, any::<bool>())
            .prop_map(|(pick, content, times, is_value)| Step::Append { pick, content, times, is_value }),
        4 => (pick.clone(), content(small()), 20..200usize, any::<bool>())
            .prop_map(|(pick, content, times, is_value)| Step::Append { pick, content, times, is_value }),
        6 => (pick.clone(), agent.clone(), 0..=1000usize)
            .prop_map(|(pick, agent, at)| Step::Fork { pick, agent, at }),
        4 => pick.clone().prop_map(|pick| Step::ReadAll { pick }),
        4 => (pick.clone(), 0..1000usize).prop_map(|(pick, at)| Step::ReadOne { pick, at }),
        4 => pick.clone().prop_map(|pick| Step::ReleaseConversation { pick }),
        2 => (pick.clone(), 0..3usize).prop_map(|(pick, advice)| Step::AdviseConversation { pick, advice }),
        1 => (agent.clone(), 0..3usize).prop_map(|(agent, state)| Step::State { agent, state }),
        4 => prop::sample::select(vec![0, 0, 50, 90]).prop_map(|percent| Step::Reclaim { percent }),
        4 => Just(Step::Flush),
        2 => agent.clone().prop_map(|agent| Step::LeaveAgent { agent }),
        1 => agent.prop_map(|agent| Step::CloseAgent { agent }),
        3 => Just(Step::Reopen),
        1 => Just(Step::Verify),
        3 => Just(Step::Figures),
    ]
}

struct Held {
    agent: usize,
    smu: Smu,
    content: Arc<Vec<u8>>,
}

struct Talk {
    agent: usize,
    name: String,
    conversation: Conversation,
    messages: Vec<(Arc<Vec<u8>>, Meta)>,
}

impl Talk {
    fn logical_bytes(&self) -> u64 {
        self.messages.iter().map(|(bytes, _)| bytes.len() as u64).sum()
    }
}

/// Where the engine is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// In this process.
    Embedded,
    /// The same, where what behaves like the kernel module holds content.
    Held,
    /// Reached over a socket, through memory that it lent.
    Connected,
}

struct World {
    mode: Mode,
    daemon: Option<Daemon>,
    store: Option<Store>,
    folder: Option<PathBuf>,
    memory_max_bytes: u64,
    cold: bool,
    agents: Vec<Option<Agent>>,
    held: Vec<Held>,
    views: Vec<(View, Arc<Vec<u8>>)>,
    talks: Vec<Talk>,
    names: BTreeMap<usize, Arc<Vec<u8>>>,
    /// Contents that an agent holds from before it was taken up again, once each.
    left_over: BTreeSet<(usize, Arc<Vec<u8>>)>,
    next_talk: usize,
    empty_bytes: u64,
}

impl World {
    fn new(mode: Mode, memory_max_bytes: u64, cold: bool, folder: Option<PathBuf>) -> Self {
        let mut world = World {
            mode,
            daemon: None,
            store: None,
            folder,
            memory_max_bytes,
            cold,
            agents: vec![None; AGENTS],
            held: Vec::new(),
            views: Vec::new(),
            talks: Vec::new(),
            names: BTreeMap::new(),
            left_over: BTreeSet::new(),
            next_talk: 0,
            empty_bytes: 0,
        };
        world.open();
        world.empty_bytes = content_bytes(&world.store().stats().unwrap());
        world
    }

    fn open(&mut self) {
        let (folder, cold, memory_max_bytes) = (self.folder.clone(), self.cold, self.memory_max_bytes);
        let options = move || Options { path: folder.clone(), cold, ..options(memory_max_bytes) };
        self.store = Some(match self.mode {
            Mode::Embedded => Store::open(options()).unwrap(),
            Mode::Held => Store::open(Options { fakes_module: true, ..options() }).unwrap(),
            Mode::Connected => self.daemon.get_or_insert_with(|| Daemon::start(memory_max_bytes, options)).connect(),
        });
    }

    /// Ends the session, and a persistent daemon too; what is there after it is what was there before.
    fn close(&mut self) {
        self.store().close().unwrap();
        if self.folder.is_some() {
            self.daemon = None;
        }
    }

    fn store(&self) -> &Store {
        self.store.as_ref().unwrap()
    }

    fn agent(&mut self, index: usize) -> Agent {
        if self.agents[index].is_none() {
            self.agents[index] = Some(common::agent(self.store(), &format!("agent-{index}")));
        }
        self.agents[index].clone().unwrap()
    }

    /// Whether `kind` is an honest answer: only a store that cannot demote any further may be full.
    fn may_fail(&self, kind: ErrorKind) -> bool {
        let pinned: usize = self.views.iter().map(|(view, _)| view.len()).sum();
        kind == ErrorKind::OutOfMemory && (!self.cold || pinned > 1 << 20)
    }

    fn unwrap<T>(&self, outcome: agentmem_core::Result<T>) -> Option<T> {
        match outcome {
            Ok(value) => Some(value),
            Err(error) if self.may_fail(error.kind()) => None,
            Err(error) => panic!("{error}\n{:#?}", self.store().stats().unwrap()),
        }
    }

    fn holders(&self, content: &Vec<u8>) -> BTreeSet<usize> {
        let held = self.held.iter().filter(|held| *held.content == *content).map(|held| held.agent);
        held.chain(self.left_over.iter().filter(|(_, left)| **left == *content).map(|(agent, _)| *agent)).collect()
    }

    /// A name goes with the last lease that is known to be on what it names, and a second put is not known before it is
    /// sealed. So what has a name is sealed before a lease goes.
    fn seal_named(&self) {
        let is_named = |held: &&Held| self.names.values().any(|content| *content == held.content);
        for held in self.held.iter().filter(is_named) {
            self.unwrap(held.smu.id());
        }
    }

    /// A lease went: a name lives as long as what it names.
    fn forget_names(&mut self) {
        let names = std::mem::take(&mut self.names);
        self.names = names.into_iter().filter(|(_, content)| !self.holders(content).is_empty()).collect();
    }

    fn attached(&mut self, agent: usize, smu: Smu, content: Arc<Vec<u8>>) {
        assert_eq!(smu.logical_bytes(), content.len() as u64);
        self.held.push(Held { agent, smu, content });
    }

    fn step(&mut self, step: &Step) {
        match step.clone() {
            Step::Put { agent, content, kind, name } => {
                let content = Arc::new(content.make());
                let word = name.map(|name| format!("name-{name}"));
                let who = self.agent(agent);
                let outcome = who.put(&content, Kind::ALL[kind], word.as_deref(), 50, OnFull::Wait);
                let Some(smu) = self.unwrap(outcome) else { return };
                // Until it is sealed, a second put of the same content has names of its own.
                if let Some(name) = name
                    && self.unwrap(smu.id()).is_some()
                {
                    self.names.insert(name, content.clone());
                }
                self.held.push(Held { agent, smu, content });
            }
            Step::AttachName { agent, name } => {
                let outcome = self.agent(agent).attach_name(&format!("name-{name}"));
                match (outcome, self.names.get(&name).cloned()) {
                    (Ok(smu), Some(content)) => self.attached(agent, smu, content),
                    (Err(error), None) => assert_eq!(error.kind(), ErrorKind::NotFound),
                    (Err(error), Some(_)) => assert!(self.may_fail(error.kind()), "{error}"),
                    (Ok(_), None) => assert!(!self.cold, "name-{name} names nothing"),
                }
            }
            Step::AttachId { agent, pick } | Step::AttachSmu { agent, pick } if !self.held.is_empty() => {
                let who = self.agent(agent);
                let held = &self.held[pick % self.held.len()];
                let content = held.content.clone();
                let outcome = match step {
                    Step::AttachId { .. } => held.smu.id().and_then(|id| who.attach_id(&id)),
                    _ => who.attach(&held.smu),
                };
                if let Some(smu) = self.unwrap(outcome) {
                    self.attached(agent, smu, content);
                }
            }
            Step::Release { pick } if !self.held.is_empty() => {
                self.seal_named();
                let held = self.held.swap_remove(pick % self.held.len());
                let who = self.agent(held.agent);
                if self.unwrap(who.release(&held.smu, OnFull::Wait)).is_none() {
                    return self.held.push(held);
                }
                assert_eq!(held.smu.view().map(drop).unwrap_err().kind(), ErrorKind::Released);
                self.forget_names();
            }
            Step::View { pick } if !self.held.is_empty() => {
                let held = &self.held[pick % self.held.len()];
                if let Some(view) = self.unwrap(held.smu.view()) {
                    assert!(*view == held.content[..], "wrong bytes");
                }
            }
            Step::Hold { pick } if !self.held.is_empty() => {
                let held = &self.held[pick % self.held.len()];
                if let Some(view) = self.unwrap(held.smu.view()) {
                    self.views.push((view, held.content.clone()));
                }
            }
            Step::LetGo { pick } if !self.views.is_empty() => {
                let (view, content) = self.views.swap_remove(pick % self.views.len());
                assert!(*view == content[..], "wrong bytes under a pin");
            }
            Step::AdviseSmu { pick, advice } if !self.held.is_empty() => {
                let held = &self.held[pick % self.held.len()];
                self.unwrap(held.smu.advise(Advice::ALL[advice]));
            }
            Step::Open { agent } => {
                let name = format!("talk-{}", self.next_talk);
                self.next_talk += 1;
                let conversation = self.agent(agent).conversation(Some(&name)).unwrap();
                self.talks.push(Talk { agent, name, conversation, messages: Vec::new() });
            }
            Step::Append { pick, content, times, is_value } if !self.talks.is_empty() => {
                let at = pick % self.talks.len();
                for turn in 0..times {
                    let bytes = Arc::new(Content { seed: content.seed + turn as u64, ..content }.make());
                    let fits = bytes.len() >= 3;
                    let meta = Meta { is_value, lead_bytes: u32::from(fits), trail_bytes: if fits { 2 } else { 0 } };
                    let outcome = self.talks[at].conversation.append(&bytes, meta, OnFull::Wait);
                    if self.unwrap(outcome).is_none() {
                        return;
                    }
                    self.talks[at].messages.push((bytes, meta));
                }
            }
            Step::Fork { pick, agent, at } if !self.talks.is_empty() => {
                let who = self.agent(agent);
                let talk = &self.talks[pick % self.talks.len()];
                let at = at * talk.messages.len() / 1000;
                let whole = at == talk.messages.len();
                let name = format!("talk-{}", self.next_talk);
                self.next_talk += 1;
                let point = if whole { None } else { Some(at as u64) };
                let outcome = talk.conversation.fork(&who, point, Some(&name));
                let messages = talk.messages[..at].to_vec();
                match outcome {
                    Ok(conversation) => self.talks.push(Talk { agent, name, conversation, messages }),
                    // Messages may still wait in the ring of a full store.
                    Err(error) => assert!(!self.cold || self.may_fail(error.kind()), "{error}"),
                }
            }
            Step::ReadAll { pick } if !self.talks.is_empty() => self.check_talk(pick % self.talks.len()),
            Step::ReadOne { pick, at } if !self.talks.is_empty() => {
                let talk = &self.talks[pick % self.talks.len()];
                let len = talk.messages.len();
                if len == 0 {
                    let error = talk.conversation.read(0, u64::MAX).unwrap_err();
                    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
                    return;
                }
                let at = at % len;
                if let Some(found) = self.unwrap(talk.conversation.read(at as u64, at as u64 + 1)) {
                    assert_eq!(found.len(), 1);
                    assert!(found[0].bytes == *talk.messages[at].0 && found[0].meta == talk.messages[at].1);
                }
            }
            Step::ReleaseConversation { pick } if !self.talks.is_empty() => {
                let talk = self.talks.swap_remove(pick % self.talks.len());
                let who = self.agent(talk.agent);
                who.release_conversation(&talk.conversation).unwrap();
                assert_eq!(talk.conversation.len().unwrap_err().kind(), ErrorKind::Released);
            }
            Step::AdviseConversation { pick, advice } if !self.talks.is_empty() => {
                let talk = &self.talks[pick % self.talks.len()];
                self.unwrap(talk.conversation.advise(Advice::ALL[advice]));
            }
            Step::State { agent, state } => {
                let who = self.agent(agent);
                who.set_state(AgentState::ALL[state]).unwrap();
                assert_eq!(who.state().unwrap(), AgentState::ALL[state]);
            }
            Step::Reclaim { percent } => {
                let target_bytes = self.store().stats().unwrap().resident_bytes * percent / 100;
                self.store().reclaim(Some(target_bytes)).unwrap();
            }
            Step::Flush if self.cold => {
                let outcome = self.store().flush();
                self.unwrap(outcome);
            }
            Step::LeaveAgent { agent } => {
                let who = self.agent(agent);
                if self.unwrap(who.leave()).is_none() {
                    return;
                }
                assert_eq!(who.conversations().unwrap_err().kind(), ErrorKind::Closed);
                self.agents[agent] = None;
                self.hold_once(|held| held.agent == agent);
                self.take_up(agent);
            }
            Step::CloseAgent { agent } => {
                let who = self.agent(agent);
                self.seal_named();
                who.close().unwrap();
                assert_eq!(who.conversations().unwrap_err().kind(), ErrorKind::Closed);
                self.agents[agent] = None;
                self.held.retain(|held| held.agent != agent);
                self.talks.retain(|talk| talk.agent != agent);
                self.left_over.retain(|(holder, _)| *holder != agent);
                self.forget_names();
            }
            Step::Reopen if self.folder.is_some() || self.mode == Mode::Connected => self.reopen(),
            Step::Verify => self.verify(),
            Step::Figures => self.check_figures(),
            _ => {}
        }
    }

    fn check_talk(&self, at: usize) {
        let talk = &self.talks[at];
        let len = talk.messages.len() as u64;
        assert_eq!(talk.conversation.len().unwrap(), len);
        assert_eq!(talk.conversation.logical_bytes().unwrap(), talk.logical_bytes());
        let mut next = 0;
        while next < len {
            let Some(found) = self.unwrap(talk.conversation.read(next, len)) else { return };
            assert!(!found.is_empty());
            for message in found {
                let (bytes, meta) = &talk.messages[next as usize];
                assert!(message.bytes == **bytes, "message {next} of {:?}", talk.name);
                assert_eq!(message.meta, *meta);
                next += 1;
            }
        }
        assert_eq!(next, len);
    }

    fn verify(&self) {
        let found = self.store().verify().unwrap();
        assert!(found.damaged.is_empty() && found.orphans == 0, "{found:?}");
    }

    fn reopen(&mut self) {
        let views = std::mem::take(&mut self.views);
        self.close();
        for (view, content) in views {
            assert!(*view == content[..], "wrong bytes under a pin of a closed store");
        }
        self.hold_once(|_| true);
        self.store = None;
        self.open();
        let names: Vec<String> =
            (0..AGENTS).filter(|&at| self.agents[at].is_some()).map(|at| format!("agent-{at}")).collect();
        assert_eq!(self.store().agents().unwrap(), names);
        let known: Vec<bool> = self.agents.iter().map(Option::is_some).collect();
        self.agents = vec![None; AGENTS];
        (0..AGENTS).filter(|&index| known[index]).for_each(|index| self.take_up(index));
    }

    /// Handles that `are_dead` say so; what they were of, their agents hold once each.
    fn hold_once(&mut self, are_dead: impl Fn(&Held) -> bool) {
        let (dead, held): (Vec<Held>, Vec<Held>) = std::mem::take(&mut self.held).into_iter().partition(are_dead);
        self.held = held;
        for Held { agent, smu, content } in dead {
            assert_eq!(smu.view().map(drop).unwrap_err().kind(), ErrorKind::Closed);
            self.left_over.insert((agent, content));
        }
    }

    /// An agent has the conversations that it had.
    fn take_up(&mut self, index: usize) {
        let who = self.agent(index);
        let mut names: Vec<&str> =
            self.talks.iter().filter(|talk| talk.agent == index).map(|talk| talk.name.as_str()).collect();
        names.sort_unstable();
        assert_eq!(who.conversations().unwrap(), names);
        for talk in self.talks.iter_mut().filter(|talk| talk.agent == index) {
            talk.conversation = who.conversation(Some(&talk.name)).unwrap();
        }
    }

    fn check_figures(&mut self) {
        // Sealing makes one content of equal puts.
        self.verify();
        let stats = self.store().stats().unwrap();
        let mut logical_bytes = 0;
        for index in 0..AGENTS {
            let held: u64 = self.held.iter().filter(|h| h.agent == index).map(|h| h.content.len() as u64).sum();
            let left: u64 = self.left_over.iter().filter(|l| l.0 == index).map(|l| l.1.len() as u64).sum();
            let said: u64 = self.talks.iter().filter(|t| t.agent == index).map(Talk::logical_bytes).sum();
            logical_bytes += held + left + said;
            if let Some(who) = &self.agents[index] {
                assert_eq!(who.stats().unwrap().logical_bytes, held + left + said, "agent-{index}");
            }
        }
        // A full store without a cold tier keeps the rest in the ring, uncounted.
        if self.cold && self.views.is_empty() {
            assert_eq!(stats.logical_bytes, logical_bytes);
            let contents: BTreeSet<&Arc<Vec<u8>>> =
                self.held.iter().map(|h| &h.content).chain(self.left_over.iter().map(|l| &l.1)).collect();
            assert_eq!(stats.smus, contents.len() as u64);
            assert_eq!(stats.messages, self.talks.iter().map(|talk| talk.messages.len() as u64).sum::<u64>());
        }
        assert_eq!(stats.conversations, self.talks.len() as u64);
        for held in &self.held {
            if let Some(shared_by) = self.unwrap(held.smu.shared_by()) {
                assert_eq!(shared_by as usize, self.holders(&held.content).len());
            }
        }
        let resident_max = self.memory_max_bytes + self.memory_max_bytes / 10;
        let pinned: u64 = self.views.iter().map(|(view, _)| view.len() as u64).sum();
        assert!(stats.resident_bytes <= resident_max + pinned, "{stats:#?}");
        let parts = stats.hot_bytes + stats.warm_bytes + stats.table_bytes + stats.arena_bytes;
        assert!(parts <= stats.resident_bytes, "{stats:#?}");
        assert!(stats.cold_bytes <= stats.disk_bytes + (stats.frames + 1) * 4096, "{stats:#?}");
    }

    /// Everything is right; then everything is released, and nothing may be left.
    fn end(mut self) {
        self.check_figures();
        for at in 0..self.talks.len() {
            self.check_talk(at);
        }
        for held in &self.held {
            if let Some(view) = self.unwrap(held.smu.view()) {
                assert!(*view == held.content[..], "wrong bytes");
            }
        }
        for (view, content) in std::mem::take(&mut self.views) {
            assert!(*view == content[..], "wrong bytes under a pin");
        }
        for held in std::mem::take(&mut self.held) {
            let who = self.agent(held.agent);
            who.release(&held.smu, OnFull::Wait).unwrap();
        }
        for talk in std::mem::take(&mut self.talks) {
            self.agent(talk.agent).release_conversation(&talk.conversation).unwrap();
        }
        for (agent, content) in std::mem::take(&mut self.left_over) {
            let who = self.agent(agent);
            let mine = who.smus().unwrap();
            let smu = mine.iter().find(|smu| *smu.view().unwrap() == content[..]).expect("held from before");
            who.release(smu, OnFull::Wait).unwrap();
        }
        assert_empty(self.store(), self.empty_bytes);
        self.close();
    }
}

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, max_shrink_iters: 300, failure_persistence: None, ..ProptestConfig::default() }
}

fn mode() -> impl Strategy<Value = Mode> {
    prop::sample::select(vec![Mode::Embedded, Mode::Held, Mode::Connected])
}

fn steps(count: usize) -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(step(), 1..count)
}

fn run_persistent(mode: Mode, steps: &[Step], memory_max_bytes: u64) {
    let folder = tempfile::tempdir().unwrap();
    let mut world = World::new(mode, memory_max_bytes, true, Some(folder.path().to_owned()));
    steps.iter().for_each(|step| world.step(step));
    world.end();
}

fn run_passing(mode: Mode, steps: &[Step], memory_max_bytes: u64, cold: bool) {
    let mut world = World::new(mode, memory_max_bytes, cold, None);
    steps.iter().for_each(|step| world.step(step));
    world.end();
}

proptest! {
    #![proptest_config(config(30))]

    #[test]
    fn a_persistent_store_agrees(mode in mode(), steps in steps(80), is_tiny: bool) {
        run_persistent(mode, &steps, if is_tiny { 16 << 20 } else { 128 << 20 });
    }

    #[test]
    fn a_temporary_store_agrees(mode in mode(), steps in steps(80)) {
        run_passing(mode, &steps, 16 << 20, true);
    }

    #[test]
    fn a_store_in_ram_agrees(mode in mode(), steps in steps(80)) {
        run_passing(mode, &steps, 64 << 20, false);
    }
}

// Longer and more: cargo test -p agentmem-store --release --test model -- --ignored
proptest! {
    #![proptest_config(config(400))]

    #[test]
    #[ignore = "minutes"]
    fn a_persistent_store_agrees_for_long(mode in mode(), steps in steps(400), is_tiny: bool) {
        run_persistent(mode, &steps, if is_tiny { 16 << 20 } else { 128 << 20 });
    }

    #[test]
    #[ignore = "minutes"]
    fn a_temporary_store_agrees_for_long(mode in mode(), steps in steps(400)) {
        run_passing(mode, &steps, 16 << 20, true);
    }

    #[test]
    #[ignore = "minutes"]
    fn a_store_in_ram_agrees_for_long(mode in mode(), steps in steps(400), is_tiny: bool) {
        run_passing(mode, &steps, if is_tiny { 16 << 20 } else { 64 << 20 }, false);
    }
}
