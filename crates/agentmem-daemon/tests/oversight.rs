//! Whom the kernel would kill first: the keeper last, and processes with sessions by their importance.

mod common;

use common::daemon::Daemon;
use common::wait_until;

fn score(process: &str) -> i32 {
    let text = std::fs::read_to_string(format!("/proc/{process}/oom_score_adj")).expect("a process");
    text.trim().parse().expect("a number")
}

#[test]
fn scores_follow_importance_and_are_put_back() {
    let before = score("self");
    let daemon = Daemon::start(&[]);
    let [keeper, engine] = daemon.holders()[..] else { panic!("no engine: {}", daemon.log()) };
    let (keeper, engine) = (score(&keeper.to_string()), score(&engine.to_string()));
    // Where nothing may be lowered they are as they were started.
    assert!(keeper == before && engine == before || keeper < engine && engine <= before, "{keeper} {engine}");
    let store = daemon.connect();
    let follows = |score_now: i32| wait_until("the score follows", || score("self") == score_now.min(1000));
    let agent = store.agent("a", Some(0), None, None).unwrap();
    follows(before + 300);
    agent.set_importance(25).unwrap();
    follows(before + 150);
    // Of several agents of a process, the most important counts.
    let second = store.agent("b", Some(40), None, None).unwrap();
    follows(before + 60);
    // The next engine still knows how it was.
    daemon.kill();
    agent.set_importance(50).unwrap();
    follows(before);
    agent.set_importance(0).unwrap();
    second.set_importance(10).unwrap();
    follows(before + 240);
    drop((agent, second));
    store.close().unwrap();
    drop(store);
    follows(before);
    let store = daemon.connect();
    let _agent = store.agent("c", Some(0), None, None).unwrap();
    follows(before + 300);
    // A daemon that ends leaves nothing behind either.
    drop(daemon);
    assert_eq!(score("self"), before);
}

#[test]
fn without_scores_nobodys_is_changed() {
    let before = score("self");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("agentmemd.toml");
    std::fs::write(&file, "oom_score = false\n").unwrap();
    let daemon = Daemon::start(&[&format!("--config={}", file.display())]);
    let store = daemon.connect();
    let _agent = store.agent("a", Some(0), None, None).unwrap();
    for holder in daemon.holders() {
        assert_eq!(score(&holder.to_string()), before);
    }
    assert_eq!(score("self"), before);
}
