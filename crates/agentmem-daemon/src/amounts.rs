//! Sizes and lengths of time as people write them; the command line of the Python package reads the same.

/// The bytes that `text` means: a number, or text such as "512M" or "2G" (powers of 1024).
pub fn size(text: &str) -> Result<u64, String> {
    let refused = || format!("{text:?} is not a size: give bytes, or text such as 512M");
    let lower = text.trim().to_ascii_lowercase();
    let bare = lower.strip_suffix("ib").or_else(|| lower.strip_suffix('b')).unwrap_or(&lower);
    let (number, exponent) = match bare.char_indices().last().and_then(|(at, unit)| Some((at, "kmgt".find(unit)?))) {
        Some((at, exponent)) => (&bare[..at], exponent as i32 + 1),
        None => (bare, 0),
    };
    scaled(number, 1024f64.powi(exponent)).ok_or_else(refused)
}

/// The milliseconds that `text` means: a number of seconds, or text such as "250ms", "30s", "5m", "1h" or "2d".
pub fn duration_ms(text: &str) -> Result<u64, String> {
    let refused = || format!("{text:?} is not a length of time: give seconds, or text such as 30s, 10m or 1h");
    let lower = text.trim().to_ascii_lowercase();
    let at = lower.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(lower.len());
    let unit = match &lower[at..] {
        "ms" => 1.0,
        "" | "s" => 1e3,
        "m" => 60e3,
        "h" => 3600e3,
        "d" => 86_400e3,
        _ => return Err(refused()),
    };
    scaled(lower[..at].trim_end(), unit).ok_or_else(refused)
}

/// The port of the loopback that `text` means.
pub fn port(text: &str) -> Result<u16, String> {
    let refused = || format!("{text:?} is no port: give a number from 1 to 65535; it is of 127.0.0.1 and nothing else");
    text.parse().ok().filter(|&port| port > 0).ok_or_else(refused)
}

/// Digits, with a fraction or without, times `unit`.
fn scaled(number: &str, unit: f64) -> Option<u64> {
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let value = (digits(whole) && digits(fraction)).then(|| number.parse::<f64>().ok())?? * unit;
    (value < 2f64.powi(63)).then_some(value as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_powers_of_1024() {
        let given = ["0", "512", "1k", "2G", "2GiB", "2 B", "1.5m", " 3T ", "7b"];
        let bytes = given.map(|text| size(text).ok());
        let expected = [0, 512, 1 << 10, 2 << 30, 2 << 30, 0, 3 << 19, 3 << 40, 7].map(Some);
        assert_eq!(bytes[..5], expected[..5]);
        assert_eq!(bytes[5], None);
        assert_eq!(bytes[6..], expected[6..]);
        for text in ["", "G", "-1", "1e3", "1.", ".5", "2X", "inf", "9999999T", "1ö"] {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn ports_are_numbers_and_no_addresses() {
        assert_eq!(port("9464"), Ok(9464));
        for text in ["", "0", "65536", "-1", "127.0.0.1:9464", "0.0.0.0"] {
            assert!(port(text).is_err(), "{text}");
        }
    }

    #[test]
    fn times_are_seconds_unless_they_say() {
        let given = ["30", "250ms", "30s", "1.5m", "1h", "2 d", "2D"].map(|text| duration_ms(text).unwrap());
        assert_eq!(given, [30_000, 250, 30_000, 90_000, 3_600_000, 172_800_000, 172_800_000]);
        for text in ["", "s", "-1s", "1w", "1 m s", "soon"] {
            assert!(duration_ms(text).is_err(), "{text}");
        }
    }
}
