//! The words that the state machine of an agent hears and speaks.

use crate::launch::Exit;
use serde::{Deserialize, Serialize};

/// What an agent is, as people see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// At work.
    Running,
    /// Quiet, not yet away.
    Idle,
    /// Its memory is gone, and it is frozen.
    PagedOut,
    /// Frozen only.
    Frozen,
    /// Coming back.
    Waking,
    /// It could not be brought back whole.
    Damaged,
}

impl State {
    /// All of them, as the protocol has them.
    pub(crate) const NAMES: [(Self, &'static str); 6] = [
        (Self::Running, "running"),
        (Self::Idle, "idle"),
        (Self::PagedOut, "paged_out"),
        (Self::Frozen, "frozen"),
        (Self::Waking, "waking"),
        (Self::Damaged, "damaged"),
    ];

    /// Every state.
    pub fn all() -> impl Iterator<Item = Self> {
        Self::NAMES.iter().map(|row| row.0)
    }

    /// As the protocol has it.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|row| row.0 == self).map_or("damaged", |row| row.1)
    }
}

/// Why a tree is woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// A key on its terminal.
    Terminal,
    /// Something that it reads from has something.
    Input,
    /// A process of it ended.
    Child,
    /// A signal for it.
    Signal,
    /// Somebody asked.
    Command,
    /// Its timers are due a moment.
    Breath,
    /// It touched a page that was missing: somebody else thawed it.
    Fault,
}

impl Reason {
    /// As the protocol has it.
    pub const fn name(self) -> &'static str {
        match self {
            Reason::Terminal => "terminal",
            Reason::Input => "input",
            Reason::Child => "child",
            Reason::Signal => "signal",
            Reason::Command => "command",
            Reason::Breath => "breath",
            Reason::Fault => "fault",
        }
    }
}

/// Who asked, so that the answer finds the way back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket(pub u64);

/// What can be asked of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Go away and stay there until resumed.
    Pause,
    /// End a pause.
    Resume,
    /// Come back.
    Wake,
    /// The agent's turn is over.
    HintIdle,
    /// A turn of it begins.
    HintActive,
}

/// Why a request was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum No {
    /// It is paused, and only `resume` ends that.
    Paused,
    /// It cannot be paged out: why.
    Refused(String),
    /// Something needed it awake before it was away.
    Overtaken,
    /// It could not be brought back whole: what is damaged.
    Damaged(String),
    /// It has ended.
    Ended,
}

/// How quiet the tree is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Quiet {
    /// For how long; 0: it is not.
    pub quiet_ms: u64,
    /// What keeps it awake however long it is quiet.
    pub busy_with: Option<String>,
    /// Whether its memory is wanted before its time.
    pub wanted: bool,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The terminal has input.
    InputWaiting,
    /// A signal for the tree came.
    Signal(i32),
    /// A signal came that the kernel gave to the tree as well.
    SignalShared(i32),
    /// Somebody asks for something.
    Request(Ticket, Op),
    /// The scheduled tick came while the tree is awake, and this is how quiet it is.
    Tick(Quiet),
    /// The scheduled tick came while the tree is away.
    BreathDue,
    /// Something that the frozen tree waits for is ready.
    Readable,
    /// A process of the frozen tree ended.
    ChildEnded,
    /// Somebody else thawed the tree and it ran into a missing page.
    Fault,
    /// The root stopped by this signal.
    RootStopped(i32),
    /// The supervisor stopped as the root did and was continued.
    Continued,
    /// The root ended.
    RootEnded(Exit),
    /// The page-out succeeded; `paged`: memory is gone too.
    Away {
        /// Whether memory is gone, or the tree is frozen only.
        paged: bool,
    },
    /// The page-out did not happen: why. The tree runs.
    Refused(String),
    /// The tree is back.
    Woken,
    /// The tree could not be brought back whole: what is damaged.
    Failed(String),
    /// Frames should be somewhere else.
    FramesDue(Move),
    /// Frames are where they should be, as far as that went.
    FramesMoved,
}

/// Where frames go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Move {
    /// Into less RAM: those of a tree that is away, and likely stays so for a while.
    Squeeze,
    /// From RAM to SSD: those of a tree that is away.
    ToSsd,
    /// Nowhere: those of a tree that is awake only save work.
    Drop,
}

/// What is to be done, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Input may flow from now on.
    Deliver,
    /// Input may not flow until the next [`Action::Deliver`].
    Hold,
    /// Order the page-out.
    PageOut,
    /// Ask the page-out under way to give up.
    Abort,
    /// Order the wake.
    Wake(Reason),
    /// Order frames to be moved.
    MoveFrames(Move),
    /// Send the root this signal.
    ForwardSignal(i32),
    /// Stop as the root did, and let it go on when continued.
    StopSelf(i32),
    /// Answer a request.
    Answer(Ticket, Result<(), No>),
    /// Tick after this time or before, if it was scheduled before; none: do not.
    ScheduleTick(Option<u64>),
    /// Kill the root: it cannot be woken, and was asked to end.
    Kill,
    /// End as the root did.
    Exit(Exit),
}
