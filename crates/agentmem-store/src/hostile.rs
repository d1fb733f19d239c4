//! Sessions that lie: what they write and say hurts nobody but themselves.

use crate::arena::Shape;
use crate::calls;
use crate::domains::{Domains, Limits};
use crate::options::{OnFull, Options};
use crate::remote::{HELLO, Hello, VERSION, Welcome};
use crate::server::Server;
use crate::socket;
use crate::store::Store;
use crate::sync::{AtomicBool, Ordering};
use crate::sys::Mapping;
use agentmem_core::{ErrorKind, Kind};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A small generator, so that a test depends on its seed alone.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Small numbers mostly, as what exists has small numbers.
    fn word(&mut self) -> u64 {
        let word = self.next();
        match word % 4 {
            0 => word,
            1 => word >> 40,
            2 => word >> 56,
            _ => u64::MAX - (word >> 58),
        }
    }
}

fn serve(folder: &Path) -> (Arc<Server>, std::path::PathBuf) {
    let options = |_: &str| Ok(Options { pressure: false, ..Options::default() });
    let server =
        Server::new(Domains::new(128 << 20, Limits::default(), Box::new(options)).unwrap(), Box::new(|_, _| {}));
    let path = folder.join("agentmem.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let serving = server.clone();
    std::thread::spawn(move || serving.run(&listener));
    (server, path)
}

/// A session by hand: its connection and its arena.
fn enter(path: &Path) -> (UnixStream, Mapping, Shape) {
    let stream = UnixStream::connect(path).unwrap();
    let hello = Hello { domain: String::new(), token: Vec::new() };
    socket::send(&stream, HELLO, &postcard::to_allocvec(&(VERSION, hello)).unwrap(), &[]).unwrap();
    let answer = socket::receive(&stream, 1 << 20).unwrap().unwrap();
    let welcome: Welcome = postcard::from_bytes(&answer.body).unwrap();
    let shape = Shape {
        cells: welcome.cells as usize,
        data_bytes: welcome.data_bytes as usize,
        claims: welcome.claims as usize,
    };
    let arena = answer.descriptors.into_iter().next().unwrap();
    (stream, Mapping::lent(arena, shape.len_bytes()).unwrap(), shape)
}

/// An honest session of the same domain, that looks at everything it put again and again until `is_over`.
fn honest(path: &Path, is_over: &AtomicBool) -> usize {
    let store = Store::connect(path, None, OnFull::Wait).unwrap();
    let agent = store.agent("honest", None, None, None).unwrap();
    let conversation = agent.conversation(Some("talk")).unwrap();
    let mut held = Vec::new();
    let mut count = 0;
    while !is_over.load(Ordering::Acquire) {
        let bytes = vec![count as u8; 100 + count * 37 % 30_000];
        held.push((agent.put(&bytes, Kind::ToolResult, None, 50, OnFull::Wait).unwrap(), bytes));
        conversation.append(&count.to_le_bytes(), Default::default(), OnFull::Wait).unwrap();
        count += 1;
        let (smu, bytes) = &held[count * 7919 % held.len()];
        assert_eq!(smu.view().unwrap().bytes(), bytes);
        if held.len() > 200 {
            agent.release(&held.swap_remove(count % held.len()).0, OnFull::Wait).unwrap();
        }
        if count.is_multiple_of(100) {
            store.reclaim(None).unwrap();
        }
    }
    let mut read = 0;
    while read < count as u64 {
        for message in conversation.read(read, u64::MAX).unwrap() {
            assert_eq!(message.bytes, (read as usize).to_le_bytes());
            read += 1;
        }
    }
    count
}

/// Runs `lies` beside an honest session, which must go on and find everything right.
fn beside_an_honest_session(lies: impl Fn(&Path, &mut Random) + Sync) {
    let folder = tempfile::tempdir().unwrap();
    let (server, path) = serve(folder.path());
    let is_over = AtomicBool::new(false);
    let counts = std::thread::scope(|scope| {
        let honest = scope.spawn(|| honest(&path, &is_over));
        for seed in 1..3 {
            let (path, lies) = (&path, &lies);
            scope.spawn(move || {
                let (mut random, begun) = (Random(seed), Instant::now());
                while begun.elapsed() < Duration::from_secs(2) {
                    lies(path, &mut random);
                }
            });
        }
        std::thread::sleep(Duration::from_millis(2500));
        is_over.store(true, Ordering::Release);
        honest.join().unwrap()
    });
    assert!(counts > 10, "the honest session was held up: {counts}");
    let own = server.domains().enter("", b"").unwrap();
    assert!(own.store.verify().unwrap().damaged.is_empty());
    server.stop().unwrap();
    let _ = UnixStream::connect(&path);
}

#[test]
fn what_is_left_for_a_session_that_has_ended_is_not_kept() {
    let folder = tempfile::tempdir().unwrap();
    let (server, path) = serve(folder.path());
    let own = server.domains().enter("", b"").unwrap();
    let engine = own.store.engine().unwrap();
    let left = engine.leave_large(u32::MAX, 2 << 20, |_| Ok(()));
    assert_eq!(left.unwrap_err().kind(), ErrorKind::Closed);
    assert!(engine.inbox.lock().is_empty());
    server.stop().unwrap();
    let _ = UnixStream::connect(&path);
}

#[test]
fn garbage_in_an_arena_hurts_nobody() {
    beside_an_honest_session(|path, random| {
        let (stream, arena, shape) = enter(path);
        // Control words, cells and some claims: what the engine reads.
        let words = (shape.len_bytes() - shape.data_bytes).min(300 << 10) / 8;
        for _ in 0..20_000 {
            let at = match random.next() % 3 {
                0 => random.next() as usize % 24,
                _ => random.next() as usize % words,
            };
            // SAFETY: inside of the mapping.
            unsafe { arena.as_ptr().cast::<u64>().add(at).write_volatile(random.word()) };
        }
        drop(stream);
    });
}

#[test]
fn cells_that_look_right_and_lie_hurt_nobody() {
    beside_an_honest_session(|path, random| {
        let (stream, arena, _) = enter(path);
        let call = calls::store::OpenAgent {
            name: format!("liar-{}", random.next()),
            importance: None,
            quota_bytes: Some(1 << 20),
            pid: None,
            is_lasting: false,
        };
        socket::send(&stream, 1, &postcard::to_allocvec(&call).unwrap(), &[]).unwrap();
        let answer = socket::receive(&stream, 1 << 20).unwrap().unwrap();
        let facts: calls::store::AgentFacts = postcard::from_bytes(&answer.body).unwrap();
        let words = arena.as_ptr().cast::<u64>();
        for cell in 0..1000u64 {
            let code = 1 + random.next() % 4;
            let agent = if random.next().is_multiple_of(4) { random.word() as u32 } else { facts.number };
            let fields = [
                random.word(),
                code | (random.next() % 5) << 8 | (random.next() % 110) << 16 | u64::from(agent) << 32,
                random.word(),
                random.next() % 9000,
                0,
                random.word(),
                if random.next().is_multiple_of(3) { random.word() } else { 0 },
            ];
            // SAFETY: the cells begin on the second page, and there are as many.
            unsafe {
                let at = words.add(512 + (cell as usize % 1024) * 8);
                fields.iter().enumerate().for_each(|(word, &field)| at.add(1 + word).write_volatile(field));
                at.write_volatile(cell + 1);
            }
        }
        // So that they are looked at.
        socket::send(&stream, 8, &[], &[]).unwrap();
        let _ = socket::receive(&stream, 1 << 20);
    });
}

#[test]
fn whatever_is_said_over_the_socket_hurts_nobody() {
    beside_an_honest_session(|path, random| {
        let (stream, _, _) = enter(path);
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let file = std::fs::File::open("/dev/null").unwrap();
        for _ in 0..50 {
            let number = calls::NUMBERS[random.next() as usize % calls::NUMBERS.len()];
            let body: Vec<u8> = (0..random.next() % 24).map(|_| random.word() as u8).collect();
            let lent = if random.next().is_multiple_of(3) { vec![file.as_fd()] } else { vec![] };
            if socket::send(&stream, number, &body, &lent).is_err() || socket::receive(&stream, 1 << 30).is_err() {
                return;
            }
        }
        // And something that is no frame at all.
        use std::io::Write;
        let noise: Vec<u8> = (0..64).map(|_| random.next() as u8).collect();
        let _ = (&stream).write_all(&noise);
    });
}
