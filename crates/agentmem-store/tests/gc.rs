//! Collection: after half of everything went, what stays costs little more than if it had come alone.

mod common;

use agentmem_core::frame::Meta;
use agentmem_core::{Advice, Kind};
use agentmem_store::{Agent, Conversation, OnFull, Options, Smu, Store};
use common::{Random, agent, content_bytes, options, read_all, settle, text};
use std::path::Path;

fn open(path: &Path) -> Store {
    Store::open(Options { path: Some(path.to_owned()), ..options(512 << 20) }).unwrap()
}

fn append_all(conversation: &Conversation, messages: &[Vec<u8>]) {
    messages.iter().for_each(|message| conversation.append(message, Meta::default(), OnFull::Wait).unwrap());
}

/// Conversations of 40 to 1000 KB, every third a fork of the one before that goes on by itself.
fn talks(count: u64) -> Vec<(Option<usize>, Vec<Vec<u8>>)> {
    let mut random = Random::new(5);
    let mut talks: Vec<(Option<usize>, Vec<Vec<u8>>)> = Vec::new();
    for talk in 0..count {
        let count = if random.below(10) == 0 { 500 } else { 20 + random.below(150) };
        let own = (0..count).map(|index| text(talk << 32 | index, 200 + random.next() as usize % 4000));
        let own: Vec<Vec<u8>> = own.collect();
        if talk % 3 == 2 {
            let before = &talks[talk as usize - 1].1;
            let at = random.below(before.len() as u64) as usize;
            let messages = before[..at].iter().chain(&own[..own.len() / 2]).cloned().collect();
            talks.push((Some(at), messages));
        } else {
            talks.push((None, own));
        }
    }
    talks
}

fn put_contents(agent: &Agent, numbers: impl Iterator<Item = u64>) -> Vec<(u64, Smu)> {
    let put = |number: u64| {
        let content = text(1 << 50 | number, 1000 + (number as usize * 997) % 40_000);
        (number, agent.put(&content, Kind::ToolResult, None, 50, OnFull::Wait).unwrap())
    };
    numbers.map(put).collect()
}

fn is_kept(number: u64) -> bool {
    Random::new(number + 1000).below(2) == 0
}

/// Bytes of content in RAM, stored ones wherever they are, and of files.
fn costs(store: &Store, empty_bytes: u64) -> [u64; 3] {
    store.flush().unwrap();
    let stats = store.stats().unwrap();
    [content_bytes(&stats) - empty_bytes, stats.stored_bytes, stats.disk_bytes]
}

/// Puts `talk_count` conversations and `content_count` contents in, releases a random half of each, and
/// compares with a store that was given the other half alone: at most `percents` of its RAM, of what is stored
/// and of its files.
fn release_half(talk_count: u64, content_count: u64, percents: [u64; 3]) {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = open(one.path());
    let empty_bytes = content_bytes(&store.stats().unwrap());
    let agent_one = agent(&store, "a");
    let talks = talks(talk_count);
    let mut open_talks: Vec<Conversation> = Vec::new();
    for (number, (forked_at, messages)) in talks.iter().enumerate() {
        let conversation = match forked_at {
            Some(at) => {
                let fork = open_talks[number - 1].fork(&agent_one, Some(*at as u64), None).unwrap();
                append_all(&fork, &messages[*at..]);
                fork
            }
            None => {
                let conversation = agent_one.conversation(None).unwrap();
                append_all(&conversation, messages);
                conversation
            }
        };
        open_talks.push(conversation);
    }
    let contents = put_contents(&agent_one, 0..content_count);
    let pack = |store: &Store, conversations: &[Conversation], contents: &[(u64, Smu)]| {
        store.verify().unwrap();
        conversations.iter().for_each(|conversation| conversation.advise(Advice::Cold).unwrap());
        contents.iter().for_each(|(_, smu)| smu.advise(Advice::Cold).unwrap());
        store.flush().unwrap();
        store.reclaim(Some(0)).unwrap();
        // Everything is read back into RAM, compressed.
        conversations.iter().for_each(|conversation| conversation.advise(Advice::WillNeed).unwrap());
    };
    pack(&store, &open_talks, &contents);
    let whole = costs(&store, empty_bytes);

    let mut kept: Vec<(usize, Conversation)> = Vec::new();
    for (number, conversation) in open_talks.into_iter().enumerate() {
        match is_kept(number as u64) {
            true => kept.push((number, conversation)),
            false => agent_one.release_conversation(&conversation).unwrap(),
        }
    }
    let (kept_contents, gone): (Vec<_>, Vec<_>) = contents.into_iter().partition(|(number, _)| is_kept(*number));
    gone.iter().for_each(|(_, smu)| agent_one.release(smu, OnFull::Wait).unwrap());

    let fresh_store = open(other.path());
    let agent_two = agent(&fresh_store, "a");
    let fresh_talks: Vec<Conversation> = kept
        .iter()
        .map(|(number, _)| {
            let conversation = agent_two.conversation(None).unwrap();
            append_all(&conversation, &talks[*number].1);
            conversation
        })
        .collect();
    let fresh_contents = put_contents(&agent_two, kept_contents.iter().map(|(number, _)| *number));
    pack(&fresh_store, &fresh_talks, &fresh_contents);
    let fresh = costs(&fresh_store, empty_bytes);

    // Contents are on SSD only, and in RAM just for being collected.
    let from = if talk_count > 0 { 0 } else { 1 };
    let is_small = |costs: [u64; 3]| (from..3).all(|at| costs[at] * 100 <= fresh[at] * percents[at]);
    settle(&store, |_| is_small(costs(&store, empty_bytes)));
    let after = costs(&store, empty_bytes);
    assert!(is_small(after), "RAM, stored, disk: {whole:?} for all, {after:?} for half, {fresh:?} for that half alone");
    assert!((from..3).all(|at| after[at] < whole[at]));

    for (number, conversation) in &kept {
        assert!(read_all(conversation).unwrap() == talks[*number].1, "conversation {number}");
    }
    for (number, smu) in &kept_contents {
        assert!(*smu.view().unwrap() == text(1 << 50 | number, 1000 + (*number as usize * 997) % 40_000)[..]);
    }
    let found = store.verify().unwrap();
    assert!(found.damaged.is_empty() && found.orphans == 0, "{found:?}");
}

#[test]
fn half_of_the_conversations_cost_half() {
    release_half(36, 0, [120; 3]);
}

/// Small contents share frames, of which a part goes; and files lose whole blocks only, so that frames of a few
/// kilobytes are moved together again.
#[test]
fn half_of_the_contents_cost_half() {
    release_half(0, 400, [120; 3]);
}

/// A fork of little keeps little, though its origin was still raw when it went.
#[test]
fn a_fork_of_a_raw_tail_keeps_only_what_it_sees() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let agent = agent(&store, "a");
    let conversation = agent.conversation(None).unwrap();
    let messages: Vec<Vec<u8>> = (0..300).map(|index| text(index, 3000)).collect();
    append_all(&conversation, &messages);
    let fork = conversation.fork(&agent, Some(10), None).unwrap();
    agent.release_conversation(&conversation).unwrap();
    fork.advise(Advice::Cold).unwrap();
    let stats = settle(&store, |stats| stats.stored_bytes < 30_000);
    assert!(stats.stored_bytes < 30_000, "{} bytes for {}", stats.stored_bytes, stats.logical_bytes);
    assert!(read_all(&fork).unwrap() == messages[..10]);
}
