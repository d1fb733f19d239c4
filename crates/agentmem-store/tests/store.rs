//! The store through its public face.

mod common;

use agentmem_core::frame::Meta;
use agentmem_core::{Advice, ErrorKind, Kind, Tier};
use agentmem_store::{Agent, Conversation, OnFull, Options, Store};
use common::read_all;

fn text(seed: u64, bytes: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut out = Vec::with_capacity(bytes + 16);
    while out.len() < bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(format!("word{} ", state % 500).as_bytes());
    }
    out.truncate(bytes);
    out
}

fn open(memory_max_bytes: u64, cold: bool) -> Store {
    Store::open(Options { memory_max_bytes, cold, pressure: false, ..Options::default() }).unwrap()
}

fn agent(store: &Store, name: &str) -> Agent {
    store.agent(name, Some(50), None, None).unwrap()
}

#[test]
fn what_was_put_is_seen_shared_and_freed() {
    let store = open(64 << 20, true);
    let (one, two) = (agent(&store, "one"), agent(&store, "two"));
    let content = text(1, 10_000);
    let a = one.put(&content, Kind::SystemPrompt, Some("base"), 50, OnFull::Wait).unwrap();
    assert_eq!(&*a.view().unwrap(), &content[..]);
    let b = two.put(&content, Kind::SystemPrompt, None, 50, OnFull::Wait).unwrap();
    let c = two.attach_name("base").unwrap();
    assert_eq!(a.id().unwrap(), b.id().unwrap());
    assert_eq!(c.shared_by().unwrap(), 2);
    assert_eq!(&*b.view().unwrap(), &content[..]);
    assert_eq!(two.stats().unwrap().logical_bytes, 20_000);
    one.release(&a, OnFull::Wait).unwrap();
    assert_eq!(one.release(&a, OnFull::Wait).unwrap_err().kind(), ErrorKind::Released);
    assert_eq!(a.view().map(drop).unwrap_err().kind(), ErrorKind::Released);
    two.release(&b, OnFull::Wait).unwrap();
    assert_eq!(&*c.view().unwrap(), &content[..]);
    two.release(&c, OnFull::Wait).unwrap();
    assert_eq!(store.stats().unwrap().smus, 0);
    assert_eq!(one.attach_name("base").map(drop).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn content_goes_through_all_tiers_and_comes_back() {
    let store = open(64 << 20, true);
    let agent = agent(&store, "a");
    for bytes in [0, 100, 5000, 300_000, 9_000_000] {
        let content = text(bytes as u64, bytes);
        let smu = agent.put(&content, Kind::ToolResult, None, 50, OnFull::Wait).unwrap();
        smu.id().unwrap();
        assert_eq!(smu.tier().unwrap(), Tier::Hot);
        store.reclaim(Some(0)).unwrap();
        assert_eq!(smu.tier().unwrap(), Tier::Cold, "{bytes}");
        let view = smu.view().unwrap();
        assert_eq!(&*view, &content[..]);
        assert_eq!(smu.tier().unwrap(), Tier::Hot);
        store.reclaim(Some(0)).unwrap();
        assert_eq!(&*view, &content[..], "pinned");
        drop(view);
        assert!(smu.stored_bytes().unwrap() <= content.len() as u64 / 2 + 100);
    }
    assert!(store.verify().unwrap().damaged.is_empty());
}

#[test]
fn conversations_fork_and_read_back() {
    let store = open(64 << 20, true);
    let agent = agent(&store, "a");
    let conversation = agent.conversation(Some("task")).unwrap();
    let messages: Vec<Vec<u8>> = (0..3000).map(|i| text(i, 200 + (i as usize * 37) % 3000)).collect();
    for message in &messages {
        conversation.append(message, Meta::default(), OnFull::Wait).unwrap();
    }
    let fork = conversation.fork(&agent, Some(1500), None).unwrap();
    fork.append(b"another way", Meta::default(), OnFull::Wait).unwrap();
    conversation.append(b"the same way", Meta::default(), OnFull::Wait).unwrap();
    store.reclaim(Some(0)).unwrap();
    let read = |conversation: &agentmem_store::Conversation| {
        let mut all = Vec::new();
        while (all.len() as u64) < conversation.len().unwrap() {
            all.extend(conversation.read(all.len() as u64, u64::MAX).unwrap().into_iter().map(|m| m.bytes));
        }
        all
    };
    let all = read(&conversation);
    assert_eq!(all[..3000], messages[..]);
    assert_eq!(all[3000], b"the same way");
    agent.release_conversation(&conversation).unwrap();
    let forked = read(&fork);
    assert_eq!(forked[..1500], messages[..1500]);
    assert_eq!(forked[1500], b"another way");
    let logical: u64 = forked.iter().map(|m| m.len() as u64).sum();
    assert_eq!(fork.logical_bytes().unwrap(), logical);
    assert!(store.verify().unwrap().damaged.is_empty());
}

#[test]
fn snapshots_cost_what_changed() {
    let store = open(256 << 20, true);
    let agent = agent(&store, "a");
    let messages: Vec<Vec<u8>> = (0..400).map(|i| text(i, 2000)).collect();
    let import = |name: &str, count: usize| {
        let conversation = agent.conversation(Some(name)).unwrap();
        messages[..count].iter().for_each(|m| conversation.append(m, Meta::default(), OnFull::Wait).unwrap());
        conversation.advise(Advice::Cold).unwrap();
    };
    import("whole", 400);
    let whole = store.stats().unwrap().stored_bytes;
    agent.release_conversation(&agent.conversation(Some("whole")).unwrap()).unwrap();
    for count in (20..=400).step_by(20) {
        import(&format!("at {count}"), count);
    }
    let all = store.stats().unwrap().stored_bytes;
    assert!(all * 10 <= whole * 13, "{all} for all snapshots, {whole} for the longest");
}

#[test]
fn a_closed_store_opens_again() {
    let folder = tempfile::tempdir().unwrap();
    let options = || Options { path: Some(folder.path().to_owned()), pressure: false, ..Options::default() };
    let content = text(7, 50_000);
    let id = {
        let store = Store::open(options()).unwrap();
        let agent = agent(&store, "a");
        let smu = agent.put(&content, Kind::ToolDefinition, Some("tools"), 70, OnFull::Wait).unwrap();
        let conversation = agent.conversation(Some("task")).unwrap();
        for i in 0..2000u64 {
            conversation.append(&text(i, 900), Meta { is_value: i % 2 == 0, ..Meta::default() }, OnFull::Wait).unwrap();
        }
        conversation.fork(&agent, Some(100), Some("fork")).unwrap();
        assert_eq!(Store::open(options()).map(drop).unwrap_err().kind(), ErrorKind::StoreLocked);
        smu.id().unwrap()
    };
    let store = Store::open(options()).unwrap();
    assert_eq!(store.agents().unwrap(), ["a"]);
    let agent = agent(&store, "a");
    assert_eq!(agent.conversations().unwrap(), ["fork", "task"]);
    let smu = agent.attach_id(&id).unwrap();
    assert_eq!(&*smu.view().unwrap(), &content[..]);
    assert_eq!(agent.attach_name("tools").unwrap().id().unwrap(), id);
    let conversation = agent.conversation(Some("task")).unwrap();
    assert_eq!(conversation.len().unwrap(), 2000);
    let mut at = 0;
    while at < 2000 {
        for message in conversation.read(at, 2000).unwrap() {
            assert_eq!(message.bytes, text(at, 900));
            assert_eq!(message.meta.is_value, at % 2 == 0);
            at += 1;
        }
    }
    assert_eq!(agent.conversation(Some("fork")).unwrap().len().unwrap(), 100);
    let verified = store.verify().unwrap();
    assert!(verified.damaged.is_empty() && verified.orphans == 0, "{verified:?}");
}

#[test]
fn a_budget_full_of_pins_refuses_and_loses_nothing() {
    let store = open(16 << 20, false);
    let agent = agent(&store, "a");
    let mut held = Vec::new();
    let error = loop {
        let seed = held.len() as u64;
        match agent.put(&text(seed, 200_000), Kind::ToolResult, None, 50, OnFull::Wait) {
            Ok(smu) => {
                let view = match smu.view() {
                    Ok(view) => view,
                    Err(error) => break error,
                };
                held.push((smu, view));
            }
            Err(error) => break error,
        }
        assert!(held.len() < 200, "the budget does not hold");
    };
    assert_eq!(error.kind(), ErrorKind::OutOfMemory);
    for (seed, (_, view)) in held.iter().enumerate() {
        assert_eq!(&**view, &text(seed as u64, 200_000)[..]);
    }
    let kept: Vec<_> = held.into_iter().map(|(smu, _)| smu).collect();
    // Without pins there is room again, by compression.
    let more = agent.put(&text(999, 200_000), Kind::ToolResult, None, 50, OnFull::Wait).unwrap();
    assert_eq!(&*more.view().unwrap(), &text(999, 200_000)[..]);
    for (seed, smu) in kept.iter().enumerate() {
        assert_eq!(&*smu.view().unwrap(), &text(seed as u64, 200_000)[..]);
    }
}

#[test]
fn what_was_read_lately_makes_room_for_what_is_needed_now() {
    let folder = tempfile::tempdir().unwrap();
    let path = Some(folder.path().to_owned());
    let options = Options { path, memory_max_bytes: 16 << 20, pressure: false, ..Options::default() };
    let store = Store::open(options).unwrap();
    let agent = agent(&store, "a");
    let conversation = agent.conversation(None).unwrap();
    for seed in 0..6 {
        conversation.append(&text(seed, 900_000), Meta::default(), OnFull::Wait).unwrap();
        conversation.advise(Advice::Cold).unwrap();
    }
    let content = text(9, 3 << 20);
    let smu = agent.put(&content, Kind::ToolResult, None, 50, OnFull::Wait).unwrap();
    smu.id().unwrap();
    store.reclaim(Some(0)).unwrap();
    for seed in 0..6 {
        assert!(conversation.read(seed, seed + 1).unwrap()[0].bytes == text(seed, 900_000));
    }
    assert!(*smu.view().unwrap() == content[..]);
}

/// More frames than are kept open for one tail have what it repeats, in turns.
#[test]
fn what_many_frames_have_is_shared_all_the_same() {
    let store = open(64 << 20, true);
    let agent = agent(&store, "a");
    let message = |talk: u64, index: u64| text(talk << 32 | index, 5000);
    let append = |conversation: &Conversation, talk: u64, index: u64| {
        conversation.append(&message(talk, index), Meta::default(), OnFull::Wait).unwrap();
    };
    let talks: Vec<Conversation> = (0..20)
        .map(|talk| {
            let conversation = agent.conversation(None).unwrap();
            (0..6).for_each(|index| append(&conversation, talk, index));
            conversation.advise(Advice::Cold).unwrap();
            conversation
        })
        .collect();
    let before = store.stats().unwrap().stored_bytes;
    let again = agent.conversation(None).unwrap();
    (0..6).for_each(|index| (0..20).for_each(|talk| append(&again, talk, index)));
    again.advise(Advice::Cold).unwrap();
    assert_eq!(store.stats().unwrap().stored_bytes, before);
    let expected: Vec<Vec<u8>> = (0..6).flat_map(|index| (0..20).map(move |talk| message(talk, index))).collect();
    assert!(read_all(&again).unwrap() == expected);
    drop(talks);
}

/// The engine's thread and whoever puts or views take the room that each of them makes: nobody is refused for that.
#[test]
fn more_than_the_budget_is_never_refused_while_something_shrinks() {
    const COUNT: usize = 4000;
    let store = open(256 << 20, false);
    let agent = agent(&store, "a");
    let mut content = text(1, 64 << 10);
    let handles: Vec<_> = (0..COUNT)
        .map(|number| {
            // Quicker than the engine takes it in, so that the ring is full all the time.
            content[..8].copy_from_slice(&number.to_le_bytes());
            agent.put(&content, Kind::ToolResult, None, 50, OnFull::Wait).unwrap()
        })
        .collect();
    for _ in 0..2 {
        for (number, smu) in handles.iter().enumerate() {
            assert_eq!(smu.view().unwrap()[..8], number.to_le_bytes());
        }
    }
    assert!(store.stats().unwrap().resident_bytes <= 256 << 20);
}
