//! The figures that are promised from Rust, as JSON lines: `{"name": ..., "value": ..., "unit": ...}`.
//!
//! `cargo run --release -p agentmem-store --example bench [-- --quick]`; `agentmem bench` runs it and adds the goals.

use agentmem_core::{Kind, Result};
use agentmem_store::{Agent, OnFull, Options, Smu, Store};
use std::time::{Duration, Instant};

const VALUE_BYTES: usize = 1024;
const BURST: usize = 10_000;
const CONTENT_BYTES: usize = 64 << 10;

fn main() -> Result<()> {
    let is_quick = std::env::args().any(|argument| argument == "--quick");
    let part = if is_quick { 20 } else { 1 };
    put(20 / part.min(10))?;
    sustained(400_000 / part)?;
    view(20_000 / part)?;
    tiers(4096 / part)
}

fn report(name: &str, value: f64, unit: &str) {
    println!("{{\"name\": \"{name}\", \"value\": {value:.4}, \"unit\": \"{unit}\"}}");
}

fn report_quantiles(name: &str, nanoseconds: &mut [u64]) {
    nanoseconds.sort_unstable();
    for (quantile, share) in [("p50", 0.5), ("p99", 0.99)] {
        let at = ((nanoseconds.len() - 1) as f64 * share) as usize;
        report(&format!("{name}, {quantile}"), nanoseconds[at] as f64 / 1000.0, "us");
    }
}

fn open() -> Result<Store> {
    Store::open(Options {
        memory_max_bytes: 2 << 30,
        cold: false,
        warm_after_ms: u64::MAX / 4,
        pressure: false,
        ..Options::default()
    })
}

fn put_value(agent: &Agent, value: &[u8]) -> Result<Smu> {
    agent.put(value, Kind::ToolResult, None, 50, OnFull::Wait)
}

/// A stream of numbers that is the same every time.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    /// Text of `len` bytes that zstd at level 3 takes to about a third, as it does single messages.
    fn text(&mut self, words: &[Vec<u8>], len: usize) -> Vec<u8> {
        let mut text = Vec::with_capacity(len + 16);
        while text.len() < len {
            text.extend_from_slice(&words[self.next() as usize % words.len()]);
            text.push(b' ');
        }
        text.truncate(len);
        text
    }
}

fn words(random: &mut Random) -> Vec<Vec<u8>> {
    let mut word = || (0..3 + random.next() % 7).map(|_| b'a' + (random.next() % 26) as u8).collect();
    (0..4096).map(|_| word()).collect()
}

/// Bursts that the arena takes in whole, with a rest between them.
fn put(bursts: usize) -> Result<()> {
    let store = open()?;
    let agent = store.agent("bench", 50, None, None)?;
    let mut nanoseconds = Vec::with_capacity(bursts * BURST);
    let mut random = Random(1);
    let words = words(&mut random);
    for _ in 0..bursts {
        let values: Vec<Vec<u8>> = (0..BURST).map(|_| random.text(&words, VALUE_BYTES)).collect();
        let mut handles = Vec::with_capacity(BURST);
        for value in &values {
            let begin = Instant::now();
            handles.push(put_value(&agent, value)?);
            nanoseconds.push(begin.elapsed().as_nanos() as u64);
        }
        // The next burst finds the arena empty.
        handles[BURST - 1].id()?;
        std::thread::sleep(Duration::from_millis(20));
    }
    report_quantiles("put", &mut nanoseconds);
    Ok(())
}

/// Without a rest, until everything is hashed and in its place.
fn sustained(count: usize) -> Result<()> {
    let store = open()?;
    let agent = store.agent("bench", 50, None, None)?;
    let mut value = vec![b'x'; VALUE_BYTES];
    let begin = Instant::now();
    let mut last = None;
    for number in 0..count as u64 {
        value[..8].copy_from_slice(&number.to_le_bytes());
        last = Some(put_value(&agent, &value)?);
    }
    last.expect("at least one").id()?;
    report("put, sustained", count as f64 / begin.elapsed().as_secs_f64() / 1000.0, "thousand/s");
    Ok(())
}

/// Views of hot contents in random order, taken and dropped.
fn view(count: usize) -> Result<()> {
    let store = open()?;
    let agent = store.agent("bench", 50, None, None)?;
    let mut random = Random(2);
    let words = words(&mut random);
    let handles =
        (0..count).map(|_| put_value(&agent, &random.text(&words, VALUE_BYTES))).collect::<Result<Vec<_>>>()?;
    handles[count - 1].id()?;
    let mut nanoseconds = Vec::with_capacity(5 * count);
    for _ in 0..5 * count {
        let smu = &handles[random.next() as usize % count];
        let begin = Instant::now();
        let view = smu.view()?;
        std::hint::black_box(view.bytes());
        drop(view);
        nanoseconds.push(begin.elapsed().as_nanos() as u64);
    }
    report_quantiles("view", &mut nanoseconds);
    Ok(())
}

/// From hot to warm by a reclaim, and back by views; by processor time.
fn tiers(count: usize) -> Result<()> {
    let store = open()?;
    let agent = store.agent("bench", 50, None, None)?;
    let mut random = Random(3);
    let words = words(&mut random);
    let handles =
        (0..count).map(|_| put_value(&agent, &random.text(&words, CONTENT_BYTES))).collect::<Result<Vec<_>>>()?;
    handles[count - 1].id()?;
    let megabytes = (count * CONTENT_BYTES) as f64 / 1e6;
    let begin = processor_seconds();
    store.reclaim(0)?;
    report("demote", megabytes / (processor_seconds() - begin), "MB/s");
    let begin = processor_seconds();
    for smu in &handles {
        std::hint::black_box(smu.view()?.bytes());
    }
    report("promote", megabytes / (processor_seconds() - begin), "MB/s");
    Ok(())
}

/// Processor time of all threads so far, to a hundredth of a second.
fn processor_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("Linux has it");
    let (_, fields) = stat.rsplit_once(')').expect("a name in brackets");
    let ticks: u64 = fields.split_whitespace().skip(11).take(2).map(|field| field.parse::<u64>().unwrap_or(0)).sum();
    ticks.max(1) as f64 / 100.0
}
