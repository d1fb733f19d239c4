//! A keeper with an engine that holds memfds and nothing else, for the tests.
//!
//! `holder keeper SOCKET [BURST SLOW_MS]` keeps `holder engine`; without a keeper, that one stands alone. Each
//! connection asks one thing: `pid`, `list`, `put NAME CONTENT`, `remove NAME`, `fill N` or `die`.

use agentmem_daemon::keeper::{Keeper, Settings};
use agentmem_daemon::lock::{Claim, Lock};
use agentmem_daemon::notify::{Kept, LOCK};
use agentmem_daemon::paths::Place;
use agentmem_daemon::restarts::Policy;
use agentmem_daemon::sys::Signals;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::Signal;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

type Failure = Box<dyn std::error::Error>;
type Held = BTreeMap<String, OwnedFd>;

fn main() -> Result<(), Failure> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["keeper", socket, ref policy @ ..] => keep(socket, policy),
        ["engine"] => hold(),
        _ => Err("holder keeper SOCKET [BURST SLOW_MS], or holder engine".into()),
    }
}

fn keep(socket: &str, policy: &[&str]) -> Result<(), Failure> {
    let kept = Kept::take()?;
    let place = Place::find(Some(socket.as_ref()))?;
    let Claim::Ours(lock) = Lock::claim(&place)? else { return Err("taken".into()) };
    let policy = match policy {
        [burst, slow_ms] => {
            Policy { burst: burst.parse()?, slow_pause: Duration::from_millis(slow_ms.parse()?), ..Policy::default() }
        }
        _ => Policy::default(),
    };
    let settings =
        Settings { program: "/proc/self/exe".into(), arguments: vec!["engine".into()], policy, oom_score: true };
    std::process::exit(Keeper::new(place, lock, kept, settings)?.run())
}

fn hold() -> Result<(), Failure> {
    let mut kept = Kept::take()?;
    let signals = Signals::block(&[Signal::TERM])?;
    let _lock = kept.take_found(LOCK);
    let listener = kept.take_listener().ok_or("no listener")?;
    let mut held = kept.take_all_found();
    if held.contains_key("poison") {
        return Err("poisoned".into());
    }
    kept.ready()?;
    loop {
        let mut awaited = [PollFd::new(&signals, PollFlags::IN), PollFd::new(&listener, PollFlags::IN)];
        poll(&mut awaited, None)?;
        if signals.next().is_some() {
            kept.stopping()?;
            return Ok(());
        }
        // Who asks may be gone again; that is no reason to end.
        let _ = answer(&listener.accept()?.0, &kept, &mut held);
    }
}

fn answer(mut peer: &UnixStream, kept: &Kept, held: &mut Held) -> Result<(), Failure> {
    let mut line = String::new();
    BufReader::new(peer).read_line(&mut line)?;
    match line.split_whitespace().collect::<Vec<_>>()[..] {
        ["pid"] => writeln!(peer, "{}", std::process::id())?,
        ["list"] => {
            for (name, memfd) in held.iter() {
                writeln!(peer, "{name}={}", content(memfd)?)?;
            }
        }
        ["put", name, text] => {
            let memfd = filled(name, text)?;
            let outcome = kept.store(name, &memfd).map(|is_kept| format!("kept {is_kept}"));
            held.insert(name.into(), memfd);
            writeln!(peer, "{}", outcome.unwrap_or_else(|error| error.to_string()))?;
        }
        ["remove", name] => {
            kept.remove(name)?;
            held.remove(name);
            writeln!(peer, "removed")?;
        }
        ["fill", count] => {
            for number in 0..count.parse::<u32>()? {
                let name = format!("f{number:05}");
                kept.store(&name, filled(&name, &name)?)?;
            }
            kept.barrier(Duration::from_secs(10))?;
            writeln!(peer, "filled")?;
        }
        ["die"] => std::process::abort(),
        _ => writeln!(peer, "what?")?,
    }
    Ok(())
}

fn filled(name: &str, text: &str) -> Result<OwnedFd, Failure> {
    let memfd = memfd_create(name, MemfdFlags::CLOEXEC)?;
    rustix::io::pwrite(&memfd, text.as_bytes(), 0)?;
    Ok(memfd)
}

fn content(memfd: &OwnedFd) -> Result<String, Failure> {
    let mut bytes = vec![0; rustix::fs::fstat(memfd)?.st_size as usize];
    rustix::io::pread(memfd, &mut bytes, 0)?;
    Ok(String::from_utf8(bytes)?)
}
