//! Shows what a process tree waits for and whether it is idle: `waits PID [SECONDS]`.

use agentmem_pager::idle::Idleness;
use agentmem_pager::sample::sample;
use agentmem_pager::tree::Tree;
use agentmem_pager::waits::{Verdict, Wait, look, verdict};
use agentmem_pager::watch::Watch;
use std::time::{Duration, Instant};

fn main() {
    let mut numbers = std::env::args().skip(1).map(|word| word.parse::<i32>());
    let (Some(Ok(root)), seconds) = (numbers.next(), numbers.next()) else {
        eprintln!("usage: waits PID [SECONDS]");
        std::process::exit(2);
    };
    let tree = Tree { root, cgroup: None, reaper: None, whole: true };
    if let Err(why) = show_waits(&tree).and_then(|()| show_idleness(&tree, seconds.and_then(Result::ok).unwrap_or(3))) {
        eprintln!("{why}");
        std::process::exit(1);
    }
}

fn show_waits(tree: &Tree) -> Result<(), String> {
    let members = tree.members()?;
    let started = Instant::now();
    let threads = look(&members);
    println!("{} processes, {} threads, looked at in {:?}", members.len(), threads.len(), started.elapsed());
    for thread in &threads {
        let wait = match &thread.wait {
            Wait::Sources(sources) => {
                let list = |(edge, source): (&str, &_)| format!("{source}{edge}");
                let sources = sources.iter().map(|source| (if source.edge { " (changes)" } else { "" }, source));
                format!("sources: [{}]", sources.map(list).collect::<Vec<_>>().join(", "))
            }
            other => format!("{other:?}"),
        };
        println!("  {} {} {}: {wait}", thread.member.pid, thread.tid, thread.comm);
    }
    match verdict(&threads) {
        Verdict::Understood(sources) => {
            let watch = Watch::open(&sources).map_err(|error| error.to_string())?;
            let ready = watch.ready().map_or("nothing".to_owned(), ToString::to_string);
            println!("understood: {} sources, {} watched, ready: {ready}", sources.len(), watch.fds().count());
        }
        other => println!("{other:?}"),
    }
    println!("memory shared outside: {:?}", agentmem_pager::tree::sharing_outside(&members)?);
    Ok(())
}

fn show_idleness(tree: &Tree, seconds: i32) -> Result<(), String> {
    let started = Instant::now();
    let now_ms = || started.elapsed().as_millis() as u64;
    let mut idleness = Idleness::new(0);
    for _ in 0..=seconds {
        let members = tree.members()?;
        let before = Instant::now();
        let sample = sample(&members);
        let took = before.elapsed();
        idleness.observe(now_ms(), &sample);
        let cpu_ms: u64 = sample.processes.iter().map(|process| process.cpu_ns / 1_000_000).sum();
        let state = match (idleness.quiet_since(), idleness.busy_with()) {
            (Some(since), _) => format!("quiet for {} ms", now_ms() - since),
            (None, busy) => busy.unwrap_or_default(),
        };
        let counts = (sample.processes.len(), sample.running.len(), sample.sockets.len());
        println!("{counts:?} processes, running, sockets; {cpu_ms} ms CPU; sampled in {took:?}: {state}");
        std::thread::sleep(Duration::from_secs(1));
    }
    Ok(())
}
