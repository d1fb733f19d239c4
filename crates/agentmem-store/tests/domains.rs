//! Trust domains: who may make and enter them, and that they know nothing of each other.

mod common;

use agentmem_core::{Error, ErrorKind, Kind};
use agentmem_store::{Domains, Limits, OnFull, Options, Store, Terms, TokenHash};
use common::daemon::Daemon;
use std::path::Path;

const TOKEN: &str = "a token of tenant one";
const OTHER: &str = "a token of tenant two";

fn content(number: usize, len: usize) -> Vec<u8> {
    format!("content {number} ").into_bytes().into_iter().cycle().take(len).collect()
}

/// Domains of 128 MiB, with their cold tiers below `path`, if there is one.
fn domains(limits: Limits, path: Option<&Path>) -> Domains {
    let path = path.map(Path::to_owned);
    let options = move |name: &str| {
        let path = path.as_ref().map(|path| if name.is_empty() { path.join("own") } else { path.join(name) });
        Ok(Options { path, ..common::options(128 << 20) })
    };
    Domains::new(128 << 20, limits, Box::new(options)).unwrap()
}

fn refused(entered: agentmem_core::Result<Store>) -> Error {
    entered.err().expect("it is refused")
}

#[test]
fn only_listed_domains_are_there_where_clients_make_none() {
    let limits = Limits { clients_make_domains: false, ..Limits::default() };
    let daemon = Daemon::serve(domains(limits, None));
    daemon.server.domains().add("listed", TokenHash::of(TOKEN.as_bytes()).unwrap(), Terms::default()).unwrap();
    daemon.enter("listed", TOKEN).unwrap();
    // The same words for both, so nobody learns what there is.
    let [wrong, none] = ["listed", "unlisted"].map(|name| (name, refused(daemon.enter(name, OTHER))));
    assert_eq!((wrong.1.kind(), none.1.kind()), (ErrorKind::PermissionDenied, ErrorKind::PermissionDenied));
    assert_eq!(wrong.1.subject().replace(wrong.0, "X"), none.1.subject().replace(none.0, "X"));
    assert_eq!(refused(daemon.enter("unlisted", TOKEN)).kind(), ErrorKind::PermissionDenied);
    assert_eq!(daemon.server.domains().all().len(), 2);
}

#[test]
fn there_are_no_more_domains_than_may_be() {
    let daemon = Daemon::serve(domains(Limits { domains: 2, ..Limits::default() }, None));
    for name in ["one", "two"] {
        daemon.enter(name, TOKEN).unwrap();
    }
    let error = refused(daemon.enter("three", TOKEN));
    assert_eq!(error.kind(), ErrorKind::LimitReached);
    assert!(error.subject().contains("2 domains"), "{error}");
    daemon.enter("two", TOKEN).unwrap();
    assert_eq!(
        daemon.server.domains().add("two", TokenHash::NOBODYS, Terms::default()).err().unwrap().kind(),
        ErrorKind::NameTaken
    );
}

#[test]
fn a_name_or_token_that_cannot_be_one_makes_no_domain() {
    let daemon = Daemon::start_in_ram(64 << 20);
    for (name, token) in
        [("tenant", "short"), ("tenant", ""), ("", TOKEN), ("../tenant", TOKEN), ("tenant", &"x".repeat(1025))]
    {
        assert_eq!(refused(daemon.enter(name, token)).kind(), ErrorKind::InvalidArgument, "{name:?}");
    }
    assert_eq!(daemon.server.domains().all().len(), 1);
}

/// What a domain left on SSD is for who has its token, and not for who names it first after a restart.
#[test]
fn a_domain_takes_the_same_token_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    {
        let daemon = Daemon::serve(domains(Limits::default(), Some(folder.path())));
        let store = daemon.enter("tenant", TOKEN).unwrap();
        let agent = common::agent(&store, "agent");
        agent.put(b"kept", Kind::ToolResult, Some("kept"), 50, OnFull::Wait).unwrap();
        store.close().unwrap();
    }
    let daemon = Daemon::serve(domains(Limits::default(), Some(folder.path())));
    assert_eq!(refused(daemon.enter("tenant", OTHER)).kind(), ErrorKind::PermissionDenied);
    let store = daemon.enter("tenant", TOKEN).unwrap();
    let kept = common::agent(&store, "agent").attach_name("kept").unwrap();
    assert_eq!(kept.view().unwrap().bytes(), b"kept");
    drop((kept, store, daemon));
    // Whoever writes the configuration decides, and no file ever held a token.
    let domains = domains(Limits::default(), Some(folder.path()));
    domains.add("tenant", TokenHash::of(OTHER.as_bytes()).unwrap(), Terms::default()).unwrap();
    let daemon = Daemon::serve(domains);
    assert_eq!(refused(daemon.enter("tenant", TOKEN)).kind(), ErrorKind::PermissionDenied);
    assert_eq!(daemon.enter("tenant", OTHER).unwrap().agents().unwrap(), ["agent"]);
    let mut files = 0;
    for file in files_below(folder.path()) {
        let bytes = std::fs::read(&file).unwrap();
        for token in [TOKEN, OTHER] {
            let found = bytes.windows(token.len()).any(|window| window == token.as_bytes());
            assert!(!found, "{} holds a token", file.display());
        }
        files += 1;
    }
    assert!(files > 3, "{files}");
}

fn files_below(folder: &Path) -> Vec<std::path::PathBuf> {
    let below = |path: std::path::PathBuf| if path.is_dir() { files_below(&path) } else { vec![path] };
    std::fs::read_dir(folder).unwrap().flat_map(|entry| below(entry.unwrap().path())).collect()
}

#[test]
fn domains_know_nothing_of_each_other() {
    let daemon = Daemon::start_in_ram(256 << 20);
    let secret = "a token of tenant one";
    let (own, one) = (daemon.connect(), daemon.enter("one", secret).unwrap());
    let two = daemon.enter("two", "a token of tenant two").unwrap();
    for wrong in ["a token of tenant two", "short", ""] {
        assert!(daemon.enter("one", wrong).is_err(), "{wrong:?}");
    }
    assert_eq!(daemon.enter("one", "a token of tenant two").err().unwrap().kind(), ErrorKind::PermissionDenied);
    let bytes = content(1, 100_000);
    let put = |store: &Store| {
        let agent = common::agent(store, "agent");
        let smu = agent.put(&bytes, Kind::SystemPrompt, Some("prompt"), 50, OnFull::Wait).unwrap();
        (agent, smu)
    };
    let held: Vec<_> = [&own, &one, &two].map(put).into_iter().collect();
    // The same content has another id in each, and is shared with nobody.
    let ids: Vec<_> = held.iter().map(|(_, smu)| smu.id().unwrap()).collect();
    assert!(ids[0] != ids[1] && ids[1] != ids[2] && ids[0] != ids[2]);
    for (agent, smu) in &held {
        assert_eq!(smu.shared_by().unwrap(), 1);
        let others = ids.iter().filter(|&&id| id != smu.id().unwrap());
        for id in others {
            assert_eq!(agent.attach_id(id).err().unwrap().kind(), ErrorKind::NotFound);
        }
    }
    assert_eq!(daemon.enter("one", secret).unwrap().agents().unwrap(), ["agent"]);
    assert_eq!(two.stats().unwrap().smus, 1);
}

#[test]
fn domains_share_one_budget() {
    let daemon = Daemon::start_in_ram(128 << 20);
    let stores = ["a", "b", "c"].map(|name| daemon.enter(name, "the same token for all").unwrap());
    for store in &stores {
        let agent = common::agent(store, "agent");
        for number in 0..60 {
            let bytes = common::noise(number, 1 << 20);
            agent.put(&bytes, Kind::ToolResult, None, 50, OnFull::Wait).unwrap();
        }
    }
    let resident = || -> u64 {
        let all = daemon.server.domains().all();
        all.iter().map(|(_, domain)| domain.store.stats().unwrap().resident_bytes).sum()
    };
    for _ in 0..100 {
        if resident() <= 128 << 20 {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    assert!(resident() <= 128 << 20, "{}", resident());
}
