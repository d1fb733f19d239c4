//! The machine in tables, and under random histories with a pager that does as it likes.

use super::*;
use proptest::prelude::*;

const RULES: Rules = Rules { idle_after_ms: 30_000, breath_ms: 600_000, pages: true };

fn quiet(quiet_ms: u64) -> Event {
    Event::Tick(Quiet { quiet_ms, ..Quiet::default() })
}

fn busy(quiet_ms: u64) -> Event {
    Event::Tick(Quiet { quiet_ms, busy_with: Some("a connection".into()), wanted: false })
}

/// One that was quiet long enough at 100 s and went away.
fn away() -> Agent {
    let mut agent = Agent::new(RULES, 0);
    agent.on(quiet(99_000), 100_000);
    agent.on(Event::Away { paged: true }, 100_100);
    assert_eq!(agent.state(), State::PagedOut);
    agent
}

fn ticket(number: u64, op: Op) -> Event {
    Event::Request(Ticket(number), op)
}

/// What matters of the actions: everything but ticks and repeated permission.
fn essence(actions: Vec<Action>) -> Vec<Action> {
    actions.into_iter().filter(|action| !matches!(action, Action::ScheduleTick(_))).collect()
}

#[test]
fn quiet_long_enough_is_paged_out() {
    let mut agent = Agent::new(RULES, 0);
    assert_eq!(agent.on(quiet(0), 1_000), [Action::ScheduleTick(Some(TICK_MS))]);
    assert_eq!(agent.state(), State::Running);
    agent.on(quiet(29_999), 60_000);
    assert_eq!(agent.state(), State::Idle);
    agent.on(busy(99_000), 61_000);
    assert!(agent.is_awake(), "what keeps it awake does so however long it is quiet");
    assert_eq!(agent.on(quiet(30_000), 62_000), [Action::Hold, Action::PageOut, Action::ScheduleTick(None)]);
    assert_eq!(agent.on(Event::Away { paged: true }, 62_100), [Action::ScheduleTick(Some(600_000))]);
    assert_eq!(agent.state(), State::PagedOut);
}

#[test]
fn typing_counts_as_use_whatever_the_processor_says() {
    let mut agent = Agent::new(RULES, 0);
    agent.on(Event::InputWaiting, 50_000);
    agent.on(quiet(79_000), 79_000);
    assert!(agent.is_awake());
    agent.on(quiet(80_000), 80_000);
    assert!(!agent.is_awake());
}

#[test]
fn input_to_one_away_wakes_it_and_then_flows() {
    let mut agent = away();
    assert!(agent.listens());
    assert_eq!(essence(agent.on(Event::InputWaiting, 200_000)), [Action::Wake(Reason::Terminal)]);
    assert!(!agent.listens(), "it has been heard");
    assert_eq!(essence(agent.on(Event::InputWaiting, 200_001)), []);
    assert_eq!(essence(agent.on(Event::Woken, 200_100)), [Action::Deliver]);
    assert_eq!(agent.state(), State::Running);
}

#[test]
fn input_aborts_a_page_out_and_flows_when_that_gave_up() {
    let mut agent = Agent::new(RULES, 0);
    agent.on(quiet(99_000), 100_000);
    assert_eq!(agent.on(Event::InputWaiting, 100_001), [Action::Abort]);
    assert_eq!(agent.on(Event::InputWaiting, 100_002), []);
    assert_eq!(essence(agent.on(Event::Refused("aborted".into()), 100_003)), [Action::Deliver]);
}

#[test]
fn an_abort_that_came_too_late_becomes_a_wake() {
    let mut agent = Agent::new(RULES, 0);
    agent.on(quiet(99_000), 100_000);
    agent.on(Event::InputWaiting, 100_001);
    assert_eq!(essence(agent.on(Event::Away { paged: true }, 100_002)), [Action::Wake(Reason::Terminal)]);
    assert_eq!(essence(agent.on(Event::Woken, 100_200)), [Action::Deliver]);
}

#[test]
fn refusals_back_off_and_input_forgives_them() {
    let mut agent = Agent::new(RULES, 0);
    let mut tried = Vec::new();
    for now_ms in (0..2_000_000).step_by(1_000) {
        if agent.on(quiet(now_ms), now_ms).contains(&Action::PageOut) {
            tried.push(now_ms / 1_000);
            agent.on(Event::Refused("io_uring".into()), now_ms);
        }
    }
    assert_eq!(tried, [30, 60, 120, 240, 480, 960, 1560]);
    agent.on(Event::InputWaiting, 2_000_000);
    assert!(agent.on(quiet(40_000), 2_040_000).contains(&Action::PageOut));
}

#[test]
fn a_pause_ignores_input_until_resumed() {
    let mut agent = Agent::new(RULES, 0);
    let actions = essence(agent.on(ticket(1, Op::Pause), 10));
    assert_eq!(actions, [Action::Deliver, Action::Hold, Action::PageOut]);
    assert_eq!(agent.on(Event::InputWaiting, 20), []);
    let answered = agent.on(Event::Away { paged: true }, 30);
    assert_eq!(answered, [Action::Answer(Ticket(1), Ok(())), Action::ScheduleTick(None)]);
    for event in [Event::InputWaiting, Event::Readable, Event::BreathDue] {
        assert_eq!(agent.on(event, 40), []);
    }
    assert!(!agent.listens());
    assert_eq!(agent.on(ticket(2, Op::Wake), 50), [Action::Answer(Ticket(2), Err(No::Paused))]);
    assert_eq!(essence(agent.on(ticket(3, Op::Resume), 60)), [Action::Wake(Reason::Command)]);
    let woken = essence(agent.on(Event::Woken, 70));
    assert_eq!(woken, [Action::Answer(Ticket(3), Ok(())), Action::Deliver]);
}

#[test]
fn a_pause_that_cannot_be_says_why_and_ends() {
    let mut agent = Agent::new(RULES, 0);
    agent.on(ticket(1, Op::Pause), 10);
    let no = No::Refused("pinned pages".into());
    let actions = essence(agent.on(Event::Refused("pinned pages".into()), 20));
    assert_eq!(actions, [Action::Answer(Ticket(1), Err(no)), Action::Deliver]);
    assert!(!agent.is_paused());
}

#[test]
fn a_paused_one_that_somebody_thawed_goes_away_again() {
    let mut agent = Agent::new(RULES, 0);
    agent.on(ticket(1, Op::Pause), 10);
    agent.on(Event::Away { paged: true }, 20);
    assert_eq!(essence(agent.on(Event::Fault, 30)), [Action::Wake(Reason::Fault)]);
    assert_eq!(essence(agent.on(Event::Woken, 40)), [Action::Deliver, Action::Hold, Action::PageOut]);
}

#[test]
fn a_signal_wakes_even_a_paused_one_and_then_arrives() {
    let mut agent = Agent::new(RULES, 0);
    agent.on(ticket(1, Op::Pause), 10);
    assert_eq!(agent.on(Event::Signal(15), 20), [Action::Abort]);
    assert_eq!(agent.on(Event::Signal(15), 21), []);
    agent.on(Event::Signal(1), 22);
    let actions = essence(agent.on(Event::Refused("aborted".into()), 30));
    let overtaken = Action::Answer(Ticket(1), Err(No::Overtaken));
    assert_eq!(actions, [Action::ForwardSignal(15), Action::ForwardSignal(1), Action::Deliver, overtaken]);
}

#[test]
fn stops_are_the_users_only_while_nothing_is_under_way() {
    let mut agent = Agent::new(RULES, 0);
    assert_eq!(agent.on(Event::RootStopped(20), 10), [Action::StopSelf(20)]);
    assert_eq!(essence(agent.on(Event::Continued, 20)), [Action::Deliver]);
    agent.on(ticket(1, Op::Pause), 30);
    assert_eq!(agent.on(Event::RootStopped(19), 40), []);
    agent.on(Event::Away { paged: true }, 50);
    assert_eq!(agent.on(Event::RootStopped(19), 60), []);
    assert_eq!(away().on(Event::RootStopped(19), 200_000), []);
}

#[test]
fn a_breath_is_short_unless_something_comes_of_it() {
    let mut agent = away();
    assert_eq!(essence(agent.on(Event::BreathDue, 700_000)), [Action::Wake(Reason::Breath)]);
    agent.on(Event::Woken, 700_100);
    assert!(agent.on(quiet(0), 700_900) == [Action::ScheduleTick(Some(TICK_MS))]);
    assert!(agent.on(quiet(0), 701_100).contains(&Action::PageOut));
    agent.on(Event::Away { paged: true }, 701_200);
    agent.on(Event::BreathDue, 1_400_000);
    agent.on(Event::Woken, 1_400_100);
    agent.on(busy(0), 1_401_100);
    assert!(!agent.on(quiet(0), 1_402_100).contains(&Action::PageOut), "it began something");
}

#[test]
fn a_breath_lasts_to_its_end_however_quiet_it_is() {
    let mut agent = away();
    agent.on(Event::BreathDue, 700_000);
    agent.on(Event::Woken, 700_100);
    assert!(!agent.on(quiet(700_000), 700_900).contains(&Action::PageOut));
    assert!(agent.on(quiet(701_000), 701_100).contains(&Action::PageOut));
}

#[test]
fn who_calls_one_that_breathes_keeps_it_awake() {
    for (called_ms, woken_ms) in [(700_050, 700_100), (700_500, 700_100)] {
        let mut agent = away();
        agent.on(Event::BreathDue, 700_000);
        assert!(agent.is_to_breathe());
        let events = [(called_ms, ticket(1, Op::Wake)), (woken_ms, Event::Woken)];
        let mut ordered = events.to_vec();
        ordered.sort_by_key(|(at_ms, _)| *at_ms);
        let answered: Vec<Action> = ordered.into_iter().flat_map(|(at_ms, event)| agent.on(event, at_ms)).collect();
        assert!(answered.contains(&Action::Answer(Ticket(1), Ok(()))) && !agent.is_to_breathe());
        assert!(!agent.on(quiet(701_000), 702_000).contains(&Action::PageOut), "called at {called_ms}");
        assert!(agent.on(quiet(731_000), 731_000).contains(&Action::PageOut));
    }
}

#[test]
fn hints_are_taken() {
    let mut agent = Agent::new(RULES, 0);
    assert_eq!(agent.on(ticket(1, Op::HintIdle), 10), [Action::Answer(Ticket(1), Ok(()))]);
    assert!(agent.on(quiet(2_000), 5_000).contains(&Action::PageOut));
    assert!(agent.on(ticket(2, Op::HintActive), 5_001).contains(&Action::Abort));
    agent.on(Event::Refused("aborted".into()), 5_002);
    assert!(!agent.on(quiet(9_000), 9_000).contains(&Action::PageOut));
}

#[test]
fn the_end_wakes_what_remains_first() {
    let exit = Exit::Code(3);
    assert_eq!(essence(Agent::new(RULES, 0).on(Event::RootEnded(exit), 10)), [Action::Exit(exit)]);
    let mut agent = away();
    assert_eq!(essence(agent.on(Event::RootEnded(exit), 200_000)), [Action::Wake(Reason::Child)]);
    assert_eq!(essence(agent.on(Event::Woken, 200_100)), [Action::Exit(exit)]);
}

#[test]
fn damage_is_told_and_leaves_a_way_out() {
    let mut agent = away();
    agent.on(ticket(1, Op::Wake), 200_000);
    let no = No::Damaged("block 3".into());
    let actions = essence(agent.on(Event::Failed("block 3".into()), 200_001));
    assert_eq!(actions, [Action::Answer(Ticket(1), Err(no.clone())), Action::Hold]);
    for op in [Op::Pause, Op::HintIdle, Op::HintActive] {
        assert_eq!(agent.on(ticket(2, op), 200_002), [Action::Answer(Ticket(2), Err(no.clone()))]);
    }
    for harmless in [libc::SIGUSR1, libc::SIGTSTP, libc::SIGCONT, libc::SIGWINCH] {
        assert_eq!(agent.on(Event::Signal(harmless), 200_003), []);
        assert_eq!(agent.on(Event::SignalShared(harmless), 200_003), []);
    }
    assert_eq!(agent.on(Event::SignalShared(libc::SIGINT), 200_004), [Action::Kill]);
    assert_eq!(agent.on(Event::Signal(libc::SIGTERM), 200_004), [Action::Kill]);
    let exit = Exit::Signal(9);
    assert_eq!(agent.on(Event::RootEnded(exit), 200_005), [Action::Exit(exit)]);
}

#[test]
fn what_kept_it_from_waking_may_pass() {
    let mut agent = away();
    agent.on(Event::InputWaiting, 200_000);
    assert!(!agent.on(Event::Failed("no memory".into()), 200_001).contains(&Action::Deliver));
    let damaged = || No::Damaged("no memory".into());
    for (nth, op) in [(1, Op::Wake), (2, Op::Resume)] {
        assert_eq!(essence(agent.on(ticket(nth, op), 200_002)), [Action::Wake(Reason::Command)]);
        let actions = agent.on(Event::Failed("no memory".into()), 200_003);
        assert!(actions.contains(&Action::Answer(Ticket(nth), Err(damaged()))) && agent.state() == State::Damaged);
    }
    assert_eq!(essence(agent.on(ticket(3, Op::Resume), 200_004)), [Action::Wake(Reason::Command)]);
    let woken = essence(agent.on(Event::Woken, 200_005));
    assert_eq!(woken, [Action::Answer(Ticket(3), Ok(())), Action::Deliver]);
    assert!(agent.is_awake());
}

#[test]
fn input_that_waits_tries_a_failed_wake_again_but_not_without_pause() {
    let mut agent = away();
    agent.on(Event::InputWaiting, 200_000);
    for now_ms in [200_001, 210_000] {
        let actions = agent.on(Event::Failed("no memory".into()), now_ms);
        assert_eq!(actions.last(), Some(&Action::ScheduleTick(Some(RETRY_MS))));
        assert!(!agent.listens());
        assert_eq!(agent.on(Event::InputWaiting, now_ms + 1), []);
        assert_eq!(agent.on(Event::BreathDue, now_ms + RETRY_MS), []);
        assert!(agent.listens());
        assert_eq!(essence(agent.on(Event::InputWaiting, now_ms + RETRY_MS)), [Action::Wake(Reason::Terminal)]);
    }
    assert_eq!(essence(agent.on(Event::Woken, 220_000)), [Action::Deliver]);
}

#[test]
fn moving_frames_changes_nothing_and_gives_way() {
    let mut agent = away();
    assert_eq!(agent.on(Event::FramesDue(Move::Drop), 200_000), []);
    assert_eq!(agent.on(Event::FramesDue(Move::ToSsd), 200_000), [Action::MoveFrames(Move::ToSsd)]);
    assert!(agent.is_away() && agent.listens());
    assert_eq!(agent.on(Event::InputWaiting, 200_001), [Action::Abort]);
    assert!(!agent.is_away(), "what it waits for has been heard");
    assert_eq!(essence(agent.on(Event::FramesMoved, 200_002)), [Action::Wake(Reason::Terminal)]);
    agent.on(Event::Woken, 200_100);
    assert_eq!(agent.on(Event::FramesDue(Move::Drop), 200_200), [Action::MoveFrames(Move::Drop)]);
    assert_eq!(agent.on(Event::RootStopped(20), 200_201), [Action::StopSelf(20)]);
    assert_eq!(agent.on(quiet(99_000), 300_000), [Action::ScheduleTick(Some(TICK_MS))]);
    assert_eq!(essence(agent.on(Event::FramesMoved, 300_001)), [Action::Deliver]);
    assert!(agent.on(quiet(99_000), 301_000).contains(&Action::PageOut));
}

#[test]
fn without_a_pager_nothing_ticks_and_nothing_pauses() {
    let mut agent = Agent::new(Rules { pages: false, ..RULES }, 0);
    assert_eq!(agent.on(Event::InputWaiting, 10), [Action::Deliver, Action::ScheduleTick(None)]);
    let actions = agent.on(ticket(1, Op::Pause), 20);
    assert!(matches!(actions[..], [Action::Answer(Ticket(1), Err(No::Refused(_)))]));
}

/// What comes from outside, or the pager's answer where one is due.
#[derive(Clone, Debug)]
enum Step {
    Outside(Event),
    Ask(Op),
    PagerSucceeds,
    PagerFails,
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let outside = prop_oneof![
        Just(Event::InputWaiting),
        (1..32i32).prop_map(Event::Signal),
        (0..60_000u64).prop_map(quiet),
        (0..60_000u64).prop_map(busy),
        (1..32i32).prop_map(Event::SignalShared),
        Just(Event::BreathDue),
        Just(Event::Readable),
        Just(Event::Fault),
        Just(Event::ChildEnded),
        Just(Event::FramesDue(Move::ToSsd)),
        Just(Event::FramesDue(Move::Squeeze)),
        Just(Event::FramesDue(Move::Drop)),
        Just(Event::RootStopped(20)),
        Just(Event::Continued),
    ];
    let op = prop_oneof![Just(Op::Pause), Just(Op::Resume), Just(Op::Wake), Just(Op::HintIdle), Just(Op::HintActive),];
    prop_oneof![
        8 => outside.prop_map(Step::Outside),
        4 => op.prop_map(Step::Ask),
        6 => Just(Step::PagerSucceeds),
        2 => Just(Step::PagerFails),
        2 => (0..100_000u64).prop_map(Step::Wait),
        1 => Just(Step::Outside(Event::RootEnded(Exit::Code(0)))),
    ]
}

/// The world around the machine: a pager with at most one order, and what it promised.
struct World {
    agent: Agent,
    now_ms: u64,
    order: Option<Action>,
    running: bool,
    delivers: bool,
    asked: u64,
    answered: Vec<Ticket>,
    sent: Vec<i32>,
    forwarded: Vec<i32>,
    exited: bool,
    /// A wake failed, now or before.
    damaged: bool,
}

impl World {
    fn new() -> Self {
        World {
            agent: Agent::new(RULES, 0),
            now_ms: 0,
            order: None,
            running: true,
            delivers: true,
            asked: 0,
            answered: Vec::new(),
            sent: Vec::new(),
            forwarded: Vec::new(),
            exited: false,
            damaged: false,
        }
    }

    fn take(&mut self, step: Step) {
        let event = match step {
            Step::Wait(ms) => {
                self.now_ms += ms;
                return;
            }
            Step::Outside(event) => event,
            Step::Ask(op) => {
                self.asked += 1;
                Event::Request(Ticket(self.asked), op)
            }
            Step::PagerSucceeds | Step::PagerFails => match (self.order.take(), step) {
                (Some(Action::PageOut), Step::PagerSucceeds) => {
                    self.running = false;
                    Event::Away { paged: true }
                }
                (Some(Action::PageOut), _) => Event::Refused("no".into()),
                (Some(Action::MoveFrames(_)), _) => Event::FramesMoved,
                (Some(Action::Wake(_)), Step::PagerFails) => {
                    self.damaged = true;
                    Event::Failed("no".into())
                }
                (Some(_), _) => {
                    self.running = true;
                    Event::Woken
                }
                (None, _) => return,
            },
        };
        if let Event::Signal(signal) = event {
            self.sent.push(signal);
        }
        for action in self.agent.on(event, self.now_ms) {
            self.perform(action);
        }
    }

    fn perform(&mut self, action: Action) {
        assert!(!self.exited, "nothing follows the end");
        match action {
            Action::Deliver => {
                assert!(self.running && self.order.is_none());
                self.delivers = true;
            }
            Action::Hold => self.delivers = false,
            Action::PageOut => {
                assert!(self.running && self.order.is_none() && !self.delivers);
                self.order = Some(action);
            }
            Action::Wake(_) => {
                assert!(!self.running && self.order.is_none());
                self.order = Some(action);
            }
            Action::MoveFrames(to) => {
                assert!(self.order.is_none() && self.running == (to == Move::Drop));
                self.order = Some(action);
            }
            Action::Abort => assert!(matches!(self.order, Some(Action::PageOut | Action::MoveFrames(_)))),
            Action::ForwardSignal(signal) => {
                assert!(self.running && self.order.is_none());
                self.forwarded.push(signal);
            }
            Action::StopSelf(_) => {
                assert!(self.running && matches!(self.order, None | Some(Action::MoveFrames(Move::Drop))));
            }
            Action::Answer(ticket, _) => self.answered.push(ticket),
            Action::ScheduleTick(_) => {}
            Action::Kill => assert!(self.damaged && !self.running),
            Action::Exit(_) => {
                assert!(self.running == (self.agent.state() != State::Damaged) && self.order.is_none());
                self.exited = true;
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever comes in whatever order, `World` finds no rule broken; and when the pager has done all that
    /// it was told, every request is answered once and every signal has arrived.
    #[test]
    fn nothing_is_lost(steps in prop::collection::vec(step(), 1..120)) {
        let mut world = World::new();
        for step in steps {
            world.take(step);
            if world.exited {
                break;
            }
        }
        for _ in 0..8 {
            if !world.exited {
                world.take(Step::PagerSucceeds);
            }
        }
        prop_assert_eq!(&world.order, &None, "the pager is never kept busy without end");
        prop_assert_eq!(world.delivers && !world.exited, world.agent.is_awake() && !world.exited);
        let mut answered = world.answered.clone();
        answered.sort_by_key(|ticket| ticket.0);
        prop_assert_eq!(answered, (1..=world.asked).map(Ticket).collect::<Vec<_>>());
        if !world.exited {
            // Who was damaged got only what ends it.
            prop_assert!(world.damaged || world.sent.iter().all(|signal| world.forwarded.contains(signal)));
            if !world.agent.is_paused() && world.agent.is_awake() {
                prop_assert!(world.delivers);
            }
        }
    }
}
