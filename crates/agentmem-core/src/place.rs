//! The slot word: where one SMU is, in 64 bits that one atomic store changes.
//!
//! ```text
//!  63..61  tag: fresh, hot, away, forward, gone
//!  60..40  segment (21 bits): which mapping
//!  39..0   offset in units of 64 bytes (40 bits), or the slot forwarded to
//! ```
//! A writer that dies leaves the old word or the new one, never a mixture.

/// Granularity of places: one cache line.
pub const UNIT_BYTES: u64 = 64;
/// Segments that a word can name.
pub const SEGMENTS_MAX: u32 = 1 << 21;
const OFFSET_BITS: u32 = 40;
const OFFSET_MASK: u64 = (1 << OFFSET_BITS) - 1;
const TAG_SHIFT: u32 = 61;

/// What a slot word says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Put, and not taken in by the engine yet.
    Fresh,
    /// Raw bytes at `offset_bytes` of mapping `segment`.
    Hot {
        /// Index into the segment table.
        segment: u32,
        /// Multiple of [`UNIT_BYTES`].
        offset_bytes: u64,
    },
    /// Warm or cold: ask the engine.
    Away,
    /// The same content was there already: use that slot.
    Forward {
        /// The slot that holds it.
        slot: u32,
    },
    /// Released.
    Gone,
}

impl Place {
    /// The word that says this.
    pub fn to_word(self) -> u64 {
        let (tag, low) = match self {
            Place::Fresh => (0, 0),
            Place::Hot { segment, offset_bytes } => {
                let offset = offset_bytes / UNIT_BYTES;
                assert!(segment < SEGMENTS_MAX && offset <= OFFSET_MASK && offset_bytes.is_multiple_of(UNIT_BYTES));
                (1, u64::from(segment) << OFFSET_BITS | offset)
            }
            Place::Away => (2, 0),
            Place::Forward { slot } => (3, u64::from(slot)),
            Place::Gone => (4, 0),
        };
        tag << TAG_SHIFT | low
    }

    /// What `word` says; a word nobody wrote reads as `Gone`.
    pub fn from_word(word: u64) -> Self {
        match word >> TAG_SHIFT {
            0 => Place::Fresh,
            1 => Place::Hot {
                segment: (word >> OFFSET_BITS) as u32 & (SEGMENTS_MAX - 1),
                offset_bytes: (word & OFFSET_MASK) * UNIT_BYTES,
            },
            2 => Place::Away,
            3 => Place::Forward { slot: word as u32 },
            _ => Place::Gone,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn words_round_trip(segment in 0..SEGMENTS_MAX, units in 0..=OFFSET_MASK, slot: u32) {
            for place in [
                Place::Fresh,
                Place::Hot { segment, offset_bytes: units * UNIT_BYTES },
                Place::Away,
                Place::Forward { slot },
                Place::Gone,
            ] {
                prop_assert_eq!(Place::from_word(place.to_word()), place);
            }
        }

        #[test]
        fn any_word_reads(word: u64) {
            let _ = Place::from_word(word);
        }
    }
}
