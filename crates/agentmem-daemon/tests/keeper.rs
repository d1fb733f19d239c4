//! What the keeper promises: descriptors outlive the engine, and nobody else is believed.

mod common;

use common::{Site, lives, signal, wait_until};
use rustix::net::{AddressFamily, SendAncillaryBuffer, SendFlags, SocketAddrUnix, SocketType, sendmsg_addr, socket};
use rustix::process::Signal;
use std::collections::BTreeMap;
use std::io::IoSlice;
use std::time::{Duration, Instant};

fn list(site: &Site) -> BTreeMap<String, String> {
    let listed = site.ask("list");
    listed.lines().map(|line| line.split_once('=').expect("NAME=CONTENT")).map(|(n, c)| (n.into(), c.into())).collect()
}

#[test]
fn what_is_kept_outlives_fifty_kills() {
    let site = Site::new();
    let _keeper = site.keeper(&[]);
    let mut expected = BTreeMap::new();
    for round in 0..50 {
        let (name, content) = (format!("smu.{round}"), format!("content-{round}"));
        assert_eq!(site.ask(&format!("put {name} {content}")), "kept true");
        expected.insert(name, content);
        if round % 7 == 3 {
            let gone = format!("smu.{}", round - 1);
            site.ask(&format!("remove {gone}"));
            expected.remove(&gone);
        }
        let engine = site.engine();
        // Right behind the last message: what was said is done, whether it was read before the death or not.
        signal(engine, Signal::KILL);
        assert_eq!(list(&site), expected, "after {} kills", round + 1);
        assert_ne!(site.engine(), engine);
    }
}

#[test]
fn the_second_of_a_name_replaces_the_first() {
    let site = Site::new();
    let _keeper = site.keeper(&[]);
    for content in ["one", "two"] {
        site.ask(&format!("put a {content}"));
    }
    site.try_ask("die");
    assert_eq!(site.ask("list"), "a=two");
    site.ask("put a three");
    site.try_ask("die");
    assert_eq!(site.ask("list"), "a=three");
}

#[test]
fn the_keepers_own_descriptors_are_not_the_engines_to_change() {
    let site = Site::new();
    let _keeper = site.keeper(&[]);
    site.ask("put agentmem.sock nonsense");
    site.ask("remove agentmem.lock");
    site.try_ask("die");
    assert_eq!(site.ask("list"), "");
}

#[test]
fn thousands_are_kept_and_names_have_a_limit_together() {
    let site = Site::new();
    let keeper = site.keeper(&[]);
    let room = (rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum.unwrap_or(1 << 20) - 64) / 2;
    // Two are the keeper's own.
    let count = (room - 2).min(4_000);
    assert_eq!(site.ask(&format!("fill {count}")), "filled");
    println!("{} KiB of the keeper's own with {count} descriptors", private_kib(keeper.pid()));
    signal(site.engine(), Signal::KILL);
    assert_eq!(list(&site).len() as u64, count);
    // 16,384 of seven bytes each (and a colon) are all that one variable holds.
    let refused = site.ask("put this:is:no:name x");
    assert!(refused.contains("no colon"), "{refused}");
    if room > 16_384 {
        // The engine refuses, and goes on; nothing that the keeper was told before is lost.
        site.try_ask("fill 20000");
        signal(site.engine(), Signal::KILL);
        let kept = list(&site).len();
        assert!((16_000..=16_384).contains(&kept), "{kept}");
    }
}

#[test]
fn a_stranger_is_not_believed() {
    let site = Site::new();
    let mut keeper = site.keeper(&[]);
    site.ask("put a mine");
    // Of the same user, with the right address, and it makes no difference.
    let stranger = socket(AddressFamily::UNIX, SocketType::DGRAM, None).unwrap();
    let address = SocketAddrUnix::new(site.folder.path().join("a.sock.notify")).unwrap();
    let long = "X".repeat(5000);
    for text in ["FDSTOREREMOVE=1\nFDNAME=a", "STOPPING=1", "READY=1", "\u{0}", &long] {
        let parts = [IoSlice::new(text.as_bytes())];
        sendmsg_addr(&stranger, &address, &parts, &mut SendAncillaryBuffer::default(), SendFlags::empty()).unwrap();
    }
    signal(site.engine(), Signal::KILL);
    assert_eq!(site.ask("list"), "a=mine");
    signal(keeper.pid(), Signal::TERM);
    assert_eq!(keeper.end(), Some(0));
}

#[test]
fn a_signal_to_the_keeper_stops_both() {
    for how in [Signal::TERM, Signal::INT] {
        let site = Site::new();
        let mut keeper = site.keeper(&[]);
        let engine = site.engine();
        signal(keeper.pid(), how);
        assert_eq!(keeper.end(), Some(0));
        assert!(!lives(engine));
        assert!(!site.folder.path().join("a.sock.notify").exists());
    }
}

#[test]
fn an_engine_that_stops_by_itself_is_not_started_again() {
    let site = Site::new();
    let mut keeper = site.keeper(&[]);
    signal(site.engine(), Signal::TERM);
    assert_eq!(keeper.end(), Some(0));
}

#[test]
fn an_engine_does_not_outlive_its_keeper() {
    let site = Site::new();
    let keeper = site.keeper(&[]);
    let engine = site.engine();
    signal(keeper.pid(), Signal::KILL);
    wait_until("the engine ends too", || !lives(engine));
}

#[test]
fn who_dies_too_often_is_started_slowly_and_nothing_is_let_go() {
    let site = Site::new();
    let mut keeper = site.keeper(&["4", "700"]);
    site.ask("put a 1");
    // From now on it dies as soon as it sees what is kept.
    site.ask("put poison 1");
    site.try_ask("die");
    wait_until("it is given up for a while", || site.said().contains("dies too often"));
    let begin = Instant::now();
    let deaths = |text: &str| text.matches("2 descriptors are kept").count();
    let before = deaths(&site.said());
    wait_until("it is tried again", || deaths(&site.said()) > before);
    assert!(begin.elapsed() > Duration::from_millis(400), "slowly");
    assert!(lives(keeper.pid()));
    // Asked to stop, it tries once more to have it saved, and says what is lost.
    signal(keeper.pid(), Signal::TERM);
    assert_eq!(keeper.end(), Some(1));
    assert!(site.said().contains("2 kept descriptors are let go"), "{}", site.said());
}

#[test]
fn the_keeper_is_tiny() {
    let site = Site::new();
    let keeper = site.keeper(&[]);
    site.engine();
    let kib = private_kib(keeper.pid());
    println!("{kib} KiB of the keeper's own");
    assert!(kib < 1536, "{kib} KiB");
}

/// Memory that the process shares with nobody.
fn private_kib(pid: i32) -> u64 {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let of = |line: &str| line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok());
    rollup.lines().filter(|line| line.starts_with("Private_")).filter_map(of).sum()
}
