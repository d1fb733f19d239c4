//! Sessions of other processes, over a real socket.

mod common;

use agentmem_core::frame::Meta;
use agentmem_core::{ErrorKind, Kind};
use agentmem_store::{OnFull, Options, Store};
use common::daemon::Daemon;

fn content(number: usize, len: usize) -> Vec<u8> {
    format!("content {number} ").into_bytes().into_iter().cycle().take(len).collect()
}

#[test]
fn what_one_session_puts_another_attaches_and_sees() {
    let daemon = Daemon::start_in_ram(512 << 20);
    let (one, two) = (daemon.connect(), daemon.connect());
    let (writer, reader) = (common::agent(&one, "writer"), common::agent(&two, "reader"));
    for (number, len) in [0, 1, 1000, 64 << 10, 1 << 20, 5 << 20].into_iter().enumerate() {
        let bytes = content(number, len);
        let name = format!("name-{number}");
        let smu = writer.put(&bytes, Kind::SystemPrompt, Some(&name), 50, OnFull::Wait).unwrap();
        assert_eq!(smu.view().unwrap().bytes(), bytes);
        let attached = reader.attach_name(&name).unwrap();
        assert_eq!(attached.view().unwrap().bytes(), bytes);
        assert_eq!((attached.id().unwrap(), attached.shared_by().unwrap()), (smu.id().unwrap(), 2));
        assert_eq!(reader.attach_id(&smu.id().unwrap()).unwrap().view().unwrap().bytes(), bytes);
    }
}

#[test]
fn demoted_content_comes_back_for_who_looks() {
    let daemon = Daemon::start_in_ram(256 << 20);
    let session = daemon.connect();
    let agent = common::agent(&session, "agent");
    let all: Vec<_> = (0..300)
        .map(|number| {
            let bytes = content(number, 1000 * (number + 1));
            (agent.put(&bytes, Kind::ToolResult, None, 50, OnFull::Wait).unwrap(), bytes)
        })
        .collect();
    for _ in 0..3 {
        let (pinned, bytes) = &all[7];
        let view = pinned.view().unwrap();
        session.reclaim(None).unwrap();
        assert_eq!(view.bytes(), bytes);
        drop(view);
        for (smu, bytes) in &all {
            assert_eq!(smu.view().unwrap().bytes(), bytes);
        }
    }
    assert!(daemon.own().store.verify().unwrap().damaged.is_empty());
}

#[test]
fn conversations_are_the_same_from_either_side() {
    let daemon = Daemon::start_in_ram(256 << 20);
    let session = daemon.connect();
    let (agent, other) = (common::agent(&session, "agent"), common::agent(&session, "other"));
    let conversation = agent.conversation(Some("talk")).unwrap();
    for number in 0..500 {
        conversation.append(&content(number, 100 + number), Meta::default(), OnFull::Wait).unwrap();
    }
    let fork = conversation.fork(&other, Some(200), None).unwrap();
    fork.append(b"a branch", Meta::default(), OnFull::Wait).unwrap();
    session.reclaim(None).unwrap();
    let read = |conversation: &agentmem_store::Conversation| {
        let mut messages = Vec::new();
        while (messages.len() as u64) < conversation.len().unwrap() {
            messages.extend(conversation.read(messages.len() as u64, u64::MAX).unwrap());
        }
        messages.into_iter().map(|message| message.bytes).collect::<Vec<_>>()
    };
    let whole: Vec<Vec<u8>> = (0..500).map(|number| content(number, 100 + number)).collect();
    assert_eq!(read(&conversation), whole);
    assert_eq!(read(&fork), [&whole[..200], &[b"a branch".to_vec()]].concat());
    assert_eq!(agent.conversation(Some("talk")).unwrap().len().unwrap(), 500);
    agent.release_conversation(&conversation).unwrap();
    assert_eq!(conversation.len().unwrap_err().kind(), ErrorKind::Released);
}

#[test]
fn a_session_that_ends_without_goodbye_gives_everything_back() {
    let daemon = Daemon::start_in_ram(256 << 20);
    let kept = daemon.connect();
    let keeper = common::agent(&kept, "keeper");
    let shared = content(1, 50_000);
    {
        let lost = daemon.connect();
        let agent = common::agent(&lost, "lost");
        agent.put(&shared, Kind::SystemPrompt, Some("shared"), 50, OnFull::Wait).unwrap();
        agent.put(&content(2, 50_000), Kind::ToolResult, None, 50, OnFull::Wait).unwrap();
        keeper.attach_name("shared").unwrap();
        // As a process does that is killed: no goodbye, and its descriptors are closed.
        lost.abandon();
    }
    let is_over =
        || daemon.own().store.agents().unwrap() == ["keeper"] && daemon.own().store.stats().unwrap().smus == 1;
    for _ in 0..200 {
        if is_over() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    assert!(is_over());
    assert_eq!(keeper.attach_name("shared").unwrap().view().unwrap().bytes(), shared);
}

#[test]
fn after_a_goodbye_agents_are_taken_up_again() {
    let daemon = Daemon::start_in_ram(256 << 20);
    let first = daemon.connect();
    let agent = common::agent(&first, "agent");
    let smu = agent.put(b"kept", Kind::ToolResult, Some("kept"), 50, OnFull::Wait).unwrap();
    assert_eq!(daemon.connect().agent("agent", None, None, None).err().unwrap().kind(), ErrorKind::NameTaken);
    first.close().unwrap();
    assert_eq!(smu.view().err().unwrap().kind(), ErrorKind::Closed);
    let second = daemon.connect();
    let agent = common::agent(&second, "agent");
    let smus = agent.smus().unwrap();
    assert_eq!(smus.len(), 1);
    assert_eq!(smus[0].view().unwrap().bytes(), b"kept");
}

#[test]
fn a_new_session_gets_slots_that_were_used_before() {
    let daemon = Daemon::start_in_ram(256 << 20);
    let mut sessions = Vec::new();
    for turn in 0..4 {
        let session = daemon.connect();
        let agent = common::agent(&session, "agent");
        for number in 0..600 {
            let bytes = content(turn * 1000 + number, 50);
            let smu = agent.put(&bytes, Kind::ToolResult, None, 50, OnFull::Wait).unwrap();
            // At once, before the engine has taken it in.
            assert_eq!(smu.view().unwrap().bytes(), bytes);
        }
        // Its slots are free from now on, and those that the session has not used are not.
        agent.close().unwrap();
        sessions.push(session);
    }
}

#[test]
fn quotas_hold_and_what_is_released_can_be_used_again() {
    let daemon = Daemon::start_in_ram(256 << 20);
    let session = daemon.connect();
    let agent = session.agent("agent", None, Some(10_000), None).unwrap();
    let put = |len| agent.put(&content(len, len), Kind::ToolResult, None, 50, OnFull::Wait);
    for _ in 0..20 {
        let held = put(10_000).unwrap();
        assert_eq!(put(1).err().unwrap().kind(), ErrorKind::QuotaExceeded);
        agent.release(&held, OnFull::Wait).unwrap();
    }
    agent.set_quota_bytes(Some(20_000)).unwrap();
    let held: Vec<_> = (0..4).map(|_| put(5_000).unwrap()).collect();
    assert_eq!(put(1).err().unwrap().kind(), ErrorKind::QuotaExceeded);
    assert_eq!(agent.stats().unwrap().logical_bytes, 20_000);
    drop(held);
}

#[test]
fn many_threads_of_one_session_call_at_once() {
    let daemon = Daemon::start_in_ram(128 << 20);
    let session = daemon.connect();
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let agent = common::agent(&session, &format!("agent-{thread}"));
            scope.spawn(move || {
                let mut held = Vec::new();
                for number in 0..300 {
                    let bytes = content(thread * 1000 + number, 20_000);
                    held.push((agent.put(&bytes, Kind::ToolResult, None, 50, OnFull::Wait).unwrap(), bytes));
                    let (smu, bytes) = &held[number * 7919 % held.len()];
                    assert_eq!(smu.view().unwrap().bytes(), bytes);
                    if number % 3 == 0 {
                        let (smu, _) = held.swap_remove(number % held.len());
                        agent.release(&smu, OnFull::Wait).unwrap();
                    }
                }
            });
        }
    });
}

#[test]
fn nothing_is_refused_while_rings_hold_memory_that_nobody_uses() {
    let daemon = Daemon::start(64 << 20, || Options { cold: false, ..common::options(64 << 20) });
    let others: Vec<Store> = (0..8).map(|_| daemon.connect()).collect();
    let agents: Vec<_> =
        others.iter().enumerate().map(|(n, store)| common::agent(store, &format!("other-{n}"))).collect();
    let bytes = common::noise(1, 64 << 10);
    let touch_rings = || {
        for (store, agent) in others.iter().zip(&agents) {
            for _ in 0..32 {
                let smu = agent.put(&bytes, Kind::ToolResult, None, 50, OnFull::Wait).unwrap();
                agent.release(&smu, OnFull::Wait).unwrap();
                // Taken in, so that nothing in the ring is in use, and the next goes to pages that are not yet.
                store.stats().unwrap();
            }
        }
    };
    let own = daemon.own();
    let agent = common::agent(&own.store, "agent");
    let mut held = Vec::new();
    let refused = (2..200).find_map(|seed| {
        if held.len() > 30 {
            touch_rings();
        }
        match agent.put(&common::noise(seed, 1 << 20), Kind::ToolResult, None, 50, OnFull::Fail) {
            Ok(smu) => held.push(smu),
            Err(error) => return Some(error),
        }
        None
    });
    assert_eq!(refused.unwrap().kind(), ErrorKind::OutOfMemory);
    let arena_bytes = own.store.stats().unwrap().arena_bytes;
    assert!(arena_bytes < 4 << 20, "{arena_bytes} bytes of rings beside {} contents", held.len());
}
