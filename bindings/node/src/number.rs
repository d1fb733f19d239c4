//! Numbers as JavaScript has them. napi would wrap what an integer cannot hold, cut fractions off, and take NaN for 0.

use agentmem_core::{Error, ErrorKind, Result};

/// From there on a double skips whole numbers.
const WHOLE_MAX: f64 = ((1u64 << 53) - 1) as f64;

/// `number` as a whole one, from 0 to the most that a `T` holds; else an error that calls it `name`.
pub fn whole<T: TryFrom<u64>>(number: f64, name: &str) -> Result<T> {
    let is_whole = number.fract() == 0.0 && (0.0..=WHOLE_MAX).contains(&number);
    let found = is_whole.then_some(number as u64).and_then(|number| T::try_from(number).ok());
    found.ok_or_else(|| {
        let what = format!("{name}={number} is not a whole number from 0 to {}", most::<T>());
        Error::new(ErrorKind::InvalidArgument, what)
    })
}

/// The same, if there is one.
pub fn maybe_whole<T: TryFrom<u64>>(number: Option<f64>, name: &str) -> Result<Option<T>> {
    number.map(|number| whole(number, name)).transpose()
}

/// The most that a `T` holds of what a double can say.
fn most<T: TryFrom<u64>>() -> u64 {
    let ends = (0..=53).map(|bits| (1u64 << bits) - 1);
    ends.rev().find(|&end| T::try_from(end).is_ok()).unwrap_or(0)
}
