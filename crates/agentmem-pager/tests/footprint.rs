//! What a supervisor takes for itself: frames are its agent's, all else is its own.

mod common;
mod target;

use agentmem_pager::memory;
use common::{Place, eventually};
use serde_json::{Value, json};
use target::Target;

const MIB: u64 = 1 << 20;
/// Its heap and stacks; its program comes to that, once for all supervisors.
const PRIVATE_BYTES_MAX: u64 = MIB;
/// Of an agent like those that people have.
const AGENT: &str = "compress-like --mib 150 --seed 3";

struct Managed {
    place: Place,
    agent: Target,
}

impl Managed {
    fn start() -> Self {
        let place = Place::new();
        let cold = format!("--cold-dir={}", place.runtime().with_file_name("cold").display());
        let mut command = place.supervisor(&["run", "--name=a", "--idle-after-ms=3600000", &cold]);
        let agent = Target::of(command.arg("--").arg(target::shapes()).args(AGENT.split(' ')));
        Managed { place, agent }
    }

    fn ask(&self, request: Value) {
        let answer = self.place.ask("a", &request.to_string());
        assert_eq!(answer["ok"], true, "{answer}");
    }

    fn pause(&self) {
        self.ask(json!({"op": "pause"}));
        assert_eq!(self.place.status()["state"], "paged_out");
    }

    fn to_ssd(&self) {
        self.ask(json!({"op": "limit", "memory_max_bytes": MIB}));
        eventually("frames on SSD", || (self.place.status()["compressed_bytes"] == 0).then_some(()));
        self.ask(json!({"op": "limit", "memory_max_bytes": null}));
    }

    /// `when`: what it did until now.
    fn is_small(&self, when: &str) {
        let own = memory::of(self.agent.pid().as_raw_nonzero().get());
        assert!(own.private_bytes <= PRIVATE_BYTES_MAX, "{when}: {own:?}");
        // Those without debug information are what people have.
        let told = self.place.status()["supervisor_bytes"].as_u64().unwrap();
        assert!(cfg!(debug_assertions) || told < 3 * MIB, "{when}: {told}");
    }
}

#[test]
fn a_supervisor_stays_small_whatever_it_did() {
    let mut managed = Managed::start();
    let before = managed.agent.check();
    managed.is_small("started");
    for cycle in 0..3 {
        managed.pause();
        managed.is_small(&format!("paged out {cycle}"));
        managed.to_ssd();
        managed.is_small(&format!("on SSD {cycle}"));
        managed.ask(json!({"op": "resume"}));
        managed.is_small(&format!("awake {cycle}"));
        assert_eq!(managed.agent.check(), before);
        managed.is_small(&format!("awake and at work {cycle}"));
    }
}
