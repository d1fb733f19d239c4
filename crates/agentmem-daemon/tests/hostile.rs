//! Clients that lie, flood and stall, two at a time, of the daemon's own user: a neighbour goes on and gets right
//! bytes, the liar is told or hung up on, and the daemon is afterwards what it was.

mod common;

use agentmem_core::Kind;
use agentmem_core::frame::Meta;
use agentmem_store::{Agent, Conversation, OnFull, Smu, Store};
use common::daemon::{Daemon, Random, content};
use common::wire::{
    Answer, CELL_BYTES, CELLS, CELLS_AT, CLAIMS_AT, DRAIN, HELLO, JOIN, LEAVE_LARGE, OPEN_AGENT, READ_STATS, RESUME,
    Raw, Session, frame, header, hello, number, text, version,
};
use common::{PATIENCE, wait_until};
use rustix::fs::{MemfdFlags, Mode, SealFlags, fchmod, fcntl_add_seals, fcntl_setfl, ftruncate, memfd_create};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};

/// What may stay with the allocator after a flood.
const LEFT_KIB: u64 = 24 << 10;

/// An honest agent on a thread of its own, so that it is noticed when it is held up.
struct Neighbour {
    asked: Sender<()>,
    answers: Receiver<()>,
}

/// What it has, and knows of it.
struct Holdings {
    store: Store,
    agent: Agent,
    talk: Conversation,
    held: Vec<(Smu, Vec<u8>)>,
    said: u64,
}

impl Holdings {
    fn new(socket: &Path, name: &str) -> Self {
        let store = Store::connect(socket, None, OnFull::Wait).unwrap();
        let agent = store.agent(name, None, None, None).unwrap();
        let talk = agent.conversation(Some("talk")).unwrap();
        Holdings { store, agent, talk, held: Vec::new(), said: 0 }
    }

    /// Puts, looks, appends and reads.
    fn work(&mut self) {
        for _ in 0..20 {
            let seed = self.said;
            let bytes = content(seed, 100 + (seed * 37 % 9000) as usize);
            let smu = self.agent.put(&bytes, Kind::ToolResult, None, 50, OnFull::Wait).unwrap();
            assert_eq!(smu.view().unwrap().bytes(), bytes);
            self.held.push((smu, bytes));
            self.talk.append(&seed.to_le_bytes(), Meta::default(), OnFull::Wait).unwrap();
            self.said += 1;
        }
        for (smu, bytes) in &self.held {
            assert_eq!(smu.view().unwrap().bytes(), bytes);
        }
        let mut read = 0;
        while read < self.said {
            for message in self.talk.read(read, self.said).unwrap() {
                assert_eq!(message.bytes, read.to_le_bytes());
                read += 1;
            }
        }
        // Steady from now on, so that figures can be compared.
        while self.held.len() > 100 {
            let (smu, _) = self.held.swap_remove(0);
            self.agent.release(&smu, OnFull::Wait).unwrap();
        }
        assert!(self.store.agents().unwrap().contains(&"neighbour".to_owned()));
    }
}

impl Neighbour {
    fn start(socket: &Path) -> Self {
        let (asked, wanted) = channel();
        let (done, answers) = channel();
        let socket = socket.to_owned();
        std::thread::spawn(move || {
            let mut holdings = Holdings::new(&socket, "neighbour");
            while wanted.recv().is_ok() {
                holdings.work();
                if done.send(()).is_err() {
                    return;
                }
            }
        });
        Neighbour { asked, answers }
    }

    /// It works, and is not held up.
    fn works(&self) {
        self.asked.send(()).expect("the neighbour found everything right until now");
        self.answers.recv_timeout(PATIENCE).expect("the neighbour goes on");
    }
}

/// What the engine's process has: descriptors, and KiB of memory that is nobody else's.
fn figures(daemon: &Daemon) -> (usize, u64) {
    let [_, engine] = daemon.holders()[..] else { panic!("no engine: {}", daemon.log()) };
    let status = std::fs::read_to_string(format!("/proc/{engine}/status")).expect("it lives");
    let anon = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("a figure");
    let anon = anon.trim().trim_end_matches(" kB").parse().expect("a number");
    (std::fs::read_dir(format!("/proc/{engine}/fd")).expect("it lives").count(), anon)
}

/// What a hostile client does. It goes on holding what is returned until the neighbour has worked once more.
type Attack = fn(&Path, &mut Random) -> Box<dyn Send>;

/// Two clients do this beside a neighbour.
fn beside_a_neighbour(arguments: &[&str], attack: Attack) {
    raise_limit();
    let daemon = Daemon::start(arguments);
    let neighbour = Neighbour::start(&daemon.0.socket);
    (0..10).for_each(|_| neighbour.works());
    let (descriptors, anon_kib) = figures(&daemon);
    let grips: Vec<_> = std::thread::scope(|scope| {
        let socket = &daemon.0.socket;
        let attacks = [1, 2].map(|seed| scope.spawn(move || attack(socket, &mut Random(seed * 77_777))));
        while !attacks.iter().all(|attack| attack.is_finished()) {
            neighbour.works();
        }
        attacks.into_iter().map(|attack| attack.join().expect("it is told, or hung up on")).collect()
    });
    neighbour.works();
    // And somebody new is let in.
    let other = Holdings::new(&daemon.0.socket, "other");
    other.store.close().unwrap();
    drop((other, grips));
    neighbour.works();
    let mut now = (0, 0);
    wait_until("the daemon is what it was", || {
        now = figures(&daemon);
        now.0 <= descriptors && now.1 <= anon_kib + LEFT_KIB
    });
    println!("{descriptors} descriptors, {anon_kib} KiB; afterwards {} and {} KiB", now.0, now.1);
    // The next engine finds right, too, whatever liars left in what it goes on from.
    let _sessions = [attack(&daemon.0.socket, &mut Random(5)), attack(&daemon.0.socket, &mut Random(6))];
    daemon.kill();
    neighbour.works();
}

fn raise_limit() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).expect("as high as it may be");
}

/// It is told what is wrong, or hung up on.
fn refused(answer: &Answer) -> bool {
    matches!(answer, Answer::HungUp) || matches!(answer, Answer::Frame(error, ..) if *error != 0)
}

fn says(answer: &Answer, what: &str) -> bool {
    matches!(answer, Answer::Frame(error, body, _) if *error != 0 && String::from_utf8_lossy(body).contains(what))
}

/// Small numbers mostly, as what exists has small numbers.
fn word(random: &mut Random) -> u64 {
    let word = random.next();
    match word % 4 {
        0 => word,
        1 => word >> 40,
        2 => word >> 56,
        _ => u64::MAX - (word >> 58),
    }
}

fn memfd(len: u64, seals: SealFlags) -> OwnedFd {
    let memfd = memfd_create("hostile", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    ftruncate(&memfd, len).unwrap();
    fcntl_add_seals(&memfd, seals).unwrap();
    memfd
}

#[test]
fn garbage_in_control_words_cells_and_claims() {
    beside_a_neighbour(&[], |socket, random| {
        let sessions: Vec<Session> = (0..4)
            .map(|turn| {
                let session = Session::enter(socket);
                session.agent(&format!("liar-{}", random.next()));
                for _ in 0..5000 {
                    let at = match random.next() % 4 {
                        0 => random.next() % 32 * 8,
                        1 | 2 => CELLS_AT + random.next() % (CELLS * CELL_BYTES / 8) * 8,
                        _ => CLAIMS_AT + random.next() % 4096 * 8,
                    };
                    session.write(at, &[word(random)]);
                }
                // It goes on being a session: garbage in its arena is its own affair.
                if turn % 2 == 0 {
                    session.raw.ask(&frame(DRAIN, &[]));
                }
                session
            })
            .collect();
        Box::new(sessions)
    });
}

#[test]
fn cells_that_look_right_and_speak_of_others() {
    beside_a_neighbour(&[], |socket, random| {
        let session = Session::enter(socket);
        let own = session.agent(&format!("liar-{}", random.next()));
        for cell in 0..CELLS {
            let agent = if random.below(2) == 0 { random.below(8) as u32 } else { own };
            let small = (1 + random.below(4)) | (random.below(5) << 8) | (random.below(110) << 16);
            // Stamp, start, operation, target, length, around, (what it comes with), key.
            let around = if random.below(3) == 0 { word(random) } else { 0 };
            let words = [
                cell + 1,
                random.below(60_000),
                small | (u64::from(agent) << 32),
                random.below(6000),
                random.below(9000),
                around,
            ];
            session.write(CELLS_AT + cell * CELL_BYTES, &words);
            session.write(CELLS_AT + cell * CELL_BYTES + 56, &[random.below(4)]);
        }
        session.raw.ask(&frame(DRAIN, &[]));
        Box::new(session)
    });
}

#[test]
fn garbage_and_cut_frames_and_wrong_lengths() {
    beside_a_neighbour(&[], |socket, random| {
        let mut left = Vec::new();
        let long = vec![0; 3000];
        for first in [
            header(u32::MAX, HELLO, 0),
            header(1 << 30, HELLO, 0),
            header(8, HELLO, 3),
            frame(HELLO, &[]),
            frame(HELLO, &long),
            frame(HELLO, &[number(version(socket)), number(1 << 40)].concat()),
            frame(READ_STATS, &[]),
            frame(OPEN_AGENT, &text(b"nobody")),
            frame(0xFFFF, &long),
        ] {
            let raw = Raw::dial(socket);
            let answer = raw.ask(&first);
            assert!(refused(&answer), "{first:?}: {answer:?}");
            left.push(raw);
        }
        for _ in 0..40 {
            let session = Session::enter(socket);
            match random.below(6) {
                0 => assert!(refused(&session.raw.ask(&hello(version(socket))))),
                1 => assert!(refused(&session.raw.ask(&header(2 << 20, READ_STATS, 0)))),
                2 => assert!(refused(&session.raw.ask(&frame(OPEN_AGENT, &[0xff; 40])))),
                3 => assert!(refused(&session.raw.ask(&header(0, READ_STATS, 9)))),
                // Half a frame, and then nothing, or an end.
                4 => assert!(session.raw.say(&frame(READ_STATS, &long)[..1000], &[])),
                _ => {
                    let noise: Vec<u8> = (0..64).map(|_| random.next() as u8).collect();
                    session.raw.say(&noise, &[]);
                }
            }
            if random.below(2) == 0 {
                left.push(session.raw);
            }
        }
        Box::new(left)
    });
}

#[test]
fn descriptors_of_the_wrong_kind_and_too_many() {
    beside_a_neighbour(&[], |socket, random| {
        let session = Session::enter(socket);
        let len = 8192;
        let ask = number(len);
        let (pipe, _write) = rustix::pipe::pipe().unwrap();
        let event = session.bell.try_clone().unwrap();
        let sealed = SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
        let wrong: Vec<OwnedFd> = vec![
            std::fs::File::open("/dev/null").unwrap().into(),
            std::fs::File::open("/dev/zero").unwrap().into(),
            std::fs::File::open("/").unwrap().into(),
            std::fs::File::open("/proc/self/mem").unwrap().into(),
            pipe,
            event,
            session.arena.try_clone().unwrap(),
            session.tables[0].try_clone().unwrap(),
            std::os::unix::net::UnixStream::connect(socket).unwrap().into(),
            memfd(len, SealFlags::empty()),
            memfd(len, SealFlags::GROW | SealFlags::WRITE),
            memfd(len, SealFlags::SHRINK | SealFlags::GROW),
            memfd(len - 1, sealed),
            memfd(len + 1, sealed),
            memfd(0, sealed),
        ];
        for (at, wrong) in wrong.iter().enumerate() {
            let said = [header(ask.len() as u32, LEAVE_LARGE, 1), ask.clone()].concat();
            assert!(session.raw.say(&said, &[wrong.as_fd()]));
            let answer = session.raw.hear();
            assert!(matches!(answer, Answer::Frame(error, ..) if error != 0), "{at}: {answer:?}");
        }
        // None, where one is needed; and one where none is: it is closed.
        assert!(refused(&session.raw.ask(&frame(LEAVE_LARGE, &ask))));
        assert!(session.raw.say(&header(0, READ_STATS, 1), &[wrong[0].as_fd()]));
        assert!(matches!(session.raw.hear(), Answer::Frame(0, ..)));
        for count in [2, 8, 9, 200, 253] {
            let session = Session::enter(socket);
            let many = vec![wrong[random.below(4) as usize].as_fd(); count];
            assert!(session.raw.say(&header(0, READ_STATS, count as u16), &many));
            let answer = session.raw.hear();
            assert!(count <= 8 || matches!(answer, Answer::HungUp), "{count}: {answer:?}");
        }
        Box::new((session, wrong))
    });
}

#[test]
fn what_is_not_ones_own() {
    beside_a_neighbour(&[], |socket, random| {
        let session = Session::enter(socket);
        session.agent(&format!("liar-{}", random.next()));
        for _ in 0..3000 {
            // Handles of the neighbour's, whose agent was the first: in slots that are used, of any generation. Calls
            // of agents and SMUs begin with the agent, those of conversations with one of these.
            let handle = [number(0), number(random.below(4000)), number(random.below(4))].concat();
            let call = [20..32, 40..46, 60..64].into_iter().flatten().nth(random.below(22) as usize).unwrap();
            let answer = session.raw.ask(&frame(call, &[handle, vec![0; 40]].concat()));
            assert!(refused(&answer), "call {call}: {answer:?}");
        }
        Box::new(session)
    });
}

#[test]
fn secrets_that_were_guessed() {
    beside_a_neighbour(&[], |socket, random| {
        let mut left = Vec::new();
        for _ in 0..200 {
            let secret: Vec<u8> = (0..16).map(|_| random.next() as u8).collect();
            let raw = Raw::dial(socket);
            let answer = raw.ask(&frame([JOIN, RESUME][random.below(2) as usize], &secret));
            assert!(says(&answer, "session"), "{answer:?}");
            left.push(raw);
        }
        Box::new(left)
    });
}

#[test]
fn thousands_of_connections_that_say_nothing() {
    // More than there may be, all together.
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("config");
    std::fs::write(&config, "[limits]\nconnections = 1000\n").unwrap();
    beside_a_neighbour(&[&format!("--config={}", config.display())], |socket, random| {
        let silent: Vec<Raw> = (0..1500)
            .map(|_| {
                let raw = Raw::dial(socket);
                // Some begin to say something.
                let begun = &hello(version(socket))[..random.below(8) as usize];
                raw.say(begun, &[]);
                raw
            })
            .collect();
        Box::new(silent)
    });
}

#[test]
fn answers_that_nobody_reads() {
    beside_a_neighbour(&[], |socket, _| {
        let session = Session::enter(socket);
        session.raw.0.set_nonblocking(true).unwrap();
        let ask = frame(READ_STATS, &[]);
        // Until both directions are full.
        let said = (0..1_000_000).take_while(|_| session.raw.say(&ask, &[])).count();
        assert!((100..1_000_000).contains(&said), "{said}");
        Box::new(session)
    });
}

/// A process that stopped.
struct Stopped(std::process::Child);

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_client_that_stops_in_the_middle_of_a_frame() {
    beside_a_neighbour(&[], |socket, random| {
        let session = Session::enter(socket);
        session.agent(&format!("stopped-{}", random.next()));
        // It says that more is to come, and some of that, and stops.
        let script = r"printf '\100\0\0\0\001\0\0\0begun'; kill -STOP $$";
        let stream: OwnedFd = session.raw.0.try_clone().unwrap().into();
        let child = Command::new("sh").args(["-c", script]).stdin(Stdio::null()).stdout(stream).spawn().unwrap();
        let stat = format!("/proc/{}/stat", child.id());
        wait_until("it stops", || std::fs::read_to_string(&stat).is_ok_and(|stat| stat.contains(") T ")));
        Box::new((session, Stopped(child)))
    });
}

#[test]
fn memory_that_shrinks_or_is_sealed_or_hidden_after_it_was_handed_over() {
    beside_a_neighbour(&[], |socket, random| {
        let session = Session::enter(socket);
        session.agent(&format!("shrinks-{}", random.next()));
        // Its own arena, which the engine maps.
        assert!(ftruncate(&session.arena, 0).is_err());
        for seals in [SealFlags::FUTURE_WRITE, SealFlags::WRITE, SealFlags::SEAL] {
            assert!(fcntl_add_seals(&session.arena, seals).is_err());
        }
        // Files that it was lent for reading are its user's too.
        for lent in session.tables.iter().chain([&session.arena]) {
            fchmod(lent, Mode::empty()).unwrap();
        }
        let len = 2 << 20;
        let shrinks = memfd(len, SealFlags::GROW);
        let said = [header(number(len).len() as u32, LEAVE_LARGE, 1), number(len)].concat();
        assert!(session.raw.say(&said, &[shrinks.as_fd()]));
        ftruncate(&shrinks, 0).unwrap();
        assert!(refused(&session.raw.hear()));
        Box::new((session, shrinks))
    });
}

#[test]
fn a_bell_that_is_read_empty_and_written_full() {
    beside_a_neighbour(&[], |socket, _| {
        let session = Session::enter(socket);
        // Its flags are shared by everybody who was lent it.
        fcntl_setfl(&session.bell, rustix::fs::OFlags::empty()).unwrap();
        for _ in 0..500 {
            let full = (u64::MAX - 1).to_ne_bytes();
            fcntl_setfl(&session.bell, rustix::fs::OFlags::NONBLOCK).unwrap();
            let _ = rustix::io::write(&session.bell, &full);
            let _ = rustix::io::read(&session.bell, &mut [0; 8]);
            fcntl_setfl(&session.bell, rustix::fs::OFlags::empty()).unwrap();
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        Box::new(session)
    });
}
