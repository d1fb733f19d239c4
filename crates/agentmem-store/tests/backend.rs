//! The kernel module as what holds content: which backend a store has, and what it makes of the module. What
//! needs the module itself is ignored here, and runs in a guest: python -m kernel.test.run

mod common;

use agentmem_core::frame::Meta;
use agentmem_core::{Advice, Backend, ErrorKind, Kind, Tier};
use agentmem_store::{Agent, OnFull, Options, Smu, Store};
use common::daemon::Daemon;
use common::{agent, assert_empty, content_bytes, module_figure, noise, options, settle, text};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

const DEVICE: &str = "/dev/agentmem";
const PAGE_BYTES: u64 = 4096;
/// Long enough for the engine to have looked around.
const TICKS: Duration = Duration::from_secs(1);

/// What behaves like the module.
fn fake() -> Options {
    Options { fakes_module: true, ..options(64 << 20) }
}

/// The module.
fn kernel() -> Options {
    Options { backend: Backend::Kernel, ..options(64 << 20) }
}

/// The same test for both.
macro_rules! for_both {
    ($($test:ident),+) => {
        mod with_a_fake {
            $(#[test]
            fn $test() {
                super::$test(super::fake);
            })+
        }

        mod with_the_module {
            $(#[test]
            #[ignore = "needs /dev/agentmem: python -m kernel.test.run"]
            fn $test() {
                super::$test(super::kernel);
            })+
        }
    };
}

for_both!(
    contents_of_a_page_or_more_are_held,
    what_the_module_compressed_is_warm_and_comes_back,
    what_does_not_shrink_goes_to_ssd_or_stays,
    a_reopened_store_has_what_the_module_held,
    what_is_looked_at_is_handed_over_later,
    sessions_map_what_the_module_holds,
    domains_of_a_token_hold_their_content_themselves
);

fn put(agent: &Agent, content: &[u8]) -> Smu {
    agent.put(content, Kind::ToolResult, None, 50, OnFull::Wait).unwrap()
}

/// The same, once the module has it.
fn put_held(store: &Store, content: &[u8]) -> Smu {
    let before = store.stats().unwrap().module_bytes;
    let smu = put(&agent(store, "a"), content);
    settle(store, |stats| stats.module_bytes > before);
    smu
}

fn contents_of_a_page_or_more_are_held(options: fn() -> Options) {
    let store = Store::open(options()).unwrap();
    let agent = agent(&store, "a");
    let empty_bytes = content_bytes(&store.stats().unwrap());
    assert_eq!(store.stats().unwrap().backend, "kernel");
    let talk = agent.conversation(Some("talk")).unwrap();
    talk.append(&text(1, 50_000), Meta::default(), OnFull::Wait).unwrap();
    let small = put(&agent, &text(2, PAGE_BYTES as usize - 1));
    assert_eq!(store.stats().unwrap().module_bytes, 0);
    let mut held = Vec::new();
    for (number, len) in [PAGE_BYTES, PAGE_BYTES + 1, 100_000, 3 << 20].into_iter().enumerate() {
        let content = text(number as u64 + 10, len as usize);
        held.push((put(&agent, &content), content));
    }
    // In whole pages.
    let pages_bytes = held.iter().map(|(_, content)| (content.len() as u64).next_multiple_of(PAGE_BYTES)).sum();
    let stats = settle(&store, |stats| stats.module_bytes == pages_bytes);
    assert_eq!(stats.module_bytes, pages_bytes);
    assert!(stats.resident_bytes >= pages_bytes);
    for (smu, content) in &held {
        assert!(smu.tier().unwrap() == Tier::Hot && *smu.view().unwrap() == content[..]);
    }
    // An equal put is one content, and its lease keeps that.
    let (first, content) = held.remove(2);
    let second = put(&agent, &content);
    assert_eq!(first.id().unwrap(), second.id().unwrap());
    assert_eq!(store.stats().unwrap().module_bytes, pages_bytes);
    agent.release(&first, OnFull::Wait).unwrap();
    let view = second.view().unwrap();
    agent.release(&second, OnFull::Wait).unwrap();
    assert!(*view == content[..], "wrong bytes under a pin");
    drop(view);
    for (smu, _) in &held {
        agent.release(smu, OnFull::Wait).unwrap();
    }
    agent.release(&small, OnFull::Wait).unwrap();
    agent.release_conversation(&talk).unwrap();
    assert_empty(&store, empty_bytes);
    assert_eq!(store.stats().unwrap().module_bytes, 0);
}

fn what_the_module_compressed_is_warm_and_comes_back(options: fn() -> Options) {
    let store = Store::open(options()).unwrap();
    let content = text(1, 700_000);
    let smu = put_held(&store, &content);
    let id = smu.id().unwrap();
    let raw_bytes = store.stats().unwrap().module_bytes;
    assert!(raw_bytes >= content.len() as u64);
    smu.advise(Advice::Cold).unwrap();
    let stats = settle(&store, |stats| stats.hot_bytes == 0);
    assert_eq!(smu.tier().unwrap(), Tier::Warm);
    assert!(stats.warm_bytes > 0 && stats.warm_bytes == stats.module_bytes && stats.module_bytes < raw_bytes / 2);
    assert_eq!((stats.frames, smu.stored_bytes().unwrap()), (0, stats.warm_bytes));
    // A look is no use of it.
    assert!(store.read_content(&id, 1000).unwrap() == content[1000..]);
    assert!(store.verify().unwrap().damaged.is_empty());
    assert_eq!(smu.tier().unwrap(), Tier::Warm);
    let stats = settle(&store, |stats| stats.module_bytes == stats.warm_bytes && stats.module_bytes < raw_bytes / 2);
    assert!(stats.module_bytes < raw_bytes / 2, "what was looked at is compressed again: {stats:#?}");
    assert!(*smu.view().unwrap() == content[..]);
    let stats = store.stats().unwrap();
    assert_eq!((smu.tier().unwrap(), stats.hot_bytes), (Tier::Hot, content.len() as u64));
    assert!(stats.module_bytes >= raw_bytes);
    // And on to SSD, where the module has nothing of it.
    store.reclaim(Some(0)).unwrap();
    assert_eq!((smu.tier().unwrap(), store.stats().unwrap().module_bytes), (Tier::Cold, 0));
    assert!(*smu.view().unwrap() == content[..]);
    assert_eq!(store.stats().unwrap().module_bytes, raw_bytes);
}

fn what_does_not_shrink_goes_to_ssd_or_stays(options: fn() -> Options) {
    let content = noise(1, 300_000);
    for cold in [true, false] {
        let store = Store::open(Options { cold, ..options() }).unwrap();
        let smu = put_held(&store, &content);
        let held_bytes = store.stats().unwrap().module_bytes;
        store.reclaim(Some(0)).unwrap();
        let expected = if cold { (Tier::Cold, 0) } else { (Tier::Hot, held_bytes) };
        assert_eq!((smu.tier().unwrap(), store.stats().unwrap().module_bytes), expected);
        assert!(*smu.view().unwrap() == content[..]);
    }
}

fn a_reopened_store_has_what_the_module_held(options: fn() -> Options) {
    let folder = tempfile::tempdir().unwrap();
    let open = || Store::open(Options { path: Some(folder.path().to_owned()), ..options() }).unwrap();
    let (content, warm) = (text(1, 200_000), text(2, 200_000));
    {
        let store = open();
        let agent = agent(&store, "a");
        agent.put(&content, Kind::SystemPrompt, Some("hot"), 50, OnFull::Wait).unwrap();
        let smu = agent.put(&warm, Kind::SystemPrompt, Some("warm"), 50, OnFull::Wait).unwrap();
        smu.advise(Advice::Cold).unwrap();
        settle(&store, |stats| stats.counters.iter().any(|(name, count)| name == "demote_warm" && *count > 0));
        assert_eq!(smu.tier().unwrap(), Tier::Warm);
        store.flush().unwrap();
        // The module has it, and can compress it: so it is not in RAM once more.
        let stats = store.stats().unwrap();
        assert!(stats.frames > 0 && stats.cold_bytes > 0 && stats.module_bytes >= content.len() as u64);
        assert!(stats.warm_bytes < warm.len() as u64 / 2, "{stats:#?}");
        store.close().unwrap();
    }
    let store = open();
    let agent = agent(&store, "a");
    assert_eq!(store.stats().unwrap().module_bytes, 0);
    for (name, content) in [("hot", &content), ("warm", &warm)] {
        assert!(*agent.attach_name(name).unwrap().view().unwrap() == content[..]);
    }
    assert!(store.stats().unwrap().module_bytes >= 400_000);
    assert!(store.verify().unwrap().damaged.is_empty());
}

/// Bytes under a pin stay where they are.
fn what_is_looked_at_is_handed_over_later(options: fn() -> Options) {
    let store = Store::open(options()).unwrap();
    let agent = agent(&store, "a");
    let content = text(1, 100_000);
    let (view, smu) = loop {
        // The engine is not always slower.
        let smu = put(&agent, &content);
        let view = smu.view().unwrap();
        if store.stats().unwrap().module_bytes == 0 {
            break (view, smu);
        }
        drop(view);
        agent.release(&smu, OnFull::Wait).unwrap();
    };
    let address = view.as_ptr();
    assert!(*view == content[..]);
    drop(view);
    let stats = settle(&store, |stats| stats.module_bytes > 0);
    assert_eq!(stats.module_bytes, (content.len() as u64).next_multiple_of(PAGE_BYTES));
    let view = smu.view().unwrap();
    assert!(*view == content[..] && view.as_ptr() != address);
}

/// Each takes a mapping, and a process has only so many.
#[test]
fn what_is_beyond_the_limit_stays_with_the_engine() {
    const HELD_MAX: u64 = 16_384;
    let store = Store::open(Options { memory_max_bytes: 512 << 20, ..fake() }).unwrap();
    let agent = agent(&store, "a");
    let content = |number: u64| number.to_le_bytes().repeat(PAGE_BYTES as usize / 8);
    let smus: Vec<Smu> = (0..HELD_MAX + 100).map(|number| put(&agent, &content(number))).collect();
    let stats = settle(&store, |stats| stats.module_bytes >= HELD_MAX * PAGE_BYTES);
    assert_eq!((stats.module_bytes, stats.hot_bytes), (HELD_MAX * PAGE_BYTES, (HELD_MAX + 100) * PAGE_BYTES));
    for (number, smu) in (0..).zip(&smus) {
        assert!(*smu.view().unwrap() == content(number)[..]);
    }
    // What goes makes room for others.
    for smu in smus.iter().take(200) {
        agent.release(smu, OnFull::Wait).unwrap();
    }
    let stats = settle(&store, |stats| stats.module_bytes == (HELD_MAX - 100) * PAGE_BYTES);
    assert_eq!(stats.module_bytes, stats.hot_bytes);
}

#[test]
fn a_device_that_is_not_there_is_named_with_the_way_out() {
    let refused = Store::open(kernel()).map(|store| store.stats().unwrap().backend);
    let automatic = Store::open(Options { backend: Backend::Auto, ..options(64 << 20) }).unwrap();
    let chosen = automatic.stats().unwrap().backend;
    if Path::new(DEVICE).exists() {
        assert_eq!((refused, &*chosen), (Ok("kernel".to_owned()), "kernel"));
        return;
    }
    let error = refused.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    for word in [DEVICE, "docs/kernel.md", "backend=\"auto\"", "\"user\""] {
        assert!(error.subject().contains(word), "{error}");
    }
    assert_eq!(chosen, "user");
    let content = text(1, 100_000);
    let smu = put(&agent(&automatic, "a"), &content);
    smu.id().unwrap();
    assert!(*smu.view().unwrap() == content[..] && automatic.stats().unwrap().module_bytes == 0);
}

/// Two sessions with a daemon: each maps what the module has, and nothing of it is the daemon's own.
fn sessions_map_what_the_module_holds(options: fn() -> Options) {
    let daemon = Daemon::start(64 << 20, options);
    let (store, other) = (daemon.connect(), daemon.connect());
    let (writer, mut smus) = (agent(&store, "writer"), Vec::new());
    for (number, len) in [PAGE_BYTES as usize, 100_000, 3 << 20].into_iter().enumerate() {
        let content = text(number as u64 + 1, len);
        smus.push((put(&writer, &content), content));
    }
    let all_bytes = smus.iter().map(|(_, content)| (content.len() as u64).next_multiple_of(PAGE_BYTES)).sum();
    settle(&store, |stats| stats.module_bytes == all_bytes);
    assert_eq!(store.stats().unwrap().backend, "kernel");
    let reader = agent(&other, "reader");
    let attached: Vec<Smu> = smus.iter().map(|(smu, _)| reader.attach_id(&smu.id().unwrap()).unwrap()).collect();
    let held = || attached.iter().map(|smu| smu.view().unwrap()).collect::<Vec<_>>();
    let is_right =
        |views: &[agentmem_store::View]| views.iter().zip(&smus).all(|(view, (_, content))| **view == content[..]);
    let views = held();
    assert!(is_right(&views));
    // What is pinned by another process stays where it is, whatever becomes of its pages.
    for (smu, _) in &smus {
        smu.advise(Advice::Cold).unwrap();
    }
    std::thread::sleep(TICKS);
    assert!(is_right(&views) && smus.iter().all(|(smu, _)| smu.tier().unwrap() == Tier::Hot));
    drop(views);
    for (smu, _) in &smus {
        smu.advise(Advice::Cold).unwrap();
    }
    let stats = settle(&store, |stats| stats.hot_bytes == 0);
    assert!(stats.warm_bytes > 0 && stats.module_bytes < 1 << 20, "{stats:#?}");
    assert!(is_right(&held()));
    // On SSD there is another place for it, and a number of another incarnation when it is back.
    store.reclaim(Some(0)).unwrap();
    assert_eq!(store.stats().unwrap().module_bytes, 0);
    assert!(smus.iter().all(|(smu, _)| smu.tier().unwrap() == Tier::Cold));
    assert!(is_right(&held()));
    // What a session still has a mapping of comes with what it was compressed to.
    assert!((all_bytes..2 * all_bytes).contains(&store.stats().unwrap().module_bytes));
    drop((attached, smus));
    store.close().unwrap();
    other.close().unwrap();
}

/// The module shares by user, which would show what one domain holds in what becomes of another's.
fn domains_of_a_token_hold_their_content_themselves(options: fn() -> Options) {
    let daemon = Daemon::start(256 << 20, options);
    let other = daemon.enter("other", "a token of sixteen bytes or more").unwrap();
    let smu = put(&agent(&other, "a"), &text(1, 100_000));
    smu.id().unwrap();
    std::thread::sleep(TICKS);
    let stats = other.stats().unwrap();
    assert_eq!((&*stats.backend, stats.module_bytes), ("user", 0));
    assert_eq!(daemon.connect().stats().unwrap().backend, "kernel");
}

/// Page frames of `bytes`, which begin on a page.
fn frames_of(bytes: &[u8]) -> Vec<u64> {
    let pagemap = std::fs::File::open("/proc/self/pagemap").unwrap();
    let frame = |page: &[u8]| {
        let mut entry = [0; 8];
        // It is there for sure, as it is read here.
        assert!(std::hint::black_box(page[0]) == page[0]);
        pagemap.read_exact_at(&mut entry, page.as_ptr() as u64 / PAGE_BYTES * 8).unwrap();
        u64::from_le_bytes(entry) & ((1 << 55) - 1)
    };
    bytes.chunks(PAGE_BYTES as usize).map(frame).collect()
}

#[test]
#[ignore = "needs /dev/agentmem: python -m kernel.test.run"]
fn stores_share_what_the_module_holds() {
    let content = text(1, 1 << 20);
    let stores = [(); 3].map(|()| Store::open(kernel()).unwrap());
    let hits = module_figure("dedup_hits");
    let smus: Vec<Smu> = stores.iter().map(|store| put_held(store, &content)).collect();
    let views: Vec<_> = smus.iter().map(|smu| smu.view().unwrap()).collect();
    let frames = frames_of(&views[0]);
    assert!(frames.iter().all(|&frame| frame != 0));
    assert!(views.iter().all(|view| **view == content[..] && frames_of(view) == frames));
    assert_eq!((module_figure("smus"), module_figure("dedup_hits") - hits), (1, 2));
    drop(views);
    // What one has no need of, others may be using: it stays.
    let demotions = module_figure("demotions");
    smus[0].advise(Advice::Cold).unwrap();
    std::thread::sleep(TICKS);
    assert_eq!((smus[0].tier().unwrap(), module_figure("demotions")), (Tier::Hot, demotions));
    // Who has to give something back gives its lease back, and still sees it.
    stores[0].reclaim(Some(0)).unwrap();
    assert_eq!((smus[0].tier().unwrap(), stores[0].stats().unwrap().module_bytes), (Tier::Cold, 0));
    assert_eq!((module_figure("smus"), module_figure("demotions")), (1, demotions));
    assert!(smus.iter().all(|smu| *smu.view().unwrap() == content[..]));
    let [one, two, three] = stores;
    drop((two, three));
    settle(&one, |_| module_figure("leases") == 1);
    smus[0].advise(Advice::Cold).unwrap();
    settle(&one, |stats| stats.hot_bytes == 0);
    assert_eq!(smus[0].tier().unwrap(), Tier::Warm);
    assert!(*smus[0].view().unwrap() == content[..]);
    drop((smus, one));
    assert_eq!(module_figure("smus"), 0);
}

#[test]
#[ignore = "needs /dev/agentmem: python -m kernel.test.run"]
fn what_the_kernel_reclaims_by_itself_is_warm() {
    let store = Store::open(kernel()).unwrap();
    let content = text(1, 1 << 20);
    let smu = put_held(&store, &content);
    assert!(*smu.view().unwrap() == content[..]);
    // Under a view it goes, too.
    let view = smu.view().unwrap();
    std::fs::write("/proc/sys/vm/drop_caches", "2").unwrap();
    assert!(*view == content[..]);
    drop(view);
    std::fs::write("/proc/sys/vm/drop_caches", "2").unwrap();
    let stats = settle(&store, |stats| stats.hot_bytes == 0);
    assert_eq!(smu.tier().unwrap(), Tier::Warm, "{stats:#?}");
    assert!(*smu.view().unwrap() == content[..]);
    assert_eq!(smu.tier().unwrap(), Tier::Hot);
}

/// A child has the open device and the mappings of its parent, and gives nothing of them back.
#[test]
#[ignore = "needs /dev/agentmem: python -m kernel.test.run"]
fn a_forked_child_gives_nothing_back() {
    let store = Store::open(kernel()).unwrap();
    let content = text(1, 1 << 20);
    let smu = put_held(&store, &content);
    let view = smu.view().unwrap();
    let held = module_figure("leases");
    // SAFETY: the child uses nothing that another thread may have been holding but what this test is about.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let is_whole = *view == content[..];
        drop((view, smu));
        drop(store);
        // SAFETY: ends the child without what is to be done at the end of the parent.
        unsafe { libc::_exit(if is_whole { 0 } else { 1 }) };
    }
    let mut status = 0;
    // SAFETY: waits for the child of this test.
    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
    assert_eq!(status, 0);
    assert_eq!(module_figure("leases"), held);
    assert!(*view == content[..]);
    drop(view);
    assert!(*smu.view().unwrap() == content[..]);
}
