use super::*;
use crate::journal::Rows;
use crate::keeping::Keep;
use crate::options::{OnFull, Options};
use crate::store::{Agent, Smu, Store};
use agentmem_core::frame::Meta;
use agentmem_core::{Advice, Backend, ErrorKind, Kind};
use parking_lot::Mutex;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::os::fd::{BorrowedFd, OwnedFd};

/// Keeps descriptors in this process.
#[derive(Default)]
struct Shelf(Mutex<BTreeMap<String, OwnedFd>>);

impl Keep for Shelf {
    fn keep(&self, name: &str, descriptor: BorrowedFd<'_>) -> Result<()> {
        self.0.lock().insert(name.to_owned(), descriptor.try_clone_to_owned().expect("a descriptor"));
        Ok(())
    }

    fn keep_at_once(&self, name: &str, descriptor: BorrowedFd<'_>) -> Result<bool> {
        self.keep(name, descriptor).map(|()| true)
    }

    fn let_go(&self, name: &str) {
        assert!(self.0.lock().remove(name).is_some(), "{name} is not kept");
    }
}

fn kept_store(shelf: &Arc<Shelf>, path: Option<std::path::PathBuf>) -> Store {
    let keeping = Some(Arc::new(Keeping::new(shelf.clone(), "0.", &mut BTreeMap::new())));
    let (memory_max_bytes, arena_bytes) = (32 << 20, 1 << 20);
    Store::open(Options { path, memory_max_bytes, arena_bytes, lends: true, keeping, ..Options::default() }).unwrap()
}

#[test]
fn a_store_whose_memory_is_kept_has_no_part_in_the_module() {
    let open = |backend| {
        let keeping = Some(Arc::new(Keeping::new(Arc::new(Shelf::default()), "0.", &mut BTreeMap::new())));
        Store::open(Options { lends: true, keeping, backend, ..Options::default() })
    };
    let error = open(Backend::Kernel).map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.subject().contains("whose memory is kept"), "{error}");
    assert_eq!(open(Backend::Auto).unwrap().stats().unwrap().backend, "user");
}

/// What the journal would say if it were written now.
fn rows_now(engine: &Engine, state: &mut State) -> Rows {
    let mut scratch = Box::new(Kept {
        journal: Journal::new(64 << 20, 1).unwrap(),
        keeping: state.kept.as_ref().unwrap().keeping.clone(),
        fresh: Fresh::default(),
        engine: state.kept.as_ref().unwrap().engine.clone(),
    });
    std::mem::swap(state.kept.as_mut().unwrap(), &mut scratch);
    state.note_everything();
    let (aliases, limbo) = (state.smus.aliases(), state.limbo.iter().map(|waiting| waiting.number).collect::<Vec<_>>());
    let nodes: Vec<u32> = state.tree.iter().map(|(number, _)| number).collect();
    let tails: Vec<(u32, usize, usize)> = nodes
        .into_iter()
        .filter_map(|number| match &mut state.tree.node_mut(number).body {
            Body::Tail(tail) => {
                let known = (number, tail.kept_chunks, tail.kept_items);
                (tail.kept_chunks, tail.kept_items) = (0, 0);
                Some(known)
            }
            Body::Run { .. } => None,
        })
        .collect();
    state.note(|fresh| {
        fresh.engine = true;
        fresh.slots.extend(aliases);
        fresh.limbo.extend(limbo);
    });
    let mut now = state.kept.take().unwrap();
    let mut fresh = std::mem::take(&mut now.fresh);
    fresh.dedup();
    engine.write_fresh(state, &mut now, &fresh).unwrap();
    now.journal.publish();
    state.kept = Some(scratch);
    for (number, chunks, items) in tails {
        if let Body::Tail(tail) = &mut state.tree.node_mut(number).body {
            assert_eq!((tail.kept_chunks, tail.kept_items), (chunks, items), "a message that the journal has not");
        }
    }
    now.journal.past().rows().unwrap()
}

/// Whatever was done, the journal says what the tables say.
fn check(store: &Store) {
    let engine = store.engine().unwrap();
    let mut state = engine.lock();
    engine.settle(&mut state);
    let now = rows_now(engine, &mut state);
    let kept = state.kept.as_ref().unwrap().journal.past().rows().unwrap();
    for table in [
        Table::Engine,
        Table::Agents,
        Table::Slots,
        Table::Leases,
        Table::Conversations,
        Table::Nodes,
        Table::Tails,
        Table::Frames,
        Table::Limbo,
    ] {
        assert_eq!(kept.of(table), now.of(table), "{table:?}");
    }
    let frames: Vec<u64> = kept.of(Table::Frames).keys().copied().collect();
    assert!(kept.of(Table::Tags).keys().all(|frame| frames.contains(frame)), "entries of frames that are gone");
}

fn content(seed: u64, len: usize) -> Vec<u8> {
    (0..len as u64).map(|at| ((seed * 31 + at / 7) % 251) as u8).collect()
}

struct Work {
    agents: Vec<Agent>,
    put: Vec<(usize, Smu)>,
    views: Vec<crate::store::View>,
}

fn work(store: &Store, work: &mut Work, (what, which, size): (u8, usize, usize)) {
    let Work { agents, put, views } = work;
    let own = which % agents.len();
    let agent = &agents[own];
    let chosen = if put.is_empty() { None } else { Some(which % put.len()) };
    match (what, chosen) {
        (0..6, _) => {
            let talk = agent.conversation(Some(["a", "b", "c"][which % 3])).unwrap();
            talk.append(&content(which as u64 % 9, size % 5000), Meta::default(), OnFull::Wait).unwrap();
        }
        (6..10, _) => {
            let len = if size % 20 == 0 { (1 << 20) + size } else { size % 9000 };
            let name = (which % 3 == 0).then(|| format!("name-{}", which % 5));
            let smu = agent.put(&content(which as u64 % 7, len), Kind::ToolResult, name.as_deref(), 50, OnFull::Wait);
            put.push((own, smu.unwrap()));
        }
        (10, Some(at)) => {
            let (owner, smu) = put.swap_remove(at);
            agents[owner].release(&smu, OnFull::Wait).unwrap();
        }
        (11, Some(at)) => views.push(put[at].1.view().unwrap()),
        (12, Some(at)) => {
            let smu = agent.attach(&put[at].1).unwrap();
            put.push((own, smu));
        }
        (13, Some(at)) => put[at].1.advise([Advice::Hot, Advice::Cold, Advice::WillNeed][which % 3]).unwrap(),
        (14, _) => drop(views.pop()),
        (15, _) => drop(store.reclaim(None).unwrap()),
        (16, _) => store.flush().unwrap(),
        (17, _) => {
            let talk = agent.conversation(Some("a")).unwrap();
            let at = talk.len().unwrap() * (which as u64 % 3) / 2;
            let _ = talk.fork(agent, Some(at), Some(["b", "c", "d"][which % 3]));
        }
        (18, _) => {
            let talk = agent.conversation(Some(["b", "c", "d"][which % 3])).unwrap();
            agent.release_conversation(&talk).unwrap();
        }
        (19, _) => {
            store.engine().unwrap().tick(u64::MAX / 2);
            store.engine().unwrap().compact_journal();
        }
        _ => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn the_journal_says_what_the_tables_say(
        steps in prop::collection::vec((0..20u8, 0..1000usize, 0..20_000usize), 1..120),
        has_path: bool,
    ) {
        let shelf = Arc::new(Shelf::default());
        let folder = tempfile::tempdir().unwrap();
        let store = kept_store(&shelf, has_path.then(|| folder.path().join("store")));
        let agents = (0..3).map(|number| store.agent(&format!("agent-{number}"), None, None, None).unwrap()).collect();
        let mut working = Work { agents, put: Vec::new(), views: Vec::new() };
        for step in steps {
            work(&store, &mut working, step);
            check(&store);
        }
        drop(working);
        store.close().unwrap();
        prop_assert!(shelf.0.lock().is_empty(), "a store that was closed leaves nothing: {:?}", shelf.0.lock().keys());
    }
}
