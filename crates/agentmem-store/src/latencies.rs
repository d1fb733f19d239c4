//! How long something took, counted in buckets.

use crate::sync::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of the buckets but the last, in microseconds.
pub const BOUNDS_US: [u64; 14] =
    [25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000];

/// Counts since the store was opened.
#[derive(Debug, Default)]
pub struct Latencies {
    counts: [AtomicU64; BOUNDS_US.len() + 1],
    sum_us: AtomicU64,
}

/// What was counted so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LatencyCounts {
    /// How many took no longer than each bound and longer than the one before; the last, longer than all.
    pub counts: [u64; BOUNDS_US.len() + 1],
    /// Microseconds of all of them.
    pub sum_us: u64,
}

impl Latencies {
    /// Counts one.
    pub fn add(&self, took: Duration) {
        let took_us = took.as_micros() as u64;
        let bucket = BOUNDS_US.partition_point(|&bound| bound < took_us);
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum_us.fetch_add(took_us, Ordering::Relaxed);
    }

    /// What was counted so far.
    pub fn read(&self) -> LatencyCounts {
        let counts = std::array::from_fn(|bucket| self.counts[bucket].load(Ordering::Relaxed));
        LatencyCounts { counts, sum_us: self.sum_us.load(Ordering::Relaxed) }
    }
}

impl std::ops::AddAssign for LatencyCounts {
    fn add_assign(&mut self, other: Self) {
        self.counts.iter_mut().zip(other.counts).for_each(|(sum, count)| *sum += count);
        self.sum_us += other.sum_us;
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn each_falls_into_the_first_bucket_that_holds_it() {
        let latencies = Latencies::default();
        for us in [0, 25, 26, 1_000_000, 1_000_001] {
            latencies.add(Duration::from_micros(us));
        }
        let mut counted = latencies.read();
        assert_eq!((counted.counts[0], counted.counts[1], counted.counts[13], counted.counts[14]), (2, 1, 1, 1));
        assert_eq!(counted.sum_us, 2_000_052);
        counted += latencies.read();
        assert_eq!(counted.counts.iter().sum::<u64>(), 10);
    }
}
