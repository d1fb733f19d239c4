//! What all agents of a domain may hold together, and how many of everything it may have.

mod common;

use agentmem_core::frame::Meta;
use agentmem_core::{Error, ErrorKind, Kind};
use agentmem_store::{Agent, DomainQuota, Domains, Limits, OnFull, Smu, Store, Terms};
use common::daemon::Daemon;

const TOKEN: &str = "a token of the tenant";

/// A daemon whose domains get that.
fn daemon(made: Terms) -> Daemon {
    let limits = Limits { made, ..Limits::default() };
    Daemon::serve(Domains::new(256 << 20, limits, Box::new(|_| Ok(common::options(256 << 20)))).unwrap())
}

fn with_quota(logical_bytes: u64) -> Daemon {
    daemon(Terms { quota: bytes(logical_bytes), ..Terms::default() })
}

fn bytes(logical_bytes: u64) -> DomainQuota {
    DomainQuota { logical_bytes: Some(logical_bytes), agents: None }
}

fn tenant(daemon: &Daemon) -> Store {
    daemon.enter("tenant", TOKEN).unwrap()
}

fn put(agent: &Agent, seed: u64, len: usize) -> Result<Smu, Error> {
    agent.put(&common::noise(seed, len), Kind::ToolResult, None, 50, OnFull::Wait)
}

fn exceeded(outcome: Result<impl Sized, Error>) -> Error {
    let error = outcome.err().expect("it is beyond the quota");
    assert_eq!(error.kind(), ErrorKind::DomainQuotaExceeded, "{error}");
    error
}

#[test]
fn agents_of_all_sessions_share_the_quota_to_the_byte() {
    let daemon = with_quota(1_000_000);
    let (one, two) = (tenant(&daemon), tenant(&daemon));
    let (a, b) = (common::agent(&one, "a"), common::agent(&two, "b"));
    // One session has more set aside than it uses: another that needs it gets it.
    put(&a, 1, 1000).unwrap();
    let held: Vec<Smu> = (0..998).map(|seed| put(&b, seed, 1000).unwrap()).collect();
    put(&a, 2, 1000).unwrap();
    let error = exceeded(put(&a, 3, 1));
    for part in ["\"tenant\"", "1000000 of 1000000", "1 more", "agentmem limit --domain"] {
        assert!(error.to_string().contains(part), "{part}: {error}");
    }
    exceeded(put(&b, 4, 1));
    put(&b, 5, 0).unwrap();
    // What is given back anyone may use, and a lease costs what a put does.
    b.release(&held[0], OnFull::Wait).unwrap();
    put(&a, 6, 600).unwrap();
    exceeded(put(&b, 7, 401));
    exceeded(a.attach_id(&held[1].id().unwrap()));
    put(&b, 8, 400).unwrap();
    assert_eq!(one.domain().unwrap().used_bytes, 1_000_000);
    // The user's own domain has none.
    put(&common::agent(&daemon.connect(), "own"), 1, 2_000_000).unwrap();
    // Whoever is gone holds nothing.
    b.close().unwrap();
    put(&a, 9, 900_000).unwrap();
}

#[test]
fn conversations_forks_and_large_contents_count() {
    let daemon = with_quota(20 << 20);
    let store = tenant(&daemon);
    let agent = common::agent(&store, "agent");
    let large = put(&agent, 1, 12 << 20).unwrap();
    exceeded(put(&agent, 2, 9 << 20));
    let talk = agent.conversation(None).unwrap();
    for seed in 0..7 {
        talk.append(&common::noise(seed, 1_000_000), Meta::default(), OnFull::Wait).unwrap();
    }
    exceeded(talk.fork(&agent, None, None).map(drop));
    exceeded(talk.append(&common::noise(8, 2_000_000), Meta::default(), OnFull::Wait));
    assert_eq!(talk.len().unwrap(), 7);
    agent.release(&large, OnFull::Wait).unwrap();
    talk.fork(&agent, None, None).unwrap();
    assert_eq!(store.domain().unwrap().used_bytes, 14_000_000);
    agent.release_conversation(&talk).unwrap();
    put(&agent, 9, 12 << 20).unwrap();
}

#[test]
fn a_quota_that_is_changed_counts_for_sessions_that_are_there() {
    let daemon = daemon(Terms::default());
    let (store, other) = (tenant(&daemon), tenant(&daemon));
    let agent = common::agent(&store, "agent");
    let held: Vec<Smu> = (0..100).map(|seed| put(&agent, seed, 1000).unwrap()).collect();
    other.limit_domain(bytes(50_000)).unwrap();
    // What is held stays.
    for (seed, smu) in held.iter().enumerate() {
        assert_eq!(smu.view().unwrap().bytes(), common::noise(seed as u64, 1000));
    }
    exceeded(put(&agent, 100, 1));
    other.limit_domain(bytes(101_000)).unwrap();
    put(&agent, 101, 1000).unwrap();
    exceeded(put(&agent, 102, 1));
    other.limit_domain(DomainQuota::default()).unwrap();
    put(&agent, 103, 1_000_000).unwrap();
    assert_eq!(rejected(&daemon), 0);
}

#[test]
fn nobody_gives_itself_more_than_the_configuration_does() {
    let daemon =
        daemon(Terms { quota: DomainQuota { logical_bytes: Some(1000), agents: Some(2) }, ..Terms::default() });
    let store = tenant(&daemon);
    for quota in [bytes(1001), DomainQuota { logical_bytes: Some(1), agents: Some(3) }] {
        assert_eq!(store.limit_domain(quota).unwrap_err().kind(), ErrorKind::PermissionDenied, "{quota:?}");
    }
    store.limit_domain(DomainQuota::default()).unwrap();
    assert_eq!(store.domain().unwrap().quota, DomainQuota { logical_bytes: Some(1000), agents: Some(2) });
    let less = DomainQuota { logical_bytes: Some(500), agents: Some(1) };
    store.limit_domain(less).unwrap();
    assert_eq!(store.domain().unwrap().quota, less);
    let agent = common::agent(&store, "one");
    let error = store.agent("two", None, None, None).err().unwrap();
    assert!(error.kind() == ErrorKind::LimitReached && error.subject().contains("1 agents"), "{error}");
    exceeded(put(&agent, 1, 501));
    let embedded = Store::open(common::options(64 << 20)).unwrap();
    assert_eq!(embedded.limit_domain(less).unwrap_err().kind(), ErrorKind::Unsupported);
}

#[test]
fn one_that_never_waits_gets_what_there_is_and_no_more() {
    let daemon = with_quota(3_000_000);
    let store = tenant(&daemon);
    let agent = common::agent(&store, "agent");
    let mut held_bytes = 0;
    let begun = std::time::Instant::now();
    while held_bytes < 3_000_000 {
        match agent.put(&common::noise(held_bytes, 1000), Kind::ToolResult, None, 50, OnFull::Fail) {
            Ok(_) => held_bytes += 1000,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::ArenaFull);
                // Of the rest it is given a part at each tick, so the last bytes come slowly.
                if held_bytes > 2_500_000 {
                    break;
                }
                assert!(begun.elapsed().as_secs() < 60, "{held_bytes} bytes");
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
        }
    }
    let used_bytes = store.domain().unwrap().used_bytes;
    assert!(used_bytes == held_bytes && used_bytes <= 3_000_000, "{used_bytes}");
}

#[test]
fn one_that_never_waits_is_told_that_the_quota_is_used_up() {
    let daemon = with_quota(1_000_000);
    let store = tenant(&daemon);
    let agent = common::agent(&store, "agent");
    let held = put(&agent, 1, 999_000).unwrap();
    held.id().unwrap();
    let fail = |len| agent.put(&common::noise(2, len), Kind::ToolResult, None, 50, OnFull::Fail);
    let error = exceeded(fail(1001));
    for part in ["1000 bytes left", "1001 more", "agentmem limit --domain"] {
        assert!(error.to_string().contains(part), "{part}: {error}");
    }
    agent.release(&held, OnFull::Wait).unwrap();
    store.stats().unwrap();
    // There is room, so whoever does not wait gets it, or is told to try again.
    for _ in 0..1000 {
        match fail(1001) {
            Ok(_) => return,
            Err(error) if error.kind() == ErrorKind::ArenaFull => {}
            // As of the engine's last look.
            Err(error) => assert_eq!(error.kind(), ErrorKind::DomainQuotaExceeded),
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("it is never given any");
}

/// Puts of other processes that the engine did not take in.
fn rejected(daemon: &Daemon) -> u64 {
    let domains = daemon.server.domains().all();
    let counters = domains.iter().flat_map(|(_, domain)| domain.store.stats().unwrap().counters);
    counters.filter(|(name, _)| name == "reject_quota").map(|(_, count)| count).sum()
}

#[test]
fn many_sessions_at_once_lose_nothing_and_exceed_nothing() {
    let quota_bytes = 2_000_000;
    let daemon = with_quota(quota_bytes);
    std::thread::scope(|scope| {
        for session in 0..6u64 {
            let store = tenant(&daemon);
            scope.spawn(move || {
                let agent = common::agent(&store, &format!("agent-{session}"));
                let mut held: Vec<(Smu, u64)> = Vec::new();
                for turn in 0..400 {
                    let seed = session * 1000 + turn;
                    match put(&agent, seed, 20_000) {
                        Ok(smu) => held.push((smu, seed)),
                        Err(error) => assert_eq!(error.kind(), ErrorKind::DomainQuotaExceeded),
                    }
                    assert!(store.domain().unwrap().used_bytes <= quota_bytes);
                    if turn % 3 == 0 && !held.is_empty() {
                        let (smu, _) = held.swap_remove(turn as usize % held.len());
                        agent.release(&smu, OnFull::Wait).unwrap();
                    }
                }
                for (smu, seed) in &held {
                    assert_eq!(smu.view().unwrap().bytes(), common::noise(*seed, 20_000));
                }
            });
        }
    });
    assert_eq!(rejected(&daemon), 0);
}

#[test]
fn a_domain_has_no_more_connections_than_it_may_have() {
    let daemon = daemon(Terms { connections: 3, ..Terms::default() });
    let mut held: Vec<Store> = (0..3).map(|_| tenant(&daemon)).collect();
    let error = daemon.enter("tenant", TOKEN).err().unwrap();
    assert!(error.kind() == ErrorKind::LimitReached && error.subject().contains("3 connections"), "{error}");
    // Others do not feel it, and one that goes makes room for the next.
    daemon.connect();
    daemon.enter("neighbour", TOKEN).unwrap();
    held.pop();
    for _ in 0..1000 {
        if daemon.enter("tenant", TOKEN).is_ok() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    panic!("nobody can enter");
}

#[test]
fn a_domain_has_no_more_large_contents_in_ram_than_it_may_have() {
    let daemon = daemon(Terms { large: 2, ..Terms::default() });
    let store = tenant(&daemon);
    let agent = common::agent(&store, "agent");
    let held: Vec<Smu> = (0..2).map(|seed| put(&agent, seed, 1 << 20).unwrap()).collect();
    let error = put(&agent, 3, 1 << 20).err().unwrap();
    assert!(error.kind() == ErrorKind::LimitReached && error.subject().contains("2 contents"), "{error}");
    put(&agent, 4, 1000).unwrap();
    agent.release(&held[0], OnFull::Wait).unwrap();
    put(&agent, 5, 1 << 20).unwrap();
}

#[test]
fn what_a_domain_has_is_shown_however_many_large_contents_are_in_ram() {
    let daemon = daemon(Terms { large: 2, ..Terms::default() });
    let store = tenant(&daemon);
    let agent = common::agent(&store, "agent");
    let held: Vec<Smu> = (0..4)
        .map(|seed| {
            let smu = put(&agent, seed, (1 << 20) + 7).unwrap();
            smu.id().unwrap();
            store.reclaim(None).unwrap();
            smu
        })
        .collect();
    let views: Vec<_> = held.iter().map(|smu| smu.view().unwrap()).collect();
    for (seed, view) in views.iter().enumerate() {
        assert_eq!(view.bytes(), common::noise(seed as u64, (1 << 20) + 7));
    }
    drop(views);
    store.reclaim(None).unwrap();
    put(&agent, 9, 1 << 20).unwrap();
}
