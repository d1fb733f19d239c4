//! Calls to Linux fail, one or all from some point on: what was accepted stays, and the store works again as
//! soon as Linux does.

mod common;

use agentmem_core::frame::Meta;
use agentmem_core::{Advice, ContentId, Error, ErrorKind, Kind};
use agentmem_store::{Agent, Conversation, OnFull, Options, Smu, Store, faults};
use common::{agent, noise, options, read_all, text};
use std::path::Path;
use std::sync::{Mutex, MutexGuard};

/// Faults hit the whole process, so only one test at a time may make any.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Without and with what behaves like the kernel module.
const BACKENDS: [bool; 2] = [false, true];

fn open(path: &Path, fakes_module: bool) -> Result<Store, Error> {
    Store::open(Options { path: Some(path.to_owned()), fakes_module, ..options(24 << 20) })
}

/// What was accepted.
#[derive(Default)]
struct Accepted {
    contents: Vec<(Smu, Vec<u8>)>,
    talks: Vec<(Conversation, Vec<Vec<u8>>)>,
}

/// An error that says that Linux failed, and not that something is damaged or lost.
fn honest<T>(outcome: Result<T, Error>) -> Option<T> {
    match outcome {
        Ok(value) => Some(value),
        Err(error) => {
            assert!(matches!(error.kind(), ErrorKind::Io | ErrorKind::OutOfMemory), "{error}");
            None
        }
    }
}

fn put(agent: &Agent, accepted: &mut Accepted, content: Vec<u8>) {
    if let Some(smu) = honest(agent.put(&content, Kind::ToolResult, None, 50, OnFull::Wait)) {
        accepted.contents.push((smu, content));
    }
}

fn append(accepted: &mut Accepted, talk: usize, message: Vec<u8>) {
    let (conversation, messages) = &mut accepted.talks[talk];
    if honest(conversation.append(&message, Meta::default(), OnFull::Wait)).is_some() {
        messages.push(message);
    }
}

/// A little of everything that reaches Linux.
fn work(store: &Store, agent: &Agent, accepted: &mut Accepted) {
    accepted.talks.push((agent.conversation(Some("one")).unwrap(), Vec::new()));
    for turn in 0..20 {
        append(accepted, 0, text(turn, 5000));
    }
    put(agent, accepted, text(1, 3000));
    put(agent, accepted, noise(2, 150_000));
    put(agent, accepted, text(3, 1_200_000));
    honest(store.flush());
    append(accepted, 0, text(100, 1_100_000));
    for turn in 0..20 {
        append(accepted, 0, noise(turn, 9000));
    }
    let (conversation, messages) = &accepted.talks[0];
    let point = messages.len() as u64 / 2;
    if let Some(fork) = honest(conversation.fork(agent, Some(point), Some("two"))) {
        let messages = messages[..point as usize].to_vec();
        accepted.talks.push((fork, messages));
        append(accepted, 1, text(200, 70_000));
    }
    honest(store.reclaim(Some(0)));
    for (smu, content) in &accepted.contents {
        assert!(honest(smu.view()).is_none_or(|view| *view == content[..]));
    }
    for (conversation, messages) in &accepted.talks {
        assert!(honest(read_all(conversation)).is_none_or(|found| found == *messages));
    }
    if !accepted.contents.is_empty() {
        let (smu, _) = accepted.contents.remove(0);
        assert!(honest(agent.release(&smu, OnFull::Wait)).is_some(), "releasing needs nothing of Linux");
    }
    put(agent, accepted, text(4, 20_000));
    honest(accepted.talks[0].0.advise(Advice::Cold));
    honest(store.flush());
}

/// Everything accepted is there, now and after the store was closed and opened again.
fn check(path: &Path, fakes_module: bool, store: Store, agent: Agent, accepted: Accepted) {
    let check_talk = |conversation: &Conversation, messages: &[Vec<u8>]| {
        assert!(read_all(conversation).unwrap() == messages, "conversation {:?}", conversation.name());
    };
    for (smu, content) in &accepted.contents {
        assert!(*smu.view().unwrap() == content[..]);
    }
    for (conversation, messages) in &accepted.talks {
        check_talk(conversation, messages);
    }
    store.flush().unwrap();
    let found = store.verify().unwrap();
    assert!(found.damaged.is_empty() && found.orphans == 0, "{found:?}");
    store.reclaim(Some(0)).unwrap();
    let ids: Vec<ContentId> = accepted.contents.iter().map(|(smu, _)| smu.id().unwrap()).collect();
    store.close().unwrap();
    drop((store, agent));

    let store = open(path, fakes_module).unwrap();
    let agent = common::agent(&store, "a");
    let found = store.verify().unwrap();
    assert!(found.damaged.is_empty() && found.orphans == 0, "{found:?}");
    assert_eq!(store.stats().unwrap().smus, ids.len() as u64);
    for (id, (_, content)) in ids.iter().zip(&accepted.contents) {
        assert!(*agent.attach_id(id).unwrap().view().unwrap() == content[..]);
    }
    for (old, messages) in &accepted.talks {
        check_talk(&agent.conversation(Some(old.name())).unwrap(), messages);
    }
}

fn run(fakes_module: bool, start: impl Fn()) -> bool {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path(), fakes_module).unwrap();
    let agent = agent(&store, "a");
    let mut accepted = Accepted::default();
    start();
    work(&store, &agent, &mut accepted);
    let failed = faults::stop();
    check(folder.path(), fakes_module, store, agent, accepted);
    failed
}

/// Steps through the calls of a workload until one run has no failure left.
fn for_each_call(step: i64, last: i64, start: impl Fn(i64)) {
    let _alone = alone();
    for fakes_module in BACKENDS {
        for nth in (1..=last).step_by(step as usize) {
            if !run(fakes_module, || start(nth)) {
                break;
            }
        }
    }
}

#[test]
fn one_call_fails() {
    for_each_call(11, 400, faults::fail_once);
}

#[test]
fn all_calls_fail_from_one_on() {
    for_each_call(13, 400, faults::fail_from);
}

// Every call: cargo test -p agentmem-store --release --test faults -- --ignored
#[test]
#[ignore = "a minute or two"]
fn each_call_fails() {
    for_each_call(1, 4000, faults::fail_once);
    for_each_call(1, 4000, faults::fail_from);
}

#[test]
fn opening_fails_and_leaves_all_as_it_was() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let content = text(1, 300_000);
    let id = {
        let store = open(folder.path(), false).unwrap();
        let agent = agent(&store, "a");
        let smu = agent.put(&content, Kind::SystemPrompt, Some("base"), 50, OnFull::Wait).unwrap();
        let conversation = agent.conversation(Some("one")).unwrap();
        conversation.append(&content, Meta::default(), OnFull::Wait).unwrap();
        smu.id().unwrap()
    };
    for nth in 1..200 {
        faults::fail_once(nth);
        let outcome = open(folder.path(), false);
        let failed = faults::stop();
        assert!(outcome.is_err() || !failed || nth > 10, "a failure of call {nth} was not noticed");
        drop(outcome.map_err(|error| assert_eq!(error.kind(), ErrorKind::Io, "{error}")));
        if !failed {
            break;
        }
    }
    let store = open(folder.path(), false).unwrap();
    let agent = agent(&store, "a");
    assert!(*agent.attach_id(&id).unwrap().view().unwrap() == content[..]);
    assert!(read_all(&agent.conversation(Some("one")).unwrap()).unwrap() == [content]);
    assert!(store.verify().unwrap().damaged.is_empty());
}
