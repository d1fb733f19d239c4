//! Threads with a world each, which wait for commands deep in their stack, every one in another system call.

use crate::command::{Command, Report};
use crate::pattern::{Rng, mix};
use crate::region::Wrong;
use crate::special;
use crate::stack::{Frame, deep};
use crate::world::{Owner, Place, World};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, epoll, eventfd, poll};
use std::os::fd::OwnedFd;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// "For ever" of the waits that have a time: they are restarted differently after a stop.
const LONG: Duration = Duration::from_secs(3600);
const LONG_SPEC: Timespec = Timespec { tv_sec: 3600, tv_nsec: 0 };
/// Between two touches of a ticking thread.
const TICK: Duration = Duration::from_millis(50);
/// Of a thread, and frames that surely fit in.
const STACK: usize = 1 << 20;
const DEPTH: usize = 500;

/// How a thread sleeps until a command comes.
enum Wait {
    Futex,
    FutexUntil,
    /// Twenty times a second, something happens.
    Tick,
    Epoll(OwnedFd, OwnedFd),
    Read(OwnedFd),
    Poll(OwnedFd),
    /// Woken by a signal.
    Sleep,
}

impl Wait {
    fn of_thread(index: usize) -> Self {
        let event = |flags| eventfd(0, EventfdFlags::CLOEXEC | flags).expect("eventfd");
        match index % 6 {
            0 => Wait::Futex,
            1 => {
                let (set, event) =
                    (epoll::create(epoll::CreateFlags::CLOEXEC).expect("epoll"), event(EventfdFlags::NONBLOCK));
                epoll::add(&set, &event, epoll::EventData::new_u64(0), epoll::EventFlags::IN).expect("epoll");
                Wait::Epoll(set, event)
            }
            2 => Wait::Sleep,
            3 => Wait::Read(event(EventfdFlags::empty())),
            4 => Wait::FutexUntil,
            _ => Wait::Poll(event(EventfdFlags::NONBLOCK)),
        }
    }

    fn event(&self) -> Option<&OwnedFd> {
        match self {
            Wait::Epoll(_, event) | Wait::Read(event) | Wait::Poll(event) => Some(event),
            _ => None,
        }
    }

    /// Waits once. Stops, signals and time end it early.
    fn wait(&self, mailbox: &Mailbox) {
        let empty = |command: &mut Option<Command>| command.is_none();
        let command = || mailbox.command.lock().expect("a whole mailbox");
        let until = |time| drop(mailbox.changed.wait_timeout_while(command(), time, empty));
        match self {
            Wait::Futex => drop(mailbox.changed.wait_while(command(), empty)),
            Wait::FutexUntil => until(LONG),
            Wait::Tick => until(TICK),
            Wait::Epoll(set, _) => {
                let mut events = [const { std::mem::MaybeUninit::uninit() }; 1];
                let _ = epoll::wait(set, &mut events, None);
            }
            Wait::Read(_) => {}
            Wait::Poll(event) => {
                let _ = poll(&mut [PollFd::new(event, PollFlags::IN)], Some(&LONG_SPEC));
            }
            Wait::Sleep => {
                let _ = rustix::thread::nanosleep(&LONG_SPEC);
            }
        }
        // Blocks for `Read` alone.
        if let Some(event) = self.event() {
            let _ = rustix::io::read(event, &mut [0; 8]);
        }
    }
}

struct Mailbox {
    command: Mutex<Option<Command>>,
    changed: Condvar,
    wait: Wait,
}

impl Mailbox {
    fn is_empty(&self) -> bool {
        self.command.lock().expect("a whole mailbox").is_none()
    }

    fn post(&self, command: Command, thread: libc::pthread_t) {
        *self.command.lock().expect("a whole mailbox") = Some(command);
        self.changed.notify_one();
        if let Some(event) = self.wait.event() {
            rustix::io::write(event, &1_u64.to_ne_bytes()).expect("eventfd");
        }
        // A signal just before the sleep begins is lost on it, so one is not enough.
        while matches!(self.wait, Wait::Sleep) && !self.is_empty() {
            // SAFETY: the thread was not joined.
            unsafe { libc::pthread_kill(thread, libc::SIGUSR1) };
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Waits for a command. None: it is time to tick.
    fn take(&self) -> Option<Command> {
        loop {
            self.wait.wait(self);
            let command = self.command.lock().expect("a whole mailbox").take();
            if command.is_some() || matches!(self.wait, Wait::Tick) {
                return command;
            }
        }
    }
}

type Outcome = Result<Report, Wrong>;
/// The places that were asked for, if any.
type Found = Result<Vec<Place>, Wrong>;

pub struct Worker {
    name: String,
    mailbox: Arc<Mailbox>,
    outcomes: Receiver<Outcome>,
    thread: JoinHandle<()>,
}

impl Worker {
    pub fn start(index: usize, seed: u64, pages: usize) -> Self {
        Worker::with(format!("thread{index}"), Wait::of_thread(index), seed, pages)
    }

    /// A thread that touches its memory all the time. What it holds depends on time, and is not in its digest.
    pub fn ticking(seed: u64, pages: usize) -> Self {
        Worker::with("ticker".to_owned(), Wait::Tick, seed, pages)
    }

    fn with(name: String, wait: Wait, seed: u64, pages: usize) -> Self {
        answer_signals();
        let mailbox = Arc::new(Mailbox { command: Mutex::new(None), changed: Condvar::new(), wait });
        let (send, outcomes) = channel();
        let its_mailbox = Arc::clone(&mailbox);
        let work = move || work(&its_mailbox, &send, seed, pages);
        let thread = thread::Builder::new().stack_size(STACK).spawn(work).expect("a thread");
        Worker { name, mailbox, outcomes, thread }
    }

    pub fn post(&self, command: Command) {
        use std::os::unix::thread::JoinHandleExt;
        self.mailbox.post(command, self.thread.as_pthread_t() as libc::pthread_t);
    }

    /// What became of the last command.
    pub fn outcome(&self) -> Outcome {
        let mut report =
            self.outcomes.recv().expect("a thread that answers").map_err(|wrong| wrong.within(&self.name))?;
        report.places = report.places.into_iter().map(|place| place.within(&self.name)).collect();
        Ok(report)
    }

    pub fn join(self) {
        self.thread.join().expect("a thread that ends");
    }
}

/// Makes SIGUSR1 interrupt a sleep, and do nothing else.
fn answer_signals() {
    extern "C" fn nothing(_: libc::c_int) {}
    // SAFETY: the handler touches nothing.
    unsafe { libc::signal(libc::SIGUSR1, nothing as *const () as libc::sighandler_t) };
}

fn work(mailbox: &Mailbox, outcomes: &Sender<Outcome>, seed: u64, pages: usize) {
    let ticking = matches!(mailbox.wait, Wait::Tick);
    let mut world = if ticking { special::touched(seed, pages) } else { World::new(seed, pages, Owner::Thread) };
    let mut rng = Rng::new(mix(seed));
    let tell = |world: &World, outcome: Found| {
        let digest = if ticking { 0 } else { world.digest() };
        let _ = outcomes.send(outcome.map(|places| Report { digest, places }));
    };
    loop {
        let depth = rng.below(DEPTH);
        let woken = deep(depth, rng.next(), None, &mut |frame| Ok(attend(mailbox, frame, &mut world, &tell)));
        match woken {
            Ok(Command::Step(steps)) => {
                let outcome = world.step(steps);
                tell(&world, outcome.map(|()| Vec::new()));
            }
            Ok(_) => return tell(&world, Ok(Vec::new())),
            Err(wrong) => tell(&world, Err(wrong)),
        }
    }
}

/// Waits at the bottom of the stack until there is a command for which it has to be left.
fn attend(mailbox: &Mailbox, frame: &Frame<'_>, world: &mut World, tell: &dyn Fn(&World, Found)) -> Command {
    loop {
        match mailbox.take() {
            None => {
                if let Err(wrong) = world.step(1) {
                    // Nobody asked, so nobody would hear it.
                    crate::serve::fail(&wrong.within("ticker"));
                }
            }
            Some(Command::Check) => {
                let outcome = frame.check().and_then(|()| world.check());
                tell(world, outcome.map(|()| Vec::new()));
            }
            Some(Command::Places) => tell(world, Ok([world.places(), frame.places()].concat())),
            Some(command) => return command,
        }
    }
}
