//! The main loop: everything that can happen to a supervisor comes out of one poll, is told to the
//! state machine, and what that decides is done here.

use crate::agent::{Action, Agent, Event, Op, Quiet, Reason, Rules, Ticket};
use crate::arguments::Settings;
use crate::control::{Answer, Control, Request};
use crate::fleet::Peer;
use crate::gate::{Change, Gate};
use crate::idle::Turn;
use crate::launch::Exit;
use crate::memory;
use crate::observer::{Activity, Equip, Equipment, Observer, Tree};
use crate::os::{self, Received, SignalQueue, SignalSet};
use crate::paging::{Pager, Report, Source, Watched};
use crate::proc;
use crate::registry::Registration;
use crate::root::{self, Root};
use crate::status::{self, History, Status};
use crate::terminal::Terminal;
use rustix::event::{PollFd, PollFlags, Timespec};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Instant;

/// How often it is looked whether the frames of a tree away should be on SSD.
const FRAMES_MS: u64 = 30_000;
/// How often it is looked whether the terminal came back to us from another job.
const FOREGROUND_MS: u64 = 1_000;

/// Where something came from.
#[derive(Clone, Copy)]
enum Token {
    Signals,
    Bell,
    Root,
    Outer,
    Inner,
    Listener,
    Connection(Ticket),
    Watched(Source),
}

/// One agent's supervisor.
pub struct Supervisor {
    settings: Settings,
    signals: SignalQueue,
    registration: Arc<Registration>,
    control: Control,
    root: Root,
    terminal: Option<Terminal>,
    agent: Agent,
    gate: Arc<Gate>,
    /// Before the observer: its thread ends first.
    pager: Option<Pager>,
    observer: Box<dyn Observer>,
    /// What the tree waits for while it is away.
    watched: Vec<Watched>,
    history: History,
    activity: Activity,
    /// Whether input may reach the command.
    delivers: bool,
    hang_up_told: bool,
    tick_at_ms: Option<u64>,
    /// When it is looked whether frames should be somewhere else.
    frames_at_ms: Option<u64>,
    away_since_ms: u64,
    /// Since when, and why, the tree is being woken.
    waking: Option<(u64, Reason)>,
    clock: Instant,
    exit: Option<Exit>,
}

impl Supervisor {
    /// One for what has just been started, or taken up.
    pub fn new(
        signals: SignalQueue,
        control: Control,
        root: Root,
        mut terminal: Option<Terminal>,
        tree: Tree,
        equip: &dyn Equip,
    ) -> std::io::Result<Self> {
        terminal.iter_mut().for_each(Terminal::take);
        let (settings, gate) = (tree.settings.clone(), Arc::clone(&tree.gate));
        let registration = Arc::clone(&tree.registration);
        let Equipment { paging, observer } = equip.equip(tree);
        let pager = paging.map(|paging| Pager::start(paging, Arc::clone(&gate))).transpose()?;
        let rules =
            Rules { idle_after_ms: settings.idle_after_ms, breath_ms: settings.breath_ms, pages: pager.is_some() };
        Ok(Supervisor {
            settings,
            signals,
            registration,
            control,
            root,
            terminal,
            agent: Agent::new(rules, 0),
            gate,
            tick_at_ms: pager.is_some().then_some(crate::agent::TICK_MS),
            pager,
            observer,
            watched: Vec::new(),
            history: History::default(),
            activity: Activity::default(),
            delivers: true,
            hang_up_told: false,
            frames_at_ms: None,
            away_since_ms: 0,
            waking: None,
            clock: Instant::now(),
            exit: None,
        })
    }

    /// Supervises until the root ends, or the machine says so.
    pub fn supervise(mut self) -> Exit {
        loop {
            if let Some(exit) = self.exit {
                self.drain_terminal();
                return exit;
            }
            for (token, ready) in self.wait() {
                self.serve(token, ready);
            }
            self.follow_time();
        }
    }

    fn now_ms(&self) -> u64 {
        self.clock.elapsed().as_millis() as u64
    }

    /// Sleeps until something is to be done, and says what.
    fn wait(&self) -> Vec<(Token, PollFlags)> {
        let (tokens, mut polled): (Vec<Token>, Vec<PollFd<'_>>) =
            self.sources().into_iter().map(|(token, fd, events)| (token, PollFd::from_borrowed_fd(fd, events))).unzip();
        let timeout = self
            .timeout_ms()
            .map(|ms| Timespec { tv_sec: (ms / 1_000) as i64, tv_nsec: (ms % 1_000 * 1_000_000) as i64 });
        if rustix::event::poll(&mut polled, timeout.as_ref()).is_err() {
            return Vec::new();
        }
        let ready = tokens.into_iter().zip(polled.iter().map(PollFd::revents));
        ready.filter(|(_, ready)| !ready.is_empty()).collect()
    }

    fn timeout_ms(&self) -> Option<u64> {
        let now_ms = self.now_ms();
        let tick = self.tick_at_ms.map(|at| at.saturating_sub(now_ms));
        let frames = self.frames_at_ms.map(|at| at.saturating_sub(now_ms));
        let background = self.terminal.as_ref().is_some_and(Terminal::in_background);
        tick.into_iter().chain(frames).chain(background.then_some(FOREGROUND_MS)).min()
    }

    fn sources(&self) -> Vec<(Token, BorrowedFd<'_>, PollFlags)> {
        let mut sources = vec![
            (Token::Signals, self.signals.as_fd(), PollFlags::IN),
            (Token::Bell, self.gate.bell().as_fd(), PollFlags::IN),
        ];
        sources.extend(self.root.source().map(|fd| (Token::Root, fd, PollFlags::IN)));
        if let Some(terminal) = &self.terminal {
            let interest = terminal.interest(self.delivers, self.agent.listens());
            let sides =
                [(Token::Outer, terminal.outer(), interest.outer), (Token::Inner, terminal.inner(), interest.inner)];
            // One polled for nothing would still report a hang-up, again and again.
            sources.extend(sides.into_iter().filter(|(_, _, events)| !events.is_empty()));
        }
        sources.extend(self.control.listener().map(|fd| (Token::Listener, fd, PollFlags::IN)));
        let connections = self.control.connections();
        sources.extend(connections.map(|(ticket, fd, events)| (Token::Connection(ticket), fd, events)));
        if self.agent.is_away() {
            let paused = self.agent.is_paused();
            let of_interest = self.watched.iter().filter(|watched| !paused || watched.source == Source::Fault);
            sources.extend(
                of_interest.map(|watched| (Token::Watched(watched.source), watched.fd.as_fd(), watched.events)),
            );
        }
        sources
    }

    fn serve(&mut self, token: Token, ready: PollFlags) {
        match token {
            Token::Signals => {
                while let Some(received) = self.signals.next() {
                    self.signal(received);
                }
            }
            Token::Bell => {
                self.gate.bell().silence();
                while let Some(report) = self.pager.as_ref().and_then(Pager::report) {
                    self.reported(report);
                }
                self.reap();
            }
            Token::Root => {
                let changes = self.root.changes();
                self.root_changed(changes);
            }
            Token::Outer => self.outer_ready(ready),
            Token::Inner => self.inner_ready(ready),
            Token::Listener => self.control.accept(),
            Token::Connection(ticket) => {
                let request = self.control.advance(ticket, ready);
                self.requested(ticket, request);
            }
            Token::Watched(Source::Fault) => self.happen(Event::Fault),
            Token::Watched(Source::Input) => self.happen(Event::Readable),
            Token::Watched(Source::Child) => self.happen(Event::ChildEnded),
        }
    }

    /// Tells the machine, and does what it says.
    fn happen(&mut self, event: Event) {
        for action in self.agent.on(event, self.now_ms()) {
            self.perform(action);
        }
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::Deliver => {
                self.delivers = true;
                if let Some(terminal) = &mut self.terminal {
                    terminal.relay_input();
                }
                self.follow_hang_up();
            }
            Action::Hold => self.delivers = false,
            Action::PageOut => self.pager.iter().for_each(Pager::page_out),
            Action::Abort => self.pager.iter().for_each(Pager::abort),
            Action::Wake(reason) => {
                self.watched.clear();
                self.waking = Some((self.now_ms(), reason));
                self.pager.iter().for_each(Pager::wake);
            }
            Action::MoveFrames(to) => self.pager.iter().for_each(|pager| pager.move_frames(to)),
            Action::ForwardSignal(signal) => self.root.signal(signal),
            Action::StopSelf(signal) => self.stop_self(signal),
            Action::Answer(ticket, result) => {
                let next = self.control.answer(ticket, &result.into());
                self.requested(ticket, next);
            }
            Action::ScheduleTick(after_ms) => {
                let at_ms = after_ms.map(|ms| self.now_ms() + ms);
                self.tick_at_ms = at_ms.map(|at| self.tick_at_ms.map_or(at, |before| before.min(at)));
            }
            Action::Kill => self.root.signal(libc::SIGKILL),
            Action::Exit(exit) => self.exit = Some(exit),
        }
    }

    /// What is due by the clock.
    fn follow_time(&mut self) {
        let now_ms = self.now_ms();
        if let Some(terminal) = self.terminal.as_mut().filter(|terminal| terminal.in_background()) {
            terminal.take();
        }
        if self.frames_at_ms.is_some_and(|at| now_ms >= at) {
            self.look_at_frames();
        }
        if self.tick_at_ms.is_none_or(|at| now_ms < at) {
            return;
        }
        self.tick_at_ms = None;
        if self.agent.is_awake() {
            let quiet = self.observer.sample(self.activity, now_ms);
            self.happen(Event::Tick(quiet));
        } else {
            self.happen(Event::BreathDue);
        }
    }

    /// Has frames moved that should be somewhere else, and looks again later while there are any in RAM.
    fn look_at_frames(&mut self) {
        let now_ms = self.now_ms();
        let away_ms = self.agent.is_away().then(|| now_ms - self.away_since_ms);
        let held = self.history.held();
        self.frames_at_ms = (held.compressed_bytes > 0).then_some(now_ms + FRAMES_MS);
        if let Some(to) = self.observer.frames(away_ms, held) {
            self.happen(Event::FramesDue(to));
        }
    }

    fn signal(&mut self, received: Received) {
        let Received { signal, sender, by_kernel } = received;
        let own = rustix::process::getpid().as_raw_nonzero().get();
        match signal {
            libc::SIGCHLD => self.reap(),
            libc::SIGWINCH if self.terminal.is_some() => {
                self.terminal.iter_mut().for_each(Terminal::resize);
            }
            // What the tree sends to its parent or its own group is not for the tree, or has reached it.
            _ if !by_kernel && (sender == own || root::is_below_us(sender)) => {}
            _ if self.root.is_adopted() => {
                if [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT].contains(&signal) {
                    self.happen(Event::RootEnded(Exit::Code(0)));
                }
            }
            _ if by_kernel && self.reached_the_root(signal) => {
                if signal != libc::SIGWINCH {
                    self.happen(Event::SignalShared(signal));
                }
            }
            _ => {
                if signal == libc::SIGCONT {
                    self.terminal.iter_mut().for_each(Terminal::take);
                }
                self.happen(Event::Signal(signal));
            }
        }
    }

    /// Whether a signal from the kernel went to the whole group of which the root is one too. A hang-up
    /// goes to the leader of a session alone, if that is who we are.
    fn reached_the_root(&self, signal: i32) -> bool {
        let to_group = match signal {
            libc::SIGINT | libc::SIGQUIT | libc::SIGTSTP | libc::SIGTTIN | libc::SIGTTOU | libc::SIGWINCH => true,
            libc::SIGHUP | libc::SIGCONT => !proc::own_stat().is_ok_and(|own| own.session == own.pid),
            _ => false,
        };
        to_group && self.root.shares_group()
    }

    fn reap(&mut self) {
        let changes = self.root.reap(&self.gate);
        self.root_changed(changes);
    }

    fn root_changed(&mut self, changes: Vec<Change>) {
        for change in changes {
            self.happen(match change {
                Change::Stopped(signal) => Event::RootStopped(signal),
                Change::Ended(exit) => Event::RootEnded(exit),
            });
        }
    }

    /// The command stopped, so this process does, as the shell that waits for it expects.
    fn stop_self(&mut self, signal: i32) {
        self.terminal.iter_mut().for_each(Terminal::give_back);
        os::stop(signal, !self.root.shares_group());
        // Going on is done here and now; where our group is orphaned, it never stopped.
        SignalSet::of(&[libc::SIGCONT]).take_pending();
        self.terminal.iter_mut().for_each(Terminal::take);
        self.root.resume();
        self.happen(Event::Continued);
    }

    fn outer_ready(&mut self, ready: PollFlags) {
        if ready.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
            self.activity.input_ms = self.now_ms();
            self.happen(Event::InputWaiting);
        }
        if ready.contains(PollFlags::OUT) {
            self.relay_output();
        }
    }

    fn inner_ready(&mut self, ready: PollFlags) {
        if ready.contains(PollFlags::OUT) && self.delivers {
            self.terminal.iter_mut().for_each(Terminal::relay_input);
        }
        if ready.intersects(PollFlags::IN | PollFlags::HUP) {
            self.activity.output_ms = self.now_ms();
            self.relay_output();
        }
    }

    fn relay_output(&mut self) {
        if let Some(terminal) = &mut self.terminal {
            terminal.relay_output();
        }
        self.follow_hang_up();
    }

    /// When the user's terminal is gone, the command's goes too; not before it is awake.
    fn follow_hang_up(&mut self) {
        if !self.terminal.as_ref().is_some_and(Terminal::is_hung_up) {
            return;
        }
        if self.delivers {
            self.terminal = None;
        } else if !self.hang_up_told {
            self.hang_up_told = true;
            self.happen(Event::InputWaiting);
        }
    }

    /// Hands over what the command wrote last. Its user may be slow, and may lose patience.
    fn drain_terminal(&mut self) {
        let Some(terminal) = &mut self.terminal else { return };
        while !terminal.is_drained() {
            let mut polled =
                [PollFd::from_borrowed_fd(terminal.outer(), PollFlags::OUT), PollFd::new(&self.signals, PollFlags::IN)];
            let _ = rustix::event::poll(&mut polled, None);
            let told = self.signals.next().map(|received| received.signal);
            if matches!(told, Some(libc::SIGTERM | libc::SIGHUP | libc::SIGINT | libc::SIGQUIT)) {
                return;
            }
        }
    }

    fn reported(&mut self, report: Report) {
        let event = match report {
            Report::PageOut(Ok(mut report)) => {
                self.history.away(&mut report);
                self.watched = report.watched;
                self.away_since_ms = self.now_ms();
                self.frames_at_ms = Some(self.away_since_ms + 1_000);
                Event::Away { paged: report.paged }
            }
            Report::PageOut(Err(refused)) => {
                self.history.refused(refused.why.clone());
                Event::Refused(refused.why)
            }
            Report::Wake(Ok(report)) => {
                if let Some((since_ms, reason)) = self.waking.take() {
                    self.history.woken(&report, reason, self.now_ms() - since_ms);
                }
                match self.agent.is_to_breathe() {
                    true => self.observer.breathes(self.now_ms()),
                    false => self.observer.woke(self.now_ms()),
                }
                Event::Woken
            }
            Report::Wake(Err(damage)) => Event::Failed(damage.what),
            Report::Frames(held) => {
                self.history.moved(held);
                Event::FramesMoved
            }
        };
        self.happen(event);
    }

    fn requested(&mut self, ticket: Ticket, mut request: Option<Request>) {
        while let Some(asked) = request.take() {
            let answer = match (asked.op(), &asked) {
                (Some(op), _) => {
                    self.heard(op);
                    return self.happen(Event::Request(ticket, op));
                }
                (None, Request::Limit { memory_max_bytes }) => {
                    self.settings.memory_max_bytes = *memory_max_bytes;
                    self.observer.limit(*memory_max_bytes);
                    self.frames_at_ms = Some(self.now_ms());
                    Answer::Done
                }
                (None, Request::Peer { beyond_budget }) => {
                    beyond_budget.iter().for_each(|&share| self.observer.beyond_budget(share));
                    Answer::Peer(Box::new(self.as_peer()))
                }
                (None, asked) => Answer::Agent(Box::new(self.status(*asked == Request::Status { verbose: true }))),
            };
            request = self.control.answer(ticket, &answer);
        }
    }

    /// Hooks tell of turns, and the observer remembers that.
    fn heard(&mut self, op: Op) {
        let turn = match op {
            Op::HintIdle => Turn::Idle,
            Op::HintActive => Turn::Active,
            Op::Pause | Op::Resume | Op::Wake => return,
        };
        self.observer.hint(self.now_ms(), turn);
    }

    /// For how long it has been quiet, or away.
    fn idle_ms(&self, quiet: &Quiet) -> u64 {
        if self.agent.is_away() { self.now_ms() - self.away_since_ms } else { quiet.quiet_ms }
    }

    fn quiet(&mut self) -> Quiet {
        if self.agent.is_away() { Quiet::default() } else { self.observer.sample(self.activity, self.now_ms()) }
    }

    fn as_peer(&mut self) -> Peer {
        let quiet = self.quiet();
        Peer {
            name: self.registration.record().name,
            state: self.agent.state(),
            idle_ms: self.idle_ms(&quiet),
            idle_after_ms: self.settings.idle_after_ms,
            importance: self.settings.importance,
            private_bytes: self.observer.private_bytes(),
            compressed_bytes: self.history.held().compressed_bytes,
            supervisor_bytes: memory::private_bytes(std::process::id() as i32),
        }
    }

    fn status(&mut self, verbose: bool) -> Status {
        let record = self.registration.record();
        let quiet = self.quiet();
        Status {
            name: record.name,
            pid: record.pid,
            root_pid: self.root.pid().as_raw_nonzero().get(),
            command: record.command,
            started_ms: record.started_ms,
            importance: self.settings.importance,
            idle_after_ms: self.settings.idle_after_ms,
            memory_max_bytes: self.settings.memory_max_bytes,
            state: self.agent.state().name(),
            paused: self.agent.is_paused(),
            idle_ms: self.idle_ms(&quiet),
            busy_with: quiet.busy_with.or_else(|| self.history.refusal()),
            supervisor_bytes: status::supervisor_bytes(),
            measured: self.observer.measure(),
            history: self.history.summary(),
            left_alone: verbose.then(|| self.history.left_alone()),
        }
    }
}
