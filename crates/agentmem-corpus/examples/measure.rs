//! Compares a corpus with its rewriting: speeds, compression ratios by source, and what two agents have in common.
//!
//! `cargo run --release -p agentmem-corpus --example measure -- PATH|generate [BYTES [AGENTS]]`
//! (bytes to generate, agents to compare)

use agentmem_core::transcript::{conversations, split};
use agentmem_corpus::measure::{MessageSet, Tally, equal_share, quantile};
use agentmem_corpus::{AgentConversations, Class, Corpus, Rewriter, prompt, tools};
use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;
use std::time::Instant;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().unwrap_or_else(|| "generate".to_owned());
    let bytes: u64 = arguments.next().map_or(Ok(64 << 20), |text| text.parse())?;
    let agent_count: u64 = arguments.next().map_or(Ok(3), |text| text.parse())?;
    let started = Instant::now();
    let corpus = if path == "generate" { Corpus::generate(1, bytes) } else { Corpus::open(Path::new(&path))? };
    let total: usize = corpus.files().iter().map(|file| file.bytes.len()).sum();
    report_speed("open", total, started);
    for class in [Class::Conversation, Class::Prompt, Class::Tool] {
        let bytes: usize = corpus.of_class(class).map(|file| file.bytes.len()).sum();
        println!("{class:?}: {} files, {bytes} bytes", corpus.of_class(class).count());
    }
    speeds(&corpus);
    ratios(&corpus)?;
    sizes(&corpus);
    agents(&corpus, agent_count, total as u64);
    prompts(&corpus)?;
    Ok(())
}

fn report_speed(what: &str, bytes: usize, started: Instant) {
    let seconds = started.elapsed().as_secs_f64();
    println!("{what}: {bytes} bytes in {seconds:.3} s, {:.0} MB/s", bytes as f64 / 1e6 / seconds);
}

fn speeds(corpus: &Corpus) {
    let mut by_format: BTreeMap<bool, Vec<&[u8]>> = BTreeMap::new();
    for file in corpus.of_class(Class::Conversation) {
        by_format.entry(file.path.ends_with(".jsonl")).or_default().push(&file.bytes);
    }
    for (is_lines, files) in by_format {
        let bytes = files.iter().map(|file| file.len()).sum();
        let started = Instant::now();
        let pieces: usize = files.iter().map(|file| split(file).len()).sum();
        report_speed(if is_lines { "split of lines" } else { "split of documents" }, bytes, started);
        println!("  {} files, {pieces} pieces", files.len());
        let rewriter = Rewriter::new(1);
        let mut out = Vec::with_capacity(64 << 20);
        let started = Instant::now();
        for file in files {
            out.clear();
            rewriter.rewrite(file, &mut out);
        }
        report_speed("rewrite", bytes, started);
    }
}

fn ratios(corpus: &Corpus) -> Result<(), Box<dyn Error>> {
    let rewriter = Rewriter::new(7);
    let mut by_source: BTreeMap<&str, (Tally, Tally, usize, usize)> = BTreeMap::new();
    for file in corpus.files() {
        let pieces = split(&file.bytes);
        let mut other = Vec::new();
        rewriter.rewrite(&file.bytes, &mut other);
        let is_json = |text: &[u8]| serde_json::from_slice::<serde_json::Value>(text).is_ok();
        let spoilt = pieces.iter().any(|piece| is_json(piece.message(&file.bytes)) != is_json(piece.message(&other)));
        let changed = spoilt || split(&other) != pieces;
        let (original, rewritten, count, boundaries) = by_source.entry(&file.source).or_default();
        for pieces in conversations(&file.bytes) {
            original.add(pieces.iter().map(|piece| piece.bytes(&file.bytes)))?;
            rewritten.add(pieces.iter().map(|piece| piece.bytes(&other)))?;
        }
        *count += pieces.len();
        *boundaries += usize::from(changed);
    }
    for (source, (original, rewritten, count, boundaries)) in by_source {
        println!(
            "{source}: {} bytes, {count} pieces, {boundaries} files split or parsed differently",
            original.original_bytes()
        );
        for ((name, before), (_, after)) in original.ratios().named().iter().zip(rewritten.ratios().named()) {
            println!("  {name:8} {before:6.2} -> {after:6.2} ({:+.1} %)", (after / before - 1.0) * 100.0);
        }
    }
    Ok(())
}

fn sizes(corpus: &Corpus) {
    let mut surroundings: BTreeMap<&str, (usize, usize, usize)> = BTreeMap::new();
    for file in corpus.of_class(Class::Conversation) {
        let (outside, total, longest) = surroundings.entry(&file.source).or_default();
        for piece in split(&file.bytes) {
            *outside += (piece.lead + piece.trail) as usize;
            *longest = piece.message(&file.bytes).len().max(*longest);
        }
        *total += file.bytes.len();
    }
    for (source, (outside, total, longest)) in surroundings {
        let share = 100.0 * outside as f64 / total as f64;
        println!("{source}: {share:.2} % outside of messages, longest message {longest}");
    }
    let mut messages = Vec::new();
    let mut lengths = Vec::new();
    for original in corpus.originals().filter(|original| original.file.path.ends_with(".jsonl")) {
        lengths.push(original.text.len());
        messages.extend(original.messages().map(<[u8]>::len));
    }
    let [p50, p90, p99] = [0.5, 0.9, 0.99].map(|share| quantile(&mut messages, share));
    println!("messages of lines: {}, p50 {p50}, p90 {p90}, p99 {p99}", messages.len());
    let [p50, p90] = [0.5, 0.9].map(|share| quantile(&mut lengths, share));
    println!("conversations of lines: {}, p50 {p50}, p90 {p90}", lengths.len());
}

fn agents(corpus: &Corpus, count: u64, total: u64) {
    let mut sets = Vec::new();
    let started = Instant::now();
    for agent in 0..count {
        let mut set = MessageSet::default();
        for conversation in AgentConversations::new(corpus, 1, agent, total * 3 / 2) {
            conversation.messages().for_each(|message| set.insert(message));
        }
        sets.push(set);
    }
    let bytes: u64 = sets.iter().map(MessageSet::total_bytes).sum();
    report_speed("agents, with hashing", bytes as usize, started);
    println!("equal between two agents: {:.4} %", sets[0].equal_share(&sets[1]) * 100.0);
    println!("equal among {count} agents: {:.4} %", equal_share(&sets) * 100.0);
}

fn prompts(corpus: &Corpus) -> Result<(), Box<dyn Error>> {
    for (name, text) in [("prompt", prompt(corpus, 1, 10 << 20)), ("tools", tools(corpus, 1, 10 << 20))] {
        let mut tally = Tally::default();
        tally.add(text.chunks(1 << 20))?;
        println!("{name}: {:?}, utf-8 {}", tally.ratios(), std::str::from_utf8(&text).is_ok());
    }
    Ok(())
}
