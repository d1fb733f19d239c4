use super::*;
use crate::peek::TcpInfo;
use proptest::prelude::*;

fn process(pid: i32, cpu_ms: u64) -> Process {
    let member = Member { pid, start_ticks: 1 };
    Process { member, comm: "node".into(), cpu_ns: cpu_ms * 1_000_000, sleeps: false }
}

fn at_rest(cpu_ms: u64) -> Sample {
    Sample { processes: vec![process(7, cpu_ms)], ..Sample::default() }
}

/// A client's connection: sent and received bytes, and how long ago either was last, in ms.
fn client(sent: u64, received: u64, sent_ago_ms: u32, received_ago_ms: u32) -> Socket {
    let tcp = TcpInfo { state: ESTABLISHED, sent_ago_ms, received_ago_ms, sent_bytes: sent, received_bytes: received };
    Socket { inode: 5, pid: 7, fd: 9, port: 40_000, tcp }
}

fn with(socket: Socket) -> Sample {
    Sample { sockets: vec![socket], ..at_rest(0) }
}

/// Quiet since 1,000.
fn quiet() -> Idleness {
    let mut idleness = Idleness::new(0);
    for now_ms in [0, 1000, 3000] {
        idleness.observe(now_ms, &at_rest(0));
    }
    assert_eq!((idleness.quiet_since(), idleness.busy_with()), (Some(1000), None));
    idleness
}

#[test]
fn rest_is_believed_after_a_whole_window() {
    let mut idleness = Idleness::new(100);
    for now_ms in [100, 600, 3099] {
        idleness.observe(now_ms, &at_rest(0));
        assert_eq!(idleness.quiet_since(), None);
        assert_eq!(idleness.busy_with().as_deref(), Some("not watched for long enough"));
    }
    idleness.observe(3100, &at_rest(0));
    assert_eq!(idleness.quiet_since(), Some(3099));
}

#[test]
fn timers_of_an_idle_runtime_are_rest_and_work_is_not() {
    let mut idleness = quiet();
    for second in 3..60 {
        idleness.observe(second * 1000, &at_rest(second * 6));
    }
    assert_eq!(idleness.quiet_since(), Some(1000));
    idleness.observe(60_250, &at_rest(60 * 6 + 400));
    assert_eq!(idleness.busy_with().as_deref(), Some("node (7) uses 12 % of a core"));
    idleness.observe(61_250, &at_rest(60 * 6 + 400));
    assert_eq!(idleness.quiet_since(), None, "not a whole window of rest");
    idleness.observe(63_250, &at_rest(60 * 6 + 400));
    assert_eq!(idleness.quiet_since(), Some(61_250));
}

#[test]
fn many_idle_processes_are_no_work() {
    let mut idleness = quiet();
    let all = |cpu_ms| (0..50).map(|pid| process(pid, cpu_ms)).collect();
    idleness.observe(3000, &Sample { processes: all(6), ..Sample::default() });
    idleness.observe(4000, &Sample { processes: all(12), ..Sample::default() });
    assert_eq!(idleness.quiet_since(), Some(1000));
    idleness.observe(5000, &Sample { processes: vec![process(99, 500)], ..Sample::default() });
    assert_eq!(idleness.quiet_since(), None, "a new process has worked");
}

#[test]
fn a_thread_that_runs_twice_works() {
    let mut idleness = quiet();
    let sample = |tid| Sample { running: vec![(7, tid)], ..at_rest(0) };
    idleness.observe(3000, &sample(8));
    idleness.observe(4000, &sample(9));
    assert_eq!(idleness.quiet_since(), Some(1000));
    idleness.observe(4000 + RUNS_APART_MS - 1, &sample(9));
    assert_eq!(idleness.busy_with(), None, "a moment's work, seen twice");
    idleness.observe(5000, &sample(9));
    assert_eq!(idleness.busy_with().as_deref(), Some("thread 9 of pid 7 runs"));
}

#[test]
fn a_sleeping_tool_and_what_cannot_be_seen_are_no_rest() {
    let mut idleness = quiet();
    let mut tool = at_rest(0);
    tool.processes[0].sleeps = true;
    idleness.observe(3000, &tool);
    idleness.hint(3001, Turn::Idle);
    assert_eq!(idleness.busy_with().as_deref(), Some("node (7) runs"));
    let unseen = Sample { unseen: vec!["/proc/7/fd: denied".into()], ..at_rest(0) };
    idleness.observe(4000, &unseen);
    assert_eq!(idleness.busy_with().as_deref(), Some("/proc/7/fd: denied"));
    idleness.observe(5000, &at_rest(0));
    assert_eq!(idleness.quiet_since(), Some(4000));
}

#[test]
fn an_answer_is_awaited_streams_and_ends() {
    let mut idleness = quiet();
    let awaited = Some("an answer awaited on socket fd 9 of pid 7".to_owned());
    idleness.observe(3000, &with(client(5000, 0, 100, 3000)));
    assert_eq!(idleness.busy_with(), awaited);
    idleness.observe(4000, &with(client(5000, 0, 1100, 4000)));
    assert_eq!(idleness.busy_with(), awaited, "for as long as it takes");
    idleness.observe(5000, &with(client(5000, 300, 2100, 10)));
    assert_eq!(idleness.busy_with().as_deref(), Some("traffic on socket fd 9 of pid 7"));
    idleness.observe(6000, &with(client(5060, 900, 9, 10)));
    assert_eq!(idleness.busy_with().as_deref(), Some("traffic on socket fd 9 of pid 7"), "acknowledged, not asked");
    idleness.observe(7000, &with(client(5060, 900, 1009, 1010)));
    assert_eq!(idleness.quiet_since(), Some(6000));
    idleness.observe(8000, &with(client(9000, 900, 20, 2010)));
    assert_eq!(idleness.busy_with(), awaited, "the next turn");
}

#[test]
fn what_is_never_answered_counts_for_a_while() {
    let mut idleness = quiet();
    let asked = |ago_ms: u64| with(client(5000, 0, ago_ms as u32, ago_ms as u32 + 1));
    idleness.observe(3000, &asked(0));
    idleness.observe(3000 + REQUEST_MS_MAX - 1, &asked(REQUEST_MS_MAX - 1));
    assert_eq!(idleness.quiet_since(), None);
    idleness.observe(3000 + REQUEST_MS_MAX, &asked(REQUEST_MS_MAX));
    assert_eq!(idleness.quiet_since(), Some(3000 + REQUEST_MS_MAX - 1));

    let mut idleness = quiet();
    idleness.observe(3000, &asked(0));
    idleness.hint(3001, Turn::Idle);
    assert_eq!(idleness.quiet_since(), None, "a request is in flight, whatever the hook says");
    idleness.observe(3000 + REQUEST_AFTER_TURN_MS_MAX, &asked(REQUEST_AFTER_TURN_MS_MAX));
    assert_eq!(idleness.quiet_since(), Some(3000));
}

#[test]
fn a_server_that_answered_awaits_nothing() {
    let mut idleness = quiet();
    let mut listener = client(0, 0, 9000, 9000);
    (listener.inode, listener.port, listener.tcp.state) = (6, 8080, LISTENING);
    let mut served = client(70_000, 200, 500, 510);
    served.port = 8080;
    let sample = Sample { sockets: vec![listener, served], ..at_rest(0) };
    idleness.observe(3000, &sample);
    assert_eq!(idleness.busy_with().as_deref(), Some("traffic on socket fd 9 of pid 7"));
    idleness.observe(4000, &sample);
    assert_eq!(idleness.quiet_since(), Some(3000));
}

#[test]
fn a_connection_being_made_is_a_request() {
    let mut idleness = quiet();
    let mut socket = client(0, 0, 0, 0);
    socket.tcp.state = CONNECTING;
    idleness.observe(3000, &with(socket));
    idleness.observe(4000, &with(socket));
    assert_eq!(idleness.quiet_since(), None);
    idleness.observe(5000, &at_rest(0));
    assert_eq!(idleness.quiet_since(), Some(4000));
}

#[test]
fn hooks_are_believed_within_limits() {
    let mut idleness = quiet();
    idleness.hint(3000, Turn::Active);
    assert_eq!(idleness.busy_with().as_deref(), Some("a turn"));
    idleness.observe(3000 + TURN_MS_MAX - 1, &at_rest(0));
    assert_eq!(idleness.busy_with().as_deref(), Some("a turn"));
    idleness.hint(3000 + TURN_MS_MAX - 1, Turn::Idle);
    assert_eq!(idleness.quiet_since(), Some(3000 + TURN_MS_MAX - 1), "at once");

    idleness.hint(0, Turn::Active);
    idleness.observe(TURN_MS_MAX, &at_rest(0));
    assert_eq!((idleness.turn(), idleness.busy_with()), (None, None), "its end was never told");
}

#[test]
fn input_and_waking_start_anew() {
    let mut idleness = quiet();
    idleness.input(2500);
    assert_eq!(idleness.busy_with().as_deref(), Some("input"));
    idleness.observe(3000, &at_rest(0));
    assert_eq!(idleness.quiet_since(), Some(2500));
    idleness.woke(9000);
    assert_eq!(idleness.quiet_since(), None);
    idleness.observe(9000, &at_rest(80_000));
    idleness.observe(12_000, &at_rest(80_001));
    assert_eq!(idleness.quiet_since(), Some(9000), "work of the waking itself does not count");
}

#[test]
fn a_breath_in_which_it_does_nothing_leaves_it_as_quiet_as_it_was() {
    let connected = |cpu_ms| Sample { processes: vec![process(7, cpu_ms)], ..with(client(500, 900, 5000, 4000)) };
    let mut idleness = quiet();
    for now_ms in [3000, 4000, 7000] {
        idleness.observe(now_ms, &connected(0));
    }
    let quiet_since = idleness.quiet_since();
    assert!(quiet_since.is_some());
    idleness.breathes(90_000, &connected(5000));
    assert_eq!(idleness.quiet_since(), quiet_since, "work of the waking itself does not count");
    idleness.observe(91_000, &connected(5010));
    assert_eq!((idleness.quiet_since(), idleness.busy_with()), (quiet_since, None));

    let mut works = idleness.clone();
    works.breathes(180_000, &connected(6000));
    works.observe(181_000, &connected(6200));
    assert_eq!(works.busy_with().as_deref(), Some("node (7) uses 6 % of a core"));
    idleness.breathes(180_000, &connected(6000));
    idleness.observe(181_000, &with(client(900, 900, 10, 100_000)));
    assert!(idleness.busy_with().is_some(), "it asks for something");
}

#[derive(Debug, Clone)]
enum Event {
    Observe(Sample),
    Input,
    Hint(Turn),
    Woke,
}

fn each_once(mut sockets: Vec<Socket>) -> Vec<Socket> {
    sockets.sort_by_key(|socket| socket.inode);
    sockets.dedup_by_key(|socket| socket.inode);
    sockets
}

fn any_sample() -> impl Strategy<Value = Sample> {
    let socket =
        (0..3u64, prop_oneof![Just(1u8), Just(2), Just(8), Just(10)], 0..4u64, 0..3u64, 0..900_000u32, 0..900_000u32)
            .prop_map(|(inode, state, sent, received, sent_ago, received_ago)| {
                let mut socket = client(sent * 100, received * 100, sent_ago, received_ago);
                (socket.inode, socket.port, socket.tcp.state) = (inode, 40_000 + inode as u16, state);
                socket
            });
    let processes = proptest::collection::vec((0..4i32, 0..200u64, prop::bool::weighted(0.1)), 0..4);
    let running = proptest::collection::vec((0..3i32, 0..3i32), 0..2);
    (processes, running, proptest::collection::vec(socket, 0..3).prop_map(each_once), prop::bool::weighted(0.05))
        .prop_map(|(processes, running, sockets, unseen)| Sample {
            processes: processes
                .into_iter()
                .map(|(pid, cpu, sleeps)| Process { sleeps, ..process(pid, cpu) })
                .collect(),
            running,
            sockets,
            unseen: if unseen { vec!["denied".into()] } else { vec![] },
        })
}

fn any_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        8 => any_sample().prop_map(Event::Observe),
        1 => Just(Event::Input),
        1 => Just(Event::Woke),
        2 => prop_oneof![Just(Turn::Idle), Just(Turn::Active)].prop_map(Event::Hint),
    ]
}

/// Requests that are in flight beyond doubt: nothing was ever received, or the sample before saw
/// the same received and much less sent.
fn in_flight(before: &[Socket], now: &Sample) -> bool {
    let listens = |port| now.sockets.iter().any(|socket| socket.tcp.state == LISTENING && socket.port == port);
    now.sockets.iter().filter(|socket| socket.tcp.state == ESTABLISHED && !listens(socket.port)).any(|socket| {
        let tcp = &socket.tcp;
        let asked = match before.iter().find(|old| old.inode == socket.inode && old.tcp.state != LISTENING) {
            Some(old) => {
                old.tcp.received_bytes == tcp.received_bytes && tcp.sent_bytes > old.tcp.sent_bytes + CONTROL_BYTES_MAX
            }
            None => tcp.received_bytes == 0 && tcp.sent_bytes > CONTROL_BYTES_MAX,
        };
        asked && tcp.sent_ago_ms < tcp.received_ago_ms && u64::from(tcp.sent_ago_ms) < REQUEST_AFTER_TURN_MS_MAX
    })
}

proptest! {
    #[test]
    fn it_is_never_quiet_against_what_it_saw(events in proptest::collection::vec((0..3000u64, any_event()), 0..40)) {
        let mut idleness = Idleness::new(0);
        let (mut now_ms, mut active_until) = (0, None);
        let ((mut ran_ms, mut ran), mut sockets) = ((0, Vec::new()), Vec::new());
        for (passed_ms, event) in events {
            now_ms += passed_ms;
            match event {
                Event::Observe(sample) => {
                    idleness.observe(now_ms, &sample);
                    let is_apart = now_ms >= ran_ms + RUNS_APART_MS;
                    let busy = sample.processes.iter().any(|process| process.sleeps)
                        || !sample.unseen.is_empty()
                        || is_apart && sample.running.iter().any(|thread| ran.contains(thread))
                        || sample.sockets.iter().any(|socket| socket.tcp.state == CONNECTING)
                        || in_flight(&sockets, &sample);
                    prop_assert!(!busy || idleness.quiet_since().is_none(), "{sample:?}");
                    sockets.clone_from(&sample.sockets);
                    if is_apart {
                        (ran_ms, ran) = (now_ms, sample.running);
                    }
                }
                Event::Input => {
                    idleness.input(now_ms);
                    prop_assert_eq!(idleness.quiet_since(), None);
                }
                Event::Hint(turn) => {
                    idleness.hint(now_ms, turn);
                    active_until = (turn == Turn::Active).then_some(now_ms + TURN_MS_MAX);
                }
                Event::Woke => {
                    idleness.woke(now_ms);
                    ((ran_ms, ran), sockets) = ((now_ms, Vec::new()), Vec::new());
                }
            }
            prop_assert!(active_until.is_none_or(|until| now_ms >= until) || idleness.quiet_since().is_none());
            prop_assert!(idleness.quiet_since().is_none_or(|since| since <= now_ms));
            prop_assert_eq!(idleness.quiet_since().is_some(), idleness.busy_with().is_none());
        }
    }

    #[test]
    fn rest_is_found_after_anything(events in proptest::collection::vec(any_event(), 0..20)) {
        let mut idleness = Idleness::new(0);
        for event in events {
            match event {
                Event::Observe(sample) => idleness.observe(0, &sample),
                Event::Input => idleness.input(0),
                Event::Hint(turn) => idleness.hint(0, turn),
                Event::Woke => idleness.woke(0),
            }
        }
        idleness.hint(1, Turn::Idle);
        for window in 1..4 {
            idleness.observe(window * CPU_WINDOW_MS, &at_rest(1));
        }
        prop_assert!(idleness.quiet_since().is_some(), "{:?}", idleness.busy_with());
    }
}
