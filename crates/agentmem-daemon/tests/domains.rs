//! Trust domains of a real daemon: what its configuration says of them, and what a killed engine leaves of them.

mod common;

use agentmem_core::{ErrorKind, Kind, Result};
use agentmem_store::{OnFull, Store};
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
