//! LEB128 lengths.

/// Appends `value`.
pub fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Takes one value off the front of `input`; `None` where it is cut short or too long.
pub fn take(input: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = input.split_first()?;
        *input = rest;
        let bits = u64::from(byte & 0x7f);
        if shift == 63 && bits > 1 {
            return None;
        }
        value |= bits << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn round_trips(values: Vec<u64>) {
            let mut out = Vec::new();
            values.iter().for_each(|&value| put(&mut out, value));
            let mut input = &out[..];
            for value in values {
                prop_assert_eq!(take(&mut input), Some(value));
            }
            prop_assert_eq!(take(&mut input), None);
        }

        #[test]
        fn survives_any_bytes(bytes: Vec<u8>) {
            let mut input = &bytes[..];
            while take(&mut input).is_some() {}
        }
    }
}
