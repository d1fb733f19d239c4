//! The figures that are promised from Rust, as JSON lines: `{"name": ..., "value": ..., "unit": ...}`.
//!
//! `cargo run --release -p agentmem-store --example bench [-- [--quick] [CORPUS]]` (text is generated if no corpus is
//! named); `agentmem bench` runs it and adds the goals.

use agentmem_core::{Kind, Result};
use agentmem_corpus::{AgentConversations, Corpus};
use agentmem_store::{Agent, OnFull, Options, Smu, Store};
use std::path::Path;
use std::time::{Duration, Instant};

const VALUE_BYTES: usize = 1024;
const BURST: usize = 10_000;
const CONTENT_BYTES: usize = 64 << 10;

fn main() -> Result<()> {
    let (flags, paths): (Vec<_>, Vec<_>) = std::env::args().skip(1).partition(|argument| argument.starts_with("--"));
    let is_quick = flags.iter().any(|flag| flag == "--quick");
    let corpus = match paths.first() {
        Some(path) => Corpus::open(Path::new(path)).unwrap_or_else(|error| panic!("{error}")),
        None => Corpus::generate(1, 32 << 20),
    };
    let part = if is_quick { 20 } else { 1 };
    put(&corpus, if is_quick { 2 } else { 20 })?;
    sustained(400_000 / part)?;
    view(&corpus, 20_000 / part)?;
    tiers(&corpus, 4096 / part)?;
    at_budget(&corpus, 4096 / part)
}

/// `count` values of `len` bytes, cut from conversations.
fn values(corpus: &Corpus, count: usize, len: usize) -> Vec<Vec<u8>> {
    let mut text = Vec::with_capacity(count * len);
    for conversation in AgentConversations::new(corpus, 1, 0, (count * len) as u64) {
        conversation.messages().for_each(|message| text.extend_from_slice(message));
    }
    text.chunks_exact(len).take(count).map(<[u8]>::to_vec).collect()
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
    open_with(2 << 30)
}

fn open_with(memory_max_bytes: u64) -> Result<Store> {
    Store::open(Options {
        memory_max_bytes,
        cold: false,
        warm_after_ms: u64::MAX / 4,
        pressure: false,
        ..Options::default()
    })
}

fn put_value(agent: &Agent, value: &[u8]) -> Result<Smu> {
    agent.put(value, Kind::ToolResult, None, 50, OnFull::Wait)
}

/// Bursts that the arena takes in whole, with a rest between them.
fn put(corpus: &Corpus, bursts: usize) -> Result<()> {
    let store = open()?;
    let agent = store.agent("bench", Some(50), None, None)?;
    let mut nanoseconds = Vec::with_capacity(bursts * BURST);
    for values in values(corpus, bursts * BURST, VALUE_BYTES).chunks(BURST) {
        let mut handles = Vec::with_capacity(BURST);
        for value in values {
            let begin = Instant::now();
            handles.push(put_value(&agent, value)?);
            nanoseconds.push(begin.elapsed().as_nanos() as u64);
        }
        // The next burst finds the arena empty.
        handles[handles.len() - 1].id()?;
        std::thread::sleep(Duration::from_millis(20));
    }
    report_quantiles("put", &mut nanoseconds);
    Ok(())
}

/// Without a rest, until everything is hashed and in its place.
fn sustained(count: usize) -> Result<()> {
    let store = open()?;
    let agent = store.agent("bench", Some(50), None, None)?;
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

/// Views of hot contents far from each other, taken and dropped.
fn view(corpus: &Corpus, count: usize) -> Result<()> {
    let store = open()?;
    let agent = store.agent("bench", Some(50), None, None)?;
    let values = values(corpus, count, VALUE_BYTES);
    let handles = values.iter().map(|value| put_value(&agent, value)).collect::<Result<Vec<_>>>()?;
    handles[count - 1].id()?;
    let mut nanoseconds = Vec::with_capacity(5 * count);
    for number in 0..5 * count {
        let smu = &handles[number * 7919 % count];
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
fn tiers(corpus: &Corpus, count: usize) -> Result<()> {
    let store = open()?;
    let agent = store.agent("bench", Some(50), None, None)?;
    let values = values(corpus, count, CONTENT_BYTES);
    let handles = values.iter().map(|value| put_value(&agent, value)).collect::<Result<Vec<_>>>()?;
    handles[count - 1].id()?;
    let megabytes = (count * CONTENT_BYTES) as f64 / 1e6;
    let begin = processor_seconds();
    store.reclaim(Some(0))?;
    report("demote", megabytes / (processor_seconds() - begin), "MB/s");
    let begin = processor_seconds();
    for smu in &handles {
        std::hint::black_box(smu.view()?.bytes());
    }
    report("promote", megabytes / (processor_seconds() - begin), "MB/s");
    Ok(())
}

/// Views in turn of contents half of which the budget holds raw: each is promoted, and another demoted
/// for it, whose compressed form exists. All of that is in the processor time.
fn at_budget(corpus: &Corpus, count: usize) -> Result<()> {
    let store = open_with((count * CONTENT_BYTES) as u64)?;
    let agent = store.agent("bench", Some(50), None, None)?;
    let values = values(corpus, count, CONTENT_BYTES);
    let handles = values.iter().map(|value| put_value(&agent, value)).collect::<Result<Vec<_>>>()?;
    handles[count - 1].id()?;
    store.reclaim(None)?;
    let view_all = || -> Result<()> {
        for smu in &handles {
            std::hint::black_box(smu.view()?.bytes());
        }
        Ok(())
    };
    let promotions = || -> Result<u64> {
        let counters = store.stats()?.counters;
        Ok(counters.iter().find(|(name, _)| *name == "promote_warm").expect("a counter of that name").1)
    };
    view_all()?;
    let (begin, before) = (processor_seconds(), promotions()?);
    (0..3).try_for_each(|_| view_all())?;
    let promoted = promotions()? - before;
    let megabytes = (promoted * CONTENT_BYTES as u64) as f64 / 1e6;
    report("promote at the budget", megabytes / (processor_seconds() - begin), "MB/s");
    Ok(())
}

/// Processor time of all threads so far.
fn processor_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}
