//! A program that holds memory in all the ways programs do, knows what every byte of it should be, and tells the first
//! one that is not. What pages foreign memory out and in is tested on it.
//!
//! ```text
//! shapes serve --seed N --mib M [--threads T] [--children C] [--ticking]
//! shapes run --seed N --seconds S [--mib M] [--threads T] [--children C] [--ticking]
//! shapes compress-like --seed N --mib M
//! ```
//!
//! `serve` reads commands, a line each, and answers each with a line:
//!
//! - `step K` makes K changes, anywhere in the process, its threads and its children.
//! - `check` compares every byte of all of them.
//! - `places` adds `PID:NAME:ADDRESS:LENGTH` of checked memory to the answer, a few of each shape.
//! - `quit` ends everything.
//!
//! An answer is `ok STEPS DIGEST`, where the digest depends on arguments and commands alone, so that a process that was
//! tampered with can be compared with one that was not; or it is `wrong WHERE at ADDRESS expected X got Y`, and then the
//! exit code is 1. Between two commands all threads sleep, unless `--ticking` asks for one that touches its memory 20
//! times a second.
//!
//! `run` makes changes and checks by itself and answers once, at the end. `compress-like` is `serve` with the heap of an
//! agent instead of shapes.
//!
//! Every shape's memory comes to about M MiB together, huge pages (2 MiB a thread at least) and children not counted.
//! Children are, in turn: started by posix_spawn; forked, with all memory shared copy-on-write; forked to execute. With less
//! than two of them, no anonymous memory is shared with another process.
//!
//! A static program comes of `RUSTFLAGS='-C target-feature=+crt-static' cargo build -p agentmem-pager --example shapes
//! --target x86_64-unknown-linux-gnu`; AGENTMEM_SHAPES names it to the tests.

mod agentlike;
mod children;
mod command;
mod crowd;
mod files;
mod heap;
mod jit;
mod memory;
mod pattern;
mod region;
mod relatives;
mod serve;
mod special;
mod stack;
mod text;
mod threads;
mod world;

use serve::Fleet;

/// What the command line says.
pub struct Options {
    seed: u64,
    mib: usize,
    threads: usize,
    children: usize,
    ticking: bool,
    seconds: u64,
    agent_like: bool,
}

const USAGE: &str = "usage: shapes serve|run|compress-like [--seed N] [--mib 1..4096] [--threads 0..64] \
    [--children 0..16] [--ticking] [--seconds S]";

impl Options {
    /// What follows the mode. None: not understood.
    fn parse(mut words: impl Iterator<Item = String>) -> Option<Self> {
        let (seed, mib, threads, children, seconds) = (1, 32, 0, 0, 10);
        let mut options = Options { seed, mib, threads, children, ticking: false, seconds, agent_like: false };
        while let Some(word) = words.next() {
            if word == "--ticking" {
                options.ticking = true;
                continue;
            }
            let number: u64 = words.next()?.parse().ok()?;
            let upto = |most: u64| (number <= most).then_some(number as usize);
            match word.as_str() {
                "--seed" => options.seed = number,
                "--mib" => options.mib = upto(4096)?.max(1),
                "--threads" => options.threads = upto(64)?,
                "--children" => options.children = upto(16)?,
                "--seconds" => options.seconds = number,
                _ => return None,
            }
        }
        Some(options)
    }
}

fn main() {
    let mut words = std::env::args().skip(1);
    let mode = words.next().unwrap_or_default();
    let Some(mut options) = Options::parse(words) else { refuse() };
    match mode.as_str() {
        "serve" => serve::to_the_end(&mut Fleet::new(&options)),
        "run" => serve::run_to_the_end(&mut Fleet::new(&options), options.seconds),
        "compress-like" => {
            options.agent_like = true;
            serve::to_the_end(&mut Fleet::new(&options));
        }
        // What a process calls that has a parent of its own kind.
        "child" => {
            relatives::end_with_parent();
            serve::to_the_end(&mut Fleet::new(&options));
        }
        _ => refuse(),
    }
}

fn refuse() -> ! {
    eprintln!("{USAGE}");
    std::process::exit(2);
}
