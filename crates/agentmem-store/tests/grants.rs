//! What crosses trust domains: what was granted, as often and as long as it was granted, and nothing else.

mod common;

use agentmem_core::{Error, ErrorKind, Kind};
use agentmem_store::{Agent, DomainQuota, Domains, GrantEvent, Limits, OnFull, Smu, Store};
use common::daemon::Daemon;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

const HOUR_MS: u64 = 3_600_000;

/// A daemon, what it logged, and whether the log can be written.
struct Logged {
    daemon: Daemon,
    events: Arc<Mutex<Vec<GrantEvent>>>,
    is_broken: Arc<AtomicBool>,
}

fn logged() -> Logged {
    let (events, is_broken) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
    let log = {
        let (events, is_broken) = (events.clone(), is_broken.clone());
        move |event: &GrantEvent| {
            if is_broken.load(Ordering::Relaxed) {
                return Err(Error::new(ErrorKind::Io, "the log"));
            }
            events.lock().unwrap().push(event.clone());
            Ok(())
        }
    };
    let options = Box::new(|_: &str| Ok(common::options(256 << 20)));
    let domains = Domains::new(256 << 20, Limits::default(), options).unwrap();
    Logged { daemon: Daemon::serve(domains.logging(Box::new(log))), events, is_broken }
}

impl Logged {
    fn enter(&self, name: &str) -> Store {
        self.daemon.enter(name, &format!("the token of {name}")).unwrap()
    }
}

fn put(agent: &Agent, content: &[u8]) -> Smu {
    agent.put(content, Kind::SystemPrompt, None, 70, OnFull::Wait).unwrap()
}

fn not_found(outcome: Result<Smu, Error>) -> String {
    let error = outcome.err().expect("it cannot be redeemed");
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    error.subject().to_owned()
}

#[test]
fn what_is_granted_is_copied_and_has_an_id_of_its_own() {
    let logged = logged();
    let (one, two) = (logged.enter("one"), logged.enter("two"));
    let (giver, taker) = (common::agent(&one, "giver"), common::agent(&two, "taker"));
    let mut taken = Vec::new();
    for (number, len) in [0, 1, 5000, 200_000, 3 << 20].into_iter().enumerate() {
        let content = common::text(number as u64, len);
        let smu = put(&giver, &content);
        // From whichever tier.
        if number % 2 == 1 {
            smu.id().unwrap();
            one.reclaim(None).unwrap();
        }
        let grant = giver.grant(&smu, "two", HOUR_MS, 1).unwrap();
        let copy = taker.redeem(&grant).unwrap();
        assert_eq!(copy.view().unwrap().bytes(), content);
        assert_eq!((copy.kind(), copy.importance(), copy.logical_bytes()), (Kind::SystemPrompt, 70, len as u64));
        assert_ne!(copy.id().unwrap(), smu.id().unwrap());
        assert_eq!((copy.shared_by().unwrap(), smu.shared_by().unwrap()), (1, 1));
        taken.push((copy, content));
    }
    // What was copied needs nobody.
    giver.close().unwrap();
    for (copy, content) in &taken {
        assert_eq!(copy.view().unwrap().bytes(), content);
        taker.release(copy, OnFull::Wait).unwrap();
    }
    assert_eq!(two.domain().unwrap().used_bytes, 0);
    let events = logged.events.lock().unwrap();
    let redeemed = events.iter().filter(|event| event.event == "redeemed").collect::<Vec<_>>();
    assert_eq!((events.len(), redeemed.len()), (10, 5));
    let last = redeemed.last().unwrap();
    assert_eq!((last.from_domain.as_str(), last.from_agent.as_str()), ("one", "giver"));
    assert_eq!((last.to_domain.as_str(), last.to_agent.as_deref()), ("two", Some("taker")));
    assert_eq!((last.logical_bytes, last.uses), (3 << 20, 1));
}

#[test]
fn a_grant_is_for_one_domain_so_often_and_so_long() {
    let logged = logged();
    let (one, two, three) = (logged.enter("one"), logged.enter("two"), logged.enter("three"));
    let (giver, taker, other) =
        (common::agent(&one, "giver"), common::agent(&two, "taker"), common::agent(&three, "other"));
    let smu = put(&giver, b"granted");
    let twice = giver.grant(&smu, "two", HOUR_MS, 2).unwrap();
    // One answer, whatever the reason.
    let mut said = vec![not_found(other.redeem(&twice)), not_found(giver.redeem(&twice))];
    said.push(not_found(common::agent(&logged.daemon.connect(), "own").redeem(&twice)));
    let unknown = format!("grant-{}", "0".repeat(64));
    said.push(not_found(taker.redeem(&unknown)));
    for _ in 0..2 {
        assert_eq!(taker.redeem(&twice).unwrap().view().unwrap().bytes(), b"granted");
    }
    said.push(not_found(taker.redeem(&twice)));
    let short = giver.grant(&smu, "two", 1, 1).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(20));
    said.push(not_found(taker.redeem(&short)));
    let revoked = giver.grant(&smu, "two", HOUR_MS, 1).unwrap();
    // Whoever may redeem it can not revoke it.
    assert_eq!(two.revoke(&revoked).unwrap_err().kind(), ErrorKind::NotFound);
    one.revoke(&revoked).unwrap();
    assert_eq!(one.revoke(&revoked).unwrap_err().kind(), ErrorKind::NotFound);
    said.push(not_found(taker.redeem(&revoked)));
    let released = giver.grant(&smu, "two", HOUR_MS, 1).unwrap();
    giver.release(&smu, OnFull::Wait).unwrap();
    said.push(not_found(taker.redeem(&released)));
    assert_eq!(giver.grant(&smu, "two", HOUR_MS, 1).unwrap_err().kind(), ErrorKind::Released);
    let gone = giver.grant(&put(&giver, b"gone"), "two", HOUR_MS, 1).unwrap();
    giver.close().unwrap();
    said.push(not_found(taker.redeem(&gone)));
    assert!(said.iter().all(|text| *text == said[0]), "{said:?}");
    assert!(one.grants().unwrap().is_empty());
}

#[test]
fn grants_are_listed_without_what_redeems_them() {
    let logged = logged();
    let own = logged.daemon.connect();
    let tenant = logged.enter("tenant");
    let (giver, taker) = (common::agent(&own, "giver"), common::agent(&tenant, "taker"));
    let smu = put(&giver, b"granted");
    let grant = giver.grant(&smu, "tenant", HOUR_MS, 3).unwrap();
    taker.redeem(&grant).unwrap();
    let listed = own.grants().unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!((listed[0].agent.as_str(), listed[0].to.as_str(), listed[0].uses), ("giver", "tenant", 2));
    assert_eq!((listed[0].content, listed[0].logical_bytes), (smu.id().unwrap().0, 7));
    assert!(!grant.contains(&listed[0].id));
    assert_eq!(taker.redeem(&listed[0].id).err().unwrap().kind(), ErrorKind::InvalidArgument);
    // Nobody else sees or ends it.
    assert!(tenant.grants().unwrap().is_empty());
    assert_eq!(tenant.revoke(&listed[0].id).unwrap_err().kind(), ErrorKind::NotFound);
    own.revoke(&listed[0].id).unwrap();
    not_found(taker.redeem(&grant));
    let back = taker.grant(&put(&taker, b"back"), "", HOUR_MS, 1).unwrap();
    assert_eq!(giver.redeem(&back).unwrap().view().unwrap().bytes(), b"back");
    let counters = own.stats().unwrap().counters;
    let count = |name: &str| counters.iter().find(|(known, _)| known == name).unwrap().1;
    assert_eq!((count("grant"), count("redeem"), count("revoke")), (1, 1, 1));
}

#[test]
fn what_makes_no_sense_is_refused() {
    let logged = logged();
    let store = logged.enter("one");
    let agent = common::agent(&store, "agent");
    let smu = put(&agent, b"granted");
    for (to, lasts_ms, uses) in [("one", 1, 1), ("a b", 1, 1), ("two", 0, 1), ("two", 1, 0), ("two", u64::MAX, 1)] {
        assert_eq!(agent.grant(&smu, to, lasts_ms, uses).unwrap_err().kind(), ErrorKind::InvalidArgument, "{to}");
    }
    let other = common::agent(&store, "other");
    assert_eq!(other.grant(&smu, "two", 1, 1).unwrap_err().kind(), ErrorKind::InvalidArgument);
    for text in ["", "grant-", "nonsense"] {
        assert_eq!(agent.redeem(text).err().unwrap().kind(), ErrorKind::InvalidArgument);
        assert_eq!(store.revoke(text).unwrap_err().kind(), ErrorKind::InvalidArgument);
    }
    let embedded = Store::open(common::options(64 << 20)).unwrap();
    let alone = common::agent(&embedded, "alone");
    let held = put(&alone, b"held");
    assert_eq!(alone.grant(&held, "two", 1, 1).unwrap_err().kind(), ErrorKind::Unsupported);
    assert_eq!(embedded.grants().unwrap_err().kind(), ErrorKind::Unsupported);
}

#[test]
fn there_are_no_more_grants_than_may_be() {
    let logged = logged();
    let store = logged.enter("one");
    let agent = common::agent(&store, "agent");
    let smu = put(&agent, b"granted");
    for _ in 0..1024 {
        agent.grant(&smu, "two", HOUR_MS, 1).unwrap();
    }
    let error = agent.grant(&smu, "two", HOUR_MS, 1).unwrap_err();
    assert!(error.kind() == ErrorKind::LimitReached && error.subject().contains("1024 grants"), "{error}");
    store.revoke(&store.grants().unwrap()[0].id).unwrap();
    agent.grant(&smu, "two", HOUR_MS, 1).unwrap();
}

#[test]
fn who_redeems_is_charged_and_a_use_that_fails_is_none() {
    let logged = logged();
    let (one, two) = (logged.enter("one"), logged.enter("two"));
    two.limit_domain(DomainQuota { logical_bytes: Some(100_000), agents: None }).unwrap();
    let giver = common::agent(&one, "giver");
    let taker = two.agent("taker", None, Some(80_000), None).unwrap();
    let large = giver.grant(&put(&giver, &common::noise(1, 90_000)), "two", HOUR_MS, 1).unwrap();
    assert_eq!(taker.redeem(&large).err().unwrap().kind(), ErrorKind::QuotaExceeded);
    taker.set_quota_bytes(None).unwrap();
    let held = put(&taker, &common::noise(2, 20_000));
    assert_eq!(taker.redeem(&large).err().unwrap().kind(), ErrorKind::DomainQuotaExceeded);
    taker.release(&held, OnFull::Wait).unwrap();
    logged.is_broken.store(true, Ordering::Relaxed);
    // What cannot be logged does not happen.
    assert_eq!(taker.redeem(&large).err().unwrap().kind(), ErrorKind::Io);
    let unlogged = put(&giver, b"unlogged");
    assert_eq!(giver.grant(&unlogged, "two", HOUR_MS, 1).unwrap_err().kind(), ErrorKind::Io);
    assert_eq!(one.revoke(&large).unwrap_err().kind(), ErrorKind::Io);
    logged.is_broken.store(false, Ordering::Relaxed);
    assert_eq!((one.grants().unwrap().len(), two.domain().unwrap().used_bytes), (1, 0));
    assert_eq!(taker.redeem(&large).unwrap().view().unwrap().bytes(), common::noise(1, 90_000));
    assert_eq!(two.domain().unwrap().used_bytes, 90_000);
    assert!(one.grants().unwrap().is_empty());
}

#[test]
fn many_that_redeem_at_once_get_no_more_than_was_granted() {
    let logged = logged();
    let one = logged.enter("one");
    let giver = common::agent(&one, "giver");
    let content = common::noise(7, 300_000);
    let grant = giver.grant(&put(&giver, &content), "two", HOUR_MS, 20).unwrap();
    let redeemed = std::thread::scope(|scope| {
        let takers: Vec<_> = (0..6)
            .map(|number| {
                let (logged, grant, content) = (&logged, &grant, &content);
                scope.spawn(move || {
                    let store = logged.enter("two");
                    let taker = common::agent(&store, &format!("taker-{number}"));
                    let mut count = 0;
                    for _ in 0..10 {
                        if let Ok(copy) = taker.redeem(grant) {
                            assert_eq!(copy.view().unwrap().bytes(), content);
                            count += 1;
                        }
                    }
                    count
                })
            })
            .collect();
        takers.into_iter().map(|taker| taker.join().unwrap()).sum::<u32>()
    });
    assert_eq!(redeemed, 20);
    assert!(one.grants().unwrap().is_empty());
}
