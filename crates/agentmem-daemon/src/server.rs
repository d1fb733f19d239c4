//! The engine process: trust domains, served until a signal to end arrives.

use crate::budget::Budget;
use crate::config::{Config, Token};
use crate::grant_log::GrantLog;
use crate::http::{self, Form};
use crate::metrics::Snapshot;
use crate::notify::Kept;
use crate::oversight::{Oversight, SCORES, Watch};
use crate::paths::io;
use crate::sys::Signals;
use crate::trees::Trees;
use agentmem_core::{Error, ErrorKind, Result};
use agentmem_store::{Domains, Limits, Server, TokenHash};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::Write;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Mutex};

/// Bytes of a file that a token is read from.
const TOKEN_FILE_BYTES_MAX: u64 = 4096;

/// What a thread of the daemon does.
type Work = Box<dyn FnOnce(&Arc<Server>) + Send>;

/// How often engines are looked at.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 500_000_000 };

/// Serves agents until a signal to end arrives; what can be made durable is, then. `trees` share the budget, and
/// `grants` says what crossed domains.
pub fn serve(
    config: &Config,
    trees: &Trees,
    grants: GrantLog,
    listener: UnixListener,
    mut kept: Kept,
    signals: &Signals,
) -> Result<()> {
    let limits = Limits {
        connections: config.limits.connections as usize,
        domains: config.limits.domains as usize,
        arena_bytes: config.arena_bytes,
        clients_make_domains: config.open_domains,
        made: config.terms(),
    };
    let template = config.clone();
    let options_of = move |name: &str| {
        let mut options = template.to_options()?;
        if let Some(path) = options.path.as_mut().filter(|_| !name.is_empty()) {
            path.push("domains");
            path.push(name);
        }
        Ok(options)
    };
    let budget_bytes = config.to_options()?.memory_max_bytes;
    let metrics_listener = config.metrics_port.map(http::listen).transpose()?;
    let mut found = kept.take_all_found();
    let scores = found.remove(SCORES);
    let goes_on = !found.is_empty();
    // Before anything is opened: a token that cannot be read is no reason to close what is kept.
    let tokens = config.domains.values().map(|domain| hash_of(&domain.token)).collect::<Result<Vec<_>>>()?;
    let kept = Arc::new(kept);
    let domains = match kept.is_kept() {
        true => Domains::kept(budget_bytes, limits, Box::new(options_of), kept.clone(), found)?,
        false => Domains::new(budget_bytes, limits, Box::new(options_of))?,
    };
    let domains = domains.logging(Box::new(move |event| grants.write(event)));
    let opened = || {
        for ((name, domain), token) in config.domains.iter().zip(tokens) {
            match domains.add(name, token, config.terms_of(domain)) {
                // It is one that went on, and no reason to end for all others.
                Err(_) if domains.is_left_out(name) => {}
                added => drop(added?),
            }
        }
        domains.go_on();
        for error in domains.left_out() {
            let _ = writeln!(std::io::stderr(), "agentmemd: {error}");
            let _ = kept.status(&error.to_string());
        }
        // Last, as what is kept of a first start that failed would have it tried again.
        Oversight::new(config, budget_bytes, &kept, scores)
    };
    let oversight = match opened() {
        Ok(oversight) => Arc::new(oversight),
        Err(error) => {
            if goes_on {
                // Closing them would let go of what the next start goes on from.
                std::mem::forget(domains);
            }
            return Err(error);
        }
    };
    let budget = Arc::new(Budget::new(budget_bytes));
    let governs_trees = config.memory_max_bytes.is_some();
    let metrics = {
        let (trees, oversight, takes_turns) = (trees.clone(), oversight.clone(), Mutex::new(()));
        // One at a time: it looks at all that there is.
        move |server: &Server, form: Form| {
            let _turn = takes_turns.lock();
            Snapshot::take(server, (budget_bytes, governs_trees), oversight.figures(), trees.all()).encode(form)
        }
    };
    let metrics = Arc::new(metrics);
    let on_socket = metrics.clone();
    // Whoever hangs up early has what it wanted.
    let http = move |server: &Server, stream: &UnixStream| {
        drop(http::answer(stream, |form| on_socket(server, form)));
    };
    let server = Server::new(domains, Box::new(http));
    let spawn = |work: Work| {
        let server = server.clone();
        let named = std::thread::Builder::new().name("agentmemd".into());
        named.spawn(move || work(&server)).map(drop).map_err(failed)
    };
    let own = std::process::id() as i32;
    spawn(Box::new(move |server| server.govern(|| agentmem_pager::memory::private_bytes(own))))?;
    spawn(Box::new({
        let listener = listener.try_clone().map_err(failed)?;
        move |server| server.run(&listener)
    }))?;
    if let Some(listener) = metrics_listener {
        spawn(Box::new(move |server| http::serve(&listener, |form| metrics(server, form))))?;
    }
    if governs_trees {
        let (trees, budget) = (trees.clone(), budget.clone());
        spawn(Box::new(move |server| trees.govern(server, &budget)))?;
    }
    if config.pressure || config.oom_score {
        let (oversight, mut watch) = (oversight.clone(), Watch::new(&budget));
        // Before anything is put: there may be less room than the budget says.
        oversight.look(&mut watch, &server, &budget);
        spawn(Box::new(move |server| oversight.run(watch, server, &budget)))?;
    }
    kept.ready()?;
    while signals.next().is_none() {
        match poll(&mut [PollFd::new(signals, PollFlags::IN)], Some(&LOOK)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(failed(error.into())),
        }
        // What could not be said when it came up. Where that fails nobody is there any more.
        let _ = kept.tell_leaving();
        if kept.is_kept() && server.domains().all().iter().any(|(_, domain)| domain.store.has_failed()) {
            // What it was before that is kept: the next process goes on from there.
            return Err(Error::new(ErrorKind::Closed, "an engine that has failed (a bug)"));
        }
    }
    kept.stopping()?;
    oversight.end();
    let stopped = server.stop();
    let _ = kept.tell_all_leaving();
    stopped
}

fn failed(error: std::io::Error) -> Error {
    Error::new(ErrorKind::Io, format!("the socket: {error}"))
}

/// The hash of a token that the configuration says or names.
fn hash_of(token: &Token) -> Result<TokenHash> {
    match token {
        Token::Hash(hash) => Ok(*hash),
        Token::File(path) => TokenHash::of(&first_line(path)?)
            .map_err(|error| Error::new(error.kind(), format!("{}: {}", path.display(), error.subject()))),
    }
}

fn first_line(path: &Path) -> Result<Vec<u8>> {
    use std::io::Read;
    let mut text = Vec::new();
    let file = std::fs::File::open(path).map_err(|error| io(path, error))?;
    file.take(TOKEN_FILE_BYTES_MAX).read_to_end(&mut text).map_err(|error| io(path, error))?;
    let line = text.split(|&byte| byte == b'\n').next().unwrap_or_default().trim_ascii_end();
    if line.is_empty() {
        return Err(Error::new(ErrorKind::InvalidArgument, format!("{}: no token on its first line", path.display())));
    }
    Ok(line.to_vec())
}
