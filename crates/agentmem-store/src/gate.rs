//! How many at a time may do what takes much memory.

use parking_lot::{Condvar, Mutex};

/// Lets in as many threads at a time as it has passes; the others wait. It is entered before any lock but that of
/// large content, and never twice by one thread.
pub struct Gate {
    free: Mutex<usize>,
    came_back: Condvar,
}

/// Leave to be inside; leaving is dropping it.
pub struct Pass<'a>(&'a Gate);

impl Gate {
    /// One with `passes`, at least one.
    pub fn new(passes: usize) -> Self {
        Gate { free: Mutex::new(passes.max(1)), came_back: Condvar::new() }
    }

    /// Waits for a pass.
    pub fn enter(&self) -> Pass<'_> {
        let mut free = self.free.lock();
        self.came_back.wait_while(&mut free, |free| *free == 0);
        *free -= 1;
        Pass(self)
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        *self.0.free.lock() += 1;
        self.0.came_back.notify_one();
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::Gate;
    use crate::sync::{AtomicUsize, Ordering};

    #[test]
    fn no_more_are_inside_than_it_has_passes_and_all_come_in() {
        let (gate, inside, most, entries) =
            (Gate::new(3), AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..500 {
                        let _pass = gate.enter();
                        most.fetch_max(inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                        std::thread::yield_now();
                        entries.fetch_add(1, Ordering::SeqCst);
                        inside.fetch_sub(1, Ordering::SeqCst);
                    }
                });
            }
        });
        assert_eq!((most.into_inner(), entries.into_inner()), (3, 8 * 500));
    }

    #[test]
    fn a_panic_inside_gives_the_pass_back() {
        let gate = Gate::new(1);
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _pass = gate.enter();
            panic!("inside");
        }));
        assert!(panicked.is_err());
        drop(gate.enter());
    }
}
