//! Connections that have not said yet who they are. Each costs little, and thousands of them would keep others out:
//! where all connections are taken, the one that has been silent for longest has to go.

use crate::sync::{AtomicU64, Ordering};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

/// In the order in which they came. No more than there may be connections.
#[derive(Debug, Default)]
pub struct Strangers {
    next: AtomicU64,
    silent: Mutex<BTreeMap<u64, Arc<UnixStream>>>,
}

impl Strangers {
    /// Adds one; returns its number.
    pub fn add(&self, stream: &Arc<UnixStream>) -> u64 {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.silent.lock().insert(number, stream.clone());
        number
    }

    /// It has spoken, or is gone.
    pub fn remove(&self, number: u64) {
        self.silent.lock().remove(&number);
    }

    /// Hangs up on the oldest, whose thread ends then; whether there was one.
    pub fn hang_up_oldest(&self) -> bool {
        let oldest = self.silent.lock().pop_first();
        oldest.is_some_and(|(_, stream)| stream.shutdown(Shutdown::Both).is_ok())
    }
}
