//! What the tests share: content that can be made again from a seed, and waiting until the engine is done.
#![allow(dead_code)]

pub mod daemon;

use agentmem_store::stats::Stats;
use agentmem_store::{Agent, Conversation, Options, Store};
use std::time::{Duration, Instant};

/// A small generator, so that tests depend on seeds alone.
pub struct Random(pub u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        (self.next() >> 11) % limit
    }
}

/// Words from `seed`: shrinks to about a third.
pub fn text(seed: u64, bytes: usize) -> Vec<u8> {
    let mut random = Random::new(seed);
    let mut out = Vec::with_capacity(bytes + 16);
    while out.len() < bytes {
        out.extend_from_slice(b"word");
        let mut number = random.next() % 500;
        while number > 0 {
            out.push(b'0' + (number % 10) as u8);
            number /= 10;
        }
        out.push(b' ');
    }
    out.truncate(bytes);
    out
}

/// Noise from `seed`: does not shrink.
pub fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut random = Random::new(seed);
    let mut out = Vec::with_capacity(bytes + 8);
    while out.len() < bytes {
        out.extend_from_slice(&random.next().to_le_bytes());
    }
    out.truncate(bytes);
    out
}

/// Options of a store that behaves the same on a busy machine.
pub fn options(memory_max_bytes: u64) -> Options {
    Options { memory_max_bytes, pressure: false, ..Options::default() }
}

pub fn agent(store: &Store, name: &str) -> Agent {
    store.agent(name, Some(50), None, None).unwrap()
}

/// A figure of the kernel module, of all that it holds.
pub fn module_figure(name: &str) -> u64 {
    let figures = std::fs::read_to_string("/proc/agent_stats").unwrap();
    let line = figures.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.expect("a figure of that name").trim().parse().unwrap()
}

/// All messages of a conversation.
pub fn read_all(conversation: &Conversation) -> agentmem_core::Result<Vec<Vec<u8>>> {
    let len = conversation.len()?;
    let mut all: Vec<Vec<u8>> = Vec::new();
    while (all.len() as u64) < len {
        all.extend(conversation.read(all.len() as u64, len)?.into_iter().map(|message| message.bytes));
    }
    Ok(all)
}

/// Looks at the figures until `is_settled` likes them, for ten seconds at most; returns the last ones.
pub fn settle(store: &Store, is_settled: impl Fn(&Stats) -> bool) -> Stats {
    let start = Instant::now();
    loop {
        let stats = store.stats().unwrap();
        if is_settled(&stats) || start.elapsed() > Duration::from_secs(10) {
            return stats;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// RAM besides tables, the fifth that holes between them count for, and ring: content, and what the engine needs at
/// any time.
pub fn content_bytes(stats: &Stats) -> u64 {
    stats.resident_bytes - stats.table_bytes - stats.table_bytes / 5 - stats.arena_bytes
}

/// Everything was released: waits until nothing is left of it, and says what is if something stays. An empty
/// store has `empty_bytes` of [`content_bytes`].
pub fn assert_empty(store: &Store, empty_bytes: u64) {
    let is_empty = |stats: &Stats| {
        // Blocks go back when a commit forgot the frames.
        if stats.disk_bytes > 0 {
            store.flush().unwrap();
        }
        stats.smus == 0
            && stats.frames == 0
            && content_bytes(stats) <= empty_bytes + 2 * 4096
            && stats.disk_bytes <= 3 * 4096
            && stats.logical_bytes == 0
            && stats.hot_bytes + stats.warm_bytes + stats.cold_bytes + stats.pinned_bytes == 0
    };
    let stats = settle(store, is_empty);
    let left = content_bytes(&stats) as i64 - empty_bytes as i64;
    assert!(is_empty(&stats), "something is left: {left} bytes of content\n{stats:#?}");
}
