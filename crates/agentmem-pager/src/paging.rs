//! The border between the supervisor, which decides when, and the pager, which knows how.
//!
//! The pager works on a thread of its own, one order at a time, and the main loop never waits for it:
//! orders go through a channel, reports come back with a ring of the bell.

use crate::agent::Move;
use crate::gate::Gate;
use rustix::event::PollFlags;
use serde::Serialize;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

/// Pages a tree out and wakes it.
///
/// Both are called on one and the same thread for as long as the supervisor lives.
pub trait Paging: Send {
    /// Pages out and freezes. Gives up, with the tree running on as if nothing had been, soon after
    /// `abort` turns true, unless pages are missing already.
    fn page_out(&mut self, abort: &AtomicBool) -> Result<PageOutReport, NotAway>;

    /// Whether anything of the tree is missing, or it is frozen. Asked after a panic too.
    fn is_out(&self) -> bool;

    /// Brings everything back and thaws. What failed can be tried again.
    fn wake(&mut self) -> Result<WakeReport, Damage>;

    /// Moves frames, as far as it goes; gives up soon after `abort` turns true. Nothing of the tree changes.
    fn move_frames(&mut self, to: Move, abort: &AtomicBool) -> Held;
}

/// A tree is away.
#[derive(Debug, Default)]
pub struct PageOutReport {
    /// Whether its memory is gone too, or it is frozen only.
    pub paged: bool,
    /// PSS of the tree before.
    pub resident_before_bytes: u64,
    /// How long it took.
    pub ms: PageOutMs,
    /// What the frames hold now.
    pub held: Held,
    /// What the tree waits for: any of it readable wakes it. At most [`SOURCES_MAX`](crate::waits::SOURCES_MAX).
    pub watched: Vec<Watched>,
    /// What was not paged out.
    pub left_alone: Vec<LeftAlone>,
}

/// Times of a page-out, in ms.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct PageOutMs {
    /// While the tree ran on.
    pub live: u64,
    /// While it was stopped, and not yet away.
    pub stopped: u64,
    /// Of the processor.
    pub cpu: u64,
}

/// What frames hold.
#[derive(Clone, Copy, Debug, Default)]
pub struct Held {
    /// As pages.
    pub held_bytes: u64,
    /// In RAM, compressed.
    pub compressed_bytes: u64,
    /// On SSD.
    pub ssd_bytes: u64,
    /// In RAM, and compressed in a hurry.
    pub loose_bytes: u64,
}

/// Memory that stays where it is.
#[derive(Clone, Debug, Serialize)]
pub struct LeftAlone {
    /// Whose.
    pub pid: i32,
    /// How much.
    pub bytes: u64,
    /// Why.
    pub why: String,
}

/// One thing that a tree away waits for.
#[derive(Debug)]
pub struct Watched {
    /// A duplicate of the descriptor.
    pub fd: OwnedFd,
    /// What it waits for.
    pub events: PollFlags,
    /// What it is.
    pub source: Source,
}

/// What a watched descriptor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Input of some process of the tree: its stdin, a pipe, a socket.
    Input,
    /// A process of the tree: it ended.
    Child,
    /// A userfaultfd: somebody touches a missing page, which nobody should.
    Fault,
}

/// A tree is back.
#[derive(Clone, Copy, Debug, Default)]
pub struct WakeReport {
    /// What the frames hold now: they are kept.
    pub held: Held,
}

/// A page-out that did not happen. The tree runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Why, in one line.
    pub why: String,
}

/// A wake that could not bring everything back. The tree, or what the text names, stays frozen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// What is damaged, in one line.
    pub what: String,
}

/// Why a tree is not away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotAway {
    /// It runs.
    Refused(Refused),
    /// It stays frozen.
    Damaged(Damage),
}

/// What the pager's thread tells the main loop.
#[derive(Debug)]
pub enum Report {
    /// The answer to [`Pager::page_out`].
    PageOut(Result<PageOutReport, Refused>),
    /// The answer to [`Pager::wake`].
    Wake(Result<WakeReport, Damage>),
    /// The answer to [`Pager::move_frames`].
    Frames(Held),
}

#[derive(Clone, Copy)]
enum Order {
    PageOut,
    Wake,
    Frames(Move),
}

/// The pager's thread.
pub struct Pager {
    orders: Option<SyncSender<Order>>,
    reports: Receiver<Report>,
    abort: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// The engine below compresses with contexts on the heap; this is for frames of calls.
const STACK_BYTES: usize = 512 << 10;

impl Pager {
    /// Starts the thread.
    pub fn start(mut paging: Box<dyn Paging>, gate: Arc<Gate>) -> std::io::Result<Self> {
        // One order is out at a time: the state machine sees to that.
        let (orders, inbox) = sync_channel(1);
        let (outbox, reports) = sync_channel(1);
        let abort = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&abort);
        let work = move || {
            while let Ok(order) = inbox.recv() {
                let report = obey(paging.as_mut(), order, &seen);
                if outbox.send(report).is_err() {
                    return;
                }
                gate.bell().ring();
            }
        };
        let thread = std::thread::Builder::new().name("pager".into()).stack_size(STACK_BYTES).spawn(work)?;
        Ok(Pager { orders: Some(orders), reports, abort, thread: Some(thread) })
    }

    /// Orders a page-out.
    pub fn page_out(&self) {
        self.abort.store(false, Ordering::SeqCst);
        self.order(Order::PageOut);
    }

    /// Asks the page-out, or the moving of frames, that is under way to give up.
    pub fn abort(&self) {
        self.abort.store(true, Ordering::SeqCst);
    }

    /// Orders a wake.
    pub fn wake(&self) {
        self.order(Order::Wake);
    }

    /// Orders frames to be moved.
    pub fn move_frames(&self, to: Move) {
        self.abort.store(false, Ordering::SeqCst);
        self.order(Order::Frames(to));
    }

    /// What has been reported, if anything.
    pub fn report(&self) -> Option<Report> {
        self.reports.try_recv().ok()
    }

    fn order(&self, order: Order) {
        let sent = self.orders.as_ref().is_some_and(|orders| orders.try_send(order).is_ok());
        debug_assert!(sent, "one order at a time");
    }
}

impl Drop for Pager {
    fn drop(&mut self) {
        self.abort();
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A pager that panics has left the tree in a state that nobody knows, if anything of it is out.
fn obey(paging: &mut dyn Paging, order: Order, abort: &AtomicBool) -> Report {
    let panicked = || "the pager failed; the agent stays as it is".to_owned();
    match order {
        Order::PageOut => match catch_unwind(AssertUnwindSafe(|| paging.page_out(abort))) {
            Ok(Ok(report)) => Report::PageOut(Ok(report)),
            Ok(Err(NotAway::Refused(refused))) => Report::PageOut(Err(refused)),
            Ok(Err(NotAway::Damaged(damage))) => Report::Wake(Err(damage)),
            Err(_) if paging.is_out() => Report::Wake(Err(Damage { what: panicked() })),
            Err(_) => Report::PageOut(Err(Refused { why: "the pager failed; the agent runs".into() })),
        },
        Order::Frames(to) => match catch_unwind(AssertUnwindSafe(|| paging.move_frames(to, abort))) {
            Ok(held) => Report::Frames(held),
            Err(_) if !paging.is_out() => Report::Frames(Held::default()),
            Err(_) => Report::Wake(Err(Damage { what: panicked() })),
        },
        Order::Wake => {
            let result = catch_unwind(AssertUnwindSafe(|| paging.wake()));
            Report::Wake(result.unwrap_or_else(|_| Err(Damage { what: panicked() })))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails at everything, with the tree as it says.
    struct Panics {
        is_out: bool,
    }

    impl Paging for Panics {
        fn page_out(&mut self, _abort: &AtomicBool) -> Result<PageOutReport, NotAway> {
            panic!("paging out");
        }

        fn is_out(&self) -> bool {
            self.is_out
        }

        fn wake(&mut self) -> Result<WakeReport, Damage> {
            panic!("waking");
        }

        fn move_frames(&mut self, _to: Move, _abort: &AtomicBool) -> Held {
            panic!("moving frames");
        }
    }

    #[test]
    fn a_pager_that_fails_damages_only_what_is_out() {
        let report = |is_out, order| obey(&mut Panics { is_out }, order, &AtomicBool::new(false));
        for order in [Order::PageOut, Order::Frames(Move::Drop), Order::Wake] {
            assert!(matches!(report(true, order), Report::Wake(Err(_))));
        }
        assert!(matches!(report(false, Order::PageOut), Report::PageOut(Err(_))));
        assert!(matches!(report(false, Order::Frames(Move::Drop)), Report::Frames(_)));
    }
}
