//! Trust domains of a real daemon: what its configuration says of them, and what a killed engine leaves of them.

mod common;

use agentmem_core::{ErrorKind, Kind, Result};
use agentmem_store::{DomainQuota, OnFull, Store};
use common::daemon::Daemon;

const TOKEN: &str = "a token of many bytes";

fn enter(daemon: &Daemon, name: &str, token: &str) -> Result<Store> {
    Store::connect(&daemon.0.socket, Some((name, token.as_bytes())), OnFull::Wait)
}

/// A daemon with that configuration, in a folder where `token` is a file with the token.
fn configured(text: &str) -> (Daemon, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("token"), format!("{TOKEN}\n")).unwrap();
    let file = folder.path().join("agentmemd.toml");
    std::fs::write(&file, text).unwrap();
    (Daemon::start(&[&format!("--config={}", file.display())]), folder)
}

#[test]
fn listed_domains_survive_a_kill_and_no_others_are_made() {
    let (daemon, _folder) = configured("open_domains = false\n[domains.listed]\ntoken_file = \"token\"\n");
    let store = enter(&daemon, "listed", TOKEN).unwrap();
    let agent = store.agent("agent", None, None, None).unwrap();
    let smu = agent.put(b"kept", Kind::ToolResult, Some("kept"), 50, OnFull::Wait).unwrap();
    let id = smu.id().unwrap();
    daemon.kill();
    assert_eq!(agent.attach_name("kept").unwrap().id().unwrap(), id);
    for (name, token) in [("listed", "another token of bytes"), ("made", TOKEN)] {
        assert_eq!(enter(&daemon, name, token).err().unwrap().kind(), ErrorKind::PermissionDenied);
    }
    assert_eq!(enter(&daemon, "listed", TOKEN).unwrap().agents().unwrap(), ["agent"]);
}

#[test]
fn an_engine_that_cannot_start_again_leaves_what_is_kept_for_one_that_can() {
    let (daemon, folder) = configured("[domains.t]\ntoken_file = \"token\"\n");
    let [own, listed] = [daemon.connect(), enter(&daemon, "t", TOKEN).unwrap()];
    let agents = [&own, &listed].map(|store| store.agent("agent", None, None, None).unwrap());
    for agent in &agents {
        agent.put(b"kept", Kind::ToolResult, Some("kept"), 50, OnFull::Wait).unwrap().id().unwrap();
    }
    let [token, away] = ["token", "away"].map(|name| folder.path().join(name));
    std::fs::rename(&token, &away).unwrap();
    daemon.kill();
    common::wait_until("it fails more than once", || daemon.log().matches("token").count() >= 2);
    std::fs::rename(&away, &token).unwrap();
    for agent in &agents {
        assert_eq!(agent.attach_name("kept").unwrap().view().unwrap().bytes(), b"kept");
    }
}

#[test]
fn a_domain_that_cannot_be_opened_again_is_left_out_and_nothing_of_it_is_lost() {
    let (daemon, folder) = configured("path = \"cold\"\n[domains.listed]\ntoken_file = \"token\"\n");
    let own = daemon.connect();
    let [made, listed, sound] = ["made", "listed", "sound"].map(|name| enter(&daemon, name, TOKEN).unwrap());
    let agents = [&own, &sound, &made, &listed].map(|store| store.agent("agent", None, None, None).unwrap());
    for agent in &agents {
        agent.put(b"kept", Kind::ToolResult, Some("kept"), 50, OnFull::Wait).unwrap().id().unwrap();
    }
    let at = |name: &str| folder.path().join("cold/domains").join(name);
    for name in ["made", "listed"] {
        std::fs::rename(at(name), at("away").with_extension(name)).unwrap();
        std::fs::write(at(name), "in the way").unwrap();
    }
    daemon.kill();
    for agent in &agents[..2] {
        assert_eq!(agent.attach_name("kept").unwrap().view().unwrap().bytes(), b"kept");
    }
    for (name, agent) in [("made", &agents[2]), ("listed", &agents[3])] {
        // Sessions that were in it, and those that come, are told what is the matter.
        let errors = [agent.attach_name("kept").err().unwrap(), enter(&daemon, name, TOKEN).err().unwrap()];
        for error in errors {
            let text = error.to_string();
            assert!(text.contains(&format!("domain {name:?}")) && text.contains("Nothing of it was deleted"), "{text}");
        }
        assert!(daemon.log().contains(&format!("domain {name:?}")), "{}", daemon.log());
        // Who has not its token learns nothing.
        let unknown = enter(&daemon, name, "another token of bytes").err().unwrap();
        assert_eq!(unknown.kind(), ErrorKind::PermissionDenied);
        std::fs::remove_file(at(name)).unwrap();
        std::fs::rename(at("away").with_extension(name), at(name)).unwrap();
    }
    daemon.kill();
    for agent in &agents {
        assert_eq!(agent.attach_name("kept").unwrap().view().unwrap().bytes(), b"kept");
    }
}

#[test]
fn a_token_file_that_holds_no_token_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let (token, file) = (folder.path().join("token"), folder.path().join("agentmemd.toml"));
    std::fs::write(&token, "short\n").unwrap();
    std::fs::write(&file, "[domains.a]\ntoken_file = \"token\"\n").unwrap();
    let daemon = Daemon(common::Site::new());
    let started = daemon.run(&[&format!("--config={}", file.display())]);
    let said = String::from_utf8_lossy(&started.stderr).into_owned();
    assert!(!started.status.success() && said.contains(&*token.to_string_lossy()), "{said}");
}

#[test]
fn a_quota_survives_kills_and_nothing_that_was_put_under_it_is_lost() {
    let (daemon, _folder) = configured("[domains.t]\ntoken_file = \"token\"\nquota = 30000000\nagents = 2\n");
    let store = enter(&daemon, "t", TOKEN).unwrap();
    let agent = store.agent("agent", None, None, None).unwrap();
    let content = |number: u64| {
        // Some go through the ring, and some into memory of their own.
        let len = if number.is_multiple_of(10) { 1_500_000 } else { 40_000 };
        number.to_le_bytes().into_iter().cycle().take(len).collect::<Vec<u8>>()
    };
    let mut held = Vec::new();
    let mut put_bytes = 0;
    let refused = loop {
        let number = held.len() as u64;
        match agent.put(&content(number), Kind::ToolResult, None, 50, OnFull::Wait) {
            Ok(smu) => held.push(smu),
            Err(error) => break error,
        }
        put_bytes += content(number).len() as u64;
        if number % 23 == 11 {
            daemon.kill();
        }
    };
    assert_eq!(refused.kind(), ErrorKind::DomainQuotaExceeded, "{refused}");
    let now = store.domain().unwrap();
    assert_eq!((now.name.as_str(), now.used_bytes, now.agents), ("t", put_bytes, 1));
    assert!(put_bytes > 28_000_000 && put_bytes <= 30_000_000, "{put_bytes}");
    for (number, smu) in held.iter().enumerate() {
        assert_eq!(smu.view().unwrap().bytes(), content(number as u64));
    }
    // What was changed by hand is still so, and what the configuration says too.
    let changed = DomainQuota { logical_bytes: Some(29_500_000), agents: Some(1) };
    store.limit_domain(changed).unwrap();
    daemon.kill();
    assert_eq!(store.domain().unwrap().quota, changed);
    assert_eq!(store.agent("two", None, None, None).err().unwrap().kind(), ErrorKind::LimitReached);
    let beyond = store.limit_domain(DomainQuota { logical_bytes: Some(30_000_001), agents: None });
    assert_eq!(beyond.unwrap_err().kind(), ErrorKind::PermissionDenied);
    let counters = store.stats().unwrap().counters;
    assert!(counters.iter().any(|(name, count)| name == "reject_quota" && *count == 0), "{counters:?}");
}

#[test]
fn grants_survive_kills_and_each_is_logged() {
    let daemon = Daemon::start(&[]);
    let (own, tenant) = (daemon.connect(), enter(&daemon, "tenant", TOKEN).unwrap());
    let giver = own.agent("giver", None, None, None).unwrap();
    let taker = tenant.agent("taker", None, None, None).unwrap();
    let content: Vec<u8> = (0..3_000_000u32).map(|number| (number % 251) as u8).collect();
    let smu = giver.put(&content, Kind::SystemPrompt, None, 50, OnFull::Wait).unwrap();
    let grant = giver.grant(&smu, "tenant", 3_600_000, 3).unwrap();
    let revoked = giver.grant(&smu, "tenant", 3_600_000, 1).unwrap();
    own.revoke(&revoked).unwrap();
    for left in [2, 1] {
        daemon.kill();
        assert_eq!(taker.redeem(&grant).unwrap().view().unwrap().bytes(), content);
        daemon.kill();
        assert_eq!(own.grants().unwrap()[0].uses, left);
    }
    assert_eq!(taker.redeem(&revoked).err().unwrap().kind(), ErrorKind::NotFound);
    let log = std::fs::read_to_string(daemon.0.folder.path().join("a.sock.grants")).unwrap();
    let events: Vec<serde_json::Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let words: Vec<_> = events.iter().map(|event| event["event"].as_str().unwrap()).collect();
    assert_eq!(words, ["granted", "granted", "revoked", "redeemed", "redeemed"]);
    assert_eq!((&events[3]["to_domain"], &events[3]["to_agent"]), (&"tenant".into(), &"taker".into()));
    assert!(!log.contains(&grant) && !log.contains(&grant["grant-".len()..]));
}
