//! What the other agents of this user are doing: asked only when memory is short, and never by the main loop, because
//! two that wait for each other's answer would wait for long.

use crate::fleet::Peer;
use crate::registry::{AGENTS_MAX, runtime_folder};
use serde::Deserialize;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What was heard for longer is asked for again.
const FRESH_FOR: Duration = Duration::from_secs(3);
/// Who says nothing for so long is not counted.
const PATIENCE: Duration = Duration::from_millis(200);
const ANSWER_BYTES_MAX: u64 = 1 << 20;
const STACK_BYTES: usize = 256 << 10;

/// The last that was heard of the others.
#[derive(Debug, Default)]
pub struct Peers {
    heard: Arc<Mutex<Heard>>,
}

#[derive(Debug, Default)]
struct Heard {
    peers: Vec<Peer>,
    at: Option<Instant>,
    asking: bool,
}

#[derive(Deserialize)]
struct Answer {
    peer: Peer,
}

fn lock(heard: &Mutex<Heard>) -> MutexGuard<'_, Heard> {
    heard.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Peers {
    /// The others, without `own`, if what was heard is fresh; else they are asked, and the next call will know.
    pub fn others(&self, own: &str) -> Option<Vec<Peer>> {
        let mut heard = lock(&self.heard);
        if heard.at.is_some_and(|at| at.elapsed() < FRESH_FOR) {
            return Some(heard.peers.iter().filter(|peer| peer.name != own).cloned().collect());
        }
        if !heard.asking {
            let theirs = Arc::clone(&self.heard);
            let ask = move || {
                let peers = ask_all(&runtime_folder().join("agents"), None);
                *lock(&theirs) = Heard { peers, at: Some(Instant::now()), asking: false };
            };
            heard.asking = std::thread::Builder::new().stack_size(STACK_BYTES).spawn(ask).is_ok();
        }
        None
    }
}

/// All whose supervisors answer, of those in the registry's `folder`. What is told, by the daemon alone, is how
/// far they are beyond their budget together, from 0 to 1.
pub fn ask_all(folder: &Path, beyond_budget: Option<f64>) -> Vec<Peer> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    entries
        .filter(|path| path.extension().is_some_and(|end| end == "sock"))
        .take(AGENTS_MAX)
        .filter_map(|path| ask(&path, beyond_budget))
        .collect()
}

fn ask(socket: &Path, beyond_budget: Option<f64>) -> Option<Peer> {
    let mut stream = UnixStream::connect(socket).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    stream.set_write_timeout(Some(PATIENCE)).ok()?;
    let request = serde_json::json!({"op": "peer", "beyond_budget": beyond_budget});
    stream.write_all(format!("{request}\n").as_bytes()).ok()?;
    let mut line = String::new();
    BufReader::new(stream.take(ANSWER_BYTES_MAX)).read_line(&mut line).ok()?;
    Some(serde_json::from_str::<Answer>(&line).ok()?.peer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::State;
    use std::os::unix::net::UnixListener;

    #[test]
    fn who_answers_is_counted_and_who_does_not_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let _silent = UnixListener::bind(folder.path().join("silent.sock")).unwrap();
        let speaks = UnixListener::bind(folder.path().join("speaks.sock")).unwrap();
        drop(UnixListener::bind(folder.path().join("gone.sock")).unwrap());
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let (mut stream, _) = speaks.accept().unwrap();
                let answer = br#"{"ok":true,"peer":{"name":"speaks","state":"paged_out","idle_ms":5,"idle_after_ms":9,"importance":50,"private_bytes":7,"compressed_bytes":1,"supervisor_bytes":2,"more":1}}"#;
                stream.write_all(answer).unwrap();
                stream.write_all(b"\n").unwrap();
            });
            let peers = ask_all(folder.path(), Some(0.5));
            assert_eq!(peers.len(), 1);
            assert_eq!((peers[0].name.as_str(), peers[0].state, peers[0].ram_bytes()), ("speaks", State::PagedOut, 10));
        });
    }
}
