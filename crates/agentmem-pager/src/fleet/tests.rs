use super::*;
use proptest::prelude::*;

const MIB: u64 = 1 << 20;
const MINUTE: u64 = 60_000;

fn peer(name: &str, idle_ms: u64, importance: u8) -> Peer {
    let state = if idle_ms == 0 { State::Running } else { State::Idle };
    let private_bytes = 150 * MIB;
    Peer {
        name: name.into(),
        state,
        idle_ms,
        idle_after_ms: 5 * MINUTE,
        importance,
        private_bytes,
        compressed_bytes: 0,
        supervisor_bytes: 0,
    }
}

fn available(percent: u64) -> Memory {
    Memory {
        total_bytes: 10_000 * MIB,
        available_bytes: 100 * MIB * percent,
        stalled_percent: None,
        beyond_budget: 0.0,
    }
}

fn who_may(peers: &[Peer], memory: &Memory) -> Vec<String> {
    peers.iter().filter(|me| may_page_out(me, peers, memory)).map(|me| me.name.clone()).collect()
}

#[test]
fn pressure_comes_from_scarcity_or_stalls() {
    assert_eq!([50, 20, 5, 0].map(|percent| available(percent).squeeze()), [0.0, 0.0, 1.0, 1.0]);
    assert!((available(12).squeeze() - 0.533).abs() < 0.01);
    let stalled = |percent| Memory { stalled_percent: Some(percent), ..available(50) }.squeeze();
    assert_eq!([0.0, 5.0, 40.0, 100.0, f64::NAN].map(stalled), [0.0, 0.0, 1.0, 1.0, 0.0]);
    let told = |beyond_budget| Memory { beyond_budget, ..available(50) }.squeeze();
    assert_eq!([-1.0, 0.0, 0.25, 7.0, f64::NAN].map(told), [0.0, 0.0, 0.25, 1.0, 0.0]);
}

#[test]
fn reads_this_machine() {
    let memory = Memory::read().unwrap();
    assert!(memory.available_bytes > 0 && memory.available_bytes <= memory.total_bytes);
    assert_eq!(parse_pressure("some avg10=1.50 avg60=0.00 total=7\nfull avg10=9.00\n"), Some(1.5));
    assert_eq!(parse_pressure("full avg10=9.00\n"), None);
    assert_eq!(parse_meminfo("MemTotal:  2 kB\nMemAvailable: 1 kB\n"), Some((2048, 1024)));
    assert_eq!(parse_meminfo("MemTotal:  2 kB\n"), None);
}

#[test]
fn without_pressure_time_decides() {
    let peers = [peer("a", 5 * MINUTE, 100), peer("b", 5 * MINUTE - 1, 0), peer("c", 0, 0)];
    assert_eq!(who_may(&peers, &available(50)), ["a"]);
}

#[test]
fn under_pressure_a_few_go_by_idleness_and_importance() {
    let peers = [
        peer("working", 0, 0),
        peer("just quiet", QUIET_MS_MIN - 1, 0),
        peer("important", 2 * MINUTE, 100),
        peer("longest", 2 * MINUTE, 50),
        peer("less", MINUTE, 50),
        peer("least", MINUTE / 2, 50),
        Peer { private_bytes: MIB, ..peer("small", 2 * MINUTE, 0) },
        Peer { state: State::PagedOut, ..peer("gone", 60 * MINUTE, 0) },
    ];
    assert_eq!(who_may(&peers, &available(19)), ["longest"]);
    assert_eq!(who_may(&peers, &available(12)), ["longest", "less"]);
    assert_eq!(who_may(&peers, &available(1)), ["important", "longest", "less", "least"]);
}

#[test]
fn of_equals_the_bigger_goes_first() {
    let big = Peer { private_bytes: 300 * MIB, ..peer("z", MINUTE, 50) };
    assert_eq!(who_may(&[peer("a", MINUTE, 50), big, peer("b", MINUTE, 50)], &available(19)), ["z"]);
    assert_eq!(who_may(&[peer("b", MINUTE, 50), peer("a", MINUTE, 50)], &available(19)), ["a"]);
}

fn paged_out(name: &str, idle_ms: u64, importance: u8) -> Peer {
    Peer { state: State::PagedOut, compressed_bytes: 25 * MIB, ..peer(name, idle_ms, importance) }
}

#[test]
fn frames_move_by_age_importance_and_pressure() {
    let hour = 60 * MINUTE;
    let may = |me: &Peer, peers: &[Peer], memory: &Memory| may_move_to_ssd(me, peers, memory, hour);
    let calm = available(50);
    assert!(!may(&paged_out("a", hour - 1, 50), &[], &calm));
    assert!(may(&paged_out("a", hour, 50), &[], &calm));
    assert!(may(&paged_out("a", hour / 2, 0), &[], &calm));
    assert!(!may(&paged_out("a", hour, 100), &[], &calm));
    assert!(!may(&peer("a", 9 * hour, 0), &[], &available(1)), "has no frames");

    let peers = [paged_out("a", MINUTE, 50), paged_out("b", 2 * MINUTE, 50), paged_out("c", 3 * MINUTE, 50)];
    let who = |memory: &Memory| {
        peers.iter().filter(|me| may(me, &peers, memory)).map(|me| me.name.as_str()).collect::<Vec<_>>()
    };
    assert_eq!(who(&available(19)), [""; 0]);
    assert_eq!(who(&available(12)), ["b", "c"]);
    let full = Peer { compressed_bytes: 9000 * MIB, ..paged_out("d", 4 * MINUTE, 50) };
    assert!(may(&full, &peers, &calm), "frames fill the RAM");
}

#[test]
fn names_of_states() {
    for (state, name) in State::NAMES {
        assert_eq!(state.name(), name);
        assert_eq!(serde_json::from_value::<State>(name.into()).unwrap(), state);
    }
    assert!(serde_json::from_value::<State>("asleep".into()).is_err());
}

fn any_peer() -> impl Strategy<Value = Peer> {
    let state = prop_oneof![3 => Just(State::Idle), 1 => Just(State::Running), 1 => Just(State::PagedOut)];
    (state, 0..9u64, 1..4u64, any::<u8>(), 0..4u64, 0..4u64).prop_map(
        |(state, idle, after, importance, private, compressed)| Peer {
            name: String::new(),
            state,
            idle_ms: if state == State::Running { 0 } else { idle * 1500 },
            idle_after_ms: after * 4000,
            importance,
            private_bytes: private * 3 * MIB,
            compressed_bytes: compressed * 1000 * MIB,
            supervisor_bytes: 0,
        },
    )
}

fn any_fleet() -> impl Strategy<Value = Vec<Peer>> {
    proptest::collection::vec(any_peer(), 1..12).prop_map(|mut peers| {
        for (nth, peer) in peers.iter_mut().enumerate() {
            peer.name = format!("agent-{nth}");
        }
        peers
    })
}

fn any_memory() -> impl Strategy<Value = Memory> {
    (0..100u64, proptest::option::of(0.0..100.0f64))
        .prop_map(|(percent, stalled_percent)| Memory { stalled_percent, ..available(percent) })
}

proptest! {
    #[test]
    fn nobody_goes_too_early(peers in any_fleet(), memory in any_memory()) {
        let going = peers.iter().filter(|me| may_page_out(me, &peers, &memory)).collect::<Vec<_>>();
        for me in &going {
            prop_assert!(me.state == State::Idle && me.idle_ms > 0);
            prop_assert!(memory.squeeze() > 0.0 || me.idle_ms >= me.idle_after_ms);
        }
        let early = going.iter().filter(|me| me.idle_ms < me.idle_after_ms).count();
        prop_assert!(early <= at_once(memory.squeeze()), "only a few");
    }

    #[test]
    fn more_idle_less_important_or_tighter_is_never_later(
        peers in any_fleet(),
        memory in any_memory(),
        more_ms in 0..20_000u64,
        importance in any::<u8>(),
        available_bytes in 0..10_000 * MIB,
    ) {
        let me = &peers[0];
        let mut readier = Peer { importance: me.importance.min(importance), ..me.clone() };
        if me.idle_ms > 0 {
            readier.idle_ms += more_ms;
        }
        let tighter = Memory { available_bytes: memory.available_bytes.min(available_bytes), ..memory };
        let page_out = |me: &Peer, memory: &Memory| may_page_out(me, &peers, memory);
        let to_ssd = |me: &Peer, memory: &Memory| may_move_to_ssd(me, &peers, memory, 6000);
        for may in [&page_out as &dyn Fn(&Peer, &Memory) -> bool, &to_ssd] {
            prop_assert!(!may(me, &memory) || (may(&readier, &memory) && may(me, &tighter)));
        }
    }

    #[test]
    fn someone_always_goes_under_pressure(peers in any_fleet(), memory in any_memory()) {
        let needed = memory.squeeze() > 0.0 && peers.iter().any(Peer::can_give_memory);
        prop_assert!(!needed || peers.iter().any(|me| may_page_out(me, &peers, &memory)));
    }
}
