//! Content ids: keyed BLAKE3 of the plaintext.

use crate::error::{Error, ErrorKind, Result};
use std::fmt;

/// The secret of a trust domain. Ids under different keys cannot be compared, guessed or probed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct DomainKey(pub [u8; 32]);

impl fmt::Debug for DomainKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DomainKey(..)")
    }
}

/// Names content within one trust domain: 32 bytes, keyed BLAKE3 of the plaintext.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContentId(pub [u8; 32]);

impl ContentId {
    /// The id of `content` under `key`.
    pub fn of(key: &DomainKey, content: &[u8]) -> Self {
        ContentId(*blake3::keyed_hash(&key.0, content).as_bytes())
    }

    /// The id of content that is given in parts.
    pub fn of_parts<T: AsRef<[u8]>>(key: &DomainKey, parts: impl IntoIterator<Item = T>) -> Self {
        let mut hasher = blake3::Hasher::new_keyed(&key.0);
        for part in parts {
            hasher.update(part.as_ref());
        }
        ContentId(*hasher.finalize().as_bytes())
    }

    /// Uniform bits of the id, for hash tables.
    pub fn hash64(&self) -> u64 {
        u64::from_le_bytes(self.0[..8].try_into().expect("eight bytes"))
    }

    /// The 32 bits of the id that the message index keeps. Not part of [`Self::hash64`]'s high
    /// half, so the two tables do not share collisions.
    pub fn tag(&self) -> u32 {
        u32::from_le_bytes(self.0[8..12].try_into().expect("four bytes"))
    }

    /// The id written as 64 hexadecimal digits.
    pub fn parse(text: &str) -> Result<Self> {
        let invalid =
            || Error::new(ErrorKind::InvalidArgument, format!("{text:?} is not a content id (64 hex digits)"));
        // `from_str_radix` takes a sign too.
        if text.len() != 64 || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(invalid());
        }
        let mut bytes = [0; 32];
        for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            let digits = std::str::from_utf8(digits).map_err(|_| invalid())?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| invalid())?;
        }
        Ok(ContentId(bytes))
    }
}

impl fmt::Display for ContentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ContentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ContentId({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_depend_on_key_and_content() {
        let (a, b) = (DomainKey([1; 32]), DomainKey([2; 32]));
        assert_eq!(ContentId::of(&a, b"x"), ContentId::of(&a, b"x"));
        assert_ne!(ContentId::of(&a, b"x"), ContentId::of(&b, b"x"));
        assert_ne!(ContentId::of(&a, b"x"), ContentId::of(&a, b"y"));
        assert_eq!(ContentId::of_parts(&a, [b"x", b"y"]), ContentId::of(&a, b"xy"));
    }

    #[test]
    fn text_round_trips_and_rejects() {
        let id = ContentId::of(&DomainKey([3; 32]), b"prompt");
        assert_eq!(ContentId::parse(&id.to_string()), Ok(id));
        for bad in ["", "zz", &"g".repeat(64), &"é".repeat(32), "+0", &"+0".repeat(32)] {
            assert!(ContentId::parse(bad).is_err(), "{bad}");
        }
    }
}
