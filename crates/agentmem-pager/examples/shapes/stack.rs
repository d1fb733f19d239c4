//! Deep recursion: every frame holds words of its own, checked from the deepest one and again on the way back.

use crate::pattern::noise;
use crate::region::{Wrong, bytes, compare};
use crate::world::Place;
use std::hint::black_box;

const FRAME_WORDS: usize = 64;

pub struct Frame<'a> {
    caller: Option<&'a Frame<'a>>,
    key: u64,
    words: [u64; FRAME_WORDS],
}

impl Frame<'_> {
    fn content(key: u64) -> [u64; FRAME_WORDS] {
        std::array::from_fn(|index| noise(key, index as u64))
    }

    fn check_one(&self) -> Result<(), Wrong> {
        let words = self.words.as_ptr().cast();
        compare(words, bytes(&Frame::content(self.key))).map_err(|wrong| wrong.within("stack"))
    }

    fn callers(&self) -> impl Iterator<Item = &Frame<'_>> {
        std::iter::successors(Some(self), |frame| frame.caller)
    }

    /// This frame and all that called it.
    pub fn check(&self) -> Result<(), Wrong> {
        self.callers().try_for_each(Frame::check_one)
    }

    /// Some of the frames.
    pub fn places(&self) -> Vec<Place> {
        let place = |frame: &Frame<'_>| Place::here(frame.words.as_ptr() as usize, FRAME_WORDS * 8).within("stack");
        self.callers().step_by(100).map(place).collect()
    }
}

/// Calls `bottom` below `depth` frames more, and hands back what it returns once all of them were found whole.
#[inline(never)]
pub fn deep<T>(
    depth: usize,
    key: u64,
    caller: Option<&Frame<'_>>,
    bottom: &mut dyn FnMut(&Frame<'_>) -> Result<T, Wrong>,
) -> Result<T, Wrong> {
    let key = noise(key, depth as u64);
    let mut frame = Frame { caller, key, words: Frame::content(key) };
    black_box(&mut frame);
    let outcome = if depth == 0 { bottom(&frame) } else { deep(depth - 1, key, Some(&frame), bottom) };
    frame.check_one()?;
    outcome
}
