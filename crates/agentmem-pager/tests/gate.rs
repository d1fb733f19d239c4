//! Reaping and tracing apart. In a process of its own: the gate waits for any child there is.

use agentmem_pager::gate::{Bell, Change, Gate};
use agentmem_pager::launch::Exit;
use rustix::process::Pid;

fn rings(gate: &Gate) -> bool {
    rustix::io::read(gate.bell(), &mut [0u8; 8]).is_ok()
}

#[test]
fn reaping_waits_for_the_tracer_and_is_rung_for() {
    let gate = Gate::new(Bell::new().unwrap());
    let mut child = std::process::Command::new("true").spawn().unwrap();
    let pid = Pid::from_child(&child);
    let tracing = gate.trace();
    gate.reap(|_, _| unreachable!("nothing is reaped while somebody traces"));
    assert!(!rings(&gate));
    drop(tracing);
    assert!(rings(&gate));
    let mut ended = None;
    while ended.is_none() {
        gate.reap(|reaped, change| ended = (reaped == pid).then_some(change));
    }
    assert_eq!(ended, Some(Change::Ended(Exit::Code(0))));
    assert!(child.wait().is_err(), "the gate has waited for it");
    drop(gate.trace());
    assert!(!rings(&gate), "nothing was postponed, so nothing is rung for");
}
