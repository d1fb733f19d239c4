//! What fuzzing feeds: a small engine, a session that says and writes whatever the input is, and a neighbour in the
//! same domain who must find what he had.
//!
//! Everything is made anew for each input, so that an input always does the same: the neighbour's agent is 0 and has the
//! first conversation, the liar's agent is 1.

use crate::arena::{Arena, Shape};
use crate::call::{self, Call, Caller};
use crate::calls::agent::OpenConversation;
use crate::calls::conversation::ReadMessages;
use crate::calls::inspect::ReadContent;
use crate::calls::smu::{At, Seal};
use crate::calls::store::OpenAgent;
use crate::engine::Engine;
use crate::options::Options;
use crate::remote::CALL_BYTES_MAX;
use crate::ring::Operation;
use crate::socket;
use crate::sys::{self, SealedFile};
use agentmem_core::frame::Meta;
use agentmem_core::{DomainKey, Kind};
use std::fs::File;
use std::io::IoSlice;
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;

const SHAPE: Shape = Shape { cells: 64, data_bytes: 64 << 10, claims: 1 << 12 };
const CONTENT: &[u8] = b"what the neighbour put";
const MESSAGE: &[u8] = b"what the neighbour said";
/// Bytes of an input that are looked at: what a socket takes before anybody reads.
const INPUT_BYTES_MAX: usize = 64 << 10;
/// One word of an arena, and where it goes.
const WRITE_BYTES: usize = 10;
/// In place of where a word goes: the engine drains.
const DRAINS: u16 = u16::MAX;

/// See the module.
struct Scene {
    engine: Arc<Engine>,
    neighbour: u32,
    talk: u32,
    content: [u8; 32],
    liar: u32,
    arena: Arc<Arena>,
}

impl Scene {
    fn new() -> Self {
        let options =
            Options { memory_max_bytes: 32 << 20, lends: true, pressure: false, cold: false, ..Options::default() };
        let engine = Arc::new(Engine::new(options, DomainKey([7; 32]), None, None, None).expect("a small engine"));
        let session = || engine.add_session(SHAPE, std::process::id(), false, [1; 16]).expect("a small session");
        let ((neighbour, neighbours), (liar, arena)) = (session(), session());
        let ask = |session| Caller { engine: &engine, session, is_repeated: false, domains: None, descriptor: None };
        let register = |session, name: &str| {
            let call =
                OpenAgent { name: name.into(), importance: None, quota_bytes: None, pid: None, is_lasting: false };
            call.run(&mut ask(session)).expect("an agent").number
        };
        let agent = register(neighbour, "neighbour");
        register(liar, "liar");
        let talk =
            OpenConversation { agent, name: Some("talk".into()) }.run(&mut ask(neighbour)).expect("a talk").number;
        let put = Operation::Put { kind: Kind::ToolResult, importance: 50, name_bytes: 0, key: 0 };
        let given = neighbours.ring.push(agent, put, [b"", CONTENT]).expect("room");
        let append = Operation::Append { conversation: talk, meta: Meta::default(), key: 0 };
        neighbours.ring.push(agent, append, [b"", MESSAGE]).expect("room");
        engine.drain().expect("room");
        let smu = At { agent, slot: given.slot, generation: engine.slots.generation(given.slot) };
        let content = Seal { smu }.run(&mut ask(neighbour)).expect("content").id;
        Scene { engine, neighbour, talk, content, liar, arena }
    }

    /// The neighbour finds what he had, before and after the liar's session ends.
    fn check(self) {
        for _ in 0..2 {
            let mut at = Caller {
                engine: &self.engine,
                session: self.neighbour,
                is_repeated: false,
                domains: None,
                descriptor: None,
            };
            let content = ReadContent { id: self.content, offset_bytes: 0 }.run(&mut at);
            assert_eq!(content.as_deref(), Ok(CONTENT));
            let messages = ReadMessages { conversation: self.talk, index: 0, end: 1 }.run(&mut at).expect("a message");
            assert_eq!(messages[0].bytes, MESSAGE);
            assert!(self.engine.verify().damaged.is_empty());
            assert!(!self.engine.has_failed());
            self.engine.end_session(self.liar);
        }
    }
}

/// Bytes as they come from a client's socket behind its hello: they are received, decoded and carried out. If the
/// first is odd, a sealed memfd comes with them.
pub fn protocol(data: &[u8]) {
    let scene = Scene::new();
    let (here, there) = UnixStream::pair().expect("a pair of sockets");
    let data = &data[..data.len().min(INPUT_BYTES_MAX)];
    let Some((first, said)) = data.split_first() else { return };
    let file = SealedFile::holding(&[7; 5000]).expect("a small memfd");
    let lent = [file.as_fd()];
    let sent = socket::send_some(&here, &[IoSlice::new(said)], &lent[..usize::from(first % 2)]).expect("it takes all");
    assert_eq!(sent, said.len());
    here.shutdown(Shutdown::Write).expect("an open socket");
    while let Ok(Some(message)) = socket::receive(&there, CALL_BYTES_MAX) {
        let descriptor = message.descriptors.into_iter().next_back();
        let (engine, session) = (&scene.engine, scene.liar);
        let mut caller = Caller { engine, session, is_repeated: false, domains: None, descriptor };
        let _ = call::answer(&mut caller, message.number, &message.body);
    }
    scene.check();
}

/// Bytes as what a client writes to its arena while the engine reads it: words of 8 bytes, each behind 2 that say
/// where it goes.
pub fn arena(data: &[u8]) {
    let scene = Scene::new();
    let file = File::from(scene.arena.lend().expect("it is lent"));
    let places = (SHAPE.len_bytes() / 8) as u64;
    for write in data[..data.len().min(INPUT_BYTES_MAX)].chunks_exact(WRITE_BYTES) {
        match u16::from_le_bytes([write[0], write[1]]) {
            DRAINS => drop(scene.engine.drain()),
            place => {
                let at = u64::from(place) % places * 8;
                sys::write_at(&file, Path::new("an arena"), &write[2..], at).expect("inside of it");
            }
        }
    }
    let _ = scene.engine.drain();
    while scene.engine.seal_some() {}
    scene.engine.reclaim_hot();
    scene.engine.trim();
    scene.engine.tick(0);
    scene.check();
}
