//! Least recently used first: the baseline that every other policy has to beat.

use super::{Candidate, Policy, ascending};

/// Orders by time since last use alone.
#[derive(Debug, Default)]
pub struct Lru;

impl Policy for Lru {
    fn name(&self) -> &str {
        "lru"
    }

    fn order(&mut self, batch: &[Candidate]) -> Option<Vec<usize>> {
        Some(ascending(batch, |candidate| -(candidate.idle_ms as f64)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::candidate;
    use super::*;

    #[test]
    fn the_oldest_goes_first() {
        let batch: Vec<Candidate> =
            [5, 900, 40].into_iter().map(|idle_ms| Candidate { idle_ms, ..candidate() }).collect();
        assert_eq!(Lru.order(&batch), Some(vec![1, 2, 0]));
    }
}
