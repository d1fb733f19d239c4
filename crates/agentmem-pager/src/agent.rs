//! The state machine of one agent: what happened goes in, what is to be done comes out. It knows no
//! clock, no process and no descriptor.
//!
//! Two rules hold whatever comes: input reaches the tree only while all of it runs and no page-out is
//! under way; and the pager has one order at a time.

pub use crate::event::{Action, Event, Move, No, Op, Quiet, Reason, State, Ticket};
use crate::launch::Exit;

/// How often idleness is looked at while the tree is awake.
pub const TICK_MS: u64 = 1_000;
/// How long a breath is.
pub const BREATH_MS: u64 = 1_000;
/// How long input is left alone after a wake that failed.
pub const RETRY_MS: u64 = 5_000;
/// The longest wait after page-outs that came to nothing.
pub const BACKOFF_MS_MAX: u64 = 600_000;

/// What the machine goes by.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// How long quiet before a page-out.
    pub idle_after_ms: u64,
    /// How often a breath; 0: never.
    pub breath_ms: u64,
    /// Whether there is a pager.
    pub pages: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    PageOut { aborted: bool },
    Frames { aborted: bool },
    Wake,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Until {
    Away,
    Awake,
}

/// The machine.
pub struct Agent {
    rules: Rules,
    state: State,
    order: Option<Order>,
    paused: bool,
    /// Something needs the tree awake, and why.
    called: Option<Reason>,
    /// Signals that wait for it to be awake: each number once, as the kernel holds them.
    signals: Vec<i32>,
    /// Requests that wait: one a connection at most.
    waiting: Vec<(Ticket, Until)>,
    ended: Option<Exit>,
    damage: String,
    /// A wake failed just now: input that waits would order it again and again.
    failed_just_now: bool,
    active_ms: u64,
    hinted_idle: bool,
    /// While it breathes: until when.
    breath_until_ms: Option<u64>,
    not_before_ms: u64,
    backoff_ms: u64,
}

impl Agent {
    /// One whose command just started.
    pub fn new(rules: Rules, now_ms: u64) -> Self {
        Agent {
            rules,
            state: State::Running,
            order: None,
            paused: false,
            called: None,
            signals: Vec::new(),
            waiting: Vec::new(),
            ended: None,
            damage: String::new(),
            failed_just_now: false,
            active_ms: now_ms,
            hinted_idle: false,
            breath_until_ms: None,
            not_before_ms: 0,
            backoff_ms: 0,
        }
    }

    /// What it is.
    pub fn state(&self) -> State {
        self.state
    }

    /// Whether a person asked for it to be away.
    pub fn is_paused(&self) -> bool {
        self.paused
    }

    /// Whether the tree runs and nothing is under way that changes that.
    pub fn is_awake(&self) -> bool {
        matches!(self.state, State::Running | State::Idle) && self.is_undisturbed()
    }

    /// Whether the tree is away, and nothing called it or is under way that changes that.
    pub fn is_away(&self) -> bool {
        matches!(self.state, State::PagedOut | State::Frozen) && self.is_undisturbed() && self.called.is_none()
    }

    /// Whether it is woken for its timers' sake, and for nobody else.
    pub fn is_to_breathe(&self) -> bool {
        self.called == Some(Reason::Breath)
    }

    /// Moving frames leaves the tree as it is.
    fn is_undisturbed(&self) -> bool {
        matches!(self.order, None | Some(Order::Frames { .. }))
    }

    /// Whether input on the terminal would make a difference, or has made it already.
    pub fn listens(&self) -> bool {
        !self.paused && self.called.is_none() && self.state != State::Waking && !self.failed_just_now
    }

    /// What follows from `event`.
    pub fn on(&mut self, event: Event, now_ms: u64) -> Vec<Action> {
        let mut actions = Vec::new();
        match event {
            Event::InputWaiting => self.input(now_ms, &mut actions),
            Event::Signal(signal) => self.signal(signal, true, now_ms, &mut actions),
            Event::SignalShared(signal) => self.signal(signal, false, now_ms, &mut actions),
            Event::Request(ticket, op) => self.request(ticket, op, now_ms, &mut actions),
            Event::Tick(quiet) => self.tick(&quiet, now_ms, &mut actions),
            Event::BreathDue => self.breath_due(now_ms, &mut actions),
            Event::Readable if !self.paused => self.call(Reason::Input, now_ms, &mut actions),
            Event::ChildEnded if !self.paused => self.call(Reason::Child, now_ms, &mut actions),
            Event::Readable | Event::ChildEnded => {}
            Event::Fault if self.is_away() => self.call(Reason::Fault, now_ms, &mut actions),
            Event::Fault => {}
            // While the pager is at work or the tree is away, it is the pager who stops it.
            Event::RootStopped(signal) if self.is_awake() && self.ended.is_none() => {
                actions.push(Action::StopSelf(signal));
            }
            Event::RootStopped(_) => {}
            Event::Continued => self.continued(now_ms, &mut actions),
            Event::RootEnded(exit) => self.root_ended(exit, now_ms, &mut actions),
            Event::Away { paged } => self.away(paged, now_ms, &mut actions),
            Event::Refused(why) => self.refused(why, now_ms, &mut actions),
            Event::Woken => self.woken(now_ms, &mut actions),
            Event::Failed(what) => self.failed(what, &mut actions),
            Event::FramesDue(to) => self.frames_due(to, &mut actions),
            Event::FramesMoved => {
                self.order = None;
                self.proceed(now_ms, &mut actions);
            }
        }
        actions
    }

    fn input(&mut self, now_ms: u64, actions: &mut Vec<Action>) {
        if !self.paused && !self.failed_just_now {
            self.touch(now_ms);
            self.call(Reason::Terminal, now_ms, actions);
        }
    }

    /// A person or a client is there.
    fn touch(&mut self, now_ms: u64) {
        self.active_ms = now_ms;
        self.hinted_idle = false;
        self.breath_until_ms = None;
        self.not_before_ms = 0;
        self.backoff_ms = 0;
    }

    fn signal(&mut self, signal: i32, forward: bool, now_ms: u64, actions: &mut Vec<Action>) {
        if self.state == State::Damaged {
            actions.extend(ends(signal).then_some(Action::Kill));
            return;
        }
        if forward && !self.signals.contains(&signal) {
            self.signals.push(signal);
        }
        self.paused = false;
        self.call(Reason::Signal, now_ms, actions);
    }

    fn request(&mut self, ticket: Ticket, op: Op, now_ms: u64, actions: &mut Vec<Action>) {
        let refusal = match op {
            _ if self.ended.is_some() => Some(No::Ended),
            Op::HintIdle | Op::HintActive if self.paused => None,
            // What kept it from waking may have passed.
            Op::Pause | Op::HintIdle | Op::HintActive if self.state == State::Damaged => {
                Some(No::Damaged(self.damage.clone()))
            }
            Op::Pause if !self.rules.pages => {
                Some(No::Refused("it is never frozen (--no-freeze), or its pager could not be made".into()))
            }
            Op::Wake if self.paused => Some(No::Paused),
            _ => None,
        };
        if let Some(no) = refusal {
            actions.push(Action::Answer(ticket, Err(no)));
            return;
        }
        match op {
            Op::Pause => {
                self.paused = true;
                self.waiting.push((ticket, Until::Away));
                self.proceed(now_ms, actions);
            }
            Op::Resume | Op::Wake => {
                self.paused = false;
                self.waiting.push((ticket, Until::Awake));
                self.call(Reason::Command, now_ms, actions);
            }
            Op::HintIdle | Op::HintActive => {
                actions.push(Action::Answer(ticket, Ok(())));
                self.hint(op == Op::HintIdle, now_ms, actions);
            }
        }
    }

    fn hint(&mut self, idle: bool, now_ms: u64, actions: &mut Vec<Action>) {
        if idle {
            self.hinted_idle = true;
        } else if !self.paused {
            self.touch(now_ms);
            self.call(Reason::Command, now_ms, actions);
        }
    }

    fn tick(&mut self, quiet: &Quiet, now_ms: u64, actions: &mut Vec<Action>) {
        if !self.is_awake() || self.ended.is_some() {
            return;
        }
        let quiet_ms = quiet.quiet_ms.min(now_ms.saturating_sub(self.active_ms));
        self.state = if quiet_ms >= TICK_MS { State::Idle } else { State::Running };
        if quiet.busy_with.is_some() {
            // What its timers began is more than a breath.
            self.breath_until_ms = None;
        }
        let breathes = self.breath_until_ms.is_some_and(|until| now_ms < until);
        let early = (self.hinted_idle || quiet.wanted) && quiet_ms >= TICK_MS;
        // Who breathes was quiet for long enough before.
        let rested = early || self.breath_until_ms.is_some() || quiet_ms >= self.rules.idle_after_ms;
        let free = self.rules.pages && self.order.is_none();
        let may = free && quiet.busy_with.is_none() && now_ms >= self.not_before_ms;
        if may && rested && !breathes {
            self.page_out(actions);
        } else {
            self.schedule(actions);
        }
    }

    fn breath_due(&mut self, now_ms: u64, actions: &mut Vec<Action>) {
        self.failed_just_now = false;
        if self.is_away() && !self.paused {
            self.breath_until_ms = Some(now_ms);
            self.call(Reason::Breath, now_ms, actions);
        }
    }

    fn continued(&mut self, now_ms: u64, actions: &mut Vec<Action>) {
        if self.is_awake() {
            self.touch(now_ms);
            self.proceed(now_ms, actions);
        }
    }

    fn root_ended(&mut self, exit: Exit, now_ms: u64, actions: &mut Vec<Action>) {
        self.ended.get_or_insert(exit);
        self.paused = false;
        if self.state == State::Damaged {
            actions.push(Action::Exit(exit));
        } else {
            self.call(Reason::Child, now_ms, actions);
        }
    }

    /// Something needs the tree awake.
    fn call(&mut self, reason: Reason, now_ms: u64, actions: &mut Vec<Action>) {
        if reason != Reason::Breath {
            // Who needs it does so for longer than a breath.
            self.called = self.called.filter(|called| *called != Reason::Breath);
            if self.breath_until_ms.take().is_some() {
                self.active_ms = now_ms;
            }
        }
        self.called.get_or_insert(reason);
        self.proceed(now_ms, actions);
    }

    fn page_out(&mut self, actions: &mut Vec<Action>) {
        self.order = Some(Order::PageOut { aborted: false });
        self.hinted_idle = false;
        self.breath_until_ms = None;
        actions.extend([Action::Hold, Action::PageOut, Action::ScheduleTick(None)]);
    }

    fn frames_due(&mut self, to: Move, actions: &mut Vec<Action>) {
        let fits = match to {
            Move::Squeeze | Move::ToSsd => self.is_away(),
            Move::Drop => self.is_awake(),
        };
        if fits && self.order.is_none() && self.ended.is_none() {
            self.order = Some(Order::Frames { aborted: false });
            actions.push(Action::MoveFrames(to));
        }
    }

    fn wake(&mut self, reason: Reason, actions: &mut Vec<Action>) {
        self.state = State::Waking;
        self.failed_just_now = false;
        self.order = Some(Order::Wake);
        actions.extend([Action::ScheduleTick(None), Action::Wake(reason)]);
    }

    /// Takes the next step towards what is wanted, unless the pager is at one.
    fn proceed(&mut self, now_ms: u64, actions: &mut Vec<Action>) {
        match self.order {
            Some(Order::Wake) => {}
            Some(Order::PageOut { aborted }) => {
                if self.called.is_some() && !aborted {
                    self.order = Some(Order::PageOut { aborted: true });
                    actions.push(Action::Abort);
                }
            }
            Some(Order::Frames { aborted }) => {
                let wanted_away = self.paused && self.is_awake();
                if (self.called.is_some() || wanted_away) && !aborted {
                    self.order = Some(Order::Frames { aborted: true });
                    actions.push(Action::Abort);
                }
            }
            None => match self.state {
                State::Damaged => self.called.into_iter().for_each(|reason| self.wake(reason, actions)),
                State::Running | State::Idle => self.settle(now_ms, actions),
                _ => self.rest(actions),
            },
        }
    }

    /// The tree runs: everything that waited for that goes on.
    fn settle(&mut self, now_ms: u64, actions: &mut Vec<Action>) {
        self.called = None;
        if let Some(exit) = self.ended {
            self.answer_all(&No::Ended, actions);
            actions.push(Action::Exit(exit));
            return;
        }
        self.state = State::Running;
        actions.extend(self.signals.drain(..).map(Action::ForwardSignal));
        self.answer(Until::Awake, &Ok(()), actions);
        actions.push(Action::Deliver);
        if self.paused {
            self.page_out(actions);
        } else {
            self.answer(Until::Away, &Err(No::Overtaken), actions);
            self.breath_until_ms = self.breath_until_ms.map(|_| now_ms + BREATH_MS);
            self.schedule(actions);
        }
    }

    /// The tree is away: it stays so, or is woken at once.
    fn rest(&mut self, actions: &mut Vec<Action>) {
        if let Some(reason) = self.called {
            self.wake(reason, actions);
            return;
        }
        self.answer(Until::Away, &Ok(()), actions);
        let breathes = self.rules.breath_ms > 0 && !self.paused;
        actions.push(Action::ScheduleTick(breathes.then_some(self.rules.breath_ms)));
    }

    fn schedule(&self, actions: &mut Vec<Action>) {
        actions.push(Action::ScheduleTick(self.rules.pages.then_some(TICK_MS)));
    }

    fn away(&mut self, paged: bool, now_ms: u64, actions: &mut Vec<Action>) {
        self.order = None;
        self.state = if paged { State::PagedOut } else { State::Frozen };
        self.backoff_ms = 0;
        self.proceed(now_ms, actions);
    }

    fn refused(&mut self, why: String, now_ms: u64, actions: &mut Vec<Action>) {
        let aborted = self.order == Some(Order::PageOut { aborted: true });
        self.order = None;
        if !aborted || self.called != Some(Reason::Terminal) {
            self.back_off(now_ms);
        }
        if !aborted {
            // A pause that cannot be is none; one that was held up is tried again.
            self.paused = false;
            self.answer(Until::Away, &Err(No::Refused(why)), actions);
        }
        self.settle(now_ms, actions);
    }

    fn back_off(&mut self, now_ms: u64) {
        let first_ms = self.rules.idle_after_ms.max(TICK_MS);
        self.backoff_ms = (self.backoff_ms * 2).max(first_ms).min(BACKOFF_MS_MAX);
        self.not_before_ms = now_ms + self.backoff_ms;
    }

    fn woken(&mut self, now_ms: u64, actions: &mut Vec<Action>) {
        self.order = None;
        self.state = State::Running;
        if !self.is_to_breathe() {
            self.active_ms = now_ms;
        }
        self.proceed(now_ms, actions);
    }

    fn failed(&mut self, what: String, actions: &mut Vec<Action>) {
        self.order = None;
        self.state = State::Damaged;
        self.damage = what;
        self.called = None;
        self.answer_all(&No::Damaged(self.damage.clone()), actions);
        self.failed_just_now = true;
        actions.extend([Action::Hold, Action::ScheduleTick(None), Action::ScheduleTick(Some(RETRY_MS))]);
        actions.extend(self.signals.drain(..).any(ends).then_some(Action::Kill));
        actions.extend(self.ended.map(Action::Exit));
    }

    fn answer(&mut self, until: Until, result: &Result<(), No>, actions: &mut Vec<Action>) {
        let answered = self.waiting.extract_if(.., |(_, waits)| *waits == until);
        actions.extend(answered.map(|(ticket, _)| Action::Answer(ticket, result.clone())));
    }

    fn answer_all(&mut self, no: &No, actions: &mut Vec<Action>) {
        actions.extend(self.waiting.drain(..).map(|(ticket, _)| Action::Answer(ticket, Err(no.clone()))));
    }
}

/// Whether a signal asks a process to end.
fn ends(signal: i32) -> bool {
    [libc::SIGTERM, libc::SIGHUP, libc::SIGINT, libc::SIGQUIT].contains(&signal)
}

#[cfg(test)]
#[path = "agent_tests.rs"]
mod tests;
