//! Where the parts that know the tree plug in.

use crate::agent::{Move, Quiet};
use crate::arguments::Settings;
use crate::cgroup::Cgroup;
use crate::gate::Gate;
use crate::idle::Turn;
use crate::paging::{Held, Paging};
use crate::registry::Registration;
use crate::status::Measured;
use rustix::process::Pid;
use std::sync::Arc;

/// Watches the tree from the main thread. Nothing of it may block.
pub trait Observer {
    /// How quiet the tree has been. Asked once a second while it is awake, and for `status`.
    fn sample(&mut self, terminal: Activity, now_ms: u64) -> Quiet;

    /// How large the tree is. Asked for `status`.
    fn measure(&mut self) -> Measured;

    /// A hook of the agent said something of its turn.
    fn hint(&mut self, _now_ms: u64, _turn: Turn) {}

    /// The tree was frozen and runs again: what was counted before says nothing any more.
    fn woke(&mut self, _now_ms: u64) {}

    /// The tree was frozen and runs for a moment: if it does nothing in it, it is as quiet as it was.
    fn breathes(&mut self, _now_ms: u64) {}

    /// Its resident memory and its frames in RAM may not be larger than this; none: they may.
    fn limit(&mut self, _memory_max_bytes: Option<u64>) {}

    /// Private anonymous memory of the tree, about.
    fn private_bytes(&self) -> u64 {
        0
    }

    /// The daemon said how far the fleet is beyond its budget.
    fn beyond_budget(&mut self, _share: f64) {}

    /// Whether its frames should be somewhere else. `away_ms`: for how long it has been away, if it is.
    fn frames(&mut self, _away_ms: Option<u64>, _held: Held) -> Option<Move> {
        None
    }
}

/// What passed through the terminal, where the command has one of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Activity {
    /// When something was last typed.
    pub input_ms: u64,
    /// When the command last wrote something.
    pub output_ms: u64,
}

/// The tree, when its root has just started.
pub struct Tree {
    /// The command's process.
    pub root: Pid,
    /// Whether all processes below the root belong to it, and orphans that came to us.
    pub whole: bool,
    /// A child of the supervisor that is no part of the tree.
    pub leader: Option<Pid>,
    /// Whether the supervisor started it.
    pub launched: bool,
    /// A cgroup of its own, if it has one.
    pub cgroup: Option<Cgroup>,
    /// How to supervise it.
    pub settings: Settings,
    /// To be closed while tracing.
    pub gate: Arc<Gate>,
    /// Where the processes are recorded that have missing pages, before they have.
    pub registration: Arc<Registration>,
}

/// What pages a tree and what watches it.
pub struct Equipment {
    /// None: it cannot be paged.
    pub paging: Option<Box<dyn Paging>>,
    /// Its observer.
    pub observer: Box<dyn Observer>,
}

/// Equips supervisors.
pub trait Equip {
    /// Whether paging is possible here with these settings; if not, one line that says why and what
    /// helps. Asked before the command starts.
    fn check(&self, settings: &Settings) -> Result<(), String>;

    /// As [`Equip::check`], for a process that runs already.
    fn check_adopted(&self, _settings: &Settings, _pid: Pid) -> Result<(), String> {
        Ok(())
    }

    /// Whether a tree wants a cgroup of its own with these settings.
    fn wants_cgroup(&self, settings: &Settings) -> bool;

    /// Pager and observer for a tree.
    fn equip(&self, tree: Tree) -> Equipment;
}

/// Equipment for trees that are supervised only.
pub struct Unpaged;

impl Equip for Unpaged {
    fn check(&self, _settings: &Settings) -> Result<(), String> {
        Ok(())
    }

    fn wants_cgroup(&self, _settings: &Settings) -> bool {
        false
    }

    fn equip(&self, _tree: Tree) -> Equipment {
        Equipment { paging: None, observer: Box::new(Unpaged) }
    }
}

impl Observer for Unpaged {
    fn sample(&mut self, _terminal: Activity, _now_ms: u64) -> Quiet {
        Quiet::default()
    }

    fn measure(&mut self) -> Measured {
        Measured::default()
    }
}
